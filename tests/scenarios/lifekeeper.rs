//! A stand-in for LifeKeeper's core: it knows which resource is in service where, and runs the kit's scripts, where and
//! when LifeKeeper does, with the arguments that LifeKeeper gives them.
//!
//! One value stands for the cores of all nodes. What a node's core has to remember over a power loss is in files of the
//! node, which the stand-ins for LifeKeeper's commands keep (`ins_setstate` and its like, [`COMMANDS`]).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::site::{Ended, Site};
use super::stage::wait;

/// A resource on the systems that have it.
#[derive(Clone, Debug, Default)]
struct Resource {
    /// Systems, the best priority first.
    systems: Vec<usize>,
    /// Where it was in service when last seen, also if that system is dead now.
    in_service: BTreeSet<usize>,
}

/// The cores of all nodes.
pub struct Core<'a> {
    site: &'a dyn Site,
    /// Systems by their priority, the best first.
    order: Vec<usize>,
    resources: RefCell<BTreeMap<String, Resource>>,
    running: RefCell<BTreeSet<usize>>,
    /// The last attempt to put a resource in service on a node.
    attempts: RefCell<BTreeMap<(String, usize), Ended>>,
}

const ACTIONS: &str = "$LKROOT/subsys/scsi/resources/netraid/actions";
const EVENTS: &str = "$LKROOT/subsys/scsi/resources/netraid/netraid";
const BIN: &str = "$LKROOT/lkadm/subsys/scsi/netraid/bin";

impl<'a> Core<'a> {
    /// Lays the kit out on all nodes, and LifeKeeper's own commands. `order` names all nodes, the best priority first.
    pub fn new(site: &'a dyn Site, order: Vec<usize>) -> Core<'a> {
        let core = Core {
            site,
            running: RefCell::new(order.iter().copied().collect()),
            order,
            resources: RefCell::default(),
            attempts: RefCell::default(),
        };
        for node in 1..=site.nodes() {
            core.must(node, &install());
        }
        core
    }

    fn must(&self, node: usize, line: &str) -> String {
        let ended = self.site.run(node, line);
        let name = self.site.name(node);
        assert_eq!(
            ended.code, 0,
            "on {name}: {line}\n{}{}",
            ended.out, ended.err
        );
        ended.out
    }

    // --- what a node's core is told -----------------------------------------------------------------------------

    /// A system is gone without a word.
    pub fn lost_power(&self, node: usize) {
        self.running.borrow_mut().remove(&node);
    }

    /// No heartbeat of `dead` has come for so long that it counts as dead for those in `by`: what was in service there is
    /// recovered on the one of them with the best priority.
    pub fn misses(&self, by: &[usize], dead: usize) {
        for (tag, resource) in self.resources() {
            if !resource.in_service.contains(&dead) {
                continue;
            }
            let heirs = resource.systems.iter().filter(|node| by.contains(node));
            if let Some(heir) = heirs.copied().find(|node| self.runs(*node)) {
                self.restore(&tag, heir);
            }
        }
    }

    /// LifeKeeper starts on a node that has booted. A resource that is in service elsewhere stays there (intelligent
    /// switchback). One that was in service here comes back; one that is in service nowhere is recovered on the running
    /// system with the best priority.
    pub fn booted(&self, node: usize) {
        self.running.borrow_mut().insert(node);
        for (tag, resource) in self.resources() {
            if !resource.systems.contains(&node) {
                continue;
            }
            let was_here = self.state(&tag, node) == "ISP";
            self.set(&tag, node, "OSU");
            let mut others = resource.in_service.iter().filter(|other| **other != node);
            if others.any(|other| self.runs(*other)) {
                continue;
            }
            let mut by_priority = resource.systems.iter().copied();
            let heir = match was_here {
                true => Some(node),
                false => by_priority.find(|other| self.runs(*other)),
            };
            if let Some(heir) = heir {
                self.restore(&tag, heir);
            }
        }
    }

    /// LKCHECKINTERVAL has passed on all systems that run.
    pub fn interval(&self) {
        for (tag, resource) in self.resources() {
            for node in resource.in_service {
                if self.runs(node) {
                    self.check(&tag, node);
                }
            }
        }
    }

    /// `quickCheck`; what it raises is recovered here if it can be, and elsewhere if not.
    fn check(&self, tag: &str, node: usize) {
        let line = format!("rm -f $LKROOT/events; {ACTIONS}/quickCheck -t {tag} -i {tag}");
        if self.site.run(node, &line).code == 0 {
            return;
        }
        let event = self.must(node, "cat $LKROOT/events");
        assert_eq!(event.trim(), format!("-C netraid -E recover -n {tag}"));
        let line = format!("{EVENTS}/recover -t {tag} -i {tag}");
        if self.site.run(node, &line).code == 0 {
            return;
        }
        self.remove(tag, node);
        self.set(tag, node, "OSF");
        let systems = self.resources()[tag].systems.clone();
        let mut heirs = systems.into_iter().filter(|heir| *heir != node);
        if let Some(heir) = heirs.find(|heir| self.runs(*heir)) {
            self.restore(tag, heir);
        }
    }

    // --- what an administrator does -----------------------------------------------------------------------------

    /// The kit's `create`, which makes the resource, too.
    pub fn create(&self, tag: &str, node: usize) {
        self.must(
            node,
            &format!("{BIN}/create -t {tag} -s intelligent -a synchronous"),
        );
        assert_eq!(self.state(tag, node), "ISP");
        let mut resources = self.resources.borrow_mut();
        let resource = resources.entry(tag.to_owned()).or_default();
        resource.systems.push(node);
        resource.in_service.insert(node);
    }

    /// The wizard's steps: `canextend`, `extend`, both on the new system.
    pub fn extend(&self, tag: &str, template: usize, node: usize) {
        let template = self.site.name(template);
        self.must(node, &format!("{BIN}/canextend {template} {tag}"));
        self.with_others(node, &format!("{BIN}/extend {template} {tag} bundle"));
        assert_eq!(self.state(tag, node), "OSU");
        let mut resources = self.resources.borrow_mut();
        let systems = &mut resources.get_mut(tag).unwrap().systems;
        systems.push(node);
        systems.sort_by_key(|system| self.order.iter().position(|node| node == system));
    }

    /// The hierarchy leaves a system that is not in service.
    pub fn unextend(&self, tag: &str, template: usize, node: usize) {
        let template = self.site.name(template);
        self.with_others(node, &format!("{BIN}/unextend {template} {tag}"));
        self.must(node, &format!("rm $LKROOT/instances/{tag}"));
        let mut resources = self.resources.borrow_mut();
        let systems = &mut resources.get_mut(tag).unwrap().systems;
        systems.retain(|system| *system != node);
    }

    /// The hierarchy is deleted on all systems, out of service first.
    pub fn delete(&self, tag: &str) {
        for node in self.resources()[tag].in_service.clone() {
            self.remove(tag, node);
        }
        for node in self.resources()[tag].systems.clone() {
            self.must(node, &format!("{ACTIONS}/delete -t {tag} -i {tag}"));
            self.must(node, &format!("rm $LKROOT/instances/{tag}"));
        }
        self.resources.borrow_mut().remove(tag);
    }

    /// In service on this system: a switchover, if it is in service on another one that can be reached.
    pub fn switch_over(&self, tag: &str, node: usize) {
        for other in self.resources()[tag].in_service.clone() {
            if other != node && self.runs(other) {
                self.remove(tag, other);
            }
        }
        self.restore(tag, node);
    }

    /// Out of service. A remove that fails makes LifeKeeper reboot the node, which nobody wants to see here.
    pub fn remove(&self, tag: &str, node: usize) {
        self.must(node, &format!("{ACTIONS}/remove -t {tag} -i {tag}"));
        self.set(tag, node, "OSU");
    }

    // --- the scripts and the records ----------------------------------------------------------------------------

    fn restore(&self, tag: &str, node: usize) {
        let line = format!("{ACTIONS}/restore -t {tag} -i {tag}");
        let ended = self.site.run(node, &line);
        self.set(tag, node, if ended.code == 0 { "ISP" } else { "OSF" });
        let mut attempts = self.attempts.borrow_mut();
        attempts.insert((tag.to_owned(), node), ended);
    }

    /// How the last attempt to put it in service there ended.
    pub fn attempt(&self, tag: &str, node: usize) -> Option<Ended> {
        let attempts = self.attempts.borrow();
        attempts.get(&(tag.to_owned(), node)).cloned()
    }

    /// The state of the resource on a system, as that system has it.
    pub fn state(&self, tag: &str, node: usize) -> String {
        let list = self.must(node, &format!("$LKROOT/bin/ins_list -t {tag}"));
        list.split('\u{1}').nth(6).unwrap_or_default().to_owned()
    }

    fn set(&self, tag: &str, node: usize, state: &str) {
        self.must(
            node,
            &format!("$LKROOT/bin/ins_setstate -t {tag} -S {state}"),
        );
        let mut resources = self.resources.borrow_mut();
        let in_service = &mut resources.get_mut(tag).unwrap().in_service;
        match state {
            "ISP" => in_service.insert(node),
            _ => in_service.remove(&node),
        };
    }

    fn resources(&self) -> BTreeMap<String, Resource> {
        self.resources.borrow().clone()
    }

    fn runs(&self, node: usize) -> bool {
        self.running.borrow().contains(&node)
    }

    /// Runs a script that may call `lcdremexec`, whose part on the other system is done here.
    fn with_others(&self, node: usize, line: &str) {
        self.must(
            node,
            &format!(
                "cd $LKROOT/remote && rm -f * && \
                 {{ {{ {line}; echo $? >code.new; mv code.new ended; }} </dev/null >said 2>&1 & }}"
            ),
        );
        let mut ended = None;
        wait(&format!("{line} does not end"), || {
            let look = "cd $LKROOT/remote; cat ask ended 2>/dev/null; true";
            let found = self.must(node, look);
            match found.split_once('\n') {
                Some((system, command)) if !command.is_empty() => {
                    let systems = 1..=self.site.nodes();
                    let mut systems = systems.filter(|node| self.runs(*node));
                    let other = systems.find(|node| self.site.name(*node) == system);
                    // 9: no contact with the other system.
                    let code = other.map_or(9, |other| self.site.run(other, command.trim()).code);
                    self.must(
                        node,
                        &format!(
                            "cd $LKROOT/remote; rm ask; echo {code} >code.new; mv code.new code"
                        ),
                    );
                }
                Some((code, _)) => ended = Some(code.to_owned()),
                None => {}
            }
            ended.is_some()
        });
        let said = self.must(node, "cat $LKROOT/remote/said");
        assert_eq!(ended.as_deref(), Some("0"), "{line}: {said}");
    }
}

/// The kit by its own installer, and LifeKeeper's commands, which all are one script.
fn install() -> String {
    format!(
        "mkdir -p $LKROOT/bin $LKROOT/remote $LKROOT/instances {BIN} && cd $LKROOT/bin && \
         ln -sf \"$(command -v lifekeeper-hooks)\" {BIN}/lifekeeper-hooks && \
         lifekeeper-hooks install --lkroot $LKROOT >/dev/null && \
         cat >lcd <<'END' && chmod +x lcd && \
         for name in ins_create ins_setstate ins_list sendevent lcdremexec; do ln -sf lcd $name || exit; done; sync\n\
         {COMMANDS}END\n"
    )
}

/// LifeKeeper's own commands, as far as the scripts and this core use them.
const COMMANDS: &str = r#"#!/bin/sh
name=${0##*/}
option() {
	wanted=$1; shift
	while [ $# -gt 1 ]; do
		if [ "$1" = "$wanted" ]; then echo "$2"; return; fi
		shift
	done
}
instance=$LKROOT/instances/$(option -t "$@")
case $name in
ins_create)
	[ -e "$instance" ] && exit 4
	echo OSU >"$instance"; sync "$instance" ;;
ins_setstate)
	[ -e "$instance" ] || exit 7
	option -S "$@" >"$instance"; sync "$instance" ;;
ins_list)
	[ -e "$instance" ] || exit 7
	printf 'system\001scsi\001netraid\001tag\001id\001info\001%s\001' "$(cat "$instance")" ;;
sendevent)
	echo "$@" >>"$LKROOT/events" ;;
lcdremexec)
	dest=$(option -d "$@")
	while [ "$1" != -- ]; do shift; done
	shift
	cd "$LKROOT/remote" || exit
	printf '%s\n' "$dest" "$*" >ask.new
	mv ask.new ask
	while [ ! -e code ]; do sleep 0.02; done
	code=$(cat code)
	rm code
	exit "$code" ;;
*)
	exit 2 ;;
esac
"#;

//! Why a mirror is as it is, what it waits for, and the command that would change it: `netraid explain`.

use super::action::Hold;
use super::generation::Extent;
use super::machine::{FenceState, Machine, QuorumState, Service, Shortage, Standing, Wait};
use super::node::{Names, NodeId};
use super::policy::Judgement;
use super::refusal::Refusal;
use super::word::Word;

/// What there is to say about one node of the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The node.
    pub node: NodeId,
    /// Its status word.
    pub word: Word,
    /// Why: one sentence, without a full stop.
    pub why: String,
    /// What it waits for, if it does.
    pub waits_for: Option<String>,
    /// The command that would change it, if there is one.
    pub command: Option<String>,
}

/// Explains every node of the mirror, this one first.
pub fn explain(machine: &Machine, names: &Names) -> Vec<Explanation> {
    let own = machine.settings().own;
    let others = machine.memory().nodes.without(own);
    let explained = std::iter::once(explain_own(machine, names));
    explained
        .chain(others.iter().map(|node| explain_peer(machine, names, node)))
        .collect()
}

/// The explanations as lines of text.
pub fn text(explanations: &[Explanation], names: &Names) -> String {
    let mut out = String::new();
    for explanation in explanations {
        let name = names.node(explanation.node);
        out += &format!("{name}: {}\n  {}\n", explanation.word, explanation.why);
        if let Some(waits_for) = &explanation.waits_for {
            out += &format!("  waits for: {waits_for}\n");
        }
        if let Some(command) = &explanation.command {
            out += &format!("  to change that: {command}\n");
        }
    }
    out
}

fn explain_own(machine: &Machine, names: &Names) -> Explanation {
    let own = machine.settings().own;
    let (tag, here) = (&names.tag, names.node(own));
    let says = |why: String, waits_for: Option<String>, command: Option<String>| Explanation {
        node: own,
        word: machine.word(own),
        why,
        waits_for,
        command,
    };
    match machine.service() {
        Service::Starting if machine.is_fencing() => says(
            format!(
                "{tag} is being started on {here}: {}",
                unfenced(machine, names).unwrap_or_default()
            ),
            Some("fence-peer".into()),
            None,
        ),
        Service::Starting => says(format!("{tag} is being started on {here}"), None, None),
        Service::Stopping => says(format!("{tag} is being stopped on {here}"), None, None),
        Service::In if machine.superseded().is_some() => says(
            format!(
                "{tag} is in service on {here}, but {} took over and has newer data",
                machine
                    .superseded()
                    .map_or_else(String::new, |by| names.node(by))
            ),
            None,
            Some(format!("netraid stop {tag}")),
        ),
        Service::In if machine.quorum().is_some_and(|quorum| quorum.why.is_some()) => says(
            format!(
                "{tag} is in service on {here}, but {}",
                quorum_problems(machine, names).join("; ")
            ),
            missing(machine, names),
            Some(match machine.quorum().and_then(|quorum| quorum.why) {
                Some(Shortage::LeftOut(_) | Shortage::Superseded(_)) => {
                    format!("netraid stop {tag}")
                }
                _ => format!(
                    "start netraidd where it is missing, or see to the network; it goes on by itself. Or give up: netraid stop {tag}"
                ),
            }),
        ),
        Service::In if machine.is_frozen() => says(
            format!(
                "{tag} is in service on {here}, but {}",
                unfenced(machine, names).unwrap_or_default()
            ),
            Some("fence-peer, or the return of who left".into()),
            Some(format!(
                "see to what it says of fence-peer: netraid events {tag}. If that node is surely out of service: netraid resume-io {tag}"
            )),
        ),
        Service::In if !machine.has_own_leg() => says(
            format!(
                "{tag} is in service on {here}, whose own leg has failed; {} it",
                match machine.members().without(own) {
                    nodes if nodes.is_empty() => "nobody serves".into(),
                    nodes if nodes.len() == 1 => format!("{} serves", names.list(nodes)),
                    nodes => format!("{} serve", names.list(nodes)),
                }
            ),
            None,
            Some(format!(
                "netraid stop {tag}, and start it on a node in sync"
            )),
        ),
        Service::In => {
            let targets = machine.members().without(own);
            let why = match targets.is_empty() {
                true => format!("{tag} is in service on {here}, with no target in sync"),
                false => format!(
                    "{tag} is in service on {here}; {} in sync",
                    are(names, targets)
                ),
            };
            says(why, None, None)
        }
        Service::Out => match machine.refusal() {
            Some(Refusal::TieBreaker(_)) => says(
                format!(
                    "{here} has no disk of {tag}: it votes, so that one of two others may go on alone"
                ),
                None,
                None,
            ),
            None => {
                let why = format!("{tag} can go into service on {here}: nothing newer is known");
                let command = format!("netraid start {tag}");
                says(
                    why,
                    Some("the cluster manager to start it".into()),
                    Some(command),
                )
            }
            Some(Refusal::InService(source)) => {
                let (why, waits_for) = standby(machine, names, source);
                says(why, waits_for, None)
            }
            Some(refusal) => {
                let waits_for = match refusal {
                    Refusal::CannotReach(nodes) | Refusal::MayBeOld(nodes) => {
                        Some(names.list(nodes))
                    }
                    _ => None,
                };
                let why = format!(
                    "{tag} may not go into service on {here}: {}",
                    refusal.reason(own, names)
                );
                says(why, waits_for, refusal.next(own, names))
            }
        },
    }
}

/// What there is to say of requests that are held back, and of nodes that do not vote.
pub fn quorum_problems(machine: &Machine, names: &Names) -> Vec<String> {
    let Some(quorum) = machine.quorum() else {
        return Vec::new();
    };
    let waits = requests_wait(&quorum, names);
    let silent = (!quorum.abstaining.is_empty()).then(|| {
        let own = machine.settings().own;
        let missing = machine.unreachable(quorum.nodes);
        let met = match missing.is_empty() {
            true => String::new(),
            false => format!(
                " ({} can't be reached from {})",
                names.list(missing),
                names.node(own)
            ),
        };
        format!(
            "{} not vote before having met all other nodes once{met}",
            does(names, quorum.abstaining)
        )
    });
    waits.into_iter().chain(silent).collect()
}

/// The nodes for which a source without its quorum waits.
fn missing(machine: &Machine, names: &Names) -> Option<String> {
    let missing = machine.unreachable(names.nodes.len());
    (!missing.is_empty()).then(|| format!("more nodes: {} can't be reached", names.list(missing)))
}

fn requests_wait(quorum: &QuorumState, names: &Names) -> Option<String> {
    let what = match quorum.hold {
        Hold::No => return None,
        Hold::Suspend => "its requests wait",
        Hold::Fail => "its requests fail",
    };
    let (present, need, nodes) = (quorum.present, quorum.need, quorum.nodes);
    let why = match quorum.why? {
        Shortage::TooFew => {
            format!("has no quorum: {present} of {nodes} nodes are there, {need} are needed")
        }
        Shortage::LeftOut(by) => format!(
            "was left: a majority of the nodes went on under {}, without this one",
            names.node(by)
        ),
        Shortage::Superseded(by) => {
            format!("was taken over by {}, which has newer data", names.node(by))
        }
        Shortage::Outbid(by) => format!(
            "asks the other nodes for their votes again, since {} tried to take over",
            names.node(by)
        ),
        Shortage::Votes => format!(
            "waits until {need} of {nodes} nodes know that a leg is missing, {present} are there"
        ),
    };
    Some(format!("{why}; {what}"))
}

fn does(names: &Names, nodes: super::node::NodeSet) -> String {
    let verb = if nodes.len() == 1 { "does" } else { "do" };
    format!("{} {verb}", names.list(nodes))
}

/// What there is to say of nodes that left, or can't be reached, and may not know that this one goes on without them.
pub fn unfenced(machine: &Machine, names: &Names) -> Option<String> {
    let waits = machine.fencing().into_iter().filter(|state| state.waits);
    let each: Vec<String> = waits
        .map(
            |FenceState {
                 node,
                 asked,
                 answer,
                 ..
             }| {
                let name = names.node(node);
                match (asked, answer) {
                    (true, _) => format!("fence-peer is asked to fence {name}"),
                    (false, Some(answer)) => {
                        format!("{name} was not fenced: {}", answer.says(&name))
                    }
                    (false, None) => format!("{name} has left, and has not yet said that it knows"),
                }
            },
        )
        .collect();
    let what = match machine.is_frozen() {
        _ if each.is_empty() => return None,
        true => "its requests wait: ",
        false => "",
    };
    Some(format!("{what}{}", each.join("; ")))
}

fn are(names: &Names, nodes: super::node::NodeSet) -> String {
    let verb = if nodes.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.list(nodes))
}

/// This node beside a source.
fn standby(machine: &Machine, names: &Names, source: NodeId) -> (String, Option<String>) {
    let own = machine.settings().own;
    let (here, there) = (names.node(own), names.node(source));
    match machine.word(own) {
        Word::Target => (format!("{here} has all that {there} has"), None),
        Word::Resyncing => (
            format!(
                "{there} copies to {here} what it lacks; until that is done it can't take over"
            ),
            Some("the end of the resync".into()),
        ),
        Word::SplitBrain => (
            format!(
                "{here} and {there} were both written without the other; nobody's data is touched"
            ),
            Some(format!("an administrator, on {there}")),
        ),
        _ => (
            format!("{here} is not in sync with {there}"),
            Some(format!("{there}, which says why: netraid explain there")),
        ),
    }
}

fn explain_peer(machine: &Machine, names: &Names, node: NodeId) -> Explanation {
    let own = machine.settings().own;
    let (tag, here, name) = (&names.tag, names.node(own), names.node(node));
    let resolve = format!("netraid resolve {tag} --discard {name}");
    let (why, waits_for, command): (String, Option<String>, Option<String>) = match machine
        .standing(node)
    {
        Standing::NoSource | Standing::NotATarget => (aside(machine, &name, node), None, None),
        Standing::InSync => (format!("{name} has all that {here} has"), None, None),
        Standing::Resyncing(percent) => (
            format!("{name} is being resynced, {percent} % done; until then it can't take over"),
            Some("the end of the resync".into()),
            None,
        ),
        Standing::Adding => (
            format!("{name} is being connected"),
            Some("its leg".into()),
            None,
        ),
        Standing::Paused => (
            format!("an administrator paused {name}; what it lacks is marked"),
            None,
            Some(format!("mirror_action {tag} resume {here} {name}")),
        ),
        Standing::Unreachable => (
            format!("{name} can't be reached; what it lacks is marked"),
            Some(name),
            None,
        ),
        Standing::TwoSources => (
            format!("{tag} is in service on {name} as well; nobody's data is touched"),
            None,
            Some(format!("on the one to give up: netraid stop {tag}")),
        ),
        Standing::SplitBrain => (
            format!(
                "{here} and {name} were both written without the other; nobody's data is touched{}",
                policy(machine, node)
            ),
            Some("an administrator".into()),
            Some(format!("{resolve}, or stop {tag} here and discard {here}")),
        ),
        Standing::Newer => (
            format!(
                "{name} has newer data than {here}, which is in service; nobody's data is touched"
            ),
            Some("an administrator".into()),
            Some(format!(
                "{resolve}, or stop {tag} here and start it on {name}"
            )),
        ),
        Standing::Unrelated => (
            format!("what {name} holds has nothing in common with {tag}; it is not touched"),
            Some("an administrator".into()),
            Some(resolve),
        ),
        Standing::Changing => (
            format!("the generation of {name} is about to change"),
            Some(name),
            None,
        ),
        Standing::Superseded(by) => (
            format!(
                "{} took over and has newer data: {here} has lost its targets",
                names.node(by)
            ),
            None,
            Some(format!("netraid stop {tag}")),
        ),
        Standing::OwnLegFailed => (
            format!("the own leg of {here} has failed, so it is not known what {name} lacks"),
            None,
            Some(format!(
                "netraid stop {tag}, and start it on a node in sync"
            )),
        ),
        Standing::WaitsForPrevious(previous) => {
            let (before, long) = (names.node(previous), waiting_time(machine));
            (
                format!(
                    "what {name} lacks is known in full only with the bitmap of {before}, which was source before {here}"
                ),
                Some(format!("{before}{long}")),
                Some(format!("mirror_action {tag} fullresync {here} {name}")),
            )
        }
        Standing::AfterPrevious(previous) => (
            format!("{} is resynced first", names.node(previous)),
            Some(format!("the resync of {}", names.node(previous))),
            None,
        ),
        Standing::WaitsForQuickCheck => (
            "targets are connected at the first quickCheck (LKDR_CONNECT_NBD_DURING_RESTORE)"
                .into(),
            Some("quickCheck".into()),
            None,
        ),
        Standing::WaitsForParents => (
            "nothing is copied before the parent resource is in service (LKDR_WAIT_TO_RESYNC)"
                .into(),
            Some("the parent resource".into()),
            None,
        ),
        Standing::Failed => (
            format!("the leg of {name} failed"),
            Some("the next quickCheck, which tries again".into()),
            Some(format!("mirror_action {tag} resume {here} {name}")),
        ),
        Standing::NotAgreed => (
            format!("{name} has not yet agreed to take the writes of {here}"),
            Some(name),
            None,
        ),
        Standing::Ready(decision, extent) => (
            format!("{name} will get {} ({})", amount(extent), decision.rule),
            None,
            None,
        ),
    };
    Explanation {
        node,
        word: machine.detailed_word(node),
        why,
        waits_for,
        command,
    }
}

/// Which policy applies to a split brain, if any are configured.
fn policy(machine: &Machine, node: NodeId) -> String {
    let configured = machine.settings().rules.policies != Default::default();
    let judgement = machine
        .decision(node)
        .and_then(|decision| decision.judgement);
    match judgement.filter(|_| configured) {
        Some(Judgement { policy, why, .. }) => format!(" ({policy}: {why})"),
        None => String::new(),
    }
}

fn waiting_time(machine: &Machine) -> String {
    match machine.settings().wait {
        Wait::No => String::new(),
        Wait::Forever => ", for ever (LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT=-1)".into(),
        Wait::Seconds(seconds) => {
            format!(", {seconds} s at most; then everything is copied")
        }
    }
}

fn amount(extent: Extent) -> &'static str {
    match extent {
        Extent::Partial => "what is marked",
        Extent::Full => "everything",
    }
}

/// Another node, seen from one that is not in service.
fn aside(machine: &Machine, name: &str, node: NodeId) -> String {
    match machine.word(node) {
        Word::Source => format!("in service on {name}"),
        Word::Unknown => format!("{name} can't be reached"),
        word => {
            let rule = machine.decision(node).map_or("", |decision| decision.rule);
            format!("{name} is {word}: {rule}")
        }
    }
}

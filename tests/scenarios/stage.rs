//! A scenario being played: what is done at a site by its operator, and what a person reads there at each moment.
//!
//! Everything that is looked at is what the commands print, and the flag files.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::operator::Operator;
use super::site::Site;

/// How long anything may take that should happen, on a machine with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// From one look to the next, at least.
const PAUSE: Duration = Duration::from_millis(20);
/// From one look to the next, at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(300);
/// LKCHECKINTERVAL of these clusters.
const INTERVAL: Duration = Duration::from_secs(1);

/// After a look that began then. Looks start programs: one after the other without a pause, they would take the
/// processors from what is waited for.
fn pause(look: Instant) {
    let pause = look.elapsed().saturating_mul(2);
    std::thread::sleep(pause.clamp(PAUSE, LONGEST_PAUSE));
}

/// Waits for a condition.
pub fn wait(otherwise: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut look = Instant::now();
    while !condition() {
        assert!(Instant::now() < deadline, "{otherwise}");
        pause(look);
        look = Instant::now();
    }
}

/// A site and who gives the orders there.
pub struct Stage<'a> {
    pub site: &'a dyn Site,
    pub operator: &'a dyn Operator,
}

/// How much the last resync of a target was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What was marked.
    Partial,
    /// Everything.
    Full,
}

impl<'a> Stage<'a> {
    /// The mirror of that name.
    pub fn mirror(&self, tag: &'a str) -> Mirror<'_> {
        Mirror { stage: self, tag }
    }

    pub fn power_off(&self, node: usize) {
        self.site.power_off(node);
        self.operator.lost_power(node);
    }

    /// A node loses power, and those in `by` act on it.
    pub fn fails(&self, node: usize, by: &[usize]) {
        self.power_off(node);
        self.operator.misses(by, node);
    }

    pub fn boot(&self, node: usize) {
        self.site.boot(node);
        self.operator.booted(node);
    }

    /// Prints of a command that must succeed.
    fn told(&self, node: usize, line: &str) -> String {
        let ended = self.site.run(node, line);
        let name = self.site.name(node);
        assert_eq!(
            ended.code, 0,
            "on {name}: {line}\n{}{}",
            ended.out, ended.err
        );
        ended.out
    }

    /// Waits until a command prints what is wanted; meanwhile the cluster lives.
    fn wait_told(&self, node: usize, line: &str, what: &str, wanted: impl Fn(&str) -> bool) {
        let (deadline, mut checked) = (Instant::now() + PATIENCE, Instant::now());
        loop {
            let look = Instant::now();
            let told = self.told(node, line);
            if wanted(&told) {
                return;
            }
            let name = self.site.name(node);
            assert!(
                Instant::now() < deadline,
                "on {name}, {line} does not show {what}, but\n{told}"
            );
            if checked.elapsed() >= INTERVAL {
                self.operator.interval();
                checked = Instant::now();
            }
            pause(look);
        }
    }
}

/// One mirror of a stage.
#[derive(Clone, Copy)]
pub struct Mirror<'s> {
    stage: &'s Stage<'s>,
    tag: &'s str,
}

impl Mirror<'_> {
    // --- orders -------------------------------------------------------------------------------------------------

    /// Its source, and targets that are extended to and get in sync, one after the other.
    pub fn made(&self, source: usize, targets: &[usize]) {
        self.met(source, targets);
        self.create(source);
        for target in targets {
            self.extend(source, *target);
        }
        for node in targets.iter().chain([&source]) {
            self.wait_for(*node, "Target", targets);
        }
    }

    /// Waits until each of these nodes has found all others: that is what an administrator looks at before anything.
    pub fn met(&self, source: usize, targets: &[usize]) {
        for node in targets.iter().chain([&source]) {
            let line = format!("netraid status {} --json", self.tag);
            let met = |told: &str| !told.contains("\"reachable\":false");
            self.stage.wait_told(*node, &line, "all nodes", met);
        }
    }

    pub fn create(&self, node: usize) {
        self.stage.operator.create(self.tag, node);
    }

    pub fn extend(&self, source: usize, node: usize) {
        self.stage.operator.extend(self.tag, source, node);
    }

    pub fn unextend(&self, source: usize, node: usize) {
        self.stage.operator.unextend(self.tag, source, node);
    }

    pub fn delete(&self, nodes: &[usize]) {
        self.stage.operator.delete(self.tag, nodes);
    }

    pub fn start(&self, node: usize) {
        self.stage.operator.start(self.tag, node);
    }

    pub fn switch_over(&self, from: usize, to: usize) {
        self.stage.operator.switch_over(self.tag, from, to);
    }

    pub fn stop(&self, node: usize) {
        self.stage.operator.stop(self.tag, node);
    }

    /// Brought in service on this node.
    pub fn in_service(&self, node: usize) {
        let ended = self.stage.operator.goes_into_service(self.tag, node);
        assert_eq!(ended.code, 0, "{ended:?}");
    }

    /// It can't be: refused by the state, for a reason with these words.
    pub fn stays_out(&self, node: usize, why: &str) {
        let ended = self.stage.operator.goes_into_service(self.tag, node);
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(ended.err.contains(why), "{why:?} is not in {:?}", ended.err);
    }

    /// `mirror_action TAG ACTION SOURCE TARGETS`, on the source.
    pub fn action(&self, action: &str, source: usize, targets: &[usize]) {
        let site = self.stage.site;
        let mut line = format!("mirror_action {} {action} {}", self.tag, site.name(source));
        for target in targets {
            line = format!("{line} {}", site.name(*target));
        }
        self.stage.told(source, &line);
    }

    /// Force Mirror Online.
    pub fn force(&self, node: usize) {
        self.action("force", node, &[]);
        self.stage.operator.was_forced(self.tag, node);
    }

    /// Says whose data is given up after a split brain.
    pub fn resolve(&self, node: usize, discard: usize) {
        let name = self.stage.site.name(discard);
        let line = format!("netraid resolve {} --discard {name}", self.tag);
        self.stage.told(node, &line);
    }

    /// A command that the state forbids, for a reason with these words.
    pub fn refused(&self, node: usize, line: &str, why: &str) {
        let ended = self.stage.site.run(node, line);
        assert_eq!(ended.code, 3, "{line}: {ended:?}");
        assert!(ended.err.contains(why), "{why:?} is not in {:?}", ended.err);
    }

    pub fn write(&self, source: usize, mebibytes: Range<u64>) {
        self.stage.site.write(self.tag, source, mebibytes);
    }

    /// Resyncs on this source end soon.
    pub fn full_speed(&self, source: usize) {
        self.stage.site.full_speed(self.tag, source);
    }

    /// Out of service, and the legs of these nodes are equal: the source first.
    pub fn ends_equal(&self, nodes: &[usize]) {
        self.ends_equal_without(nodes, &[]);
    }

    /// The same, when what some calls of write brought was given up.
    pub fn ends_equal_without(&self, nodes: &[usize], lost: &[usize]) {
        self.stop(nodes[0]);
        self.stage.site.check(self.tag, nodes, lost);
    }

    // --- what is seen -------------------------------------------------------------------------------------------

    /// Waits until this node shows these status words, in the order of the nodes that have the mirror.
    pub fn sees(&self, node: usize, wanted: &[&str]) {
        let line = format!("netraid status {}", self.tag);
        let what = format!("{wanted:?}");
        self.stage
            .wait_told(node, &line, &what, |told| words(told) == wanted);
    }

    /// The same on several nodes.
    pub fn all_see(&self, nodes: &[usize], wanted: &[&str]) {
        for node in nodes {
            self.sees(*node, wanted);
        }
    }

    /// Waits until all of these nodes have that word.
    fn wait_for(&self, node: usize, word: &str, of: &[usize]) {
        let line = format!("netraid status {}", self.tag);
        let names: Vec<String> = of.iter().map(|node| self.stage.site.name(*node)).collect();
        let what = format!("{word} for {names:?}");
        self.stage.wait_told(node, &line, &what, |told| {
            let table = table(told);
            let has = |name| table.iter().any(|row| row.0 == name && row.1 == word);
            names.iter().all(|name| has(name.as_str()))
        });
    }

    /// Waits until DataKeeper's command shows this status of a target.
    pub fn shown(&self, source: usize, target: usize, status: &str) {
        let names = [source, target].map(|node| self.stage.site.name(node));
        let wanted = format!("[-] {} -> {}\n    Status: {status}\n", names[0], names[1]);
        let line = format!("mirror_status {}", self.tag);
        self.stage
            .wait_told(source, &line, &wanted, |told| told.contains(&wanted));
    }

    /// Waits until `netraid explain` says these words.
    pub fn explained(&self, node: usize, words: &str) {
        let line = format!("netraid explain {}", self.tag);
        self.stage
            .wait_told(node, &line, words, |told| told.contains(words));
    }

    /// `netraid events` tells of these things in this order; a node's number in braces is its name.
    pub fn happened(&self, node: usize, wanted: &[&str]) {
        let line = format!("netraid events {}", self.tag);
        let told = self.stage.told(node, &line);
        let mut lines = told.lines();
        for words in wanted {
            let mut words = (*words).to_owned();
            for node in 1..=self.stage.site.nodes() {
                words = words.replace(&format!("{{{node}}}"), &self.stage.site.name(node));
            }
            assert!(
                lines.any(|line| line.contains(&words)),
                "{words:?} is not told, or too early:\n{told}"
            );
        }
    }

    /// How much a target's last resync was, as its source explains it.
    pub fn resynced(&self, source: usize, target: usize, extent: Extent) {
        let told = self
            .stage
            .told(source, &format!("netraid explain {}", self.tag));
        let head = format!("{}: ", self.stage.site.name(target));
        let part = told.lines().skip_while(|line| !line.starts_with(&head));
        let mut part = part.skip(1).take_while(|line| line.starts_with(' '));
        let found = part.find_map(|line| line.trim().strip_prefix("last resync: "));
        let found = found.map(|how| match how.starts_with("everything") {
            true => Extent::Full,
            false => Extent::Partial,
        });
        assert_eq!(found, Some(extent), "{told}");
    }

    /// The flag files of a node, such as `last_owner source=1 data_corrupt`; nodes by their numbers.
    pub fn flags(&self, node: usize, wanted: &str) {
        let line = format!(
            "cd $LKROOT/subsys/scsi/resources/netraid && for flag in last_owner source data_corrupt; do \
             [ -e {tag}_$flag ] && echo $flag $(cat {tag}_$flag); done; true",
            tag = self.tag
        );
        let told = self.stage.told(node, &line);
        let found: Vec<String> = told.lines().map(|line| self.flag(line)).collect();
        assert_eq!(found.join(" "), wanted, "of node {node}");
    }

    fn flag(&self, line: &str) -> String {
        match line.split_once(' ') {
            Some(("source", name)) => {
                let site = self.stage.site;
                let found = (1..=site.nodes()).find(|node| site.name(*node) == name);
                found.map_or_else(|| line.to_owned(), |node| format!("source={node}"))
            }
            _ => line.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

/// Names and status words in the table of `netraid status`, without percentages, of the nodes that have the mirror.
fn table(page: &str) -> Vec<(&str, &str)> {
    let mut lines = page.lines().skip_while(|line| !line.contains("  STATUS "));
    let head = lines.next().unwrap_or_default();
    let (Some(status), Some(data)) = (head.find("STATUS"), head.find("DATA")) else {
        return Vec::new();
    };
    // Other lines follow, which are in no columns.
    let gap = |row: &str, column: usize| row.get(column - 2..column) == Some("  ");
    let rows = lines.take_while(|row| gap(row, 2) && gap(row, status) && gap(row, data));
    let rows = rows.filter_map(|row| {
        let (name, word) = (row.get(2..status)?, row.get(status..data)?);
        Some((name.trim(), word.trim()))
    });
    let rows = rows.map(|(name, word)| match word.rsplit_once(' ') {
        Some((word, percent)) if percent.ends_with('%') => (name, word),
        _ => (name, word),
    });
    rows.filter(|(_, word)| *word != "-").collect()
}

fn words(page: &str) -> Vec<&str> {
    table(page).into_iter().map(|(_, word)| word).collect()
}

//! Who gives the orders of a scenario: LifeKeeper by the kit's scripts alone, or a person by commands alone.

use super::lifekeeper::Core;
use super::site::{Ended, Site};

/// What happens in a cluster besides the mirror's own doing. What is ordered and not done panics.
pub trait Operator {
    /// A node is gone without a word.
    fn lost_power(&self, node: usize);

    /// Those in `by` count `dead` as dead, and act.
    fn misses(&self, by: &[usize], dead: usize);

    /// A node is back.
    fn booted(&self, node: usize);

    /// Some time has passed.
    fn interval(&self);

    /// The node's disk becomes the first leg, in service.
    fn create(&self, tag: &str, node: usize);

    /// A new target.
    fn extend(&self, tag: &str, source: usize, node: usize);

    /// A target leaves.
    fn unextend(&self, tag: &str, source: usize, node: usize);

    /// The mirror is forgotten by all.
    fn delete(&self, tag: &str, nodes: &[usize]);

    /// It goes into service on this node, if it has not gone by itself; how that ended.
    fn goes_into_service(&self, tag: &str, node: usize) -> Ended;

    /// It is out of service everywhere, and an administrator puts it in service on this node.
    fn start(&self, tag: &str, node: usize);

    /// It is moved to this node, in an orderly way.
    fn switch_over(&self, tag: &str, from: usize, to: usize);

    /// It is taken out of service.
    fn stop(&self, tag: &str, node: usize);

    /// An administrator has forced it into service on this node.
    fn was_forced(&self, tag: &str, node: usize);
}

/// LifeKeeper, by the kit's scripts.
impl Operator for Core<'_> {
    fn lost_power(&self, node: usize) {
        Core::lost_power(self, node);
    }

    fn misses(&self, by: &[usize], dead: usize) {
        Core::misses(self, by, dead);
    }

    fn booted(&self, node: usize) {
        Core::booted(self, node);
    }

    fn interval(&self) {
        Core::interval(self);
    }

    fn create(&self, tag: &str, node: usize) {
        Core::create(self, tag, node);
    }

    fn extend(&self, tag: &str, source: usize, node: usize) {
        Core::extend(self, tag, source, node);
    }

    fn unextend(&self, tag: &str, source: usize, node: usize) {
        Core::unextend(self, tag, source, node);
    }

    fn delete(&self, tag: &str, _: &[usize]) {
        Core::delete(self, tag);
    }

    /// LifeKeeper has tried by itself, or never will.
    fn goes_into_service(&self, tag: &str, node: usize) -> Ended {
        let ended = self.attempt(tag, node);
        ended.unwrap_or_else(|| panic!("LifeKeeper did not try {tag} on node {node}"))
    }

    fn start(&self, tag: &str, node: usize) {
        Core::switch_over(self, tag, node);
        assert_eq!(self.state(tag, node), "ISP");
    }

    fn switch_over(&self, tag: &str, _: usize, to: usize) {
        Core::switch_over(self, tag, to);
        assert_eq!(self.state(tag, to), "ISP");
    }

    fn stop(&self, tag: &str, node: usize) {
        self.remove(tag, node);
    }

    /// Its resource goes into service as well, which starts what is above it.
    fn was_forced(&self, tag: &str, node: usize) {
        Core::switch_over(self, tag, node);
        assert_eq!(self.state(tag, node), "ISP");
    }
}

/// A person at the nodes' shells.
pub struct Person<'a>(pub &'a dyn Site);

impl Person<'_> {
    fn must(&self, node: usize, line: &str) {
        let ended = self.0.run(node, line);
        let name = self.0.name(node);
        assert_eq!(
            ended.code, 0,
            "on {name}: {line}\n{}{}",
            ended.out, ended.err
        );
    }
}

impl Operator for Person<'_> {
    fn lost_power(&self, _: usize) {}

    fn misses(&self, _: &[usize], _: usize) {}

    fn booted(&self, _: usize) {}

    fn interval(&self) {}

    fn create(&self, tag: &str, node: usize) {
        self.must(node, &format!("netraid create {tag}"));
    }

    fn extend(&self, tag: &str, source: usize, node: usize) {
        let node = self.0.name(node);
        self.must(source, &format!("netraid extend {tag} {node}"));
    }

    fn unextend(&self, tag: &str, source: usize, node: usize) {
        let name = self.0.name(node);
        self.must(source, &format!("netraid unextend {tag} {name}"));
        self.must(node, &format!("netraid delete {tag}"));
    }

    fn delete(&self, tag: &str, nodes: &[usize]) {
        for node in nodes {
            self.must(*node, &format!("netraid stop {tag}"));
        }
        for node in nodes {
            self.must(*node, &format!("netraid delete {tag}"));
        }
    }

    fn goes_into_service(&self, tag: &str, node: usize) -> Ended {
        self.0.run(node, &format!("netraid start {tag}"))
    }

    fn start(&self, tag: &str, node: usize) {
        self.must(node, &format!("netraid start {tag}"));
    }

    fn switch_over(&self, tag: &str, from: usize, to: usize) {
        self.must(from, &format!("netraid stop {tag}"));
        self.must(to, &format!("netraid start {tag}"));
    }

    fn stop(&self, tag: &str, node: usize) {
        self.must(node, &format!("netraid stop {tag}"));
    }

    fn was_forced(&self, _: &str, _: usize) {}
}

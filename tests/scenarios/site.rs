//! Where a scenario is played: nodes that can lose power, cables that can be cut, and a shell on each node.

use std::ops::Range;

/// How a command on a node ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Nodes are numbered from 1. Whatever can't be done panics: a test can't go on then.
pub trait Site {
    /// How many there are.
    fn nodes(&self) -> usize;

    /// A node's name in the configuration.
    fn name(&self, node: usize) -> String;

    /// Runs a line with `sh` on a node, where LKROOT is set and the programs of NetRAID are found; waits for its end.
    fn run(&self, node: usize, line: &str) -> Ended;

    /// Power loss.
    fn power_off(&self, node: usize);

    /// The power is back: the machine begins anew, and its netraidd.
    fn boot(&self, node: usize);

    /// Nothing gets through between two nodes any more, and nobody is told.
    fn cut(&self, one: usize, other: usize);

    /// It does again.
    fn join(&self, one: usize, other: usize);

    /// The application writes these MiB on the source, durably.
    fn write(&self, tag: &str, source: usize, mebibytes: Range<u64>);

    /// A resync that is under way, or begins, on this source, is not slowed down any more.
    fn full_speed(&self, tag: &str, source: usize);

    /// The mirror is out of service: the legs of these nodes are equal, and hold all that was written. What was written
    /// by `lost` calls of [`Site::write`], counted from 0, was given up.
    fn check(&self, tag: &str, nodes: &[usize], lost: &[usize]);
}

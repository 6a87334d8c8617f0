//! The scenarios of the specification over the kernel's RAID1: by LifeKeeper's scripts alone, and by commands alone.

#![allow(clippy::unwrap_used, reason = "a test that can not go on panics")]

use std::ops::Range;
use std::time::Duration;

use netraid_lab::{Cluster, Lab, Mirror, scenario};

#[path = "../../scenarios/seed.rs"]
#[allow(dead_code, reason = "not every scenario is played here, too")]
mod seed;

use seed::By;
use seed::site::{Ended, Site};
use seed::stage::Stage;
use seed::written::Written;

/// A lab as a site.
struct Kernels<'a> {
    cluster: Cluster<'a>,
    written: Written,
}

impl Kernels<'_> {
    fn must(&self, node: usize, line: &str) {
        let done = self.cluster.lab.node(node).must(line);
        done.unwrap_or_else(|error| panic!("{error:#}\n{}", self.cluster.log(node)));
    }
}

impl Site for Kernels<'_> {
    fn nodes(&self) -> usize {
        self.cluster.lab.nodes().len()
    }

    fn name(&self, node: usize) -> String {
        self.cluster.lab.node(node).name()
    }

    fn run(&self, node: usize, line: &str) -> Ended {
        let line = format!("export LKROOT=/var/lib/netraid; {line}");
        let ended = self.cluster.lab.node(node).run_within(LONGEST, &line);
        let ended = ended.unwrap_or_else(|error| panic!("{error:#}"));
        Ended {
            code: ended.status,
            out: ended.stdout,
            err: ended.stderr,
        }
    }

    fn power_off(&self, node: usize) {
        self.cluster.lab.node(node).crash().unwrap();
    }

    fn boot(&self, node: usize) {
        self.cluster.lab.node(node).start().unwrap();
        self.cluster.start_daemon(node).unwrap();
    }

    fn cut(&self, one: usize, other: usize) {
        self.cluster.lab.cut(one, other).unwrap();
    }

    fn join(&self, one: usize, other: usize) {
        self.cluster.lab.join(one, other).unwrap();
    }

    fn write(&self, tag: &str, source: usize, mebibytes: Range<u64>) {
        let line = self.written.next(tag, mebibytes.clone());
        let line = line.trim_end_matches('\n');
        let (start, count) = (mebibytes.start, mebibytes.end - mebibytes.start);
        self.must(
            source,
            &format!(
                "yes '{line}' | dd of=/dev/md/{tag} bs=1M seek={start} count={count} iflag=fullblock oflag=direct \
                 conv=fsync status=none"
            ),
        );
    }

    fn full_speed(&self, tag: &str, source: usize) {
        self.must(
            source,
            &format!("netraid array speed --tag {tag} --max 1000000 --min 1000000"),
        );
    }

    fn check(&self, tag: &str, nodes: &[usize], lost: &[usize]) {
        let mirror = Mirror::of(self.cluster.lab);
        for node in nodes {
            self.written.check(tag, &mirror.data(*node).unwrap(), lost);
        }
        self.cluster.check_equal(nodes).unwrap();
    }
}

/// The longest time that a script may take, and a little more.
const LONGEST: Duration = Duration::from_secs(130);

fn play(nodes: usize, defaults: &str, by: By, text: fn(&Stage<'_>)) {
    scenario(Lab::builder().nodes(nodes).disks(&[16]), |lab| {
        let cluster = Cluster::with(lab, "md", defaults)?;
        let site = Kernels {
            cluster,
            written: Written::default(),
        };
        let order: Vec<usize> = (1..=nodes).collect();
        seed::play(&site, by, &order, text);
        Ok(())
    });
}

/// Resyncs don't end before somebody has looked at them and lets them go on.
const HELD: &str = "LKDR_SPEED_LIMIT=200\\nLKDR_SPEED_LIMIT_MIN=200\\n";

macro_rules! scenarios {
    ($($text:ident::$name:ident on $nodes:literal with $defaults:expr;)*) => {
        mod by_hooks {
            use super::*;
            $(#[test]
            fn $name() {
                play($nodes, $defaults, By::Hooks, seed::$text::$name);
            })*
        }
        mod by_commands {
            use super::*;
            $(#[test]
            fn $name() {
                play($nodes, $defaults, By::Commands, seed::$text::$name);
            })*
        }
    };
}

scenarios! {
    two_nodes::scenario_1_failover_to_server2_and_a_partial_resync_back on 2 with HELD;
    two_nodes::scenario_2_server2_is_lost_during_the_resync_and_server1_does_not_take_over on 2 with HELD;
    two_nodes::scenario_3_server1_returns_alone_and_is_not_in_service_until_it_is_forced on 2 with "";
    two_nodes::scenario_4_the_target_returns_first_and_waits_for_server1 on 2 with "";
    three_nodes::server2_waits_for_server1_whose_bitmap_saves_server3_a_full_resync on 3 with HELD;
}

//! The scenarios of the specification over the kernel's RAID1: by LifeKeeper's scripts alone, and by commands alone.

#![allow(clippy::unwrap_used, reason = "a test that can not go on panics")]

use std::ops::Range;
use std::time::Duration;

use netraid_lab::{Cluster, Lab, Mirror, scenario};

#[path = "../../scenarios/seed.rs"]
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
        let mut mirror = Mirror::of(self.cluster.lab);
        if tag == "more" {
            mirror.disks = nodes.iter().map(|node| (*node, 2)).collect();
        }
        (mirror.source, mirror.targets) = (nodes[0], nodes[1..].to_vec());
        for node in nodes {
            self.written.check(tag, &mirror.data(*node).unwrap(), lost);
        }
        mirror.check_equal().unwrap();
    }
}

/// The longest time that a script may take, and a little more.
const LONGEST: Duration = Duration::from_secs(130);

/// What a scenario wants of its cluster.
struct Setting {
    nodes: usize,
    /// Lines of `/etc/default/LifeKeeper`.
    defaults: String,
    /// Nodes by their priority.
    order: Vec<usize>,
    /// `data` on server1 and server3, `more` on server2 and server3.
    common_backup: bool,
}

fn nodes(nodes: usize) -> Setting {
    Setting {
        nodes,
        defaults: String::new(),
        order: (1..=nodes).collect(),
        common_backup: false,
    }
}

impl Setting {
    /// Resyncs don't end before somebody has looked at them and lets them go on.
    fn held(mut self) -> Setting {
        self.defaults += "LKDR_SPEED_LIMIT=200\\nLKDR_SPEED_LIMIT_MIN=200\\n";
        self
    }

    fn waits(mut self, seconds: &str) -> Setting {
        self.defaults += &format!("LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT={seconds}\\n");
        self
    }

    fn order(mut self, order: &[usize]) -> Setting {
        self.order = order.to_vec();
        self
    }

    fn common_backup(mut self) -> Setting {
        self.common_backup = true;
        self
    }

    fn play(self, by: By, text: fn(&Stage<'_>)) {
        let disks: &[u64] = if self.common_backup { &[16, 16] } else { &[16] };
        scenario(Lab::builder().nodes(self.nodes).disks(disks), |lab| {
            let cluster = match self.common_backup {
                true => Cluster::of_two_mirrors(lab, "md", &self.defaults, &[1, 3], &[2, 3])?,
                false => Cluster::with(lab, "md", &self.defaults)?,
            };
            let site = Kernels {
                cluster,
                written: Written::default(),
            };
            seed::play(&site, by, &self.order, text);
            Ok(())
        });
    }
}

macro_rules! scenarios {
    ($($text:ident::$name:ident in $setting:expr;)*) => {
        mod by_hooks {
            use super::*;
            $(#[test]
            fn $name() {
                $setting.play(By::Hooks, seed::$text::$name);
            })*
        }
        mod by_commands {
            use super::*;
            $(#[test]
            fn $name() {
                $setting.play(By::Commands, seed::$text::$name);
            })*
        }
    };
}

scenarios! {
    two_nodes::scenario_1_failover_to_server2_and_a_partial_resync_back in nodes(2).held();
    two_nodes::scenario_2_server2_is_lost_during_the_resync_and_server1_does_not_take_over in nodes(2).held();
    two_nodes::scenario_3_server1_returns_alone_and_is_not_in_service_until_it_is_forced in nodes(2);
    two_nodes::scenario_4_the_target_returns_first_and_waits_for_server1 in nodes(2);
    two_nodes::after_a_clean_stop_either_node_starts_without_the_other in nodes(2);
    three_nodes::server2_waits_for_server1_whose_bitmap_saves_server3_a_full_resync in nodes(3).held();
    three_nodes::with_0_the_previous_source_is_not_waited_for in nodes(3).waits("0");
    three_nodes::with_5_the_previous_source_has_five_seconds in nodes(3).waits("5");
    three_nodes::with_600_a_previous_source_that_returns_in_time_saves_a_full_resync in nodes(3).waits("600");
    three_nodes::with_minus_1_targets_wait_until_somebody_orders_a_full_resync in nodes(3).waits("-1");
    three_nodes::after_a_clean_stop_with_targets_in_sync_no_previous_source_is_needed in nodes(3);
    three_nodes::each_failover_goes_to_the_best_priority_that_is_left in nodes(3).waits("0").order(&[1, 3, 2]);
    three_nodes::two_sources_have_one_common_backup in nodes(3).common_backup();
    three_nodes::one_source_has_seven_targets in nodes(8);
    orders::a_paused_target_gets_what_it_lacks_when_it_is_resumed in nodes(2);
    orders::a_target_that_was_unextended_can_be_extended_again in nodes(2);
    orders::a_deleted_mirror_is_forgotten_by_all_and_the_data_stays in nodes(2);
    orders::after_a_split_brain_one_side_is_given_up_by_order_only in nodes(2);
}

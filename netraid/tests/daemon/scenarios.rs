//! Every scenario of the specification with real processes: by LifeKeeper's scripts alone, and by commands alone.

use crate::cluster::{Cluster, Options};
use crate::seed::stage::Stage;
use crate::seed::{self, By};
use crate::site::Loopback;

/// What a scenario wants of its cluster.
struct Setting {
    nodes: usize,
    options: Options,
    /// Nodes by their priority.
    order: Vec<usize>,
}

fn nodes(nodes: usize) -> Setting {
    Setting {
        nodes,
        options: Options::default(),
        order: (1..=nodes).collect(),
    }
}

impl Setting {
    /// Resyncs don't end before somebody has looked at them and lets them go on.
    fn held(mut self) -> Setting {
        self.options.speed = Some(200);
        self
    }

    fn waits(mut self, seconds: &str) -> Setting {
        self.options.defaults = format!("LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT={seconds}\n");
        self
    }

    fn order(mut self, order: &[usize]) -> Setting {
        self.order = order.to_vec();
        self
    }

    /// `data` on server1 and server3, `more` on server2 and server3.
    fn common_backup(mut self) -> Setting {
        (self.options.data, self.options.more) = (vec![0, 2], vec![1, 2]);
        self
    }

    fn play(self, by: By, scenario: fn(&Stage<'_>)) {
        let site = Loopback::new(Cluster::with(self.nodes, self.options));
        seed::play(&site, by, &self.order, scenario);
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

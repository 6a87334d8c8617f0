//! The kernel's md as netraid drives it, on real kernels: one User-Mode Linux a scenario (`scenarios/*.sh`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod embedded;
#[path = "../md/peer.rs"]
#[allow(dead_code, reason = "shared with the tests of the format")]
mod peer;
mod uml;

#[test]
fn a_mirror_is_created_stopped_and_started_without_a_resync() {
    uml::run("create_stop_start");
}

#[test]
fn when_both_sides_wrote_while_apart_the_losers_writes_are_gone_and_the_legs_equal() {
    uml::run("trap");
}

#[test]
fn with_plain_mdadm_the_legs_differ_and_are_called_in_sync() {
    uml::run("trap_plain");
}

#[test]
fn a_leg_that_was_away_is_resynced_in_part_after_a_cut_and_after_a_take_over() {
    uml::run("away_and_back");
}

#[test]
fn a_leg_whose_resync_was_interrupted_is_not_started_without_force() {
    uml::run("interrupted");
}

#[test]
fn two_targets_leave_one_after_the_other_and_both_come_back_in_part() {
    uml::run("three_legs");
}

#[test]
fn a_file_system_is_kept_where_it_is_and_refused_where_there_is_no_room() {
    uml::run("keep_file_system");
}

#[test]
fn without_a_bitmap_every_interruption_ends_in_a_full_resync_and_the_status_says_so() {
    uml::run("no_bitmap");
}

#[test]
fn limits_hold_events_are_seen_and_what_can_not_be_meant_is_refused() {
    uml::run("limits_and_events");
}

#[test]
fn a_leg_behind_a_server_that_was_killed_comes_back_in_part() {
    uml::run("over_nbd");
}

#[test]
fn each_backend_runs_the_mirrors_of_the_other_with_nothing_to_resync() {
    uml::run("both_backends");
}

#[test]
fn mdadm_leaves_the_legs_alone_with_the_configuration_that_is_shipped() {
    uml::run("left_alone");
}

#[test]
fn a_mirror_whose_own_disk_failed_goes_on_from_a_target_and_says_so() {
    uml::run("own_disk_fails");
}

//! The kernel's md as netraid drives it, on real kernels: one User-Mode Linux a scenario (`scenarios/*.sh`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

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

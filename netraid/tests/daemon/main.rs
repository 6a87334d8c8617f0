//! Clusters of real netraidd processes on loopback: failovers, cut cables, killed processes, strangers.
//!
//! The scenarios are those of the specification; the status words are looked at on every node at each moment. They need
//! the programs netraidd, netraid and nbd-server: `cargo build --workspace --bins` first.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod application;
mod asynchronous;
mod cable;
mod cluster;
mod node;

#[path = "../../../tests/scenarios/seed.rs"]
mod seed;
mod site;

mod adjust;
mod cables;
mod disk_errors;
mod events2;
mod faults;
mod fencing;
mod full;
mod lifekeeper;
mod meta;
mod operator;
mod policies;
mod quorum;
mod resize;
mod restarts;
mod resyncs;
mod scenarios;
mod schema;
mod skew;
mod split_brain;
mod strangers;
mod thin;
mod three_nodes;
mod truck;
mod turns;
mod two_nodes;
mod verify;
mod waiting;

//! Many mirrors on one pair of nodes: how much memory the daemons take, and that a cut makes no storm.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use netraid_tests::daemons::Pair;
use netraid_tests::daemons::cable::Cable;
use netraid_tests::peers::ours;

/// Few enough for a machine that is busy; `make bench-daemon` has a hundred.
const MIRRORS: u8 = 20;

#[test]
fn twenty_mirrors_come_back_after_a_cut_without_a_storm_and_the_daemons_stay_small() {
    let programs = ours("netraidd").parent().unwrap().to_owned();
    let pair = Pair::new(&env::temp_dir(), &programs, MIRRORS);
    pair.mirror_all();

    let cut = Instant::now();
    for cables in [&pair.talk, &pair.data] {
        cables.set(Cable::Cut);
    }
    pair.all_are_seen(["Source", "Unknown"], 0, Duration::from_secs(30));
    // What is measured is a time in which attempts are counted.
    thread::sleep(Duration::from_secs(5));
    let (talk, _) = pair.talk.attempts(cut);
    let (data, _) = pair.data.attempts(cut);
    // Each node pauses a quarter of a second, then half of one, one, two and two; however many mirrors there are.
    let most = 2 * (5 + cut.elapsed().as_secs() as usize);
    assert!(talk <= most, "{talk} attempts to reach the other daemon");
    assert!(
        data <= usize::from(MIRRORS),
        "{data} attempts to reach legs of a node that can't be reached"
    );

    let joined = Instant::now();
    for cables in [&pair.talk, &pair.data] {
        cables.set(Cable::Whole);
    }
    let taken = pair.all_are(["Source", "Target"], Duration::from_secs(30));
    let (again, _) = pair.data.attempts(joined);
    println!("in sync again after {taken:?}, with {again} connections");
    assert!(again <= 2 * usize::from(MIRRORS), "{again} connections");
    for node in &pair.nodes {
        let cost = node.cost();
        assert!(cost.peak < 64 << 10, "{cost:?}");
    }
}

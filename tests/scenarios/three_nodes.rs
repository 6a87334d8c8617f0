//! Three nodes and more: the failover scenario of the specification, waiting for the previous source, priorities, several
//! targets, and a common backup of two sources.

use super::stage::{Extent, Stage};

const WAITS: &str = "Out of Sync (Wait for Previous Source)";

pub fn server2_waits_for_server1_whose_bitmap_saves_server3_a_full_resync(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    data.met(1, &[2, 3]);
    data.create(1);
    data.full_speed(1);
    data.extend(1, 2);
    data.extend(1, 3);
    data.all_see(&[1, 2, 3], &["Source", "Target", "Target"]);
    data.write(1, 0..1);

    // Failover to the next highest priority; replication to Server 3 is not resumed.
    stage.power_off(1);
    data.all_see(&[2, 3], &["Unknown", "Target", "Target"]);
    stage.operator.misses(&[2, 3], 1);
    data.in_service(2);
    data.sees(2, &["Unknown", "Source", WAITS]);
    data.shown(2, 3, WAITS);
    data.explained(2, "previous source: ");
    data.flags(2, "last_owner source=1");
    data.flags(3, "source=1");
    data.write(2, 1..9);
    stage.operator.interval();
    data.sees(2, &["Unknown", "Source", WAITS]);

    // Server 1 reconnects: its bitmap is merged, its resync begins, and Server 3 comes after it.
    stage.boot(1);
    data.all_see(&[2, 1], &["Resyncing", "Source", "Out of Sync"]);
    data.flags(1, "source=1");

    // Only when that is complete, Server 3's begins.
    data.full_speed(2);
    data.all_see(&[2, 1, 3], &["Target", "Source", "Target"]);
    data.happened(
        2,
        &[
            "copied to {1}",
            "{1} is in sync",
            "copied to {3}",
            "{3} is in sync",
        ],
    );
    data.flags(1, "source=2");
    data.flags(2, "last_owner source=2");
    data.flags(3, "source=2");
    data.resynced(2, 1, Extent::Partial);
    data.resynced(2, 3, Extent::Partial);
    data.ends_equal(&[2, 1, 3]);
}

/// Server1 was source and is gone, server2 has just taken over.
fn taken_over(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    data.made(1, &[2, 3]);
    data.write(1, 0..1);
    stage.fails(1, &[2, 3]);
    data.in_service(2);
}

/// Server3 got everything; the previous source itself gets what it lacks, no more.
fn server3_was_filled(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    data.sees(2, &["Unknown", "Source", "Target"]);
    data.resynced(2, 3, Extent::Full);
    data.write(2, 1..2);
    stage.boot(1);
    data.all_see(&[1, 2, 3], &["Target", "Source", "Target"]);
    data.resynced(2, 1, Extent::Partial);
    data.ends_equal(&[2, 1, 3]);
}

/// LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT=0.
pub fn with_0_the_previous_source_is_not_waited_for(stage: &Stage<'_>) {
    taken_over(stage);
    server3_was_filled(stage);
}

/// LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT=5.
pub fn with_5_the_previous_source_has_five_seconds(stage: &Stage<'_>) {
    taken_over(stage);
    let data = stage.mirror("data");
    data.sees(2, &["Unknown", "Source", WAITS]);
    server3_was_filled(stage);
}

/// LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT=600.
pub fn with_600_a_previous_source_that_returns_in_time_saves_a_full_resync(stage: &Stage<'_>) {
    taken_over(stage);
    let data = stage.mirror("data");
    data.sees(2, &["Unknown", "Source", WAITS]);
    data.explained(2, "600 s at most");
    stage.boot(1);
    data.all_see(&[1, 2, 3], &["Target", "Source", "Target"]);
    data.resynced(2, 1, Extent::Partial);
    data.resynced(2, 3, Extent::Partial);
    data.ends_equal(&[2, 1, 3]);
}

/// LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT=-1, as it is by default.
pub fn with_minus_1_targets_wait_until_somebody_orders_a_full_resync(stage: &Stage<'_>) {
    taken_over(stage);
    let data = stage.mirror("data");
    data.sees(2, &["Unknown", "Source", WAITS]);
    data.action("resume", 2, &[3]);
    stage.operator.interval();
    data.sees(2, &["Unknown", "Source", WAITS]);
    data.explained(2, "for ever");
    data.action("fullresync", 2, &[3]);
    server3_was_filled(stage);
}

pub fn after_a_clean_stop_with_targets_in_sync_no_previous_source_is_needed(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    data.made(1, &[2, 3]);
    data.write(1, 0..1);
    data.stop(1);
    data.all_see(&[2, 3], &["Target", "Target", "Target"]);
    stage.power_off(1);
    data.start(2);
    data.sees(2, &["Unknown", "Source", "Target"]);
    data.resynced(2, 3, Extent::Partial);
    data.flags(2, "last_owner source=2");
    data.write(2, 1..2);
    data.ends_equal(&[2, 3]);
}

/// Priorities: server1, server3, server2; nobody is waited for.
pub fn each_failover_goes_to_the_best_priority_that_is_left(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    data.made(1, &[2, 3]);
    data.write(1, 0..1);
    stage.fails(1, &[2, 3]);
    data.in_service(3);
    data.sees(3, &["Unknown", "Target", "Source"]);
    data.write(3, 1..2);
    // Cascading: the next one takes over as well.
    stage.fails(3, &[2]);
    data.in_service(2);
    data.sees(2, &["Unknown", "Source", "Unknown"]);
    data.write(2, 2..3);
    stage.boot(1);
    stage.boot(3);
    data.all_see(&[1, 2, 3], &["Target", "Source", "Target"]);
    data.ends_equal(&[2, 1, 3]);
}

/// `data` has its source on server1, `more` on server2; both have their target on server3, on a disk each.
pub fn two_sources_have_one_common_backup(stage: &Stage<'_>) {
    let (data, more) = (stage.mirror("data"), stage.mirror("more"));
    data.made(1, &[3]);
    more.made(2, &[3]);
    data.write(1, 0..1);
    more.write(2, 0..2);
    stage.fails(1, &[2, 3]);
    data.in_service(3);
    data.sees(3, &["Unknown", "Source"]);
    // What server2 has in service is not touched.
    more.all_see(&[2, 3], &["Source", "Target"]);
    more.write(2, 2..3);
    stage.fails(2, &[3]);
    more.in_service(3);
    data.write(3, 1..2);
    more.write(3, 3..4);
    stage.boot(1);
    stage.boot(2);
    data.all_see(&[1, 3], &["Target", "Source"]);
    more.all_see(&[2, 3], &["Target", "Source"]);
    data.resynced(3, 1, Extent::Partial);
    more.resynced(3, 2, Extent::Partial);
    data.ends_equal(&[3, 1]);
    more.ends_equal(&[3, 2]);
}

/// As many targets as a mirror may have, each on its own system.
pub fn one_source_has_seven_targets(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    let targets = [2, 3, 4, 5, 6, 7, 8];
    data.made(1, &targets);
    data.write(1, 0..2);
    stage.fails(1, &targets);
    data.in_service(2);
    data.write(2, 1..3);
    let mut words = [WAITS; 8];
    (words[0], words[1]) = ("Unknown", "Source");
    data.sees(2, &words);
    stage.boot(1);
    let mut words = ["Target"; 8];
    words[1] = "Source";
    data.sees(2, &words);
    for target in [1, 3, 4, 5, 6, 7, 8] {
        data.resynced(2, target, Extent::Partial);
    }
    data.ends_equal(&[2, 1, 3, 4, 5, 6, 7, 8]);
}

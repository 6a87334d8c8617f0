//! The failover scenarios of two nodes, in the words of the specification.

use super::stage::{Extent, Stage};

pub fn scenario_1_failover_to_server2_and_a_partial_resync_back(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    data.met(1, &[2]);
    data.create(1);
    // Degraded: there is nobody else yet.
    data.sees(1, &["Source"]);
    data.flags(1, "last_owner source=1");
    data.write(1, 0..4);

    // Once it is extended, the synchronisation begins at once.
    data.extend(1, 2);
    data.all_see(&[1, 2], &["Source", "Resyncing"]);
    data.shown(1, 2, "Resynchronizing");
    data.full_speed(1);
    data.all_see(&[1, 2], &["Source", "Target"]);
    data.shown(1, 2, "Fully Operational");
    data.flags(2, "source=1");
    data.write(1, 4..5);

    // Server 1 becomes inoperable, and Server 2 takes over, with no backup.
    stage.power_off(1);
    data.sees(2, &["Unknown", "Target"]);
    stage.operator.misses(&[2], 1);
    data.in_service(2);
    data.sees(2, &["Unknown", "Source"]);
    data.shown(2, 1, "Unknown");
    data.flags(2, "last_owner source=1");
    data.write(2, 3..7);

    // Server 1 is operational again: its last owner flag goes, and the changed blocks are resynced.
    stage.boot(1);
    data.all_see(&[2, 1], &["Resyncing", "Source"]);
    data.flags(1, "source=1");
    data.full_speed(2);
    data.all_see(&[2, 1], &["Target", "Source"]);
    data.resynced(2, 1, Extent::Partial);
    data.flags(1, "source=2");
    data.flags(2, "last_owner source=2");
    data.ends_equal(&[2, 1]);
}

pub fn scenario_2_server2_is_lost_during_the_resync_and_server1_does_not_take_over(
    stage: &Stage<'_>,
) {
    let data = stage.mirror("data");
    data.met(1, &[2]);
    data.create(1);
    data.full_speed(1);
    data.extend(1, 2);
    data.all_see(&[1, 2], &["Source", "Target"]);
    data.write(1, 0..1);
    stage.fails(1, &[2]);
    data.in_service(2);
    data.write(2, 1..9);
    stage.boot(1);
    data.all_see(&[2, 1], &["Resyncing", "Source"]);

    // The resync did not complete: no failover to Server 1.
    stage.fails(2, &[1]);
    data.sees(1, &["Out of Sync", "Unknown"]);
    data.stays_out(1, "was being resynced");
    data.flags(1, "source=1");

    // Only when Server 2 is operable again it is brought in service, on Server 2; the resync goes on.
    stage.boot(2);
    data.in_service(2);
    data.sees(1, &["Resyncing", "Source"]);
    data.full_speed(2);
    data.all_see(&[2, 1], &["Target", "Source"]);
    data.resynced(2, 1, Extent::Partial);
    data.ends_equal(&[2, 1]);
}

pub fn scenario_3_server1_returns_alone_and_is_not_in_service_until_it_is_forced(
    stage: &Stage<'_>,
) {
    let data = stage.mirror("data");
    data.made(1, &[2]);
    data.write(1, 0..1);
    stage.power_off(2);
    stage.power_off(1);

    stage.boot(1);
    // It can't communicate with the target: the flag is set, and it does not go into service.
    let command = format!("mirror_action data force {}", stage.site.name(1));
    data.stays_out(1, &command);
    data.sees(1, &["Out of Sync", "Unknown"]);
    data.flags(1, "last_owner source=1 data_corrupt");
    data.explained(1, "flag: data_data_corrupt is set");

    // Forced, the flag is deleted and it is in service.
    data.force(1);
    data.flags(1, "last_owner source=1");
    data.sees(1, &["Source", "Unknown"]);
    data.write(1, 1..2);

    stage.boot(2);
    data.all_see(&[1, 2], &["Source", "Target"]);
    data.resynced(1, 2, Extent::Partial);
    data.ends_equal(&[1, 2]);
}

pub fn scenario_4_the_target_returns_first_and_waits_for_server1(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    data.made(1, &[2]);
    data.write(1, 0..1);
    stage.power_off(2);
    data.sees(1, &["Source", "Unknown"]);
    data.write(1, 1..2);
    stage.power_off(1);

    stage.boot(2);
    data.stays_out(2, "can't be reached, where newer data may be");
    data.sees(2, &["Unknown", "Out of Sync"]);
    data.flags(2, "source=1");

    // Server 1 comes back up: it is brought in service there.
    stage.boot(1);
    data.in_service(1);
    data.flags(1, "last_owner source=1");
    data.all_see(&[1, 2], &["Source", "Target"]);
    data.resynced(1, 2, Extent::Partial);
    data.ends_equal(&[1, 2]);
}

pub fn after_a_clean_stop_either_node_starts_without_the_other(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    data.made(1, &[2]);
    data.write(1, 0..1);
    data.switch_over(1, 2);
    data.all_see(&[1, 2], &["Target", "Source"]);
    data.flags(2, "last_owner source=2");
    data.stop(2);
    data.all_see(&[1, 2], &["Target", "Target"]);
    stage.power_off(2);

    data.start(1);
    data.sees(1, &["Source", "Unknown"]);
    data.flags(1, "last_owner source=1");
    data.write(1, 1..2);
    stage.boot(2);
    data.all_see(&[1, 2], &["Source", "Target"]);
    data.resynced(1, 2, Extent::Partial);
    data.flags(2, "source=1");
    data.ends_equal(&[1, 2]);
}

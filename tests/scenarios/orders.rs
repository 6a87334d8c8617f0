//! What administrators do: pause, resume, full resync, unextend, delete, and the end of a split brain.

use super::stage::{Extent, Stage};

pub fn a_paused_target_gets_what_it_lacks_when_it_is_resumed(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    data.made(1, &[2]);
    data.write(1, 0..1);
    data.action("pause", 1, &[2]);
    data.sees(1, &["Source", "Paused"]);
    data.shown(1, 2, "Paused");
    data.write(1, 1..2);
    // LifeKeeper finds nothing to mend.
    stage.operator.interval();
    data.sees(1, &["Source", "Paused"]);
    data.action("resume", 1, &[]);
    data.all_see(&[1, 2], &["Source", "Target"]);
    data.resynced(1, 2, Extent::Partial);

    data.action("fullresync", 1, &[2]);
    data.explained(1, "last resync: everything");
    data.all_see(&[1, 2], &["Source", "Target"]);
    data.resynced(1, 2, Extent::Full);
    data.ends_equal(&[1, 2]);
}

pub fn a_target_that_was_unextended_can_be_extended_again(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    data.made(1, &[2]);
    data.unextend(1, 2);
    data.sees(1, &["Source"]);
    data.flags(2, "");
    data.write(1, 0..1);
    data.extend(1, 2);
    data.all_see(&[1, 2], &["Source", "Target"]);
    data.ends_equal(&[1, 2]);
}

pub fn a_deleted_mirror_is_forgotten_by_all_and_the_data_stays(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    data.made(1, &[2]);
    data.write(1, 0..1);
    data.refused(1, "netraid delete data", "in service");
    data.delete(&[1, 2]);
    data.all_see(&[1, 2], &[]);
    data.flags(1, "");
    data.flags(2, "");
    stage.site.check("data", &[1, 2], &[]);
}

pub fn after_a_split_brain_one_side_is_given_up_by_order_only(stage: &Stage<'_>) {
    let data = stage.mirror("data");
    data.made(1, &[2]);
    data.write(1, 0..1);
    stage.site.cut(1, 2);
    data.write(1, 4..5);
    data.sees(1, &["Source", "Unknown"]);
    data.sees(2, &["Unknown", "Target"]);
    // Each takes the other for dead.
    stage.operator.misses(&[1], 2);
    stage.operator.misses(&[2], 1);
    data.in_service(2);
    data.write(2, 2..3);
    stage.site.join(1, 2);
    data.sees(1, &["Source", "Split Brain"]);
    data.sees(2, &["Split Brain", "Source"]);
    data.shown(1, 2, "Split Brain");

    let name = stage.site.name(2);
    let resolve = format!("netraid resolve data --discard {name}");
    data.refused(1, &resolve, &format!("on {name}: netraid stop data"));
    stage.operator.interval();
    data.sees(1, &["Source", "Split Brain"]);
    // The copy on server2 is given up: out of service there first.
    data.stop(2);
    data.sees(1, &["Source", "Split Brain"]);
    data.explained(1, &resolve);
    data.resolve(1, 2);
    data.all_see(&[1, 2], &["Source", "Target"]);
    data.resynced(1, 2, Extent::Partial);
    data.flags(2, "source=1");
    data.ends_equal_without(&[1, 2], &[2]);
}

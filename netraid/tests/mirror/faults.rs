//! What an administrator fears, one test each.

use std::time::Duration;

use bytes::Bytes;
use nbd_protocol::command::{Answer, Command, Errno, Extent};
use netraid::raid1::engine::Refusal;
use netraid::raid1::leg::{LegState, Slot};

use crate::rig::{CHUNK, Rig};

const MIB: u64 = 1 << 20;

#[test]
fn a_mirror_is_created_degraded_extended_and_equal_after_a_clean_stop() {
    let rig = Rig::new();
    rig.create();
    let node = rig.start("one");
    node.write(3 * MIB, 5000, 0x11);
    let (_server, _) = rig.serve("two");
    node.extend(&rig, 1, "two");
    let end = node.mirror.view(|view| view.last_resync.clone()).unwrap();
    assert_eq!(end.copied, node.size(), "everything was looked at");
    assert_eq!(
        end.sent, MIB,
        "one piece was not all zero, and nothing else was sent"
    );
    node.write(7 * MIB + 13, 100_000, 0x22);
    assert_eq!(node.read(7 * MIB + 13, 100_000), vec![0x22; 100_000]);
    node.stop();
    assert!(rig.data("one") == rig.data("two"));
    let again = rig.start("one");
    assert_eq!(again.mirror.view(|view| view.engine.dirty().count()), 0);
    again
        .keepers
        .keep(Slot::new(1).unwrap(), rig.target("two"))
        .unwrap();
    again.wait_for_state(1, LegState::InSync);
    let moved = again
        .mirror
        .view(|view| view.last_resync.clone())
        .map_or(0, |end| end.copied);
    assert_eq!(moved, 0, "nothing is resynced after a clean stop");
    again.stop();
}

#[test]
fn a_target_that_was_away_gets_only_what_was_written_meanwhile() {
    let rig = Rig::new();
    rig.create();
    let node = rig.start("one");
    let (server, _) = rig.serve("two");
    node.extend(&rig, 1, "two");
    let full = node.mirror.view(|view| view.last_resync.clone()).unwrap();
    // The bits of the full resync are dropped once both disks were flushed.
    node.wait_for_no_dirty_bit();
    drop(server);
    node.write(2 * MIB, 3000, 0x33);
    node.wait_for_state(1, LegState::Absent);
    node.write(9 * MIB, 200_000, 0x44);
    let (_server, _) = rig.serve("two");
    node.wait_for_state(1, LegState::InSync);
    let end = node.mirror.view(|view| view.last_resync.clone()).unwrap();
    assert_eq!(end.number, full.number + 1);
    assert_eq!(
        end.copied,
        u64::from(CHUNK) * (1 + 4),
        "the chunks that were written, and no other"
    );
    node.stop();
    assert!(rig.data("one") == rig.data("two"));
}

#[test]
fn a_target_that_hangs_is_expelled_after_its_timeout_and_its_late_write_does_not_land() {
    let rig = Rig::new();
    rig.create();
    let node = rig.start("one");
    let (_server, disk) = rig.serve("two");
    node.extend(&rig, 1, "two");
    disk.hold_writes();
    let data = Bytes::from(vec![0x55; 4096]);
    let answer = node.begin(Command::Write {
        offset: 0,
        data,
        fua: false,
    });
    assert!(
        answer.try_recv().is_err(),
        "not before the target has it or is out"
    );
    let outcome = node.wait_for("the answer", || answer.try_recv().ok());
    assert_eq!(outcome, Ok(Answer::Done), "the application goes on");
    assert!(
        node.reason(1).contains("did not answer in time"),
        "{}",
        node.reason(1)
    );
    node.write(0, 4096, 0x66);
    disk.work();
    node.wait_for_state(1, LegState::InSync);
    node.stop();
    assert!(rig.data("one") == rig.data("two"));
    assert_eq!(rig.data("two")[0], 0x66);
}

#[test]
fn writes_go_on_through_the_target_when_the_local_disk_fails_and_nobody_starts_from_it_unnoticed() {
    let rig = Rig::new();
    rig.create();
    let node = rig.start("one");
    let (server, _) = rig.serve("two");
    node.extend(&rig, 1, "two");
    node.disk.fail_writes();
    node.write(MIB, 4096, 0x79);
    node.flush();
    node.stop();
    drop(server);
    // The failed disk believes itself good. Started, it must not take the newer leg as its target.
    let stale = rig.start("one");
    let (_server, _) = rig.serve("two");
    stale
        .keepers
        .keep(Slot::new(1).unwrap(), rig.target("two"))
        .unwrap();
    stale.wait_for("a refusal", || {
        stale.reason(1).contains("newer data").then_some(())
    });
    drop(_server);
    let good = rig.start("two");
    assert_eq!(good.read(MIB, 4096), vec![0x79; 4096]);
    good.stop();
}

#[test]
fn a_failover_keeps_what_was_acknowledged_and_the_old_source_is_resynced_in_part() {
    let rig = Rig::new();
    rig.create();
    let node = rig.start("one");
    let (server, _) = rig.serve("two");
    node.extend(&rig, 1, "two");
    node.wait_for_no_dirty_bit();
    node.write(4 * MIB, 4096, 0x12);
    // Crash: nothing is stopped, nothing is flushed.
    node.keepers.stop();
    drop(node);
    drop(server);
    let other = rig.start("two");
    assert_eq!(other.read(4 * MIB, 4096), vec![0x12; 4096]);
    other.write(8 * MIB, 4096, 0x34);
    let (_server, _) = rig.serve("one");
    other
        .keepers
        .keep(Slot::new(0).unwrap(), rig.target("one"))
        .unwrap();
    other.wait_for_state(0, LegState::InSync);
    let end = other.mirror.view(|view| view.last_resync.clone()).unwrap();
    assert!(end.copied < other.size(), "in part: {end:?}");
    other.stop();
    assert!(rig.data("one") == rig.data("two"));
}

#[test]
fn two_nodes_that_wrote_alone_are_a_split_brain_and_nothing_is_overwritten() {
    let rig = Rig::new();
    rig.create();
    let node = rig.start("one");
    let (server, _) = rig.serve("two");
    node.extend(&rig, 1, "two");
    drop(server);
    node.write(MIB, 4096, 0x11);
    node.stop();
    let other = rig.start("two");
    other.write(2 * MIB, 4096, 0x22);
    other.stop();
    let (before_one, before_two) = (rig.data("one"), rig.data("two"));
    let (_server, _) = rig.serve("two");
    let node = rig.start("one");
    node.keepers
        .keep(Slot::new(1).unwrap(), rig.target("two"))
        .unwrap();
    node.wait_for("the refusal", || {
        node.reason(1).contains("split brain").then_some(())
    });
    node.stop();
    assert!(rig.data("one") == before_one && rig.data("two") == before_two);
}

#[test]
fn a_leg_that_was_being_resynced_is_not_started() {
    let rig = Rig::new();
    rig.create();
    let node = rig.start("one");
    node.write(0, 4096, 0x11);
    let (server, disk) = rig.serve("two");
    disk.hold_writes();
    node.keepers
        .extend(Slot::new(1).unwrap(), &rig.target("two"), false)
        .unwrap();
    node.wait_for_state(1, LegState::Resync);
    node.keepers.stop();
    drop(node);
    drop(server);
    // What it held is done late; it would keep the disk open otherwise.
    disk.work();
    drop(disk);
    match rig.try_start("two").map(|_| ()) {
        Err(Refusal::Inconsistent(_) | Refusal::NoData(_)) => {}
        other => panic!("an inconsistent leg: {other:?}"),
    }
}

#[test]
fn a_disk_that_holds_something_is_refused_as_a_leg() {
    let rig = Rig::new();
    rig.create();
    let node = rig.start("one");
    let mut xfs = vec![0; 16 << 20];
    xfs[..4].copy_from_slice(b"XFSB");
    std::fs::write(rig.path("two"), &xfs).unwrap();
    let (_server, _) = rig.serve("two");
    let slot = Slot::new(1).unwrap();
    let refused = node
        .keepers
        .extend(slot, &rig.target("two"), false)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("XFS") && refused.contains("--force"),
        "{refused}"
    );
    assert!(
        std::fs::read(rig.path("two")).unwrap() == xfs,
        "nothing was written"
    );
    node.keepers.extend(slot, &rig.target("two"), true).unwrap();
    node.wait_for_state(1, LegState::InSync);
    node.stop();
}

#[test]
fn a_smaller_disk_is_refused_as_a_leg() {
    let rig = Rig::new();
    rig.create();
    let node = rig.start("one");
    std::fs::File::create(rig.path("two"))
        .unwrap()
        .set_len((16 << 20) - 4096)
        .unwrap();
    let (_server, _) = rig.serve("two");
    let refused = node
        .keepers
        .extend(Slot::new(1).unwrap(), &rig.target("two"), true)
        .unwrap_err();
    assert!(refused.to_string().contains("can't be a leg"), "{refused}");
    assert!(
        std::fs::read(rig.path("two"))
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
    node.stop();
}

#[test]
fn the_dirty_map_and_the_allocation_map_can_be_asked() {
    let rig = Rig::new();
    rig.create();
    let node = rig.start("one");
    node.write(u64::from(CHUNK), 4096, 0x11);
    let status = |context| Command::BlockStatus {
        offset: 0,
        length: node.size(),
        one: false,
        context,
    };
    let rest = node.size() - 2 * u64::from(CHUNK);
    let expected = [(CHUNK.into(), 0), (CHUNK.into(), 1), (rest, 0)];
    let expected = expected.map(|(length, status)| Extent { length, status });
    assert_eq!(
        node.run(status(1)).unwrap(),
        Answer::Extents(expected.into())
    );
    let Ok(Answer::Extents(extents)) = node.run(status(0)) else {
        panic!("no extents")
    };
    assert_eq!(
        extents.iter().map(|extent| extent.length).sum::<u64>(),
        node.size()
    );
    node.stop();
}

#[test]
fn requests_outside_and_after_the_end_are_errors() {
    let rig = Rig::new();
    rig.create();
    let node = rig.start("one");
    let beyond = Command::Write {
        offset: node.size() - 1,
        data: Bytes::from_static(b"xx"),
        fua: false,
    };
    assert_eq!(node.run(beyond).unwrap_err().errno, Errno::ENOSPC);
    let mirror = std::sync::Arc::clone(&node.mirror);
    node.stop();
    assert!(
        mirror.stop(Duration::from_secs(5)),
        "stopping twice is no harm"
    );
}

//! A disk that answers with errors: what is repaired, what the application is told, and when the disk is given up.

use nbd_protocol::command::{Command, Errno};
use netraid::raid1::engine::IoErrors;
use netraid::raid1::leg::{LegState, Slot};

use crate::rig::{Node, Rig};

const MIB: u64 = 1 << 20;

fn errors(node: &Node) -> IoErrors {
    let slot = Slot::new(0).unwrap();
    node.mirror.view(|view| view.engine.io_errors(slot))
}

fn write(offset: u64, value: u8) -> Command {
    let data = bytes::Bytes::from(vec![value; 4096]);
    let fua = false;
    Command::Write { offset, data, fua }
}

#[test]
fn what_the_local_disk_fails_to_read_comes_from_the_target_and_is_repaired_until_it_fails_too_often()
 {
    let rig = Rig::new();
    rig.create();
    let node = rig.start("one");
    let (_server, _) = rig.serve("two");
    node.extend(&rig, 1, "two");
    for block in 0..20 {
        node.write(5 * MIB + block * 4096, 4096, 0x77);
    }
    node.disk.fail_reads();
    assert_eq!(node.read(5 * MIB, 4096), vec![0x77; 4096]);
    node.wait_for("the repair", || {
        (errors(&node).repaired == 4096).then_some(())
    });
    assert_eq!(errors(&node).failed, 0);
    assert_eq!(node.state(0), LegState::InSync, "it could be written");
    for block in 0..20 {
        assert_eq!(node.read(5 * MIB + block * 4096, 4096), vec![0x77; 4096]);
    }
    assert_eq!(node.state(0), LegState::Absent);
    let reason = node.reason(0);
    assert!(reason.contains("failed too often"), "{reason}");
    node.write(6 * MIB, 4096, 0x78);
    assert_eq!(node.read(6 * MIB, 4096), vec![0x78; 4096]);
    node.stop();
}

#[test]
fn a_failed_write_is_told_to_the_application_and_written_again_when_the_disk_takes_it() {
    let mut rig = Rig::new();
    rig.settings.pass_through = true;
    rig.settings.io_error_limit = 0;
    rig.create();
    let node = rig.start("one");
    let (_server, _) = rig.serve("two");
    node.extend(&rig, 1, "two");
    node.write(MIB, 4096, 1);
    node.disk.fail_data_writes();
    let failure = node.run(write(MIB, 2)).unwrap_err();
    assert_eq!(failure.errno, Errno::EIO);
    assert_eq!(node.state(0), LegState::InSync, "the disk is kept");
    // What the target has got is what is read, always: nobody knows what the disk has.
    for _ in 0..20 {
        assert_eq!(node.read(MIB, 4096), vec![2; 4096]);
    }
    assert_eq!((errors(&node).passed, errors(&node).failed), (1, 4096));
    node.disk.work();
    node.wait_for("the repair", || (errors(&node).failed == 0).then_some(()));
    node.wait_for_no_dirty_bit();
    assert_eq!(node.read(MIB, 4096), vec![2; 4096]);
    node.stop();
    assert!(rig.data("one") == rig.data("two"));
}

#[test]
fn a_disk_that_fails_its_metadata_is_given_up_whatever_is_configured() {
    let mut rig = Rig::new();
    rig.settings.pass_through = true;
    rig.create();
    let node = rig.start("one");
    let (_server, _) = rig.serve("two");
    node.extend(&rig, 1, "two");
    node.wait_for_no_dirty_bit();
    node.disk.fail_writes();
    node.write(MIB, 4096, 3);
    assert_eq!(node.state(0), LegState::Absent);
    assert!(node.reason(0).contains("metadata"), "{}", node.reason(0));
    assert_eq!(node.read(MIB, 4096), vec![3; 4096]);
    node.stop();
}

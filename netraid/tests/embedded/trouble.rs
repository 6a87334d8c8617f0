//! The process that runs the mirror is killed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use nbd_protocol::command::Command;
use netraid::array::{Backend, Part};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;

use crate::rig::{DISK, PATIENCE, Rig, write};

#[test]
fn a_mirror_that_is_killed_while_it_is_written_is_started_again_and_resynced_in_part() {
    let rig = Rig::new(2);
    let _two = rig.serve("two");
    let mut mirror = rig.start("one");
    mirror.array.add(&rig.leg("two")).unwrap();
    mirror.wait_for_part("two", Part::InSync);
    mirror.wait_for_few_bits();
    let application = mirror.open();
    write(&application, 0, 1 << 20, 1);
    let control = netraid::control::socket_path(&rig.backend("one").run_dir, "data");
    let stream = std::os::unix::net::UnixStream::connect(control).unwrap();
    let process = getsockopt(&stream, PeerCredentials).unwrap().pid();
    let answered = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0_u64.. {
                let data = Bytes::from(vec![round as u8; 4096]);
                let offset = (round * 4096) % (2 << 20);
                let command = Command::Write {
                    offset,
                    data,
                    fua: false,
                };
                if application.run(command, PATIENCE).is_err() {
                    return;
                }
                answered.store(round > 20, Ordering::Relaxed);
            }
        });
        while !answered.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
    });
    // The watcher hears of it.
    while mirror.watch.next(PATIENCE).is_ok() {}
    assert!(rig.backend("one").find("data").unwrap().is_none());

    let mut mirror = rig.start("one");
    let added = mirror.array.add(&rig.leg("two")).unwrap();
    assert!(!added.full && added.merged_bytes > 0, "{added:?}");
    assert!(added.dirty_bytes < DISK / 2, "{added:?}");
    mirror.wait_for_part("two", Part::InSync);
    mirror.stop();
    rig.legs_are_equal();
}

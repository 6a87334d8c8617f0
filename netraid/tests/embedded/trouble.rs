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

#[test]
fn a_leg_that_does_not_answer_is_out_after_its_time_and_the_application_goes_on() {
    let rig = Rig::new(2);
    let (server, switch) = rig.serve_behind_a_switch("two");
    let mut mirror = rig.start("one");
    mirror.array.add(&rig.leg("two")).unwrap();
    mirror.wait_for_part("two", Part::InSync);
    let application = mirror.open();
    switch.hold_writes();
    // Answered once the leg is out, and not before its time.
    write(&application, 0, 4096, 1);
    let out = mirror.wait_for_part("two", Part::Out);
    assert_eq!(out.reason.as_deref(), Some("did not answer in time"));
    switch.work();
    assert_eq!(mirror.node("two").state, Part::Out);
    assert!(!mirror.array.add(&rig.leg("two")).unwrap().full);
    mirror.wait_for_part("two", Part::InSync);
    application.close();
    drop(application);
    mirror.stop();
    drop(server);
    rig.legs_are_equal();
}

#[test]
fn a_watcher_that_never_reads_keeps_nobody_waiting() {
    let rig = Rig::new(2);
    let _two = rig.serve("two");
    let mut mirror = rig.start("one");
    let order = netraid::control::Order::Watch;
    let silent = netraid::control::open(&rig.backend("one").run_dir, "data", &order).unwrap();
    for _ in 0..40 {
        mirror.array.add(&rig.leg("two")).unwrap();
        mirror.array.remove("two").unwrap();
        mirror.wait_for_part("two", Part::Out);
    }
    mirror.array.add(&rig.leg("two")).unwrap();
    mirror.wait_for_part("two", Part::InSync);
    mirror.stop();
    drop(silent);
    rig.legs_are_equal();
}

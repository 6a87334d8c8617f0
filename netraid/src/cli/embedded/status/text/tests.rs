//! Tests of the text that people read.

use super::*;
use crate::status::{ResyncEnd, SCHEMA};

fn leg(slot: usize, node: &str, status: &str, disk: &str) -> LegStatus {
    LegStatus {
        slot,
        node: node.into(),
        local: slot == 0,
        location: String::new(),
        status: status.into(),
        disk: disk.into(),
        reason: None,
        missing_bytes: 0,
        no_digests: None,
        behind_bytes: None,
        left_behind: false,
        differing_bytes: 0,
        io_errors: 0,
        repaired_bytes: 0,
        failed_bytes: 0,
        damaged: 0,
    }
}

fn status() -> Status {
    Status {
        schema: SCHEMA.into(),
        tag: "disk1".into(),
        node: "server1".into(),
        uris: vec!["nbd+unix:///disk1?socket=/run/m.sock".into()],
        backend: "embedded".into(),
        array_uuid: "0:0:0:0".into(),
        size: 1 << 30,
        chunk: 1 << 18,
        chunks: 4096,
        dirty_chunks: 0,
        dirty_bytes: 0,
        events: 7,
        array_state: "clean".into(),
        generation: "1".into(),
        halted: None,
        legs: vec![
            leg(0, "server1", word::SOURCE, "UpToDate"),
            leg(1, "server2", word::TARGET, "UpToDate"),
        ],
        resync: None,
        last_resync: None,
        verify: None,
    }
}

#[test]
fn a_healthy_mirror_has_a_line_a_leg() {
    let page = mirror(&status(), false);
    let expected = "disk1: 1 GiB on server1, in sync\n  \
        server1  Source  UpToDate\n  \
        server2  Target  UpToDate\n  \
        dirty: 0 bytes in 0 of 4096 chunks of 256 KiB; superblocks clean, events 7\n  \
        nbd+unix:///disk1?socket=/run/m.sock\n";
    assert_eq!(page, expected);
    assert!(mirror(&status(), true).contains("\x1b[32min sync"));
}

#[test]
fn a_resync_shows_how_far_it_is_and_why_it_had_to_be() {
    let mut status = status();
    status.legs[1] = LegStatus {
        reason: Some("connection lost\n".into()),
        ..leg(1, "s2", word::RESYNCING, "Inconsistent")
    };
    status.resync = Some(ResyncStatus {
        copied: 45 << 20,
        sent: 40 << 20,
        compared: 0,
        equal: 0,
        left: 55 << 20,
        percent: 45.0,
        speed: 10 << 20,
        time_left_ms: Some(5_500),
        paused: false,
        ..ResyncStatus::default()
    });
    let page = mirror(&status, false);
    let expected = "disk1: 1 GiB on server1, degraded\n  \
        server1  Source     UpToDate\n  \
        s2       Resyncing  Inconsistent  [#########...........]  45.0 %  10 MiB/s, 5.5 s left\n           \
        connection lost\\n\n  \
        dirty: ";
    assert!(page.starts_with(expected), "{page}");
    status.resync = status.resync.map(|resync| ResyncStatus {
        paused: true,
        percent: f64::NAN,
        ..resync
    });
    assert!(mirror(&status, false).contains("paused"));
}

#[test]
fn the_last_resync_and_a_halt_are_told() {
    let mut status = status();
    status.halted = Some("the local disk failed".into());
    status.last_resync = Some(ResyncEnd {
        number: 1,
        copied: 3 << 20,
        sent: 2 << 20,
        compared: 0,
        equal: 0,
        elapsed_ms: 1500,
    });
    let page = mirror(&status, false);
    assert!(
        page.contains("server1, unusable\n  takes no writes: the local disk failed\n"),
        "{page}"
    );
    assert!(
        page.contains("last resync: 3 MiB made equal in 1.5 s, 2 MiB of it sent"),
        "{page}"
    );
}

#[test]
fn a_mirror_is_healthy_only_with_two_legs_in_sync() {
    let mut status = status();
    assert_eq!(health::of(&status), Health::Healthy);
    status.legs[1].disk = "Outdated".into();
    assert_eq!(health::of(&status), Health::Degraded);
    status.legs.pop();
    assert_eq!(health::of(&status), Health::Degraded);
    status.legs[0].status = word::UNKNOWN.into();
    assert_eq!(health::of(&status), Health::Unusable);
}

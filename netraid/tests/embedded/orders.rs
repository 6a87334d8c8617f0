//! Every order, and what is refused.

use std::time::Duration;

use netraid::array::{ArrayError, Backend, Event, NewLeg, Part, Speed, Start};

use crate::rig::{CHUNK, DISK, Rig, write};

fn refused(error: ArrayError, with: &str) {
    assert!(matches!(error, ArrayError::Refused { .. }), "{error}");
    assert!(error.to_string().contains(with), "{error}");
}

#[test]
fn legs_are_added_lost_taken_back_removed_and_copied_anew_and_are_equal_in_the_end() {
    let rig = Rig::new(3);
    let (two, _three) = (rig.serve("two"), rig.serve("three"));
    let mut mirror = rig.start("one");
    assert_eq!(
        mirror.watch.next(Duration::from_secs(10)).unwrap()[0],
        Event::Watching
    );
    let application = mirror.open();
    write(&application, 0, 1 << 20, 1);
    for name in ["two", "three"] {
        let added = mirror.array.add(&rig.leg(name)).unwrap();
        assert!(added.full && added.rule == "new leg", "{added:?}");
        assert_eq!(
            added.dirty_bytes,
            mirror.array.status().unwrap().status.size
        );
        mirror.wait_for_part(name, Part::InSync);
    }
    mirror.wait_for_few_bits();
    // Its bit takes the dropped ones along to the disks.
    write(&application, 3 << 20, 4096, 1);
    refused(mirror.array.add(&rig.leg("two")).unwrap_err(), "already");
    refused(mirror.array.add(&rig.leg("one")).unwrap_err(), "this node");

    // The server of a leg dies: it is out, and stays out though the server comes back.
    drop(two);
    let _two = rig.serve("two");
    let out = mirror.wait_for_part("two", Part::Out);
    assert!(out.reason.is_some(), "{out:?}");
    write(&application, 5 << 20, 4096, 2);
    let minted = mirror.wait_for("the new generation", |event| {
        matches!(event, Event::Minted(_))
    });
    let Event::Minted(ids) = minted else {
        unreachable!()
    };
    let generations = ids.generations().unwrap();
    assert_ne!(generations.away[1].0, 0, "{generations:?}");
    assert_eq!(generations.away[2].0, 0, "{generations:?}");
    for event in mirror.watch.next(Duration::from_secs(2)).unwrap() {
        let of_two = matches!(&event, Event::Node(node) if node.node == "two");
        assert!(!of_two, "nobody ordered {event:?}");
    }
    assert_eq!(mirror.node("two").state, Part::Out);
    assert_eq!(mirror.node("three").state, Part::InSync);
    let added = mirror.array.add(&rig.leg("two")).unwrap();
    assert!(!added.full && added.rule == "was away", "{added:?}");
    assert!(added.dirty_bytes < DISK / 4, "{added:?}");
    mirror.wait_for_part("two", Part::InSync);

    // On order.
    mirror.array.remove("three").unwrap();
    let out = mirror.wait_for_part("three", Part::Out);
    assert_eq!(out.reason.as_deref(), Some("removed on order"));
    refused(mirror.array.remove("three").unwrap_err(), "no leg");
    refused(mirror.array.remove("one").unwrap_err(), "this node");
    refused(mirror.array.remove("four").unwrap_err(), "not one of");
    write(&application, 7 << 20, 4096, 3);
    assert!(!mirror.array.add(&rig.leg("three")).unwrap().full);
    mirror.wait_for_part("three", Part::InSync);
    let added = mirror.array.full_resync("two").unwrap();
    assert!(added.full, "{added:?}");
    mirror.wait_for_part("two", Part::InSync);

    // It is found by whoever starts anew, and is told all that lasts.
    let found = rig.backend("one").find("data").unwrap().unwrap();
    let status = found.status().unwrap();
    assert!(
        status.nodes.iter().all(|node| node.state == Part::InSync),
        "{status:?}"
    );
    let events = {
        let mut watch = found.watch().unwrap();
        let mut events = Vec::new();
        while !events
            .iter()
            .any(|event| matches!(event, Event::State { .. }))
        {
            events.extend(watch.next(Duration::from_secs(10)).unwrap());
        }
        events
    };
    assert_eq!(events[0], Event::Watching);
    let nodes = events
        .iter()
        .filter(|event| matches!(event, Event::Node(_)));
    assert_eq!(nodes.count(), 3, "{events:?}");

    refused(found.stop().unwrap_err(), "in use by 1 connection");
    write(&application, 9 << 20, 4096, 4);
    application.close();
    drop(application);
    mirror.stop();
    assert!(rig.backend("one").find("data").unwrap().is_none());
    rig.legs_are_equal();
    assert_eq!(rig.data("two")[9 << 20], 4);
}

#[test]
fn a_disk_that_holds_something_else_is_overwritten_only_by_force() {
    use std::os::unix::fs::FileExt;
    let rig = Rig::new(2);
    let disk = std::fs::OpenOptions::new()
        .write(true)
        .open(rig.disk("two"))
        .unwrap();
    disk.write_all_at(&[0x53, 0xef], 1024 + 0x38).unwrap();
    let _two = rig.serve("two");
    let mut mirror = rig.start("one");
    refused(
        mirror.array.add(&rig.leg("two")).unwrap_err(),
        "file system",
    );
    let leg = NewLeg {
        force: true,
        ..rig.leg("two")
    };
    assert!(mirror.array.add(&leg).unwrap().full);
    mirror.wait_for_part("two", Part::InSync);
    mirror.stop();
    rig.legs_are_equal();
}

#[test]
fn a_leg_that_was_written_alone_is_taken_only_when_its_writes_are_discarded() {
    let rig = Rig::new(2);
    let served = rig.serve("two");
    let mut mirror = rig.start("one");
    mirror.array.add(&rig.leg("two")).unwrap();
    mirror.wait_for_part("two", Part::InSync);
    mirror.wait_for_few_bits();
    let application = mirror.open();
    write(&application, 0, 1 << 20, 1);
    mirror.array.remove("two").unwrap();
    write(&application, 1 << 20, 4096, 2);
    application.close();
    drop(application);
    mirror.stop();
    drop(served);
    // The other side, alone as well.
    let alone = rig.start("two");
    let application = alone.open();
    write(&application, 2 << 20, 4096, 3);
    application.close();
    drop(application);
    alone.stop();

    let _two = rig.serve("two");
    let mut mirror = rig.start("one");
    refused(
        mirror.array.add(&rig.leg("two")).unwrap_err(),
        "split brain",
    );
    assert_eq!(mirror.node("two").state, Part::Out);
    let leg = NewLeg {
        discard: true,
        ..rig.leg("two")
    };
    let added = mirror.array.add(&leg).unwrap();
    assert!(
        !added.full && added.rule == "both written alone",
        "{added:?}"
    );
    assert!(added.merged_bytes >= u64::from(CHUNK), "{added:?}");
    mirror.wait_for_part("two", Part::InSync);
    mirror.stop();
    rig.legs_are_equal();
    let data = rig.data("two");
    assert_eq!((data[1 << 20], data[2 << 20]), (2, 0));
}

#[test]
fn what_a_mirror_that_runs_is_not_is_refused() {
    let rig = Rig::new(2);
    let mirror = rig.start("one");
    let start = Start {
        tag: "data".into(),
        disk: rig.disk("two"),
        force: false,
        new_generation: false,
        speed: Speed::default(),
        async_limit: None,
        compare: true,
        streams: netraid::array::Streams::default(),
        care: netraid::array::Care::default(),
    };
    let error = rig.backend("one").start(&start).err().unwrap();
    refused(error, "runs already, on disk");
    let start = Start {
        async_limit: Some(7),
        streams: netraid::array::Streams::default(),
        care: netraid::array::Care::default(),
        ..start
    };
    let error = rig.backend("two").start(&start).err().unwrap();
    refused(error, "asynchronous");
    // A target that nobody serves is told in time, and shows in the status.
    let error = mirror.array.add(&rig.leg("two")).unwrap_err();
    assert!(matches!(error, ArrayError::Failed(_)), "{error}");
    assert!(error.to_string().contains("can't be reached"), "{error}");
    let reason = mirror.node("two").reason.unwrap();
    assert!(reason.contains("can't be reached"), "{reason}");
    mirror.stop();
}

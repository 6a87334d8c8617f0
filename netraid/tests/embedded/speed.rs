//! Bounds of the resync's speed, and its progress as it is told.

use std::time::{Duration, Instant};

use netraid::array::{Event, Part, Speed};

use crate::rig::Rig;

#[test]
fn a_resync_keeps_to_its_bound_and_tells_how_far_it_is() {
    let rig = Rig::new(2);
    let _two = rig.serve("two");
    let bound = Speed {
        most: Some(4096),
        least: Some(16),
        control: None,
    };
    let mut mirror = rig.start_with("one", bound);
    let status = mirror.array.status().unwrap();
    assert_eq!(
        (status.speed_limit, status.speed_limit_min),
        (Some(4096), Some(16))
    );
    let began = Instant::now();
    mirror.array.add(&rig.leg("two")).unwrap();
    mirror.wait_for_part("two", Part::InSync);
    let took = began.elapsed();
    // Of 15 MiB, what a second allows may have been saved up.
    assert!(took >= Duration::from_millis(2500), "{took:?}");
    let percents: Vec<u8> = mirror
        .told
        .iter()
        .filter_map(|event| match event {
            Event::Node(node) if node.state == Part::Resyncing => node.percent,
            _ => None,
        })
        .collect();
    assert!(percents.len() >= 4 && percents.is_sorted(), "{percents:?}");
    let most = 4 * (took.as_secs() as usize + 1) + 4;
    assert!(percents.len() <= most, "{} in {took:?}", percents.len());

    // Lifted while one is under way.
    mirror
        .array
        .set_speed(Speed {
            most: Some(256),
            least: None,
            control: None,
        })
        .unwrap();
    mirror.array.full_resync("two").unwrap();
    let speed = Speed {
        most: Some(1 << 20),
        least: None,
        control: None,
    };
    mirror.array.set_speed(speed).unwrap();
    let began = Instant::now();
    mirror.wait_for_part("two", Part::InSync);
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    let status = mirror.array.status().unwrap();
    assert_eq!(
        (status.speed_limit, status.speed_limit_min),
        (Some(1 << 20), Some(16))
    );
    mirror.stop();
    rig.legs_are_equal();
}

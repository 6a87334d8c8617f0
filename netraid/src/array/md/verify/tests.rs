//! What is compared, and what is counted of what was found.

use super::*;

fn request(start: u64, stop: Option<u64>) -> VerifyRequest {
    VerifyRequest {
        nodes: Vec::new(),
        start,
        stop,
        rate: 0,
        repair: false,
    }
}

#[test]
fn whole_units_of_what_there_is_are_compared() {
    let size = 10 * UNIT + 512;
    assert_eq!(range(&request(0, None), size).unwrap(), 0..size);
    assert_eq!(
        range(&request(5000, Some(9000)), size).unwrap(),
        UNIT..3 * UNIT
    );
    assert_eq!(range(&request(0, Some(u64::MAX)), size).unwrap(), 0..size);
    for start in [size, u64::MAX] {
        let error = range(&request(start, None), size).unwrap_err();
        assert!(error.to_string().contains("nothing from byte"), "{error}");
    }
}

#[test]
fn what_was_found_is_counted_by_target_and_neighbours_are_one_run() {
    let mut found = Found {
        status: VerifyStatus {
            number: 1,
            state: RUNNING.into(),
            why: None,
            targets: vec!["b".into(), "c".into()],
            start: 0,
            stop: 1 << 30,
            position: 0,
            checked: 0,
            percent: 0.0,
            speed: 0,
            rate: 0,
            differing: 0,
            differences: Vec::new(),
            more_differences: false,
            repair: true,
            began_ms: 0,
            ended_ms: None,
            elapsed_ms: 0,
        },
        began: Instant::now(),
        differing: vec![0; 2],
        chunks: Some((DirtyBits::all_clean(16), 1 << 26)),
    };
    let mut differs = |target, range| found.hear(News::Differs { target, range });
    differs(0, 0..UNIT);
    differs(0, UNIT..3 * UNIT);
    differs(1, 3 * UNIT..4 * UNIT);
    differs(0, (1 << 26) - UNIT..(1 << 26) + UNIT);
    assert_eq!(found.differing, [5 * UNIT, UNIT]);
    assert_eq!(found.status.differing, 6 * UNIT);
    let told = |n: usize| {
        let run: &VerifyDifference = &found.status.differences[n];
        (run.node.as_str(), run.offset, run.length)
    };
    assert_eq!(found.status.differences.len(), 3);
    assert_eq!(
        (told(0), told(1)),
        (("b", 0, 3 * UNIT), ("c", 3 * UNIT, UNIT))
    );
    let chunks = found.chunks.as_ref().unwrap();
    assert_eq!(chunks.0.ranges().next(), Some(0..2));
    assert_eq!(chunks.0.count(), 2);
    for n in 0..2 * MOST_DIFFERENCES as u64 {
        let at = (100 + 2 * n) * UNIT;
        found.hear(News::Differs {
            target: 0,
            range: at..at + UNIT,
        });
    }
    assert_eq!(found.status.differences.len(), MOST_DIFFERENCES);
    assert!(found.status.more_differences);
    found.hear(News::Looked {
        position: 1 << 29,
        bytes: 1 << 29,
    });
    assert!((found.status.percent - 50.0).abs() < 1e-9);
}

//! A leg whose send buffer is congested is left behind: it gets what is on its way, and nothing more until it is taken back.

use super::*;

const ABOVE: u64 = 4 * CHUNK;

fn ahead() -> Bench {
    let settings = Settings {
        asynchronous: [slot(REMOTE)].into_iter().collect(),
        on_congestion: OnCongestion::PullAhead(ABOVE),
        ..Settings::default()
    };
    Bench::whole_with(SHAPE, settings)
}

/// Writes chunk after chunk, which the local leg alone has at once, until the other is left behind; how many were written.
fn congest(bench: &mut Bench) -> u64 {
    for count in 1..20 {
        bench.write(1000 + bench.now + count, count % CHUNKS);
        while let Some(name) = bench
            .pending()
            .into_iter()
            .find(|name| name.ends_with(" 0"))
        {
            bench.succeed(&name);
        }
        if bench.engine.is_behind(slot(REMOTE)) {
            return count;
        }
    }
    panic!("never congested");
}

#[test]
fn a_leg_that_is_left_behind_gets_what_is_on_its_way_in_order_and_a_flush_and_nothing_more() {
    let mut bench = ahead();
    let before = bench.engine.generations().current;
    let count = congest(&mut bench);
    assert!(count <= ABOVE / CHUNK, "{count}");
    assert_eq!(
        (bench.state(REMOTE), bench.expelled.len()),
        (LegState::Absent, 0)
    );
    assert!(
        bench.reason(REMOTE).contains("pull-ahead"),
        "{}",
        bench.reason(REMOTE)
    );
    let on_the_way: Vec<String> = bench.pending();
    assert_eq!(on_the_way.last().map(String::as_str), Some("flush 1"));
    assert!(on_the_way.iter().all(|name| name.ends_with(" 1")));
    bench.write(1, 7);
    while let Some(name) = bench
        .pending()
        .into_iter()
        .find(|name| name.ends_with(" 0"))
    {
        bench.succeed(&name);
    }
    assert!(bench.succeeded(1), "nobody waits for it");
    assert_ne!(bench.engine.generations().current, before);
    assert_eq!(bench.pending(), on_the_way);
    // Not while something is on its way, however long that takes.
    bench.hang(9_000);
    assert!(bench.expelled.is_empty());
    bench.finish();
    bench.pass(2_000);
    assert_eq!(bench.expelled.len(), 1);
    assert!(
        bench.expelled[0].1.starts_with("was behind"),
        "{:?}",
        bench.expelled
    );
    assert!(!bench.engine.is_behind(slot(REMOTE)));
    bench.attach_again(REMOTE);
    bench.finish();
    assert_eq!(bench.state(REMOTE), LegState::InSync);
    assert_eq!(bench.engine.resync_totals().copied, (count + 1) * CHUNK);
}

#[test]
fn a_leg_that_is_congested_again_soon_is_left_behind_for_longer() {
    let mut bench = ahead();
    for wanted in [1_000, 2_000, 4_000] {
        congest(&mut bench);
        let (since, before) = (bench.now, bench.expelled.len());
        bench.finish();
        while bench.expelled.len() == before {
            bench.pass(500);
            assert!(bench.now < since + 10_000);
        }
        let time = bench.now - since;
        assert!(
            (wanted..wanted + 1_000).contains(&time),
            "{time}, not {wanted}"
        );
        bench.attach_again(REMOTE);
        bench.finish();
        bench.pass(20_000);
        assert_eq!(bench.state(REMOTE), LegState::InSync);
    }
}

#[test]
fn a_leg_that_fails_or_is_lost_while_it_is_behind_is_away_like_any_other() {
    for fails in [true, false] {
        let mut bench = ahead();
        congest(&mut bench);
        match fails {
            true => bench.end("data 1", eio("no room")),
            false => bench.lose(REMOTE),
        }
        assert_eq!(bench.expelled.len(), 1, "{:?}", bench.expelled);
        assert!(!bench.engine.is_behind(slot(REMOTE)));
    }
}

//! How fast resyncs are, and whose comes after whose.

use super::*;
use crate::array::Speed;
use crate::raid1::engine::Control;

fn resyncs(backend: &str, lines: &str) -> Result<Resyncs, String> {
    let text = format!("tag = \"a\"\nnumber = 0\nbackend = \"{backend}\"\n{lines}\n{NODES}");
    match read(&[("a.toml", &text)]) {
        Ok(config) => Ok(config.mirrors[&Tag::new("a").unwrap()].resyncs.clone()),
        Err(problems) => Err(problems.to_string()),
    }
}

#[test]
fn rates_are_those_of_the_keys_then_those_of_datakeeper() {
    let speed = |backend: &str, lines: &str| {
        let Speed {
            most,
            least,
            control,
        } = resyncs(backend, lines)
            .unwrap()
            .speed(&Parameters::default());
        (most.unwrap(), least.unwrap(), control.unwrap())
    };
    let usual = Control::default();
    assert_eq!(speed("embedded", ""), (500_000, 20_000, usual));
    assert_eq!(speed("md", ""), (500_000, 20_000, Control::OFF));
    assert_eq!(
        speed("embedded", "c-max-rate = 1000"),
        (1000, 1000, usual),
        "the bound that is written counts"
    );
    assert_eq!(
        speed("md", "c-min-rate = 600000"),
        (600_000, 600_000, Control::OFF)
    );
    assert_eq!(
        speed("md", "c-min-rate = 5\nc-max-rate = 7"),
        (7, 5, Control::OFF)
    );
    let fixed = (300, 300, Control::OFF);
    assert_eq!(speed("md", "resync-rate = 300"), fixed);
    assert_eq!(speed("embedded", "resync-rate = 300"), fixed);
    let off = "resync-rate = 300\nc-plan-ahead = 0";
    assert_eq!(speed("embedded", off), fixed);
    let all = "resync-rate = 300\nc-plan-ahead = 5\nc-fill-target = 65536\nc-delay-target = 2";
    let control = Control {
        plan_ahead: 500,
        fill_target: 65536,
        delay_target: 200,
        start: 300 << 10,
    };
    assert_eq!(speed("embedded", all), (500_000, 20_000, control));
}

#[test]
fn what_has_no_meaning_together_is_refused_by_name() {
    let table = [
        (
            "md",
            "c-plan-ahead = 20",
            "c-plan-ahead has no meaning for the kernel's RAID1",
        ),
        (
            "md",
            "c-fill-target = 0",
            "c-fill-target has no meaning for the kernel's RAID1",
        ),
        (
            "md",
            "c-delay-target = 5",
            "write c-max-rate and c-min-rate, or backend = \"embedded\"",
        ),
        (
            "md",
            "resync-rate = 5\nc-max-rate = 5",
            "5:14: c-max-rate has no meaning beside resync-rate",
        ),
        (
            "embedded",
            "c-plan-ahead = 0\nresync-rate = 5\nc-min-rate = 5",
            "c-min-rate has no meaning beside resync-rate",
        ),
        (
            "embedded",
            "c-plan-ahead = 0",
            "c-plan-ahead 0 is for a fixed rate, and resync-rate is missing",
        ),
        (
            "embedded",
            "c-plan-ahead = 0\nresync-rate = 5\nc-delay-target = 5",
            "c-delay-target has no meaning with c-plan-ahead = 0",
        ),
        (
            "embedded",
            "c-min-rate = 6\nc-max-rate = 5",
            "c-min-rate 6 is more than c-max-rate; write at most 5",
        ),
        (
            "md",
            "c-min-rate = 0",
            "c-min-rate is out of range, a whole number from 1 to 2147483647 is needed",
        ),
        (
            "md",
            "resync-after = \"a/b\"",
            "resync-after \"a/b\" is no tag of a mirror",
        ),
    ];
    for (backend, lines, words) in table {
        let problem = resyncs(backend, lines).unwrap_err();
        assert!(problem.contains(words), "{lines}: {problem}");
    }
}

#[test]
fn resyncs_wait_for_mirrors_that_are_there_and_never_in_a_circle() {
    let read_all = |order: &[(&str, &str)]| {
        let texts: Vec<(String, String)> = order
            .iter()
            .enumerate()
            .map(|(number, (tag, after))| {
                let line = match *after {
                    "" => String::new(),
                    after => format!("resync-after = \"{after}\"\n"),
                };
                let disks = NODES.replace("/dev/b", &format!("/dev/{tag}"));
                (
                    format!("{tag}.toml"),
                    mirror(tag, number as u8, &format!("{line}{disks}")),
                )
            })
            .collect();
        let files: Vec<(&str, &str)> = texts
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        read(&files).map_err(|problems| problems.to_string())
    };
    let config = read_all(&[("a", ""), ("b", "a"), ("c", "a")]).unwrap();
    let after = |tag: &str| {
        config.mirrors[&Tag::new(tag).unwrap()]
            .resyncs
            .after
            .clone()
    };
    assert_eq!(
        (after("a"), after("b")),
        (None, Some(Tag::new("a").unwrap()))
    );
    for (order, words) in [
        (
            [("a", ""), ("b", "gone"), ("c", "")],
            "resync-after \"gone\" is no mirror; known here are a, b, c",
        ),
        (
            [("a", "a"), ("b", ""), ("c", "")],
            "resync-after goes round in a circle: a -> a",
        ),
        (
            [("a", "b"), ("b", "c"), ("c", "b")],
            "resync-after goes round in a circle: b -> c -> b",
        ),
    ] {
        let problem = read_all(&order).unwrap_err();
        assert!(problem.contains(words), "{problem}");
    }
    let led_in = read_all(&[("a", "b"), ("b", "c"), ("c", "b")]).unwrap_err();
    assert!(!led_in.contains("a.toml"), "{led_in}");
}

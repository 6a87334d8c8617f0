//! What copies and compares: first syncs, resyncs, verifies; how long they take, what crosses the cable, and what the
//! application has meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netraid_lab::Lab;
use serde_json::{Value, json};

use crate::Settings;
use crate::contestants::{Contestant, Kind, Spec, configure, crossed};
use crate::load::{self, Place};
use crate::table::{machine, median, ratio, table, times, write_json};

const MIB: f64 = (1 << 20) as f64;
/// The application writes to so much at the end of the device, in MiB, while something is copied or compared: what it
/// writes needs no copying, and would be counted as copied.
const BUSY: u64 = 32;
/// Looks at a resync under load.
const LOOK: Duration = Duration::from_millis(400);

/// Each of ours beside those of DRBD's that do the same.
const PAIRS: [(&str, &str); 3] = [
    ("embedded", "DRBD csums"),
    ("embedded plain", "DRBD"),
    ("md", "DRBD"),
];

fn specs(settings: &Settings) -> Vec<Spec> {
    let least = settings.min_rate;
    let netraid = |name, tag, backend, lines: &str| Spec {
        name,
        tag,
        kind: Kind::NetRaid {
            backend,
            lines: format!("c-min-rate = {least}\nc-max-rate = 4000000\n{lines}"),
        },
    };
    let drbd = |name, tag, net: &str| Spec {
        name,
        tag,
        kind: Kind::Drbd {
            protocol: 'C',
            net: format!("verify-alg crc32c; {net}"),
            options: format!("c-min-rate {least}k;"),
        },
    };
    let mut all = vec![
        netraid("embedded", "ec", "embedded", "verify-rate = 0"),
        netraid("embedded plain", "en", "embedded", "csums-alg = \"none\""),
        netraid("md", "mc", "md", "verify-rate = 0"),
        drbd("DRBD csums", "ds", "csums-alg crc32c;"),
        drbd("DRBD", "dn", ""),
    ];
    all.retain(|spec| settings.wants(spec.name));
    all
}

/// What a row tells, and in which unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    First,
    FirstBytes,
    One,
    OneBytes,
    Scattered,
    ScatteredBytes,
    Equal,
    EqualBytes,
    Verify,
    VerifyBytes,
    Idle(Depth),
    Verifying(Depth),
    VerifyingP99(Depth),
    Resyncing(Depth),
    ResyncingP99(Depth),
    ResyncRate(Depth),
}

/// How many writes the application has on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Depth {
    One,
    Sixteen,
}

impl Depth {
    const ALL: [Depth; 2] = [Depth::One, Depth::Sixteen];

    fn number(self) -> u32 {
        match self {
            Depth::One => 1,
            Depth::Sixteen => 16,
        }
    }
}

impl Row {
    /// Its name, its unit, and whether more is better.
    fn words(self) -> (String, &'static str, bool) {
        let at = |depth: Depth| format!("random write 4 KiB, depth {}", depth.number());
        let (name, unit, more) = match self {
            Row::First => ("first sync, 90 % empty".to_owned(), "MiB/s", true),
            Row::FirstBytes => ("first sync, 90 % empty: crossed".to_owned(), "%", false),
            Row::One => ("resync of 1 % in one piece".to_owned(), "ms", false),
            Row::OneBytes => ("resync of 1 % in one piece: crossed".to_owned(), "%", false),
            Row::Scattered => ("resync of 1 % in pieces of 4 KiB".to_owned(), "ms", false),
            Row::ScatteredBytes => (
                "resync of 1 % in pieces of 4 KiB: crossed".to_owned(),
                "%",
                false,
            ),
            Row::Equal => ("resync of equal data".to_owned(), "MiB/s", true),
            Row::EqualBytes => ("resync of equal data: crossed".to_owned(), "%", false),
            Row::Verify => ("verify".to_owned(), "MiB/s", true),
            Row::VerifyBytes => ("verify: crossed".to_owned(), "%", false),
            Row::Idle(depth) => (at(depth), "/s", true),
            Row::Verifying(depth) => (format!("{} during verify", at(depth)), "/s", true),
            Row::VerifyingP99(depth) => (format!("{} during verify: p99", at(depth)), "ms", false),
            Row::Resyncing(depth) => (format!("{} during resync", at(depth)), "/s", true),
            Row::ResyncingP99(depth) => (format!("{} during resync: p99", at(depth)), "ms", false),
            Row::ResyncRate(depth) => {
                let name = format!("resync during {}", at(depth));
                (name, "MiB/s", true)
            }
        };
        (name, unit, more)
    }
}

/// What is written while the target gets nothing, and the rows about its resync.
const ONE_PERCENT: [([Row; 2], &str); 2] = [
    (
        [Row::One, Row::OneBytes],
        "--rw=write --bs=64k --iodepth=4 --offset=40% --size=1%",
    ),
    (
        [Row::Scattered, Row::ScatteredBytes],
        "--rw=randwrite --bs=4k --iodepth=16 --io_size=1%",
    ),
];

/// What was seen, by row and by the contestant's place in the list.
type Samples = BTreeMap<Row, Vec<Vec<f64>>>;

struct Book {
    contestants: usize,
    samples: Samples,
}

impl Book {
    fn note(&mut self, row: Row, which: usize, value: f64) {
        let contestants = self.contestants;
        let row = self.samples.entry(row);
        row.or_insert_with(|| vec![Vec::new(); contestants])[which].push(value);
    }
}

pub(crate) fn run(settings: &Settings) -> Result<()> {
    let specs = specs(settings);
    ensure!(
        !specs.is_empty(),
        "no contestant has such a name; there are {PAIRS:?}"
    );
    ensure!(
        settings.size >= 4 * BUSY,
        "--size {}: {} MiB is the least here",
        settings.size,
        4 * BUSY
    );
    let before = machine();
    let mut book = Book {
        contestants: specs.len(),
        samples: Samples::new(),
    };
    for round in 0..settings.rounds {
        // A disk is empty once.
        let lab = Lab::builder()
            .nodes(2)
            .disks(&vec![settings.size; specs.len()])
            .memory(1024)
            .start()?;
        let (_daemons, mut contestants) = configure(&lab, &specs, settings)?;
        for turn in 0..contestants.len() {
            let which = (round + turn) % contestants.len();
            let contestant = &mut contestants[which];
            eprintln!(
                "round {} of {}: {}",
                round + 1,
                settings.rounds,
                contestant.name
            );
            let mut visit = Visit {
                lab: &lab,
                settings,
                which,
                book: &mut book,
            };
            visit
                .all(contestant)
                .with_context(|| contestant.name.to_owned())?;
        }
    }
    let names: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
    let machine = [before, machine()];
    print!("{}", report(&names, &book.samples, settings));
    println!(
        "\nMedians of {} rounds on {} MiB, bitmap chunk {} KiB, c-min-rate {} KiB/s, no upper bound of resyncs, nor of verifies \
         but that of \"embedded plain\", which has no csums-alg and the product's verify-rate of 100 MiB/s; the \
         application writes for {} s to the last {BUSY} MiB. \"crossed\": bytes that the source's card sent and received, of \
         all bytes of the device (resync of 1 %: of these 1 %). A ratio above 1 is in NetRAID's favour. A resync \
         that ends before the load does is begun again, so its speed is at least what is told. \
         {}; at the end {}.",
        settings.rounds,
        settings.size,
        settings.chunk,
        settings.min_rate,
        settings.runtime,
        machine[0],
        machine[1],
    );
    match &settings.json {
        Some(path) => write_json(path, "resync", &machine, all_samples(&names, &book.samples)),
        None => Ok(()),
    }
}

/// One contestant's turn.
struct Visit<'a> {
    lab: &'a Lab,
    settings: &'a Settings,
    which: usize,
    book: &'a mut Book,
}

impl Visit<'_> {
    fn all(&mut self, contestant: &mut Contestant<'_>) -> Result<()> {
        contestant.begin(self.settings.reach)?;
        let contestant = &*contestant;
        let place = contestant.place()?.clone();
        if self.wants(Row::First) || self.wants(Row::FirstBytes) {
            self.write(&place, "--rw=write --bs=1M --iodepth=4 --size=10%")?;
        }
        let (took, bytes) = self.crossed(|| contestant.join())?;
        self.note(Row::First, self.speed(took));
        self.note(Row::FirstBytes, self.share(bytes));
        for (rows, words) in ONE_PERCENT {
            if rows.iter().any(|row| self.wants(*row)) {
                self.one_percent(contestant, &place, rows, words)?;
            }
        }
        if self.wants(Row::Equal) || self.wants(Row::EqualBytes) {
            let (took, bytes) = self.crossed(|| self.copy_all(contestant))?;
            self.note(Row::Equal, self.speed(took));
            self.note(Row::EqualBytes, self.share(bytes));
        }
        if self.wants(Row::Verify) || self.wants(Row::VerifyBytes) {
            let (took, bytes) = self.crossed(|| contestant.verify())?;
            self.note(Row::Verify, self.speed(took));
            self.note(Row::VerifyBytes, self.share(bytes));
        }
        for depth in Depth::ALL {
            let rows = [
                Row::Idle(depth),
                Row::Verifying(depth),
                Row::VerifyingP99(depth),
                Row::Resyncing(depth),
                Row::ResyncingP99(depth),
                Row::ResyncRate(depth),
            ];
            if rows.iter().any(|row| self.wants(*row)) {
                self.under_load(contestant, &place, depth)?;
            }
        }
        Ok(())
    }

    fn one_percent(
        &mut self,
        contestant: &Contestant<'_>,
        place: &Place,
        rows: [Row; 2],
        words: &str,
    ) -> Result<()> {
        contestant.settle()?;
        contestant.pause()?;
        self.write(place, words)?;
        let (took, bytes) = self.crossed(|| {
            let begun = Instant::now();
            contestant.resume()?;
            contestant.wait_in_sync()?;
            Ok(begun.elapsed())
        })?;
        self.note(rows[0], took.as_secs_f64() * 1e3);
        self.note(rows[1], self.share(bytes) * 100.0);
        Ok(())
    }

    fn copy_all(&self, contestant: &Contestant<'_>) -> Result<Duration> {
        let begun = Instant::now();
        contestant.mark_all()?;
        contestant.wait_in_sync()?;
        Ok(begun.elapsed())
    }

    /// The same writes alone, during a verify, and during a resync of everything.
    fn under_load(
        &mut self,
        contestant: &Contestant<'_>,
        place: &Place,
        depth: Depth,
    ) -> Result<()> {
        let words = format!(
            "--rw=randwrite --bs=4k --iodepth={} --offset={}m --size={BUSY}m",
            depth.number(),
            // Metadata takes a little of the disk, on either side of the data.
            self.settings.size - 2 * BUSY
        );
        let source = self.lab.node(1);
        let runtime = self.settings.runtime;
        let idle = load::run(source, place, &words, runtime)?;
        self.note(Row::Idle(depth), idle.requests);

        let writes = load::start(source, place, &words, runtime)?;
        while writes.is_running() {
            contestant.verify()?;
        }
        let seen = writes.finish()?;
        self.note(Row::Verifying(depth), seen.requests);
        self.note(Row::VerifyingP99(depth), seen.p99);

        let writes = load::start(source, place, &words, runtime)?;
        contestant.mark_all()?;
        let begun = Instant::now();
        let mut whole = 0;
        let mut left = 0;
        while writes.is_running() {
            std::thread::sleep(LOOK);
            left = contestant.left()?;
            if left == 0 && contestant.in_sync()? && writes.is_running() {
                // Over before the load is: once more. The pauses in between count against it.
                whole += 1;
                contestant.mark_all()?;
                left = self.settings.size << 20;
            }
        }
        let took = begun.elapsed();
        let seen = writes.finish()?;
        contestant.wait_in_sync()?;
        self.note(Row::Resyncing(depth), seen.requests);
        self.note(Row::ResyncingP99(depth), seen.p99);
        let copied = (whole + 1) as f64 * self.settings.size as f64 - left as f64 / MIB;
        self.note(Row::ResyncRate(depth), copied / took.as_secs_f64());
        Ok(())
    }

    /// Writes so much, and no longer.
    fn write(&self, place: &Place, words: &str) -> Result<()> {
        let line = load::once(place, words);
        self.lab.node(1).must(&line)?;
        Ok(())
    }

    /// What something gives, and the bytes that crossed the source's cable meanwhile.
    fn crossed<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
        let before = crossed(self.lab.node(1))?;
        let given = work()?;
        Ok((given, crossed(self.lab.node(1))? - before))
    }

    fn wants(&self, row: Row) -> bool {
        row.words().0.contains(&self.settings.only)
    }

    fn note(&mut self, row: Row, value: f64) {
        if self.wants(row) {
            self.book.note(row, self.which, value);
        }
    }

    /// MiB/s of all of the device.
    fn speed(&self, took: Duration) -> f64 {
        self.settings.size as f64 / took.as_secs_f64()
    }

    /// Percent of the device.
    fn share(&self, bytes: u64) -> f64 {
        bytes as f64 / MIB / self.settings.size as f64 * 100.0
    }
}

fn report(names: &[&str], samples: &Samples, settings: &Settings) -> String {
    let place = |name: &str| names.iter().position(|each| *each == name);
    let mut heading = vec!["row".to_owned()];
    heading.extend(names.iter().map(|name| (*name).to_owned()));
    let pairs: Vec<(usize, usize)> = PAIRS
        .iter()
        .filter_map(|(one, other)| Some((place(one)?, place(other)?)))
        .collect();
    heading.extend(
        pairs
            .iter()
            .map(|(one, other)| format!("{} : {}", names[*one], names[*other])),
    );
    let mut lines = vec![heading];
    for (row, seen) in samples {
        let (name, unit, more) = row.words();
        let mut line = vec![name];
        line.extend(seen.iter().map(|values| figure(median(values), unit)));
        for (one, other) in &pairs {
            let (one, other) = (&seen[*one], &seen[*other]);
            line.push(times(match more {
                true => ratio(one, other),
                false => ratio(other, one),
            }));
        }
        lines.push(line);
    }
    table(&lines, settings.markdown)
}

fn figure(value: f64, unit: &str) -> String {
    match value {
        value if value.is_nan() => "-".to_owned(),
        value if value < 10.0 => format!("{value:.2} {unit}"),
        value if value < 100.0 => format!("{value:.1} {unit}"),
        value => format!("{value:.0} {unit}"),
    }
}

fn all_samples(names: &[&str], samples: &Samples) -> Value {
    let of = |(row, seen): (&Row, &Vec<Vec<f64>>)| {
        let (name, unit, more) = row.words();
        let contestants: Vec<Value> = names
            .iter()
            .zip(seen)
            .map(|(name, values)| json!({"contestant": name, "samples": values}))
            .collect();
        json!({"row": name, "unit": unit, "more_is_better": more, "contestants": contestants})
    };
    samples.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_is_in_our_favour_whatever_the_unit() {
        let mut samples = Samples::new();
        samples.insert(Row::First, vec![vec![200.0], vec![100.0]]);
        samples.insert(Row::One, vec![vec![200.0], vec![100.0]]);
        let settings = crate::parse(["resync".to_owned()]).unwrap().unwrap();
        let text = report(&["embedded", "DRBD csums"], &samples, &settings);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].starts_with("first sync") && lines[1].ends_with("2.00"),
            "{text}"
        );
        assert!(
            lines[2].contains("200 ms") && lines[2].ends_with("0.50"),
            "{text}"
        );
    }
}

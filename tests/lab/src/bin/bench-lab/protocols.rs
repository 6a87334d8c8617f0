//! Protocols side by side, over cables of several lengths: throughput, and how long a write takes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netraid_lab::Lab;
use serde_json::{Value, json};

use crate::contestants::{Kind, Spec, configure};
use crate::load::{self, Load, Sample};
use crate::table::{machine, median, ratio, table, times, write_json};
use crate::{Reach, Settings};

/// A cable.
struct Network {
    name: &'static str,
    round_trip: Duration,
    /// Of the packets of each direction.
    loss_percent: f32,
}

const NETWORKS: [Network; 5] = [
    Network {
        name: "0 ms",
        round_trip: Duration::ZERO,
        loss_percent: 0.0,
    },
    Network {
        name: "1 ms",
        round_trip: Duration::from_millis(1),
        loss_percent: 0.0,
    },
    Network {
        name: "10 ms",
        round_trip: Duration::from_millis(10),
        loss_percent: 0.0,
    },
    Network {
        name: "50 ms",
        round_trip: Duration::from_millis(50),
        loss_percent: 0.0,
    },
    Network {
        name: "1 % loss",
        round_trip: Duration::ZERO,
        loss_percent: 1.0,
    },
];

const LOADS: [Load; 3] = [
    Load {
        name: "sequential write 1 MiB, depth 4",
        words: "--rw=write --bs=1M --iodepth=4",
    },
    Load {
        name: "random write 4 KiB, depth 1",
        words: "--rw=randwrite --bs=4k --iodepth=1",
    },
    Load {
        name: "random write 4 KiB, depth 16",
        words: "--rw=randwrite --bs=4k --iodepth=16",
    },
];

/// How long a packet and its answer take from the source to the target, in milliseconds: the shortest of some
/// connections that are refused, by the source's clock.
fn measured(lab: &Lab) -> Result<f64> {
    let ip = lab.node(2).ip();
    let times = lab.node(1).must(&format!(
        "exec bash -c 'for n in 1 2 3 4 5 6 7 8 9; do \
         a=${{EPOCHREALTIME/./}}; {{ : 3<>/dev/tcp/{ip}/1; }} 2>/dev/null; b=${{EPOCHREALTIME/./}}; echo $((b - a)); done'"
    ))?;
    let times = times.lines().map(str::parse::<f64>);
    let times = times.collect::<Result<Vec<f64>, _>>().context("no time")?;
    let least = times.into_iter().min_by(f64::total_cmp);
    Ok(least.context("no time")? / 1e3)
}

/// Each of ours beside the one of DRBD's that promises the same.
const PAIRS: [(&str, &str); 5] = [
    ("embedded A", "DRBD A"),
    ("embedded C", "DRBD B"),
    ("embedded C", "DRBD C"),
    ("md C", "DRBD C"),
    ("nbd alone", "DRBD A"),
];

fn specs(settings: &Settings) -> Vec<Spec> {
    let netraid = |name, tag, backend, protocol: &str| Spec {
        name,
        tag,
        kind: Kind::NetRaid {
            backend,
            lines: format!("protocol = \"{protocol}\""),
        },
    };
    let drbd = |name, tag, protocol| Spec {
        name,
        tag,
        kind: Kind::Drbd {
            protocol,
            net: String::new(),
            options: String::new(),
        },
    };
    let mut all = vec![
        netraid("embedded A", "ea", "embedded", "A"),
        netraid("embedded C", "ec", "embedded", "C"),
        netraid("md C", "mc", "md", "C"),
        Spec {
            name: "nbd alone",
            tag: "na",
            kind: Kind::Alone,
        },
        drbd("DRBD A", "da", 'A'),
        drbd("DRBD B", "db", 'B'),
        drbd("DRBD C", "dc", 'C'),
    ];
    all.retain(|spec| settings.wants(spec.name));
    all
}

/// A network, a load, and what was seen of each contestant, by its place in the list; nothing where it lost its target.
struct Row {
    network: usize,
    load: usize,
    samples: Vec<Vec<Option<Sample>>>,
}

pub(crate) fn run(settings: &Settings) -> Result<()> {
    let specs = specs(settings);
    ensure!(
        !specs.is_empty(),
        "no contestant has such a name; there are {PAIRS:?}"
    );
    let before = machine();
    let lab = Lab::builder()
        .nodes(2)
        .disks(&vec![settings.size; specs.len()])
        .memory(1024)
        .start()?;
    let (_daemons, mut contestants) = configure(&lab, &specs, settings)?;
    for contestant in &mut contestants {
        contestant.begin(settings.reach)?;
        let took = contestant.join()?;
        eprintln!("{}: in sync after {took:.1?}", contestant.name);
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut round_trips: Vec<Vec<f64>> = vec![Vec::new(); NETWORKS.len()];
    for round in 0..settings.rounds {
        for (network_number, network) in NETWORKS.iter().enumerate() {
            let wanted = settings.network.is_empty() || network.name == settings.network;
            if !wanted || !LOADS.iter().any(|load| load.name.contains(&settings.only)) {
                continue;
            }
            eprintln!(
                "round {} of {}: {}",
                round + 1,
                settings.rounds,
                network.name
            );
            lab.round_trip(1, 2, network.round_trip)?;
            lab.loss(1, 2, network.loss_percent)?;
            round_trips[network_number].push(measured(&lab)?);
            for (load_number, load) in LOADS.iter().enumerate() {
                if !load.name.contains(&settings.only) {
                    continue;
                }
                let row = rows
                    .iter()
                    .position(|row| (row.network, row.load) == (network_number, load_number));
                let row = row.unwrap_or_else(|| {
                    rows.push(Row {
                        network: network_number,
                        load: load_number,
                        samples: vec![Vec::new(); contestants.len()],
                    });
                    rows.len() - 1
                });
                for turn in 0..contestants.len() {
                    let which = (round + turn) % contestants.len();
                    let contestant = &contestants[which];
                    let sample = load::run(
                        lab.node(1),
                        contestant.place()?,
                        load.words,
                        settings.runtime,
                    );
                    let sample =
                        sample.with_context(|| format!("{}, {}", contestant.name, load.name))?;
                    // Who goes on alone is fast.
                    let kept = contestant.in_sync()?;
                    if !kept {
                        eprintln!("{} lost its target: {}", contestant.name, load.name);
                        contestant.wait_in_sync()?;
                    }
                    rows[row].samples[which].push(kept.then_some(sample));
                }
            }
        }
        lab.round_trip(1, 2, Duration::ZERO)?;
        lab.loss(1, 2, 0.0)?;
    }
    let names: Vec<&str> = contestants.iter().map(|each| each.name).collect();
    let machine = [before, machine()];
    print!("{}", report(&names, &rows, settings.markdown));
    let measured: Vec<String> = NETWORKS
        .iter()
        .zip(&round_trips)
        .filter(|(_, times)| !times.is_empty())
        .map(|(network, times)| format!("{}: {:.2} ms", network.name, median(times)))
        .collect();
    println!("\nRound trips as measured: {}.", measured.join(", "));
    println!(
        "In brackets the milliseconds that half of the writes took at most, and that 99 of 100 did. Medians of {} rounds of \
         {} s, direct I/O by fio on the source, {} MiB, bitmap chunk {} KiB, the embedded engine reached through {}; ratios \
         are medians of each round's ratio of throughputs. Delay and loss are netem's, half of the delay in each direction. \
         {}; at the end {}.",
        settings.rounds,
        settings.runtime,
        settings.size,
        settings.chunk,
        match settings.reach {
            Reach::Kernel => "the kernel's nbd",
            Reach::Fio => "fio's NBD client",
        },
        machine[0],
        machine[1],
    );
    match &settings.json {
        Some(path) => write_json(path, "protocols", &machine, all_samples(&names, &rows)),
        None => Ok(()),
    }
}

/// A table a load: networks down, contestants across.
fn report(names: &[&str], rows: &[Row], markdown: bool) -> String {
    let place = |name: &str| names.iter().position(|each| *each == name);
    let pairs: Vec<(usize, usize)> = PAIRS
        .iter()
        .filter_map(|(one, other)| Some((place(one)?, place(other)?)))
        .collect();
    let mut heading = vec![String::new()];
    heading.extend(names.iter().map(|name| (*name).to_owned()));
    let of = |(one, other): &(usize, usize)| format!("{} : {}", names[*one], names[*other]);
    heading.extend(pairs.iter().map(of));
    let mut text = String::new();
    for (number, load) in LOADS.iter().enumerate() {
        let mut lines = vec![heading.clone()];
        for row in rows.iter().filter(|row| row.load == number) {
            let mut line = vec![NETWORKS[row.network].name.to_owned()];
            line.extend(row.samples.iter().map(|samples| cell(load, samples)));
            line.extend(pairs.iter().map(|(one, other)| {
                let (one, other) = (&row.samples[*one], &row.samples[*other]);
                times(speed_ratio(load, one, other))
            }));
            lines.push(line);
        }
        if lines.len() > 1 {
            text += &format!("{}\n\n{}\n", load.name, table(&lines, markdown));
        }
    }
    text
}

/// Of the rounds in which both kept their targets.
fn speed_ratio(load: &Load, one: &[Option<Sample>], other: &[Option<Sample>]) -> f64 {
    let both = one.iter().zip(other);
    let (one, other): (Vec<f64>, Vec<f64>) = both
        .filter_map(|(one, other)| Some((load.speed(one.as_ref()?), load.speed(other.as_ref()?))))
        .unzip();
    ratio(&one, &other)
}

/// Throughput, and in brackets the latencies.
fn cell(load: &Load, samples: &[Option<Sample>]) -> String {
    let kept: Vec<Sample> = samples.iter().flatten().copied().collect();
    let of = |what: &dyn Fn(&Sample) -> f64| median(&kept.iter().map(what).collect::<Vec<_>>());
    let time = |value: f64| match value {
        value if value < 10.0 => format!("{value:.2}"),
        value => format!("{value:.0}"),
    };
    let lost = samples.len() - kept.len();
    let mut text = match kept.is_empty() {
        true => "-".to_owned(),
        false => format!(
            "{} ({}, {})",
            load.text(of(&|sample| load.speed(sample))),
            time(of(&|sample| sample.p50)),
            time(of(&|sample| sample.p99)),
        ),
    };
    if lost > 0 {
        text += &format!(", target lost {lost} times");
    }
    text
}

fn all_samples(names: &[&str], rows: &[Row]) -> Value {
    let of = |row: &Row| {
        let contestants: Vec<Value> = names
            .iter()
            .zip(&row.samples)
            .map(|(name, samples)| {
                let samples: Vec<Value> = samples
                    .iter()
                    .map(|sample| sample.as_ref().map_or(Value::Null, Sample::json))
                    .collect();
                json!({"contestant": name, "samples": samples})
            })
            .collect();
        json!({
            "network": NETWORKS[row.network].name,
            "load": LOADS[row.load].name,
            "contestants": contestants,
        })
    };
    rows.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(requests: f64) -> Option<Sample> {
        Some(Sample {
            bytes: 0.0,
            requests,
            p50: 0.25,
            p99: 12.4,
        })
    }

    #[test]
    fn rounds_in_which_a_target_was_lost_count_for_nobody() {
        let one = [sample(10.0), None, sample(30.0)];
        let other = [sample(20.0), sample(1.0), sample(20.0)];
        let rows = [Row {
            network: 3,
            load: 1,
            samples: vec![one.to_vec(), other.to_vec()],
        }];
        let text = report(&["embedded A", "DRBD A"], &rows, false);
        let line = text.lines().find(|line| line.starts_with("50 ms"));
        let line = line.unwrap_or_default();
        assert!(
            line.contains("20.0 /s (0.25, 12), target lost 1 times"),
            "{text}"
        );
        assert!(line.ends_with("1.00"), "{text}");
        assert!(text.starts_with("random write 4 KiB, depth 1\n"), "{text}");
    }
}

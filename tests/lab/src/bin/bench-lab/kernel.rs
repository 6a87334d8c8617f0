//! The kernel's mirror (nbd + md) beside DRBD, protocol C. Each round visits both, in turn first and second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netraid_lab::mirror::DEVICE;
use netraid_lab::{Lab, Mirror, Node, wait_until};

use crate::Settings;
use crate::drbd::{self, Resource};
use crate::table::{median, ratio, table};

/// Patience for a resync.
const RESYNC: Duration = Duration::from_secs(240);

/// A load of fio: name and words.
const LOADS: [(&str, &str); 5] = [
    (
        "sequential write 1 MiB, depth 4",
        "--rw=write --bs=1M --iodepth=4",
    ),
    (
        "sequential write 1 MiB, depth 1",
        "--rw=write --bs=1M --iodepth=1",
    ),
    (
        "random write 4 KiB, depth 1",
        "--rw=randwrite --bs=4k --iodepth=1",
    ),
    (
        "random write 4 KiB, depth 16",
        "--rw=randwrite --bs=4k --iodepth=16",
    ),
    (
        "random write 4 KiB + fsync, depth 1",
        "--rw=randwrite --bs=4k --iodepth=1 --fsync=1",
    ),
];
const INITIAL: &str = "initial resync";

/// Samples of one load: ours and DRBD's.
type Samples = BTreeMap<usize, [Vec<f64>; 2]>;

pub(crate) fn run(settings: &Settings) -> Result<()> {
    let builder = Lab::builder().nodes(2);
    let lab = builder
        .disks(&[settings.size, settings.size])
        .memory(768)
        .start()?;
    let drbd = Resource {
        name: "bench",
        minor: 0,
        protocol: 'C',
        disk: 2,
        net: String::new(),
        options: String::new(),
    };
    let mut samples = Samples::new();
    for round in 0..settings.rounds {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            eprintln!(
                "round {} of {}: {}",
                round + 1,
                settings.rounds,
                NAMES[which]
            );
            let device = [DEVICE, &drbd.device()][which].to_owned();
            let took = if which == 0 {
                start_ours(&lab, settings)?
            } else {
                start_drbd(&lab, &drbd)?
            };
            let speed = settings.size as f64 / took.as_secs_f64();
            note(&mut samples, LOADS.len(), which, speed);
            for (number, (name, words)) in LOADS.iter().enumerate() {
                if name.contains(&settings.only) {
                    let value = load(lab.node(1), &device, words, settings.runtime)?;
                    note(&mut samples, number, which, value);
                }
            }
            if which == 0 {
                stop_ours(&lab)?
            } else {
                for node in lab.nodes() {
                    drbd.order(node, "down")?;
                }
            }
        }
    }
    report(settings, &samples);
    Ok(())
}

const NAMES: [&str; 2] = ["NetRAID", "DRBD"];

fn note(samples: &mut Samples, load: usize, which: usize, value: f64) {
    samples.entry(load).or_default()[which].push(value);
}

/// A mirror on the first disks; how long its first resync took.
fn start_ours(lab: &Lab, settings: &Settings) -> Result<Duration> {
    let mut mirror = Mirror::of(lab);
    mirror.create_words = format!("--force --chunk {}", settings.chunk);
    mirror.sweeps = None;
    mirror.attach_words = settings.attach.clone();
    mirror.create()?;
    mirror.start()?;
    let node = lab.node(2);
    let server = node.spawn(&format!(
        "exec nbd-server --export data=/dev/ubdb --listen {}:10809 --print-ready {}",
        node.ip(),
        settings.serve
    ))?;
    server.wait_for("listening", Duration::from_secs(20))?;
    mirror.attach(2)?;
    let begun = Instant::now();
    mirror.add_with(2, "--force --wait")?;
    Ok(begun.elapsed())
}

fn stop_ours(lab: &Lab) -> Result<()> {
    Mirror::of(lab).stop()?;
    lab.node(2)
        .must("pkill -x nbd-server; while pgrep -x nbd-server >/dev/null; do sleep 0.05; done")?;
    for node in lab.nodes() {
        node.must("dd if=/dev/zero of=/dev/ubdb bs=1M count=2 conv=fsync status=none")?;
    }
    Ok(())
}

/// How long DRBD's first resync took.
fn start_drbd(lab: &Lab, resource: &Resource) -> Result<Duration> {
    drbd::configure(lab, std::slice::from_ref(resource))?;
    for node in lab.nodes() {
        resource.up(node)?;
    }
    let source = lab.node(1);
    resource.wait_connected(source)?;
    let begun = Instant::now();
    resource.promote(source)?;
    wait_until(RESYNC, "DRBD is in sync", || {
        Ok(resource.look(source)?.in_sync().then_some(()))
    })?;
    Ok(begun.elapsed())
}

/// MB/s of a sequential load, requests a second of a random one.
fn load(node: &Node, device: &str, words: &str, runtime: u64) -> Result<f64> {
    let text = node.must_within(
        Duration::from_secs(runtime + 60),
        &format!(
            "fio --name=load --filename={device} --ioengine=libaio --direct=1 --time_based --runtime={runtime} \
             --ramp_time=1 --norandommap --gtod_reduce=1 --output-format=json {words}"
        ),
    )?;
    let begin = text.find('{').context("fio printed no JSON")?;
    let report: serde_json::Value = serde_json::from_str(&text[begin..])?;
    let write = &report["jobs"][0]["write"];
    let field = if words.contains("rand") {
        "iops"
    } else {
        "bw_bytes"
    };
    let value = write[field].as_f64().context("fio's JSON lacks a number")?;
    Ok(if words.contains("rand") {
        value
    } else {
        value / 1e6
    })
}

fn report(settings: &Settings, samples: &Samples) {
    let mut rows = vec![
        ["load", NAMES[0], NAMES[1], "ratio"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (number, [ours, drbd]) in samples {
        let (name, unit) = match LOADS.get(*number) {
            Some((name, words)) if words.contains("rand") => ((*name).to_owned(), "/s"),
            Some((name, _)) => ((*name).to_owned(), "MB/s"),
            None => (format!("{INITIAL} of {} MiB", settings.size), "MiB/s"),
        };
        rows.push(vec![
            name,
            format!("{:.0} {unit}", median(ours)),
            format!("{:.0} {unit}", median(drbd)),
            format!("{:.2}", ratio(ours, drbd)),
        ]);
    }
    print!("{}", table(&rows, settings.markdown));
    println!(
        "\nMedians of {} rounds of {} s, direct I/O by fio on the source; ratios are medians of each round's ratio. \
         nbd-client attach {}, bitmap chunk {} KiB.",
        settings.rounds, settings.runtime, settings.attach, settings.chunk
    );
}

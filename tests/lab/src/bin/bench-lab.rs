//! Measures the kernel's NetRAID beside DRBD on two nodes of a lab: the same kernels, disks and cable, in one run.
//!
//! A report, not a test. Each round visits both, in turn first and second; medians and ratios are printed.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netraid_lab::mirror::DEVICE;
use netraid_lab::{Lab, Mirror, Node, wait_until};

const HELP: &str = "\
Measures NetRAID on the kernel (nbd + md) beside DRBD 8.4, protocol C, on two nodes of a lab. A report, not a test.

usage: bench-lab [options]
  --rounds N           rounds (default 5)
  --runtime SECONDS    how long each load runs (default 4)
  --only TEXT          only loads whose name contains TEXT
  --size MIB           size of each disk (default 512)
  --attach WORDS       words for nbd-client attach (default \"--connections 1\")
  --serve WORDS        words for nbd-server
  --chunk KIB          what a bit of the write-intent bitmap stands for (default 256, the product's; DRBD's activity
                       log has extents of 4096)
  --markdown           print the table for docs/performance.md
";

/// The device that DRBD makes.
const DRBD: &str = "/dev/drbd0";
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

struct Settings {
    rounds: usize,
    runtime: u64,
    only: String,
    size: u64,
    attach: String,
    serve: String,
    chunk: u32,
    markdown: bool,
}

fn main() -> ExitCode {
    let settings = match parse(std::env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("bench-lab: {why}; --help tells more");
            return ExitCode::from(2);
        }
    };
    if let Err(reason) = netraid_lab::available() {
        eprintln!("bench-lab: labs do not run here: {reason}");
        return ExitCode::FAILURE;
    }
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Settings>> {
    let mut settings = Settings {
        rounds: 5,
        runtime: 4,
        only: String::new(),
        size: 512,
        attach: "--connections 1".to_owned(),
        serve: String::new(),
        chunk: 256,
        markdown: false,
    };
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value"))
        };
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--rounds" => settings.rounds = value()?.parse().context("--rounds")?,
            "--runtime" => settings.runtime = value()?.parse().context("--runtime")?,
            "--size" => settings.size = value()?.parse().context("--size")?,
            "--only" => settings.only = value()?,
            "--attach" => settings.attach = value()?,
            "--serve" => settings.serve = value()?,
            "--chunk" => settings.chunk = value()?.parse().context("--chunk")?,
            "--markdown" => settings.markdown = true,
            _ => bail!("{word} is no option"),
        }
    }
    Ok(Some(settings))
}

/// Samples of one load: ours and DRBD's.
type Samples = BTreeMap<usize, [Vec<f64>; 2]>;

fn run(settings: &Settings) -> Result<()> {
    let builder = Lab::builder().nodes(2);
    let lab = builder
        .disks(&[settings.size, settings.size])
        .memory(768)
        .start()?;
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
            let device = [DEVICE, DRBD][which];
            let took = if which == 0 {
                start_ours(&lab, settings)?
            } else {
                start_drbd(&lab)?
            };
            let speed = settings.size as f64 / took.as_secs_f64();
            note(&mut samples, LOADS.len(), which, speed);
            for (number, (name, words)) in LOADS.iter().enumerate() {
                if name.contains(&settings.only) {
                    let value = load(lab.node(1), device, words, settings.runtime)?;
                    note(&mut samples, number, which, value);
                }
            }
            if which == 0 {
                stop_ours(&lab)?
            } else {
                stop_drbd(&lab)?
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

/// DRBD on the second disks; how long its first resync took.
fn start_drbd(lab: &Lab) -> Result<Duration> {
    let hosts: String = lab
        .nodes()
        .iter()
        .map(|node| {
            format!(
                "on {} {{ device /dev/drbd0; disk /dev/ubdc; address {}:7789; meta-disk internal; }}\n",
                node.name(),
                node.ip()
            )
        })
        .collect();
    // The resync at full speed: its careful default is not what is compared.
    let resource = format!(
        "resource bench {{ net {{ protocol C; max-buffers 8000; max-epoch-size 8000; }}\n\
         disk {{ c-max-rate 4G; c-fill-target 1M; resync-rate 1G; }}\n{hosts}}}\n"
    );
    for node in lab.nodes() {
        node.must("mkdir -p /var/lib/drbd /run/lock && modprobe drbd usermode_helper=/bin/true")?;
        node.must(&format!(
            "mkdir -p /etc/drbd.d && cat >/etc/drbd.conf <<'END'\nglobal {{ usage-count no; }}\n{resource}END"
        ))?;
        node.must("yes yes | drbdadm --force create-md bench")?;
        node.must("drbdadm up bench")?;
    }
    wait_until(RESYNC, "DRBD is connected", || {
        Ok((lab.node(1).must("drbdadm cstate bench")? == "Connected").then_some(()))
    })?;
    let begun = Instant::now();
    lab.node(1).must("drbdadm primary --force bench")?;
    wait_until(RESYNC, "DRBD is in sync", || {
        Ok((lab.node(1).must("drbdadm dstate bench")? == "UpToDate/UpToDate").then_some(()))
    })?;
    Ok(begun.elapsed())
}

fn stop_drbd(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        node.must("drbdadm down bench")?;
    }
    Ok(())
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

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}

fn report(settings: &Settings, samples: &Samples) {
    let separator = if settings.markdown { " | " } else { "  " };
    let row = |cells: [String; 4]| {
        let [name, ours, drbd, ratio] = cells;
        let line =
            format!("{name:<37}{separator}{ours:>12}{separator}{drbd:>12}{separator}{ratio:>6}");
        if settings.markdown {
            println!("| {line} |")
        } else {
            println!("{line}")
        }
    };
    row([
        "load".into(),
        NAMES[0].into(),
        NAMES[1].into(),
        "ratio".into(),
    ]);
    if settings.markdown {
        println!("|---|---|---|---|");
    }
    for (number, [ours, drbd]) in samples {
        let (name, unit) = match LOADS.get(*number) {
            Some((name, words)) if words.contains("rand") => ((*name).to_owned(), "/s"),
            Some((name, _)) => ((*name).to_owned(), "MB/s"),
            None => (format!("{INITIAL} of {} MiB", settings.size), "MiB/s"),
        };
        let ratios: Vec<f64> = ours.iter().zip(drbd).map(|(one, two)| one / two).collect();
        row([
            name,
            format!("{:.0} {unit}", median(ours)),
            format!("{:.0} {unit}", median(drbd)),
            format!("{:.2}", median(&ratios)),
        ]);
    }
    println!(
        "\nMedians of {} rounds of {} s, direct I/O by fio on the source; ratios are medians of each round's ratio. \
         nbd-client attach {}, bitmap chunk {} KiB.",
        settings.rounds, settings.runtime, settings.attach, settings.chunk
    );
}

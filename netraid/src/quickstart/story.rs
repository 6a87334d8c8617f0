//! The plot: eight steps, each with checks, and an end that stays up.

mod after;
mod before;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::interrupt::Interrupt;
use super::ledger::{Ledger, SLOT};
use super::process;
use super::scene::{Scene, TAG, must_all_run};
use super::tell::rounded;
use super::writer::LANES;
use super::{MIN_SIZE, Problem, Settings};
use crate::cli::show::{duration, size};
use crate::status::ResyncEnd;
use before::Data;

/// What the steps hand on.
struct Plot {
    /// Bytes of the mirror.
    mirror: u64,
    /// What is on it.
    data: Data,
    /// What the application wrote behind the file system.
    ledger: Ledger,
}

pub(super) fn tell(settings: Settings) -> Result<(), Problem> {
    if settings.size < MIN_SIZE {
        return Err(Problem::Usage(format!(
            "--size {}: at least {} are needed",
            settings.size,
            size(MIN_SIZE)
        )));
    }
    let mut scene = Scene::new(&settings)?;
    let started = Instant::now();
    let outcome = play(&mut scene, &settings, started);
    match outcome {
        Ok(()) => Ok(()),
        Err(error) => {
            scene.teller.fail(&format!("{error:#}"));
            // What still runs is stopped in order where that is possible, and killed where not.
            let _ = scene.stop_all();
            Err(error.into())
        }
    }
}

fn play(scene: &mut Scene, settings: &Settings, started: Instant) -> Result<()> {
    let folder = scene.folder.path().display().to_string();
    scene.teller.aside(&format!(
        "NetRAID on this machine: server1 and server2, in {folder}"
    ));
    if scene.folder.again {
        scene
            .teller
            .aside("An earlier demo was there; it starts over.");
    }
    let (data, disk) = before::prepare(scene, settings)?;
    let plot = before::create(scene, data, disk)?;
    before::extend(scene, &plot)?;
    let written = before::cut(scene, &plot)?;
    before::bring_back(scene, &plot, written)?;
    after::crash(scene, &plot)?;
    let written = after::fail_over(scene, &plot)?;
    after::rejoin(scene, &plot, written)?;
    if !settings.once {
        stay(scene)?;
    }
    end(scene, started)
}

/// Stays up until Ctrl-C, with a line that says how it is.
fn stay(scene: &mut Scene) -> Result<()> {
    let uri = scene.uri(1)?;
    let node = &scene.nodes[1];
    let netraid = scene.tools.netraid.display();
    let run = node.run.display();
    let lines = [
        "\nThe story is over; the mirror stays up on server2 until Ctrl-C.".to_owned(),
        format!("  use it:              {uri}"),
        format!("  how it is:           {netraid} status --run-dir {run}"),
        format!("  why it is so:        {netraid} explain {TAG} --run-dir {run}"),
        format!("  what happened:       {netraid} events --run-dir {run}"),
        format!("  what it offers:      nbdinfo '{uri}'"),
        format!(
            "  what md says of it:  mdadm --examine {}",
            node.disk.display()
        ),
    ];
    scene.teller.announce("up", &[("uri", &uri)]);
    for line in lines {
        scene.teller.aside(&line);
    }
    let mut line = scene.teller.status_line();
    while !scene.interrupt.asked() {
        must_all_run(&mut scene.nodes)?;
        let status = scene.status(1)?;
        let legs: Vec<String> = status
            .legs
            .iter()
            .map(|leg| format!("{} {}", leg.node, leg.status))
            .collect();
        line.set(&format!(
            "{}; {} dirty",
            legs.join(", "),
            size(status.dirty_bytes)
        ));
        let second = Instant::now();
        while second.elapsed() < Duration::from_secs(1) && !scene.interrupt.asked() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Stops everything and looks at what is left on the disks.
fn end(scene: &mut Scene, started: Instant) -> Result<()> {
    scene.teller.begin("stop", "Stop everything cleanly");
    scene.stop_all()?;
    let legs = scene.legs()?;
    let found = match scene.interrupt.asked() {
        // After Ctrl-C nobody waits for a comparison that was made before.
        true => Default::default(),
        false => scene.differences(&legs)?,
    };
    if let Some(first) = found.first {
        bail!("after the stop the disks differ, first at byte {first}");
    }
    for (leg, node) in legs.iter().zip(&scene.nodes) {
        let (superblock, name) = (&leg.superblock, node.name);
        if !superblock.is_clean() || !superblock.is_in_sync() {
            bail!("the superblock of {name} is not clean after a clean stop");
        }
        if !leg.dirty.is_clean() {
            bail!(
                "the write-intent bitmap of {name} still has {} dirty chunks",
                leg.dirty.count()
            );
        }
    }
    let events = legs.each_ref().map(|leg| leg.superblock.events);
    if events[0] != events[1] {
        bail!(
            "the event counts of the disks are {} and {}",
            events[0],
            events[1]
        );
    }
    let mdadm = examine(scene)?;
    scene.teller.say(&format!(
        "both superblocks are clean, at event {}, and no chunk is dirty{mdadm}",
        events[0]
    ));
    scene.teller.number("events", events[0]);
    scene
        .teller
        .number("total_seconds", rounded(started.elapsed()));
    scene.teller.end();
    let total = duration(started.elapsed());
    scene.teller.aside(&format!(
        "\nEvery check held, in {total}. The disks stay in {}",
        scene.folder.path().display()
    ));
    Ok(())
}

/// Lets mdadm, if it is there, judge both disks.
fn examine(scene: &Scene) -> Result<&'static str> {
    let Some(mdadm) = &scene.tools.mdadm else {
        return Ok("");
    };
    for node in &scene.nodes {
        let mut command = std::process::Command::new(mdadm);
        command.arg("--examine").arg(&node.disk);
        let log = scene.folder.file("tools.log");
        let within = Duration::from_secs(30);
        let interrupt = Interrupt::default();
        let (status, said) = process::run(&command, &log, within, &interrupt)?;
        let clean = said
            .lines()
            .any(|line| line.trim_start().starts_with("State : clean"));
        if !status.success() || !clean {
            bail!(
                "mdadm --examine {} does not call it clean: {}",
                node.disk.display(),
                said.trim()
            );
        }
    }
    Ok("; mdadm agrees")
}

/// What a resync moved, told, and held to its bound.
fn moved(scene: &mut Scene, plot: &Plot, end: &ResyncEnd, written: u64) -> Result<()> {
    let part = |bytes: u64| bytes as f64 * 100.0 / plot.mirror as f64;
    scene.teller.say(&format!(
        "partial resync in {}: {} of {} moved ({:.1} %), for {} written ({:.1} %)",
        duration(Duration::from_millis(end.elapsed_ms)),
        size(end.copied),
        size(plot.mirror),
        part(end.copied),
        size(written),
        part(written),
    ));
    scene.teller.number("copied_bytes", end.copied);
    scene.teller.number("sent_bytes", end.sent);
    scene.teller.number("device_bytes", plot.mirror);
    scene.teller.number("written_bytes", written);
    if end.copied > plot.mirror / 100 * MOST_MOVED {
        bail!("the resync moved more than {MOST_MOVED} % of the device");
    }
    if end.copied == 0 {
        bail!("the resync moved nothing, although something was written");
    }
    Ok(())
}

/// How many writes make up one `part`-th of a device; at least enough to keep the writer busy for a moment.
fn writes_for(device: u64, part: u64) -> u64 {
    (device / part / SLOT).max(2 * LANES as u64)
}

/// Per cent of the device that a partial resync may move.
const MOST_MOVED: u64 = 5;

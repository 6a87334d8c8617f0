//! One measurement: start the contestant, load it, and read what it cost from `/proc`.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::contestants::{Contestant, IMAGE_SIZE, Running};
use super::load::{self, Load};
use crate::scratch::Scratch;

/// What one measurement found.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Requests a second.
    pub requests_per_second: f64,
    /// Seconds of user and system time of the contestant's processes for each GiB moved.
    pub cpu_per_gib: f64,
    /// Resident bytes of the contestant's processes before the load.
    pub idle_memory: f64,
    /// The most resident bytes seen during the load.
    pub busy_memory: f64,
}

/// Measures one contestant under one load.
pub fn measure(
    contestant: &Contestant,
    load: &Load,
    runtime: Duration,
    round: u64,
    folder: &Path,
) -> Result<Sample, String> {
    let scratch =
        Scratch::inside(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let running = (contestant.start)(&scratch)?;
    let idle_memory = resident(&running);
    let before = processor_time(&running)?;
    let busy = AtomicU64::new(idle_memory);
    let done = AtomicBool::new(false);
    let ran = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                busy.fetch_max(resident(&running), Ordering::Relaxed);
                thread::park_timeout(Duration::from_millis(200));
            }
        });
        let ran = load::run(load, &running.uri, IMAGE_SIZE, runtime, round);
        done.store(true, Ordering::Relaxed);
        ran
    })?;
    wait_for_children(&running);
    let after = processor_time(&running)?;
    drop(running);
    for image in &contestant.images {
        File::open(image)
            .and_then(|file| file.sync_all())
            .map_err(|error| format!("{}: {error}", image.display()))?;
    }
    Ok(Sample {
        bytes_per_second: ran.bytes_per_second,
        requests_per_second: ran.requests_per_second,
        cpu_per_gib: (after - before) / (ran.bytes / (1_u64 << 30) as f64),
        idle_memory: idle_memory as f64,
        busy_memory: busy.load(Ordering::Relaxed) as f64,
    })
}

/// A process as `/proc/PID/stat` tells it.
struct Stat {
    group: i32,
    /// Clock ticks of user and system time, its own and that of its reaped children.
    ticks: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so fields are counted from the last parenthesis.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        group: fields.get(2)?.parse().ok()?,
        ticks: number(11)? + number(12)? + number(13)? + number(14)?,
    })
}

/// All processes of the groups that the contestant's daemons lead.
fn members(running: &Running) -> Vec<(i32, Stat)> {
    let leaders: Vec<i32> = running
        .daemons
        .iter()
        .map(|daemon| daemon.pid().as_raw())
        .collect();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .filter(|(_, stat)| leaders.contains(&stat.group))
        .collect()
}

/// Seconds of user and system time so far.
fn processor_time(running: &Running) -> Result<f64, String> {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .unwrap_or(100);
    let members = members(running);
    if members.len() < running.daemons.len() {
        return Err("a server has ended".to_owned());
    }
    Ok(members.iter().map(|(_, stat)| stat.ticks).sum::<u64>() as f64 / per_second as f64)
}

/// Waits until processes that a server started for one client have ended and been counted by their parent.
fn wait_for_children(running: &Running) {
    let start = Instant::now();
    while members(running).len() > running.daemons.len() && start.elapsed() < Duration::from_secs(3)
    {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Resident bytes of all processes together.
fn resident(running: &Running) -> u64 {
    let of = |pid: i32| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
    };
    members(running)
        .into_iter()
        .filter_map(|(pid, _)| of(pid))
        .sum()
}

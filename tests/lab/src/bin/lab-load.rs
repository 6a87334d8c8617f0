//! An application for scenarios: writes to a device in a node, knows what it wrote, and how long it had to wait.
//!
//! `lab-load DEVICE [MIB [WRITERS]]`: several writers, each with one direct write of 4 KiB at a time, to random blocks of
//! the device's first MIB MiB (default 8, by 2 writers; the first of them writes through all caches). Says every 50 ms
//! how it is, as a JSON object a line. When its standard input ends it stops, reads back all that it wrote, and ends: with
//! status 1 if a write failed or a block does not hold what was written last.

use anyhow::{Context, Result, ensure};
use netraid_lab::load::Told;
use nix::libc::{O_DIRECT, O_DSYNC};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
const REPORT: Duration = Duration::from_millis(50);

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let device = words.next().context("lab-load DEVICE [MIB [WRITERS]]")?;
    let mib: u64 = words.next().map_or(Ok(8), |word| word.parse())?;
    let writers: u64 = words.next().map_or(Ok(2), |word| word.parse())?;
    ensure!(writers > 0, "nobody writes");
    let blocks = (mib << 20) / BLOCK as u64;
    let shared = Arc::new(Shared::new(writers));
    let told_to = Arc::clone(&shared);
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        told_to.stop.store(true, Ordering::Relaxed);
    });
    thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|number| {
                let (device, shared) = (&device, &*shared);
                scope.spawn(move || {
                    let written = write(device, number, writers, blocks, shared);
                    if written.is_err() {
                        shared.stop.store(true, Ordering::Relaxed);
                    }
                    written
                })
            })
            .collect();
        let ended = |writer: &ScopedJoinHandle<'_, _>| writer.is_finished();
        while !writers.iter().all(ended) {
            say(&shared.told())?;
            thread::sleep(REPORT);
        }
        let mut wrong = 0;
        for writer in writers {
            let written = writer.join().map_err(|_| anyhow::anyhow!("a panic"))?;
            wrong += check(&device, &written?)?;
        }
        say(&Told {
            ended: true,
            ..shared.told()
        })?;
        ensure!(
            wrong == 0,
            "{wrong} blocks do not hold what was written last"
        );
        Ok(())
    })
}

fn say(told: &Told) -> Result<()> {
    let mut line = serde_json::to_vec(told)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

/// What all writers know of each other.
struct Shared {
    begun: Instant,
    stop: AtomicBool,
    writes: AtomicU64,
    /// Of the longest write that has ended, in microseconds.
    longest: AtomicU64,
    /// When each writer's current write began, in microseconds since `begun`; 0: none is under way.
    since: Vec<AtomicU64>,
}

impl Shared {
    fn new(writers: u64) -> Shared {
        Shared {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            since: (0..writers).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn told(&self) -> Told {
        let now = self.now();
        let since = self.since.iter().map(|since| since.load(Ordering::Relaxed));
        let waiting = since
            .filter(|since| *since != 0)
            .map(|since| now.saturating_sub(since))
            .max()
            .unwrap_or(0);
        Told {
            writes: self.writes.load(Ordering::Relaxed),
            ms: now / 1000,
            waiting_ms: waiting / 1000,
            longest_ms: self.longest.load(Ordering::Relaxed).max(waiting) / 1000,
            ended: false,
        }
    }
}

/// A block and the number of the last write to it.
type Written = (u64, u64);

/// Writes until told to stop, to those blocks whose number leaves `number` when divided by `writers`.
fn write(
    device: &str,
    number: u64,
    writers: u64,
    blocks: u64,
    shared: &Shared,
) -> Result<Vec<Written>> {
    let through = if number == 0 { O_DSYNC } else { 0 };
    let file = File::options()
        .write(true)
        .custom_flags(O_DIRECT | through)
        .open(device)
        .context(device.to_owned())?;
    let own = blocks / writers;
    let mut last = vec![0_u64; usize::try_from(own)?];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number + 1);
    let mut buffer = Aligned::new();
    let mut count = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let place = random % own;
        let block = place * writers + number;
        count += 1;
        fill(buffer.block(), block, count);
        let begun = shared.now();
        shared.since[usize::try_from(number)?].store(begun, Ordering::Relaxed);
        file.write_all_at(buffer.block(), block * BLOCK as u64)
            .with_context(|| format!("write {count} of writer {number}, to block {block}"))?;
        shared.since[usize::try_from(number)?].store(0, Ordering::Relaxed);
        let took = shared.now() - begun;
        shared.longest.fetch_max(took, Ordering::Relaxed);
        shared.writes.fetch_add(1, Ordering::Relaxed);
        last[usize::try_from(place)?] = count;
    }
    let all = last.into_iter().zip(0..);
    Ok(all
        .filter(|(count, _)| *count != 0)
        .map(|(count, place)| (place * writers + number, count))
        .collect())
}

/// How many blocks hold something else than was written to them last.
fn check(device: &str, written: &[Written]) -> Result<u64> {
    let file = File::options()
        .read(true)
        .custom_flags(O_DIRECT)
        .open(device)
        .context(device.to_owned())?;
    let (mut wrong, mut wanted, mut buffer) = (0, vec![0; BLOCK], Aligned::new());
    for (block, count) in written {
        fill(&mut wanted, *block, *count);
        file.read_exact_at(buffer.block(), block * BLOCK as u64)
            .with_context(|| format!("reading block {block}"))?;
        if buffer.block() != &wanted[..] {
            eprintln!(
                "lab-load: block {block} holds something else than write {count}: {:02x?}",
                &buffer.block()[..32]
            );
            wrong += 1;
        }
    }
    Ok(wrong)
}

/// The block's number and the write's, over and over.
fn fill(buffer: &mut [u8], block: u64, count: u64) {
    for pair in buffer.chunks_exact_mut(16) {
        pair[..8].copy_from_slice(&block.to_le_bytes());
        pair[8..].copy_from_slice(&count.to_le_bytes());
    }
}

/// A block's bytes where direct I/O wants them.
struct Aligned {
    bytes: Vec<u8>,
    at: usize,
}

impl Aligned {
    fn new() -> Aligned {
        let bytes = vec![0; 2 * BLOCK];
        let at = bytes.as_ptr().align_offset(BLOCK);
        Aligned { bytes, at }
    }

    fn block(&mut self) -> &mut [u8] {
        &mut self.bytes[self.at..self.at + BLOCK]
    }
}

//! Processes of a mirror are killed at random moments of a load. No acknowledged write may be lost, and after a resync
//! the legs must be equal.
//!
//! The moments follow from a seed; `NETRAID_SEED` runs one seed alone, `NETRAID_ROUNDS` another number of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netraid_tests::mirror::{Mirror, TAG};
use netraid_tests::peers;
use netraid_tests::process::wait_until;
use netraid_tests::raw::{Raw, command};
use netraid_tests::scratch::{MIB, Noise, Scratch};
use netraid_tests::servers::{self, Endpoint, Server};

const SIZE: u64 = 64 * MIB;
const BLOCK: u64 = 4096;

/// Blocks that are written to: few enough to be written again and again, far enough apart to lie in many chunks.
const BLOCKS: u64 = 96;
const STRIDE: u64 = 37;

/// Writes in flight.
const DEPTH: usize = 8;

fn our_leg(scratch: &Scratch, image: &Path) -> Server {
    let place = Endpoint::unix(scratch, "leg");
    servers::ours(
        &peers::ours("nbd-server"),
        scratch,
        &place,
        "disk",
        image,
        &[],
    )
}

/// What is known of one block: every write has a higher number than the one before.
#[derive(Clone, Copy, Default)]
struct Block {
    sent: u64,
    acknowledged: u64,
}

type Blocks = BTreeMap<u64, Block>;

fn content(block: u64, number: u64) -> Vec<u8> {
    let stamp = [block.to_le_bytes(), number.to_le_bytes()].concat();
    stamp.repeat(BLOCK as usize / stamp.len())
}

/// An application that writes until it is told to stop or its disk goes away.
struct Writer {
    thread: JoinHandle<Blocks>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Writer {
    fn start(mirror: &Mirror, blocks: Blocks, seed: u64) -> Writer {
        let (mut disk, _) =
            Raw::go(&Endpoint::Unix(mirror.socket()), TAG).expect("open the mirror");
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (told, counter) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let thread = thread::spawn(move || {
            let mut writing = Writing {
                blocks,
                in_flight: BTreeMap::new(),
                noise: Noise::new(seed),
            };
            while writing.step(&mut disk, &told).is_ok_and(|more| more) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            writing.blocks
        });
        Writer {
            thread,
            stop,
            acknowledged,
        }
    }

    /// Waits until `count` more writes were acknowledged.
    fn wait_for(&self, count: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        wait_until("writes are acknowledged", Duration::from_secs(60), || {
            (self.acknowledged.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Whether it has met the end of its disk.
    fn wait_for_end(self) -> Blocks {
        wait_until(
            "the application notices that its disk is gone",
            Duration::from_secs(30),
            || self.thread.is_finished().then_some(()),
        );
        self.thread.join().expect("the application")
    }

    fn stop(self) -> Blocks {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the application")
    }
}

struct Writing {
    blocks: Blocks,
    /// Writes under way: the block, by cookie, which is the write's number.
    in_flight: BTreeMap<u64, u64>,
    noise: Noise,
}

impl Writing {
    /// Keeps the queue full, and takes one reply. False when it was told to stop and nothing is under way.
    fn step(&mut self, disk: &mut Raw, stop: &AtomicBool) -> std::io::Result<bool> {
        while self.in_flight.len() < DEPTH && !stop.load(Ordering::Relaxed) {
            let block = self.noise.word() % BLOCKS * STRIDE;
            if self.in_flight.values().any(|other| *other == block) {
                continue;
            }
            let number = self
                .blocks
                .values()
                .map(|block| block.sent)
                .max()
                .unwrap_or(0)
                + 1;
            self.blocks.entry(block).or_default().sent = number;
            self.in_flight.insert(number, block);
            disk.send_request(0, command::WRITE, number, block * BLOCK, BLOCK as u32)?;
            disk.send(&content(block, number))?;
        }
        if self.in_flight.is_empty() {
            return Ok(false);
        }
        let (errno, number) = disk.read_reply()?;
        let block = self.in_flight.remove(&number).expect("a cookie of ours");
        assert_eq!(errno, 0, "a write failed though a leg was there");
        self.blocks
            .get_mut(&block)
            .expect("a block of ours")
            .acknowledged = number;
        Ok(true)
    }
}

/// Reads every block and panics if one is older than what was acknowledged. What is there is then what counts.
fn check(mirror: &Mirror, blocks: &mut Blocks) {
    let (mut disk, _) = Raw::go(&Endpoint::Unix(mirror.socket()), TAG).expect("open the mirror");
    for (block, known) in blocks {
        let found = disk
            .read(block * BLOCK, BLOCK as u32)
            .expect("read the mirror");
        let number = u64::from_le_bytes(found[8..16].try_into().unwrap());
        let whole =
            number == 0 && found.iter().all(|byte| *byte == 0) || found == content(*block, number);
        assert!(whole, "block {block} is neither one write nor another");
        assert!(
            (known.acknowledged..=known.sent).contains(&number),
            "block {block} holds write {number}; {} was acknowledged, {} sent last",
            known.acknowledged,
            known.sent
        );
        // A write of the past must not come back later.
        known.acknowledged = number;
    }
}

/// Runs a scenario with several seeds, or with the one that is asked for.
fn with_seeds(scenario: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds: Vec<u64> = match number("NETRAID_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("NETRAID_ROUNDS").unwrap_or(4)).collect(),
    };
    for seed in seeds {
        eprintln!("NETRAID_SEED={seed}");
        scenario(seed);
    }
}

fn mirror() -> Mirror {
    Mirror::new(&std::env::temp_dir(), SIZE, our_leg)
}

/// A number of writes after which something is to happen.
fn moment(noise: &mut Noise) -> u64 {
    1 + noise.word() % 700
}

fn stop_and_compare(mut mirror: Mirror) {
    let size = mirror.status()["size"].as_u64().unwrap();
    mirror.stop();
    mirror.assert_legs_equal(size);
}

#[test]
fn a_mirror_whose_process_is_killed_has_every_acknowledged_write_and_equal_legs() {
    with_seeds(|seed| {
        let mut noise = Noise::new(seed);
        let mut mirror = mirror();
        let mut blocks = Blocks::new();
        for _ in 0..2 {
            let writer = Writer::start(&mirror, blocks, noise.word());
            writer.wait_for(moment(&mut noise));
            mirror.kill_source();
            blocks = writer.wait_for_end();
            mirror.start(true);
            check(&mirror, &mut blocks);
            mirror.wait_in_sync();
            check(&mirror, &mut blocks);
        }
        stop_and_compare(mirror);
    });
}

#[test]
fn an_application_goes_on_while_the_target_is_killed_and_comes_back() {
    with_seeds(|seed| {
        let mut noise = Noise::new(seed);
        let mut mirror = mirror();
        let mut blocks = Blocks::new();
        for _ in 0..2 {
            let writer = Writer::start(&mirror, blocks, noise.word());
            writer.wait_for(moment(&mut noise));
            mirror.kill_leg();
            writer.wait_for(moment(&mut noise));
            mirror.serve_leg(our_leg);
            writer.wait_for(moment(&mut noise));
            mirror.wait_in_sync();
            writer.wait_for(moment(&mut noise));
            blocks = writer.stop();
            check(&mirror, &mut blocks);
        }
        stop_and_compare(mirror);
    });
}

#[test]
fn the_target_takes_over_with_every_acknowledged_write_and_the_old_source_is_resynced() {
    with_seeds(|seed| {
        let mut noise = Noise::new(seed);
        let mut mirror = mirror();
        let mut blocks = Blocks::new();
        mirror.wait_for_status("the bits of the first resync are cleared", |status| {
            status["dirty_chunks"] == 0
        });
        // There, and back again.
        for _ in 0..2 {
            let writer = Writer::start(&mirror, blocks, noise.word());
            writer.wait_for(moment(&mut noise));
            mirror.kill_source();
            blocks = writer.wait_for_end();
            mirror.kill_leg();
            mirror.swap_roles();
            mirror.start(false);
            check(&mirror, &mut blocks);
            let writer = Writer::start(&mirror, blocks, noise.word());
            writer.wait_for(moment(&mut noise));
            blocks = writer.stop();
            mirror.kill_source();
            mirror.serve_leg(our_leg);
            mirror.start(true);
            check(&mirror, &mut blocks);
            let status = mirror.wait_in_sync();
            let copied = status["last_resync"]["copied"].as_u64().unwrap();
            assert!(copied < SIZE / 2, "a full resync: {status:#}");
            check(&mirror, &mut blocks);
        }
        stop_and_compare(mirror);
    });
}

#[test]
fn a_target_whose_resync_was_cut_off_is_not_taken_into_service() {
    let mut mirror = mirror();
    let mut noise = Noise::new(1);
    mirror.stop();
    // Slow enough to be met in the middle.
    mirror.words = ["--resync-rate", "1MiB"].map(str::to_owned).to_vec();
    mirror.start(true);
    mirror.wait_in_sync();
    mirror.kill_leg();
    let writer = Writer::start(&mirror, Blocks::new(), noise.word());
    writer.wait_for(2000);
    let blocks = writer.stop();
    assert!(blocks.len() > 50);
    mirror.wait_for_status("the target is expelled", |status| {
        mirror.target_status(status) != "Target"
    });
    mirror.serve_leg(our_leg);
    mirror.wait_for_status("some of the resync is done", |status| {
        status["resync"]["copied"]
            .as_u64()
            .is_some_and(|copied| copied > 0)
    });
    mirror.kill_source();
    mirror.kill_leg();
    mirror.swap_roles();
    let disk = mirror.local.display().to_string();
    let (run_dir, socket) = (mirror.run_dir(), mirror.socket().display().to_string());
    let words = [
        "run",
        "--tag",
        TAG,
        "--node",
        "server2",
        "--disk",
        &disk,
        "--unix",
        &socket,
        "--run-dir",
        &run_dir,
    ];
    let refused = mirror.netraid(&words).code(3);
    assert!(refused.stderr.contains("resync"), "{refused}");
}

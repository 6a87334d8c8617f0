//! The application of the story: writes numbered blocks, remembers what was acknowledged, and later says whether a disk
//! still has all of it.
//!
//! The area that it writes to is cut into slots. A slot has one write under way at most, so that what it may hold is
//! known at any moment: the last write that was acknowledged, or one after it whose outcome is unknown.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use nbd_client::Client;
use tokio::task::JoinSet;

/// Bytes of a block: each carries the number of its write.
pub const BLOCK: usize = 4096;
/// Bytes of a slot, which is what one write writes: half a chunk of the bitmap.
pub const SLOT: u64 = 32 * 1024;
/// Writes under way at once.
pub const LANES: usize = 4;
/// A flush follows every so many writes.
pub const FLUSH_EVERY: u64 = 16;

/// What an area of a disk may hold. Clones share it.
#[derive(Clone, Debug)]
pub struct Ledger {
    area: Range<u64>,
    shared: Arc<Mutex<Book>>,
}

#[derive(Debug)]
struct Book {
    slots: Vec<Slot>,
    next: u64,
    acknowledged: u64,
    flushed: u64,
    random: u64,
    last_acknowledged: Instant,
    longest_pause: Duration,
}

/// What one slot may hold.
#[derive(Clone, Debug)]
struct Slot {
    /// Numbers of writes, each block has one of them; 0: never written. Never empty.
    may: Vec<u64>,
    busy: bool,
}

/// Counts of a [`Ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Writes begun.
    pub begun: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Of them, those that a flush came after.
    pub flushed: u64,
}

impl Ledger {
    /// For an area that reads as zeroes; what does not fill a slot at its end is not used. `seed` chooses the places.
    ///
    /// # Errors
    /// If the area is too small for every lane to have its slots.
    pub fn new(area: Range<u64>, seed: u64) -> Result<Ledger> {
        let slots = area.end.saturating_sub(area.start) / SLOT;
        if slots < 4 * LANES as u64 {
            bail!(
                "area of {} bytes is too small for the writer",
                area.end.saturating_sub(area.start)
            );
        }
        let book = Book {
            slots: vec![
                Slot {
                    may: vec![0],
                    busy: false
                };
                slots as usize
            ],
            next: 1,
            acknowledged: 0,
            flushed: 0,
            random: seed,
            last_acknowledged: Instant::now(),
            longest_pause: Duration::ZERO,
        };
        Ok(Ledger {
            area,
            shared: Arc::new(Mutex::new(book)),
        })
    }

    /// How much was written so far.
    pub fn counts(&self) -> Counts {
        let book = self.book();
        Counts {
            begun: book.next - 1,
            acknowledged: book.acknowledged,
            flushed: book.flushed,
        }
    }

    /// Forgets the pauses so far.
    pub fn watch(&self) {
        let mut book = self.book();
        book.last_acknowledged = Instant::now();
        book.longest_pause = Duration::ZERO;
    }

    /// The longest time between two acknowledgements since [`Ledger::watch`].
    pub fn longest_pause(&self) -> Duration {
        self.book().longest_pause
    }

    /// Chooses a slot that is not busy and begins a write to it: number, slot.
    fn begin(&self) -> (u64, usize) {
        let mut book = self.book();
        let slots = book.slots.len();
        // There are more slots than lanes, so this ends.
        let slot = loop {
            let slot = (next_random(&mut book.random) % slots as u64) as usize;
            if !book.slots[slot].busy {
                break slot;
            }
        };
        let number = book.next;
        book.next += 1;
        book.slots[slot].busy = true;
        book.slots[slot].may.push(number);
        (number, slot)
    }

    fn acknowledge(&self, number: u64, slot: usize) -> u64 {
        let mut book = self.book();
        book.slots[slot] = Slot {
            may: vec![number],
            busy: false,
        };
        book.acknowledged += 1;
        book.longest_pause = book.longest_pause.max(book.last_acknowledged.elapsed());
        book.last_acknowledged = Instant::now();
        book.acknowledged
    }

    /// The outcome is unknown: the slot may hold the old or the new, block by block.
    fn fail(&self, slot: usize) {
        self.book().slots[slot].busy = false;
    }

    /// Checks bytes that were read at `offset` of the disk, a multiple of [`BLOCK`] from the area's start.
    ///
    /// # Errors
    /// If a block does not hold one of the writes that it may; the text says where and what.
    pub fn check(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let book = self.book();
        for (index, block) in bytes.chunks(BLOCK).enumerate() {
            let place = offset + (index * BLOCK) as u64;
            let slot = ((place - self.area.start) / SLOT) as usize;
            let Some(slot) = book.slots.get(slot) else {
                break;
            };
            let found = u64::from_le_bytes(block.first_chunk::<8>().copied().unwrap_or_default());
            let whole = match found {
                0 => block.iter().all(|&byte| byte == 0),
                number => block == &block_of(number, place)[..block.len()],
            };
            if !whole {
                bail!(
                    "block at {place} of the disk is damaged: it begins like write {found} and goes on otherwise"
                );
            }
            if !slot.may.contains(&found) {
                let may: Vec<String> = slot.may.iter().map(u64::to_string).collect();
                bail!(
                    "an acknowledged write is lost: block at {place} holds write {found}, not {}",
                    may.join(" or ")
                );
            }
        }
        Ok(())
    }

    /// The bytes of the disk that the writer uses.
    pub fn area(&self) -> Range<u64> {
        let slots = self.book().slots.len() as u64;
        self.area.start..self.area.start + slots * SLOT
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// How much to write, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Writes after which it ends by itself.
    pub writes: u64,
    /// Pause of each lane after a write.
    pub pause: Duration,
}

impl Plan {
    /// Until told to stop.
    pub const ENDLESS: Plan = Plan {
        writes: u64::MAX,
        pause: Duration::from_millis(1),
    };
}

/// A writer at work. Dropped, it stops at once.
#[derive(Debug)]
pub struct Writer {
    lanes: JoinSet<Result<()>>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    /// Starts writing. To be called inside a tokio runtime.
    pub fn start(client: &Client, ledger: &Ledger, plan: Plan) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let last = ledger.counts().begun.saturating_add(plan.writes);
        let mut lanes = JoinSet::new();
        for _ in 0..LANES {
            lanes.spawn(lane(
                client.clone(),
                ledger.clone(),
                Arc::clone(&stop),
                last,
                plan.pause,
            ));
        }
        Writer { lanes, stop }
    }

    /// Whether it has nothing more to write, or can't.
    pub fn has_ended(&mut self) -> bool {
        self.lanes.try_join_next().is_some() || self.lanes.is_empty()
    }

    /// Waits until it has written all that was planned.
    ///
    /// # Errors
    /// The first write or flush that failed.
    pub async fn finish(mut self) -> Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.lanes.join_next().await {
            result = result.and(
                ended
                    .context("a writing task ended")
                    .and_then(|ended| ended),
            );
        }
        result
    }

    /// Stops it: what is under way is waited for.
    ///
    /// # Errors
    /// The first write or flush that failed.
    pub async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish().await
    }
}

async fn lane(
    client: Client,
    ledger: Ledger,
    stop: Arc<AtomicBool>,
    last: u64,
    pause: Duration,
) -> Result<()> {
    while !stop.load(Ordering::Relaxed) && ledger.counts().begun < last {
        let (number, slot) = ledger.begin();
        let offset = ledger.area.start + slot as u64 * SLOT;
        if let Err(error) = client.write(offset, slot_of(number, offset), false).await {
            ledger.fail(slot);
            return Err(error).with_context(|| format!("write {number} at {offset}"));
        }
        let acknowledged = ledger.acknowledge(number, slot);
        if acknowledged % FLUSH_EVERY == 0 {
            client.flush().await.context("flush")?;
            let mut book = ledger.book();
            book.flushed = book.flushed.max(acknowledged);
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}

/// What write `number` writes to the slot at `offset`.
fn slot_of(number: u64, offset: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(SLOT as usize);
    for place in (offset..offset + SLOT).step_by(BLOCK) {
        bytes.extend_from_slice(&block_of(number, place));
    }
    bytes.into()
}

/// What write `number` writes to the block at `place`: its number, the place, and noise that follows from both.
fn block_of(number: u64, place: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place;
    for (index, word) in block.chunks_exact_mut(8).enumerate() {
        let value = match index {
            0 => number,
            1 => place,
            _ => next_random(&mut random),
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    block
}

/// splitmix64: numbers that look random and follow from a seed.
pub fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1 << 20;

    fn ledger() -> Ledger {
        Ledger::new(START..START + 64 * SLOT, 1).unwrap()
    }

    #[test]
    fn an_acknowledged_write_must_be_there_whole() {
        let ledger = ledger();
        let (number, slot) = ledger.begin();
        let offset = START + slot as u64 * SLOT;
        let written = slot_of(number, offset);
        let zeroes = vec![0; SLOT as usize];
        // Under way: any mixture of blocks is possible.
        ledger.check(offset, &zeroes).unwrap();
        ledger
            .check(offset, &[&written[..BLOCK], &zeroes[BLOCK..]].concat())
            .unwrap();
        ledger.acknowledge(number, slot);
        ledger.check(offset, &written).unwrap();
        let error = ledger.check(offset, &zeroes).unwrap_err().to_string();
        assert!(
            error.contains("acknowledged write is lost") && error.contains("holds write 0, not 1"),
            "{error}"
        );
        let mut damaged = written.to_vec();
        damaged[BLOCK + 100] ^= 1;
        let error = ledger.check(offset, &damaged).unwrap_err().to_string();
        assert!(
            error.contains(&format!(
                "block at {} of the disk is damaged",
                offset + BLOCK as u64
            )),
            "{error}"
        );
    }

    #[test]
    fn a_write_that_failed_may_be_there_or_not_until_the_next_is_acknowledged() {
        let ledger = Ledger::new(START..START + 16 * SLOT, 1).unwrap();
        let (first, slot) = ledger.begin();
        let offset = START + slot as u64 * SLOT;
        ledger.acknowledge(first, slot);
        let begin_again = || loop {
            match ledger.begin() {
                (number, again) if again == slot => return number,
                (_, other) => ledger.fail(other),
            }
        };
        let second = begin_again();
        ledger.fail(slot);
        ledger.check(offset, &slot_of(first, offset)).unwrap();
        ledger.check(offset, &slot_of(second, offset)).unwrap();
        let third = begin_again();
        ledger.acknowledge(third, slot);
        assert!(
            ledger.check(offset, &slot_of(second, offset)).is_err(),
            "superseded"
        );
        ledger.check(offset, &slot_of(third, offset)).unwrap();
    }

    #[test]
    fn a_write_in_the_wrong_place_is_damage() {
        let ledger = ledger();
        let (number, slot) = ledger.begin();
        let offset = START + slot as u64 * SLOT;
        ledger.acknowledge(number, slot);
        assert!(
            ledger
                .check(offset, &slot_of(number, offset + SLOT))
                .is_err()
        );
    }
}

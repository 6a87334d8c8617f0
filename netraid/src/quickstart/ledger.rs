//! What the application of the story wrote, and whether a disk still has all of it.
//!
//! The area that is written to is cut into slots. A slot has one write under way at most, so that what it may hold is
//! known at any moment: the last write that was acknowledged, or one after it whose outcome is unknown. The ledger can
//! be kept in a file, too, line by line, so that it survives whoever writes.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;

/// Bytes of a block: each carries the number of its write.
pub const BLOCK: usize = 4096;
/// Bytes of a slot, which is what one write writes: half a chunk of the bitmap.
pub const SLOT: u64 = 32 * 1024;
/// Fewest slots of an area.
pub const MIN_SLOTS: u64 = 16;

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
    record: Option<File>,
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

/// One write that was begun.
#[derive(Clone, Debug)]
pub struct Begun {
    slot: usize,
    /// Its number, from 1.
    pub number: u64,
    /// Where it writes.
    pub offset: u64,
    /// What it writes.
    pub data: Bytes,
}

impl Ledger {
    /// For an area that reads as zeroes; what does not fill a slot at its end is not used. `seed` chooses the places.
    ///
    /// # Errors
    /// If the area has fewer than [`MIN_SLOTS`].
    pub fn new(area: Range<u64>, seed: u64) -> Result<Ledger> {
        let bytes = area.end.saturating_sub(area.start);
        let slots = bytes / SLOT;
        ensure!(
            slots >= MIN_SLOTS,
            "area of {bytes} bytes is too small for the writer"
        );
        let slot = Slot {
            may: vec![0],
            busy: false,
        };
        let book = Book {
            slots: vec![slot; slots as usize],
            next: 1,
            acknowledged: 0,
            flushed: 0,
            random: seed,
            last_acknowledged: Instant::now(),
            longest_pause: Duration::ZERO,
            record: None,
        };
        let area = area.start..area.start + slots * SLOT;
        Ok(Ledger {
            area,
            shared: Arc::new(Mutex::new(book)),
        })
    }

    /// Keeps everything from now on in a new file, too: each line is there before the write begins, and right after it
    /// was acknowledged. Not durable: it is to survive processes, not the machine.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn record_to(&self, path: &Path) -> Result<()> {
        let mut file = File::create(path).with_context(|| path.display().to_string())?;
        writeln!(file, "area {} {}", self.area.start, self.area.end)?;
        self.book().record = Some(file);
        Ok(())
    }

    /// The ledger that was kept in a file. A last line that is not whole is left out.
    ///
    /// # Errors
    /// If the file can't be read or is something else.
    pub fn replay(path: &Path) -> Result<Ledger> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut lines = text
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'));
        let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let ["area", start, end] = first[..] else {
            bail!("{} does not begin with an area", path.display())
        };
        let ledger = Ledger::new(start.parse()?..end.parse()?, 0)?;
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["begin", number, slot] => {
                    let mut book = ledger.book();
                    book.next = number.parse::<u64>()?.saturating_add(1);
                    book.slot(slot.parse()?)?.may.push(number.parse()?);
                }
                ["done", number, slot] => {
                    let mut book = ledger.book();
                    book.slot(slot.parse()?)?.may = vec![number.parse()?];
                    book.acknowledged += 1;
                }
                _ => bail!("{} has a line {line:?}", path.display()),
            }
        }
        Ok(ledger)
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

    /// Begins a write to a slot that is not busy. There must be fewer writes under way than [`MIN_SLOTS`].
    pub fn begin(&self) -> Begun {
        let mut book = self.book();
        let slots = book.slots.len() as u64;
        let slot = loop {
            let slot = (next_random(&mut book.random) % slots) as usize;
            if !book.slots[slot].busy {
                break slot;
            }
        };
        let number = book.next;
        book.keep(&format!("begin {number} {slot}"));
        book.next += 1;
        book.slots[slot].busy = true;
        book.slots[slot].may.push(number);
        drop(book);
        let offset = self.area.start + slot as u64 * SLOT;
        let blocks = (offset..offset + SLOT).step_by(BLOCK);
        let data: Vec<u8> = blocks.flat_map(|place| block(number, place)).collect();
        Begun {
            slot,
            number,
            offset,
            data: data.into(),
        }
    }

    /// A write was acknowledged. Returns how many were, with this one.
    pub fn acknowledge(&self, begun: &Begun) -> u64 {
        let mut book = self.book();
        book.keep(&format!("done {} {}", begun.number, begun.slot));
        book.slots[begun.slot] = Slot {
            may: vec![begun.number],
            busy: false,
        };
        book.acknowledged += 1;
        book.longest_pause = book.longest_pause.max(book.last_acknowledged.elapsed());
        book.last_acknowledged = Instant::now();
        book.acknowledged
    }

    /// The outcome of a write is unknown: its slot may hold the old or the new, block by block.
    pub fn fail(&self, begun: &Begun) {
        self.book().slots[begun.slot].busy = false;
    }

    /// A flush that began when so many writes were acknowledged has succeeded.
    pub fn flushed(&self, acknowledged: u64) {
        let mut book = self.book();
        book.flushed = book.flushed.max(acknowledged);
    }

    /// Checks bytes that were read at `offset` of the disk, a multiple of [`BLOCK`] from the area's start.
    ///
    /// # Errors
    /// If a block does not hold one of the writes that it may; the text says where and what.
    pub fn check(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let book = self.book();
        for (index, found) in bytes.chunks(BLOCK).enumerate() {
            let place = offset + (index * BLOCK) as u64;
            let slot = place.saturating_sub(self.area.start) / SLOT;
            let Some(slot) = book.slots.get(slot as usize) else {
                break;
            };
            let number = u64::from_le_bytes(found.first_chunk::<8>().copied().unwrap_or_default());
            let whole = match number {
                0 => found.iter().all(|&byte| byte == 0),
                number => found == &block(number, place)[..found.len()],
            };
            ensure!(
                whole,
                "block at {place} of the disk is damaged: it begins like write {number} and goes on otherwise"
            );
            let may = || {
                slot.may
                    .iter()
                    .map(u64::to_string)
                    .collect::<Vec<_>>()
                    .join(" or ")
            };
            ensure!(
                slot.may.contains(&number),
                "an acknowledged write is lost: block at {place} holds write {number}, not {}",
                may()
            );
        }
        Ok(())
    }

    /// The bytes of the disk that are written to.
    pub fn area(&self) -> Range<u64> {
        self.area.clone()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Book {
    /// What can't be kept is not kept any further: the file ends there, and is whole up to there.
    fn keep(&mut self, line: &str) {
        if let Some(file) = &mut self.record
            && file.write_all(format!("{line}\n").as_bytes()).is_err()
        {
            self.record = None;
        }
    }

    fn slot(&mut self, number: usize) -> Result<&mut Slot> {
        self.slots.get_mut(number).context("a slot beyond the area")
    }
}

/// What write `number` writes to the block at `place`: its number, the place, and noise that follows from both.
fn block(number: u64, place: u64) -> [u8; BLOCK] {
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
fn next_random(state: &mut u64) -> u64 {
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
        Ledger::new(START..START + 16 * SLOT, 1).unwrap()
    }

    /// Begins writes until one goes to the same slot.
    fn begin_again(ledger: &Ledger, begun: &Begun) -> Begun {
        loop {
            let next = ledger.begin();
            if next.slot == begun.slot {
                return next;
            }
            ledger.fail(&next);
        }
    }

    #[test]
    fn an_acknowledged_write_must_be_there_whole() {
        let ledger = ledger();
        let begun = ledger.begin();
        let (offset, written) = (begun.offset, &begun.data);
        let zeroes = vec![0; SLOT as usize];
        // Under way: any mixture of blocks is possible.
        ledger.check(offset, &zeroes).unwrap();
        ledger
            .check(offset, &[&written[..BLOCK], &zeroes[BLOCK..]].concat())
            .unwrap();
        ledger.acknowledge(&begun);
        ledger.check(offset, written).unwrap();
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
        let ledger = ledger();
        let first = ledger.begin();
        ledger.acknowledge(&first);
        let second = begin_again(&ledger, &first);
        ledger.fail(&second);
        ledger.check(first.offset, &first.data).unwrap();
        ledger.check(first.offset, &second.data).unwrap();
        let third = begin_again(&ledger, &first);
        ledger.acknowledge(&third);
        assert!(
            ledger.check(first.offset, &second.data).is_err(),
            "superseded"
        );
        ledger.check(first.offset, &third.data).unwrap();
    }

    #[test]
    fn a_write_in_the_wrong_place_is_damage() {
        let ledger = ledger();
        let begun = ledger.begin();
        ledger.acknowledge(&begun);
        let other = if begun.slot == 0 {
            begun.offset + SLOT
        } else {
            START
        };
        assert!(ledger.check(other, &begun.data).is_err());
    }

    #[test]
    fn a_ledger_in_a_file_says_the_same_as_the_one_that_wrote_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("writes.log");
        let ledger = ledger();
        ledger.record_to(&path).unwrap();
        let first = ledger.begin();
        ledger.acknowledge(&first);
        let second = begin_again(&ledger, &first);
        // The line was being written when everything ended.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(
            &path,
            format!("{text}done {} {}", second.number, second.slot),
        )
        .unwrap();
        let again = Ledger::replay(&path).unwrap();
        assert_eq!(again.counts(), ledger.counts());
        again.check(first.offset, &first.data).unwrap();
        again.check(first.offset, &second.data).unwrap();
        assert!(again.check(first.offset, &vec![0; SLOT as usize]).is_err());
        assert!(Ledger::replay(&folder.path().join("none")).is_err());
    }
}

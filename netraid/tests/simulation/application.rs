//! The application on the mirror: what it asked for, what it was told, and what it may therefore expect to read.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use nbd_protocol::command::{Answer, Command, Outcome};
use netraid::raid1::engine::RequestId;

use crate::disk::BLOCK;
use crate::random::Random;

#[derive(Debug)]
enum Asked {
    Write {
        blocks: Range<usize>,
        fua: bool,
        number: u32,
    },
    Read {
        first: usize,
        floor: Vec<u32>,
    },
    Flush {
        floor: Vec<u32>,
    },
}

/// What an answer means for the legs.
#[derive(Debug)]
pub enum Learned {
    /// These blocks are at least as new as this write on every leg in sync; with FUA on its stable storage too.
    Written {
        blocks: Range<usize>,
        number: u32,
        fua: bool,
    },
    /// Every block on stable storage is at least as new as this on every leg in sync.
    Flushed(Vec<u32>),
    /// Nothing is promised.
    Nothing,
}

/// What is known of every block. Each write has a number; a zeroing is a write of a number that reads as zero, so
/// zeroed blocks are compared by the numbers of their zeroings.
#[derive(Debug)]
pub struct Application {
    asked: HashMap<RequestId, Asked>,
    next: RequestId,
    /// For each block, the number of the last write that was answered with success.
    acknowledged: Vec<u32>,
    /// For each block, what must survive a power failure of everything.
    durable: Vec<u32>,
    /// For each block, the numbers of the zeroings asked for.
    zeroings: Vec<Vec<u32>>,
    /// The number of every write issued to each block, to recognise values that nobody wrote there.
    writes: Vec<Vec<u32>>,
    /// Blocks that the last leg in sync lost with a flush that failed; nobody has been told yet.
    doubtful: Vec<bool>,
    pub acknowledged_writes: u64,
    next_number: u32,
    /// For each write, what was acknowledged and what was durable when it was asked for.
    before: Vec<(Vec<u32>, Vec<u32>)>,
    /// The first write after the last loss of what was not flushed, wherever that was.
    horizon: u32,
}

impl Application {
    pub fn new(blocks: usize) -> Application {
        Application {
            asked: HashMap::new(),
            next: 1,
            acknowledged: vec![0; blocks],
            durable: vec![0; blocks],
            zeroings: vec![Vec::new(); blocks],
            writes: vec![Vec::new(); blocks],
            doubtful: vec![false; blocks],
            acknowledged_writes: 0,
            next_number: 1,
            horizon: 0,
            before: vec![(vec![0; blocks], vec![0; blocks])],
        }
    }

    /// A request of its own choosing, to a mirror of so many blocks.
    pub fn ask(&mut self, random: &mut Random, blocks: u64) -> (RequestId, Command) {
        let request = self.next;
        self.next += 1;
        let most = if random.chance(8) { blocks } else { 6 };
        let count = 1 + random.below(most.min(blocks));
        let first = random.below(blocks - count + 1);
        let (offset, length) = (first * BLOCK, count * BLOCK);
        let blocks = first as usize..(first + count) as usize;
        let (asked, command) = match random.below(10) {
            0..=4 => {
                let fua = random.chance(15);
                let number = self.issue(blocks.clone(), false);
                let data = Bytes::from(number.to_le_bytes().repeat(blocks.len()));
                (
                    Asked::Write {
                        blocks,
                        fua,
                        number,
                    },
                    Command::Write { offset, data, fua },
                )
            }
            5 => {
                let fua = random.chance(15);
                let number = self.issue(blocks.clone(), true);
                let command = if random.chance(50) {
                    Command::Trim {
                        offset,
                        length,
                        fua,
                    }
                } else {
                    Command::WriteZeroes {
                        offset,
                        length,
                        fua,
                        no_hole: random.chance(50),
                        fast: false,
                    }
                };
                (
                    Asked::Write {
                        blocks,
                        fua,
                        number,
                    },
                    command,
                )
            }
            6..=7 => (
                Asked::Read {
                    first: blocks.start,
                    floor: blocks.map(|block| self.floor(block)).collect(),
                },
                Command::Read {
                    offset,
                    length: length as u32,
                },
            ),
            _ => (
                Asked::Flush {
                    floor: self.acknowledged.clone(),
                },
                Command::Flush,
            ),
        };
        self.asked.insert(request, asked);
        (request, command)
    }

    fn issue(&mut self, blocks: Range<usize>, zero: bool) -> u32 {
        let number = self.next_number;
        self.next_number += 1;
        let floors = (0..self.acknowledged.len()).map(|block| self.floor(block));
        self.before.push((floors.collect(), self.durable.clone()));
        for block in blocks {
            if zero {
                self.zeroings[block].push(number)
            } else {
                self.writes[block].push(number)
            }
        }
        number
    }

    /// Takes the answer to `request` and says what it promises.
    pub fn answered(&mut self, request: RequestId, outcome: &Outcome) -> Learned {
        let asked = self
            .asked
            .remove(&request)
            .expect("answered once, and only what was asked");
        match (asked, outcome) {
            (
                Asked::Write {
                    blocks,
                    fua,
                    number,
                },
                Ok(_),
            ) => {
                self.acknowledged_writes += 1;
                for block in blocks.clone() {
                    if number > self.acknowledged[block] {
                        self.acknowledged[block] = number;
                        self.doubtful[block] = false;
                    }
                    if fua {
                        self.durable[block] = self.durable[block].max(number);
                    }
                }
                Learned::Written {
                    blocks,
                    number,
                    fua,
                }
            }
            (Asked::Flush { floor }, Ok(_)) => {
                for (durable, floor) in self.durable.iter_mut().zip(&floor) {
                    *durable = (*durable).max(*floor);
                }
                Learned::Flushed(floor)
            }
            (Asked::Flush { .. }, Err(_)) => {
                self.told_of_loss();
                Learned::Nothing
            }
            (Asked::Read { first, floor }, Ok(Answer::Data(data))) => {
                assert_eq!(data.len(), floor.len() * BLOCK as usize, "a short read");
                for (index, bytes) in data.chunks(BLOCK as usize).enumerate() {
                    let block = first + index;
                    let value = u32::from_le_bytes(bytes.try_into().unwrap());
                    self.expect_at_least(block, value, floor[index], "a read");
                }
                Learned::Nothing
            }
            (Asked::Read { .. }, Ok(other)) => panic!("a read answered with {other:?}"),
            (_, Err(_)) => Learned::Nothing,
        }
    }

    /// The value of a block must be that of a write at least as new as `floor`.
    pub fn expect_at_least(&self, block: usize, value: u32, floor: u32, what: &str) {
        assert!(
            self.is_at_least(block, value, floor),
            "{what}: block {block} holds {value}, older than write {floor}"
        );
        assert!(
            self.has_written(block, value, floor),
            "{what}: block {block} holds {value}, which nobody wrote there"
        );
    }

    /// Whether it is the value of a write at least as new as `floor`, and not what somebody wrote apart.
    pub fn has_written(&self, block: usize, value: u32, floor: u32) -> bool {
        let known = value == 0 || self.writes[block].contains(&value);
        known && self.is_at_least(block, value, floor)
    }

    pub fn is_at_least(&self, block: usize, value: u32, floor: u32) -> bool {
        match value {
            0 => floor == 0 || self.zeroings[block].iter().any(|number| *number >= floor),
            value => value >= floor,
        }
    }

    /// What block must be read as at least, whoever serves it now.
    pub fn floor(&self, block: usize) -> u32 {
        if self.doubtful[block] {
            self.durable[block]
        } else {
            self.acknowledged[block]
        }
    }

    /// What must be on stable storage, whoever serves it now.
    pub fn durable_floor(&self, block: usize) -> u32 {
        self.durable[block]
    }

    /// The only leg in sync lost what was not flushed of `block`. A flush has to fail before another may succeed.
    pub fn doubt(&mut self, block: usize) {
        self.doubtful[block] = true;
        for asked in self.asked.values_mut() {
            if let Asked::Read { first, floor } = asked
                && let Some(floor) = block.checked_sub(*first).and_then(|at| floor.get_mut(at))
            {
                *floor = (*floor).min(self.durable[block]);
            }
        }
    }

    /// A flush failed, or the application begins anew with what it finds.
    pub fn told_of_loss(&mut self) {
        for block in 0..self.doubtful.len() {
            if std::mem::take(&mut self.doubtful[block]) {
                self.acknowledged[block] = self.durable[block];
            }
        }
    }

    /// The source died: nobody will answer what was asked of it.
    pub fn forget_questions(&mut self) {
        self.asked.clear();
    }

    /// The mirror goes on from a leg that lost its power: what was not flushed may be gone.
    pub fn forget_volatile(&mut self) {
        self.acknowledged.clone_from(&self.durable);
        self.doubtful.fill(false);
    }

    /// The mirror goes on from a leg that lost this block with a flush that failed.
    pub fn forget_volatile_block(&mut self, block: usize) {
        self.acknowledged[block] = self.durable[block];
    }

    /// The application goes on with a leg that may be of the past; says whether it is.
    pub fn adopt(&mut self, cache: &[u32], stable: &[u32]) -> bool {
        let mut past = false;
        for block in 0..cache.len() {
            let mut lower = |floor: u32, value: u32| match self.is_at_least(block, value, floor) {
                true => floor,
                false => {
                    past = true;
                    value
                }
            };
            let acknowledged = lower(self.acknowledged[block], cache[block]);
            let durable = lower(self.durable[block], stable[block]);
            self.acknowledged[block] = acknowledged;
            // Which zeroing a zero is of can't be told.
            self.durable[block] = durable.min(acknowledged);
        }
        past
    }

    /// A disk lost what was not flushed.
    pub fn something_was_lost(&mut self) {
        self.horizon = self.next_number;
    }

    /// What was acknowledged, if nothing acknowledged was lost since, and what was durable, before the newest write in
    /// `values` was asked for: a disk that has that write has those too, or it is nothing that ever was.
    pub fn before_newest(&self, values: &[u32]) -> (Option<&[u32]>, &[u32]) {
        let known = |number: &&u32| **number < self.next_number;
        let newest = values.iter().filter(known).max().copied().unwrap_or(0);
        let (acknowledged, durable) = &self.before[newest as usize];
        let nothing_lost = newest >= self.horizon;
        (nothing_lost.then_some(acknowledged.as_slice()), durable)
    }

    pub fn is_waiting_for(&self, request: RequestId) -> bool {
        self.asked.contains_key(&request)
    }

    pub fn is_waiting(&self) -> bool {
        !self.asked.is_empty()
    }
}

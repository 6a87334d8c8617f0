//! The application on the mirror: what it asked for, what it was told, and what it may therefore expect to read.

use std::collections::HashMap;

use bytes::Bytes;
use nbd_protocol::command::{Answer, Command, Outcome};
use netraid::raid1::engine::RequestId;

use crate::disk::BLOCK;
use crate::random::Random;

#[derive(Debug)]
enum Asked {
    Write {
        first: usize,
        count: usize,
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

/// What is known of every block. Each write has a number; a zeroing is a write of a number that reads as zero, so
/// zeroed blocks are compared by [`Application::order`].
#[derive(Debug)]
pub struct Application {
    asked: HashMap<RequestId, Asked>,
    next: RequestId,
    /// For each block, the number of the last write that was answered with success.
    acknowledged: Vec<u32>,
    /// For each block, what must survive a power failure of everything.
    pub durable: Vec<u32>,
    /// For each block, the last write asked for.
    issued: Vec<u32>,
    /// For each block, the numbers of the zeroings asked for.
    zeroings: Vec<Vec<u32>>,
    /// The number of every write issued to each block, to recognise values that nobody wrote there.
    writes: Vec<Vec<u32>>,
    pub acknowledged_writes: u64,
    next_number: u32,
}

impl Application {
    pub fn new(blocks: usize) -> Application {
        Application {
            asked: HashMap::new(),
            next: 1,
            acknowledged: vec![0; blocks],
            durable: vec![0; blocks],
            issued: vec![0; blocks],
            zeroings: vec![Vec::new(); blocks],
            writes: vec![Vec::new(); blocks],
            acknowledged_writes: 0,
            next_number: 1,
        }
    }

    /// A request of its own choosing.
    pub fn ask(&mut self, random: &mut Random) -> (RequestId, Command) {
        let blocks = self.issued.len() as u64;
        let request = self.next;
        self.next += 1;
        let count = 1 + random.below(6.min(blocks));
        let first = random.below(blocks - count + 1);
        let (offset, length) = (first * BLOCK, count * BLOCK);
        let (first, count) = (first as usize, count as usize);
        let command = match random.below(10) {
            0..=4 => {
                let fua = random.chance(15);
                let number = self.issue(first, count, false);
                self.asked.insert(
                    request,
                    Asked::Write {
                        first,
                        count,
                        fua,
                        number,
                    },
                );
                Command::Write {
                    offset,
                    data: Bytes::from(number.to_le_bytes().repeat(count)),
                    fua,
                }
            }
            5 => {
                let number = self.issue(first, count, true);
                self.asked.insert(
                    request,
                    Asked::Write {
                        first,
                        count,
                        fua: false,
                        number,
                    },
                );
                if random.chance(50) {
                    Command::Trim {
                        offset,
                        length,
                        fua: false,
                    }
                } else {
                    Command::WriteZeroes {
                        offset,
                        length,
                        fua: false,
                        no_hole: random.chance(50),
                        fast: false,
                    }
                }
            }
            6..=7 => {
                self.asked.insert(
                    request,
                    Asked::Read {
                        first,
                        floor: self.acknowledged[first..first + count].to_vec(),
                    },
                );
                Command::Read {
                    offset,
                    length: length as u32,
                }
            }
            _ => {
                self.asked.insert(
                    request,
                    Asked::Flush {
                        floor: self.acknowledged.clone(),
                    },
                );
                Command::Flush
            }
        };
        (request, command)
    }

    fn issue(&mut self, first: usize, count: usize, zero: bool) -> u32 {
        let number = self.next_number;
        self.next_number += 1;
        for block in first..first + count {
            self.issued[block] = number;
            if zero {
                self.zeroings[block].push(number)
            } else {
                self.writes[block].push(number)
            }
        }
        number
    }

    /// Takes the answer to `request`; for a write that succeeded, returns its blocks and its number.
    pub fn answered(
        &mut self,
        request: RequestId,
        outcome: &Outcome,
    ) -> Option<(std::ops::Range<usize>, u32)> {
        let asked = self
            .asked
            .remove(&request)
            .expect("answered once, and only what was asked");
        match (asked, outcome) {
            (
                Asked::Write {
                    first,
                    count,
                    fua,
                    number,
                },
                Ok(_),
            ) => {
                self.acknowledged_writes += 1;
                for block in first..first + count {
                    self.acknowledged[block] = self.acknowledged[block].max(number);
                    if fua {
                        self.durable[block] = self.durable[block].max(number);
                    }
                }
                return Some((first..first + count, number));
            }
            (Asked::Flush { floor }, Ok(_)) => {
                for (durable, floor) in self.durable.iter_mut().zip(floor) {
                    *durable = (*durable).max(floor);
                }
            }
            (Asked::Read { first, floor }, Ok(Answer::Data(data))) => {
                for (index, bytes) in data.chunks(BLOCK as usize).enumerate() {
                    let value = u32::from_le_bytes(bytes.try_into().unwrap());
                    self.expect_at_least(first + index, value, floor[index], "a read");
                }
            }
            (Asked::Read { .. }, Ok(other)) => panic!("a read answered with {other:?}"),
            (_, Err(_)) => {}
        }
        None
    }

    /// The value of a block must be that of a write at least as new as `floor`.
    pub fn expect_at_least(&self, block: usize, value: u32, floor: u32, what: &str) {
        let new_enough = match value {
            0 => floor == 0 || self.zeroings[block].iter().any(|number| *number >= floor),
            value => value >= floor,
        };
        assert!(
            new_enough,
            "{what}: block {block} holds {value}, older than write {floor}"
        );
        let known = value == 0 || self.writes[block].contains(&value);
        assert!(
            known,
            "{what}: block {block} holds {value}, which nobody wrote there"
        );
    }

    /// What was acknowledged but perhaps not flushed.
    pub fn acknowledged(&self) -> &[u32] {
        &self.acknowledged
    }

    /// The source died: nobody will answer what was asked of it.
    pub fn forget_questions(&mut self) {
        self.asked.clear();
    }

    /// The source died with its power: what was not flushed may be gone. From now on only the durable counts.
    pub fn forget_volatile(&mut self) {
        self.acknowledged.clone_from(&self.durable);
    }

    pub fn is_waiting(&self) -> bool {
        !self.asked.is_empty()
    }
}

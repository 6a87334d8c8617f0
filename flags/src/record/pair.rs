//! Two copies of a record: which of them counts.
//!
//! A writer writes one copy, waits until it is on the disk, writes the other, waits, and only then does what the record
//! describes. So after a finished write both copies are equal, and losing one loses nothing; in the middle of a write one
//! copy is as before or as after, and both are truths: what the newer one announces has not begun yet.

use super::{RecordError, StateRecord};

/// The copy that counts, and what is wrong with the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The record.
    pub record: StateRecord,
    /// Which copy it was read from: 0 or 1.
    pub copy: usize,
    /// The other copy. Anything but [`OtherCopy::Equal`] is worth a line in the log and a new write of both.
    pub other: OtherCopy,
}

/// What became of the copy that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherCopy {
    /// It says the same.
    Equal,
    /// It is older: a write was interrupted between the two copies.
    Behind {
        /// Its sequence number.
        sequence: u64,
    },
    /// It cannot be read.
    Bad(RecordError),
}

/// Why neither copy counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// Neither was ever written.
    #[error("no state record: both places are blank")]
    Blank,
    /// Neither can be read.
    #[error("both copies of the state record are bad: the first: {first}; the second: {second}")]
    BothBad {
        /// What is wrong with the first.
        first: RecordError,
        /// What is wrong with the second.
        second: RecordError,
    },
    /// One was written by a newer program; the other may be out of date, whatever it says.
    #[error("copy {copy} of the state record has version {version}: use the newer program")]
    Newer {
        /// Which: 0 or 1.
        copy: usize,
        /// Its version.
        version: u32,
    },
    /// Both can be read and cannot both be true.
    #[error("the copies of the state record contradict each other: {what}")]
    Contradiction {
        /// In what.
        what: &'static str,
    },
}

/// Chooses between two copies: the newest that can be read. Copies that contradict each other are refused, as is a copy
/// of a newer version beside one that can be read.
pub fn decode_pair(first: &[u8], second: &[u8]) -> Result<Chosen, PairError> {
    let copies = [StateRecord::decode(first), StateRecord::decode(second)];
    for (copy, found) in copies.iter().enumerate() {
        if let Err(RecordError::Version { version }) = found {
            return Err(PairError::Newer {
                copy,
                version: *version,
            });
        }
    }
    match copies {
        [Ok(first), Ok(second)] => both(first, second),
        [Ok(record), Err(error)] => Ok(Chosen {
            record,
            copy: 0,
            other: OtherCopy::Bad(error),
        }),
        [Err(error), Ok(record)] => Ok(Chosen {
            record,
            copy: 1,
            other: OtherCopy::Bad(error),
        }),
        [Err(RecordError::Blank), Err(RecordError::Blank)] => Err(PairError::Blank),
        [Err(first), Err(second)] => Err(PairError::BothBad { first, second }),
    }
}

fn both(first: StateRecord, second: StateRecord) -> Result<Chosen, PairError> {
    if first.array != second.array {
        return Err(PairError::Contradiction {
            what: "they are of two arrays",
        });
    }
    if (first.node_id, &first.node) != (second.node_id, &second.node) {
        return Err(PairError::Contradiction {
            what: "they are of two nodes",
        });
    }
    let sequences = (first.sequence, second.sequence);
    if first == second {
        return Ok(Chosen {
            record: first,
            copy: 0,
            other: OtherCopy::Equal,
        });
    }
    match sequences.0.cmp(&sequences.1) {
        std::cmp::Ordering::Equal => Err(PairError::Contradiction {
            what: "one write, two contents",
        }),
        std::cmp::Ordering::Greater => {
            let other = OtherCopy::Behind {
                sequence: sequences.1,
            };
            Ok(Chosen {
                record: first,
                copy: 0,
                other,
            })
        }
        std::cmp::Ordering::Less => {
            let other = OtherCopy::Behind {
                sequence: sequences.0,
            };
            Ok(Chosen {
                record: second,
                copy: 1,
                other,
            })
        }
    }
}

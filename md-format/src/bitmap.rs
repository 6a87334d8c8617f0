//! The header of a write-intent bitmap, and whether its bits can be believed.
//!
//! `bitmap_super_t` of drivers/md/md-bitmap.h: 256 bytes, followed at once by the bits ([`DirtyBits`]). The header has no
//! checksum, so what can be checked is checked: magic, version, ranges, that it names the same array as the superblock,
//! and that it is not older.

mod dirty;

pub use dirty::{DirtyBits, Ranges};

use super::{MdUuid, PAGE, Superblock};
use std::ops::Range;

/// First four bytes of a bitmap (little-endian).
pub const MAGIC: u32 = 0x6d74_6962;

/// Bytes of the header; the bits follow.
pub const HEADER: usize = 256;

/// Chunks that a bitmap may have here: 32 MiB of bits. The kernel counts two bytes of memory for each.
pub const MAX_CHUNKS: u64 = 1 << 28;

/// `state`: the bits are out of date; all data has to be taken for different (bit 1, `BITMAP_STALE`).
pub const STATE_STALE: u32 = 1 << 1;
/// `state`: writing the bitmap failed (bit 2, `BITMAP_WRITE_ERROR`).
pub const STATE_WRITE_ERROR: u32 = 1 << 2;
/// `state`: bits are in the byte order of the machine that wrote them (bit 15, `BITMAP_HOSTENDIAN`).
pub const STATE_HOST_ENDIAN: u32 = 1 << 15;

/// The decoded header of a bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapSuperblock {
    /// Identity of the array; must be the superblock's `set_uuid`.
    pub uuid: MdUuid,
    /// The superblock's event count when the header was last written. Written before the superblock; if it is lower than
    /// the superblock's, bits may be missing.
    pub events: u64,
    /// Event count when bits were last cleared with all legs present. A leg whose event count is at least this missed
    /// nothing that has no bit; one with less needs a full resync.
    pub events_cleared: u64,
    /// Sectors that the bits speak for: the size of the array.
    pub sync_size: u64,
    /// [`STATE_STALE`], [`STATE_WRITE_ERROR`]; unknown bits are kept.
    pub state: u32,
    /// Bytes for which one bit speaks; a power of two.
    pub chunk: u32,
    /// Seconds between two sweeps that clear bits no longer needed.
    pub daemon_sleep: u32,
    /// Writes that may be outstanding to write-mostly legs; 0 for none.
    pub write_behind: u32,
    /// Sectors reserved for the bitmap, header included; 0 if not recorded (`mdadm` writes 0, the kernel fills it in).
    pub sectors_reserved: u32,
    /// Name of the cluster, kept as found.
    pub cluster_name: [u8; 64],
}

/// Why bytes are not a bitmap header that we can use. Any of these means: take all data for different.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BitmapError {
    /// Fewer bytes than the header, or than the bits need.
    #[error("write-intent bitmap is cut short: {have} bytes, {need} needed")]
    Short {
        /// Bytes given.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Something else is there, or nothing.
    #[error("no write-intent bitmap: magic is {found:#010x}, not 0x6d746962")]
    NoMagic {
        /// What is in its place.
        found: u32,
    },
    /// Only version 4 is known: 3 has the byte order of a machine, 5 belongs to clustered md.
    #[error("write-intent bitmap has version {version}, only version 4 is known")]
    Version {
        /// As found.
        version: u32,
    },
    /// Chunks of a size that the kernel refuses, too.
    #[error(
        "write-intent bitmap has chunks of {chunk} bytes; a power of two of at least 512 is needed"
    )]
    Chunk {
        /// As found.
        chunk: u32,
    },
    /// A header field outside of its range.
    #[error("write-intent bitmap has {field} {value}, outside of its range")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// As found.
        value: u64,
    },
    /// More chunks than [`MAX_CHUNKS`].
    #[error(
        "write-intent bitmap of {sync_size} sectors in chunks of {chunk} bytes has more than {MAX_CHUNKS} chunks"
    )]
    TooManyChunks {
        /// Sectors that it speaks for.
        sync_size: u64,
        /// Bytes a chunk.
        chunk: u32,
    },
    /// Bytes that must be zero are not: a format newer than ours.
    #[error(
        "write-intent bitmap has non-zero padding at byte {at}: the format is newer than this program"
    )]
    Padding {
        /// Offset in the header.
        at: usize,
    },
    /// It belongs to another array.
    #[error("write-intent bitmap belongs to array {bitmap}, the superblock to {superblock}")]
    Foreign {
        /// Its array.
        bitmap: MdUuid,
        /// The superblock's array.
        superblock: MdUuid,
    },
}

/// Whether set bits are all that may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Every chunk that may differ has its bit set.
    Complete,
    /// The superblock was written later than the bitmap: bits may be missing. Take every chunk for dirty.
    OutOfDate {
        /// Event count of the bitmap.
        bitmap: u64,
        /// Event count of the superblock.
        superblock: u64,
    },
    /// Whoever wrote it last marked it as not to be believed. Take every chunk for dirty.
    MarkedStale,
    /// Writing it failed. Take every chunk for dirty.
    WriteFailed,
    /// It speaks for less than the array has: somebody was stopped while the array was resized. Take every chunk for dirty.
    TooShort {
        /// Sectors that it speaks for.
        bitmap: u64,
        /// Sectors of the array.
        superblock: u64,
    },
}

impl BitmapSuperblock {
    /// Reads a header from the first [`HEADER`] bytes of a bitmap.
    pub fn decode(bytes: &[u8]) -> Result<BitmapSuperblock, BitmapError> {
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            return Err(BitmapError::Short {
                have: bytes.len(),
                need: HEADER,
            });
        };
        let magic = u32_at(header, field::MAGIC);
        if magic != MAGIC {
            return Err(BitmapError::NoMagic { found: magic });
        }
        let version = u32_at(header, field::VERSION);
        if version != VERSION {
            return Err(BitmapError::Version { version });
        }
        if let Some(at) = field::PAD.into_iter().find(|&at| header[at] != 0) {
            return Err(BitmapError::Padding { at });
        }
        let nodes = u32_at(header, field::NODES);
        if nodes != 0 {
            return Err(BitmapError::Field {
                field: "cluster nodes",
                value: nodes.into(),
            });
        }
        let bitmap = BitmapSuperblock {
            uuid: MdUuid(array_at(header, field::UUID)),
            events: u64_at(header, field::EVENTS),
            events_cleared: u64_at(header, field::EVENTS_CLEARED),
            sync_size: u64_at(header, field::SYNC_SIZE),
            state: u32_at(header, field::STATE),
            chunk: u32_at(header, field::CHUNKSIZE),
            daemon_sleep: u32_at(header, field::DAEMON_SLEEP),
            write_behind: u32_at(header, field::WRITE_BEHIND),
            sectors_reserved: u32_at(header, field::SECTORS_RESERVED),
            cluster_name: array_at(header, field::CLUSTER_NAME),
        };
        bitmap.check()?;
        Ok(bitmap)
    }

    /// The header as it is written at the start of the bitmap.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0_u8; HEADER];
        let mut put = |range: Range<usize>, value: &[u8]| out[range].copy_from_slice(value);
        put(field::MAGIC, &MAGIC.to_le_bytes());
        put(field::VERSION, &VERSION.to_le_bytes());
        put(field::UUID, &self.uuid.0);
        put(field::EVENTS, &self.events.to_le_bytes());
        put(field::EVENTS_CLEARED, &self.events_cleared.to_le_bytes());
        put(field::SYNC_SIZE, &self.sync_size.to_le_bytes());
        put(field::STATE, &self.state.to_le_bytes());
        put(field::CHUNKSIZE, &self.chunk.to_le_bytes());
        put(field::DAEMON_SLEEP, &self.daemon_sleep.to_le_bytes());
        put(field::WRITE_BEHIND, &self.write_behind.to_le_bytes());
        put(
            field::SECTORS_RESERVED,
            &self.sectors_reserved.to_le_bytes(),
        );
        put(field::CLUSTER_NAME, &self.cluster_name);
        out
    }

    /// Whether the bits can be believed beside this superblock of the same leg; an error if they belong elsewhere.
    ///
    /// The kernel refuses a foreign UUID and takes an older event count for "all dirty"; it overlooks a wrong size. One that
    /// speaks for more than the array has was written before the superblock of a size that never came; it is good for
    /// what there is.
    pub fn trust(&self, superblock: &Superblock) -> Result<Trust, BitmapError> {
        if self.uuid != superblock.set_uuid {
            return Err(BitmapError::Foreign {
                bitmap: self.uuid,
                superblock: superblock.set_uuid,
            });
        }
        Ok(if self.state & STATE_STALE != 0 {
            Trust::MarkedStale
        } else if self.state & STATE_WRITE_ERROR != 0 {
            Trust::WriteFailed
        } else if self.events < superblock.events {
            Trust::OutOfDate {
                bitmap: self.events,
                superblock: superblock.events,
            }
        } else if self.sync_size < superblock.size {
            Trust::TooShort {
                bitmap: self.sync_size,
                superblock: superblock.size,
            }
        } else {
            Trust::Complete
        })
    }

    /// The header of the same bitmap for an array of so many sectors.
    ///
    /// # Errors
    /// If it would have too many chunks.
    pub fn of_size(self, sectors: u64) -> Result<BitmapSuperblock, BitmapError> {
        let header = BitmapSuperblock {
            sync_size: sectors,
            ..self
        };
        header.check().map(|()| header)
    }

    /// Number of chunks, the last of which may be shorter than the others.
    pub fn chunks(&self) -> u64 {
        // check() has shown that it is within MAX_CHUNKS; a chunk set to 0 by hand gives no chunks rather than a panic.
        chunk_count(self.sync_size, self.chunk).unwrap_or(0)
    }

    /// Bytes of the whole bitmap, header included, in whole pages: what is read and written.
    pub fn bytes(&self) -> u64 {
        bitmap_bytes(self.chunks())
    }

    /// Reads the bits from the bytes of a whole bitmap, header included (at least up to the last chunk's bit).
    pub fn decode_bits(&self, bitmap: &[u8]) -> Result<DirtyBits, BitmapError> {
        DirtyBits::decode(self.chunks(), bitmap)
    }

    fn check(&self) -> Result<(), BitmapError> {
        let out_of_range = |field, value: u32| {
            Err(BitmapError::Field {
                field,
                value: value.into(),
            })
        };
        if self.chunk < 512 || !self.chunk.is_power_of_two() {
            return Err(BitmapError::Chunk { chunk: self.chunk });
        }
        if self.daemon_sleep == 0 || self.daemon_sleep > MAX_DAEMON_SLEEP {
            return out_of_range("daemon sleep", self.daemon_sleep);
        }
        if self.write_behind > MAX_WRITE_BEHIND {
            return out_of_range("write behind", self.write_behind);
        }
        if self.state & STATE_HOST_ENDIAN != 0 {
            return out_of_range("state", self.state);
        }
        if chunk_count(self.sync_size, self.chunk).is_none_or(|chunks| chunks > MAX_CHUNKS) {
            return Err(BitmapError::TooManyChunks {
                sync_size: self.sync_size,
                chunk: self.chunk,
            });
        }
        Ok(())
    }
}

/// How many chunks of `chunk` bytes cover `sectors`; `None` if the chunk is no whole number of sectors.
pub fn chunk_count(sectors: u64, chunk: u32) -> Option<u64> {
    match u64::from(chunk) / super::SECTOR {
        0 => None,
        chunk_sectors => Some(sectors.div_ceil(chunk_sectors)),
    }
}

/// Bytes of a bitmap of so many chunks, header included, in whole pages.
pub fn bitmap_bytes(chunks: u64) -> u64 {
    (HEADER as u64 + chunks.div_ceil(8)).next_multiple_of(PAGE as u64)
}

fn array_at<const N: usize>(header: &[u8; HEADER], range: Range<usize>) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&header[range]);
    out
}

fn u32_at(header: &[u8; HEADER], range: Range<usize>) -> u32 {
    u32::from_le_bytes(array_at(header, range))
}

fn u64_at(header: &[u8; HEADER], range: Range<usize>) -> u64 {
    u64::from_le_bytes(array_at(header, range))
}

/// Bits little-endian, whatever the machine (`BITMAP_MAJOR_HI`).
const VERSION: u32 = 4;
/// Most writes that can be outstanding in a chunk (`COUNTER_MAX` of md-bitmap.h).
const MAX_WRITE_BEHIND: u32 = 16383;
/// The kernel's bound is an interval in its own ticks; a day is more than anybody means.
const MAX_DAEMON_SLEEP: u32 = 86_400;

/// Byte ranges of `bitmap_super_t`.
mod field {
    use std::ops::Range;

    pub(super) const MAGIC: Range<usize> = 0..4;
    pub(super) const VERSION: Range<usize> = 4..8;
    pub(super) const UUID: Range<usize> = 8..24;
    pub(super) const EVENTS: Range<usize> = 24..32;
    pub(super) const EVENTS_CLEARED: Range<usize> = 32..40;
    pub(super) const SYNC_SIZE: Range<usize> = 40..48;
    pub(super) const STATE: Range<usize> = 48..52;
    pub(super) const CHUNKSIZE: Range<usize> = 52..56;
    pub(super) const DAEMON_SLEEP: Range<usize> = 56..60;
    pub(super) const WRITE_BEHIND: Range<usize> = 60..64;
    pub(super) const SECTORS_RESERVED: Range<usize> = 64..68;
    pub(super) const NODES: Range<usize> = 68..72;
    pub(super) const CLUSTER_NAME: Range<usize> = 72..136;
    pub(super) const PAD: Range<usize> = 136..256;
}

#[cfg(test)]
mod tests;

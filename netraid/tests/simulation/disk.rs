//! One simulated disk: a volatile cache over stable blocks, and metadata as it would be read back after a crash.

use nbd_protocol::command::Extent;
use netraid::raid1::chunks::ChunkSet;
use netraid::raid1::engine::{Shape, Update};
use netraid::raid1::intent::page_bytes;
use netraid::raid1::leg::{LegImage, LegRecord, SuperState};

use crate::random::Random;

/// Bytes of a block: each holds the number of the write that wrote it last.
pub const BLOCK: u64 = 4;

/// A disk with its metadata.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What a read returns.
    pub cache: Vec<u32>,
    /// What a power failure leaves at worst.
    pub stable: Vec<u32>,
    /// Blocks whose newest content went away with a flush that failed.
    pub lost: Vec<bool>,
    bits: Vec<u8>,
    /// What its superblock says.
    shape: Shape,
    /// The bytes for which its bitmap speaks.
    spoken_for: u64,
    record: LegRecord,
    superblock: Option<SuperState>,
}

/// One durable step of a metadata update; a crash can come between any two.
#[derive(Clone)]
pub enum MetadataStep {
    /// With the bytes for which all pages speak; the first has them in its header.
    Page(u32, Vec<u8>, u64),
    Record(LegRecord),
    /// With the bytes of the mirror.
    Superblock(SuperState, u64),
}

impl std::fmt::Debug for MetadataStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MetadataStep::Page(page, bytes, _) => {
                write!(f, "page {page} {:02x?}..", &bytes[..8.min(bytes.len())])
            }
            MetadataStep::Record(record) => f.write_str(&brief_record(record)),
            MetadataStep::Superblock(state, size) => {
                write!(f, "{} of {size} bytes", brief_state(state))
            }
        }
    }
}

/// The steps of an update, in the order in which a shell must make them durable.
pub fn steps(update: &Update) -> Vec<MetadataStep> {
    let pages = update.pages.iter();
    let mut steps: Vec<MetadataStep> = pages
        .map(|(page, bytes)| MetadataStep::Page(*page, bytes.to_vec(), update.size))
        .collect();
    if let Some((record, state)) = &update.superblock {
        steps.push(MetadataStep::Record(record.clone()));
        steps.push(MetadataStep::Superblock(state.clone(), update.size));
    }
    steps
}

impl Disk {
    /// A blank disk with arbitrary content.
    pub fn blank(blocks: u64, shape: Shape, content: u32) -> Disk {
        Disk {
            cache: vec![content; blocks as usize],
            stable: vec![content; blocks as usize],
            lost: vec![false; blocks as usize],
            bits: vec![0; (blocks * BLOCK).div_ceil(shape.chunk).div_ceil(8) as usize],
            shape,
            spoken_for: shape.size,
            record: LegRecord::default(),
            superblock: None,
        }
    }

    pub fn format(&mut self, image: LegImage) {
        self.bits = image.dirty.bytes(0, self.bits.len());
        self.record = image.record;
        self.superblock = Some(image.superblock);
    }

    /// A node that is the source elsewhere has marked the disk, and then written to these chunks.
    pub fn begin_foreign_resync(&mut self, chunks: Vec<u64>, content: u32) {
        self.record.consistent = false;
        if let Some(superblock) = &mut self.superblock {
            superblock.recovering = true;
        }
        for chunk in chunks {
            self.bits[(chunk / 8) as usize] |= 1 << (chunk % 8);
            let from = chunk * self.shape.chunk / BLOCK;
            let end = ((chunk + 1) * self.shape.chunk).min(self.shape.size) / BLOCK;
            for block in from as usize..end as usize {
                (self.cache[block], self.stable[block]) = (content, content);
                self.lost[block] = false;
            }
        }
    }

    /// What a node reads when it opens the disk; `None` while it is blank.
    pub fn image(&self) -> Option<LegImage> {
        let superblock = self.superblock.clone()?;
        Some(LegImage {
            superblock,
            record: self.record.clone(),
            dirty: self.dirty(),
        })
    }

    pub fn is_consistent(&self) -> bool {
        self.image().is_some_and(|image| image.is_consistent())
    }

    pub fn dirty(&self) -> ChunkSet {
        match self.spoken_for < self.shape.size {
            true => ChunkSet::full(self.shape.chunks()),
            false => ChunkSet::from_bytes(self.shape.chunks(), &self.bits),
        }
    }

    /// Whether the mirror has that block, as far as this disk knows.
    pub fn has(&self, block: usize) -> bool {
        (block as u64) < self.shape.size / BLOCK
    }

    /// What its metadata says.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn is_dirty(&self, chunk: u64) -> bool {
        self.spoken_for < self.shape.size || self.bits[(chunk / 8) as usize] & 1 << (chunk % 8) != 0
    }

    pub fn super_state(&self) -> Option<&SuperState> {
        self.superblock.as_ref()
    }

    pub fn record(&self) -> &LegRecord {
        &self.record
    }

    pub fn apply_metadata(&mut self, step: &MetadataStep) {
        match step {
            MetadataStep::Page(page, bytes, size) => {
                let (first, length) = page_bytes(*page);
                let end = self.bits.len().min(first + length);
                if *page == 0 {
                    self.spoken_for = *size;
                }
                if first < end {
                    self.bits[first..end].copy_from_slice(&bytes[..end - first]);
                }
            }
            MetadataStep::Record(record) => self.record = record.clone(),
            MetadataStep::Superblock(state, size) => {
                self.superblock = Some(state.clone());
                self.shape.size = *size;
            }
        }
    }

    /// The power fails during a step. A page is written in sectors, each wholly or not at all; here they are as small
    /// as a byte. A record has two copies and a superblock is one sector: they are never torn.
    pub fn tear_metadata(&mut self, step: &MetadataStep, random: &mut Random) {
        if let MetadataStep::Page(page, bytes, size) = step {
            // The header is in the first sector.
            if *page == 0 && random.chance(50) {
                self.spoken_for = *size;
            }
            let (first, length) = page_bytes(*page);
            let end = self.bits.len().min(first + length);
            for (old, new) in self.bits[first.min(end)..end].iter_mut().zip(bytes) {
                if random.chance(50) {
                    *old = *new;
                }
            }
        }
    }

    pub fn write(&mut self, offset: u64, data: &[u8], durable: bool) {
        for (index, bytes) in data.chunks(BLOCK as usize).enumerate() {
            let block = (offset / BLOCK) as usize + index;
            self.cache[block] = u32::from_le_bytes(bytes.try_into().unwrap());
            self.lost[block] = false;
            if durable {
                self.stable[block] = self.cache[block];
            }
        }
    }

    pub fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        let first = (offset / BLOCK) as usize;
        self.cache[first..first + (length / BLOCK) as usize]
            .iter()
            .flat_map(|block| block.to_le_bytes())
            .collect()
    }

    /// What the blocks hold, two at a time: a digest that never collides.
    pub fn digests(&self, offset: u64, length: u64) -> Vec<Extent> {
        let data = self.read(offset, length);
        let pairs = data.chunks(2 * BLOCK as usize);
        let extent = |pair: &[u8]| {
            let mut status = [0; 8];
            status[..pair.len()].copy_from_slice(pair);
            Extent {
                length: pair.len() as u64,
                status: u64::from_le_bytes(status),
            }
        };
        pairs.map(extent).collect()
    }

    pub fn flush(&mut self) {
        self.stable.clone_from(&self.cache);
    }

    /// A flush that fails: some blocks were written, some stay in the cache, and some are gone from it for good (as
    /// Linux does with pages that it could not write back).
    pub fn fail_flush(&mut self, random: &mut Random) {
        for block in 0..self.cache.len() {
            match random.below(3) {
                0 => self.stable[block] = self.cache[block],
                1 if self.cache[block] != self.stable[block] => {
                    self.cache[block] = self.stable[block];
                    self.lost[block] = true;
                }
                _ => {}
            }
        }
    }

    /// Power failure: each block that was not flushed is either written or not.
    pub fn lose_power(&mut self, random: &mut Random) {
        for (cached, stable) in self.cache.iter_mut().zip(&mut self.stable) {
            if random.chance(50) {
                *stable = *cached;
            } else {
                *cached = *stable;
            }
        }
    }
}

fn brief_record(record: &LegRecord) -> String {
    let id = |id: u64| format!("{:04x}", id >> 48);
    let generations = &record.generations;
    let away: Vec<String> = generations.away[..4].iter().map(|one| id(one.0)).collect();
    let history: Vec<String> = generations.history.iter().map(|one| id(one.0)).collect();
    format!(
        "[generation {} away {} history {}{}]",
        id(generations.current.0),
        away.join(","),
        history.join(","),
        if record.consistent {
            ""
        } else {
            " inconsistent"
        }
    )
}

fn brief_state(state: &SuperState) -> String {
    format!(
        "[events {} active {:?}{}{}]",
        state.events,
        state.active,
        if state.clean { " clean" } else { "" },
        if state.recovering { " recovering" } else { "" }
    )
}

/// An image in one line, for traces.
pub fn brief(image: Option<&LegImage>) -> String {
    image.map_or("blank".into(), |image| {
        let dirty: Vec<u64> = image.dirty.iter().collect();
        format!(
            "{} {} dirty {dirty:?}",
            brief_record(&image.record),
            brief_state(&image.superblock)
        )
    })
}

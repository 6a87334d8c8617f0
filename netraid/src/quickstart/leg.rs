//! Reading a leg's disk from outside: what its md metadata says, and where two legs differ.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::disk::{first_difference, next_data};
use crate::md::bitmap::{HEADER, Trust};
use crate::md::superblock::{BLOCK, Version};
use crate::md::{BitmapSuperblock, DirtyBits, Layout, SECTOR, Superblock};

/// A leg as its disk shows it at one moment.
#[derive(Debug)]
pub struct LegFile {
    path: PathBuf,
    file: File,
    /// Its superblock.
    pub superblock: Superblock,
    /// The header of its bitmap.
    pub bitmap: BitmapSuperblock,
    /// The chunks that may differ: all, if the bitmap can't be believed.
    pub dirty: DirtyBits,
    /// Where its data begins, in bytes.
    pub data: u64,
    /// Bytes of the mirror.
    pub size: u64,
}

/// Where two legs differ.
#[derive(Debug, Default)]
pub struct Differences {
    /// The first byte of the mirror that is not the same on both.
    pub first: Option<u64>,
    /// The chunks with differences, in order.
    pub chunks: Vec<u64>,
}

impl LegFile {
    /// Reads the metadata of a leg.
    ///
    /// # Errors
    /// If the disk can't be read or is no leg.
    pub fn open(path: &Path) -> Result<LegFile> {
        LegFile::read(path).with_context(|| format!("leg {}", path.display()))
    }

    fn read(path: &Path) -> Result<LegFile> {
        let file = File::open(path)?;
        let sectors = file.metadata()?.len() / SECTOR;
        let sector = Version::V1_2
            .sector(sectors)
            .context("too small to be one")?;
        let mut block = [0; BLOCK];
        file.read_exact_at(&mut block, sector * SECTOR)?;
        let superblock = Superblock::decode(&block)?;
        superblock.check_place(sector, sectors)?;
        let start = superblock.bitmap_sector().context("it has no bitmap")? * SECTOR;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, start)?;
        let bitmap = BitmapSuperblock::decode(&header)?;
        let layout = Layout::of(&superblock, &bitmap)?;
        let mut bytes = vec![0; bitmap.bytes() as usize];
        file.read_exact_at(&mut bytes, layout.bitmap)?;
        let dirty = match bitmap.trust(&superblock)? {
            Trust::Complete => bitmap.decode_bits(&bytes)?,
            _ => DirtyBits::all_dirty(bitmap.chunks()),
        };
        let size = superblock.size * SECTOR;
        Ok(LegFile {
            path: path.to_owned(),
            file,
            superblock,
            bitmap,
            dirty,
            data: layout.data,
            size,
        })
    }

    /// Compares the data of two legs of one mirror, byte by byte.
    ///
    /// # Errors
    /// If they are not of one mirror, can't be read, or `advance`, called with bytes done, gives one.
    pub fn differences(
        &self,
        other: &LegFile,
        mut advance: impl FnMut(u64) -> Result<()>,
    ) -> Result<Differences> {
        if self.superblock.set_uuid != other.superblock.set_uuid || self.size != other.size {
            bail!(
                "{} and {} are not legs of one mirror",
                self.path.display(),
                other.path.display()
            );
        }
        let chunk = u64::from(self.bitmap.chunk);
        let mut found = Differences::default();
        let (mut here, mut there) = (vec![0; chunk as usize], vec![0; chunk as usize]);
        let mut position = 0;
        while let Some(next) = self
            .next_data(position, chunk)?
            .into_iter()
            .chain(other.next_data(position, chunk)?)
            .min()
        {
            advance(next - position)?;
            let length = (self.size - next).min(chunk) as usize;
            self.file
                .read_exact_at(&mut here[..length], self.data + next)?;
            other
                .file
                .read_exact_at(&mut there[..length], other.data + next)?;
            if let Some(at) = first_difference(&here[..length], &there[..length]) {
                found.first.get_or_insert(next + at as u64);
                found.chunks.push(next / chunk);
            }
            advance(length as u64)?;
            position = next + length as u64;
        }
        advance(self.size - position)?;
        Ok(found)
    }

    /// The first chunk with data at or after `position`, as a byte of the mirror.
    fn next_data(&self, position: u64, chunk: u64) -> Result<Option<u64>> {
        if position >= self.size {
            return Ok(None);
        }
        let data = next_data(&self.file, self.data + position)?.map(|data| data - self.data);
        Ok(data
            .filter(|&data| data < self.size)
            .map(|data| data - data % chunk))
    }

    /// Reads from the leg's data; offsets as in the mirror.
    ///
    /// # Errors
    /// If it can't be read, or ends before.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let place = self.data.saturating_add(offset);
        self.file
            .read_exact_at(bytes, place)
            .with_context(|| format!("leg {} at {place}", self.path.display()))
    }

    /// The chunks of `differences` that neither leg has a bit for: each is a broken promise.
    pub fn unmarked(&self, other: &LegFile, differences: &Differences) -> Vec<u64> {
        let marked = |chunk: &u64| self.dirty.test(*chunk) || other.dirty.test(*chunk);
        differences
            .chunks
            .iter()
            .copied()
            .filter(|chunk| !marked(chunk))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::md::superblock::Timestamp;
    use crate::md::{MdUuid, NewLeg, NewMirror, Start};

    const SIZE: u64 = 8 << 20;
    const CHUNK: u64 = 65536;

    /// Two legs of one mirror without a dirty chunk, and their first byte of data.
    fn legs(folder: &Path) -> ([PathBuf; 2], u64) {
        let leg = |id| NewLeg {
            device: SIZE,
            uuid: MdUuid([id; 16]),
            write_mostly: false,
            fail_fast: false,
        };
        let mirror = NewMirror {
            uuid: MdUuid([9; 16]),
            name: "demo".into(),
            created: Timestamp::from_seconds(1),
            chunk: CHUNK as u32,
            daemon_sleep: 5,
            legs: vec![Some(leg(1)), Some(leg(2))],
            start: Start::Equal,
        };
        let mut data = 0;
        let paths = ["one", "two"].map(|name| folder.join(name));
        for (path, leg) in paths.iter().zip(mirror.format().unwrap()) {
            let leg = leg.unwrap();
            let file = File::create(path).unwrap();
            file.set_len(SIZE).unwrap();
            file.write_all_at(&leg.superblock.encode(), leg.layout.superblock)
                .unwrap();
            file.write_all_at(&leg.bitmap.encode(), leg.layout.bitmap)
                .unwrap();
            data = leg.layout.data;
        }
        (paths, data)
    }

    #[test]
    fn a_difference_is_found_and_known_to_be_marked_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let (paths, data) = legs(folder.path());
        let open = || paths.each_ref().map(|path| LegFile::open(path).unwrap());
        let [one, two] = open();
        assert!(one.differences(&two, |_| Ok(())).unwrap().chunks.is_empty());
        let place = 3 * CHUNK + 17;
        File::options()
            .write(true)
            .open(&paths[1])
            .unwrap()
            .write_all_at(b"x", data + place)
            .unwrap();
        let mut done = 0;
        let found = one
            .differences(&two, |bytes| {
                done += bytes;
                Ok(())
            })
            .unwrap();
        assert_eq!(
            (found.first, found.chunks.as_slice(), done),
            (Some(place), &[3][..], one.size)
        );
        assert_eq!(one.unmarked(&two, &found), [3]);
        // Bit 3 of the first byte behind the header, on the other leg.
        let bits = 8192 + HEADER as u64;
        File::options()
            .write(true)
            .open(&paths[0])
            .unwrap()
            .write_all_at(&[1 << 3], bits)
            .unwrap();
        let [one, two] = open();
        assert!(one.unmarked(&two, &found).is_empty());
    }

    #[test]
    fn what_is_no_leg_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blank");
        File::create(&path).unwrap().set_len(SIZE).unwrap();
        let error = format!("{:#}", LegFile::open(&path).unwrap_err());
        assert!(
            error.contains("blank") && error.contains("magic"),
            "{error}"
        );
    }
}

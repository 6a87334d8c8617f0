//! Scratch folders that vanish with their owner, image files with known contents, and comparing them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes in a mebibyte.
pub const MIB: u64 = 1 << 20;

/// A folder for one test, removed with everything in it when dropped.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new folder under the system's temporary folder.
    pub fn new() -> Scratch {
        // A socket's path may have 107 bytes only, so the folder's name is short.
        Scratch(
            tempfile::Builder::new()
                .prefix("nr-")
                .tempdir()
                .expect("make a scratch folder"),
        )
    }

    /// A new folder inside `parent`, for files that must lie on a certain file system.
    pub fn inside(parent: &Path) -> std::io::Result<Scratch> {
        Ok(Scratch(
            tempfile::Builder::new().prefix("nr-").tempdir_in(parent)?,
        ))
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// The path of a file in the folder, whether it is there or not.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of `size` bytes that is one hole.
    pub fn sparse(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).expect("create an image");
        file.set_len(size).expect("give an image its size");
        path
    }

    /// A file of `size` bytes of noise made from `seed`: no block equals another.
    pub fn noise(&self, name: &str, size: u64, seed: u64) -> PathBuf {
        let path = self.path(name);
        let mut file = File::create(&path).expect("create an image");
        let mut noise = Noise::new(seed);
        let mut block = vec![0; 1 << 16];
        let mut left = size;
        while left > 0 {
            let length = left.min(block.len() as u64) as usize;
            noise.fill(&mut block[..length]);
            file.write_all(&block[..length]).expect("fill an image");
            left -= length as u64;
        }
        path
    }

    /// A file of `size` bytes with 1 MiB of noise at every fourth MiB, and holes between.
    pub fn patchy(&self, name: &str, size: u64, seed: u64) -> PathBuf {
        let path = self.sparse(name, size);
        let file = File::options()
            .write(true)
            .open(&path)
            .expect("open an image");
        let mut noise = Noise::new(seed);
        let mut block = vec![0; MIB as usize];
        for offset in (0..size).step_by(4 * MIB as usize) {
            let length = (size - offset).min(MIB) as usize;
            noise.fill(&mut block[..length]);
            file.write_all_at(&block[..length], offset)
                .expect("fill an image");
        }
        path
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

/// Bytes that look random and follow from a seed (splitmix64).
#[derive(Debug)]
pub struct Noise(u64);

impl Noise {
    /// The noise that belongs to `seed`.
    pub fn new(seed: u64) -> Noise {
        Noise(seed)
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.word().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Panics unless the first `length` bytes of both files are the same; says where they begin to differ.
pub fn assert_same_up_to(one: &Path, other: &Path, length: u64) {
    if let Some(offset) = first_difference(one, other, length) {
        panic!(
            "{} and {} differ at byte {offset}",
            one.display(),
            other.display()
        );
    }
}

/// Panics unless both files have the same size and contents; says where they begin to differ.
pub fn assert_same(one: &Path, other: &Path) {
    let size = |path: &Path| {
        path.metadata()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .len()
    };
    assert_eq!(
        size(one),
        size(other),
        "sizes of {} and {}",
        one.display(),
        other.display()
    );
    assert_same_up_to(one, other, size(one));
}

/// Where two files begin to differ within their first `length` bytes.
pub fn first_difference(one: &Path, other: &Path, length: u64) -> Option<u64> {
    let open = |path: &Path| {
        File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let (mut one, mut other) = (open(one), open(other));
    let (mut here, mut there) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    let mut offset = 0;
    while offset < length {
        let step = (length - offset).min(MIB) as usize;
        for (file, block) in [(&mut one, &mut here), (&mut other, &mut there)] {
            file.seek(SeekFrom::Start(offset))
                .expect("seek in an image");
            file.read_exact(&mut block[..step]).expect("read an image");
        }
        if let Some(index) = (0..step).find(|&index| here[index] != there[index]) {
            return Some(offset + index as u64);
        }
        offset += step as u64;
    }
    None
}

/// The bytes of a file at `offset`.
pub fn bytes_at(path: &Path, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.read_exact_at(&mut bytes, offset)
        .unwrap_or_else(|error| panic!("{} at {offset}: {error}", path.display()));
    bytes
}

/// Bytes that a file occupies on its disk, as opposed to its size.
pub fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    path.metadata()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .blocks()
        * 512
}

//! What is done to a machine, one thing at a time, as values: planned first, then shown or performed.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::Order;
use super::{runner, sysfs};
use crate::array::ArrayError;
use crate::array::disk::{Access, Disk};
use crate::array::leg::{Leg, Write};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Run `mdadm`.
    Mdadm(Order),
    /// Set an attribute in sysfs.
    Attribute {
        /// Its file.
        file: PathBuf,
        /// Its value.
        value: String,
    },
    /// Mark chunks in the bitmap of a running array, and make sure that they are marked on its leg's disk.
    Mark {
        /// The array's `bitmap_set_bits`.
        file: PathBuf,
        /// The leg of this node.
        leg: PathBuf,
        /// Chunks.
        chunks: Vec<Range<u64>>,
    },
    /// Write metadata to a disk, durably, in this order.
    Write {
        /// The disk.
        disk: PathBuf,
        /// What it says afterwards.
        what: String,
        /// Offsets and bytes.
        writes: Vec<Write>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Mdadm(order) => f.write_str(&order.line()),
            Step::Attribute { file, value } => write!(f, "echo {value} > {}", file.display()),
            Step::Mark { file, chunks, .. } => {
                let count: u64 = chunks.iter().map(|run| run.end - run.start).sum();
                let first = lines(chunks).into_iter().next().unwrap_or_default();
                let more = if first.len() > 60 { "..." } else { "" };
                let first: String = first.chars().take(60).collect();
                write!(
                    f,
                    "echo {first}{more} > {} # {count} chunks",
                    file.display()
                )
            }
            Step::Write { disk, what, writes } => {
                let bytes: usize = writes.iter().map(|(_, data)| data.len()).sum();
                write!(
                    f,
                    "write {bytes} bytes of metadata to {}: {what}",
                    disk.display()
                )
            }
        }
    }
}

/// Performs one step.
///
/// # Errors
/// What did not work, with the step's own words.
pub fn perform(step: &Step, mdadm: &Path, patience: Duration) -> Result<(), ArrayError> {
    match step {
        Step::Mdadm(order) => runner::run(mdadm, &order.arguments(), patience),
        Step::Attribute { file, value } => set(file, value),
        Step::Mark { file, leg, chunks } => {
            for line in lines(chunks) {
                set(file, &line)?;
            }
            check_marks(leg, chunks)
        }
        Step::Write { disk, writes, .. } => {
            let disk = Disk::open(disk, Access::Write).map_err(ArrayError::failed)?;
            for (offset, data) in writes {
                disk.write(*offset, data).map_err(ArrayError::failed)?;
            }
            Ok(())
        }
    }
}

fn set(file: &Path, value: &str) -> Result<(), ArrayError> {
    sysfs::write(file, value).map_err(|error| {
        ArrayError::Failed(format!(
            "{} does not take {value:?}: {error}",
            file.display()
        ))
    })
}

/// The kernel says nothing when it does not understand a range. So the disk is asked.
fn check_marks(leg: &Path, chunks: &[Range<u64>]) -> Result<(), ArrayError> {
    let disk = Disk::open(leg, Access::Read).map_err(ArrayError::failed)?;
    let leg_read = Leg::read(&disk).map_err(ArrayError::failed)?;
    let marked = leg_read.bitmap.as_ref().is_some_and(|bitmap| {
        let whole =
            |run: &Range<u64>| bitmap.bits.next_clean(run.start).unwrap_or(u64::MAX) >= run.end;
        chunks.iter().all(whole)
    });
    match marked {
        true => Ok(()),
        false => Err(ArrayError::Failed(format!(
            "the kernel did not mark the chunks on {}; the leg is not added",
            leg.display()
        ))),
    }
}

/// Ranges as `bitmap_set_bits` reads them, several a line, each line no longer than the kernel takes at once.
pub fn lines(chunks: &[Range<u64>]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for run in chunks.iter().filter(|run| run.start < run.end) {
        let word = format!("{}-{}", run.start, run.end - 1);
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= LONGEST => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

/// A page is the most that sysfs takes at once; a page has at least 4096 bytes.
const LONGEST: usize = 4000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_chunks_are_written_as_the_kernel_reads_them() {
        assert_eq!(lines(&[0..1, 5..5, 7..10]), ["0-0 7-9"]);
        assert!(lines(&[]).is_empty());
        let many: Vec<Range<u64>> = (0..5000).map(|n| n * 3..n * 3 + 2).collect();
        let lines = lines(&many);
        assert!(lines.iter().all(|line| line.len() <= LONGEST));
        let words = lines.iter().flat_map(|line| line.split(' '));
        let back: Vec<Range<u64>> = words
            .map(|word| {
                let (first, last) = word.split_once('-').unwrap();
                first.parse::<u64>().unwrap()..last.parse::<u64>().unwrap() + 1
            })
            .collect();
        assert_eq!(back, many);
    }

    #[test]
    fn steps_read_like_commands() {
        let step = Step::Mark {
            file: "/sys/block/md0/md/bitmap_set_bits".into(),
            leg: "/dev/sdb1".into(),
            chunks: vec![1..3, 9..10],
        };
        assert_eq!(
            step.to_string(),
            "echo 1-2 9-9 > /sys/block/md0/md/bitmap_set_bits # 3 chunks"
        );
    }
}

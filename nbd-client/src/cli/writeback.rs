//! Sends a large copy to the disk as it goes and lets go of the page cache behind it.
//!
//! Otherwise a copy fills the memory with dirty pages that nobody reads again: it pushes out what other programs use,
//! and its final flush takes as long as the copy did. The kernel begins to write a range when it is told that the range
//! is not needed (POSIX_FADV_DONTNEED, posix_fadvise(2)), and drops it when it is told again after that.

use std::collections::VecDeque;
use std::fs::File;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Stretches of one file that were written lately, oldest first, as multiples of [`STRETCH`].
#[derive(Debug, Default)]
pub(crate) struct Writeback {
    stretches: VecDeque<u64>,
}

impl Writeback {
    /// Takes note of a write at `offset`.
    pub(crate) fn wrote(&mut self, file: &File, offset: u64) {
        let stretch = offset / STRETCH;
        if self
            .stretches
            .iter()
            .rev()
            .take(BEGIN_BEHIND + 1)
            .any(|known| *known == stretch)
        {
            return;
        }
        self.stretches.push_back(stretch);
        if let Some(begin) = self.stretches.len().checked_sub(BEGIN_BEHIND + 1) {
            let_go(file, self.stretches[begin]);
        }
        if self.stretches.len() > DROP_BEHIND
            && let Some(oldest) = self.stretches.pop_front()
        {
            let_go(file, oldest);
        }
    }
}

/// A hint: if it fails nothing is lost but memory.
fn let_go(file: &File, stretch: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(stretch * STRETCH), i64::try_from(STRETCH))
    else {
        return;
    };
    let _ = posix_fadvise(
        file,
        offset,
        length,
        PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    );
}

/// Unit of advice in bytes.
const STRETCH: u64 = 8 << 20;

/// So many stretches may still be in the making by requests that overtake each other.
const BEGIN_BEHIND: usize = 4;

/// Behind so many stretches the disk should be done.
const DROP_BEHIND: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bounded_number_of_stretches_is_remembered_and_each_once() {
        let file = tempfile::tempfile().unwrap();
        let mut writeback = Writeback::default();
        for megabyte in 0..1000u64 {
            // Requests overtake each other by a few.
            writeback.wrote(&file, (megabyte ^ 5) << 20);
        }
        let stretches: Vec<u64> = writeback.stretches.iter().copied().collect();
        assert_eq!(stretches, (113..125).collect::<Vec<_>>());
    }
}

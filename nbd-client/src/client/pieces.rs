//! Cutting a range into what one request may name, and keeping some of the pieces in flight.

use std::collections::VecDeque;

use nbd_protocol::command::Answer;

use super::Error;
use super::pool::Started;

/// Pieces of a range, as (offset, length): at most `step` bytes each, cut at multiples of `step`, so that a range whose
/// ends are aligned to a block that divides `step` has only aligned pieces.
pub(super) struct Pieces {
    offset: u64,
    left: u64,
    step: u64,
}

impl Pieces {
    pub(super) fn new(offset: u64, length: u64, step: u64) -> Pieces {
        Pieces {
            offset,
            left: length,
            step: step.max(1),
        }
    }
}

impl Iterator for Pieces {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        if self.left == 0 {
            return None;
        }
        // A range that fits in one request is never cut, wherever it begins.
        let to_cut = if self.left <= self.step {
            self.left
        } else {
            self.step - self.offset % self.step
        };
        let piece = (self.offset, to_cut.min(self.left));
        self.left -= piece.1;
        // Beyond the end of 64 bits nothing fits an export; the check before sending says so.
        self.offset = self.offset.saturating_add(piece.1);
        Some(piece)
    }
}

/// Requests that were started, at most so many, in order.
pub(super) struct Window {
    started: VecDeque<Started>,
    most: usize,
}

impl Window {
    pub(super) fn new(most: usize) -> Window {
        Window {
            started: VecDeque::with_capacity(most),
            most,
        }
    }

    /// Adds one; when the window is full, waits for its oldest and returns its outcome.
    pub(super) async fn add(&mut self, started: Started) -> Option<Result<Answer, Error>> {
        self.started.push_back(started);
        if self.started.len() < self.most {
            return None;
        }
        self.next().await
    }

    /// The outcome of the oldest.
    pub(super) async fn next(&mut self) -> Option<Result<Answer, Error>> {
        match self.started.pop_front() {
            Some(started) => Some(started.outcome().await),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_cover_the_range_in_order_and_fit_the_server(
            offset in 0..1u64 << 40, length in 0..1u64 << 20, block_bits in 0u32..13, blocks in 1u64..64,
        ) {
            let block = 1 << block_bits;
            let (offset, length, step) = (offset / block * block, length / block * block, block * blocks);
            let mut next = offset;
            for (piece, size) in Pieces::new(offset, length, step) {
                prop_assert_eq!(piece, next);
                prop_assert!(size > 0 && size <= step && size % block == 0);
                prop_assert!(piece == offset || piece % step == 0, "cut beside a multiple of {}", step);
                next += size;
            }
            prop_assert_eq!(next, offset + length);
        }
    }
}

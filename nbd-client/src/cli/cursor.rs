//! Walks over one or two disks in step, and cuts them into pieces that are zero or worth a request.

use std::collections::VecDeque;
use std::sync::Arc;

use super::exit::Exit;
use super::place::{Place, Run};

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// All places say that this reads as zeroes.
    pub(crate) zero: bool,
}

/// Position in up to two places.
pub(crate) struct Cursor {
    position: u64,
    end: u64,
    /// Offsets and lengths are multiples of this, but for the end.
    grain: u64,
    /// Pieces of data are at most this long and do not cross multiples of it.
    request_size: u64,
    tracks: Vec<Track>,
}

/// What is known of one place from the cursor's position on.
struct Track {
    place: Arc<Place>,
    runs: VecDeque<Run>,
}

impl Cursor {
    /// From the beginning of all `places` to `end`, which none of them is shorter than.
    pub(crate) fn new(places: Vec<Arc<Place>>, end: u64, grain: u64, request_size: u64) -> Cursor {
        let grain = places
            .iter()
            .map(|place| place.minimum_block())
            .max()
            .unwrap_or(1)
            .max(grain)
            .max(1);
        let tracks = places
            .into_iter()
            .map(|place| Track {
                place,
                runs: VecDeque::new(),
            })
            .collect();
        Cursor {
            position: 0,
            end,
            grain,
            request_size: request_size.max(grain),
            tracks,
        }
    }

    /// The next piece; asks the places only when what they said before is used up.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, Exit> {
        if self.position >= self.end {
            return Ok(None);
        }
        let mut together = Run {
            length: self.end - self.position,
            zero: true,
        };
        for track in &mut self.tracks {
            let run = track.at(self.position).await?;
            together = Run {
                length: together.length.min(run.length),
                zero: together.zero && run.zero,
            };
        }
        let piece = self.cut(together);
        for track in &mut self.tracks {
            track.skip(piece.length);
        }
        self.position += piece.length;
        Ok(Some(piece))
    }

    /// Ends the walk soon behind `offset`, at a multiple of the grain.
    pub(crate) fn shorten(&mut self, offset: u64) {
        let end = offset
            .checked_next_multiple_of(self.grain)
            .unwrap_or(u64::MAX);
        self.end = self.end.min(end);
    }

    /// A piece from the position on, given that `run` is all of one kind.
    fn cut(&self, run: Run) -> Piece {
        let left = self.end - self.position;
        let mut run = run;
        if run.length < left {
            // The position is a multiple of the grain, so the length must be one too; what is shorter counts as data.
            run.length -= run.length % self.grain;
            if run.length == 0 {
                run = Run {
                    length: self.grain.min(left),
                    zero: false,
                };
            }
        }
        let most = if run.zero {
            ZERO_PIECE
        } else {
            self.request_size - self.position % self.request_size
        };
        Piece {
            offset: self.position,
            length: run.length.min(most),
            zero: run.zero,
        }
    }
}

impl Track {
    /// The run that begins at `position`, which is where the earlier ones were skipped to.
    async fn at(&mut self, position: u64) -> Result<Run, Exit> {
        loop {
            match self.runs.front() {
                Some(run) if run.length > 0 => return Ok(*run),
                Some(_) => drop(self.runs.pop_front()),
                None => self.runs = self.place.runs(position).await?.into(),
            }
        }
    }

    fn skip(&mut self, mut length: u64) {
        while let Some(run) = self.runs.front_mut() {
            if run.length > length {
                run.length -= length;
                return;
            }
            length -= run.length;
            self.runs.pop_front();
        }
    }
}

/// Longest piece of zeroes, a multiple of every grain: one request on the wire.
const ZERO_PIECE: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn track(runs: &[(u64, bool)], place: &Arc<Place>) -> Track {
        Track {
            place: Arc::clone(place),
            runs: runs
                .iter()
                .map(|(length, zero)| Run {
                    length: *length,
                    zero: *zero,
                })
                .collect(),
        }
    }

    proptest! {
        #[test]
        fn pieces_cover_all_in_order_and_call_nothing_zero_that_is_not(
            first in proptest::collection::vec((1u64..5000, any::<bool>()), 1..40),
            second in proptest::collection::vec((1u64..5000, any::<bool>()), 1..40),
            grain_bits in 0u32..11, size_bits in 12u32..16,
        ) {
            let total = |runs: &[(u64, bool)]| runs.iter().map(|(length, _)| length).sum::<u64>();
            let end = total(&first).min(total(&second));
            let file = tempfile::NamedTempFile::new().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let traffic = super::super::arguments::Traffic::for_tests();
            let path = file.path().to_str().unwrap().to_owned();
            let patience = super::super::arguments::Patience::for_tests();
            let place = Arc::new(runtime.block_on(Place::source(&path, &traffic, patience)).unwrap());
            let mut cursor = Cursor {
                position: 0, end, grain: 1 << grain_bits, request_size: 1 << size_bits,
                tracks: vec![track(&first, &place), track(&second, &place)],
            };
            let zero_at = |runs: &[(u64, bool)], offset: u64| {
                let mut start = 0;
                runs.iter().find(|(length, _)| { start += length; offset < start }).is_some_and(|(_, zero)| *zero)
            };
            let mut next = 0;
            while let Some(piece) = runtime.block_on(cursor.next()).unwrap() {
                prop_assert_eq!(piece.offset, next);
                prop_assert!(piece.length > 0 && piece.offset % (1 << grain_bits) == 0);
                next += piece.length;
                if piece.zero {
                    for offset in piece.offset..next {
                        prop_assert!(zero_at(&first, offset) && zero_at(&second, offset), "{}", offset);
                    }
                } else {
                    prop_assert!(piece.offset >> size_bits == (next - 1) >> size_bits);
                }
            }
            prop_assert_eq!(next, end);
        }
    }
}

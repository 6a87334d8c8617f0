//! `nbd-client copy`: many pieces at once from one disk to another, holes kept as holes.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::arguments::Copy;
use super::cursor::{Cursor, Piece};
use super::exit::Exit;
use super::place::Place;
use super::progress::Progress;

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    source: &'a str,
    destination: &'a str,
    size: u64,
    bytes_read: u64,
    bytes_written: u64,
    bytes_zeroed: u64,
    flushed: bool,
    seconds: f64,
}

/// What the lanes share.
struct Job {
    source: Arc<Place>,
    destination: Place,
    cursor: Mutex<Cursor>,
    progress: Progress,
    /// Zeroes need not be written at all.
    skip_zeroes: bool,
    allocated: bool,
    read: AtomicU64,
    written: AtomicU64,
    zeroed: AtomicU64,
}

pub(crate) fn run(arguments: &Copy) -> Result<(), Exit> {
    let started = Instant::now();
    super::block_on(async {
        let traffic = &arguments.traffic;
        let source = Arc::new(Place::source(&arguments.source, traffic, arguments.patience).await?);
        let destination =
            Place::destination(&arguments.destination, &source, traffic, arguments.patience)
                .await?;
        let size = source.size();
        let skip_zeroes =
            (destination.is_empty() || arguments.destination_is_zero) && !arguments.allocated;
        let grain = destination.minimum_block();
        let cursor = Cursor::new(
            vec![Arc::clone(&source)],
            size,
            grain,
            u64::from(traffic.request_size),
        );
        let job = Arc::new(Job {
            source,
            destination,
            cursor: Mutex::new(cursor),
            progress: Progress::new(size, traffic.quiet),
            skip_zeroes,
            allocated: arguments.allocated,
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            zeroed: AtomicU64::new(0),
        });
        let result = run_lanes(&job, traffic.requests).await;
        job.progress.finish();
        result?;
        if arguments.flushes() {
            job.destination.flush().await?;
        }
        if arguments.json {
            report(&job, size, arguments.flushes(), started)?;
        }
        Ok(())
    })
}

/// Runs as many lanes as there may be requests; each does one piece after the other. The first error ends all.
async fn run_lanes(job: &Arc<Job>, lanes: u16) -> Result<(), Exit> {
    let mut running = JoinSet::new();
    for _ in 0..lanes {
        let job = Arc::clone(job);
        running.spawn(async move {
            loop {
                let next = job.cursor.lock().await.next().await?;
                let Some(piece) = next else {
                    return Ok::<(), Exit>(());
                };
                job.copy(piece).await?;
                job.progress.advance(piece.length);
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.map_err(|error| Exit::failed(format!("a copying task ended: {error}")))??;
    }
    Ok(())
}

impl Job {
    async fn copy(&self, piece: Piece) -> Result<(), Exit> {
        if piece.zero {
            return self.zero(piece.offset, piece.length).await;
        }
        let data = self
            .source
            .read(piece.offset, piece.length as usize)
            .await?;
        self.read.fetch_add(piece.length, Ordering::Relaxed);
        let mut start = 0;
        for (length, zero) in zero_runs(&data, self.allocated && !self.skip_zeroes) {
            let offset = piece.offset + start as u64;
            if zero {
                self.zero(offset, length as u64).await?;
            } else {
                self.write(offset, data.slice(start..start + length))
                    .await?;
            }
            start += length;
        }
        Ok(())
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), Exit> {
        self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.destination.write(offset, data).await
    }

    async fn zero(&self, offset: u64, length: u64) -> Result<(), Exit> {
        if self.skip_zeroes {
            return Ok(());
        }
        self.zeroed.fetch_add(length, Ordering::Relaxed);
        self.destination.zero(offset, length, self.allocated).await
    }
}

/// Cuts data into (length, whether zero): runs of zeroes of at least [`LEAST_HOLE`] bytes, aligned to that, and the rest
/// between them. With `as_it_is` everything counts as data.
fn zero_runs(data: &[u8], as_it_is: bool) -> Vec<(usize, bool)> {
    let mut runs: Vec<(usize, bool)> = Vec::new();
    if as_it_is {
        return vec![(data.len(), false)];
    }
    for block in data.chunks(LEAST_HOLE) {
        let zero = is_zero(block);
        match runs.last_mut() {
            Some((length, kind)) if *kind == zero => *length += block.len(),
            _ => runs.push((block.len(), zero)),
        }
    }
    runs
}

/// Whether all bytes are zero; data that are not are mostly recognised by their first few.
pub(crate) fn is_zero(data: &[u8]) -> bool {
    data.chunks(256)
        .all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}

fn report(job: &Job, size: u64, flushed: bool, started: Instant) -> Result<(), Exit> {
    let report = Report {
        schema: "nbd-client.copy/1",
        source: job.source.name(),
        destination: job.destination.name(),
        size,
        bytes_read: job.read.load(Ordering::Relaxed),
        bytes_written: job.written.load(Ordering::Relaxed),
        bytes_zeroed: job.zeroed.load(Ordering::Relaxed),
        flushed,
        seconds: started.elapsed().as_secs_f64(),
    };
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// Shortest run of zeroes that is worth a request of its own, in bytes; a multiple of every block size.
const LEAST_HOLE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_zeroes_are_found_and_short_ones_stay_data() {
        let block = LEAST_HOLE;
        let mut data = vec![0; 4 * block + 100];
        data[block] = 1;
        data[2 * block - 1] = 1;
        assert_eq!(
            zero_runs(&data, false),
            [(block, true), (block, false), (2 * block + 100, true)]
        );
        assert_eq!(zero_runs(&data, true), [(4 * block + 100, false)]);
        assert_eq!(zero_runs(&[0; 10], false), [(10, true)]);
        assert_eq!(zero_runs(&[1; 10], false), [(10, false)]);
    }

    #[test]
    fn one_byte_anywhere_is_not_zero() {
        assert!(is_zero(&[]));
        for position in [0, 1, 255, 256, 999] {
            let mut data = vec![0; 1000];
            assert!(is_zero(&data));
            data[position] = 128;
            assert!(!is_zero(&data), "{position}");
        }
    }
}

//! `nbd-client compare`: whether two disks are the same, and where they first differ.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::arguments::Compare;
use super::cursor::{Cursor, Piece};
use super::exit::{self, Exit};
use super::place::Place;
use super::progress::Progress;

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    a: &'a str,
    b: &'a str,
    same: bool,
    size_a: u64,
    size_b: u64,
    first_difference: Option<u64>,
    bytes_compared: u64,
    seconds: f64,
}

struct Job {
    a: Arc<Place>,
    b: Arc<Place>,
    cursor: Mutex<Cursor>,
    progress: Progress,
    /// Lowest offset at which a difference was found; `u64::MAX` if none.
    first: AtomicU64,
    compared: AtomicU64,
}

pub(crate) fn run(arguments: &Compare) -> Result<(), Exit> {
    compare(arguments).map_err(|exit| {
        if exit.is_silent() {
            exit
        } else {
            exit.failed_as(exit::UNKNOWN)
        }
    })
}

fn compare(arguments: &Compare) -> Result<(), Exit> {
    let started = Instant::now();
    super::block_on(async {
        let traffic = &arguments.traffic;
        let a = Arc::new(Place::source(&arguments.a, traffic, arguments.patience).await?);
        let b = Arc::new(Place::source(&arguments.b, traffic, arguments.patience).await?);
        let (size_a, size_b) = (a.size(), b.size());
        let common = size_a.min(size_b);
        let cursor = Cursor::new(
            vec![Arc::clone(&a), Arc::clone(&b)],
            common,
            1,
            u64::from(traffic.request_size),
        );
        let job = Arc::new(Job {
            a,
            b,
            cursor: Mutex::new(cursor),
            progress: Progress::new(common, traffic.quiet),
            first: AtomicU64::new(u64::MAX),
            compared: AtomicU64::new(0),
        });
        // Of different sizes they are not the same, whatever they hold.
        let sizes_differ = size_a != size_b && !arguments.common;
        if !sizes_differ {
            let result = run_lanes(&job, traffic.requests).await;
            job.progress.finish();
            result?;
        }
        let found = Some(job.first.load(Ordering::SeqCst)).filter(|offset| *offset != u64::MAX);
        let first_difference = if sizes_differ { Some(common) } else { found };
        let report = Report {
            schema: "nbd-client.compare/1",
            a: job.a.name(),
            b: job.b.name(),
            same: first_difference.is_none(),
            size_a,
            size_b,
            first_difference,
            bytes_compared: job.compared.load(Ordering::Relaxed),
            seconds: started.elapsed().as_secs_f64(),
        };
        tell(&report, arguments.json, sizes_differ)
    })
}

fn tell(report: &Report<'_>, json: bool, sizes_differ: bool) -> Result<(), Exit> {
    if json {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, report).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else if sizes_differ {
        println!(
            "different sizes: {} has {} bytes, {} has {}",
            report.a, report.size_a, report.b, report.size_b
        );
    } else if let Some(offset) = report.first_difference {
        println!("different: first at byte {offset}");
    }
    if report.same {
        Ok(())
    } else {
        Err(Exit::silent(exit::FAILED))
    }
}

/// Compares pieces on as many lanes as there may be requests. Once a difference is found nothing behind it is begun,
/// but what lies before it is finished: the lowest difference counts.
async fn run_lanes(job: &Arc<Job>, lanes: u16) -> Result<(), Exit> {
    let mut running = JoinSet::new();
    for _ in 0..lanes {
        let job = Arc::clone(job);
        running.spawn(async move {
            loop {
                let mut cursor = job.cursor.lock().await;
                cursor.shorten(job.first.load(Ordering::SeqCst));
                let next = cursor.next().await?;
                drop(cursor);
                let Some(piece) = next else {
                    return Ok::<(), Exit>(());
                };
                if !piece.zero {
                    job.compare(piece).await?;
                }
                job.compared.fetch_add(piece.length, Ordering::Relaxed);
                job.progress.advance(piece.length);
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.map_err(|error| Exit::failed(format!("a comparing task ended: {error}")))??;
    }
    Ok(())
}

impl Job {
    async fn compare(&self, piece: Piece) -> Result<(), Exit> {
        let length = piece.length as usize;
        let (left, right) = tokio::join!(
            self.a.read(piece.offset, length),
            self.b.read(piece.offset, length)
        );
        let (left, right) = (left?, right?);
        if left == right {
            return Ok(());
        }
        if let Some(position) = left
            .iter()
            .zip(right.iter())
            .position(|(left, right)| left != right)
        {
            self.first
                .fetch_min(piece.offset + position as u64, Ordering::SeqCst);
        }
        Ok(())
    }
}

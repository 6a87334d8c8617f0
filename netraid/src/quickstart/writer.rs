//! The application of the story: keeps a few writes under way and enters each in the ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nbd_client::Client;
use tokio::task::JoinSet;

use super::ledger::Ledger;

/// Writes under way at once.
pub const LANES: usize = 4;
/// A flush follows every so many writes.
pub const FLUSH_EVERY: u64 = 16;

/// How much to write, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Writes after which it ends by itself; a few more or less, as it happens.
    pub writes: u64,
    /// Pause of each lane after a write.
    pub pause: Duration,
}

/// A writer at work. Dropped, it stops at once.
#[derive(Debug)]
pub struct Writer {
    lanes: JoinSet<Result<()>>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    /// Starts writing. To be called inside a tokio runtime.
    pub fn start(client: &Client, ledger: &Ledger, plan: Plan) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let last = ledger.counts().begun.saturating_add(plan.writes);
        let mut lanes = JoinSet::new();
        for _ in 0..LANES {
            lanes.spawn(lane(
                client.clone(),
                ledger.clone(),
                Arc::clone(&stop),
                last,
                plan.pause,
            ));
        }
        Writer { lanes, stop }
    }

    /// Whether one of its lanes has ended: all is written, or something failed.
    pub fn is_ending(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until it has written all that was planned.
    ///
    /// # Errors
    /// The first write or flush that failed.
    pub async fn finish(mut self) -> Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.lanes.join_next().await {
            result = result.and(
                ended
                    .context("a writing task ended")
                    .and_then(|ended| ended),
            );
        }
        result
    }
}

async fn lane(
    client: Client,
    ledger: Ledger,
    stop: Arc<AtomicBool>,
    last: u64,
    pause: Duration,
) -> Result<()> {
    let outcome = write(&client, &ledger, &stop, last, pause).await;
    stop.store(true, Ordering::Relaxed);
    outcome
}

async fn write(
    client: &Client,
    ledger: &Ledger,
    stop: &AtomicBool,
    last: u64,
    pause: Duration,
) -> Result<()> {
    while !stop.load(Ordering::Relaxed) && ledger.counts().begun < last {
        let begun = ledger.begin();
        if let Err(error) = client.write(begun.offset, begun.data.clone(), false).await {
            ledger.fail(&begun);
            return Err(error)
                .with_context(|| format!("write {} at {}", begun.number, begun.offset));
        }
        let acknowledged = ledger.acknowledge(&begun);
        if acknowledged.is_multiple_of(FLUSH_EVERY) {
            client.flush().await.context("flush")?;
            ledger.flushed(acknowledged);
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}

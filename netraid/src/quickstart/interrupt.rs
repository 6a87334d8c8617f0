//! Ctrl-C: everything that waits asks here whether to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// Whether the user, or the system, wants an end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    asked: AtomicBool,
    notify: Notify,
}

impl Interrupt {
    /// Watches for SIGINT, SIGTERM and SIGHUP from now on; they no longer end the process themselves.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn watch(runtime: &tokio::runtime::Runtime) -> Result<Interrupt> {
        let interrupt = Interrupt::default();
        let _inside = runtime.enter();
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ] {
            let mut signals = signal(kind)?;
            let interrupt = interrupt.clone();
            runtime.spawn(async move {
                if signals.recv().await.is_some() {
                    interrupt.ask();
                }
            });
        }
        Ok(interrupt)
    }

    /// Asks everything that waits to end.
    pub fn ask(&self) {
        self.shared.asked.store(true, Ordering::SeqCst);
        self.shared.notify.notify_waiters();
    }

    /// Whether it was asked for.
    pub fn asked(&self) -> bool {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// An error if it was asked for.
    ///
    /// # Errors
    /// "interrupted".
    pub fn check(&self) -> Result<()> {
        match self.asked() {
            true => bail!("interrupted"),
            false => Ok(()),
        }
    }

    /// Returns when it is asked for.
    pub async fn wait(&self) {
        loop {
            let notified = self.shared.notify.notified();
            if self.asked() {
                return;
            }
            notified.await;
        }
    }

    /// Calls `condition` again and again until it gives something.
    ///
    /// # Errors
    /// The condition's own; when `within` is over, a text that names `what` was waited for; Ctrl-C.
    pub fn poll<T>(
        &self,
        what: &str,
        within: Duration,
        mut condition: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            self.check()?;
            if let Some(value) = condition()? {
                return Ok(value);
            }
            if start.elapsed() > within {
                bail!("waited {} s in vain for {what}", within.as_secs());
            }
            // The pace of asking; what is waited for is the condition.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_a_reason() {
        let interrupt = Interrupt::default();
        let error = interrupt
            .poll::<()>("rain", Duration::ZERO, || Ok(None))
            .unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s in vain for rain");
        interrupt.ask();
        let error = interrupt
            .poll("rain", Duration::MAX, || Ok(Some(())))
            .unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
    }
}

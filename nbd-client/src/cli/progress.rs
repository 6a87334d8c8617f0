//! A progress bar, for those who watch and only when there is something to wait for.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How far a job has come.
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    shown: std::sync::atomic::AtomicBool,
    wanted: bool,
}

impl Progress {
    /// Over `total` bytes; not shown in the first second, nor without a terminal, nor if `quiet`.
    pub(crate) fn new(total: u64, quiet: bool) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let colour = if super::show::colour_on_stderr() {
            ".cyan"
        } else {
            ""
        };
        let template = format!(
            "{{bar:30{colour}}} {{percent:>3}} % {{bytes}} of {{total_bytes}}, {{binary_bytes_per_sec}}, {{eta}} left"
        );
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        let wanted = !quiet && std::io::stderr().is_terminal();
        Progress {
            bar,
            started: Instant::now(),
            shown: false.into(),
            wanted,
        }
    }

    /// So many more bytes are done.
    pub(crate) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self.wanted
            && self.started.elapsed() > PATIENCE
            && !self.shown.swap(true, std::sync::atomic::Ordering::Relaxed)
        {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A job shorter than this shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);

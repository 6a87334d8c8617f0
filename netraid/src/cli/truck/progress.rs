//! How far a long reading or copying is: a bar on a terminal, elsewhere a line for each tenth.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::show::plain;

pub(super) struct Progress {
    what: String,
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    told: u64,
}

impl Progress {
    pub(super) fn new(what: &str, total: u64) -> Progress {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}% {bytes_per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_style(style);
            bar.with_message(plain(what))
        });
        Progress {
            what: what.to_owned(),
            bar,
            total: total.max(1),
            done: 0,
            told: 0,
        }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.set(self.done.saturating_add(bytes));
    }

    pub(super) fn set(&mut self, done: u64) {
        self.done = done.min(self.total);
        match &self.bar {
            Some(bar) => bar.set_position(self.done),
            None => {
                let tenth = (u128::from(self.done) * 10 / u128::from(self.total)) as u64;
                if tenth > self.told {
                    self.told = tenth;
                    eprintln!("{} {}0%", plain(&self.what), tenth);
                }
            }
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

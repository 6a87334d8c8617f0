//! What a test did to its lab and when: shown when the test fails.

use crate::channel::Output;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Lines that are kept, and characters of each line.
const LINES: usize = 2000;
const WIDTH: usize = 300;

#[derive(Debug)]
pub(crate) struct Journal {
    begun: Instant,
    lines: Mutex<Vec<String>>,
}

impl Journal {
    pub(crate) fn new() -> Journal {
        Journal {
            begun: Instant::now(),
            lines: Mutex::default(),
        }
    }

    pub(crate) fn note(&self, what: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        let what: String = what.chars().take(WIDTH).collect();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < LINES {
            lines.push(format!("{at:8.3} {}", what.replace('\n', "\n         ")));
        }
    }

    pub(crate) fn ended(&self, node: &str, command: &str, output: &Output) {
        let command: String = command.chars().take(60).collect();
        let mut said = format!("{}{}", output.stdout, output.stderr);
        said.truncate(said.trim_end().len());
        self.note(&format!("{node}: `{command}` -> {} {said}", output.status));
    }

    pub(crate) fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.join("\n")
    }
}

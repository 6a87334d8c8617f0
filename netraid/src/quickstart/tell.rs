//! Telling the story: plain words for people, or one JSON object a step, and a progress bar where it takes time.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::cli::show;

/// Who tells it.
pub(super) struct Teller {
    json: bool,
    step: Option<Step>,
    number: usize,
}

/// The step under way.
struct Step {
    name: &'static str,
    started: Instant,
    numbers: Vec<(String, Value)>,
}

impl Teller {
    pub(super) fn new(json: bool) -> Teller {
        Teller {
            json,
            step: None,
            number: 0,
        }
    }

    /// A line outside of any step.
    pub(super) fn aside(&self, text: &str) {
        if !self.json {
            self.line(text);
        }
    }

    /// Begins a step: `name` is for programs, `title` for people.
    pub(super) fn begin(&mut self, name: &'static str, title: &str) {
        self.number += 1;
        self.aside(&format!("\n{}. {title}", self.number));
        self.step = Some(Step {
            name,
            started: Instant::now(),
            numbers: Vec::new(),
        });
    }

    /// Something that happened, in words.
    pub(super) fn say(&self, text: &str) {
        self.aside(&format!("   {text}"));
    }

    /// A number of the step, for programs.
    pub(super) fn number(&mut self, name: &str, value: impl Into<Value>) {
        if let Some(step) = &mut self.step {
            step.numbers.push(pair(name, value));
        }
    }

    /// An object for programs alone, for something that takes no time.
    pub(super) fn announce(&self, name: &'static str, texts: &[(&str, &str)]) {
        let mut step = Step {
            name,
            started: Instant::now(),
            numbers: Vec::new(),
        };
        step.numbers.extend(
            texts
                .iter()
                .map(|(name, text)| ((*name).to_owned(), (*text).into())),
        );
        self.report(step, true, None);
    }

    /// Ends the step: all its checks held.
    pub(super) fn end(&mut self) {
        if let Some(step) = self.step.take() {
            let seconds = step.started.elapsed().as_secs_f64();
            self.say(&format!("done in {seconds:.1} s"));
            self.report(step, true, None);
        }
    }

    /// Ends the step under way, if any, without success.
    pub(super) fn fail(&mut self, error: &str) {
        if let Some(step) = self.step.take() {
            self.say("FAILED");
            self.report(step, false, Some(error));
        }
    }

    fn report(&self, step: Step, ok: bool, error: Option<&str>) {
        if !self.json {
            return;
        }
        let seconds = rounded(step.started.elapsed());
        let mut pairs = vec![
            pair("step", step.name),
            pair("ok", ok),
            pair("seconds", seconds),
        ];
        pairs.extend(step.numbers);
        pairs.extend(error.map(|error| pair("error", error)));
        // By hand, for the order: what it is and whether it is well come first.
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{}: {value}", Value::from(name.as_str())))
            .collect();
        self.line(&format!("{{{}}}", pairs.join(", ")));
    }

    /// Nobody reading any more is no reason to stop half-way: the exit code still tells.
    fn line(&self, text: &str) {
        let _ = writeln!(io::stdout().lock(), "{text}");
    }

    /// A line that is written over again and again.
    pub(super) fn status_line(&self) -> StatusLine {
        let bar = (!self.json && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        StatusLine {
            bar,
            tell: !self.json,
            before: String::new(),
        }
    }

    /// A bar over `total` bytes for what is about to be done; hidden in its first second.
    pub(super) fn bar(&self, what: &str, total: u64) -> Bar {
        Bar::new(what, total, !self.json)
    }
}

/// Seconds, to the millisecond.
pub(super) fn rounded(span: Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}

fn pair(name: &str, value: impl Into<Value>) -> (String, Value) {
    (name.to_owned(), value.into())
}

/// A line that changes; without a terminal, a new line whenever it changes.
pub(super) struct StatusLine {
    bar: Option<ProgressBar>,
    tell: bool,
    before: String,
}

impl StatusLine {
    /// Shows this instead of what it showed before.
    pub(super) fn set(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if self.tell && self.before != text => {
                let _ = writeln!(io::stdout().lock(), "{text}");
                self.before = text.to_owned();
            }
            None => {}
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How far something has come.
pub(super) struct Bar {
    bar: ProgressBar,
    started: Instant,
    wanted: bool,
}

impl Bar {
    fn new(what: &str, total: u64, wanted: bool) -> Bar {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let colour = if show::colour_on_stderr() {
            ".cyan"
        } else {
            ""
        };
        let template = format!(
            "   {{msg}} {{bar:20{colour}}} {{percent:>3}} % of {{total_bytes}}, {{eta}} left"
        );
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Bar {
            bar,
            started: Instant::now(),
            wanted: wanted && io::stderr().is_terminal(),
        }
    }

    /// So many more bytes are done.
    pub(super) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.show();
    }

    /// So many bytes are done, of so many.
    pub(super) fn set(&self, bytes: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(bytes);
        self.show();
    }

    fn show(&self) {
        if self.wanted && self.bar.is_hidden() && self.started.elapsed() > PATIENCE {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

/// The line of the bar is free again, also after an error.
impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A job shorter than this shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);

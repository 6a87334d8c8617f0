//! What the process that runs a mirror tells a watcher: one event a line.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::Embedded;
use crate::array::{ArrayError, Event, Watch};
use crate::control::{self, MAX_LINE, Order};

/// A connection on which events come.
pub(super) struct EmbeddedWatch {
    tag: String,
    stream: UnixStream,
    /// What has been received of lines that were not taken yet.
    received: Vec<u8>,
}

impl EmbeddedWatch {
    pub(super) fn new(backend: &Embedded, tag: &str) -> Result<EmbeddedWatch, ArrayError> {
        let stream = control::open(&backend.run_dir, tag, &Order::Watch)
            .map_err(|error| ArrayError::Failed(error.to_string()))?;
        Ok(EmbeddedWatch {
            tag: tag.to_owned(),
            stream,
            received: Vec::new(),
        })
    }

    /// Takes the whole lines out of what was received.
    fn events(&mut self) -> Result<Vec<Event>, ArrayError> {
        let Some(end) = self.received.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let rest = self.received.split_off(end + 1);
        let lines = std::mem::replace(&mut self.received, rest);
        lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).map_err(|_| self.garbled(line)))
            .collect()
    }

    fn garbled(&self, line: &[u8]) -> ArrayError {
        let line = String::from_utf8_lossy(line);
        let line: String = line.chars().take(200).collect();
        ArrayError::Failed(format!(
            "mirror {} told something that is not understood: {line}",
            self.tag
        ))
    }

    /// Receives something within `patience`; false if nothing came.
    fn receive(&mut self, patience: Duration) -> Result<bool, ArrayError> {
        // A timeout of nothing would mean for ever.
        let patience = patience.max(Duration::from_millis(1));
        let mut bytes = [0; 4096];
        let received = self
            .stream
            .set_read_timeout(Some(patience))
            .and_then(|()| self.stream.read(&mut bytes));
        match received {
            Ok(0) => Err(ArrayError::Failed(format!(
                "mirror {} does not run any more",
                self.tag
            ))),
            Ok(length) if self.received.len() as u64 + length as u64 > MAX_LINE => {
                Err(self.garbled(&bytes[..length]))
            }
            Ok(length) => {
                self.received.extend_from_slice(&bytes[..length]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(false),
                _ => Err(ArrayError::Failed(format!(
                    "mirror {} can't be watched: {error}",
                    self.tag
                ))),
            },
        }
    }
}

impl Watch for EmbeddedWatch {
    fn next(&mut self, patience: Duration) -> Result<Vec<Event>, ArrayError> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let came = self.receive(left)?;
            let events = self.events()?;
            if !events.is_empty() || !came && Instant::now() >= deadline {
                return Ok(events);
            }
        }
    }
}

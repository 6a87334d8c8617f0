//! What the lab and the agent inside of a node say to each other over the node's serial line: one JSON text a line.

use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// From the lab to the agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Start a command, known by `id` from now on, in a process group of its own.
    Run {
        /// Chosen by the lab, never used twice on one boot.
        id: u64,
        /// Given to `sh -c`.
        command: String,
    },
    /// Bytes for a command's standard input.
    Input {
        /// The command.
        id: u64,
        /// The bytes in hex; none closes the input.
        hex: String,
    },
    /// A signal for a command's process group.
    Signal {
        /// The command.
        id: u64,
        /// The signal's number.
        number: i32,
    },
}

/// From the agent to the lab.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The node has booted and takes commands.
    Ready,
    /// A command wrote something.
    Output {
        /// The command.
        id: u64,
        /// On standard error, not on standard output.
        error: bool,
        /// What it wrote, in hex.
        hex: String,
    },
    /// A command ended; all that it wrote has been reported.
    Ended {
        /// The command.
        id: u64,
        /// Its exit status, or 128 plus the number of the signal that ended it, as a shell says it.
        status: i32,
    },
}

/// Bytes as hex digits.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Bytes from hex digits; `None` if they are not.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    digits
        .chunks(2)
        .map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_survives_the_way_there_and_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("0g"), None);
    }
}

//! Exit codes, and the line that explains each.

use std::fmt::Display;

use crate::control::ControlError;

/// It could not be done.
pub const FAILED: u8 = 1;
/// The command line names something that does not exist or can't be.
pub const USAGE: u8 = 2;
/// What is there now forbids it; nothing was changed.
pub const REFUSED: u8 = 3;
/// It took too long.
pub const TIMEOUT: u8 = 124;

/// An end that is not success.
#[derive(Debug)]
pub struct Exit {
    /// The process's exit code.
    pub code: u8,
    message: Option<String>,
    hint: Option<String>,
}

impl Exit {
    /// Ends with a code and the reason of it.
    pub fn new(code: u8, message: impl Display) -> Exit {
        Exit {
            code,
            message: Some(message.to_string()),
            hint: None,
        }
    }

    /// Ends with a code whose reason was already said, or needs no words.
    pub fn silent(code: u8) -> Exit {
        Exit {
            code,
            message: None,
            hint: None,
        }
    }

    /// It could not be done.
    pub fn failed(message: impl Display) -> Exit {
        Exit::new(FAILED, message)
    }

    /// The command line is wrong.
    pub fn usage(message: impl Display) -> Exit {
        Exit::new(USAGE, message)
    }

    /// The state forbids it.
    pub fn refused(message: impl Display) -> Exit {
        Exit::new(REFUSED, message)
    }

    /// The same, with a line that says what could help.
    pub fn hint(mut self, hint: impl Display) -> Exit {
        self.hint = Some(hint.to_string());
        self
    }

    /// Says what went wrong, on standard error.
    pub fn tell(&self) {
        self.tell_as("netraid");
    }

    /// The same, for another program.
    pub fn tell_as(&self, program: &str) {
        if let Some(message) = &self.message {
            eprintln!("{program}: {message}");
        }
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
    }
}

/// A closed standard output is no mistake of this program: `netraid status | head` ends quietly.
impl From<std::io::Error> for Exit {
    fn from(error: std::io::Error) -> Exit {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Exit::silent(0),
            _ => Exit::failed(error),
        }
    }
}

impl From<ControlError> for Exit {
    fn from(error: ControlError) -> Exit {
        Exit::failed(error)
    }
}

/// An error and all its causes in one line.
impl From<anyhow::Error> for Exit {
    fn from(error: anyhow::Error) -> Exit {
        Exit::failed(format!("{error:#}"))
    }
}

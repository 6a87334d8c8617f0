//! Exit codes, and the line that explains each.

use std::fmt::Display;

use nbd_client::client::Error;
use nbd_client::{OpenError, Target};
use nbd_protocol::negotiate::client::ClientHandshakeError;
use nbd_protocol::number::Rep;

/// It could not be done.
pub(crate) const FAILED: u8 = 1;
/// The command line names something that does not exist or can't be.
pub(crate) const USAGE: u8 = 2;
/// What is there now forbids it; nothing was changed.
pub(crate) const REFUSED: u8 = 3;
/// `compare` could not find out: 1 means "different" there.
pub(crate) const UNKNOWN: u8 = 4;
/// The server did not answer in time.
pub(crate) const TIMEOUT: u8 = 124;

/// An end that is not success.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: u8,
    message: Option<String>,
    hint: Option<String>,
}

impl Exit {
    fn new(code: u8, message: impl Display) -> Exit {
        Exit {
            code,
            message: Some(message.to_string()),
            hint: None,
        }
    }

    /// Ends with a code whose reason was already said.
    pub(crate) fn silent(code: u8) -> Exit {
        Exit {
            code,
            message: None,
            hint: None,
        }
    }

    pub(crate) fn failed(message: impl Display) -> Exit {
        Exit::new(FAILED, message)
    }

    pub(crate) fn usage(message: impl Display) -> Exit {
        Exit::new(USAGE, message)
    }

    pub(crate) fn refused(message: impl Display) -> Exit {
        Exit::new(REFUSED, message)
    }

    /// It did not happen in time.
    pub(crate) fn late(message: impl Display) -> Exit {
        Exit::new(TIMEOUT, message)
    }

    pub(crate) fn hint(mut self, hint: impl Display) -> Exit {
        self.hint = Some(hint.to_string());
        self
    }

    /// Whether the reason was already said.
    pub(crate) fn is_silent(&self) -> bool {
        self.message.is_none()
    }

    /// The same end under another code, unless it is one that says more.
    pub(crate) fn failed_as(mut self, code: u8) -> Exit {
        if self.code == FAILED {
            self.code = code;
        }
        self
    }

    /// A server that can't be used.
    pub(crate) fn open(target: &Target, error: &OpenError) -> Exit {
        match error {
            OpenError::TimedOut { .. } => Exit::new(TIMEOUT, error),
            OpenError::Connect { source, .. } if source.kind() == std::io::ErrorKind::TimedOut => {
                Exit::new(TIMEOUT, error)
            }
            OpenError::Name { .. } => Exit::usage(error),
            OpenError::Handshake {
                source:
                    ClientHandshakeError::Refused {
                        reply: Rep::ERR_UNKNOWN,
                        ..
                    },
                ..
            } => Exit::usage(error).hint(format!(
                "`nbd-client list '{}'` shows the exports",
                target.with_export("")
            )),
            OpenError::Handshake {
                source:
                    ClientHandshakeError::Refused {
                        reply: Rep::ERR_TLS_REQD,
                        ..
                    },
                ..
            } => Exit::refused(error).hint("the server insists on TLS, which is not built yet"),
            OpenError::Handshake {
                source: ClientHandshakeError::Refused { .. },
                ..
            } => Exit::refused(error),
            _ => Exit::failed(error),
        }
    }

    /// A request that failed.
    pub(crate) fn request(doing: &str, error: &Error) -> Exit {
        let late = matches!(
            error,
            Error::Lost {
                timed_out: true,
                ..
            }
        );
        Exit::new(
            if late { TIMEOUT } else { FAILED },
            format!("{doing}: {error}"),
        )
    }

    /// Says what went wrong.
    pub(crate) fn tell(&self) {
        if let Some(message) = &self.message {
            eprintln!("nbd-client: {message}");
        }
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
    }
}

/// A closed standard output is no mistake of this program: `nbd-client map ... | head` ends quietly.
impl From<std::io::Error> for Exit {
    fn from(error: std::io::Error) -> Exit {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Exit::silent(0);
        }
        Exit::failed(error)
    }
}

//! Asking netraidd, for all commands: where it listens, how long it has, and what its answers mean for the exit code.

use std::path::PathBuf;
use std::time::Duration;

use flags::Tag;
use serde::de::DeserializeOwned;

use super::exit::{self, Exit};
use super::run_dir;
use crate::api::document::{Answer, Events, Mirror, Mirrors, Order, Outcome};
use crate::api::local_client::{LocalClient, LocalError, Stream};

/// Where the daemon is, and how long it has.
#[derive(Clone, Debug, clap::Args)]
pub struct Connection {
    /// Folder of netraidd's socket [default: $NETRAID_RUN_DIR, else /run/netraid or $XDG_RUNTIME_DIR/netraid]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,

    /// Longest wait for an answer of netraidd [default: 10 to read, 130 for an order]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,
}

/// The daemon of this node.
#[derive(Debug)]
pub struct Daemon {
    reading: LocalClient,
    ordering: LocalClient,
}

impl Connection {
    /// The folder that was named.
    pub(super) fn run_dir(&self) -> Option<&std::path::Path> {
        self.run_dir.as_deref()
    }

    /// The way to the daemon. Nothing is sent yet.
    ///
    /// # Errors
    /// A usage error if no run folder can be told.
    pub fn open(&self) -> Result<Daemon, Exit> {
        let socket = run_dir::resolve(self.run_dir.as_deref())?.join("netraidd.sock");
        let within = |usual| Duration::from_secs(self.timeout.unwrap_or(usual));
        Ok(Daemon {
            reading: LocalClient::new(&socket, within(READ)),
            ordering: LocalClient::new(&socket, within(ORDER)),
        })
    }
}

impl Daemon {
    /// All mirrors.
    ///
    /// # Errors
    /// If the daemon does not tell.
    pub fn mirrors(&self) -> Result<Mirrors, Exit> {
        self.read("/v1/mirrors")
    }

    /// One mirror.
    ///
    /// # Errors
    /// If there is none of that name, or the daemon does not tell.
    pub fn mirror(&self, tag: &Tag) -> Result<Mirror, Exit> {
        self.read(&format!("/v1/mirrors/{tag}"))
    }

    /// All mirrors, or the one of that name in the same document.
    ///
    /// # Errors
    /// If there is none of that name, or the daemon does not tell.
    pub fn mirrors_or(&self, tag: Option<&Tag>) -> Result<Mirrors, Exit> {
        let mut mirrors = self.mirrors()?;
        if let Some(tag) = tag {
            mirrors.mirrors.retain(|mirror| mirror.tag == tag.as_str());
            if mirrors.mirrors.is_empty() {
                // It says what there is instead.
                mirrors.mirrors.push(self.mirror(tag)?);
            }
        }
        Ok(mirrors)
    }

    /// What happened after event `after`, to one mirror or to all.
    ///
    /// # Errors
    /// If the daemon does not tell.
    pub fn events(&self, after: u64, tag: Option<&Tag>) -> Result<Events, Exit> {
        self.read(&events_path(after, tag))
    }

    /// The same, as it happens.
    ///
    /// # Errors
    /// If the daemon does not tell.
    pub fn follow(&self, after: u64, tag: Option<&Tag>) -> Result<Stream, Exit> {
        let path = format!("{}&follow=true", events_path(after, tag));
        let stream = self.reading.stream(&path)?;
        match stream.status() {
            200 => Ok(stream),
            status => Err(Exit::failed(format!(
                "netraidd answered with HTTP {status}"
            ))),
        }
    }

    /// Gives an order; what is not done is an error.
    ///
    /// # Errors
    /// With the code of the outcome.
    pub fn order(&self, tag: &Tag, order: &Order, dry_run: bool) -> Result<Answer, Exit> {
        let answer = self.ask(tag, order, dry_run)?;
        match answer.outcome {
            Outcome::Done => Ok(answer),
            _ => Err(not_done(answer)),
        }
    }

    /// Gives an order; what is not done is an answer, too.
    ///
    /// # Errors
    /// If the daemon does not tell.
    pub fn ask(&self, tag: &Tag, order: &Order, dry_run: bool) -> Result<Answer, Exit> {
        let query = if dry_run { "?dry-run=true" } else { "" };
        let body = serde_json::to_vec(order).map_err(Exit::failed)?;
        let (status, body) = self
            .ordering
            .post(&format!("/v1/mirrors/{tag}/orders{query}"), &body)?;
        understand(status, &body)
    }

    /// Has the configuration read again, and what runs made to match it; the steps.
    ///
    /// # Errors
    /// With the code of the outcome.
    pub fn adjust(&self, dry_run: bool) -> Result<Vec<String>, Exit> {
        let query = if dry_run { "?dry-run=true" } else { "" };
        let path = format!("/v1/adjust{query}");
        let (status, body) = self.ordering.post(&path, b"{}")?;
        let answer: Answer = understand(status, &body)?;
        match answer.outcome {
            Outcome::Done => Ok(answer.steps),
            _ => Err(not_done(answer)),
        }
    }

    fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Exit> {
        match self.reading.get(path)? {
            (200, body) => understand(200, &body),
            (status, body) => Err(not_done(understand(status, &body)?)),
        }
    }
}

fn events_path(after: u64, tag: Option<&Tag>) -> String {
    let tag = tag.map_or_else(String::new, |tag| format!("&tag={tag}"));
    format!("/v1/events?after={after}{tag}")
}

fn understand<T: DeserializeOwned>(status: u16, body: &[u8]) -> Result<T, Exit> {
    serde_json::from_slice(body).map_err(|error| {
        Exit::failed(format!(
            "netraidd answered with HTTP {status} and what is no document of this version: {error}"
        ))
        .hint("netraid --version; systemctl restart netraidd after an upgrade")
    })
}

/// An order that was not done, as an end of the command.
pub(super) fn not_done(answer: Answer) -> Exit {
    // A failure with the outcome of success is none of this version's.
    let usual = answer.outcome.exit_code();
    let code = answer.exit_code.unwrap_or(usual).max(exit::FAILED);
    match answer.reason {
        Some(reason) => {
            let exit = Exit::new(code, reason.why);
            match reason.next {
                Some(next) => exit.hint(next),
                None => exit,
            }
        }
        None => Exit::new(code, "netraidd gave no reason"),
    }
}

impl From<LocalError> for Exit {
    fn from(error: LocalError) -> Exit {
        match &error {
            LocalError::NotRunning(socket) => Exit::failed(format!(
                "netraidd is not running: nobody listens at {}",
                socket.display()
            ))
            .hint("systemctl start netraidd"),
            LocalError::Late { .. } => Exit::new(exit::TIMEOUT, error)
                .hint("it may still do what it was told; journalctl -u netraidd"),
            LocalError::NotAllowed(socket) => {
                Exit::failed(format!("{} may not be used by this user", socket.display()))
                    .hint("run it as root, or as a member of the socket's group")
            }
            _ => Exit::failed(error),
        }
    }
}

/// A tag on the command line.
///
/// # Errors
/// Why it can be none.
pub fn tag(text: &str) -> Result<Tag, String> {
    Tag::new(text).map_err(|error| error.to_string())
}

/// Seconds for an answer that only needs to be read.
const READ: u64 = 10;
/// Seconds for an order: netraidd gives up after 120 and says so, which is better than our own words.
const ORDER: u64 = 130;

//! Asking netraidd, within the time of the script. A daemon that is being restarted is waited for.

use std::thread;
use std::time::{Duration, Instant};

use flags::Tag;
use netraid::api::document::{Answer, Mirror, Mirrors, Order, Outcome};
use netraid::api::local_client::{LocalClient, LocalError};

use crate::script::{Call, run_dir};

/// Why it was not done.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) outcome: Outcome,
    pub(crate) why: String,
}

impl Failure {
    pub(crate) fn new(outcome: Outcome, why: impl Into<String>) -> Failure {
        Failure {
            outcome,
            why: why.into(),
        }
    }
}

/// netraidd of this node.
#[derive(Debug)]
pub(crate) struct Daemon {
    begin: Instant,
    until: Instant,
}

impl Daemon {
    pub(crate) fn new(call: &Call) -> Daemon {
        Daemon {
            begin: Instant::now(),
            until: call.until,
        }
    }

    /// Carries an order out.
    pub(crate) fn order(&self, tag: &Tag, order: &Order) -> Result<(), Failure> {
        let path = format!("/v1/mirrors/{tag}/orders");
        let body = serde_json::to_vec(order).map_err(failed)?;
        // The others would be refused the second time, although they were done.
        let again = !matches!(order, Order::Create { .. } | Order::Extend { .. });
        let (_, body) = self.ask(again, |client| client.post(&path, &body))?;
        let answer: Answer = serde_json::from_slice(&body).map_err(failed)?;
        match answer.outcome {
            Outcome::Done => Ok(()),
            _ => Err(not_done(answer)),
        }
    }

    /// How a mirror is.
    pub(crate) fn mirror(&self, tag: &Tag) -> Result<Mirror, Failure> {
        self.read(&format!("/v1/mirrors/{tag}"))
    }

    /// All mirrors.
    pub(crate) fn mirrors(&self) -> Result<Mirrors, Failure> {
        self.read("/v1/mirrors")
    }

    fn read<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let (status, body) = self.ask(true, |client| client.get(path))?;
        match status {
            200 => serde_json::from_slice(&body).map_err(failed),
            _ => Err(not_done(serde_json::from_slice(&body).map_err(failed)?)),
        }
    }

    fn ask(
        &self,
        again: bool,
        ask: impl Fn(&LocalClient) -> Result<(u16, Vec<u8>), LocalError>,
    ) -> Result<(u16, Vec<u8>), Failure> {
        let socket = run_dir().join("netraidd.sock");
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let asked = ask(&LocalClient::new(&socket, left));
            let waits = match &asked {
                // It serves before it has read what mirrors there are.
                Ok((404, _)) => BEGIN,
                Err(LocalError::NotRunning(_)) => RESTART,
                Err(LocalError::Broken { .. }) if again => RESTART,
                Ok(answer) => return Ok(answer.clone()),
                Err(_) => Duration::ZERO,
            };
            if self.begin.elapsed() + PAUSE < waits && left > PAUSE {
                thread::sleep(PAUSE);
                continue;
            }
            return asked.map_err(|error| match error {
                LocalError::Late { .. } => Failure::new(Outcome::Late, error.to_string()),
                error => Failure::new(Outcome::Failed, error.to_string()),
            });
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(
        Outcome::Failed,
        format!("what netraidd answered is not understood: {error}"),
    )
}

fn not_done(answer: Answer) -> Failure {
    let why = match answer.reason {
        Some(reason) => match reason.next {
            Some(next) => format!("{}; {next}", reason.why),
            None => reason.why,
        },
        None => "netraidd gave no reason".into(),
    };
    match answer.outcome {
        Outcome::Done => Failure::new(Outcome::Failed, why),
        outcome => Failure::new(outcome, why),
    }
}

/// How long a daemon that does not run may take to come back: a restart or an upgrade.
const RESTART: Duration = Duration::from_secs(15);
/// How long one that has begun may know no mirror.
const BEGIN: Duration = Duration::from_secs(1);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

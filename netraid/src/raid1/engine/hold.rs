//! Holding requests back while a leg is missing that others may believe has everything, or while somebody says so.
//!
//! Whoever supervises the mirror says which legs those are. When one of them leaves, nothing is answered from that moment
//! on: no write and no flush that is under way, and nothing that comes, reads included, since another node may be the source
//! by now. It goes on when the leg is in sync again, or when the supervisor has made sure that everybody who matters knows
//! that it left.

use super::*;

/// What is held back, and why.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The legs that have to be in sync.
    guard: SlotSet,
    pub(super) hold: Hold,
    /// Not begun yet, in the order in which they came. The connections bound how many a client may have.
    requests: VecDeque<(RequestId, Command)>,
}

impl Held {
    pub(super) fn put(&mut self, request: RequestId, command: Command) {
        self.requests.push_back((request, command));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

impl Engine {
    /// Whether requests are held back now.
    pub fn holds_back(&self) -> bool {
        self.held.hold != Hold::No || !self.held.guard.without(self.in_sync()).is_empty()
    }

    /// What somebody ordered of requests, whatever legs are there.
    pub fn hold(&self) -> Hold {
        self.held.hold
    }

    pub(super) fn guard(&mut self, members: SlotSet, only: bool) {
        let before = match only {
            true => SlotSet::EMPTY,
            false => self.held.guard,
        };
        self.held.guard = before.or(members);
    }

    /// Lets go what may be answered now; fails what is not to wait.
    pub(super) fn proceed_hold(&mut self, effects: &mut Vec<Effect>) {
        if !self.holds_back() {
            if self.held.requests.is_empty() && self.unanswered.is_empty() {
                return;
            }
            self.answer_held_writes(effects);
            self.take_up_held(effects);
            return;
        }
        let why = match self.held.hold {
            _ if self.stopping => "the mirror is being stopped while its requests are held back",
            _ if self.halted.is_some() => {
                "the mirror takes no writes, and its requests are held back"
            }
            Hold::Fail => "the mirror has no quorum (on-no-quorum is io-error)",
            Hold::No | Hold::Suspend => return,
        };
        let failure = Failure::new(Errno::EIO, why);
        let waiting = std::mem::take(&mut self.unanswered);
        let requests = waiting.into_iter().map(|(request, _)| request);
        let held = std::mem::take(&mut self.held.requests);
        for request in requests.chain(held.into_iter().map(|(request, _)| request)) {
            effects.push(Effect::Answer {
                request,
                outcome: Err(failure.clone()),
            });
        }
    }

    fn take_up_held(&mut self, effects: &mut Vec<Effect>) {
        let held = std::mem::take(&mut self.held.requests);
        // A flush failed on the last leg in sync meanwhile, or before: every flush that waited is told.
        let waits = |(_, command): &(RequestId, Command)| matches!(command, Command::Flush);
        let lost = match held.iter().any(waits) {
            true => self.untold.take(),
            false => None,
        };
        for (request, command) in held {
            match (&lost, &command) {
                (Some(failure), Command::Flush) => effects.push(Effect::Answer {
                    request,
                    outcome: Err(failure.clone()),
                }),
                _ => self.submit(request, command, effects),
            }
        }
    }
}

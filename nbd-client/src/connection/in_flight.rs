//! The requests that wait for their answers: found by cookie, bounded in number and bytes, completed exactly once.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use linux_sys::buffer::Buffer;
use nbd_protocol::command::{Completion, Extent};
use nbd_protocol::pending::Pending;

use super::lost::Lost;
use super::request::Request;

/// One request in flight.
pub(super) struct Entry {
    pub(super) completion: Completion,
    /// Payload bytes that it holds or will hold in memory.
    pub(super) cost: u64,
    pub(super) submitted: Instant,
    /// What is still expected of the server; set before the request can be answered.
    pub(super) expected: Option<Pending>,
    /// What came of the answer so far.
    pub(super) received: Received,
}

impl Entry {
    /// For a request about to be added.
    pub(super) fn new(completion: Completion, request: &mut Request) -> Entry {
        Entry {
            completion,
            cost: request.cost(),
            submitted: Instant::now(),
            expected: None,
            received: std::mem::replace(&mut request.received, Received::Nothing),
        }
    }
}

/// The content of an answer, as far as it came.
pub(super) enum Received {
    /// None is expected.
    Nothing,
    /// The bytes of a read of this length; the buffer is made when the first of them come.
    Data(u32, Option<Buffer>),
    /// The extents of the context with this id; those of others are dropped.
    Extents(u32, Vec<Extent>),
}

/// Why a request was not taken; its completion comes back.
pub(super) enum Refused {
    /// The connection is at its bound.
    Full(Completion),
    /// The connection is closing or gone.
    Ended(Completion, Lost),
}

/// Bounds of what is in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) requests: usize,
    pub(super) bytes: u64,
}

/// How a request is admitted when the bounds are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Wait for room.
    Wait,
    /// Refuse.
    Refuse,
    /// Take it: it replaces a request that has just ended.
    Always,
}

/// The table of one connection.
pub(super) struct InFlight {
    state: Mutex<State>,
    room: Condvar,
    bounds: Bounds,
}

struct State {
    slots: Vec<Slot>,
    free: Vec<u32>,
    count: usize,
    bytes: u64,
    /// Counts requests that have ended.
    removed: u64,
    waiters: usize,
    phase: Phase,
}

struct Slot {
    /// Counts the users of the slot, so that an answer to an earlier one is not taken for the present one's.
    serial: u32,
    entry: Option<Entry>,
}

enum Phase {
    Open,
    Closing(Lost),
    Ended(Lost),
}

impl InFlight {
    pub(super) fn new(bounds: Bounds) -> InFlight {
        let state = State {
            slots: Vec::new(),
            free: Vec::new(),
            count: 0,
            bytes: 0,
            removed: 0,
            waiters: 0,
            phase: Phase::Open,
        };
        InFlight {
            state: Mutex::new(state),
            room: Condvar::new(),
            bounds,
        }
    }

    /// Takes a request and gives it a cookie that no other pending request has.
    /// `expect` says what is expected of the server, given the cookie.
    pub(super) fn add(
        &self,
        entry: Entry,
        expect: impl FnOnce(u64) -> Pending,
        admission: Admission,
    ) -> Result<u64, Refused> {
        let mut state = self.lock();
        loop {
            match &state.phase {
                Phase::Open => {}
                // A request that follows from one of before the close still belongs to what is being finished.
                Phase::Closing(_) if admission == Admission::Always => {}
                Phase::Closing(lost) | Phase::Ended(lost) => {
                    return Err(Refused::Ended(entry.completion, lost.clone()));
                }
            }
            let fits = state.count < self.bounds.requests
                && (state.count == 0
                    || state.bytes.saturating_add(entry.cost) <= self.bounds.bytes);
            if fits || admission == Admission::Always {
                return Ok(state.insert(entry, expect));
            }
            if admission == Admission::Refuse {
                return Err(Refused::Full(entry.completion));
            }
            state.waiters += 1;
            state = self
                .room
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            state.waiters -= 1;
        }
    }

    /// Looks at the request of `cookie`; `None` when no such request is pending.
    pub(super) fn with<T>(&self, cookie: u64, look: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut state = self.lock();
        state.slot(cookie)?.entry.as_mut().map(look)
    }

    /// Takes the request of `cookie` out. The caller completes it.
    pub(super) fn remove(&self, cookie: u64) -> Option<Entry> {
        let mut state = self.lock();
        let entry = state.slot(cookie)?.entry.take()?;
        state.free.push(cookie as u32);
        state.count -= 1;
        state.removed += 1;
        state.bytes -= entry.cost;
        if state.waiters > 0 {
            self.room.notify_all();
        }
        Some(entry)
    }

    /// When the request was submitted that has waited longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let state = self.lock();
        if state.count == 0 {
            return None;
        }
        state
            .slots
            .iter()
            .filter_map(|slot| slot.entry.as_ref())
            .map(|entry| entry.submitted)
            .min()
    }

    /// No request is taken any more; those that come are told `why`.
    pub(super) fn start_closing(&self, why: Lost) {
        let mut state = self.lock();
        if let Phase::Open = state.phase {
            state.phase = Phase::Closing(why);
            self.room.notify_all();
        }
    }

    /// Whether the connection is closing and everything has been answered.
    pub(super) fn is_closed_and_empty(&self) -> bool {
        let state = self.lock();
        matches!(state.phase, Phase::Closing(_)) && state.count == 0
    }

    /// How many requests have ended so far.
    pub(super) fn removed(&self) -> u64 {
        self.lock().removed
    }

    /// How many requests are pending.
    pub(super) fn count(&self) -> usize {
        self.lock().count
    }

    /// Ends the table for a reason; the first reason stays, that of a close if everything had been answered.
    pub(super) fn end(&self, lost: Lost) {
        let mut state = self.lock();
        match &state.phase {
            Phase::Ended(_) => return,
            Phase::Closing(why) if state.count == 0 => state.phase = Phase::Ended(why.clone()),
            _ => state.phase = Phase::Ended(lost),
        }
        self.room.notify_all();
    }

    /// Whether a small request would be taken without waiting.
    pub(super) fn has_room(&self) -> bool {
        let state = self.lock();
        state.count < self.bounds.requests && state.bytes < self.bounds.bytes
    }

    /// Whether requests are taken.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.lock().phase, Phase::Open)
    }

    /// Why the table ended, if it has.
    pub(super) fn ended(&self) -> Option<Lost> {
        match &self.lock().phase {
            Phase::Ended(lost) => Some(lost.clone()),
            _ => None,
        }
    }

    /// Takes every pending request out, oldest first.
    pub(super) fn drain(&self) -> Vec<(u64, Entry)> {
        let mut state = self.lock();
        state.count = 0;
        state.bytes = 0;
        let mut drained = Vec::new();
        for (index, slot) in state.slots.iter_mut().enumerate() {
            if let Some(entry) = slot.entry.take() {
                drained.push((u64::from(slot.serial) << 32 | index as u64, entry));
            }
        }
        drained.sort_by_key(|(_, entry)| entry.submitted);
        drained
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn insert(&mut self, mut entry: Entry, expect: impl FnOnce(u64) -> Pending) -> u64 {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(entry.cost);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                serial: 0,
                entry: None,
            });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.serial = slot.serial.wrapping_add(1);
        let cookie = u64::from(slot.serial) << 32 | u64::from(index);
        entry.expected = Some(expect(cookie));
        slot.entry = Some(entry);
        cookie
    }

    fn slot(&mut self, cookie: u64) -> Option<&mut Slot> {
        let serial = (cookie >> 32) as u32;
        self.slots
            .get_mut(cookie as u32 as usize)
            .filter(|slot| slot.serial == serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nbd_protocol::number::{CommandFlags, CommandType};
    use nbd_protocol::{HeaderStyle, RequestHeader};

    fn entry(cost: u64) -> Entry {
        Entry {
            completion: Completion::new(drop),
            cost,
            submitted: Instant::now(),
            expected: None,
            received: Received::Nothing,
        }
    }

    fn expect(cookie: u64) -> Pending {
        let (flags, kind) = (CommandFlags::NONE, CommandType::FLUSH);
        let request = RequestHeader {
            flags,
            kind,
            cookie,
            offset: 0,
            length: 0,
        };
        Pending::new(HeaderStyle::Simple, request, &[])
    }

    fn bounded(requests: usize, bytes: u64) -> InFlight {
        InFlight::new(Bounds { requests, bytes })
    }

    #[test]
    fn an_answer_to_an_earlier_user_of_a_slot_finds_nothing() {
        let table = bounded(2, 100);
        let first = table.add(entry(1), expect, Admission::Refuse).ok().unwrap();
        assert!(table.remove(first).is_some());
        let second = table.add(entry(1), expect, Admission::Refuse).ok().unwrap();
        assert_ne!(first, second);
        assert!(table.remove(first).is_none(), "answered twice");
        assert!(table.remove(second).is_some());
        assert!(table.remove(u64::MAX).is_none());
        assert!(table.remove(0).is_none());
    }

    #[test]
    fn the_bounds_of_number_and_bytes_hold() {
        let table = bounded(2, 100);
        assert!(
            table.add(entry(1000), expect, Admission::Refuse).is_ok(),
            "alone, a large one is taken"
        );
        assert!(matches!(
            table.add(entry(1), expect, Admission::Refuse),
            Err(Refused::Full(_))
        ));
        let table = bounded(2, 100);
        for _ in 0..2 {
            assert!(table.add(entry(50), expect, Admission::Refuse).is_ok());
        }
        assert!(matches!(
            table.add(entry(0), expect, Admission::Refuse),
            Err(Refused::Full(_))
        ));
        assert!(table.add(entry(0), expect, Admission::Always).is_ok());
    }

    #[test]
    fn one_that_waits_for_room_is_let_in_when_another_ends() {
        let table = bounded(1, 100);
        let first = table.add(entry(1), expect, Admission::Wait).ok().unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| table.add(entry(1), expect, Admission::Wait).is_ok());
            table.remove(first);
            assert!(second.join().unwrap());
        });
    }

    #[test]
    fn one_that_waits_for_room_is_refused_when_the_connection_ends() {
        let table = bounded(1, 100);
        assert!(table.add(entry(1), expect, Admission::Wait).is_ok());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| table.add(entry(1), expect, Admission::Wait));
            table.end(Lost::ByServer);
            assert!(matches!(
                second.join().unwrap(),
                Err(Refused::Ended(_, Lost::ByServer))
            ));
        });
        assert_eq!(table.drain().len(), 1);
        table.end(Lost::Aborted);
        assert_eq!(table.ended(), Some(Lost::ByServer));
    }
}

//! Who may touch which bytes now: overlapping ranges take turns in order of arrival, others run at once.
//!
//! A pure structure: no threads, no clock, no I/O. Its user calls it under a lock of its own and starts what it returns.
//! An operation that has to wait is kept here, so that everything a dead connection had queued can be dropped in one
//! call. The cost of each call is linear in the number of operations in flight, which its user bounds.

/// Names one admitted operation until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What [`RangeLock::admit`] decided.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<T> {
    /// Nothing overlaps: the operation is handed back to be started now, and released when it is over.
    Start(Ticket, T),
    /// An older operation overlaps: this one is kept and handed out by a later call when its turn has come.
    Queued(Ticket),
}

/// What [`RangeLock::drop_queued`] took out, and what may start because of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Dropped<T> {
    /// The operations that will never start.
    pub dropped: Vec<T>,
    /// Operations of others that waited for nothing but the dropped ones.
    pub runnable: Vec<(Ticket, T)>,
}

/// The operations in flight, in order of arrival. `O` tells owners apart, `T` is an operation that can wait.
#[derive(Debug)]
pub struct RangeLock<O, T> {
    /// Sorted by ticket, which is the order of arrival.
    entries: Vec<Entry<O, T>>,
    next: u64,
}

#[derive(Debug)]
struct Entry<O, T> {
    ticket: Ticket,
    start: u64,
    end: u64,
    /// How many older entries overlap this one; it may run when there are none.
    ahead: usize,
    owner: O,
    /// The operation, while it waits.
    waiting: Option<Box<T>>,
}

impl<O, T> Default for RangeLock<O, T> {
    fn default() -> Self {
        RangeLock {
            entries: Vec::new(),
            next: 0,
        }
    }
}

impl<O, T> RangeLock<O, T> {
    /// No operation is in flight.
    pub fn new() -> Self {
        RangeLock::default()
    }

    /// Takes in an operation on `length` bytes at `offset`. An empty range overlaps nothing.
    pub fn admit(&mut self, owner: O, offset: u64, length: u64, operation: T) -> Admission<T> {
        let ticket = Ticket(self.next);
        self.next += 1;
        let end = offset.saturating_add(length);
        let ahead = self
            .entries
            .iter()
            .filter(|older| overlap(older.start, older.end, offset, end))
            .count();
        let (waiting, admission) = match ahead {
            0 => (None, Admission::Start(ticket, operation)),
            _ => (Some(Box::new(operation)), Admission::Queued(ticket)),
        };
        self.entries.push(Entry {
            ticket,
            start: offset,
            end,
            ahead,
            owner,
            waiting,
        });
        admission
    }

    /// An operation that waits.
    pub fn waiting_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        let found = self
            .entries
            .binary_search_by_key(&ticket, |entry| entry.ticket);
        self.entries.get_mut(found.ok()?)?.waiting.as_deref_mut()
    }

    /// Ends an operation, whether it ran or not; returns those whose turn has come, in order of arrival.
    ///
    /// A ticket that is unknown (released before, or dropped) changes nothing.
    pub fn release(&mut self, ticket: Ticket) -> Vec<(Ticket, T)> {
        let mut runnable = Vec::new();
        if let Ok(index) = self
            .entries
            .binary_search_by_key(&ticket, |entry| entry.ticket)
        {
            self.remove(index, &mut runnable);
        }
        runnable
    }

    /// Drops every operation that waits and whose owner is `of`; what runs already stays until it is released.
    pub fn drop_queued(&mut self, of: impl Fn(&O) -> bool) -> Dropped<T> {
        let mut result = Dropped {
            dropped: Vec::new(),
            runnable: Vec::new(),
        };
        // All operations are taken out before the first entry goes: else dropping one would hand out the next of the
        // same owner as runnable.
        let mut gone = Vec::new();
        for entry in self.entries.iter_mut().filter(|entry| of(&entry.owner)) {
            if let Some(operation) = entry.waiting.take() {
                result.dropped.push(*operation);
                gone.push(entry.ticket);
            }
        }
        for ticket in gone {
            if let Ok(index) = self
                .entries
                .binary_search_by_key(&ticket, |entry| entry.ticket)
            {
                self.remove(index, &mut result.runnable);
            }
        }
        result
    }

    /// Number of operations in flight, running or waiting.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn remove(&mut self, index: usize, runnable: &mut Vec<(Ticket, T)>) {
        let gone = self.entries.remove(index);
        for younger in &mut self.entries[index..] {
            if !overlap(gone.start, gone.end, younger.start, younger.end) {
                continue;
            }
            younger.ahead -= 1;
            if younger.ahead == 0
                && let Some(operation) = younger.waiting.take()
            {
                runnable.push((younger.ticket, *operation));
            }
        }
    }
}

fn overlap(start: u64, end: u64, other_start: u64, other_end: u64) -> bool {
    start < other_end && other_start < end && start < end && other_start < other_end
}

#[cfg(test)]
mod tests;

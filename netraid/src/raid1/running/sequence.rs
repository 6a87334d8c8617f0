//! What goes to a leg that keeps order leaves in the order that the engine gave it, whichever threads bring it.

use std::collections::BTreeMap;

use crate::raid1::engine::Order;

/// Something that is sent to the leg when its turn has come. It must not wait.
pub(super) type Send = Box<dyn FnOnce() + std::marker::Send>;

/// The turns of one leg.
#[derive(Default)]
pub(super) struct Sequence {
    session: u64,
    next: u64,
    /// What came too early; no more than threads are performing effects, so it is bounded by them.
    early: BTreeMap<u64, Send>,
}

impl Sequence {
    /// Sends now, or when everything before it has been sent. Called under a lock that is kept meanwhile, or two threads
    /// could still overtake each other.
    pub(super) fn send(&mut self, order: Order, send: Send) {
        if order.session < self.session {
            // Of a connection that is gone; the engine has forgotten it.
            return;
        }
        if order.session > self.session {
            *self = Sequence {
                session: order.session,
                ..Sequence::default()
            };
        }
        self.early.insert(order.number, send);
        while let Some(send) = self.early.remove(&self.next) {
            self.next += 1;
            send();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn sent(orders: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let mut sequence = Sequence::default();
        for (session, number) in orders.iter().copied() {
            let sent = Arc::clone(&sent);
            let note = move || sent.lock().unwrap().push((session, number));
            sequence.send(Order { session, number }, Box::new(note));
        }
        let sent = sent.lock().unwrap();
        sent.clone()
    }

    #[test]
    fn what_comes_too_early_waits_for_its_turn() {
        assert_eq!(
            sent(&[(1, 2), (1, 0), (1, 3), (1, 1)]),
            [(1, 0), (1, 1), (1, 2), (1, 3)]
        );
    }

    #[test]
    fn what_belongs_to_an_earlier_session_is_never_sent() {
        assert_eq!(
            sent(&[(1, 0), (1, 2), (2, 0), (1, 1), (2, 1)]),
            [(1, 0), (2, 0), (2, 1)]
        );
    }
}

//! Memory for payloads that all connections of a server share, so that many greedy clients together are bounded too.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that connections may borrow above the share that each of them has for itself.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicU64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Budget {
        Budget {
            left: AtomicU64::new(bytes),
        }
    }

    /// Takes `bytes` if so many are left.
    pub(crate) fn borrow(&self, bytes: u64) -> bool {
        let take = |left: u64| left.checked_sub(bytes);
        self.left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .is_ok()
    }

    /// Returns what was borrowed.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::AcqRel);
    }
}

/// What a connection may hold without borrowing: nobody is kept from ordinary requests by what others hold.
pub(crate) const OWN_SHARE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_lent_than_there_is() {
        let budget = Budget::new(10);
        assert!(budget.borrow(7) && !budget.borrow(4) && budget.borrow(3));
        budget.give_back(4);
        assert!(budget.borrow(4) && !budget.borrow(1) && budget.borrow(0));
    }
}

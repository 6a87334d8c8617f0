//! Giving memory back to the system when there is nothing to do.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One of many connections has become idle: frees what is kept for reuse, unless that was done a moment ago.
pub(crate) fn give_back_sometimes() {
    let due = {
        let mut last = LAST.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let due = last.is_none_or(|last| last.elapsed() > PAUSE);
        if due {
            *last = Some(Instant::now());
        }
        due
    };
    if due {
        give_back();
    }
}

/// Nobody is connected any more: frees what is kept for reuse.
pub(crate) fn give_back() {
    linux_sys::buffer::release_free();
    linux_sys::heap::trim();
}

static LAST: Mutex<Option<Instant>> = Mutex::new(None);
const PAUSE: Duration = Duration::from_secs(1);

//! Many completions, one system call: replies that are finished inside a batch are sent when the batch ends.
//!
//! A device that learns of several completions at once (a mirror reading replies of a leg, say) calls [`batch`] around
//! them. Outside of a batch every reply is sent at once.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::line::Line;

/// Runs `run`; the replies that it completes are sent together, one call for each connection, when it returns.
///
/// Batches may be nested: the outermost one sends.
pub fn batch<R>(run: impl FnOnce() -> R) -> R {
    let _scope = Scope::enter();
    run()
}

/// Whether a batch is open on this thread. A device to which a connection submits inside one is kicked when it ends.
pub fn is_open() -> bool {
    DEPTH.get() > 0
}

/// Whether a device may block the calling thread for one access of its medium: nothing else of the connection that
/// this thread serves is waiting or in flight. False on every thread that is not a connection's own.
pub fn may_wait() -> bool {
    MAY_WAIT.get()
}

/// Says what [`may_wait`] answers on this thread from now on.
pub(crate) fn set_may_wait(may: bool) {
    MAY_WAIT.set(may);
}

/// Notes that `line` has something to send when the current batch ends; false when there is no batch.
pub(crate) fn defer(line: &Arc<Line>) -> bool {
    if DEPTH.get() == 0 {
        return false;
    }
    LINES.with_borrow_mut(|lines| {
        if !lines.iter().any(|known| Arc::ptr_eq(known, line)) {
            lines.push(Arc::clone(line));
        }
    });
    true
}

struct Scope;

impl Scope {
    fn enter() -> Scope {
        DEPTH.set(DEPTH.get() + 1);
        Scope
    }
}

/// Also runs when `run` panics, so that no reply is left behind.
impl Drop for Scope {
    fn drop(&mut self) {
        if DEPTH.get() == 1 {
            let mut lines = LINES.take();
            for line in lines.drain(..) {
                line.send_or_hand_over();
            }
            // Keeps the allocation.
            LINES.set(lines);
        }
        DEPTH.set(DEPTH.get() - 1);
    }
}

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static LINES: RefCell<Vec<Arc<Line>>> = const { RefCell::new(Vec::new()) };
    static MAY_WAIT: Cell<bool> = const { Cell::new(false) };
}

//! Payload buffers that are reused instead of being allocated and page-faulted anew for every request.
//!
//! A fresh 1 MiB allocation costs about as much in page faults as copying the megabyte does. Buffers come in size
//! classes; a returned buffer is kept while the free buffers of the process stay within [`MAX_FREE_BYTES`].

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Upper bound, in bytes, of all buffers kept free for reuse in this process.
pub const MAX_FREE_BYTES: usize = 8 << 20;

/// Size classes in bytes. Requests above the largest are allocated and freed directly.
const CLASSES: [usize; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20];

/// The address of a long buffer is a multiple of this, in bytes: enough for direct I/O on every disk (open(2), `O_DIRECT`).
pub const ALIGNMENT: usize = 4096;

/// Bytes that a buffer of `length` takes beyond it, so that it can begin at a multiple of [`ALIGNMENT`].
const fn slack(length: usize) -> usize {
    if length >= CLASSES[2] { ALIGNMENT } else { 0 }
}

static FREE: [Mutex<Vec<Vec<u8>>>; CLASSES.len()] =
    [const { Mutex::new(Vec::new()) }; CLASSES.len()];
static FREE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// An owned, initialised buffer of exactly the length asked for; returns to the pool when dropped.
///
/// One of 64 KiB or more begins at an address that direct I/O takes (see [`ALIGNMENT`]).
///
/// Its bytes are whatever an earlier user left there: the caller overwrites all of them before showing them to anyone.
#[derive(Debug)]
pub struct Buffer {
    storage: Vec<u8>,
    /// Where the bytes begin: long buffers begin at a multiple of [`ALIGNMENT`], wherever the allocator put them.
    start: usize,
    length: usize,
}

impl Buffer {
    /// Takes a buffer of `length` bytes. The caller has already checked `length` against its own limit.
    pub fn take(length: usize) -> Buffer {
        let Some(class) = class_holding(length) else {
            return Buffer::of(vec![0; length + ALIGNMENT], length);
        };
        let reused = FREE[class]
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .pop();
        let storage = match reused {
            Some(storage) => {
                FREE_BYTES.fetch_sub(CLASSES[class], Ordering::Relaxed);
                storage
            }
            None => vec![0; CLASSES[class] + slack(CLASSES[class])],
        };
        Buffer::of(storage, length)
    }

    fn of(storage: Vec<u8>, length: usize) -> Buffer {
        let start = match slack(length) {
            0 => 0,
            // Never more than the slack; were it not so, the buffer would only not be aligned.
            slack => storage.as_ptr().align_offset(ALIGNMENT).min(slack),
        };
        Buffer {
            storage,
            start,
            length,
        }
    }

    /// Turns the buffer into shared bytes; it returns to the pool when the last of them is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Shortens the buffer to its first `length` bytes; a longer `length` changes nothing.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let length = self.storage.len();
        let is_class = |class: &usize| *class + slack(*class) == length;
        let Some(class) = CLASSES.iter().position(is_class) else {
            return;
        };
        let size = CLASSES[class];
        if FREE_BYTES.fetch_add(size, Ordering::Relaxed) + size > MAX_FREE_BYTES {
            FREE_BYTES.fetch_sub(size, Ordering::Relaxed);
            return;
        }
        let storage = std::mem::take(&mut self.storage);
        FREE[class]
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .push(storage);
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.length]
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.length]
    }
}

/// Frees every buffer that is kept for reuse.
pub fn release_free() {
    for (class, free) in FREE.iter().enumerate() {
        let gone =
            std::mem::take(&mut *free.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        FREE_BYTES.fetch_sub(gone.len() * CLASSES[class], Ordering::Relaxed);
    }
}

fn class_holding(length: usize) -> Option<usize> {
    CLASSES.iter().position(|class| length <= *class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_exactly_the_length_asked_for() {
        for length in [0, 1, 4096, 4097, 1 << 20, (2 << 20) + 1] {
            assert_eq!(Buffer::take(length).len(), length);
        }
    }

    #[test]
    fn long_buffers_begin_where_direct_io_can() {
        let lengths = [64 << 10, (64 << 10) + 1, 1 << 20, 2 << 20, (2 << 20) + 1];
        for length in lengths.into_iter().chain(lengths) {
            let buffer = Buffer::take(length);
            assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0, "{length}");
            assert_eq!(buffer.len(), length);
        }
    }

    #[test]
    fn free_buffers_stay_within_their_bound() {
        let many: Vec<Buffer> = (0..32).map(|_| Buffer::take(1 << 20)).collect();
        drop(many);
        assert!(FREE_BYTES.load(Ordering::Relaxed) <= MAX_FREE_BYTES);
    }
}

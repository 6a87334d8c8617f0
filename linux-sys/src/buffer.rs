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

static FREE: [Mutex<Vec<Vec<u8>>>; CLASSES.len()] =
    [const { Mutex::new(Vec::new()) }; CLASSES.len()];
static FREE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// An owned, initialised buffer of exactly the length asked for; returns to the pool when dropped.
///
/// Its bytes are whatever an earlier user left there: the caller overwrites all of them before showing them to anyone.
#[derive(Debug)]
pub struct Buffer {
    storage: Vec<u8>,
    length: usize,
}

impl Buffer {
    /// Takes a buffer of `length` bytes. The caller has already checked `length` against its own limit.
    pub fn take(length: usize) -> Buffer {
        let Some(class) = class_holding(length) else {
            return Buffer {
                storage: vec![0; length],
                length,
            };
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
            None => vec![0; CLASSES[class]],
        };
        Buffer { storage, length }
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
        let size = self.storage.len();
        let Some(class) = CLASSES.iter().position(|class| *class == size) else {
            return;
        };
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
        &self.storage[..self.length]
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[..self.length]
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
    fn free_buffers_stay_within_their_bound() {
        let many: Vec<Buffer> = (0..32).map(|_| Buffer::take(1 << 20)).collect();
        drop(many);
        assert!(FREE_BYTES.load(Ordering::Relaxed) <= MAX_FREE_BYTES);
    }
}

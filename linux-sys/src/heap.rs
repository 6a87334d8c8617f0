//! Giving unused heap memory back to the system.

/// Returns what the C library's heap keeps free to the system (malloc_trim(3)); walks the whole heap, so it is for
/// moments in which nothing else is to be done.
pub fn trim() {
    // SAFETY: malloc_trim takes no pointer and locks the arenas itself.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

//! The C library's heap: how much of it a program with many threads keeps.

/// Returns what the C library's heap keeps free to the system (malloc_trim(3)); walks the whole heap, so it is for
/// moments in which nothing else is to be done.
pub fn trim() {
    // SAFETY: malloc_trim takes no pointer and locks the arenas itself.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Limits how many separate arenas the heap of this process may have (mallopt(3), `M_ARENA_MAX`; by default eight for
/// each processor). Each keeps free memory of its own. To be called before there are threads.
pub fn limit_arenas(count: u16) {
    // SAFETY: mallopt takes two numbers; an unsuitable one is refused without effect.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, libc::c_int::from(count));
    }
}

//! What a process does that others need for getting rid of dirty memory: it must not wait for memory itself.

use std::io;

use nix::errno::Errno;

/// Keeps all of this process in memory, now and in future. See mlockall(2); needs `CAP_IPC_LOCK` or a high
/// `RLIMIT_MEMLOCK`.
pub fn lock_memory() -> io::Result<()> {
    // SAFETY: the call takes no pointer and changes only which of this process's pages may be swapped out.
    #[allow(unsafe_code)]
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    Errno::result(result)?;
    Ok(())
}

/// Says that this thread, and those that it starts, serve I/O: the kernel never makes them wait for I/O when they
/// allocate. See `PR_SET_IO_FLUSHER` in prctl(2), Linux 5.6; needs `CAP_SYS_RESOURCE`.
pub fn set_io_flusher() -> io::Result<()> {
    const SET_IO_FLUSHER: libc::c_int = 57; // linux/prctl.h
    let (yes, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: with this operation all arguments are numbers; the unused ones must be zero, and are.
    #[allow(unsafe_code)]
    let result = unsafe { libc::prctl(SET_IO_FLUSHER, yes, none, none, none) };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_reported_and_success_is_success() {
        // Both need privileges that a test may or may not have; nothing else may go wrong.
        for result in [
            std::thread::spawn(set_io_flusher).join().unwrap(),
            lock_memory(),
        ] {
            if let Err(error) = result {
                let refused = [libc::EPERM, libc::ENOMEM, libc::EAGAIN];
                assert!(
                    error
                        .raw_os_error()
                        .is_some_and(|code| refused.contains(&code)),
                    "{error}"
                );
            }
        }
    }
}

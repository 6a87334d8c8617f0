//! Sockets that a service manager opened for this process (socket activation, sd_listen_fds(3)).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// First descriptor that a service manager passes (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The descriptors that were passed to this process, close-on-exec from now on; empty when there are none, when they
/// are meant for another process (`LISTEN_PID`), and from the second call on.
///
/// To be called before the process opens anything of its own.
pub fn take() -> Vec<OwnedFd> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse::<u32>().ok())
    };
    if number("LISTEN_PID") != Some(std::process::id()) || TAKEN.swap(true, Ordering::SeqCst) {
        return Vec::new();
    }
    let count = RawFd::try_from(number("LISTEN_FDS").unwrap_or(0)).unwrap_or(0);
    let is_open =
        |descriptor: &RawFd| std::fs::read_link(format!("/proc/self/fd/{descriptor}")).is_ok();
    (FIRST..FIRST.saturating_add(count.min(1024)))
        .take_while(is_open)
        .map(|descriptor| {
            // SAFETY: sd_listen_fds(3) says that these descriptors are this process's to own, LISTEN_PID says that
            // this is the process, the descriptor is open, and `TAKEN` makes sure that they are given out once.
            #[allow(unsafe_code)]
            unsafe {
                OwnedFd::from_raw_fd(descriptor)
            }
        })
        .inspect(|owned| {
            // Fails only for a descriptor that is not open.
            let _ = fcntl(owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_when_nothing_was_passed() {
        assert!(take().is_empty());
    }
}

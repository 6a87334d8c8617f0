//! Gives a kernel leg up in the moment in which its link dies.
//!
//! The kernel fails what comes after that, but lets what was on its way wait for the request's own timeout, and with it the
//! application: ten seconds because a process on another node was killed. Nobody will answer these requests, as no other
//! link takes the dead one's place (`device`). So the device is disconnected when the kernel announces the death, its
//! requests fail, and md goes on without the leg.
//!
//! One thread for all mirrors. Should an announcement be lost, the timeout does the same later; should it come so late that
//! the device has a new link, that one is given up too, and the leg is taken back once more.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::thread;

use nbd_client::kernel::{Driver, DriverError, Events, Tree};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::device::OURS;

/// Whether the thread runs.
static LISTENING: Mutex<bool> = Mutex::new(false);

/// Begins to listen, if nobody does.
///
/// # Errors
/// There is no driver, or it can't be listened to.
pub(super) fn listen() -> Result<(), DriverError> {
    let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
    if *listening {
        return Ok(());
    }
    let mut driver = Driver::open()?;
    let mut events = driver.events()?;
    thread::Builder::new()
        .name("dead-links".into())
        .spawn(move || {
            let ended = give_up(&mut driver, &mut events);
            // The next leg that is attached begins anew.
            *LISTENING.lock().unwrap_or_else(PoisonError::into_inner) = false;
            if let Err(error) = ended {
                tracing::warn!(
                    "kernel legs are given up only when their requests time out: {error}"
                );
            }
        })?;
    *listening = true;
    Ok(())
}

/// Disconnects each device of netraidd whose link dies.
fn give_up(driver: &mut Driver, events: &mut Events) -> Result<(), DriverError> {
    let tree = Tree::system();
    loop {
        let mut waited = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        for index in events.all_dead_links()? {
            let found = tree.device(index).unwrap_or_default();
            let identifier = found.identifier.unwrap_or_default();
            if found.pid.is_none() || !identifier.starts_with(OURS) {
                continue;
            }
            match driver.disconnect(index) {
                Ok(()) => tracing::info!("the link of {identifier} died: the leg is given up"),
                // Whoever detached it was faster.
                Err(error) => tracing::debug!("{error}"),
            }
        }
    }
}

//! Who we are to a server that fences: the mirror whose leg the export is, at the point that its life has reached.
//!
//! The event counter of a leg's superblock grows with every change of the array, on whatever node it runs. So the
//! sessions of whoever attaches the leg next are newer than those of all before, also of a source that was cut off from
//! its cluster and still writes, or of a node's own connection before its power failed. `netraid run` does the same.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use linux_sys::file::block_device_size;
use md_format::{MdUuid, Superblock, find_superblock};
use nbd_protocol::command::{Answer, Command, Completion};
use nbd_protocol::session::Session;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::connection::{Connection, Options};
use crate::target::Target;

/// The session for attaching a leg of a mirror, by what the export says, and the mirror's leg on this node if there is
/// one: an export that is to become a leg says nothing yet. `None` if neither is a leg.
///
/// # Errors
/// The disk of this node is no leg, or the export belongs to another mirror.
pub(super) fn of_mirror(
    target: &Target,
    options: &Options,
    own_leg: Option<&Path>,
) -> Result<Option<Session>, IdentityError> {
    let there = of_export(target, options);
    let Some(path) = own_leg else {
        return Ok(there.map(|leg| session(leg.set_uuid, leg.events)));
    };
    let here = of_disk(path).map_err(|why| IdentityError::OwnLeg {
        path: path.display().to_string(),
        why,
    })?;
    let events = match there {
        Some(leg) if leg.set_uuid == here.set_uuid => leg.events.max(here.events),
        Some(leg) => {
            return Err(IdentityError::Foreign {
                target: target.to_string(),
                array: leg.set_uuid,
                path: path.display().to_string(),
            });
        }
        None => here.events,
    };
    Ok(Some(session(here.set_uuid, events)))
}

/// Why it can't be said who we are.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no array on the disk of this node.
    #[error("{path} is no leg of a mirror: {why}")]
    OwnLeg {
        /// The disk.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The export has to be overwritten knowingly.
    #[error(
        "{target} is a leg of another mirror (array {array}) than {path}; without --own-leg it can be attached all the same"
    )]
    Foreign {
        /// What was to be attached.
        target: String,
        /// Its array.
        array: MdUuid,
        /// The disk of this node.
        path: String,
    },
}

fn of_export(target: &Target, options: &Options) -> Option<Superblock> {
    let connection = Connection::open(target, options.clone()).ok()?;
    let patience = options.request_timeout.unwrap_or(options.connect_timeout);
    let found = find_superblock(connection.export().size, |offset, length| {
        read(&connection, offset, length, patience).ok_or(())
    });
    connection.close();
    found.ok()
}

fn of_disk(path: &Path) -> Result<Superblock, String> {
    let open = || -> io::Result<(File, u64)> {
        let file = File::open(path)?;
        let size = match file.metadata()?.file_type().is_block_device() {
            true => block_device_size(file.as_fd())?,
            false => file.metadata()?.len(),
        };
        // The kernel's md writes past the page cache: what is in there may be old.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        Ok((file, size))
    };
    let (file, size) = open().map_err(|error| error.to_string())?;
    let read = |offset, length| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).map(|()| bytes)
    };
    find_superblock(size, read).map_err(|error| error.to_string())
}

fn session(array: MdUuid, events: u64) -> Session {
    Session {
        client: u128::from_be_bytes(array.0),
        generation: (events << CONNECTION_BITS) | 1,
    }
}

fn read(
    connection: &Connection,
    offset: u64,
    length: usize,
    patience: Duration,
) -> Option<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let command = Command::Read {
        offset,
        length: u32::try_from(length).ok()?,
    };
    connection.submit(
        command,
        Completion::new(move |outcome| drop(sender.send(outcome))),
    );
    connection.kick();
    match receiver.recv_timeout(patience) {
        Ok(Ok(Answer::Data(data))) if data.len() == length => Some(data.to_vec()),
        _ => None,
    }
}

/// Bits of a generation that count connections; the rest is the event counter.
const CONNECTION_BITS: u32 = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_array_outweighs_any_number_of_reconnections() {
        let [before, after] = [20, 21].map(|events| session(MdUuid([7; 16]), events));
        assert_eq!(before.client, after.client);
        assert!(before.generation + ((1 << CONNECTION_BITS) - 2) < after.generation);
    }
}

//! From a request's header to a command that is safe to run, or the protocol's error for it.
//!
//! Where the document leaves a choice, or today's servers differ, the stricter answer is given:
//!
//! - Beyond the end: ENOSPC for WRITE and WRITE_ZEROES, EINVAL for the rest.
//! - Read-only: EPERM for everything that changes data.
//! - Unknown command, unknown flag, flag of another command, flag or command that was not advertised: EINVAL. FUA is
//!   taken with any command if it was advertised. CACHE is taken even if it was not ("should tolerate").
//! - A length of 0, which the document leaves open: EINVAL, the connection stays.
//! - FLUSH with an offset or a length: EINVAL. DISC is always obeyed.
//! - Not aligned to the minimum block size: EINVAL.
//! - A WRITE with extended headers but without PAYLOAD_LEN, which the document demands of clients: taken. QEMU 10 writes so, a
//!   WRITE always has as much payload as its length says, and whoever refused it would be useless to that client.

use bytes::Bytes;

use crate::command::{Command, Errno, Failure};
use crate::limit::MAX_STATUS_IDS;
use crate::number::{CommandFlags, CommandType, TransmissionFlags};
use crate::request::{HeaderStyle, RequestHeader, StatusPayload};

/// What a server agreed to with one client about one export: everything that a header is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportShape {
    /// Size in bytes.
    pub size: u64,
    /// The flags that the client was told.
    pub flags: TransmissionFlags,
    /// Unit of offsets and lengths, a power of two from 1 to 65536 bytes.
    pub minimum_block: u32,
    /// Longest READ and WRITE that is accepted, in bytes.
    pub maximum_payload: u32,
    /// What was negotiated.
    pub style: HeaderStyle,
    /// How many block-status contexts were selected.
    pub contexts: usize,
}

/// Longest payload of a BLOCK_STATUS: its length and the ids.
const MAX_STATUS_PAYLOAD: u32 = 8 + 4 * MAX_STATUS_IDS as u32;

/// A request that may be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Complete as it is: READ, FLUSH, TRIM, WRITE_ZEROES or CACHE.
    Command(Command),
    /// WRITE: receive `length` bytes, then see [`Checked::with_data`].
    Write {
        /// First byte.
        offset: u64,
        /// Number of bytes of payload.
        length: u32,
        /// Answer only when the data is on stable storage.
        fua: bool,
    },
    /// BLOCK_STATUS: to be asked of every selected context, each answered with one chunk.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// One extent only.
        one: bool,
    },
    /// BLOCK_STATUS with a payload that chooses among the selected contexts: receive `length` bytes, decode them as
    /// [`StatusPayload`], then see [`check_status_payload`].
    BlockStatusPayload {
        /// First byte.
        offset: u64,
        /// Number of bytes of payload.
        length: u32,
        /// One extent only.
        one: bool,
    },
    /// DISC: finish what was accepted, answer it, close.
    Disconnect,
}

impl Checked {
    /// The command of a [`Checked::Write`] with its payload, or of a [`Checked::Command`]; `None` for the others.
    pub fn with_data(self, data: Bytes) -> Option<Command> {
        match self {
            Checked::Command(command) => Some(command),
            Checked::Write { offset, fua, .. } => Some(Command::Write { offset, data, fua }),
            _ => None,
        }
    }
}

/// Checks one request. On failure the payload, if [`RequestHeader::payload_length`] says that there is one, must still
/// be received and dropped before the failure's answer is of use.
pub fn check(header: &RequestHeader, shape: &ExportShape) -> Result<Checked, Failure> {
    let RequestHeader {
        flags,
        kind,
        offset,
        length,
        ..
    } = *header;
    if kind == CommandType::DISC {
        return Ok(Checked::Disconnect);
    }
    check_flags(kind, flags, shape)?;
    check_permission(kind, shape)?;
    let has = |flag| flags.contains(flag);
    let fua = has(CommandFlags::FUA);
    Ok(match kind {
        CommandType::READ => {
            check_range(kind, offset, length, shape)?;
            Checked::Command(Command::Read {
                offset,
                length: check_payload(length, shape)?,
            })
        }
        CommandType::WRITE => {
            check_range(kind, offset, length, shape)?;
            Checked::Write {
                offset,
                length: check_payload(length, shape)?,
                fua,
            }
        }
        CommandType::FLUSH if offset != 0 || length != 0 => {
            return Err(invalid("a flush takes neither an offset nor a length"));
        }
        CommandType::FLUSH => Checked::Command(Command::Flush),
        CommandType::BLOCK_STATUS if has(CommandFlags::PAYLOAD_LEN) => {
            let one = has(CommandFlags::REQ_ONE);
            match u32::try_from(length) {
                Ok(length) if length <= MAX_STATUS_PAYLOAD => Checked::BlockStatusPayload {
                    offset,
                    length,
                    one,
                },
                _ => return Err(invalid("the payload names too many contexts")),
            }
        }
        _ => {
            check_range(kind, offset, length, shape)?;
            match kind {
                CommandType::TRIM => Checked::Command(Command::Trim {
                    offset,
                    length,
                    fua,
                }),
                CommandType::CACHE => Checked::Command(Command::Cache { offset, length }),
                CommandType::WRITE_ZEROES => Checked::Command(Command::WriteZeroes {
                    offset,
                    length,
                    fua,
                    no_hole: has(CommandFlags::NO_HOLE),
                    fast: has(CommandFlags::FAST_ZERO),
                }),
                _ => Checked::BlockStatus {
                    offset,
                    length,
                    one: has(CommandFlags::REQ_ONE),
                },
            }
        }
    })
}

/// Checks the payload of a [`Checked::BlockStatusPayload`] against the ids that were selected in the handshake; gives
/// the length to ask about and, in the client's order, the positions of the chosen contexts within `selected`.
pub fn check_status_payload(
    offset: u64,
    payload: &StatusPayload,
    selected: &[u32],
    shape: &ExportShape,
) -> Result<(u64, Vec<usize>), Failure> {
    check_range(
        CommandType::BLOCK_STATUS,
        offset,
        payload.effect_length,
        shape,
    )?;
    if payload.contexts.is_empty() {
        return Err(invalid("no context is asked for"));
    }
    let mut chosen = Vec::with_capacity(payload.contexts.len());
    for id in &payload.contexts {
        match selected.iter().position(|known| known == id) {
            Some(position) if !chosen.contains(&position) => chosen.push(position),
            Some(_) => {
                return Err(Failure::new(
                    Errno::EINVAL,
                    format!("context {id} is asked for twice"),
                ));
            }
            None => {
                return Err(Failure::new(
                    Errno::EINVAL,
                    format!("context {id} was not selected"),
                ));
            }
        }
    }
    Ok((payload.effect_length, chosen))
}

/// Flags that a command may carry, given what was advertised; an unknown command is found here.
fn check_flags(kind: CommandType, flags: CommandFlags, shape: &ExportShape) -> Result<(), Failure> {
    let offered = |flag| shape.flags.contains(flag);
    let when = |offered: bool, flag| if offered { flag } else { CommandFlags::NONE };
    let extended = shape.style == HeaderStyle::Extended;
    let own = match kind {
        CommandType::READ => {
            let structured = shape.style >= HeaderStyle::Structured;
            when(
                structured && offered(TransmissionFlags::SEND_DF),
                CommandFlags::DF,
            )
        }
        CommandType::WRITE => when(extended, CommandFlags::PAYLOAD_LEN),
        CommandType::FLUSH | CommandType::TRIM | CommandType::CACHE => CommandFlags::NONE,
        CommandType::WRITE_ZEROES => {
            CommandFlags::NO_HOLE
                | when(
                    offered(TransmissionFlags::SEND_FAST_ZERO),
                    CommandFlags::FAST_ZERO,
                )
        }
        CommandType::BLOCK_STATUS => {
            let payload = extended && offered(TransmissionFlags::BLOCK_STATUS_PAYLOAD);
            CommandFlags::REQ_ONE | when(payload, CommandFlags::PAYLOAD_LEN)
        }
        _ => {
            return Err(Failure::new(
                Errno::EINVAL,
                format!("unknown command {kind:?}"),
            ));
        }
    };
    let allowed = own | when(offered(TransmissionFlags::SEND_FUA), CommandFlags::FUA);
    let refused = flags.without(allowed);
    if refused.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Errno::EINVAL,
        format!("{kind:?} may not carry the flags {refused:?} here"),
    ))
}

/// Read-only exports and commands that were not advertised.
fn check_permission(kind: CommandType, shape: &ExportShape) -> Result<(), Failure> {
    let changes = matches!(
        kind,
        CommandType::WRITE | CommandType::TRIM | CommandType::WRITE_ZEROES
    );
    if changes && shape.flags.contains(TransmissionFlags::READ_ONLY) {
        return Err(Failure::new(Errno::EPERM, "the export is read-only"));
    }
    let needed = match kind {
        CommandType::FLUSH => TransmissionFlags::SEND_FLUSH,
        CommandType::TRIM => TransmissionFlags::SEND_TRIM,
        CommandType::WRITE_ZEROES => TransmissionFlags::SEND_WRITE_ZEROES,
        CommandType::BLOCK_STATUS if shape.style == HeaderStyle::Simple || shape.contexts == 0 => {
            return Err(invalid("no block-status context was negotiated"));
        }
        _ => TransmissionFlags::NONE,
    };
    if shape.flags.contains(needed) {
        return Ok(());
    }
    Err(Failure::new(
        Errno::EINVAL,
        format!("{kind:?} is not offered by this export"),
    ))
}

fn check_range(
    kind: CommandType,
    offset: u64,
    length: u64,
    shape: &ExportShape,
) -> Result<(), Failure> {
    if length == 0 {
        return Err(invalid("a length of 0"));
    }
    if offset > shape.size || length > shape.size - offset {
        let errno = match kind {
            CommandType::WRITE | CommandType::WRITE_ZEROES => Errno::ENOSPC,
            _ => Errno::EINVAL,
        };
        let why = format!(
            "{length} bytes at {offset} reach beyond the end at {}",
            shape.size
        );
        return Err(Failure::new(errno, why));
    }
    let unit = u64::from(shape.minimum_block.max(1));
    if !offset.is_multiple_of(unit) || !length.is_multiple_of(unit) {
        let why = format!("{length} bytes at {offset} are not aligned to blocks of {unit}");
        return Err(Failure::new(Errno::EINVAL, why));
    }
    Ok(())
}

fn check_payload(length: u64, shape: &ExportShape) -> Result<u32, Failure> {
    match u32::try_from(length) {
        Ok(length) if length <= shape.maximum_payload => Ok(length),
        _ => {
            let why = format!(
                "{length} bytes are more than the maximum of {}",
                shape.maximum_payload
            );
            Err(Failure::new(Errno::EINVAL, why))
        }
    }
}

fn invalid(why: &'static str) -> Failure {
    Failure::new(Errno::EINVAL, why)
}

#[cfg(test)]
mod tests;

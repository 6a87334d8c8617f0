//! From a command to a request that this server takes: what it does not offer is never sent.

use bytes::Bytes;
use nbd_protocol::check::{self, ExportShape};
use nbd_protocol::command::{Command, Errno, Failure};
use nbd_protocol::number::{CommandFlags, CommandType, TransmissionFlags};
use nbd_protocol::pending::Pending;
use nbd_protocol::{HeaderStyle, RequestHeader};

use super::handshake::Export;
use super::in_flight::Received;

/// How a command is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// As one request.
    Send,
    /// Without FUA, then a flush.
    ThenFlush,
}

/// Decides how to carry out a command, or why the server can't.
pub(super) fn plan(command: &Command, export: &Export) -> Result<Plan, Failure> {
    use TransmissionFlags as Flags;
    let offers = |flag| export.flags.contains(flag);
    let needed = match command {
        Command::Read { .. } | Command::Write { .. } | Command::BlockStatus { .. } => Flags::NONE,
        Command::Flush => Flags::SEND_FLUSH,
        Command::Trim { .. } => Flags::SEND_TRIM,
        Command::WriteZeroes { fast: true, .. } => Flags::SEND_WRITE_ZEROES | Flags::SEND_FAST_ZERO,
        Command::WriteZeroes { .. } => Flags::SEND_WRITE_ZEROES,
        Command::Cache { .. } => Flags::SEND_CACHE,
    };
    if command.changes_data() && offers(Flags::READ_ONLY) {
        return Err(Failure::new(Errno::EPERM, "the export is read-only"));
    }
    if !offers(needed) {
        return Err(Failure::new(
            Errno::ENOTSUP,
            format!("the server does not offer {command:?}"),
        ));
    }
    let fua = match command {
        Command::Write { fua, .. }
        | Command::Trim { fua, .. }
        | Command::WriteZeroes { fua, .. } => *fua,
        _ => false,
    };
    if !fua || offers(Flags::SEND_FUA) {
        return Ok(Plan::Send);
    }
    if offers(Flags::SEND_FLUSH) {
        return Ok(Plan::ThenFlush);
    }
    Err(Failure::new(
        Errno::ENOTSUP,
        "the server offers neither FUA nor flush",
    ))
}

/// The same command without FUA.
pub(super) fn without_fua(mut command: Command) -> Command {
    if let Command::Write { fua, .. }
    | Command::Trim { fua, .. }
    | Command::WriteZeroes { fua, .. } = &mut command
    {
        *fua = false;
    }
    command
}

/// The header, whose cookie is still 0, and the payload. Fails for a command that does not fit the export.
pub(super) fn encode(
    command: &Command,
    export: &Export,
) -> Result<(RequestHeader, Bytes), Failure> {
    let extended = export.style == HeaderStyle::Extended;
    let when = |condition: bool, flag| if condition { flag } else { CommandFlags::NONE };
    let mut payload = Bytes::new();
    let (kind, flags) = match command {
        Command::Read { .. } => (CommandType::READ, CommandFlags::NONE),
        Command::Write { data, fua, .. } => {
            payload = data.clone();
            (
                CommandType::WRITE,
                when(*fua, CommandFlags::FUA) | when(extended, CommandFlags::PAYLOAD_LEN),
            )
        }
        Command::Flush => (CommandType::FLUSH, CommandFlags::NONE),
        Command::Trim { fua, .. } => (CommandType::TRIM, when(*fua, CommandFlags::FUA)),
        Command::WriteZeroes {
            fua, no_hole, fast, ..
        } => {
            let flags = when(*fua, CommandFlags::FUA)
                | when(*no_hole, CommandFlags::NO_HOLE)
                | when(*fast, CommandFlags::FAST_ZERO);
            (CommandType::WRITE_ZEROES, flags)
        }
        Command::BlockStatus { one, context, .. } => {
            if *context >= export.contexts.len() {
                return Err(Failure::new(
                    Errno::EINVAL,
                    "the server does not offer this block-status context",
                ));
            }
            (CommandType::BLOCK_STATUS, when(*one, CommandFlags::REQ_ONE))
        }
        Command::Cache { .. } => (CommandType::CACHE, CommandFlags::NONE),
    };
    let (offset, length) = command.range().unwrap_or((0, 0));
    if !extended && u32::try_from(length).is_err() {
        return Err(Failure::new(
            Errno::EOVERFLOW,
            format!("{length} bytes are more than one request can name"),
        ));
    }
    let header = RequestHeader {
        flags,
        kind,
        cookie: 0,
        offset,
        length,
    };
    check::check(&header, &shape(export))?;
    Ok((header, payload))
}

/// What the answer to a request brings.
pub(super) fn received(command: &Command, export: &Export) -> Received {
    match command {
        Command::Read { length, .. } => Received::Data(*length, None),
        Command::BlockStatus { context, .. } => {
            let id = export
                .contexts
                .get(*context)
                .map_or(0, |context| context.id);
            Received::Extents(id, Vec::new())
        }
        _ => Received::Nothing,
    }
}

/// What the protocol lets the server answer.
pub(super) fn expect(header: RequestHeader, command: &Command, export: &Export) -> Pending {
    let contexts: Vec<u32> = match command {
        Command::BlockStatus { .. } => export.contexts.iter().map(|context| context.id).collect(),
        _ => Vec::new(),
    };
    Pending::new(export.style, header, &contexts)
}

/// Payload bytes that a command holds or will hold.
pub(super) fn cost(command: &Command) -> u64 {
    match command {
        Command::Read { length, .. } => u64::from(*length),
        Command::Write { data, .. } => data.len() as u64,
        _ => 0,
    }
}

fn shape(export: &Export) -> ExportShape {
    ExportShape {
        size: export.size,
        flags: export.flags,
        minimum_block: export.minimum_block,
        maximum_payload: export.maximum_payload,
        style: export.style,
        contexts: export.contexts.len(),
    }
}

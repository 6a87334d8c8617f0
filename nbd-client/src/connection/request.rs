//! From a command to a request that this server takes: what it does not offer is never sent.

use bytes::{Bytes, BytesMut};
use nbd_protocol::check::{self, ExportShape};
use nbd_protocol::command::{Command, Errno, Failure};
use nbd_protocol::number::{CommandFlags, CommandType, TransmissionFlags};
use nbd_protocol::pending::Pending;
use nbd_protocol::request::StatusPayload;
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

/// One request, complete but for its cookie.
pub(super) struct Request {
    header: RequestHeader,
    /// What is asked about, where the header's own length is that of its payload.
    asked: RequestHeader,
    /// Contexts that the answer describes.
    contexts: Vec<u32>,
    pub(super) payload: Bytes,
    /// What the answer brings.
    pub(super) received: Received,
}

impl Request {
    /// The request for a command. Fails for a command that does not fit the export.
    pub(super) fn new(command: &Command, export: &Export) -> Result<Request, Failure> {
        let extended = export.style == HeaderStyle::Extended;
        let (offset, length) = command.range().unwrap_or((0, 0));
        if !extended && u32::try_from(length).is_err() {
            let why = format!("{length} bytes are more than one request can name");
            return Err(Failure::new(Errno::EOVERFLOW, why));
        }
        let (kind, flags) = kind_and_flags(command, extended);
        let asked = RequestHeader {
            flags,
            kind,
            cookie: 0,
            offset,
            length,
        };
        if let Command::BlockStatus { context, .. } = command
            && *context >= export.contexts.len()
        {
            let why = "the server does not offer this block-status context";
            return Err(Failure::new(Errno::EINVAL, why));
        }
        check::check(&asked, &shape(export))?;
        let mut request = Request {
            header: asked,
            asked,
            contexts: Vec::new(),
            payload: Bytes::new(),
            received: Received::Nothing,
        };
        match command {
            Command::Read { length, .. } => request.received = Received::Data(*length, None),
            Command::Write { data, .. } => request.payload = data.clone(),
            Command::BlockStatus { context, .. } => {
                request.ask_for(export.contexts[*context].id, export)
            }
            _ => {}
        }
        Ok(request)
    }

    /// Asks for one context alone where the server can do that: others may be costly, such as digests. Elsewhere the
    /// answer describes all that were granted.
    fn ask_for(&mut self, context: u32, export: &Export) {
        self.received = Received::Extents(context, Vec::new());
        let alone = export.style == HeaderStyle::Extended
            && export.offers(TransmissionFlags::BLOCK_STATUS_PAYLOAD)
            && export.contexts.len() > 1;
        if !alone {
            self.contexts = export.contexts.iter().map(|context| context.id).collect();
            return;
        }
        let mut payload = BytesMut::new();
        StatusPayload {
            effect_length: self.asked.length,
            contexts: vec![context],
        }
        .encode(&mut payload);
        self.header.flags |= CommandFlags::PAYLOAD_LEN;
        self.header.length = payload.len() as u64;
        self.payload = payload.freeze();
        self.contexts = vec![context];
    }

    /// The header to send.
    pub(super) fn header(&self, cookie: u64) -> RequestHeader {
        RequestHeader {
            cookie,
            ..self.header
        }
    }

    /// What the protocol lets the server answer.
    pub(super) fn expected(&self, style: HeaderStyle, cookie: u64) -> Pending {
        Pending::new(
            style,
            RequestHeader {
                cookie,
                ..self.asked
            },
            &self.contexts,
        )
    }

    /// Payload bytes that the request holds or will hold.
    pub(super) fn cost(&self) -> u64 {
        match &self.received {
            Received::Data(length, _) => u64::from(*length),
            _ => self.payload.len() as u64,
        }
    }
}

fn kind_and_flags(command: &Command, extended: bool) -> (CommandType, CommandFlags) {
    let when = |condition: bool, flag| if condition { flag } else { CommandFlags::NONE };
    let durable = |fua: bool| when(fua, CommandFlags::FUA);
    match command {
        Command::Read { .. } => (CommandType::READ, CommandFlags::NONE),
        Command::Write { fua, .. } => (
            CommandType::WRITE,
            durable(*fua) | when(extended, CommandFlags::PAYLOAD_LEN),
        ),
        Command::Flush => (CommandType::FLUSH, CommandFlags::NONE),
        Command::Trim { fua, .. } => (CommandType::TRIM, durable(*fua)),
        Command::WriteZeroes {
            fua, no_hole, fast, ..
        } => {
            let flags = durable(*fua)
                | when(*no_hole, CommandFlags::NO_HOLE)
                | when(*fast, CommandFlags::FAST_ZERO);
            (CommandType::WRITE_ZEROES, flags)
        }
        Command::BlockStatus { one, .. } => {
            (CommandType::BLOCK_STATUS, when(*one, CommandFlags::REQ_ONE))
        }
        Command::Cache { .. } => (CommandType::CACHE, CommandFlags::NONE),
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

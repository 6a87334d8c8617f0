//! From a target to a connected socket on which requests may be sent.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use linux_sys::socket::{self, Wait};
use nbd_protocol::HeaderStyle;
use nbd_protocol::negotiate::client::{
    ClientHandshake, ClientHandshakeError, ClientWants, Outcome, Progress,
};
use nbd_protocol::number::TransmissionFlags;

use super::Options;
use super::dial::{dial, remaining, set_timeouts};
use crate::target::Target;

/// What was negotiated about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Size in bytes.
    pub size: u64,
    /// What the server offers.
    pub flags: TransmissionFlags,
    /// Unit of offsets and lengths in bytes, a power of two.
    pub minimum_block: u32,
    /// Best unit in bytes, a power of two.
    pub preferred_block: u32,
    /// Longest read or write in bytes.
    pub maximum_payload: u32,
    /// Whether the server named the three sizes itself.
    pub block_sizes_given: bool,
    /// How requests and replies look.
    pub style: HeaderStyle,
    /// Block-status contexts that were granted, in the order asked for. `Command::BlockStatus` counts in this list.
    pub contexts: Vec<Context>,
    /// The server understood our session and fences older ones.
    pub fenced: bool,
    /// The server does what comes over this connection in order.
    pub ordered: bool,
    /// All messages are followed by checksums.
    pub integrity: bool,
    /// What names the server's memory of writes that were answered and not flushed; another name: they may be lost.
    pub memory: Option<String>,
    /// The export's canonical name, if the server said one.
    pub name: Option<String>,
    /// The export's description, if the server gave one.
    pub description: Option<String>,
}

impl Export {
    /// Position of a granted context in [`Export::contexts`].
    pub fn context(&self, name: &str) -> Option<usize> {
        self.contexts
            .iter()
            .position(|context| context.name == name)
    }

    /// Whether the server offers all of `flags`.
    pub fn offers(&self, flags: TransmissionFlags) -> bool {
        self.flags.contains(flags)
    }
}

/// A block-status context of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Its name, such as `base:allocation`.
    pub name: String,
    /// Its number on this connection.
    pub id: u32,
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody answers at the address.
    #[error("can't connect to {address}: {source}")]
    Connect {
        /// The server.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server closed the connection during the handshake.
    #[error("{address} closed the connection during the handshake")]
    Closed {
        /// The server.
        address: String,
    },
    /// The handshake did not end in time.
    #[error("{address} did not finish the handshake within {} ms", after.as_millis())]
    TimedOut {
        /// The server.
        address: String,
        /// The time set.
        after: Duration,
    },
    /// The connection broke during the handshake.
    #[error("the connection to {address} failed during the handshake: {source}")]
    Network {
        /// The server.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server refused, or does not speak the protocol.
    #[error("{address}, export {export:?}: {source}")]
    Handshake {
        /// The server.
        address: String,
        /// The export's name.
        export: String,
        /// What it said or did.
        source: ClientHandshakeError,
    },
    /// The export name or a context can't be sent.
    #[error("export {export:?} can't be asked for: {why}")]
    Name {
        /// The export's name.
        export: String,
        /// What is wrong with it.
        why: String,
    },
    /// The system gave no thread.
    #[error("can't start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// A socket on which transmission has begun.
pub(super) struct Opened {
    pub(super) socket: OwnedFd,
    pub(super) export: Export,
    /// Bytes that came behind the handshake.
    pub(super) surplus: BytesMut,
}

/// A socket for somebody else, who speaks simple replies only; with it the number of bytes that the server sent too
/// early, which the other one will never see.
pub(crate) fn open_bare(
    target: &Target,
    options: &Options,
) -> Result<(OwnedFd, Export, usize), OpenError> {
    let options = Options {
        headers: HeaderStyle::Simple,
        // The kernel's client knows nothing of them.
        integrity: false,
        contexts: Vec::new(),
        ..options.clone()
    };
    let opened = open(target, &options)?;
    Ok((opened.socket, opened.export, opened.surplus.len()))
}

/// Connects and negotiates for transmission, all within the connect timeout.
pub(super) fn open(target: &Target, options: &Options) -> Result<Opened, OpenError> {
    let mut wants = ClientWants::open(&target.export);
    wants.style = options.headers;
    wants.contexts.clone_from(&options.contexts);
    wants.session = options.session;
    wants.ordered = options.ordered;
    wants.integrity = options.integrity;
    let deadline = Instant::now() + options.connect_timeout;
    let (socket, outcome, surplus) = match negotiate(target, wants.clone(), options, deadline) {
        // Some servers know no option but EXPORT_NAME and hang up on all others.
        Err(OpenError::Closed { address }) => {
            tracing::info!(%address, "the server closed on the first option; trying again with the oldest handshake");
            wants.conservative = true;
            negotiate(target, wants, options, deadline)?
        }
        other => other?,
    };
    for refused in &outcome.refused {
        let (option, reply, text) = (&refused.option, &refused.reply, &refused.text);
        tracing::debug!(server = %target.address, ?option, ?reply, %text, "the server lacks an option");
    }
    let export = described(outcome, options).ok_or_else(|| OpenError::Closed {
        address: target.address.to_string(),
    })?;
    set_timeouts(&socket, None).map_err(|source| network(target, source))?;
    Ok(Opened {
        socket,
        export,
        surplus,
    })
}

/// Runs one handshake to its end, whatever it is for.
pub(crate) fn negotiate(
    target: &Target,
    wants: ClientWants,
    options: &Options,
    deadline: Instant,
) -> Result<(OwnedFd, Outcome, BytesMut), OpenError> {
    let name = |error: nbd_protocol::DecodeError| OpenError::Name {
        export: target.export.clone(),
        why: error.to_string(),
    };
    let mut handshake = ClientHandshake::new(wants).map_err(name)?;
    let socket = dial(&target.address, deadline, options.request_timeout).map_err(|source| {
        OpenError::Connect {
            address: target.address.to_string(),
            source,
        }
    })?;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => OpenError::TimedOut {
            address: target.address.to_string(),
            after: options.connect_timeout,
        },
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => OpenError::Closed {
            address: target.address.to_string(),
        },
        _ => network(target, source),
    };
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    loop {
        let progress = handshake.receive(&mut input, &mut output);
        let sent = send_all(&socket, &mut output, deadline);
        match progress {
            Ok(Progress::Done(outcome)) => {
                sent.map_err(failed)?;
                return Ok((socket, *outcome, input));
            }
            Ok(Progress::NeedMore) => sent.map_err(failed)?,
            Err(source) => {
                let (address, export) = (target.address.to_string(), target.export.clone());
                return Err(OpenError::Handshake {
                    address,
                    export,
                    source,
                });
            }
        }
        receive_some(&socket, &mut input, deadline).map_err(failed)?;
    }
}

fn send_all(stream: &OwnedFd, output: &mut BytesMut, deadline: Instant) -> io::Result<()> {
    while !output.is_empty() {
        set_timeouts(stream, Some(remaining(deadline)?))?;
        let sent = socket::send(stream.as_fd(), &[IoSlice::new(output)], Wait::Yes)?;
        let _ = output.split_to(sent);
    }
    Ok(())
}

fn receive_some(stream: &OwnedFd, input: &mut BytesMut, deadline: Instant) -> io::Result<()> {
    let most = ClientHandshake::MAX_INPUT
        .saturating_sub(input.len())
        .max(1);
    set_timeouts(stream, Some(remaining(deadline)?))?;
    match socket::receive(stream.as_fd(), input, most, Wait::Yes)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn described(outcome: Outcome, options: &Options) -> Option<Export> {
    let export = outcome.export?;
    let mut contexts: Vec<Context> = outcome
        .contexts
        .into_iter()
        .map(|granted| Context {
            name: granted.name,
            id: granted.id,
        })
        .collect();
    let place = |context: &Context| {
        options
            .contexts
            .iter()
            .position(|wanted| *wanted == context.name)
    };
    contexts.sort_by_key(|context| place(context).unwrap_or(usize::MAX));
    // "Block size constraints": a server that names no minimum must take any offset and length.
    let minimum_block = if export.block_sizes_given {
        export.minimum_block.max(1)
    } else {
        1
    };
    Some(Export {
        size: export.size,
        flags: export.flags,
        minimum_block,
        preferred_block: export.preferred_block,
        maximum_payload: export.maximum_payload,
        block_sizes_given: export.block_sizes_given,
        style: outcome.style,
        contexts,
        fenced: outcome.fenced,
        ordered: outcome.ordered,
        integrity: outcome.integrity,
        memory: outcome.memory,
        name: export.name,
        description: export.description,
    })
}

fn network(target: &Target, source: io::Error) -> OpenError {
    OpenError::Network {
        address: target.address.to_string(),
        source,
    }
}

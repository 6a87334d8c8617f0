//! What a client brings into a handshake, and what comes out of it.

use crate::error::DecodeError;
use crate::number::{Opt, Rep, TransmissionFlags};
use crate::request::HeaderStyle;
use crate::session::Session;

/// What a client wants from the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientWants {
    /// Which export; empty for the default one.
    pub export: String,
    /// What to end with.
    pub goal: Goal,
    /// The best style that is of use; less is accepted. `Simple` for connections that the kernel takes over.
    pub style: HeaderStyle,
    /// Contexts to select, by name; those that the server does not have are missing from the result.
    pub contexts: Vec<String>,
    /// List all contexts that the export has.
    pub list_contexts: bool,
    /// Present this session before GO.
    pub session: Option<Session>,
    /// Ask, with the session, that requests are done in order ([`crate::session::ORDERED`]).
    pub ordered: bool,
    /// Ask, with the session, for checksums behind all messages ([`crate::integrity::INTEGRITY`]).
    pub integrity: bool,
    /// Send nothing but EXPORT_NAME, for servers that close on options that they do not know. Only with
    /// [`Goal::Go`]; everything else that is wanted is left out.
    pub conservative: bool,
}

impl ClientWants {
    /// Wants to open an export, with the best style that the server has.
    pub fn open(export: impl Into<String>) -> ClientWants {
        ClientWants {
            export: export.into(),
            goal: Goal::Go,
            style: HeaderStyle::Extended,
            contexts: Vec::new(),
            list_contexts: false,
            session: None,
            ordered: false,
            integrity: false,
            conservative: false,
        }
    }
}

/// What a handshake ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Transmission.
    Go,
    /// A description of the export, then ABORT.
    Info,
    /// The list of exports, then ABORT.
    List,
}

/// What came out of a handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How requests and replies look from now on.
    pub style: HeaderStyle,
    /// The export, unless the goal was [`Goal::List`].
    pub export: Option<ExportDescription>,
    /// Contexts that BLOCK_STATUS will be answered for.
    pub contexts: Vec<GrantedContext>,
    /// All contexts of the export, if they were asked for.
    pub available_contexts: Vec<String>,
    /// The server confirmed the session: it fences older ones.
    pub fenced: bool,
    /// The server does what comes over this connection in order.
    pub ordered: bool,
    /// All messages are followed by checksums from now on.
    pub integrity: bool,
    /// What names the server's memory of writes that were not flushed, if it said so with the session.
    pub memory: Option<String>,
    /// The exports, if the goal was [`Goal::List`].
    pub exports: Vec<ListedExport>,
    /// What the server refused on the way, for people.
    pub refused: Vec<RefusedOption>,
}

/// What a server said about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportDescription {
    /// Size in bytes.
    pub size: u64,
    /// What the export can do; flags that do not fit the style are cleared.
    pub flags: TransmissionFlags,
    /// Unit of offsets and lengths, a power of two from 1 to 65536 bytes. 512 if the server said nothing.
    pub minimum_block: u32,
    /// Best unit, a power of two. 4096 if the server said nothing.
    pub preferred_block: u32,
    /// Longest payload in bytes, at most [`MAX_PAYLOAD`](crate::limit::MAX_PAYLOAD). 32 MiB if the server said nothing.
    pub maximum_payload: u32,
    /// Whether the server named the block sizes itself.
    pub block_sizes_given: bool,
    /// The canonical name, if the server said one.
    pub name: Option<String>,
    /// A description, if the server gave one.
    pub description: Option<String>,
}

/// A selected context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedContext {
    /// Its id on this connection.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// One export of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedExport {
    /// Its name.
    pub name: String,
    /// May be empty.
    pub description: String,
}

/// An option that the server refused and that could be done without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedOption {
    /// Which.
    pub option: Opt,
    /// How.
    pub reply: Rep,
    /// The server's words, fit to be shown; may be empty.
    pub text: String,
}

/// How the handshake goes on. Send the output in every case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Send the output, receive more, call again.
    NeedMore,
    /// Transmission begins ([`Goal::Go`]; what is left in the input belongs to it), or the connection is to be closed
    /// once the output is sent (other goals).
    Done(Box<Outcome>),
}

/// The handshake failed; the output (an ABORT, or nothing) should be sent, then the connection must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientHandshakeError {
    /// What was received is no NBD.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The server speaks the oldstyle handshake of before 2012.
    #[error("the server speaks the oldstyle handshake, which is not supported")]
    Oldstyle,
    /// The server refused what can't be done without.
    #[error("the server refused {option}: {reply}{}{text}", if text.is_empty() { "" } else { ": " })]
    Refused {
        /// Which option.
        option: Opt,
        /// How.
        reply: Rep,
        /// The server's words, fit to be shown; may be empty.
        text: String,
    },
    /// The server answered another option than the one asked, or with something that does not fit it.
    #[error("the server answered {asked} with {reply} to {answered}")]
    Unfitting {
        /// The option that was sent.
        asked: Opt,
        /// The option that the reply names.
        answered: Opt,
        /// The reply's type.
        reply: Rep,
    },
    /// The server never said how large the export is.
    #[error("the server agreed to {0} without telling the size of the export")]
    NoSize(Opt),
    /// Block sizes that contradict the protocol or each other.
    #[error(
        "the server names impossible block sizes: minimum {minimum}, preferred {preferred}, maximum {maximum}"
    )]
    BlockSizes {
        /// In bytes.
        minimum: u32,
        /// In bytes.
        preferred: u32,
        /// In bytes.
        maximum: u32,
    },
    /// More replies, or more bytes of them, than any honest server sends.
    #[error("the server answered {0} with more than can be kept")]
    TooMuch(Opt),
    /// The goal can't be reached with this server.
    #[error("the server is too old: it knows no {0}")]
    TooOld(Opt),
}

//! What a server brings into a handshake, and what comes out of it.

use crate::check::ExportShape;
use crate::error::DecodeError;
use crate::number::{Opt, Rep, TransmissionFlags};
use crate::request::HeaderStyle;
use crate::session::Session;

/// What a server agrees to; the same for all connections of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPolicy {
    /// Agree to structured replies.
    pub structured: bool,
    /// Agree to extended headers.
    pub extended: bool,
    /// Answer LIST; else ERR_POLICY.
    pub list: bool,
    /// What becomes of STARTTLS.
    pub tls: Tls,
}

impl Default for ServerPolicy {
    /// Everything that is built.
    fn default() -> ServerPolicy {
        ServerPolicy {
            structured: true,
            extended: true,
            list: true,
            tls: Tls::Missing,
        }
    }
}

/// What becomes of STARTTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// ERR_UNSUP "TLS is not built yet".
    Missing,
    /// ERR_POLICY: this listener is without TLS.
    Forbidden,
    /// Agreed to; the client may do without ("SELECTIVETLS").
    Offered,
    /// Agreed to; everything but STARTTLS and ABORT is refused before it ("FORCEDTLS").
    Required,
}

/// The exports as the handshake sees them; asked anew for every option.
pub trait ExportDirectory {
    /// Names and descriptions (may be empty) for LIST.
    fn list(&self) -> Vec<Listing>;

    /// The export of this name; the empty name asks for the default export.
    ///
    /// # Errors
    /// The reply and the sentence that the client gets.
    fn find(&self, name: &str) -> Result<ExportInfo, Refusal>;

    /// Whether a session may work on an export (see [`crate::session`]); called once each time that it is presented.
    ///
    /// # Errors
    /// The reply and the sentence that the client gets, e.g. [`Refusal::stale`].
    fn admit(&self, export: &str, session: &Session) -> Result<(), Refusal> {
        let _ = (export, session);
        Ok(())
    }

    /// What names the memory that holds an export's writes which were answered and not flushed; `None` if that is not
    /// known.
    fn memory(&self, export: &str) -> Option<String> {
        let _ = export;
        None
    }
}

/// One export in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Its name, at most 4096 bytes.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

/// What a client is told about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// The canonical name.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// Size in bytes.
    pub size: u64,
    /// What the export can do. HAS_FLAGS is set, and what needs structured replies, extended headers or another flag
    /// is cleared, by the handshake.
    pub flags: TransmissionFlags,
    /// Unit of offsets and lengths, a power of two from 1 to 65536 bytes.
    pub minimum_block: u32,
    /// Best unit, a power of two of at least 512 bytes.
    pub preferred_block: u32,
    /// Longest payload in bytes, at most [`MAX_PAYLOAD`](crate::limit::MAX_PAYLOAD).
    pub maximum_payload: u32,
    /// Block-status contexts, in the order of the device's own list.
    pub contexts: Vec<ContextOffer>,
}

/// A block-status context that an export has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextOffer {
    /// Its name, e.g. `base:allocation`.
    pub name: String,
    /// Its status needs 64 bits: it is offered with extended headers only.
    pub wide: bool,
}

impl ContextOffer {
    /// A context whose status fits 32 bits.
    pub fn new(name: impl Into<String>) -> ContextOffer {
        ContextOffer {
            name: name.into(),
            wide: false,
        }
    }
}

/// An option is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error reply.
    pub reply: Rep,
    /// A sentence for people, in lower case and without a final stop.
    pub why: String,
}

impl Refusal {
    /// ERR_UNKNOWN: no such export.
    pub fn unknown(name: &str) -> Refusal {
        Refusal {
            reply: Rep::ERR_UNKNOWN,
            why: format!("no export is named {name:?}"),
        }
    }

    /// ERR_POLICY: a newer session of the same client is known.
    pub fn stale(session: &Session, newest: u64) -> Refusal {
        let Session { generation, .. } = session;
        let why =
            format!("session generation {generation} is fenced by the newer generation {newest}");
        Refusal {
            reply: Rep::ERR_POLICY,
            why,
        }
    }
}

/// What the two peers agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The name that the client asked for.
    pub asked: String,
    /// What it was told, with the flags as they were sent.
    pub export: ExportInfo,
    /// How requests and replies look from now on.
    pub style: HeaderStyle,
    /// The contexts that BLOCK_STATUS is answered for, in the order of their ids.
    pub contexts: Vec<SelectedContext>,
    /// The client's session, if it presented one for this export.
    pub session: Option<Session>,
    /// Requests are to be done in the order in which they come ([`crate::session::ORDERED`]).
    pub ordered: bool,
    /// Messages are followed by checksums ([`crate::integrity::INTEGRITY`]).
    pub integrity: bool,
    /// Whether TLS protects the connection.
    pub tls: bool,
}

/// A context that the client selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedContext {
    /// Its id on this connection.
    pub id: u32,
    /// Its position in [`ExportInfo::contexts`].
    pub index: usize,
    /// Its name.
    pub name: String,
}

/// How the handshake goes on. Send the output in every case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Send the output, receive more, call again.
    NeedMore,
    /// Much output has gathered: send it, then call again even if nothing more was received.
    Drain,
    /// Send the output, run the TLS handshake on the socket, call [`tls_established`], go on. The input is empty.
    ///
    /// [`tls_established`]: super::ServerHandshake::tls_established
    StartTls,
    /// Transmission begins; what is left in the input belongs to it.
    Transmission(Box<Negotiated>),
    /// The client said goodbye; send the output and close.
    Ended,
}

/// The handshake failed; the output (if any) may be sent, then the connection must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// What was received is no NBD.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The client set flags that were not offered ("the server MUST drop the connection").
    #[error("the client set unknown flags {0:#x}")]
    ClientFlags(u32),
    /// The client sent an option other than EXPORT_NAME without having said that it understands answers.
    #[error("the client does not speak the fixed newstyle handshake but sent {0}")]
    NotFixed(Opt),
    /// More options than any honest client sends.
    #[error("the client sent more than {0} options")]
    TooManyOptions(u32),
    /// EXPORT_NAME can't be refused but by closing.
    #[error("EXPORT_NAME refused: {0}")]
    ExportName(String),
    /// Bytes behind STARTTLS that an attacker may have injected.
    #[error("the client sent {0} bytes behind STARTTLS before the answer")]
    Injected(usize),
}

impl Negotiated {
    /// What requests are checked against (see [`mod@crate::check`]), with the longest payload that is accepted: it may
    /// be more than the client was told, because "SHOULD NOT treat 32 MiB as an attack".
    pub fn shape(&self, accepted_payload: u32) -> ExportShape {
        ExportShape {
            size: self.export.size,
            flags: self.export.flags,
            minimum_block: self.export.minimum_block,
            maximum_payload: accepted_payload,
            style: self.style,
            contexts: self.contexts.len(),
        }
    }
}

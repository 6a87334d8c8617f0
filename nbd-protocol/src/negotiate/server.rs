//! The server's side of the handshake. Feed it what was received; send what it writes.
//!
//! ```
//! use bytes::BytesMut;
//! use nbd_protocol::negotiate::server::*;
//!
//! struct Nothing;
//! impl ExportDirectory for Nothing {
//!     fn list(&self) -> Vec<Listing> {
//!         Vec::new()
//!     }
//!     fn find(&self, name: &str) -> Result<ExportInfo, Refusal> {
//!         Err(Refusal::unknown(name))
//!     }
//! }
//!
//! let mut handshake = ServerHandshake::new(ServerPolicy::default());
//! let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
//! output.extend_from_slice(&handshake.greeting());
//! // send output; then, whenever something was received:
//! input.extend_from_slice(b"\0\0\0\x03IHAVEOPT\0\0\0\x02\0\0\0\0");
//! assert_eq!(handshake.receive(&mut input, &Nothing, &mut output), Ok(Progress::Ended));
//! ```

mod answers;
mod terms;
#[cfg(test)]
mod tests;

pub use terms::{
    ContextOffer, ExportDirectory, ExportInfo, HandshakeError, Listing, Negotiated, Progress,
    Refusal, SelectedContext, ServerPolicy, Tls,
};

use bytes::{Buf, BufMut, BytesMut};

use crate::error::DecodeError;
use crate::limit::{MAX_HANDSHAKE_OUTPUT, MAX_OPTION_DATA, MAX_OPTIONS};
use crate::number::{ClientFlags, HandshakeFlags, IHAVEOPT, NBDMAGIC, Opt, Rep};
use crate::option::{ClientOption, OptionHeader, OptionReply};
use crate::request::HeaderStyle;
use crate::session::Session;

/// One handshake, server side.
#[derive(Debug)]
pub struct ServerHandshake {
    policy: ServerPolicy,
    phase: Phase,
    shutting_down: bool,
    /// The client understands answers to options.
    fixed: bool,
    no_zeroes: bool,
    tls: bool,
    options: u32,
    style: HeaderStyle,
    /// Of the last SET_META_CONTEXT that succeeded, with the export's name as it was asked for.
    contexts: Option<(String, Vec<SelectedContext>)>,
    /// As presented last, with the export's name as it was asked for.
    session: Option<(String, Session)>,
    /// The export that is to keep order, by the name as it was asked for.
    ordered: Option<String>,
    integrity: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client's flags are due.
    Flags,
    /// Options are due.
    Options,
    /// Transmission has begun, or the client said goodbye.
    Over,
}

/// Why an option is answered with an error, or the end of the handshake.
type Answer = Result<Option<Progress>, Refusal>;

impl ServerHandshake {
    /// Bytes of input that complete any option that is accepted.
    pub const MAX_INPUT: usize = OptionHeader::SIZE + MAX_OPTION_DATA as usize;

    /// Begins a handshake. Send [`ServerHandshake::greeting`] first.
    pub fn new(policy: ServerPolicy) -> ServerHandshake {
        ServerHandshake {
            policy,
            phase: Phase::Flags,
            shutting_down: false,
            fixed: false,
            no_zeroes: false,
            tls: false,
            options: 0,
            style: HeaderStyle::Simple,
            contexts: None,
            session: None,
            ordered: None,
            integrity: None,
        }
    }

    /// The first bytes of the connection.
    pub fn greeting(&self) -> [u8; 18] {
        let mut greeting = [0; 18];
        let mut out = &mut greeting[..];
        out.put_u64(NBDMAGIC);
        out.put_u64(IHAVEOPT);
        out.put_u16((HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES).0);
        greeting
    }

    /// From now on every option but ABORT is answered with ERR_SHUTDOWN.
    pub fn shut_down(&mut self) {
        self.shutting_down = true;
    }

    /// TLS protects the connection: everything negotiated before is forgotten, because an attacker in the middle may
    /// have negotiated it (CVE-2021-3716).
    pub fn tls_established(&mut self) {
        self.tls = true;
        self.style = HeaderStyle::Simple;
        self.contexts = None;
        self.session = None;
        self.ordered = None;
        self.integrity = None;
    }

    /// Handles what is complete in `input`, takes it out, and appends the answers to `output`.
    ///
    /// `input` should be bounded by the caller to [`ServerHandshake::MAX_INPUT`] bytes, which is enough for any option
    /// that is accepted. One call appends at most [`MAX_HANDSHAKE_OUTPUT`] bytes and the answer to one option.
    ///
    /// # Errors
    /// The client broke the protocol, or can't be refused otherwise: send the output and close.
    pub fn receive(
        &mut self,
        input: &mut BytesMut,
        exports: &dyn ExportDirectory,
        output: &mut BytesMut,
    ) -> Result<Progress, HandshakeError> {
        let before = output.len();
        if self.phase == Phase::Flags && !self.flags(input)? {
            return Ok(Progress::NeedMore);
        }
        while self.phase == Phase::Options {
            if output.len() - before >= MAX_HANDSHAKE_OUTPUT {
                return Ok(Progress::Drain);
            }
            let Some(OptionHeader { option, length }) = OptionHeader::decode(input)? else {
                return Ok(Progress::NeedMore);
            };
            if length > MAX_OPTION_DATA {
                let (length, limit) = (u64::from(length), u64::from(MAX_OPTION_DATA));
                return Err(DecodeError::TooLong {
                    what: "an option",
                    length,
                    limit,
                }
                .into());
            }
            let end = OptionHeader::SIZE + length as usize;
            if input.len() < end {
                return Ok(Progress::NeedMore);
            }
            self.options += 1;
            if self.options > MAX_OPTIONS {
                return Err(HandshakeError::TooManyOptions(MAX_OPTIONS));
            }
            let frame = input.split_to(end);
            let data = &frame[OptionHeader::SIZE..];
            if let Some(progress) = self.option(option, data, input.len(), exports, output)? {
                return Ok(progress);
            }
        }
        Ok(Progress::Ended)
    }

    /// Takes the client's flags; false while they are incomplete.
    fn flags(&mut self, input: &mut BytesMut) -> Result<bool, HandshakeError> {
        let Some(flags) = input.first_chunk::<4>() else {
            return Ok(false);
        };
        let flags = ClientFlags(u32::from_be_bytes(*flags));
        if !flags
            .without(ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES)
            .is_empty()
        {
            return Err(HandshakeError::ClientFlags(flags.0));
        }
        input.advance(4);
        self.fixed = flags.contains(ClientFlags::FIXED_NEWSTYLE);
        self.no_zeroes = flags.contains(ClientFlags::NO_ZEROES);
        self.phase = Phase::Options;
        Ok(true)
    }

    /// Handles one option; gives how the handshake goes on if it does not go on with the next option. `behind` is how
    /// many bytes were received behind the option.
    fn option(
        &mut self,
        option: Opt,
        data: &[u8],
        behind: usize,
        exports: &dyn ExportDirectory,
        output: &mut BytesMut,
    ) -> Result<Option<Progress>, HandshakeError> {
        if !self.fixed && option != Opt::EXPORT_NAME {
            return Err(HandshakeError::NotFixed(option));
        }
        if option == Opt::SET_META_CONTEXT {
            // Even if it fails, the earlier selection does not hold any more.
            self.contexts = None;
        }
        let starts = output.len();
        let answer = match self.permit(option).and_then(|()| decode(option, data)) {
            Err(refusal) => Err(refusal),
            Ok(ClientOption::StartTls) if self.may_start_tls() && behind > 0 => {
                return Err(HandshakeError::Injected(behind));
            }
            Ok(decoded) => self.answer(decoded, exports, output),
        };
        match answer {
            Ok(progress) => {
                if matches!(progress, Some(Progress::Transmission(_) | Progress::Ended)) {
                    self.phase = Phase::Over;
                }
                Ok(progress)
            }
            Err(refusal) if option == Opt::EXPORT_NAME => {
                Err(HandshakeError::ExportName(refusal.why))
            }
            Err(Refusal { reply, why }) => {
                // No part of an answer stands before its refusal.
                output.truncate(starts);
                send(option, &OptionReply::Error { reply, text: why }, output);
                Ok(None)
            }
        }
    }

    /// Whether an option may be used at all now.
    fn permit(&self, option: Opt) -> Result<(), Refusal> {
        if option == Opt::ABORT {
            return Ok(());
        }
        if self.shutting_down {
            return Err(refuse(Rep::ERR_SHUTDOWN, "the server is shutting down"));
        }
        if self.policy.tls == Tls::Required && !self.tls && option != Opt::STARTTLS {
            return Err(refuse(Rep::ERR_TLS_REQD, "this server wants TLS first"));
        }
        Ok(())
    }

    fn answer(
        &mut self,
        option: ClientOption,
        exports: &dyn ExportDirectory,
        output: &mut BytesMut,
    ) -> Answer {
        let number = option.option();
        match option {
            ClientOption::ExportName(name) => return self.export_name(name, exports, output),
            ClientOption::Abort => {
                send(number, &OptionReply::Ack, output);
                return Ok(Some(Progress::Ended));
            }
            ClientOption::StartTls => {
                self.check_tls()?;
                send(number, &OptionReply::Ack, output);
                return Ok(Some(Progress::StartTls));
            }
            ClientOption::Go(request) => return self.go(request, exports, output),
            ClientOption::List => self.list(exports, output)?,
            ClientOption::Info(request) => {
                self.describe(number, &request, exports, output)?;
            }
            ClientOption::StructuredReply => self.structured_reply()?,
            ClientOption::ExtendedHeaders => self.extended_headers()?,
            ClientOption::ListMetaContext(request) => {
                self.list_contexts(request, exports, output)?;
            }
            ClientOption::SetMetaContext(request) => {
                self.set_contexts(request, exports, output)?;
            }
            ClientOption::Unknown { option, .. } => {
                let why = format!("option {option:?} is not known here");
                return Err(Refusal {
                    reply: Rep::ERR_UNSUP,
                    why,
                });
            }
        }
        send(number, &OptionReply::Ack, output);
        Ok(None)
    }
}

/// Decodes an option's data; what is wrong with them is told to the client.
fn decode(option: Opt, data: &[u8]) -> Result<ClientOption, Refusal> {
    ClientOption::decode(option, data).map_err(|error| {
        let reply = match error {
            DecodeError::TooLong { .. } => Rep::ERR_TOO_BIG,
            _ => Rep::ERR_INVALID,
        };
        Refusal {
            reply,
            why: error.to_string(),
        }
    })
}

fn refuse(reply: Rep, why: &str) -> Refusal {
    Refusal {
        reply,
        why: why.to_owned(),
    }
}

/// Appends one reply. What can't be sent, because the export's own name or that of its context is longer than the
/// protocol allows, is left out: the client can't ask for it either.
fn send(option: Opt, reply: &OptionReply, output: &mut BytesMut) {
    let _ = reply.encode(option, output);
}

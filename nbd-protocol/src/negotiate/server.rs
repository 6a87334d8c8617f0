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
use crate::number::{
    ClientFlags, HandshakeFlags, IHAVEOPT, Info, NBDMAGIC, Opt, Rep, TransmissionFlags,
};
use crate::option::{ClientOption, InfoReply, InfoRequest, MetaRequest, OptionHeader, OptionReply};
use crate::request::HeaderStyle;
use crate::session::Session;
use crate::text;

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

    fn export_name(
        &mut self,
        name: String,
        exports: &dyn ExportDirectory,
        output: &mut BytesMut,
    ) -> Answer {
        if self.style == HeaderStyle::Extended {
            return Err(refuse(
                Rep::ERR_INVALID,
                "it must not follow EXTENDED_HEADERS",
            ));
        }
        let export = self.find(&name, exports)?;
        output.put_u64(export.size);
        output.put_u16(export.flags.0);
        if !self.no_zeroes {
            output.put_bytes(0, 124);
        }
        Ok(Some(self.transmission(name, export)))
    }

    fn go(
        &mut self,
        request: InfoRequest,
        exports: &dyn ExportDirectory,
        output: &mut BytesMut,
    ) -> Answer {
        let export = self.describe(Opt::GO, &request, exports, output)?;
        send(Opt::GO, &OptionReply::Ack, output);
        Ok(Some(self.transmission(request.export, export)))
    }

    /// What holds from now on: contexts and session only if they were meant for this export.
    fn transmission(&mut self, asked: String, export: ExportInfo) -> Progress {
        let contexts = self.contexts.take().filter(|(name, _)| *name == asked);
        let session = self.session.take().filter(|(name, _)| *name == asked);
        Progress::Transmission(Box::new(Negotiated {
            asked,
            export,
            style: self.style,
            contexts: contexts.map(|(_, contexts)| contexts).unwrap_or_default(),
            session: session.map(|(_, session)| session),
            tls: self.tls,
        }))
    }

    /// The answers to INFO and GO but the last.
    fn describe(
        &self,
        option: Opt,
        request: &InfoRequest,
        exports: &dyn ExportDirectory,
        output: &mut BytesMut,
    ) -> Result<ExportInfo, Refusal> {
        let export = self.find(&request.export, exports)?;
        let mut tell = |info| send(option, &OptionReply::Info(info), output);
        tell(InfoReply::Export {
            size: export.size,
            flags: export.flags,
        });
        if request.infos.contains(&Info::NAME) {
            tell(InfoReply::Name(export.name.clone()));
        }
        if request.infos.contains(&Info::DESCRIPTION) && !export.description.is_empty() {
            tell(InfoReply::Description(
                text::sendable(&export.description).to_owned(),
            ));
        }
        // Told to everybody, as qemu does: who did not ask may ignore it, but unaligned requests fail all the same.
        tell(InfoReply::BlockSize {
            minimum: export.minimum_block,
            preferred: export.preferred_block,
            maximum: export.maximum_payload,
        });
        Ok(export)
    }

    /// The export with the flags that hold for what was negotiated so far.
    fn find(&self, name: &str, exports: &dyn ExportDirectory) -> Result<ExportInfo, Refusal> {
        let mut export = exports.find(name)?;
        let mut lacking = TransmissionFlags::SEND_RESIZE;
        if self.style == HeaderStyle::Simple {
            lacking |= TransmissionFlags::SEND_DF;
        }
        if self.style != HeaderStyle::Extended {
            lacking |= TransmissionFlags::BLOCK_STATUS_PAYLOAD;
        }
        if !export.flags.contains(TransmissionFlags::SEND_WRITE_ZEROES) {
            lacking |= TransmissionFlags::SEND_FAST_ZERO;
        }
        export.flags = export.flags.without(lacking) | TransmissionFlags::HAS_FLAGS;
        Ok(export)
    }

    fn list(&self, exports: &dyn ExportDirectory, output: &mut BytesMut) -> Result<(), Refusal> {
        if !self.policy.list {
            return Err(refuse(
                Rep::ERR_POLICY,
                "this server does not list its exports",
            ));
        }
        for Listing { name, description } in exports.list() {
            let description = text::sendable(&description).to_owned();
            send(
                Opt::LIST,
                &OptionReply::Server { name, description },
                output,
            );
        }
        Ok(())
    }

    fn structured_reply(&mut self) -> Result<(), Refusal> {
        match self.style {
            HeaderStyle::Extended => {
                let why = "extended headers were negotiated already";
                Err(refuse(Rep::ERR_EXT_HEADER_REQD, why))
            }
            HeaderStyle::Structured => Err(refuse(
                Rep::ERR_INVALID,
                "structured replies were negotiated already",
            )),
            HeaderStyle::Simple if !self.policy.structured => Err(refuse(
                Rep::ERR_UNSUP,
                "structured replies are switched off here",
            )),
            HeaderStyle::Simple => {
                self.style = HeaderStyle::Structured;
                Ok(())
            }
        }
    }

    fn extended_headers(&mut self) -> Result<(), Refusal> {
        if !self.policy.extended {
            return Err(refuse(
                Rep::ERR_UNSUP,
                "extended headers are switched off here",
            ));
        }
        if self.style == HeaderStyle::Extended {
            return Err(refuse(
                Rep::ERR_INVALID,
                "extended headers were negotiated already",
            ));
        }
        self.style = HeaderStyle::Extended;
        Ok(())
    }

    /// A query that ends with a colon lists everything that begins with it.
    fn list_contexts(
        &mut self,
        request: MetaRequest,
        exports: &dyn ExportDirectory,
        output: &mut BytesMut,
    ) -> Result<(), Refusal> {
        let MetaRequest {
            export: asked,
            queries,
        } = request;
        let export = self.find(&asked, exports)?;
        let mut presented = None;
        for query in &queries {
            if let Ok(session) = query.parse::<Session>() {
                exports.admit(&asked, &session)?;
                presented = Some(session);
                let name = query.clone();
                let reply = OptionReply::MetaContext { id: 0, name };
                send(Opt::LIST_META_CONTEXT, &reply, output);
            }
        }
        let wanted = |name: &str| {
            let matches = |query: &String| {
                query == name || (query.ends_with(':') && name.starts_with(query.as_str()))
            };
            queries.is_empty() || queries.iter().any(matches)
        };
        for (_, offer) in self.offers(&export) {
            if wanted(&offer.name) {
                let reply = OptionReply::MetaContext {
                    id: 0,
                    name: offer.name.clone(),
                };
                send(Opt::LIST_META_CONTEXT, &reply, output);
            }
        }
        if let Some(session) = presented {
            self.session = Some((asked, session));
        }
        Ok(())
    }

    /// Only whole names select a context; the earlier selection was dropped already.
    fn set_contexts(
        &mut self,
        request: MetaRequest,
        exports: &dyn ExportDirectory,
        output: &mut BytesMut,
    ) -> Result<(), Refusal> {
        if self.style == HeaderStyle::Simple {
            let why = "contexts need structured replies or extended headers first";
            return Err(refuse(Rep::ERR_INVALID, why));
        }
        let MetaRequest {
            export: asked,
            queries,
        } = request;
        let export = self.find(&asked, exports)?;
        let mut selected = Vec::new();
        for (index, offer) in self.offers(&export) {
            if queries.contains(&offer.name) {
                let name = offer.name.clone();
                // Positions in a list that the server made itself; 0 is left to mean "no id".
                let id = index as u32 + 1;
                send(
                    Opt::SET_META_CONTEXT,
                    &OptionReply::MetaContext {
                        id,
                        name: name.clone(),
                    },
                    output,
                );
                selected.push(SelectedContext { id, index, name });
            }
        }
        self.contexts = Some((asked, selected));
        Ok(())
    }

    /// The contexts whose status fits the headers that were negotiated.
    fn offers<'a>(
        &self,
        export: &'a ExportInfo,
    ) -> impl Iterator<Item = (usize, &'a ContextOffer)> + use<'a> {
        let extended = self.style == HeaderStyle::Extended;
        export
            .contexts
            .iter()
            .enumerate()
            .filter(move |(_, offer)| extended || !offer.wide)
    }

    fn may_start_tls(&self) -> bool {
        matches!(self.policy.tls, Tls::Offered | Tls::Required) && !self.tls
    }

    fn check_tls(&self) -> Result<(), Refusal> {
        match self.policy.tls {
            _ if self.tls => Err(refuse(
                Rep::ERR_INVALID,
                "TLS protects this connection already",
            )),
            Tls::Missing => Err(refuse(Rep::ERR_UNSUP, "TLS is not built yet")),
            Tls::Forbidden => Err(refuse(
                Rep::ERR_POLICY,
                "this server is configured without TLS",
            )),
            Tls::Offered | Tls::Required => Ok(()),
        }
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

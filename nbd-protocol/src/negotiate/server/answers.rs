//! What a server answers to each option that it understood.

use bytes::{BufMut, BytesMut};

use super::{
    Answer, ContextOffer, ExportDirectory, ExportInfo, Listing, Negotiated, Progress, Refusal,
    SelectedContext, ServerHandshake, Tls, refuse, send,
};
use crate::integrity::INTEGRITY;
use crate::number::{Info, Opt, Rep, TransmissionFlags};
use crate::option::{InfoReply, InfoRequest, MetaRequest, OptionReply};
use crate::request::HeaderStyle;
use crate::session::{MEMORY_PREFIX, ORDERED, Session};
use crate::text;

impl ServerHandshake {
    pub(super) fn export_name(
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

    pub(super) fn go(
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
        let ordered = self.ordered.take().is_some_and(|name| name == asked);
        let integrity = self.integrity.take().is_some_and(|name| name == asked);
        Progress::Transmission(Box::new(Negotiated {
            asked,
            export,
            style: self.style,
            contexts: contexts.map(|(_, contexts)| contexts).unwrap_or_default(),
            session: session.map(|(_, session)| session),
            ordered,
            integrity,
            tls: self.tls,
        }))
    }

    /// The answers to INFO and GO but the last.
    pub(super) fn describe(
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

    pub(super) fn list(
        &self,
        exports: &dyn ExportDirectory,
        output: &mut BytesMut,
    ) -> Result<(), Refusal> {
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

    pub(super) fn structured_reply(&mut self) -> Result<(), Refusal> {
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

    pub(super) fn extended_headers(&mut self) -> Result<(), Refusal> {
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
    pub(super) fn list_contexts(
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
        if presented.is_some()
            && let Some(memory) = exports.memory(&asked)
        {
            let name = format!("{MEMORY_PREFIX}{memory}");
            let reply = OptionReply::MetaContext { id: 0, name };
            send(Opt::LIST_META_CONTEXT, &reply, output);
        }
        let ordered = queries.iter().any(|query| query == ORDERED);
        let integrity = queries.iter().any(|query| query == INTEGRITY);
        for (granted, name) in [(ordered, ORDERED), (integrity, INTEGRITY)] {
            if granted {
                let name = name.to_owned();
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
        if ordered {
            self.ordered = Some(asked.clone());
        }
        if integrity {
            self.integrity = Some(asked.clone());
        }
        if let Some(session) = presented {
            self.session = Some((asked, session));
        }
        Ok(())
    }

    /// Only whole names select a context; the earlier selection was dropped already.
    pub(super) fn set_contexts(
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

    pub(super) fn may_start_tls(&self) -> bool {
        matches!(self.policy.tls, Tls::Offered | Tls::Required) && !self.tls
    }

    pub(super) fn check_tls(&self) -> Result<(), Refusal> {
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

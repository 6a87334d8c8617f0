//! The client's side of the handshake. Feed it what was received; send what it writes.
//!
//! In this order, as far as wanted: EXTENDED_HEADERS, else STRUCTURED_REPLY; the session (see [`crate::session`]); the
//! list of contexts; SET_META_CONTEXT; then GO, INFO or LIST. What is refused is done without and noted in
//! [`Outcome::refused`], but for the goal itself, a fenced session, TLS that the server insists on, and a server that
//! is shutting down. A server that does not know GO gets EXPORT_NAME.

mod collect;
mod terms;
#[cfg(test)]
mod tests;

pub use terms::{
    ClientHandshakeError, ClientWants, ExportDescription, Goal, GrantedContext, ListedExport,
    Outcome, Progress, RefusedOption,
};

use bytes::{Buf, BufMut, BytesMut};

use crate::error::DecodeError;
use crate::integrity::INTEGRITY;
use crate::limit::{MAX_COLLECTED, MAX_REPLIES, MAX_REPLY_DATA};
use crate::number::{
    ClientFlags, HandshakeFlags, IHAVEOPT, Info, NBDMAGIC, OLDSTYLE_MAGIC, Opt, Rep,
    TransmissionFlags,
};
use crate::option::{ClientOption, InfoRequest, MetaRequest, OptionReply, ReplyHeader};
use crate::request::HeaderStyle;
use crate::session::ORDERED;
use collect::Description;

/// One handshake, client side.
#[derive(Debug)]
pub struct ClientHandshake {
    wants: ClientWants,
    phase: Phase,
    no_zeroes: bool,
    outcome: Outcome,
    description: Description,
    /// Replies to the option that is being answered.
    replies: usize,
    /// Bytes of strings kept.
    collected: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The server's greeting is due.
    Greeting,
    /// Replies to this step's option are due.
    Answer(Step),
    /// The answer to EXPORT_NAME, which has no frame, is due.
    ExportName,
    /// Nothing is due any more.
    Over,
}

/// The options that a client may send, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Extended,
    Structured,
    Session,
    ListContexts,
    SetContexts,
    Goal,
}

impl Step {
    const ALL: [Step; 6] = [
        Step::Extended,
        Step::Structured,
        Step::Session,
        Step::ListContexts,
        Step::SetContexts,
        Step::Goal,
    ];
}

impl ClientHandshake {
    /// Bytes of input that complete any reply that is accepted.
    pub const MAX_INPUT: usize = ReplyHeader::SIZE + MAX_REPLY_DATA as usize;

    /// Begins a handshake.
    ///
    /// # Errors
    /// A name or query that the protocol can't carry.
    pub fn new(wants: ClientWants) -> Result<ClientHandshake, DecodeError> {
        let handshake = ClientHandshake {
            wants,
            phase: Phase::Greeting,
            no_zeroes: false,
            outcome: Outcome::default(),
            description: Description::default(),
            replies: 0,
            collected: 0,
        };
        let mut scratch = Vec::new();
        for step in Step::ALL {
            handshake.message(step).encode(&mut scratch)?;
            scratch.clear();
        }
        Ok(handshake)
    }

    /// Handles what is complete in `input`, takes it out, and appends what is to be sent to `output`.
    ///
    /// `input` should be bounded by the caller to [`ClientHandshake::MAX_INPUT`] bytes, which is enough for any reply
    /// that is accepted.
    ///
    /// # Errors
    /// The server broke the protocol or refused: send the output and close.
    pub fn receive(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<Progress, ClientHandshakeError> {
        loop {
            let finished = match self.phase {
                Phase::Greeting => self.greeting(input, output)?,
                Phase::Answer(step) => self.answer(step, input, output)?,
                Phase::ExportName => self.export_name(input)?,
                Phase::Over => return Ok(Progress::Done(Box::new(self.outcome.clone()))),
            };
            if !finished {
                return Ok(Progress::NeedMore);
            }
        }
    }

    /// Takes the server's first bytes; false while they are incomplete.
    fn greeting(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<bool, ClientHandshakeError> {
        for (at, expected) in [(0, NBDMAGIC), (8, IHAVEOPT)] {
            let Some(magic) = input.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
                return Ok(false);
            };
            let found = u64::from_be_bytes(*magic);
            if at == 8 && found == OLDSTYLE_MAGIC {
                return Err(ClientHandshakeError::Oldstyle);
            }
            if found != expected {
                return Err(DecodeError::Magic {
                    what: "the server's greeting",
                    found,
                }
                .into());
            }
        }
        let Some(flags) = input.get(16..18) else {
            return Ok(false);
        };
        let offered = HandshakeFlags(u16::from_be_bytes([flags[0], flags[1]]));
        input.advance(18);
        let mut flags = ClientFlags::NONE;
        let fixed = offered.contains(HandshakeFlags::FIXED_NEWSTYLE);
        if fixed {
            flags |= ClientFlags::FIXED_NEWSTYLE;
        }
        self.no_zeroes = offered.contains(HandshakeFlags::NO_ZEROES);
        if self.no_zeroes {
            flags |= ClientFlags::NO_ZEROES;
        }
        output.put_u32(flags.0);
        if fixed && !(self.wants.conservative && self.wants.goal == Goal::Go) {
            self.go_on(None, output)?;
        } else if self.wants.goal == Goal::Go {
            self.send_export_name(output)?;
        } else {
            return Err(ClientHandshakeError::TooOld(
                self.message(Step::Goal).option(),
            ));
        }
        Ok(true)
    }

    /// Sends the next option that is wanted.
    fn go_on(
        &mut self,
        after: Option<Step>,
        output: &mut BytesMut,
    ) -> Result<(), ClientHandshakeError> {
        let wants = &self.wants;
        let style = self.outcome.style;
        let about_export = wants.goal != Goal::List;
        let next = Step::ALL.into_iter().find(|step| {
            let wanted = match step {
                Step::Extended => about_export && wants.style == HeaderStyle::Extended,
                Step::Structured => {
                    about_export
                        && wants.style >= HeaderStyle::Structured
                        && style == HeaderStyle::Simple
                }
                Step::Session => about_export && wants.session.is_some(),
                Step::ListContexts => about_export && wants.list_contexts,
                Step::SetContexts => {
                    about_export && !wants.contexts.is_empty() && style != HeaderStyle::Simple
                }
                Step::Goal => true,
            };
            after.is_none_or(|after| *step > after) && wanted
        });
        let step = next.unwrap_or(Step::Goal);
        self.replies = 0;
        self.message(step).encode(output)?;
        self.phase = Phase::Answer(step);
        Ok(())
    }

    /// The option of a step.
    fn message(&self, step: Step) -> ClientOption {
        let ClientWants {
            export,
            contexts,
            session,
            ordered,
            integrity,
            goal,
            ..
        } = &self.wants;
        let export = export.clone();
        let info = |export| {
            let infos = vec![Info::NAME, Info::DESCRIPTION, Info::BLOCK_SIZE];
            InfoRequest { export, infos }
        };
        match step {
            Step::Extended => ClientOption::ExtendedHeaders,
            Step::Structured => ClientOption::StructuredReply,
            Step::Session => {
                let order = ordered.then(|| ORDERED.to_owned());
                let checksums = integrity.then(|| INTEGRITY.to_owned());
                let queries = session.iter().map(ToString::to_string);
                let queries = queries.chain(order).chain(checksums);
                let queries = queries.collect();
                ClientOption::ListMetaContext(MetaRequest { export, queries })
            }
            Step::ListContexts => ClientOption::ListMetaContext(MetaRequest {
                export,
                queries: Vec::new(),
            }),
            Step::SetContexts => ClientOption::SetMetaContext(MetaRequest {
                export,
                queries: contexts.clone(),
            }),
            Step::Goal => match goal {
                Goal::Go => ClientOption::Go(info(export)),
                Goal::Info => ClientOption::Info(info(export)),
                Goal::List => ClientOption::List,
            },
        }
    }

    /// Takes one reply; false while it is incomplete.
    fn answer(
        &mut self,
        step: Step,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<bool, ClientHandshakeError> {
        let Some(ReplyHeader {
            option: answered,
            reply,
            length,
        }) = ReplyHeader::decode(input)?
        else {
            return Ok(false);
        };
        if length > MAX_REPLY_DATA {
            let (length, limit) = (u64::from(length), u64::from(MAX_REPLY_DATA));
            return Err(DecodeError::TooLong {
                what: "an option reply",
                length,
                limit,
            }
            .into());
        }
        let asked = self.message(step).option();
        if answered != asked {
            return Err(ClientHandshakeError::Unfitting {
                asked,
                answered,
                reply,
            });
        }
        let end = ReplyHeader::SIZE + length as usize;
        if input.len() < end {
            return Ok(false);
        }
        self.replies += 1;
        self.collected += length as usize;
        if self.replies > MAX_REPLIES || self.collected > MAX_COLLECTED {
            return Err(ClientHandshakeError::TooMuch(asked));
        }
        let frame = input.split_to(end);
        match OptionReply::decode(reply, &frame[ReplyHeader::SIZE..])? {
            OptionReply::Ack => self.acknowledged(step, asked, output)?,
            OptionReply::Error { reply, text } => {
                self.refused(
                    step,
                    RefusedOption {
                        option: asked,
                        reply,
                        text,
                    },
                    output,
                )?;
            }
            other => {
                if !self.collect(step, other)? {
                    return Err(ClientHandshakeError::Unfitting {
                        asked,
                        answered,
                        reply,
                    });
                }
            }
        }
        Ok(true)
    }

    /// The server agreed to a step.
    fn acknowledged(
        &mut self,
        step: Step,
        asked: Opt,
        output: &mut BytesMut,
    ) -> Result<(), ClientHandshakeError> {
        match step {
            Step::Extended => self.outcome.style = HeaderStyle::Extended,
            Step::Structured => self.outcome.style = HeaderStyle::Structured,
            Step::Session | Step::ListContexts | Step::SetContexts => {}
            Step::Goal => {
                if self.wants.goal != Goal::List {
                    let style = self.outcome.style;
                    let description = std::mem::take(&mut self.description);
                    self.outcome.export = Some(description.finish(asked, style)?);
                }
                if self.wants.goal != Goal::Go {
                    ClientOption::Abort.encode(output)?;
                }
                self.phase = Phase::Over;
                return Ok(());
            }
        }
        self.go_on(Some(step), output)
    }

    /// The server refused a step: go on without it, or end.
    fn refused(
        &mut self,
        step: Step,
        refused: RefusedOption,
        output: &mut BytesMut,
    ) -> Result<(), ClientHandshakeError> {
        // A session may be refused because the server does not know the option, but not because it knows better.
        let fenced = step == Step::Session && refused.reply == Rep::ERR_POLICY;
        let hopeless = fenced || matches!(refused.reply, Rep::ERR_TLS_REQD | Rep::ERR_SHUTDOWN);
        let go_is_unknown = step == Step::Goal
            && self.wants.goal == Goal::Go
            && refused.reply == Rep::ERR_UNSUP
            // The document forbids EXPORT_NAME after extended headers.
            && self.outcome.style != HeaderStyle::Extended;
        if hopeless || (step == Step::Goal && !go_is_unknown) {
            let RefusedOption {
                option,
                reply,
                text,
            } = refused;
            ClientOption::Abort.encode(output)?;
            return Err(ClientHandshakeError::Refused {
                option,
                reply,
                text,
            });
        }
        self.outcome.refused.push(refused);
        match step {
            Step::Session => {
                self.outcome.fenced = false;
                self.outcome.ordered = false;
                self.outcome.integrity = false;
            }
            Step::ListContexts => self.outcome.available_contexts.clear(),
            Step::SetContexts => self.outcome.contexts.clear(),
            Step::Extended | Step::Structured => {}
            Step::Goal => {
                self.description = Description::default();
                return self.send_export_name(output);
            }
        }
        self.go_on(Some(step), output)
    }

    fn send_export_name(&mut self, output: &mut BytesMut) -> Result<(), ClientHandshakeError> {
        ClientOption::ExportName(self.wants.export.clone()).encode(output)?;
        self.phase = Phase::ExportName;
        Ok(())
    }

    /// Takes the answer to EXPORT_NAME; false while it is incomplete. A server that has no such export closes.
    fn export_name(&mut self, input: &mut BytesMut) -> Result<bool, ClientHandshakeError> {
        let size = if self.no_zeroes { 10 } else { 134 };
        if input.len() < size {
            return Ok(false);
        }
        let mut answer = input.split_to(size);
        let (size, flags) = (answer.get_u64(), TransmissionFlags(answer.get_u16()));
        let description = Description::bare(size, flags);
        self.outcome.export = Some(description.finish(Opt::EXPORT_NAME, self.outcome.style)?);
        self.phase = Phase::Over;
        Ok(true)
    }
}

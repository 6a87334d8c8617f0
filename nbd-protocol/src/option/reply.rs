//! The server's replies to options.

use bytes::{BufMut, Bytes};

use super::request::check_string;
use crate::error::DecodeError;
use crate::number::{Info, OPTION_REPLY_MAGIC, Opt, Rep, TransmissionFlags};
use crate::text;
use crate::wire::Reader;

/// The frame of an option reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The option that is answered.
    pub option: Opt,
    /// What the answer is.
    pub reply: Rep,
    /// Bytes of data that follow; not checked against any limit.
    pub length: u32,
}

impl ReplyHeader {
    /// Bytes on the wire.
    pub const SIZE: usize = 20;

    /// The header at the front of `bytes`, or `None` while it is incomplete. Wrong magic is found as soon as it is
    /// there.
    pub fn decode(bytes: &[u8]) -> Result<Option<ReplyHeader>, DecodeError> {
        let what = "an option reply";
        if let Some(head) = bytes.first_chunk::<8>() {
            let found = u64::from_be_bytes(*head);
            if found != OPTION_REPLY_MAGIC {
                return Err(DecodeError::Magic { what, found });
            }
        }
        let Some(header) = bytes.get(8..ReplyHeader::SIZE) else {
            return Ok(None);
        };
        let mut reader = Reader::new(header, what);
        let (option, reply) = (Opt(reader.u32()?), Rep(reader.u32()?));
        Ok(Some(ReplyHeader {
            option,
            reply,
            length: reader.u32()?,
        }))
    }

    /// Writes it.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(OPTION_REPLY_MAGIC);
        out.put_u32(self.option.0);
        out.put_u32(self.reply.0);
        out.put_u32(self.length);
    }
}

/// One information about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InfoReply {
    /// What transmission needs.
    Export {
        /// Size in bytes.
        size: u64,
        /// What the export can do.
        flags: TransmissionFlags,
    },
    /// The canonical name.
    Name(String),
    /// A description for people.
    Description(String),
    /// Sizes in bytes.
    BlockSize {
        /// Unit of offsets and lengths.
        minimum: u32,
        /// Best unit.
        preferred: u32,
        /// Longest payload.
        maximum: u32,
    },
    /// Anything else.
    Unknown {
        /// Its number.
        info: Info,
        /// Its data.
        data: Bytes,
    },
}

/// One reply to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionReply {
    /// Done.
    Ack,
    /// One export.
    Server {
        /// Its name.
        name: String,
        /// A description, may be empty.
        description: String,
    },
    /// One information.
    Info(InfoReply),
    /// One context.
    MetaContext {
        /// Its id on this connection; means nothing in an answer to LIST_META_CONTEXT.
        id: u32,
        /// Its name.
        name: String,
    },
    /// The option failed.
    Error {
        /// How.
        reply: Rep,
        /// Why, for people. Cut off at 4096 bytes when sent; fit to be shown when received.
        text: String,
    },
    /// A reply that is no error, of an unknown type.
    Unknown {
        /// Its number.
        reply: Rep,
        /// Its data.
        data: Bytes,
    },
}

impl OptionReply {
    /// Decodes the data of a reply, all of which was received.
    pub fn decode(reply: Rep, data: &[u8]) -> Result<OptionReply, DecodeError> {
        let mut reader = Reader::new(data, "the data of an option reply");
        let decoded = match reply {
            Rep::ACK => OptionReply::Ack,
            Rep::SERVER => {
                let length = reader.u32()? as usize;
                let name = reader.string(length, "an export name")?;
                let description = reader.last_string("an export's description")?;
                OptionReply::Server { name, description }
            }
            Rep::INFO => OptionReply::Info(InfoReply::decode(data)?),
            Rep::META_CONTEXT => {
                let id = reader.u32()?;
                OptionReply::MetaContext {
                    id,
                    name: reader.last_string("a context name")?,
                }
            }
            reply if reply.is_error() => OptionReply::Error {
                reply,
                text: text::printable(data),
            },
            reply => OptionReply::Unknown {
                reply,
                data: Bytes::copy_from_slice(data),
            },
        };
        if reply == Rep::ACK {
            reader.end()?;
        }
        Ok(decoded)
    }

    /// Writes the whole reply to `option`: header and data.
    ///
    /// # Errors
    /// A string that the protocol does not allow; nothing is written then.
    pub fn encode(&self, option: Opt, out: &mut impl BufMut) -> Result<(), DecodeError> {
        let mut data = Vec::new();
        let reply = match self {
            OptionReply::Ack => Rep::ACK,
            OptionReply::Server { name, description } => {
                check_string("an export name", name)?;
                check_string("an export's description", description)?;
                data.put_u32(name.len() as u32);
                data.put_slice(name.as_bytes());
                data.put_slice(description.as_bytes());
                Rep::SERVER
            }
            OptionReply::Info(info) => {
                info.encode(&mut data)?;
                Rep::INFO
            }
            OptionReply::MetaContext { id, name } => {
                check_string("a context name", name)?;
                data.put_u32(*id);
                data.put_slice(name.as_bytes());
                Rep::META_CONTEXT
            }
            OptionReply::Error { reply, text } => {
                data.put_slice(text::sendable(text).as_bytes());
                *reply
            }
            OptionReply::Unknown {
                reply,
                data: unknown,
            } => {
                data.put_slice(unknown);
                *reply
            }
        };
        // Two strings and some numbers, or what was received as one message.
        ReplyHeader {
            option,
            reply,
            length: data.len() as u32,
        }
        .encode(out);
        out.put_slice(&data);
        Ok(())
    }
}

impl InfoReply {
    fn decode(data: &[u8]) -> Result<InfoReply, DecodeError> {
        let mut reader = Reader::new(data, "an information");
        let info = match Info(reader.u16()?) {
            Info::EXPORT => {
                let size = reader.u64()?;
                InfoReply::Export {
                    size,
                    flags: TransmissionFlags(reader.u16()?),
                }
            }
            Info::NAME => InfoReply::Name(reader.last_string("an export name")?),
            Info::DESCRIPTION => {
                InfoReply::Description(reader.last_string("an export's description")?)
            }
            Info::BLOCK_SIZE => InfoReply::BlockSize {
                minimum: reader.u32()?,
                preferred: reader.u32()?,
                maximum: reader.u32()?,
            },
            info => {
                let data = Bytes::copy_from_slice(reader.rest());
                return Ok(InfoReply::Unknown { info, data });
            }
        };
        reader.end()?;
        Ok(info)
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match self {
            InfoReply::Export { size, flags } => {
                out.put_u16(Info::EXPORT.0);
                out.put_u64(*size);
                out.put_u16(flags.0);
            }
            InfoReply::Name(name) => {
                check_string("an export name", name)?;
                out.put_u16(Info::NAME.0);
                out.put_slice(name.as_bytes());
            }
            InfoReply::Description(text) => {
                check_string("an export's description", text)?;
                out.put_u16(Info::DESCRIPTION.0);
                out.put_slice(text.as_bytes());
            }
            InfoReply::BlockSize {
                minimum,
                preferred,
                maximum,
            } => {
                out.put_u16(Info::BLOCK_SIZE.0);
                out.put_u32(*minimum);
                out.put_u32(*preferred);
                out.put_u32(*maximum);
            }
            InfoReply::Unknown { info, data } => {
                out.put_u16(info.0);
                out.put_slice(data);
            }
        }
        Ok(())
    }
}

//! Options of the client.

use bytes::{BufMut, Bytes};

use crate::error::DecodeError;
use crate::limit::{MAX_OPTION_DATA, MAX_QUERIES};
use crate::number::{IHAVEOPT, Info, Opt};
use crate::wire::Reader;

/// The frame of an option: magic, number, length of the data that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option.
    pub option: Opt,
    /// Bytes of data that follow; not checked against any limit.
    pub length: u32,
}

impl OptionHeader {
    /// Bytes on the wire.
    pub const SIZE: usize = 16;

    /// The header at the front of `bytes`, or `None` while it is incomplete. Wrong magic is found as soon as it is
    /// there.
    pub fn decode(bytes: &[u8]) -> Result<Option<OptionHeader>, DecodeError> {
        let what = "an option";
        if let Some(head) = bytes.first_chunk::<8>() {
            let found = u64::from_be_bytes(*head);
            if found != IHAVEOPT {
                return Err(DecodeError::Magic { what, found });
            }
        }
        let Some(header) = bytes.get(8..OptionHeader::SIZE) else {
            return Ok(None);
        };
        let mut reader = Reader::new(header, what);
        Ok(Some(OptionHeader {
            option: Opt(reader.u32()?),
            length: reader.u32()?,
        }))
    }

    /// Writes it.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(IHAVEOPT);
        out.put_u32(self.option.0);
        out.put_u32(self.length);
    }
}

/// The data of INFO and GO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InfoRequest {
    /// Which export; empty for the default one.
    pub export: String,
    /// What the client would like to know; [`Info::EXPORT`] is always answered.
    pub infos: Vec<Info>,
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaRequest {
    /// Which export; empty for the default one.
    pub export: String,
    /// Names, or what a namespace understands as a query.
    pub queries: Vec<String>,
}

/// One option with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOption {
    /// Choose this export and begin transmission.
    ExportName(String),
    /// End the handshake.
    Abort,
    /// List the exports.
    List,
    /// Begin TLS.
    StartTls,
    /// Describe an export.
    Info(InfoRequest),
    /// Describe an export and begin transmission.
    Go(InfoRequest),
    /// Replies may come in chunks.
    StructuredReply,
    /// List contexts.
    ListMetaContext(MetaRequest),
    /// Select contexts.
    SetMetaContext(MetaRequest),
    /// 64-bit requests and replies.
    ExtendedHeaders,
    /// Anything else.
    Unknown {
        /// Its number.
        option: Opt,
        /// Its data.
        data: Bytes,
    },
}

impl ClientOption {
    /// Decodes the data of an option, all of which was received.
    ///
    /// # Errors
    /// Data that the option can't have (ERR_INVALID to the client). Too many queries are
    /// [`DecodeError::TooLong`] (ERR_TOO_BIG). Data of an ABORT are ignored.
    pub fn decode(option: Opt, data: &[u8]) -> Result<ClientOption, DecodeError> {
        let mut reader = Reader::new(data, "the data of an option");
        let decoded = match option {
            Opt::EXPORT_NAME => ClientOption::ExportName(reader.last_string("an export name")?),
            Opt::ABORT => return Ok(ClientOption::Abort),
            Opt::LIST => ClientOption::List,
            Opt::STARTTLS => ClientOption::StartTls,
            Opt::STRUCTURED_REPLY => ClientOption::StructuredReply,
            Opt::EXTENDED_HEADERS => ClientOption::ExtendedHeaders,
            Opt::INFO => ClientOption::Info(InfoRequest::decode(&mut reader)?),
            Opt::GO => ClientOption::Go(InfoRequest::decode(&mut reader)?),
            Opt::LIST_META_CONTEXT => {
                ClientOption::ListMetaContext(MetaRequest::decode(&mut reader)?)
            }
            Opt::SET_META_CONTEXT => {
                ClientOption::SetMetaContext(MetaRequest::decode(&mut reader)?)
            }
            option => {
                let data = Bytes::copy_from_slice(data);
                return Ok(ClientOption::Unknown { option, data });
            }
        };
        reader.end()?;
        Ok(decoded)
    }

    /// Its number.
    pub fn option(&self) -> Opt {
        match self {
            ClientOption::ExportName(_) => Opt::EXPORT_NAME,
            ClientOption::Abort => Opt::ABORT,
            ClientOption::List => Opt::LIST,
            ClientOption::StartTls => Opt::STARTTLS,
            ClientOption::Info(_) => Opt::INFO,
            ClientOption::Go(_) => Opt::GO,
            ClientOption::StructuredReply => Opt::STRUCTURED_REPLY,
            ClientOption::ListMetaContext(_) => Opt::LIST_META_CONTEXT,
            ClientOption::SetMetaContext(_) => Opt::SET_META_CONTEXT,
            ClientOption::ExtendedHeaders => Opt::EXTENDED_HEADERS,
            ClientOption::Unknown { option, .. } => *option,
        }
    }

    /// Writes the whole option: header and data.
    ///
    /// # Errors
    /// A string, or all data, longer than the protocol or our own server would take; nothing is written then.
    pub fn encode(&self, out: &mut impl BufMut) -> Result<(), DecodeError> {
        let mut data = Vec::new();
        match self {
            ClientOption::ExportName(name) => {
                check_string("an export name", name)?;
                data.put_slice(name.as_bytes());
            }
            ClientOption::Info(request) | ClientOption::Go(request) => request.encode(&mut data)?,
            ClientOption::ListMetaContext(request) | ClientOption::SetMetaContext(request) => {
                request.encode(&mut data)?;
            }
            ClientOption::Unknown { data: unknown, .. } => data.put_slice(unknown),
            ClientOption::Abort
            | ClientOption::List
            | ClientOption::StartTls
            | ClientOption::StructuredReply
            | ClientOption::ExtendedHeaders => {}
        }
        check_length(
            "the data of an option",
            data.len(),
            MAX_OPTION_DATA as usize,
        )?;
        // Checked just above.
        OptionHeader {
            option: self.option(),
            length: data.len() as u32,
        }
        .encode(out);
        out.put_slice(&data);
        Ok(())
    }
}

impl InfoRequest {
    fn decode(reader: &mut Reader<'_>) -> Result<InfoRequest, DecodeError> {
        let length = reader.u32()? as usize;
        let export = reader.string(length, "an export name")?;
        let count = usize::from(reader.u16()?);
        // The count is checked against what is there before anything is allocated for it.
        let list = reader.bytes(count * 2)?;
        let infos = list
            .chunks_exact(2)
            .map(|pair| Info(u16::from_be_bytes([pair[0], pair[1]])));
        Ok(InfoRequest {
            export,
            infos: infos.collect(),
        })
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        check_string("an export name", &self.export)?;
        check_length(
            "a list of informations",
            self.infos.len(),
            usize::from(u16::MAX),
        )?;
        out.put_u32(self.export.len() as u32);
        out.put_slice(self.export.as_bytes());
        out.put_u16(self.infos.len() as u16);
        for info in &self.infos {
            out.put_u16(info.0);
        }
        Ok(())
    }
}

impl MetaRequest {
    fn decode(reader: &mut Reader<'_>) -> Result<MetaRequest, DecodeError> {
        let length = reader.u32()? as usize;
        let export = reader.string(length, "an export name")?;
        let count = reader.u32()?;
        if u64::from(count) * 4 > reader.rest().len() as u64 {
            return Err(DecodeError::Truncated {
                what: "the list of queries",
            });
        }
        if count > MAX_QUERIES {
            let (length, limit) = (u64::from(count), u64::from(MAX_QUERIES));
            return Err(DecodeError::TooLong {
                what: "the list of queries",
                length,
                limit,
            });
        }
        let mut queries = Vec::new();
        for _ in 0..count {
            let length = reader.u32()? as usize;
            queries.push(reader.string(length, "a context query")?);
        }
        Ok(MetaRequest { export, queries })
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        check_string("an export name", &self.export)?;
        check_length(
            "the list of queries",
            self.queries.len(),
            MAX_QUERIES as usize,
        )?;
        out.put_u32(self.export.len() as u32);
        out.put_slice(self.export.as_bytes());
        out.put_u32(self.queries.len() as u32);
        for query in &self.queries {
            check_string("a context query", query)?;
            out.put_u32(query.len() as u32);
            out.put_slice(query.as_bytes());
        }
        Ok(())
    }
}

/// Checks a string that is to be sent.
pub(super) fn check_string(what: &'static str, text: &str) -> Result<(), DecodeError> {
    check_length(what, text.len(), crate::limit::MAX_STRING)?;
    if text.contains('\0') {
        return Err(DecodeError::Text { what });
    }
    Ok(())
}

fn check_length(what: &'static str, length: usize, limit: usize) -> Result<(), DecodeError> {
    if length <= limit {
        return Ok(());
    }
    Err(DecodeError::TooLong {
        what,
        length: length as u64,
        limit: limit as u64,
    })
}

//! Request headers, compact (28 bytes) and extended (32 bytes).

use bytes::BufMut;

use crate::error::DecodeError;
use crate::limit::MAX_PAYLOAD;
use crate::number::{CommandFlags, CommandType, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC};
use crate::wire::Reader;

/// What the two peers agreed on: how requests and replies look from now on. Ordered by ability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeaderStyle {
    /// Compact requests, simple replies: what the Linux kernel's client speaks.
    #[default]
    Simple,
    /// Compact requests, replies in chunks (NBD_OPT_STRUCTURED_REPLY).
    Structured,
    /// Extended requests and reply chunks with 64-bit lengths (NBD_OPT_EXTENDED_HEADERS).
    Extended,
}

/// The header of one request ("Request message").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Flags of the command.
    pub flags: CommandFlags,
    /// Which command.
    pub kind: CommandType,
    /// Chosen by the client, echoed by the server.
    pub cookie: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes of the range; with extended headers and `PAYLOAD_LEN` the bytes of the payload. At most `u32::MAX` in
    /// compact headers.
    pub length: u64,
}

impl RequestHeader {
    /// Bytes of a compact header.
    pub const COMPACT_SIZE: usize = 28;
    /// Bytes of an extended header.
    pub const EXTENDED_SIZE: usize = 32;

    /// Bytes of a header in a style.
    pub const fn size(style: HeaderStyle) -> usize {
        match style {
            HeaderStyle::Simple | HeaderStyle::Structured => RequestHeader::COMPACT_SIZE,
            HeaderStyle::Extended => RequestHeader::EXTENDED_SIZE,
        }
    }

    /// The header at the front of `bytes` ([`RequestHeader::size`] of them are used), or `None` while it is
    /// incomplete. Wrong magic is found as soon as the magic is there.
    pub fn decode(style: HeaderStyle, bytes: &[u8]) -> Result<Option<RequestHeader>, DecodeError> {
        let what = "a request";
        let magic = match style {
            HeaderStyle::Simple | HeaderStyle::Structured => REQUEST_MAGIC,
            HeaderStyle::Extended => EXTENDED_REQUEST_MAGIC,
        };
        if let Some(head) = bytes.first_chunk::<4>() {
            let found = u32::from_be_bytes(*head);
            if found != magic {
                return Err(DecodeError::Magic {
                    what,
                    found: u64::from(found),
                });
            }
        }
        let Some(header) = bytes.get(4..RequestHeader::size(style)) else {
            return Ok(None);
        };
        let mut reader = Reader::new(header, what);
        Ok(Some(RequestHeader {
            flags: CommandFlags(reader.u16()?),
            kind: CommandType(reader.u16()?),
            cookie: reader.u64()?,
            offset: reader.u64()?,
            length: match style {
                HeaderStyle::Simple | HeaderStyle::Structured => u64::from(reader.u32()?),
                HeaderStyle::Extended => reader.u64()?,
            },
        }))
    }

    /// Writes the header in a style; fails, writing nothing, if the length does not fit a compact header.
    pub fn encode(&self, style: HeaderStyle, out: &mut impl BufMut) -> Result<(), DecodeError> {
        match style {
            HeaderStyle::Simple | HeaderStyle::Structured => out.put_slice(&self.compact()?),
            HeaderStyle::Extended => out.put_slice(&self.extended()),
        }
        Ok(())
    }

    /// The compact header; fails if the length is above `u32::MAX`.
    pub fn compact(&self) -> Result<[u8; RequestHeader::COMPACT_SIZE], DecodeError> {
        let limit = u64::from(u32::MAX);
        let Ok(length) = u32::try_from(self.length) else {
            return Err(DecodeError::TooLong {
                what: "a compact request",
                length: self.length,
                limit,
            });
        };
        let mut header = [0; RequestHeader::COMPACT_SIZE];
        let mut out = &mut header[..];
        out.put_u32(REQUEST_MAGIC);
        self.put_middle(&mut out);
        out.put_u32(length);
        Ok(header)
    }

    /// The extended header.
    pub fn extended(&self) -> [u8; RequestHeader::EXTENDED_SIZE] {
        let mut header = [0; RequestHeader::EXTENDED_SIZE];
        let mut out = &mut header[..];
        out.put_u32(EXTENDED_REQUEST_MAGIC);
        self.put_middle(&mut out);
        out.put_u64(self.length);
        header
    }

    fn put_middle(&self, out: &mut &mut [u8]) {
        out.put_u16(self.flags.0);
        out.put_u16(self.kind.0);
        out.put_u64(self.cookie);
        out.put_u64(self.offset);
    }

    /// How many bytes of payload follow the header. They must be received even if the command is refused, else the
    /// next header can't be found. Fails above [`MAX_PAYLOAD`]: then the connection is to be closed, as the document
    /// advises ("Payload above the maximum").
    pub fn payload_length(&self, style: HeaderStyle) -> Result<u32, DecodeError> {
        let has_payload = self.kind == CommandType::WRITE
            || (style == HeaderStyle::Extended && self.flags.contains(CommandFlags::PAYLOAD_LEN));
        if !has_payload {
            return Ok(0);
        }
        match u32::try_from(self.length) {
            Ok(length) if length <= MAX_PAYLOAD => Ok(length),
            _ => Err(DecodeError::TooLong {
                what: "a request's payload",
                length: self.length,
                limit: u64::from(MAX_PAYLOAD),
            }),
        }
    }
}

/// The payload of a BLOCK_STATUS request that chooses contexts (`BLOCK_STATUS_PAYLOAD`, extended headers only).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusPayload {
    /// Bytes of the range that is asked about (the header's length is that of the payload).
    pub effect_length: u64,
    /// Ids of the contexts that are asked for; all different.
    pub contexts: Vec<u32>,
}

impl StatusPayload {
    /// Decodes a whole payload; duplicates, too many ids and odd lengths are errors (EINVAL to the client, the stream
    /// stays in step because the payload was consumed).
    pub fn decode(payload: &[u8]) -> Result<StatusPayload, DecodeError> {
        let what = "a block-status payload";
        let mut reader = Reader::new(payload, what);
        let effect_length = reader.u64()?;
        let count = reader.rest().len() / 4;
        let limit = crate::limit::MAX_STATUS_IDS;
        if count > limit {
            return Err(DecodeError::TooLong {
                what,
                length: count as u64,
                limit: limit as u64,
            });
        }
        let mut contexts = Vec::with_capacity(count);
        for _ in 0..count {
            let id = reader.u32()?;
            if contexts.contains(&id) {
                return Err(DecodeError::Value {
                    what: "a repeated context id",
                    value: u64::from(id),
                });
            }
            contexts.push(id);
        }
        reader.end()?;
        Ok(StatusPayload {
            effect_length,
            contexts,
        })
    }

    /// Writes the payload.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.effect_length);
        for id in &self.contexts {
            out.put_u32(*id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{STYLES, hex, request, style};

    fn any_header() -> impl Strategy<Value = RequestHeader> {
        let fields = (
            any::<u16>(),
            any::<u16>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
        );
        fields.prop_map(|(flags, kind, cookie, offset, length)| RequestHeader {
            flags: CommandFlags(flags),
            kind: CommandType(kind),
            cookie,
            offset,
            length,
        })
    }

    #[test]
    fn golden_compact_request_message() {
        let mut header = request(CommandType::WRITE, 0x1122_3344_5566_7788, 0x1000);
        header.flags = CommandFlags::FUA;
        let bytes = hex("25609513 0001 0001 0102030405060708 1122334455667788 00001000");
        assert_eq!(header.compact().unwrap().as_slice(), bytes);
        for style in [HeaderStyle::Simple, HeaderStyle::Structured] {
            assert_eq!(RequestHeader::decode(style, &bytes), Ok(Some(header)));
        }
    }

    #[test]
    fn golden_extended_request_message() {
        let mut header = request(CommandType::WRITE_ZEROES, 0x1122_3344_5566_7788, 1 << 33);
        header.flags = CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO;
        let bytes = hex("21e41c71 0012 0006 0102030405060708 1122334455667788 0000000200000000");
        assert_eq!(header.extended().as_slice(), bytes);
        assert_eq!(
            RequestHeader::decode(HeaderStyle::Extended, &bytes),
            Ok(Some(header))
        );
    }

    #[test]
    fn wrong_magic_is_found_with_its_fourth_byte() {
        let compact = hex("25609513");
        let extended = hex("21e41c71");
        for style in STYLES {
            let (right, wrong) = match style {
                HeaderStyle::Extended => (&extended, &compact),
                _ => (&compact, &extended),
            };
            assert_eq!(RequestHeader::decode(style, right), Ok(None));
            assert_eq!(RequestHeader::decode(style, &wrong[..3]), Ok(None));
            assert!(matches!(
                RequestHeader::decode(style, wrong),
                Err(DecodeError::Magic { .. })
            ));
        }
    }

    #[test]
    fn a_length_above_32_bits_is_not_cut_off_by_a_compact_header() {
        let mut out = Vec::new();
        let header = request(CommandType::TRIM, 0, 1 << 32);
        assert!(header.encode(HeaderStyle::Structured, &mut out).is_err());
        assert!(out.is_empty());
    }

    #[test]
    fn a_write_claiming_4_gib_is_refused_before_any_byte_of_it() {
        let header = request(CommandType::WRITE, 0, u64::from(u32::MAX));
        for style in STYLES {
            assert!(matches!(
                header.payload_length(style),
                Err(DecodeError::TooLong {
                    limit: 0x400_0000,
                    ..
                })
            ));
        }
        let most = request(CommandType::WRITE, 0, u64::from(MAX_PAYLOAD));
        assert_eq!(most.payload_length(HeaderStyle::Simple), Ok(MAX_PAYLOAD));
    }

    #[test]
    fn an_unexpected_payload_is_announced_by_its_flag_with_extended_headers_only() {
        let mut header = request(CommandType::READ, 0, 512);
        assert_eq!(header.payload_length(HeaderStyle::Extended), Ok(0));
        header.flags = CommandFlags::PAYLOAD_LEN;
        assert_eq!(header.payload_length(HeaderStyle::Extended), Ok(512));
        assert_eq!(header.payload_length(HeaderStyle::Structured), Ok(0));
    }

    #[test]
    fn golden_nbd_cmd_block_status_payload() {
        let payload = StatusPayload {
            effect_length: 1 << 20,
            contexts: vec![3, 1],
        };
        let bytes = hex("0000000000100000 00000003 00000001");
        let mut out = Vec::new();
        payload.encode(&mut out);
        assert_eq!(out, bytes);
        assert_eq!(StatusPayload::decode(&bytes), Ok(payload));
    }

    #[test]
    fn a_status_payload_with_a_repeated_id_or_an_odd_length_is_an_error() {
        let twice = hex("0000000000100000 00000003 00000003");
        assert!(matches!(
            StatusPayload::decode(&twice),
            Err(DecodeError::Value { value: 3, .. })
        ));
        let odd = hex("0000000000100000 000000");
        assert!(matches!(
            StatusPayload::decode(&odd),
            Err(DecodeError::Trailing { extra: 3, .. })
        ));
        assert!(matches!(
            StatusPayload::decode(&[]),
            Err(DecodeError::Truncated { .. })
        ));
        let many = vec![0; 8 + 4 * (crate::limit::MAX_STATUS_IDS + 1)];
        assert!(matches!(
            StatusPayload::decode(&many),
            Err(DecodeError::TooLong { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_request_survives_the_wire(style in style(), mut header in any_header()) {
            if style != HeaderStyle::Extended {
                header.length &= u64::from(u32::MAX);
            }
            let mut bytes = Vec::new();
            header.encode(style, &mut bytes).unwrap();
            prop_assert_eq!(bytes.len(), RequestHeader::size(style));
            for end in 0..bytes.len() {
                prop_assert_eq!(RequestHeader::decode(style, &bytes[..end]), Ok(None));
            }
            bytes.push(0xff);
            prop_assert_eq!(RequestHeader::decode(style, &bytes), Ok(Some(header)));
        }

        #[test]
        fn any_bytes_do_not_panic(style in style(), bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some(header)) = RequestHeader::decode(style, &bytes) {
                let _ = header.payload_length(style);
            }
            let _ = StatusPayload::decode(&bytes);
        }
    }
}

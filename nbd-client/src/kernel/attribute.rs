//! The frames of generic netlink, as bytes: messages with a header, attributes with a length and a number, in the
//! machine's own byte order. See linux/netlink.h and linux/genetlink.h.

/// The kernel sent bytes that are no netlink messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's netlink message is malformed: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// A message that is being written.
#[derive(Debug)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Begins a request to a generic netlink family that wants an acknowledgement.
    pub(super) fn request(family: u16, sequence: u32, command: u8, version: u8) -> Writer {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&0u32.to_ne_bytes()); // the length, once it is known
        bytes.extend_from_slice(&family.to_ne_bytes());
        bytes.extend_from_slice(&(FLAG_REQUEST | FLAG_ACK).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes()); // to the kernel
        bytes.extend_from_slice(&[command, version, 0, 0]);
        Writer(bytes)
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    pub(super) fn u64(&mut self, kind: u16, value: u64) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// A string, with the zero byte that the kernel expects behind it.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// An attribute that holds attributes.
    pub(super) fn nest(&mut self, kind: u16, content: impl FnOnce(&mut Writer)) {
        let start = self.0.len();
        self.attribute(kind | NESTED, &[]);
        content(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        if let Some(field) = self.0.get_mut(start..start + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if let Some(field) = self.0.get_mut(..4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        self.0
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// A message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// A family's number, or [`ERROR`].
    pub(super) kind: u16,
    /// What the request that it answers had; 0 for announcements.
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The error number of an [`ERROR`] message: 0 is an acknowledgement.
    pub(super) fn error(&self) -> Result<i32, Malformed> {
        let code = self
            .payload
            .first_chunk::<4>()
            .ok_or(Malformed("an error without a number"))?;
        Ok(i32::from_ne_bytes(*code).saturating_neg())
    }

    /// The command and the attributes of a generic message.
    pub(super) fn generic(&self) -> Result<(u8, &'a [u8]), Malformed> {
        match self.payload {
            [command, _version, _, _, rest @ ..] => Ok((*command, rest)),
            _ => Err(Malformed("no command")),
        }
    }
}

/// The messages of one datagram.
pub(super) fn messages(datagram: &[u8]) -> Result<Vec<Message<'_>>, Malformed> {
    let mut rest = datagram;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let (Some(length), Some(kind), Some(sequence)) =
            (number(rest, 0), number(rest, 4), number(rest, 8))
        else {
            return Err(Malformed("a header is cut short"));
        };
        let length = u32::from_ne_bytes(length) as usize;
        let payload = rest
            .get(MESSAGE_HEADER..length)
            .ok_or(Malformed("a message is cut short"))?;
        messages.push(Message {
            kind: u16::from_ne_bytes(kind),
            sequence: u32::from_ne_bytes(sequence),
            payload,
        });
        rest = after(rest, length);
    }
    Ok(messages)
}

/// The attributes in `bytes`: number and value.
pub(super) fn attributes(bytes: &[u8]) -> Result<Vec<(u16, &[u8])>, Malformed> {
    let mut rest = bytes;
    let mut attributes = Vec::new();
    while !rest.is_empty() {
        let (Some(length), Some(kind)) = (number(rest, 0), number(rest, 2)) else {
            return Err(Malformed("an attribute's header is cut short"));
        };
        let length = usize::from(u16::from_ne_bytes(length));
        let value = rest
            .get(ATTRIBUTE_HEADER..length)
            .ok_or(Malformed("an attribute is cut short"))?;
        attributes.push((u16::from_ne_bytes(kind) & KIND, value));
        rest = after(rest, length);
    }
    Ok(attributes)
}

/// The value of the first attribute of a number.
pub(super) fn find<'a>(attributes: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    let mut same = attributes.iter().filter(|(number, _)| *number == kind);
    same.next().map(|(_, value)| *value)
}

/// A value of a fixed size.
pub(super) fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value
        .try_into()
        .map_err(|_| Malformed("an attribute of the wrong size"))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn after(bytes: &[u8], length: usize) -> &[u8] {
    bytes
        .get(length.next_multiple_of(ALIGNMENT)..)
        .unwrap_or_default()
}

/// Kind of a message that is an error or an acknowledgement (`NLMSG_ERROR`).
pub(super) const ERROR: u16 = 2;
const FLAG_REQUEST: u16 = 1;
const FLAG_ACK: u16 = 4;
const NESTED: u16 = 1 << 15;
/// Without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const KIND: u16 = 0x3fff;
const ALIGNMENT: usize = 4;
const MESSAGE_HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::request(27, 5, 1, 1);
        writer.text(10, "abc d");
        writer.nest(7, |sockets| {
            sockets.nest(1, |item| item.u32(1, 6));
            sockets.u64(2, u64::MAX);
        });
        let bytes = writer.finish();
        let messages = messages(&bytes).unwrap();
        assert_eq!((messages[0].kind, messages[0].sequence), (27, 5));
        let (command, rest) = messages[0].generic().unwrap();
        assert_eq!(command, 1);
        let outer = attributes(rest).unwrap();
        assert_eq!(find(&outer, 10), Some(&b"abc d\0"[..]));
        let inner = attributes(find(&outer, 7).unwrap()).unwrap();
        let item = attributes(find(&inner, 1).unwrap()).unwrap();
        assert_eq!(find(&item, 1), Some(&6u32.to_ne_bytes()[..]));
        assert_eq!(find(&inner, 2), Some(&[255; 8][..]));
        assert_eq!(find(&inner, 3), None);
    }

    #[test]
    fn an_acknowledgement_is_error_zero_and_a_refusal_its_number() {
        let message = |code: i32| {
            let mut bytes = Vec::new();
            bytes.extend_from_slice(&36u32.to_ne_bytes());
            bytes.extend_from_slice(&ERROR.to_ne_bytes());
            bytes.extend_from_slice(&[0; 10]);
            bytes.extend_from_slice(&code.to_ne_bytes());
            bytes.extend_from_slice(&[0; 16]);
            bytes
        };
        for (code, said) in [(0, 0), (-16, 16), (i32::MIN, i32::MAX)] {
            let bytes = message(code);
            assert_eq!(messages(&bytes).unwrap()[0].error(), Ok(said));
        }
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(messages) = messages(&bytes) {
                prop_assert!(messages.len() <= bytes.len());
                for message in messages {
                    let _ = message.error();
                    if let Ok((_, rest)) = message.generic() {
                        let _ = attributes(rest);
                    }
                }
            }
            if let Ok(attributes) = attributes(&bytes) {
                prop_assert!(attributes.len() <= bytes.len());
            }
        }
    }
}

//! Reading big-endian numbers and strings from a slice whose length was already checked against a limit.

use crate::error::DecodeError;
use crate::limit::MAX_STRING;

/// A slice that is eaten from the front; `what` names the message in errors.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { rest: bytes, what }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated { what: self.what })?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated { what: self.what })?;
        self.rest = tail;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string of `length` bytes. A length beyond the message is found before one beyond the limit: the document
    /// wants malformed lengths told apart from too large ones.
    pub(crate) fn string(
        &mut self,
        length: usize,
        what: &'static str,
    ) -> Result<String, DecodeError> {
        let bytes = self.bytes(length)?;
        if length > MAX_STRING {
            let limit = MAX_STRING as u64;
            return Err(DecodeError::TooLong {
                what,
                length: length as u64,
                limit,
            });
        }
        string(bytes, what)
    }

    /// All that is left, as a string.
    pub(crate) fn last_string(&mut self, what: &'static str) -> Result<String, DecodeError> {
        self.string(self.rest.len(), what)
    }

    /// Checks that nothing is left.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing {
                what: self.what,
                extra,
            }),
        }
    }
}

/// Strings of the protocol are UTF-8 without NUL ("Values").
fn string(bytes: &[u8], what: &'static str) -> Result<String, DecodeError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(DecodeError::Text { what }),
    }
}

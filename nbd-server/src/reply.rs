//! One message to a client, on its way: a small header and a payload that is sent from where it is.

use bytes::Bytes;
use nbd_protocol::integrity::{TRAILER, trailer};
use nbd_protocol::reply::ReplyTo;

/// A header, a payload behind it, and how much of both has been sent.
pub(crate) struct Reply {
    header: [u8; ReplyTo::MAX_HEADER],
    header_length: u8,
    payload: Bytes,
    /// The checksum of both, if that was negotiated.
    trailer: [u8; TRAILER],
    trailer_length: u8,
    sent: usize,
    /// The last message of its request.
    pub(crate) last: bool,
    /// Bytes in flight that end with it.
    pub(crate) charge: u32,
}

impl Reply {
    /// A message of a header that `write` writes (at most [`ReplyTo::MAX_HEADER`] bytes) and `payload`.
    pub(crate) fn new(write: impl FnOnce(&mut &mut [u8]), payload: Bytes) -> Reply {
        let mut header = [0; ReplyTo::MAX_HEADER];
        let mut rest = &mut header[..];
        write(&mut rest);
        // At most MAX_HEADER, which fits.
        let header_length = (ReplyTo::MAX_HEADER - rest.len()) as u8;
        Reply {
            header,
            header_length,
            payload,
            trailer: [0; TRAILER],
            trailer_length: 0,
            sent: 0,
            last: true,
            charge: 0,
        }
    }

    /// A message whose every byte `write` writes, of any length.
    pub(crate) fn written(write: impl FnOnce(&mut Vec<u8>)) -> Reply {
        let mut message = Vec::new();
        write(&mut message);
        Reply::new(|_| {}, Bytes::from(message))
    }

    /// Puts a checksum behind it, unless there is no message: some replies only end what they answer.
    pub(crate) fn seal(&mut self) {
        if self.length() > 0 {
            let header = &self.header[..usize::from(self.header_length)];
            self.trailer = trailer(&[header, &self.payload]);
            self.trailer_length = TRAILER as u8;
        }
    }

    /// The parts that are still to be sent; each may be empty.
    pub(crate) fn unsent(&self) -> [&[u8]; PARTS] {
        let mut sent = self.sent;
        let header = &self.header[..usize::from(self.header_length)];
        let trailer = &self.trailer[..usize::from(self.trailer_length)];
        [header, &self.payload, trailer].map(|part| {
            let gone = sent.min(part.len());
            sent -= gone;
            &part[gone..]
        })
    }

    /// Takes note that up to `bytes` more were sent; returns how many of them belong to what comes after.
    pub(crate) fn advance(&mut self, bytes: usize) -> usize {
        let mine = bytes.min(self.length() - self.sent);
        self.sent += mine;
        bytes - mine
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.sent == self.length()
    }

    fn length(&self) -> usize {
        usize::from(self.header_length) + self.payload.len() + usize::from(self.trailer_length)
    }
}

/// Parts of a reply.
pub(crate) const PARTS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut;

    #[test]
    fn a_message_can_be_sent_byte_by_byte() {
        let mut reply = Reply::new(|out| out.put_slice(b"head"), Bytes::from_static(b"tail"));
        let mut sent = Vec::new();
        while !reply.is_sent() {
            sent.push(*reply.unsent().into_iter().flatten().next().unwrap());
            assert_eq!(reply.advance(1), 0);
        }
        assert_eq!(sent, b"headtail");
        assert_eq!(reply.advance(5), 5);
    }
}

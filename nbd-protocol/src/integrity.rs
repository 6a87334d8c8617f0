//! Checksums over messages: a byte that was changed on its way is never taken for data.
//!
//! A client asks with its session, as in [`crate::session`], for [`INTEGRITY`]; a server that answers with that name takes
//! part. Then in transmission every message of both sides (a request with its payload; a reply, or each chunk of one, with
//! the bytes that it announces) is followed by [`TRAILER`] bytes: the CRC-32 (IEEE 802.3) of the whole message, big endian.
//! The lengths in headers do not count them. Whoever receives a message whose checksum is wrong does nothing of it, believes
//! nothing that follows, and closes the connection; a server says why before, by an error reply to [`NOBODY`].

/// The query, and the answer, for a connection whose messages are followed by checksums.
pub const INTEGRITY: &str = "x-netraid:integrity=crc32";

/// Bytes behind each message.
pub const TRAILER: usize = 4;

/// The cookie of a server's last reply, which says that a damaged message came. No request has it.
pub const NOBODY: u64 = u64::MAX;

/// A CRC-32 that is being computed.
#[derive(Clone, Copy, Debug)]
pub struct Crc32(u32);

impl Default for Crc32 {
    fn default() -> Crc32 {
        Crc32(u32::MAX)
    }
}

impl Crc32 {
    /// Takes what comes next.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut crc = self.0;
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            let [a, b, c, d, e, f, g, h] = *eight;
            let low = crc ^ u32::from_le_bytes([a, b, c, d]);
            let [a, b, c, d] = low.to_le_bytes();
            crc = at(7, a)
                ^ at(6, b)
                ^ at(5, c)
                ^ at(4, d)
                ^ at(3, e)
                ^ at(2, f)
                ^ at(1, g)
                ^ at(0, h);
        }
        for byte in rest {
            let [low, ..] = crc.to_le_bytes();
            crc = at(0, low ^ byte) ^ (crc >> 8);
        }
        self.0 = crc;
    }

    /// What follows the message.
    pub fn trailer(self) -> [u8; TRAILER] {
        (!self.0).to_be_bytes()
    }
}

/// What follows a message of these parts.
pub fn trailer(parts: &[&[u8]]) -> [u8; TRAILER] {
    let mut crc = Crc32::default();
    parts.iter().for_each(|part| crc.update(part));
    crc.trailer()
}

fn at(table: usize, byte: u8) -> u32 {
    TABLES[table][usize::from(byte)]
}

/// For a byte and so many zero bytes behind it, what they make of a checksum.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::number::CommandType;
    use crate::testing::{hex, request};

    #[test]
    fn golden_checksums() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(trailer(&[b"123456789"]), *b"\xcb\xf4\x39\x26");
        assert_eq!(trailer(&[]), [0; 4]);
        assert_eq!(trailer(&[&[0; 32]]), *b"\x19\x0a\x55\xad");
    }

    #[test]
    fn golden_write_with_its_checksum() {
        let header = request(CommandType::WRITE, 0x1000, 4);
        let mut message = header.compact().unwrap().to_vec();
        message.extend_from_slice(b"data");
        let crc = trailer(&[&message]);
        message.extend_from_slice(&crc);
        let golden =
            hex("25609513 0000 0001 0102030405060708 0000000000001000 00000004 64617461 0978f017");
        assert_eq!(message, golden);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_a_message_is_cut(bytes: Vec<u8>, cut in 0usize..100) {
            let cut = cut.min(bytes.len());
            let slow = bytes.iter().fold(u32::MAX, |crc, byte| {
                at(0, crc.to_le_bytes()[0] ^ byte) ^ (crc >> 8)
            });
            prop_assert_eq!(trailer(&[&bytes]), (!slow).to_be_bytes());
            prop_assert_eq!(trailer(&[&bytes[..cut], &bytes[cut..]]), trailer(&[&bytes]));
        }

        #[test]
        fn any_byte_that_is_changed_is_noticed(mut bytes in prop::collection::vec(any::<u8>(), 1..200), at: prop::sample::Index, by in 1u8..) {
            let before = trailer(&[&bytes]);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert_ne!(trailer(&[&bytes]), before);
        }
    }
}

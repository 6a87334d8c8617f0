//! What several tests need: bytes from grouped hex digits, strings that the protocol allows, requests.

use proptest::prelude::*;

use crate::number::{CommandFlags, CommandType};
use crate::request::{HeaderStyle, RequestHeader};

/// Bytes from hexadecimal digits; white space groups them.
pub(crate) fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    digits
        .chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

/// A string without NUL, of at most `length` characters.
pub(crate) fn string(length: usize) -> impl Strategy<Value = String> {
    // Mapped, not filtered: long runs would give up for too many rejected characters.
    let character = any::<char>().prop_map(|c| if c == '\0' { '0' } else { c });
    proptest::collection::vec(character, 0..=length).prop_map(String::from_iter)
}

pub(crate) fn style() -> impl Strategy<Value = HeaderStyle> {
    prop_oneof![
        Just(HeaderStyle::Simple),
        Just(HeaderStyle::Structured),
        Just(HeaderStyle::Extended)
    ]
}

pub(crate) const STYLES: [HeaderStyle; 3] = [
    HeaderStyle::Simple,
    HeaderStyle::Structured,
    HeaderStyle::Extended,
];

/// A request without flags, with the cookie 0x0102030405060708.
pub(crate) fn request(kind: CommandType, offset: u64, length: u64) -> RequestHeader {
    let cookie = 0x0102_0304_0506_0708;
    RequestHeader {
        flags: CommandFlags::NONE,
        kind,
        cookie,
        offset,
        length,
    }
}

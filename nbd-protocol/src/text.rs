//! Making a peer's text fit to be shown or sent: bounded in length and free of control characters.

use crate::limit::MAX_STRING;

/// Longest text of a peer that is kept for people, in bytes.
pub const MAX_SHOWN: usize = 1024;

/// A peer's text as it may be logged: UTF-8 repaired, control characters escaped, at most [`MAX_SHOWN`] bytes.
pub fn printable(bytes: &[u8]) -> String {
    let bytes = bytes.get(..MAX_SHOWN).unwrap_or(bytes);
    let mut shown = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() || is_direction(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
        if shown.len() > MAX_SHOWN {
            break;
        }
    }
    shown.truncate(floor(&shown, MAX_SHOWN));
    shown
}

/// The longest beginning of `text` that the protocol allows to send as one string, without NUL.
pub fn sendable(text: &str) -> &str {
    let text = text.split('\0').next().unwrap_or_default();
    &text[..floor(text, MAX_STRING)]
}

/// The end of the last whole character within `limit` bytes.
fn floor(text: &str, limit: usize) -> usize {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

/// Characters that reorder what is shown after them, which a hostile server could use to forge a log line.
fn is_direction(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

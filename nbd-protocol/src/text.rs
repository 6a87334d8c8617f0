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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_forged_log_line_is_shown_as_what_it_is() {
        let forged = "ok\n2026 ERROR \u{202e}\x1b[2J";
        assert_eq!(
            printable(forged.as_bytes()),
            "ok\\u{a}2026 ERROR \\u{202e}\\u{1b}[2J"
        );
    }

    #[test]
    fn what_is_sent_ends_before_a_nul_and_at_a_whole_character() {
        assert_eq!(sendable("a\0b"), "a");
        let long = "ä".repeat(MAX_STRING);
        assert_eq!(sendable(&long).len(), MAX_STRING);
        let odd = format!("x{long}");
        assert_eq!(sendable(&odd).len(), MAX_STRING - 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_shown_bounded_and_without_control_characters(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            let shown = printable(&bytes);
            prop_assert!(shown.len() <= MAX_SHOWN);
            prop_assert!(!shown.chars().any(|c| c.is_control()));
        }
    }
}

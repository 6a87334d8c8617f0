//! The 16-byte identity of an array or of a leg, written the way `mdadm` writes it.

use std::fmt;
use std::str::FromStr;

/// A UUID as md stores it: 16 bytes, printed by `mdadm` as four groups of eight hexadecimal digits joined by colons.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MdUuid(pub [u8; 16]);

/// Why a text is not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a UUID: 32 hexadecimal digits are needed, grouped as mdadm or as RFC 9562 does"
)]
pub struct UuidError {
    /// What was given.
    pub text: String,
}

impl fmt::Display for MdUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if i > 0 && i % 4 == 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MdUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MdUuid {
    type Err = UuidError;

    /// Reads 32 hexadecimal digits; colons and hyphens between them are skipped.
    fn from_str(text: &str) -> Result<Self, UuidError> {
        let wrong = || UuidError {
            text: text.chars().take(80).collect(),
        };
        let mut bytes = [0_u8; 16];
        let mut digits = 0;
        for c in text.chars() {
            if c == ':' || c == '-' {
                continue;
            }
            let digit = c.to_digit(16).ok_or_else(wrong)?;
            let byte = bytes.get_mut(digits / 2).ok_or_else(wrong)?;
            *byte = (*byte << 4) | digit as u8;
            digits += 1;
        }
        if digits != 32 {
            return Err(wrong());
        }
        Ok(MdUuid(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_printed_and_read_as_mdadm_groups_it() {
        let text = "01234567:89abcdef:00112233:44556677";
        let uuid: MdUuid = text.parse().unwrap();
        assert_eq!(uuid.0[0..4], [0x01, 0x23, 0x45, 0x67]);
        assert_eq!(uuid.to_string(), text);
        assert_eq!(
            "01234567-89ab-cdef-0011-223344556677"
                .parse::<MdUuid>()
                .unwrap(),
            uuid
        );
    }

    #[test]
    fn refuses_what_is_not_32_digits() {
        for text in [
            "",
            "0123",
            "01234567:89abcdef:00112233:445566778",
            "g1234567:89abcdef:00112233:44556677",
        ] {
            assert!(text.parse::<MdUuid>().is_err(), "{text}");
        }
    }
}

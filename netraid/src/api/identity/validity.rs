//! From when until when a certificate is valid: the one field that webpki checks but does not show (RFC 5280, 4.1.2.5).

/// Seconds since 1970 between which a certificate is valid, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: u64,
    /// The last second.
    pub not_after: u64,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

impl Validity {
    /// Reads it from a certificate in DER; `None` if that is no certificate, or of a time before 1970.
    pub fn of(certificate: &[u8]) -> Option<Validity> {
        let (certificate, _) = expect(certificate, SEQUENCE)?;
        let (mut rest, _) = expect(certificate, SEQUENCE)?;
        if let Some((_, after)) = expect(rest, VERSION) {
            rest = after;
        }
        let (_serial, rest) = expect(rest, INTEGER)?;
        let (_algorithm, rest) = expect(rest, SEQUENCE)?;
        let (_issuer, rest) = expect(rest, SEQUENCE)?;
        let (validity, _) = expect(rest, SEQUENCE)?;
        let (tag, not_before, rest) = element(validity)?;
        let not_before = time(tag, not_before)?;
        let (tag, not_after, _) = element(rest)?;
        Some(Validity {
            not_before,
            not_after: time(tag, not_after)?,
        })
    }
}

fn expect(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

/// The tag and the content of the first element, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = length
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = std::str::from_utf8(digits).ok()?;
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = digits[..2].parse().ok()?;
            (
                if year < 50 { 2000 + year } else { 1900 + year },
                &digits[2..],
            )
        }
        (GENERALIZED_TIME, 14) => (digits[..4].parse().ok()?, &digits[4..]),
        _ => return None,
    };
    let field = |at: usize| rest[at..at + 2].parse::<i64>().ok();
    let (month, day) = (field(0)?, field(2)?);
    let seconds = field(4)? * 3600 + field(6)? * 60 + field(8)?;
    u64::try_from(days_since_1970(year, month, day)? * 86400 + seconds).ok()
}

/// Days from 1 January 1970 in the Gregorian calendar, counted in years that begin in March, so that a leap day is last.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 1 March of year 0 was 719468 days before 1970.
    Some(year * 365 + leap_days + day_of_year - 719_468)
}

/// The day of a time in seconds since 1970, as `2026-11-22` (UTC).
pub fn date(seconds: u64) -> String {
    // Years from 1 March of year 0 on, in cycles of 400 years (146097 days).
    let days = seconds / 86400 + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = cycle * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        let table = [
            ((1970, 1, 1), 0),
            ((1970, 3, 1), 59),
            ((2000, 2, 29), 11016),
            ((2026, 11, 22), 20779),
            ((2100, 3, 1), 47541),
        ];
        for ((year, month, day), days) in table {
            assert_eq!(days_since_1970(year, month, day), Some(days), "{year}");
        }
    }

    #[test]
    fn a_date_is_written_as_it_is_read() {
        for days in (0..60_000)
            .step_by(7)
            .chain([11015, 11016, 11017, 47540, 47541])
        {
            let text = date(days * 86400 + 86399);
            let field = |range: std::ops::Range<usize>| text[range].parse().unwrap();
            let read = days_since_1970(field(0..4), field(5..7), field(8..10));
            assert_eq!(read, Some(days.cast_signed()), "{text}");
        }
    }

    #[test]
    fn both_forms_of_time_are_read_and_others_are_not() {
        assert_eq!(time(UTC_TIME, b"700101000001Z"), Some(1));
        assert_eq!(time(GENERALIZED_TIME, b"19700102000000Z"), Some(86400));
        for wrong in [
            &b"700101000001"[..],
            b"7001010000Z",
            b"70010100000\xffZ",
            b"701301000000Z",
            b"Z",
            b"",
        ] {
            assert_eq!(time(UTC_TIME, wrong), None);
        }
    }

    #[test]
    fn a_certificate_cut_anywhere_is_no_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = rcgen::CertificateParams::new(["a".to_owned()]).unwrap();
        wanted.not_before = rcgen::date_time_ymd(2026, 11, 21);
        wanted.not_after = rcgen::date_time_ymd(2051, 1, 2);
        let made = wanted.self_signed(&key).unwrap();
        let validity = Validity::of(made.der()).unwrap();
        assert_eq!(validity.not_before, 20778 * 86400);
        assert_eq!(validity.not_after, wanted.not_after.unix_timestamp() as u64);
        for length in 0..made.der().len() {
            assert_eq!(Validity::of(&made.der()[..length]), None, "{length}");
        }
    }
}

//! Numbers and strings as people read them.

use std::io::IsTerminal;

/// A size in bytes with its binary unit, such as `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "bytes" || value.fract() == 0.0 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// A name of a server's choosing, quoted, with everything escaped that a terminal would act upon.
pub(crate) fn name(name: &str) -> String {
    let escaped: String = name.chars().flat_map(escape).collect();
    format!("\"{escaped}\"")
}

/// A text that may hold words of a server's choosing, on one line and with everything escaped that a terminal would act
/// upon.
pub(crate) fn line(text: &str) -> String {
    let escape = |character: char| match character {
        '"' | '\'' | '\\' => vec![character],
        _ => character.escape_debug().collect(),
    };
    text.chars().flat_map(escape).collect()
}

fn escape(character: char) -> Vec<char> {
    match character {
        '"' | '\\' => vec!['\\', character],
        // `escape_debug` leaves what can be printed, and writes control and direction characters as \u{..}.
        '\'' => vec![character],
        _ => character.escape_debug().collect(),
    }
}

pub(crate) fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// Whether standard error is a terminal that wants colour (`NO_COLOR`, no-color.org).
pub(crate) fn colour_on_stderr() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1024), "1 KiB");
        assert_eq!(size(1 << 30), "1 GiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(size(u64::MAX), "16 EiB");
    }

    #[test]
    fn a_name_can_not_act_on_the_terminal() {
        assert_eq!(name("disk"), "\"disk\"");
        assert_eq!(name("a\u{1b}[31m\n\"b\""), r#""a\u{1b}[31m\n\"b\"""#);
        assert_eq!(name("Grüße"), "\"Grüße\"");
        assert!(!name("\u{202e}evil").contains('\u{202e}'));
    }
}

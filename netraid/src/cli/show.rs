//! Numbers as people read them, and whether they want colour.

use std::io::IsTerminal;
use std::time::Duration;

/// A size in bytes with its binary unit, such as `1.5 GiB`.
pub fn size(bytes: u64) -> String {
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
    match unit == "bytes" || value.fract() == 0.0 {
        true => format!("{value:.0} {unit}"),
        false => format!("{value:.1} {unit}"),
    }
}

/// A time span in its two largest units, such as `3 min 20 s`; tenths of a second below ten.
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", span.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Whether standard error is a terminal that wants colour (`NO_COLOR`, no-color.org).
pub fn colour_on_stderr() -> bool {
    std::io::stderr().is_terminal() && colour_wanted()
}

/// Whether standard output is a terminal that wants colour.
pub fn colour_on_stdout() -> bool {
    std::io::stdout().is_terminal() && colour_wanted()
}

fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Text that came from elsewhere, with everything escaped that a terminal would act upon.
pub fn plain(text: &str) -> String {
    let escape = |character: char| match character {
        '\'' | '"' | '\\' => character.to_string(),
        _ => character.escape_debug().to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1 << 30), "1 GiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(size(u64::MAX), "16 EiB");
    }

    #[test]
    fn spans_have_two_units() {
        let table = [
            (1_500, "1.5 s"),
            (59_000, "59 s"),
            (200_000, "3 min 20 s"),
            (7_260_000, "2 h 1 min"),
        ];
        for (ms, text) in table {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
        assert_eq!(duration(Duration::from_secs(90_000)), "1 d 1 h");
    }

    #[test]
    fn foreign_text_can_not_act_on_the_terminal() {
        assert_eq!(plain("it's a \u{1b}[31m\n"), "it's a \\u{1b}[31m\\n");
        assert_eq!(plain("Grüße"), "Grüße");
    }
}

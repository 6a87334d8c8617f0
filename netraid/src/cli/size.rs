//! Sizes on the command line: `1G`, `256KiB`, `4096`.

/// Reads a size in bytes: a whole number and `K`, `M`, `G` or `T` (or `KiB` and so on, which is the same), or no unit for
/// bytes. Upper and lower case are alike.
///
/// # Errors
/// A text that names what is wrong and what would be right.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(wrong(text)),
    };
    let number: u64 = number.parse().map_err(|_| wrong(text))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text:?} is more than any disk can hold"))
}

fn wrong(text: &str) -> String {
    format!(
        "{text:?} is not a size; write a number of bytes, or with a unit such as 256KiB, 64M, 1G"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        let table = [
            ("0", 0),
            ("4096", 4096),
            ("1k", 1024),
            ("256KiB", 256 << 10),
            ("64M", 64 << 20),
            ("1G", 1 << 30),
        ];
        for (text, bytes) in table {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_named() {
        for text in ["", "G", "-1", "1.5G", "1KB", "1 G", "٣", "99999999999T"] {
            assert!(
                parse(text).is_err_and(|error| error.contains(&format!("{text:?}"))),
                "{text}"
            );
        }
    }
}

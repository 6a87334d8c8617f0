//! Settings by the names that DataKeeper's administrators know: `LKDR_CHUNK_SIZE` and its like.

use std::fmt::Display;

/// A setting that can't be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value}: {problem}")]
pub struct TunableError {
    name: &'static str,
    value: String,
    problem: String,
}

/// `LKDR_CHUNK_SIZE`: KiB of data under one bit of the bitmap. 0 stands for 256; others are powers of two, from 4 on.
/// Returns bytes.
///
/// # Errors
/// Says what would be right.
pub fn chunk_size(text: &str) -> Result<u32, TunableError> {
    const NAME: &str = "LKDR_CHUNK_SIZE";
    let kib: u32 = number(NAME, text, 0, 1 << 20)?;
    match kib {
        0 => Ok(DEFAULT_CHUNK),
        4.. if kib.is_power_of_two() => Ok(kib * 1024),
        _ => Err(wrong(
            NAME,
            text,
            "a power of two from 4 to 1048576 is needed (KiB), or 0 for 256",
        )),
    }
}

/// `LKDR_ASYNC_LIMIT`: writes that may be on the way to asynchronous legs, 1 to 16383.
///
/// # Errors
/// Says what would be right.
pub fn async_limit(text: &str) -> Result<u16, TunableError> {
    number("LKDR_ASYNC_LIMIT", text, 1, 16383)
}

/// `LKDR_SPEED_LIMIT` and `LKDR_SPEED_LIMIT_MIN`: KiB a second.
///
/// # Errors
/// Says what would be right.
pub fn speed(name: &'static str, text: &str) -> Result<u32, TunableError> {
    number(name, text, 1, i32::MAX as u32)
}

/// Bytes under one bit if nobody says otherwise.
pub const DEFAULT_CHUNK: u32 = 256 << 10;
/// `LKDR_ASYNC_LIMIT` if nobody says otherwise.
pub const DEFAULT_ASYNC_LIMIT: u16 = 4096;
/// `LKDR_SPEED_LIMIT` if nobody says otherwise.
pub const DEFAULT_SPEED: u32 = 500_000;
/// `LKDR_SPEED_LIMIT_MIN` if nobody says otherwise.
pub const DEFAULT_SPEED_MIN: u32 = 20_000;

fn number<T>(name: &'static str, text: &str, least: T, most: T) -> Result<T, TunableError>
where
    T: std::str::FromStr + PartialOrd + Display,
{
    match text.trim().parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(wrong(
            name,
            text,
            &format!("a number from {least} to {most} is needed"),
        )),
    }
}

fn wrong(name: &'static str, value: &str, problem: &str) -> TunableError {
    TunableError {
        name,
        value: value.chars().take(40).collect(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_powers_of_two_in_kib() {
        assert_eq!(chunk_size("256"), Ok(256 << 10));
        assert_eq!(chunk_size("0"), Ok(256 << 10));
        assert_eq!(chunk_size(" 4 "), Ok(4096));
        assert_eq!(chunk_size("1048576"), Ok(1 << 30));
        for text in ["1", "2", "3", "100", "2097152", "-1", "", "256K"] {
            let error = chunk_size(text).unwrap_err().to_string();
            assert!(error.starts_with("LKDR_CHUNK_SIZE="), "{error}");
        }
    }

    #[test]
    fn limits_have_the_bounds_of_the_kernel() {
        assert_eq!(async_limit("1"), Ok(1));
        assert_eq!(async_limit("16383"), Ok(16383));
        assert!(async_limit("0").is_err() && async_limit("16384").is_err());
        assert_eq!(speed("LKDR_SPEED_LIMIT", "500000"), Ok(500_000));
        let error = speed("LKDR_SPEED_LIMIT_MIN", "fast")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "LKDR_SPEED_LIMIT_MIN=fast: a number from 1 to 2147483647 is needed"
        );
    }
}

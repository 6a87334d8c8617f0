//! `/etc/default/LifeKeeper`: the parameters that DataKeeper's administrators know.
//!
//! The file is meant for a shell. Here only its plain assignments are read, one a line: `KEY=VALUE`, with or without
//! `export`, quotes and a comment. Other keys, and whatever else is in it, belong to others. Of two assignments the last
//! holds. Defaults are those of the documented list (9.5.0 and later); for `LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT` it was
//! not readable, and -1 follows from the documented behaviour.

use std::time::Duration;

use super::problem::{Complaint, Problems, quoted};
use super::source::Source;
use crate::array::tunable;
use crate::mirror::machine::Wait;

/// The parameters of all mirrors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// `LKDR_CHUNK_SIZE` (KiB): bytes under one bit of the bitmap, for mirrors that don't say it themselves.
    pub chunk_bytes: u32,
    /// `LKDR_SPEED_LIMIT`: a resync takes at most so many KiB a second.
    pub speed_limit: u32,
    /// `LKDR_SPEED_LIMIT_MIN`: so many KiB a second while others read and write.
    pub speed_limit_min: u32,
    /// `LKDR_ASYNC_LIMIT`: writes on the way to asynchronous targets.
    pub async_limit: u16,
    /// `LKDR_NO_FULL_SYNC`: new targets are believed to be equal.
    pub no_full_sync: bool,
    /// `LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT`
    pub wait_for_previous_source: Wait,
    /// `LKDR_CONNECT_NBD_DURING_RESTORE`: if not, the first quickCheck connects.
    pub connect_nbd_during_restore: bool,
    /// `LKDR_WAIT_TO_RESYNC`: no resync before a parent of this resource type is in service; `None` for `False`.
    pub wait_to_resync: Option<String>,
    /// `LKCHECKINTERVAL`: from one quickCheck to the next.
    pub check_interval: Duration,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters {
            chunk_bytes: tunable::DEFAULT_CHUNK,
            speed_limit: tunable::DEFAULT_SPEED,
            speed_limit_min: tunable::DEFAULT_SPEED_MIN,
            async_limit: tunable::DEFAULT_ASYNC_LIMIT,
            no_full_sync: false,
            wait_for_previous_source: Wait::Forever,
            connect_nbd_during_restore: true,
            wait_to_resync: Some("filesys".into()),
            check_interval: Duration::from_secs(120),
        }
    }
}

/// The keys that are read, each with the default to name in a refusal.
const KEYS: [(&str, &str); 9] = [
    ("LKDR_CHUNK_SIZE", "256"),
    ("LKDR_SPEED_LIMIT", "500000"),
    ("LKDR_SPEED_LIMIT_MIN", "20000"),
    ("LKDR_ASYNC_LIMIT", "4096"),
    ("LKDR_NO_FULL_SYNC", "0"),
    ("LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT", "-1"),
    ("LKDR_CONNECT_NBD_DURING_RESTORE", "True"),
    ("LKDR_WAIT_TO_RESYNC", "filesys"),
    ("LKCHECKINTERVAL", "120"),
];

/// Longest wait that can be meant, in seconds: about 68 years.
const MAX_WAIT: i64 = i32::MAX as i64;

/// Reads the file's text. What is refused is noted, and the parameter keeps its default.
pub(super) fn read(source: &Source, problems: &mut Problems) -> Parameters {
    let mut parameters = Parameters::default();
    let mut start = 0;
    for line in source.text.split_inclusive('\n') {
        if let Some((key, default, rest)) = assignment(line) {
            let place = source.place(start + line.len() - rest.len() - key.len());
            let taken = value(rest).and_then(|value| set(&mut parameters, key, &value));
            let taken = taken.map_err(|why| {
                Complaint::new(
                    format!("{}: {why}", quoted(&format!("{key}{}", rest.trim_end()))),
                    format!("write {key}={default} for the default"),
                )
            });
            problems.taken(&place, taken);
        }
        start += line.len();
    }
    parameters
}

/// One of our keys, its default, and what follows it.
fn assignment(line: &str) -> Option<(&'static str, &'static str, &str)> {
    let bare = line.trim_start();
    let bare = match bare.strip_prefix("export") {
        Some(rest) if rest.starts_with(char::is_whitespace) => rest.trim_start(),
        _ => bare,
    };
    KEYS.iter().find_map(|(key, default)| {
        let rest = bare.strip_prefix(key)?;
        // "KEY = VALUE" is a mistake that a shell takes for a command; it is to be told, not passed over.
        rest.trim_start()
            .starts_with('=')
            .then_some((*key, *default, rest))
    })
}

/// What a shell would make of `=VALUE`, without everything that would have to be executed.
fn value(rest: &str) -> Result<String, String> {
    let text = rest
        .strip_prefix('=')
        .ok_or("no space may be before the '='")?;
    let mut value = String::new();
    let mut quote = None;
    let mut end = text.len();
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, letter) if letter.is_whitespace() || letter == ';' => {
                end = at;
                break;
            }
            (None | Some('"'), '$' | '`' | '\\') => {
                return Err("nothing is expanded here, the plain value is needed".into());
            }
            (_, '\n') => break,
            _ => value.push(letter),
        }
    }
    if quote.is_some() {
        return Err("the quote is not closed".into());
    }
    let after = text[end..].trim();
    let exported = after.strip_prefix(';').map(str::trim_start);
    let harmless = exported.is_some_and(|after| after.is_empty() || after.starts_with("export "));
    // A comment starts after a space.
    let comment = after.starts_with('#');
    match value.is_empty() {
        true if after.is_empty() || comment => Err("it is empty".into()),
        _ if after.is_empty() || comment || harmless => Ok(value),
        _ => Err("one value is needed, and nothing behind it".into()),
    }
}

fn set(parameters: &mut Parameters, key: &str, value: &str) -> Result<(), String> {
    // The key and the value are told already.
    let reason = |error: tunable::TunableError| {
        let text = error.to_string();
        let start: String = value.chars().take(40).collect();
        let reason = text.strip_prefix(&format!("{key}={start}: "));
        reason.unwrap_or(&text).to_owned()
    };
    let word = |yes: &str, no: &str| match value {
        _ if value.eq_ignore_ascii_case(yes) => Ok(true),
        _ if value.eq_ignore_ascii_case(no) => Ok(false),
        _ => Err(format!("{yes} or {no} is needed")),
    };
    match key {
        "LKDR_CHUNK_SIZE" => parameters.chunk_bytes = tunable::chunk_size(value).map_err(reason)?,
        "LKDR_SPEED_LIMIT" => {
            parameters.speed_limit = tunable::speed("LKDR_SPEED_LIMIT", value).map_err(reason)?;
        }
        "LKDR_SPEED_LIMIT_MIN" => {
            let speed = tunable::speed("LKDR_SPEED_LIMIT_MIN", value);
            parameters.speed_limit_min = speed.map_err(reason)?;
        }
        "LKDR_ASYNC_LIMIT" => {
            parameters.async_limit = tunable::async_limit(value).map_err(reason)?;
        }
        "LKDR_NO_FULL_SYNC" => parameters.no_full_sync = word("1", "0")?,
        "LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT" => {
            let wait = number(value, -1, MAX_WAIT).and_then(Wait::from_parameter);
            parameters.wait_for_previous_source =
                wait.ok_or("-1 (for ever), 0 (not at all) or up to 2147483647 seconds are needed")?;
        }
        "LKDR_CONNECT_NBD_DURING_RESTORE" => {
            parameters.connect_nbd_during_restore = word("True", "False")?;
        }
        "LKDR_WAIT_TO_RESYNC" => {
            parameters.wait_to_resync = match value.eq_ignore_ascii_case("False") {
                true => None,
                false => Some(resource_type(value)?),
            };
        }
        "LKCHECKINTERVAL" => {
            let seconds = number(value, 1, 86400).and_then(|seconds| u64::try_from(seconds).ok());
            let seconds = seconds.ok_or("a number of seconds from 1 to 86400 is needed")?;
            parameters.check_interval = Duration::from_secs(seconds);
        }
        _ => {}
    }
    Ok(())
}

fn number(value: &str, least: i64, most: i64) -> Option<i64> {
    let number: i64 = value.parse().ok()?;
    (least..=most).contains(&number).then_some(number)
}

/// A type as `typ_list` names it, such as `filesys` or `app`.
fn resource_type(value: &str) -> Result<String, String> {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    let no_type = ["true", "yes", "no", "0", "1"];
    let meant = !no_type.contains(&value.to_ascii_lowercase().as_str());
    match meant && value.len() <= 256 && value.bytes().all(plain) {
        true => Ok(value.to_owned()),
        false => Err("False or a resource type such as filesys is needed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> (Parameters, String) {
        let mut problems = Problems::default();
        let parameters = read(&Source::new("LK", text), &mut problems);
        (parameters, problems.ordered().to_string())
    }

    #[test]
    fn nothing_said_means_the_documented_defaults() {
        let (parameters, problems) = told("# nothing\n\nLKROOT=/opt/LifeKeeper\n");
        assert_eq!(
            (parameters.clone(), problems.as_str()),
            (Parameters::default(), "")
        );
        assert_eq!(parameters.chunk_bytes, 256 << 10);
        assert_eq!(
            (parameters.speed_limit, parameters.speed_limit_min),
            (500_000, 20_000)
        );
        assert_eq!(parameters.async_limit, 4096);
        assert!(!parameters.no_full_sync && parameters.connect_nbd_during_restore);
        assert_eq!(parameters.wait_for_previous_source, Wait::Forever);
        assert_eq!(parameters.wait_to_resync.as_deref(), Some("filesys"));
        assert_eq!(parameters.check_interval.as_secs(), 120);
        // What a refusal tells to be the default is it.
        let defaults: String = KEYS
            .iter()
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect();
        assert_eq!(told(&defaults), (Parameters::default(), String::new()));
    }

    #[test]
    fn every_parameter_is_read_as_a_shell_would() {
        let (parameters, problems) = told(
            "LKDR_CHUNK_SIZE=1024\r\n  export LKDR_SPEED_LIMIT=\"1000\"  # KB\nLKDR_SPEED_LIMIT_MIN='5'00\n\
             LKDR_ASYNC_LIMIT=1;\nLKDR_ASYNC_LIMIT=8192; export LKDR_ASYNC_LIMIT\nLKDR_NO_FULL_SYNC=1\n\
             LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT=60\nLKDR_CONNECT_NBD_DURING_RESTORE=false\n\
             LKDR_WAIT_TO_RESYNC=False\nLKDR_CHUNK_SIZES=3\n#LKDR_NO_FULL_SYNC=0\nif x; then $Y; fi\nLKCHECKINTERVAL=30",
        );
        let expected = Parameters {
            chunk_bytes: 1 << 20,
            speed_limit: 1000,
            speed_limit_min: 500,
            async_limit: 8192,
            no_full_sync: true,
            wait_for_previous_source: Wait::Seconds(60),
            connect_nbd_during_restore: false,
            wait_to_resync: None,
            check_interval: Duration::from_secs(30),
        };
        assert_eq!((parameters, problems), (expected, String::new()));
        let wait = |text| told(text).0.wait_for_previous_source;
        assert_eq!(wait("LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT=0"), Wait::No);
        assert_eq!(
            wait("LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT=-1"),
            Wait::Forever
        );
    }

    #[test]
    fn what_can_not_be_meant_is_refused_with_its_place_reason_and_default() {
        let table = [
            (
                "\n  LKDR_CHUNK_SIZE=100",
                "LK:2:3: \"LKDR_CHUNK_SIZE=100\": a power of two from 4 to 1048576 is needed (KiB), or 0 for 256; \
                 write LKDR_CHUNK_SIZE=256 for the default",
            ),
            (
                "export LKDR_SPEED_LIMIT=fast",
                "LK:1:8: \"LKDR_SPEED_LIMIT=fast\": a number from 1 to 2147483647 is needed; \
                 write LKDR_SPEED_LIMIT=500000 for the default",
            ),
            (
                "LKDR_SPEED_LIMIT_MIN = 3",
                "LK:1:1: \"LKDR_SPEED_LIMIT_MIN = 3\": no space may be before the '='; \
                 write LKDR_SPEED_LIMIT_MIN=20000 for the default",
            ),
            (
                "LKDR_ASYNC_LIMIT=20000",
                "LK:1:1: \"LKDR_ASYNC_LIMIT=20000\": a number from 1 to 16383 is needed; \
                 write LKDR_ASYNC_LIMIT=4096 for the default",
            ),
            (
                "LKDR_NO_FULL_SYNC=yes",
                "LK:1:1: \"LKDR_NO_FULL_SYNC=yes\": 1 or 0 is needed; write LKDR_NO_FULL_SYNC=0 for the default",
            ),
            (
                "LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT=-2",
                "LK:1:1: \"LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT=-2\": -1 (for ever), 0 (not at all) or up to \
                 2147483647 seconds are needed; write LKDR_WAIT_FOR_PREVIOUS_SOURCE_TIMEOUT=-1 for the default",
            ),
            (
                "LKDR_CONNECT_NBD_DURING_RESTORE=1",
                "LK:1:1: \"LKDR_CONNECT_NBD_DURING_RESTORE=1\": True or False is needed; \
                 write LKDR_CONNECT_NBD_DURING_RESTORE=True for the default",
            ),
            (
                "LKDR_WAIT_TO_RESYNC=True",
                "LK:1:1: \"LKDR_WAIT_TO_RESYNC=True\": False or a resource type such as filesys is needed; \
                 write LKDR_WAIT_TO_RESYNC=filesys for the default",
            ),
            (
                "LKCHECKINTERVAL=0",
                "LK:1:1: \"LKCHECKINTERVAL=0\": a number of seconds from 1 to 86400 is needed; \
                 write LKCHECKINTERVAL=120 for the default",
            ),
            (
                "LKCHECKINTERVAL=",
                "LK:1:1: \"LKCHECKINTERVAL=\": it is empty; write LKCHECKINTERVAL=120 for the default",
            ),
            (
                "LKCHECKINTERVAL=\"60",
                "LK:1:1: \"LKCHECKINTERVAL=\\\"60\": the quote is not closed; write LKCHECKINTERVAL=120 for the default",
            ),
            (
                "LKCHECKINTERVAL=$X",
                "LK:1:1: \"LKCHECKINTERVAL=$X\": nothing is expanded here, the plain value is needed; \
                 write LKCHECKINTERVAL=120 for the default",
            ),
            (
                "LKCHECKINTERVAL= 60",
                "LK:1:1: \"LKCHECKINTERVAL= 60\": one value is needed, and nothing behind it; \
                 write LKCHECKINTERVAL=120 for the default",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(told(text).1, expected);
        }
        let both = told("LKCHECKINTERVAL=x\nLKDR_NO_FULL_SYNC=x\n").1;
        assert_eq!(both.lines().count(), 2, "{both}");
    }
}

//! What the benchmark's command line says.

use std::path::PathBuf;
use std::time::Duration;

/// The help text.
pub const HELP: &str = "\
Measures our programs beside others' on this machine and prints medians and ratios. A report, not a test.

usage: bench [options]
  --rounds N           rounds, each visiting every contestant (default 5)
  --runtime SECONDS    how long each load runs (default 2)
  --only TEXT          only loads whose \"section load\" contains TEXT, e.g. unix, rand-write, mirror; repeated: all of them
  --quick              one round of half a second: shows that everything works, measures nothing
  --server [NAME=]PATH measure this nbd-server instead of the one built beside; repeated: several builds side by side
  --mirror PATH        measure this netraid instead of the one built beside
  --dir FOLDER         where the images (1 GiB each, removed at the end) are made (default: cargo's target folder)
  --json FILE          where all samples are written as JSON (default bench.json in cargo's target folder)
";

/// The settings of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often everything is measured.
    pub rounds: usize,
    /// How long each load runs.
    pub runtime: Duration,
    /// Texts that a case's name must contain.
    pub only: Vec<String>,
    /// Our servers to measure, by name; empty for the one built beside.
    pub servers: Vec<(String, PathBuf)>,
    /// Our mirror's program; `None` for the one built beside.
    pub mirror: Option<PathBuf>,
    /// Where images are made; `None` for the default.
    pub folder: Option<PathBuf>,
    /// Where the samples are written; `None` for the default.
    pub json: Option<PathBuf>,
}

impl Settings {
    /// Reads the words of a command line (without the program's own name). `Ok(None)` asks for the help text.
    ///
    /// # Errors
    /// A sentence that names the wrong word.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Option<Settings>, String> {
        let mut settings = Settings {
            rounds: 5,
            runtime: Duration::from_secs(2),
            only: Vec::new(),
            servers: Vec::new(),
            mirror: None,
            folder: None,
            json: None,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--help" | "-h" => return Ok(None),
                "--rounds" => {
                    let text = value()?;
                    settings.rounds = text
                        .parse()
                        .ok()
                        .filter(|rounds| (1..=1000).contains(rounds))
                        .ok_or_else(|| {
                            format!("--rounds {text}: a number from 1 to 1000 is needed")
                        })?;
                }
                "--runtime" => {
                    let text = value()?;
                    let seconds: f64 = text
                        .parse()
                        .ok()
                        .filter(|seconds| (0.1..=3600.0).contains(seconds))
                        .ok_or_else(|| {
                            format!("--runtime {text}: seconds from 0.1 to 3600 are needed")
                        })?;
                    settings.runtime = Duration::from_secs_f64(seconds);
                }
                "--quick" => {
                    settings.rounds = 1;
                    settings.runtime = Duration::from_millis(500);
                }
                "--only" => settings.only.push(value()?),
                "--server" => {
                    let text = value()?;
                    let (name, path) = text
                        .split_once('=')
                        .unwrap_or(("netraid nbd-server", &text));
                    settings
                        .servers
                        .push((name.to_owned(), PathBuf::from(path)));
                }
                "--mirror" => settings.mirror = Some(value()?.into()),
                "--dir" => settings.folder = Some(value()?.into()),
                "--json" => settings.json = Some(value()?.into()),
                _ => return Err(format!("{word} is no option of bench; --help lists them")),
            }
        }
        Ok(Some(settings))
    }

    /// Whether a case of this name is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only.iter().all(|text| name.contains(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Settings>, String> {
        Settings::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_understood_and_wrong_ones_named() {
        let settings =
            parse("--rounds 7 --runtime 0.5 --only unix --only rand --server a=/x --server /y")
                .unwrap()
                .unwrap();
        assert_eq!(settings.rounds, 7);
        assert_eq!(settings.runtime, Duration::from_millis(500));
        assert!(settings.wants("server unix rand-read-4k-d1"));
        assert!(!settings.wants("server tcp rand-read-4k-d1"));
        assert_eq!(settings.servers[0], ("a".to_owned(), PathBuf::from("/x")));
        assert_eq!(
            settings.servers[1],
            ("netraid nbd-server".to_owned(), PathBuf::from("/y"))
        );
        assert_eq!(parse("--help"), Ok(None));
        for wrong in ["--round 7", "--rounds 0", "--rounds", "--runtime x"] {
            assert!(parse(wrong).unwrap_err().contains("--r"), "{wrong}");
        }
    }
}

//! The scripts, their arguments, and how long each may take.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use flags::Tag;

/// A script of the kit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Restore,
    Remove,
    QuickCheck,
    Recover,
    Delete,
    Parents,
    Create,
    CanExtend,
    Extend,
    Unextend,
    DepsToExtend,
}

impl Script {
    pub(crate) const ALL: [Script; 11] = [
        Script::Restore,
        Script::Remove,
        Script::QuickCheck,
        Script::Recover,
        Script::Delete,
        Script::Parents,
        Script::Create,
        Script::CanExtend,
        Script::Extend,
        Script::Unextend,
        Script::DepsToExtend,
    ];

    /// The name of its file.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Script::Restore => "restore",
            Script::Remove => "remove",
            Script::QuickCheck => "quickCheck",
            Script::Recover => "recover",
            Script::Delete => "delete",
            Script::Parents => "parents",
            Script::Create => "create",
            Script::CanExtend => "canextend",
            Script::Extend => "extend",
            Script::Unextend => "unextend",
            Script::DepsToExtend => "depstoextend",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Script> {
        Script::ALL.into_iter().find(|script| script.name() == name)
    }

    /// Longest time that it takes, in seconds.
    ///
    /// - `remove`: netraidd's own stop of an array takes up to 60 s, and what the peers are told some more; a remove that
    ///   fails makes LifeKeeper reboot the node, so all of that gets its time. 100 s is still below the 120 s of
    ///   LKCHECKINTERVAL, and far below the 900 s after which LifeKeeper gives up a remote remove (REMOTETIMEOUT).
    /// - `restore`, `recover`, `create`: netraidd answers within 120 s, be it that it is late.
    /// - `quickCheck`: all resources are checked one after the other within LKCHECKINTERVAL.
    /// - `extend`, `unextend`: two nodes take part.
    const fn usual_limit(self) -> u64 {
        match self {
            Script::Remove => 100,
            Script::Restore | Script::Recover | Script::Create => 125,
            Script::QuickCheck | Script::CanExtend => 20,
            Script::Delete | Script::Parents => 30,
            Script::Extend | Script::Unextend => 240,
            Script::DepsToExtend => 5,
        }
    }

    fn limit(self) -> Duration {
        let name = format!("NETRAID_{}_LIMIT", self.name().to_ascii_uppercase());
        let asked = std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok());
        let asked = asked.filter(|seconds| (1..=86_400).contains(seconds));
        Duration::from_secs(asked.unwrap_or(self.usual_limit()))
    }

    /// `canextend SYSTEM TAG` instead of `-t TAG`.
    const fn is_positional(self) -> bool {
        matches!(
            self,
            Script::CanExtend | Script::Extend | Script::Unextend | Script::DepsToExtend
        )
    }
}

/// A script and its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) script: Script,
    pub(crate) tag: Tag,
    /// The system that it is extended from.
    pub(crate) system: Option<String>,
    /// `parents up` rather than `parents down`.
    pub(crate) up: bool,
    /// `-p`: the disk, of create.
    pub(crate) device: Option<String>,
    /// `-h`: the type of hierarchy, of create.
    pub(crate) hierarchy: Option<String>,
    /// `-a`: synchronous or asynchronous, of create.
    pub(crate) kind: Option<String>,
    /// `-s`: the switchback type, of create.
    pub(crate) switchback: Option<String>,
    /// What was not understood, and is not needed.
    pub(crate) ignored: Vec<String>,
    /// When it has to have ended.
    pub(crate) until: Instant,
}

impl Call {
    /// Reads the arguments. Those that are not known are kept aside: a remove that fails for a word too many would make
    /// LifeKeeper reboot the node.
    pub(crate) fn parse(script: Script, words: &[String]) -> Result<Call, String> {
        let until = Instant::now() + script.limit();
        let (mut tag, mut positions) = (None, Vec::new());
        let mut options: Vec<(&str, Option<String>)> = ["-i", "-p", "-h", "-a", "-s"]
            .into_iter()
            .map(|option| (option, None))
            .collect();
        let mut ignored = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "-t" {
                tag = Some(words.next().ok_or("-t needs a tag")?.clone());
            } else if let Some(found) = options.iter_mut().find(|(option, _)| option == word) {
                found.1 = Some(words.next().ok_or(format!("{word} needs a value"))?.clone());
            } else if word.starts_with('-') && script == Script::Create {
                // The other options of DataKeeper's create have a value each.
                ignored.push(format!(
                    "{word} {:?}",
                    words.next().map_or("", String::as_str)
                ));
            } else if word.starts_with('-') {
                ignored.push(word.clone());
            } else {
                positions.push(word.clone());
            }
        }
        let mut positions = positions.into_iter();
        let up = match script {
            Script::Parents => match positions.next().as_deref() {
                Some("up") => true,
                Some("down") => false,
                _ => return Err("parents up, or parents down".into()),
            },
            _ => false,
        };
        let system = script.is_positional().then(|| positions.next()).flatten();
        if script.is_positional() && tag.is_none() {
            tag = positions.next();
        }
        ignored.extend(positions);
        let tag = tag.ok_or_else(|| match script.is_positional() {
            true => format!("{} SYSTEM TAG", script.name()),
            false => format!("{} -t TAG -i ID", script.name()),
        })?;
        let mut value = |option| {
            let found = options.iter_mut().find(|(known, _)| *known == option);
            found.and_then(|(_, value)| value.take())
        };
        Ok(Call {
            script,
            tag: Tag::new(tag.as_str()).map_err(|error| error.to_string())?,
            system,
            up,
            device: value("-p").filter(|device| !device.is_empty()),
            hierarchy: value("-h"),
            kind: value("-a"),
            switchback: value("-s"),
            ignored,
            until,
        })
    }
}

/// `$LKROOT`.
pub(crate) fn lkroot() -> PathBuf {
    variable("LKROOT").unwrap_or_else(|| "/opt/LifeKeeper".into())
}

/// The folder of netraidd's socket.
pub(crate) fn run_dir() -> PathBuf {
    variable("NETRAID_RUN_DIR").unwrap_or_else(|| "/run/netraid".into())
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(script: Script, words: &[&str]) -> Result<Call, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Call::parse(script, &words)
    }

    #[test]
    fn each_script_is_known_by_its_name() {
        for script in Script::ALL {
            assert_eq!(Script::of(script.name()), Some(script));
        }
        assert_eq!(Script::of("Restore"), None);
    }

    #[test]
    fn datakeepers_create_is_understood() {
        let call = parse(
            Script::Create,
            &[
                "-t",
                "data",
                "-s",
                "intelligent",
                "-p",
                "/dev/sdb1",
                "-h",
                "DataKeeper Resource",
                "-n",
                "/mnt",
                "-x",
                "",
                "-e",
                "",
                "-f",
                "fs",
                "-y",
                "ext4",
                "-a",
                "synchronous",
                "-b",
                "/opt/bitmap",
                "-z",
                "no",
                "-w",
                "",
            ],
        )
        .unwrap();
        assert_eq!(call.tag.as_str(), "data");
        assert_eq!(call.device.as_deref(), Some("/dev/sdb1"));
        assert_eq!(call.kind.as_deref(), Some("synchronous"));
        assert_eq!(call.hierarchy.as_deref(), Some("DataKeeper Resource"));
    }

    #[test]
    fn a_word_too_many_is_no_reason_to_fail() {
        let call = parse(Script::Remove, &["-t", "data", "-i", "1", "-R", "more"]).unwrap();
        assert_eq!(call.ignored, ["-R", "more"]);
    }

    #[test]
    fn what_names_no_mirror_is_refused() {
        assert!(parse(Script::Remove, &["-i", "1"]).is_err());
        assert!(parse(Script::Remove, &["-t"]).is_err());
        assert!(parse(Script::Remove, &["-t", "../etc"]).is_err());
        assert!(parse(Script::CanExtend, &["server1"]).is_err());
        assert!(parse(Script::Parents, &["-t", "data"]).is_err());
    }

    #[test]
    fn extend_has_a_system_and_a_tag() {
        let call = parse(Script::Extend, &["server1", "data", "bundle"]).unwrap();
        assert_eq!(call.system.as_deref(), Some("server1"));
        assert_eq!(call.tag.as_str(), "data");
    }
}

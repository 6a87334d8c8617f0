//! What is asked of `mdadm`, as values: each order and its command line.
//!
//! Arrays are not created by `mdadm` here: [`create`](mod@crate::array::create) writes the metadata for both backends,
//! without a bad-block log. And only this node's leg is assembled, so `mdadm` never chooses among legs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// One order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start an array from one leg, degraded.
    Assemble {
        /// The device to make, such as `/dev/md/data`.
        array: PathBuf,
        /// The leg of this node.
        leg: PathBuf,
    },
    /// Give a running array a leg whose metadata was prepared; read from it only when no other is left.
    ReAdd {
        /// The array.
        array: PathBuf,
        /// The leg.
        leg: PathBuf,
    },
    /// Go on without a leg.
    Fail {
        /// The array.
        array: PathBuf,
        /// The leg.
        leg: PathBuf,
    },
    /// Let go of a leg that was failed.
    Remove {
        /// The array.
        array: PathBuf,
        /// The leg.
        leg: PathBuf,
    },
    /// Stop an array cleanly.
    Stop {
        /// The array.
        array: PathBuf,
    },
}

impl Order {
    /// The arguments of `mdadm`.
    pub fn arguments(&self) -> Vec<OsString> {
        let words = |words: &[&str], paths: &[&Path]| {
            let words = words.iter().map(OsString::from);
            words
                .chain(paths.iter().map(|path| path.as_os_str().to_owned()))
                .collect()
        };
        match self {
            // Without configuration: a line in mdadm.conf must not make it use other legs or another name.
            Order::Assemble { array, leg } => {
                words(&["--assemble", "--run", "--config=none"], &[array, leg])
            }
            Order::ReAdd { array, leg } => {
                let mut all: Vec<OsString> = words(&["--manage"], &[array]);
                all.extend(words(&["--re-add", "--write-mostly"], &[leg]));
                all
            }
            Order::Fail { array, leg } => manage(array, "--fail", leg),
            Order::Remove { array, leg } => manage(array, "--remove", leg),
            Order::Stop { array } => words(&["--stop"], &[array]),
        }
    }

    /// The command line, for people.
    pub fn line(&self) -> String {
        let arguments = self.arguments();
        let words = arguments.iter().map(|word| word.to_string_lossy());
        std::iter::once("mdadm".into())
            .chain(words)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

fn manage(array: &Path, what: &str, leg: &Path) -> Vec<OsString> {
    vec!["--manage".into(), array.into(), what.into(), leg.into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_order_is_one_command_line() {
        let array = || PathBuf::from("/dev/md/data");
        let leg = || PathBuf::from("/dev/nbd0");
        let table = [
            (
                Order::Assemble {
                    array: array(),
                    leg: "/dev/sdb1".into(),
                },
                "mdadm --assemble --run --config=none /dev/md/data /dev/sdb1",
            ),
            (
                Order::ReAdd {
                    array: array(),
                    leg: leg(),
                },
                "mdadm --manage /dev/md/data --re-add --write-mostly /dev/nbd0",
            ),
            (
                Order::Fail {
                    array: array(),
                    leg: leg(),
                },
                "mdadm --manage /dev/md/data --fail /dev/nbd0",
            ),
            (
                Order::Remove {
                    array: array(),
                    leg: leg(),
                },
                "mdadm --manage /dev/md/data --remove /dev/nbd0",
            ),
            (Order::Stop { array: array() }, "mdadm --stop /dev/md/data"),
        ];
        for (order, line) in table {
            assert_eq!(order.line(), line);
        }
    }
}

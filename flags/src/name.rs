//! Names that become parts of file names: the tag of a mirror, and the name of a node.

use std::fmt;
use std::str::FromStr;

/// Bytes that a tag or a node name may have.
pub const MAX_NAME: usize = 64;

/// Why a text cannot be a tag or a node name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("{what} is empty")]
    Empty {
        /// "tag" or "node name".
        what: &'static str,
    },
    /// More than [`MAX_NAME`] bytes.
    #[error("{what} of {length} bytes is too long, at most {MAX_NAME} are possible")]
    TooLong {
        /// "tag" or "node name".
        what: &'static str,
        /// Bytes given.
        length: usize,
    },
    /// A character that could mean something to a file system, a shell or a program's arguments.
    #[error("{what} {name:?} has {found:?} in it; letters, digits, '.', '_' and '-' are possible")]
    Character {
        /// "tag" or "node name".
        what: &'static str,
        /// What was given.
        name: String,
        /// The first character that is not possible.
        found: char,
    },
    /// It would be a hidden file, a parent folder or an option.
    #[error("{what} {name:?} starts with {first:?}; a letter, a digit or '_' is needed")]
    Start {
        /// "tag" or "node name".
        what: &'static str,
        /// What was given.
        name: String,
        /// Its first character.
        first: char,
    },
}

fn check(what: &'static str, name: &str) -> Result<(), NameError> {
    if name.len() > MAX_NAME {
        return Err(NameError::TooLong {
            what,
            length: name.len(),
        });
    }
    let first = name.chars().next().ok_or(NameError::Empty { what })?;
    let possible = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some(found) = name.chars().find(|c| !possible(c)) {
        return Err(NameError::Character {
            what,
            name: name.into(),
            found,
        });
    }
    match first {
        '.' | '-' => Err(NameError::Start {
            what,
            name: name.into(),
            first,
        }),
        _ => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(String);

        impl $type {
            /// Takes a name after checking it.
            pub fn new(name: impl Into<String>) -> Result<$type, NameError> {
                let name = name.into();
                check($what, &name)?;
                Ok($type(name))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(name: &str) -> Result<$type, NameError> {
                $type::new(name)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// The name of a mirror, such as `datarep-data`: 1 to 64 of `[A-Za-z0-9._-]`, not starting with `.` or `-`.
    Tag, "tag"
}

name! {
    /// The name of a node, such as `server1.example.com`, by the same rule as a [`Tag`].
    NodeName, "node name"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_use_are_taken() {
        for name in [
            "datarep-data",
            "a",
            "0",
            "_x",
            "Server1.example.com",
            "a..b",
            &"x".repeat(64),
        ] {
            assert_eq!(Tag::new(name).unwrap().as_str(), name);
            assert_eq!(name.parse::<NodeName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn names_that_could_leave_the_folder_or_be_taken_for_something_else_are_refused() {
        let refused = |name: &str| Tag::new(name).unwrap_err().to_string();
        for (name, reason) in [
            ("", "tag is empty"),
            (".", "starts with '.'"),
            ("..", "starts with '.'"),
            (".hidden", "starts with '.'"),
            ("-rf", "starts with '-'"),
            ("../x", "has '/' in it"),
            ("a/b", "has '/' in it"),
            ("a\0b", "has '\\0' in it"),
            ("a b", "has ' ' in it"),
            ("a\n", "has '\\n' in it"),
            ("a\\b", "has '\\\\' in it"),
            ("größe", "has 'ö' in it"),
            ("$(reboot)", "has '$' in it"),
        ] {
            assert!(
                refused(name).contains(reason),
                "{name:?}: {}",
                refused(name)
            );
        }
        assert_eq!(
            refused(&"x".repeat(65)),
            "tag of 65 bytes is too long, at most 64 are possible"
        );
        assert!(
            NodeName::new("a/b")
                .unwrap_err()
                .to_string()
                .starts_with("node name \"a/b\"")
        );
    }
}

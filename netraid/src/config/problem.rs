//! What is wrong with a configuration: the place, the reason, and what to write instead.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Problems that are kept of one file; of more, only their number is told.
pub const MAX_PROBLEMS: usize = 50;
/// Characters of somebody's text that a message repeats.
const MAX_QUOTED: usize = 60;

/// Somewhere in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// Line and column, in characters, both from 1; `None` means the whole file or folder.
    pub position: Option<(u32, u32)>,
}

impl Place {
    /// A file or folder as a whole.
    pub fn whole(file: &Path) -> Place {
        Place {
            file: file.into(),
            position: None,
        }
    }
}

/// `FILE:LINE:COLUMN`, as editors and compilers write it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.position {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// A value, and where it was written.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub place: Place,
}

/// Why a value is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub what: String,
    pub instead: String,
}

impl Complaint {
    pub(super) fn new(what: impl Into<String>, instead: impl Into<String>) -> Complaint {
        Complaint {
            what: what.into(),
            instead: instead.into(),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong, and why.
    pub what: String,
    /// What to write or do instead.
    pub instead: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.what, self.instead)
    }
}

/// All that is wrong, ordered by file and line; one line each when displayed. Never empty when it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    count: BTreeMap<Arc<Path>, usize>,
}

impl Problems {
    pub(super) fn note(&mut self, place: &Place, complaint: Complaint) {
        let count = self.count.entry(place.file.clone()).or_default();
        *count += 1;
        if *count <= MAX_PROBLEMS {
            self.list.push(Problem {
                place: place.clone(),
                what: complaint.what,
                instead: complaint.instead,
            });
        }
    }

    /// The value, or nothing and a note of why not.
    pub(super) fn taken<T>(&mut self, place: &Place, result: Result<T, Complaint>) -> Option<T> {
        result.map_err(|complaint| self.note(place, complaint)).ok()
    }

    /// In the order of the files and their lines, and what was left out.
    pub(super) fn ordered(mut self) -> Problems {
        for (file, count) in &self.count {
            if let Some(more) = count.checked_sub(MAX_PROBLEMS).filter(|more| *more > 0) {
                self.list.push(Problem {
                    place: Place {
                        file: file.clone(),
                        position: Some((u32::MAX, 1)),
                    },
                    what: format!("{more} more problems are in this file"),
                    instead: "correct these first".into(),
                });
            }
        }
        self.list.sort();
        for problem in &mut self.list {
            problem.place.position = problem.place.position.filter(|at| at.0 != u32::MAX);
        }
        self
    }

    /// One after the other.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.list.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// Somebody's text within a message: in quotes, escaped, and not endless.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_nothing_but_mistakes_is_told_in_bounds() {
        let mut problems = Problems::default();
        for line in (1..=200).rev() {
            let place = Place {
                file: Path::new("a.toml").into(),
                position: Some((line, 1)),
            };
            problems.note(&place, Complaint::new("wrong", "right"));
        }
        let text = problems.ordered().to_string();
        assert_eq!(text.lines().count(), MAX_PROBLEMS + 1);
        assert!(text.starts_with("a.toml:151:1: wrong; right\n"), "{text}");
        assert!(
            text.ends_with("\na.toml: 150 more problems are in this file; correct these first"),
            "{text}"
        );
    }

    #[test]
    fn what_somebody_wrote_is_quoted_in_bounds() {
        assert_eq!(quoted("a\u{1b}\"b"), r#""a\u{1b}\"b""#);
        assert_eq!(
            quoted(&"ü".repeat(61)),
            format!("\"{}\"...", "ü".repeat(60))
        );
    }
}

//! Reading a TOML table key by key: what is unknown, missing or of the wrong type is noted with its place, and the reading
//! goes on, so that one look shows everything.

use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{At, Complaint, Place, Problems, quoted};
use super::source::Source;

/// A key, and how it is written.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub name: &'static str,
    pub example: &'static str,
}

/// One table of a file.
pub(super) struct Fields<'a> {
    source: &'a Source,
    table: &'a DeTable<'a>,
    keys: &'static [Key],
    /// The table's own place.
    pub place: Place,
}

/// Parses a file. Mistakes of the syntax are noted; what is left of such a file is not looked at.
pub(super) fn parse<'a>(
    source: &'a Source,
    problems: &mut Problems,
) -> Option<Spanned<DeTable<'a>>> {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    for error in &errors {
        let offset = error.span().map_or(0, |span| span.start);
        let reason = error.message().replace('\n', ", ");
        problems.note(
            &source.place(offset),
            Complaint::new(reason, "TOML is needed here, see https://toml.io"),
        );
    }
    errors.is_empty().then_some(table)
}

impl<'a> Fields<'a> {
    /// A table that may have these keys; others are noted.
    pub(super) fn new(
        source: &'a Source,
        table: &'a DeTable<'a>,
        start: usize,
        keys: &'static [Key],
        problems: &mut Problems,
    ) -> Fields<'a> {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !keys.iter().any(|known| known.name == name) {
                let complaint = Complaint::new(
                    format!("unknown key {}", quoted(name)),
                    instead_of(name, keys),
                );
                problems.note(&source.place(key.span().start), complaint);
            }
        }
        Fields {
            source,
            table,
            keys,
            place: source.place(start),
        }
    }

    pub(super) fn value(&self, key: &str) -> Option<(&'a DeValue<'a>, Place)> {
        let value = self.table.get(key)?;
        Some((value.get_ref(), self.source.place(value.span().start)))
    }

    fn example(&self, key: &str) -> &'static str {
        let known = self.keys.iter().find(|known| known.name == key);
        known.map_or("", |known| known.example)
    }

    fn wrong_type(&self, key: &str, found: &DeValue<'_>, needed: &str) -> Complaint {
        Complaint::new(
            format!("{key} is of type {}, {needed} is needed", found.type_str()),
            format!("write for example {}", self.example(key)),
        )
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the key is there, with a whole number.
    pub(super) fn is_number(&self, key: &str) -> bool {
        let value = self.value(key);
        value.is_some_and(|(value, _)| value.as_integer().is_some())
    }

    /// Whether the key is there, with nothing in it.
    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        let list = self.value(key).and_then(|(value, _)| value.as_array());
        list.is_some_and(|list| list.is_empty())
    }

    /// Notes a key that has to be there and is not.
    pub(super) fn needed(&self, key: &str, problems: &mut Problems) {
        if !self.has(key) {
            let complaint = Complaint::new(
                format!("{key} is missing"),
                format!("write for example {}", self.example(key)),
            );
            problems.note(&self.place, complaint);
        }
    }

    /// A text, as something takes it.
    pub(super) fn text<T>(
        &self,
        key: &str,
        problems: &mut Problems,
        take: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Option<At<T>> {
        let (value, place) = self.value(key)?;
        let taken = match value.as_str() {
            Some(text) => take(text),
            None => Err(self.wrong_type(key, value, "a string")),
        };
        let value = problems.taken(&place, taken)?;
        Some(At { value, place })
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(
        &self,
        key: &str,
        words: &[(&str, T)],
        problems: &mut Problems,
    ) -> Option<At<T>> {
        self.text(key, problems, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let known: Vec<String> =
                    words.iter().map(|(word, _)| format!("{word:?}")).collect();
                Complaint::new(
                    format!("{key} {} is not known", quoted(text)),
                    format!("write {}", known.join(" or ")),
                )
            })
        })
    }

    /// A path from the root.
    pub(super) fn path(&self, key: &str, problems: &mut Problems) -> Option<At<PathBuf>> {
        self.text(key, problems, |text| {
            let clean = normal(Path::new(text));
            let control = text.contains(|c: char| c.is_control());
            clean.filter(|_| !control).ok_or_else(|| {
                Complaint::new(
                    format!(
                        "{key} {} is not a path from the root without \"..\"",
                        quoted(text)
                    ),
                    format!("write for example {}", self.example(key)),
                )
            })
        })
    }

    /// A whole number.
    pub(super) fn number<T: TryFrom<i64>>(
        &self,
        key: &str,
        range: RangeInclusive<i64>,
        problems: &mut Problems,
    ) -> Option<At<T>> {
        let (value, place) = self.value(key)?;
        let needed = format!("a whole number from {} to {}", range.start(), range.end());
        let taken = match value.as_integer() {
            Some(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
                .ok()
                .filter(|number| range.contains(number))
                .and_then(|number| T::try_from(number).ok())
                .ok_or_else(|| {
                    Complaint::new(
                        format!("{key} is out of range, {needed} is needed"),
                        format!("write for example {}", self.example(key)),
                    )
                }),
            None => Err(self.wrong_type(key, value, &needed)),
        };
        let value = problems.taken(&place, taken)?;
        Some(At { value, place })
    }

    /// A list of texts, at most `most`.
    pub(super) fn texts<T>(
        &self,
        key: &str,
        most: usize,
        problems: &mut Problems,
        take: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<At<Vec<At<T>>>> {
        let (value, place) = self.value(key)?;
        let Some(list) = value.as_array() else {
            let complaint = self.wrong_type(key, value, "a list of strings");
            problems.note(&place, complaint);
            return None;
        };
        if list.is_empty() || list.len() > most {
            let complaint = Complaint::new(
                format!("{key} has {} entries, 1 to {most} are needed", list.len()),
                format!("write for example {}", self.example(key)),
            );
            problems.note(&place, complaint);
            return None;
        }
        let mut values = Vec::new();
        for entry in list.iter() {
            let place = self.source.place(entry.span().start);
            let taken = match entry.get_ref().as_str() {
                Some(text) => take(text),
                None => Err(self.wrong_type(key, entry.get_ref(), "a list of strings")),
            };
            if let Some(value) = problems.taken(&place, taken) {
                values.push(At { value, place });
            }
        }
        Some(At {
            value: values,
            place,
        })
    }

    /// The tables of `[[key]]`, each with its start.
    pub(super) fn tables(
        &self,
        key: &str,
        problems: &mut Problems,
    ) -> Vec<(&'a DeTable<'a>, usize)> {
        let Some((value, place)) = self.value(key) else {
            return Vec::new();
        };
        let Some(list) = value.as_array() else {
            problems.note(&place, self.wrong_type(key, value, "a list of tables"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for entry in list.iter() {
            let start = entry.span().start;
            match entry.get_ref().as_table() {
                Some(table) => tables.push((table, start)),
                None => problems.note(
                    &self.source.place(start),
                    self.wrong_type(key, entry.get_ref(), "a list of tables"),
                ),
            }
        }
        tables
    }
}

impl<'a> Fields<'a> {
    /// The table `[key]`, with its start.
    pub(super) fn table(
        &self,
        key: &str,
        problems: &mut Problems,
    ) -> Option<(&'a DeTable<'a>, usize)> {
        let value = self.table.get(key)?;
        let start = value.span().start;
        match value.get_ref().as_table() {
            Some(table) => Some((table, start)),
            None => {
                let complaint = self.wrong_type(key, value.get_ref(), "a table");
                problems.note(&self.source.place(start), complaint);
                None
            }
        }
    }
}

/// The path without `//` and `/./`; `None` if it does not start at the root, is the root, or climbs.
fn normal(path: &Path) -> Option<PathBuf> {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    let clean: PathBuf = path.components().collect();
    let good = path.is_absolute() && path.components().all(plain) && clean != Path::new("/");
    good.then_some(clean)
}

fn instead_of(name: &str, keys: &[Key]) -> String {
    let near = keys
        .iter()
        .map(|key| (distance(name, key.name), key.name))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    match near {
        Some((_, near)) => format!("write {near}"),
        None => {
            let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
            format!("known here are {}", names.join(", "))
        }
    }
}

/// How many letters are to be added, removed or changed (Levenshtein); texts that are much longer count as far away.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > b.len() + 2 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found() {
        let table = [
            ("chunks", "chunk", 1),
            ("", "tag", 3),
            ("tga", "tag", 2),
            ("tag", "tag", 0),
        ];
        for (a, b, expected) in table {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
        assert_eq!(distance(&"x".repeat(60_000), "tag"), usize::MAX);
    }

    #[test]
    fn paths_start_at_the_root_and_do_not_climb() {
        let clean = |text: &str| normal(Path::new(text));
        assert_eq!(clean("/dev//./sdb1"), Some("/dev/sdb1".into()));
        for text in ["", "dev/sdb1", "/dev/../etc", "/", "//", ".."] {
            assert_eq!(clean(text), None, "{text}");
        }
    }
}

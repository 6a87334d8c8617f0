//! The text of one configuration file, read in bounds, and its lines and columns.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::problem::{Complaint, Place, Problems};

/// Bytes that a configuration file may have.
pub const MAX_FILE: u64 = 64 << 10;

/// A file's name and text.
pub(super) struct Source {
    pub file: Arc<Path>,
    pub text: String,
}

impl Source {
    #[cfg(test)]
    pub(super) fn new(file: &str, text: &str) -> Source {
        Source {
            file: Path::new(file).into(),
            text: text.into(),
        }
    }

    /// Reads a file. `Ok(None)` if there is none; a complaint is noted for one that can't be read or used.
    pub(super) fn read(file: &Path, problems: &mut Problems) -> Option<Source> {
        let text = match bounded(file) {
            Ok(Some(text)) => text,
            Ok(None) => return None,
            Err(complaint) => {
                problems.note(&Place::whole(file), complaint);
                return None;
            }
        };
        match String::from_utf8(text) {
            Ok(text) => Some(Source {
                file: file.into(),
                text,
            }),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let start = String::from_utf8_lossy(&error.as_bytes()[..good]);
                let place = Place {
                    file: file.into(),
                    position: Some(position(&start, start.len())),
                };
                problems.note(
                    &place,
                    Complaint::new("this is no UTF-8 text", "save the file as UTF-8"),
                );
                None
            }
        }
    }

    /// Where a byte of the text is.
    pub(super) fn place(&self, offset: usize) -> Place {
        Place {
            file: self.file.clone(),
            position: Some(position(&self.text, offset)),
        }
    }

    /// The file without its folder and `.toml`.
    pub(super) fn stem(&self) -> &str {
        let stem = self.file.file_stem().and_then(|stem| stem.to_str());
        stem.unwrap_or_default()
    }
}

fn bounded(file: &Path) -> Result<Option<Vec<u8>>, Complaint> {
    let unreadable = |error: io::Error| {
        Complaint::new(
            format!("it can't be read: {error}"),
            "make it a readable file",
        )
    };
    match std::fs::metadata(file) {
        // Opening a FIFO would wait for a writer.
        Ok(found) if !found.is_file() => {
            return Err(Complaint::new(
                "it is no file",
                "make it one, or give it another name",
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && !file.is_symlink() => {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(error)),
    }
    let mut text = Vec::new();
    File::open(file)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text))
        .map_err(unreadable)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(Complaint::new(
            format!("it has more than {MAX_FILE} bytes"),
            "a configuration file is much smaller",
        )),
        false => Ok(Some(text)),
    }
}

fn position(text: &str, offset: usize) -> (u32, u32) {
    // A place in the middle of a character, or behind the end, would be a mistake of the parser, and no reason to fail.
    let offset = text.floor_char_boundary(offset);
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before[start..].chars().count() + 1;
    (line as u32, column as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let source = Source::new("x.toml", "größe = 1\nb = 2\n");
        let table = [(0, (1, 1)), (7, (1, 6)), (12, (2, 1)), (999, (3, 1))];
        for (offset, position) in table {
            assert_eq!(source.place(offset).position, Some(position), "{offset}");
        }
    }

    #[test]
    fn files_that_are_too_large_or_no_text_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.toml");
        let told = |file: &Path| {
            let mut problems = Problems::default();
            assert!(Source::read(file, &mut problems).is_none());
            problems.to_string().replace(&*file.to_string_lossy(), "x")
        };
        assert_eq!(told(&file), "");
        std::fs::write(&file, vec![b'#'; 65537]).unwrap();
        assert_eq!(
            told(&file),
            "x: it has more than 65536 bytes; a configuration file is much smaller"
        );
        std::fs::write(&file, b"a = 1\nb\xff").unwrap();
        assert_eq!(
            told(&file),
            "x:2:2: this is no UTF-8 text; save the file as UTF-8"
        );
        assert_eq!(
            told(folder.path()),
            "x: it is no file; make it one, or give it another name"
        );
        nix::unistd::mkfifo(&folder.path().join("f"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(
            told(&folder.path().join("f")),
            "x: it is no file; make it one, or give it another name"
        );
    }
}

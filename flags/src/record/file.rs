//! The record's two copies in files beside the flags: `TAG_record.0` and `TAG_record.1`.

use super::pair::{Chosen, PairError, decode_pair};
use super::{RECORD_BYTES, RecordError, StateRecord};
use crate::durable;
use crate::files::FlagFiles;
use std::io;
use std::path::{Path, PathBuf};

/// The record of one mirror on this node's own disk. One program at a time writes it; others may read it.
#[derive(Clone, Debug)]
pub struct RecordFile {
    folder: PathBuf,
    names: [String; 2],
}

/// Why the record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordFileError {
    /// The file system refused.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// "read", "write", "remove" or "set aside".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// What is there is no record that counts. Nothing was changed; [`RecordFile::set_aside`] makes room.
    #[error("{}: {error}", path.display())]
    Unusable {
        /// The first of the two files.
        path: PathBuf,
        /// What is wrong.
        error: PairError,
    },
    /// The record cannot be written as it is.
    #[error("cannot write {}: {error}", path.display())]
    Invalid {
        /// The first of the two files.
        path: PathBuf,
        /// What is wrong.
        error: RecordError,
    },
}

impl RecordFile {
    /// The record beside these flags. Nothing is read or made yet.
    pub fn beside(flags: &FlagFiles) -> RecordFile {
        let name = |copy| format!("{}_record.{copy}", flags.tag());
        RecordFile {
            folder: flags.folder().into(),
            names: [name(0), name(1)],
        }
    }

    /// Where the two copies are.
    pub fn paths(&self) -> [PathBuf; 2] {
        [0, 1].map(|copy| self.path(copy))
    }

    /// Reads the record; `None` if there never was one: neither file exists.
    pub fn load(&self) -> Result<Option<Chosen>, RecordFileError> {
        let mut copies = [Vec::new(), Vec::new()];
        let mut missing = 0;
        for (copy, bytes) in copies.iter_mut().enumerate() {
            let found = durable::read(&self.folder, &self.names[copy], RECORD_BYTES);
            match found.map_err(|error| self.failed("read", copy, error))? {
                Some(found) => *bytes = found,
                None => missing += 1,
            }
        }
        if missing == 2 {
            return Ok(None);
        }
        let chosen = decode_pair(&copies[0], &copies[1]);
        chosen.map(Some).map_err(|error| RecordFileError::Unusable {
            path: self.path(0),
            error,
        })
    }

    /// Writes both copies, one after the other, each whole or not at all; when this returns both are on the disk.
    ///
    /// The sequence number is counted up in `record` first, and stays so if writing fails: a copy may have been written.
    /// The record has to come from [`RecordFile::load`], or to be the first one of this mirror.
    pub fn store(&self, record: &mut StateRecord) -> Result<(), RecordFileError> {
        let invalid = |error| RecordFileError::Invalid {
            path: self.path(0),
            error,
        };
        record.sequence = record.sequence.checked_add(1).ok_or_else(|| {
            invalid(RecordError::Content {
                what: "it was written 2^64 times".into(),
            })
        })?;
        let bytes = record.encode().map_err(invalid)?;
        for copy in [0, 1] {
            let written = durable::replace(&self.folder, &self.names[copy], &bytes);
            written.map_err(|error| self.failed("write", copy, error))?;
        }
        Ok(())
    }

    /// Removes both copies; false if there were none. For a mirror that is deleted.
    pub fn remove(&self) -> Result<bool, RecordFileError> {
        let mut removed = false;
        for copy in [0, 1] {
            let done = durable::remove(&self.folder, &self.names[copy]);
            removed |= done.map_err(|error| self.failed("remove", copy, error))?;
        }
        Ok(removed)
    }

    /// Gives both copies other names, which are returned, so that they can be looked at and a new record can be written.
    pub fn set_aside(&self) -> Result<Vec<PathBuf>, RecordFileError> {
        let mut aside = Vec::new();
        for copy in [0, 1] {
            let failed = |error| self.failed("set aside", copy, error);
            if !durable::exists(&self.folder, &self.names[copy]).map_err(failed)? {
                continue;
            }
            let to = self.free_name(copy).map_err(failed)?;
            std::fs::rename(self.path(copy), &to).map_err(failed)?;
            durable::sync_folder(&self.folder).map_err(failed)?;
            aside.push(to);
        }
        Ok(aside)
    }

    fn free_name(&self, copy: usize) -> io::Result<PathBuf> {
        for number in 1..=MAX_ASIDE {
            let name = format!("{}.bad.{number}", self.names[copy]);
            if !durable::exists(&self.folder, &name)? {
                return Ok(self.folder.join(name));
            }
        }
        Err(io::Error::other(format!(
            "{MAX_ASIDE} bad records are there already; remove some"
        )))
    }

    fn path(&self, copy: usize) -> PathBuf {
        Path::new(&self.folder).join(&self.names[copy])
    }

    fn failed(&self, action: &'static str, copy: usize, error: io::Error) -> RecordFileError {
        RecordFileError::Io {
            action,
            path: self.path(copy),
            error,
        }
    }
}

/// Bad records that are kept of one mirror.
const MAX_ASIDE: u32 = 100;

#[cfg(test)]
mod tests;

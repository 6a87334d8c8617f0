//! The flag files of a mirror on this node, as SIOS documents them.
//!
//! They live in `$LKROOT/subsys/scsi/resources/netraid/`. Administrators and their scripts look at them, and remove or
//! make them by hand; so they are read anew each time, and what is found counts.

use crate::durable;
use crate::name::{NameError, NodeName, Tag};
use std::io;
use std::path::{Path, PathBuf};

/// Where LifeKeeper is installed if nobody says otherwise.
pub const DEFAULT_LKROOT: &str = "/opt/LifeKeeper";

/// The folder of the flags below it.
pub const SUBFOLDER: &str = "subsys/scsi/resources/netraid";

/// The flag files of one mirror.
#[derive(Clone, Debug)]
pub struct FlagFiles {
    folder: PathBuf,
    tag: Tag,
}

/// What the flags say.
#[derive(Debug)]
pub struct FlagState {
    /// `TAG_last_owner`: this node is, or was last, the source.
    pub last_owner: bool,
    /// `TAG_source`: the source at the last moment at which this node was part of the mirror; `None` if there is no such
    /// file. A file that names nobody is an error of its own, which says nothing about the other flags.
    pub source: Result<Option<NodeName>, FlagError>,
    /// `TAG_data_corrupt`: this node must not go into service unless it is forced.
    pub data_corrupt: bool,
}

/// What a call did to a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: it was so already.
    None,
    /// The flag was not there, and is.
    Set,
    /// The flag was there, and is not.
    Cleared,
    /// The flag was there with another content.
    Replaced {
        /// The content before, as far as it was text, shortened.
        before: String,
    },
}

impl Change {
    /// Whether anything is different from before.
    pub fn changed(&self) -> bool {
        *self != Change::None
    }
}

/// Why a flag could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum FlagError {
    /// The file system refused.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// "read", "set" or "clear".
        action: &'static str,
        /// The flag's file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// A source flag must name a node.
    #[error("{} is empty; it must hold the name of the node that was source, or not be there", path.display())]
    EmptySource {
        /// The flag's file.
        path: PathBuf,
    },
    /// A source flag names something that cannot be a node.
    #[error("{} does not name a node: {reason}", path.display())]
    BadSource {
        /// The flag's file.
        path: PathBuf,
        /// Why not.
        reason: NameError,
    },
}

impl FlagFiles {
    /// The flags of mirror `tag` under an installation of LifeKeeper, by default [`DEFAULT_LKROOT`]. Nothing is made yet.
    pub fn new(lkroot: &Path, tag: Tag) -> FlagFiles {
        FlagFiles {
            folder: lkroot.join(SUBFOLDER),
            tag,
        }
    }

    /// The flags of mirror `tag` in another folder, with those of the other mirrors.
    pub fn in_folder(folder: &Path, tag: Tag) -> FlagFiles {
        FlagFiles {
            folder: folder.to_owned(),
            tag,
        }
    }

    /// The mirror.
    pub fn tag(&self) -> &Tag {
        &self.tag
    }

    /// The folder with the flags of all mirrors.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Everything that the flags say.
    pub fn read(&self) -> Result<FlagState, FlagError> {
        Ok(FlagState {
            last_owner: self.last_owner()?,
            source: self.source(),
            data_corrupt: self.data_corrupt()?,
        })
    }

    /// Whether this node is, or was last, the source.
    pub fn last_owner(&self) -> Result<bool, FlagError> {
        self.is_set(LAST_OWNER)
    }

    /// Sets or clears `TAG_last_owner`.
    pub fn set_last_owner(&self, on: bool) -> Result<Change, FlagError> {
        self.switch(LAST_OWNER, on)
    }

    /// Whether this node must not go into service unless it is forced.
    pub fn data_corrupt(&self) -> Result<bool, FlagError> {
        self.is_set(DATA_CORRUPT)
    }

    /// Sets or clears `TAG_data_corrupt`.
    pub fn set_data_corrupt(&self, on: bool) -> Result<Change, FlagError> {
        self.switch(DATA_CORRUPT, on)
    }

    /// The node that `TAG_source` names; `None` if there is no such file. Space and line ends around the name, which an
    /// editor or `echo` leaves, do not count.
    pub fn source(&self) -> Result<Option<NodeName>, FlagError> {
        let Some(bytes) = self.source_bytes()? else {
            return Ok(None);
        };
        let path = self.path(SOURCE);
        // Bytes that are no text become a character that no name can have.
        let text = String::from_utf8_lossy(&bytes);
        match text.trim() {
            "" => Err(FlagError::EmptySource { path }),
            name => match NodeName::new(name) {
                Ok(node) => Ok(Some(node)),
                Err(reason) => Err(FlagError::BadSource { path, reason }),
            },
        }
    }

    /// Makes `TAG_source` name a node, or removes it.
    pub fn set_source(&self, node: Option<&NodeName>) -> Result<Change, FlagError> {
        let Some(node) = node else {
            return self.switch(SOURCE, false);
        };
        let before = self.source_bytes()?;
        let text = before.as_deref().map(String::from_utf8_lossy);
        if text.as_deref().map(str::trim) == Some(node.as_str()) {
            // Whoever wrote it may not have waited for the disk.
            return self.settle(SOURCE).map(|()| Change::None);
        }
        let line = format!("{node}\n");
        let written = durable::replace(&self.folder, &self.name(SOURCE), line.as_bytes());
        written.map_err(|error| self.failed("set", SOURCE, error))?;
        Ok(match text {
            None => Change::Set,
            Some(text) => Change::Replaced {
                before: text.trim().chars().take(80).collect(),
            },
        })
    }

    /// Removes every flag of this mirror; returns the names of those that were there.
    pub fn clear_all(&self) -> Result<Vec<&'static str>, FlagError> {
        let mut cleared = Vec::new();
        for flag in [LAST_OWNER, SOURCE, DATA_CORRUPT] {
            if self.switch(flag, false)?.changed() {
                cleared.push(flag);
            }
        }
        Ok(cleared)
    }

    fn is_set(&self, flag: &'static str) -> Result<bool, FlagError> {
        durable::exists(&self.folder, &self.name(flag))
            .map_err(|error| self.failed("read", flag, error))
    }

    fn switch(&self, flag: &'static str, on: bool) -> Result<Change, FlagError> {
        let name = self.name(flag);
        if !on {
            let removed = durable::remove(&self.folder, &name);
            return match removed.map_err(|error| self.failed("clear", flag, error))? {
                true => Ok(Change::Cleared),
                false => Ok(Change::None),
            };
        }
        if self.is_set(flag)? {
            return self.settle(flag).map(|()| Change::None);
        }
        let written = durable::replace(&self.folder, &name, b"");
        written
            .map(|()| Change::Set)
            .map_err(|error| self.failed("set", flag, error))
    }

    fn settle(&self, flag: &'static str) -> Result<(), FlagError> {
        durable::sync_folder(&self.folder).map_err(|error| self.failed("set", flag, error))
    }

    fn source_bytes(&self) -> Result<Option<Vec<u8>>, FlagError> {
        let bytes = durable::read(&self.folder, &self.name(SOURCE), MAX_SOURCE);
        bytes.map_err(|error| self.failed("read", SOURCE, error))
    }

    fn name(&self, flag: &str) -> String {
        format!("{}_{flag}", self.tag)
    }

    fn path(&self, flag: &str) -> PathBuf {
        self.folder.join(self.name(flag))
    }

    fn failed(&self, action: &'static str, flag: &str, error: io::Error) -> FlagError {
        FlagError::Io {
            action,
            path: self.path(flag),
            error,
        }
    }
}

const LAST_OWNER: &str = "last_owner";
const SOURCE: &str = "source";
const DATA_CORRUPT: &str = "data_corrupt";
/// Bytes read of a source flag: a name and much white space.
const MAX_SOURCE: usize = 4096;

#[cfg(test)]
mod tests;

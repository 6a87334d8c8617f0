//! What is to arrive: the paper that goes with an image, or before it over the network. JSON with a digest of itself.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::note;
use crate::array::leg::Leg;
use crate::md::MdUuid;
use crate::mirror::generation::{Generation, SLOTS};

/// Schema of [`Manifest`]: the name, and behind the stroke the version.
pub const SCHEMA: &str = "netraid.truck/1";

/// The paper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// BLAKE3 of `shipment`, written without spaces; 64 hexadecimal digits.
    pub digest: String,
    /// All the rest.
    pub shipment: Shipment,
}

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipment {
    /// The mirror.
    pub tag: String,
    /// Identity of the array, as mdadm writes it.
    pub array: String,
    /// The node whose leg it is.
    pub node: String,
    /// Its slot.
    pub slot: u8,
    /// The mirror's nodes, by slot.
    pub nodes: Vec<String>,
    /// The node where it was loaded.
    pub source: String,
    /// The generation of the data, 16 hexadecimal digits: the source has marked what was written after it.
    pub generation: String,
    /// Bytes of the mirror.
    pub mirror_bytes: u64,
    /// Bytes of the image, at least; a disk may be larger.
    pub image_bytes: u64,
    /// First byte of the data in it.
    pub data_offset: u64,
    /// When it was loaded, in milliseconds since 1970 by the source's clock. Nothing is decided by it.
    pub loaded_ms: u64,
    /// The version of netraid that loaded it.
    pub version: String,
    /// BLAKE3 of what lies before the data, the seal included.
    pub metadata: String,
    /// Bytes of the data under one digest; the last may be of less.
    pub block: u64,
    /// BLAKE3 of each block of the data.
    pub digests: Vec<String>,
}

/// Why a paper can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// There is none.
    #[error("{}: {error}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// No such JSON.
    #[error("{} is no manifest of netraid truck: {why}", path.display())]
    Syntax {
        /// Where.
        path: PathBuf,
        /// The parser's reason.
        why: String,
    },
    /// Of a newer version.
    #[error("{} is {schema:?}, which a newer version of netraid wrote; this one knows {SCHEMA:?}", path.display())]
    Newer {
        /// Where.
        path: PathBuf,
        /// What it says.
        schema: String,
    },
    /// It was changed, or damaged on its way.
    #[error("{} was changed since it was written: its digest does not fit", path.display())]
    Changed {
        /// Where.
        path: PathBuf,
    },
}

impl Shipment {
    /// The generation as decisions take it.
    pub fn generation(&self) -> Option<Generation> {
        Generation::try_from(self.generation.clone()).ok()
    }

    /// Bytes of the block with that number.
    pub fn block_bytes(&self, number: usize) -> u64 {
        let start = (number as u64).saturating_mul(self.block);
        self.mirror_bytes.saturating_sub(start).min(self.block)
    }

    /// Whether its numbers can be: nothing is allocated by them before.
    fn is_possible(&self) -> bool {
        let blocks = self.mirror_bytes.checked_div(self.block);
        let blocks = blocks
            .map(|whole| whole + u64::from(!self.mirror_bytes.is_multiple_of(self.block.max(1))));
        (MIN_BLOCK..=MAX_BLOCK).contains(&self.block)
            && self.block.is_power_of_two()
            && blocks == Some(self.digests.len() as u64)
            && self.data_offset <= MAX_OFFSET
            && self.data_offset.is_multiple_of(4096)
            && self.image_bytes >= self.data_offset.saturating_add(self.mirror_bytes)
            && usize::from(self.slot) < self.nodes.len()
            && self.nodes.len() <= SLOTS
            && self.nodes.get(usize::from(self.slot)) == Some(&self.node)
            && self.generation().is_some_and(|id| id != Generation::NONE)
    }

    /// Whether a leg is the one that was loaded; else what it is.
    ///
    /// # Errors
    /// A sentence.
    pub fn is_of(&self, leg: &Leg) -> Result<(), String> {
        let array = leg.superblock.set_uuid.to_string();
        let generation = leg.record.current.to_string();
        match () {
            () if array != self.array => Err(format!(
                "it is of another mirror, {} (array {array}), and the manifest is of {} (array {})",
                leg.tag(),
                self.tag,
                self.array
            )),
            () if leg.slot != usize::from(self.slot) => Err(format!(
                "it is leg {} of {}, and the manifest is of leg {}",
                leg.slot, self.tag, self.slot
            )),
            () if generation != self.generation => Err(format!(
                "it was loaded at another time: its generation is {generation}, that of the manifest is {}",
                self.generation
            )),
            () if leg.size() != self.mirror_bytes
                || leg.superblock.data_offset.saturating_mul(crate::md::SECTOR)
                    != self.data_offset =>
            {
                Err("its layout is not that of the manifest".into())
            }
            () => Ok(()),
        }
    }
}

impl Manifest {
    /// The paper of what was loaded.
    ///
    /// # Errors
    /// None that is known: of numbers and texts JSON can always be made.
    pub fn new(shipment: Shipment) -> io::Result<Manifest> {
        Ok(Manifest {
            schema: SCHEMA.into(),
            digest: digest(&shipment)?,
            shipment,
        })
    }

    /// Reads a paper, and believes nothing that was changed.
    ///
    /// # Errors
    /// It is no such text, of another version, or was changed.
    pub fn read(path: &Path) -> Result<Manifest, ManifestError> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        let path = path.to_owned();
        let mut text = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut text));
        if let Err(error) = read {
            return Err(ManifestError::Io { path, error });
        }
        let syntax = |why: String| ManifestError::Syntax {
            path: path.clone(),
            why,
        };
        if text.len() as u64 > LONGEST {
            return Err(syntax("it is longer than any".into()));
        }
        let parsed = serde_json::from_slice(&text);
        let Head { schema } = parsed.map_err(|error| syntax(error.to_string()))?;
        if schema != SCHEMA {
            let version = schema.strip_prefix("netraid.truck/");
            return Err(match version.and_then(|version| version.parse().ok()) {
                Some(2..=u64::MAX) => ManifestError::Newer { path, schema },
                _ => syntax(format!("it is {schema:?}")),
            });
        }
        let manifest = serde_json::from_slice::<Manifest>(&text);
        let manifest = manifest.map_err(|error| syntax(error.to_string()))?;
        match digest(&manifest.shipment) {
            Ok(expected) if expected == manifest.digest => {}
            _ => return Err(ManifestError::Changed { path }),
        }
        match manifest.shipment.is_possible() {
            true => Ok(manifest),
            false => Err(syntax("it says what can't be".into())),
        }
    }

    /// Writes it; on the disk when this returns.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        note::replace(path, &text)
    }
}

/// Where the paper of an image is, unless somebody says otherwise: beside it. A block device has none.
pub fn beside(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".manifest");
    name.into()
}

/// How much of a mirror of that size is under one digest: the paper has a million of them at most.
pub fn block_for(mirror_bytes: u64) -> u64 {
    let least = mirror_bytes.div_ceil(MOST_DIGESTS);
    least
        .checked_next_power_of_two()
        .unwrap_or(MAX_BLOCK)
        .clamp(MIN_BLOCK, MAX_BLOCK)
}

/// An array's identity in the paper.
pub fn array(leg: &Leg) -> String {
    MdUuid(leg.superblock.set_uuid.0).to_string()
}

fn digest(shipment: &Shipment) -> io::Result<String> {
    let bytes = serde_json::to_vec(shipment)?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

const MIN_BLOCK: u64 = 1 << 20;
/// Read into memory at once: 64 MiB, enough for 64 TiB.
const MAX_BLOCK: u64 = 64 << 20;
const MOST_DIGESTS: u64 = 1 << 20;
/// Most bytes before the data: more than any layout has.
const MAX_OFFSET: u64 = 1 << 30;
/// Bytes of a paper, at most.
const LONGEST: u64 = 128 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn shipment() -> Shipment {
        Shipment {
            tag: "data".into(),
            array: MdUuid([7; 16]).to_string(),
            node: "b".into(),
            slot: 1,
            nodes: vec!["a".into(), "b".into()],
            source: "a".into(),
            generation: "00000000000000aa".into(),
            mirror_bytes: (3 << 20) + 4096,
            image_bytes: 5 << 20,
            data_offset: 1 << 20,
            loaded_ms: 1,
            version: "0".into(),
            metadata: "0".repeat(64),
            block: 1 << 20,
            digests: vec!["0".repeat(64); 4],
        }
    }

    #[test]
    fn a_paper_is_read_as_it_was_written_and_not_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("paper");
        let manifest = Manifest::new(shipment()).unwrap();
        manifest.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("00aa", "00ab")).unwrap();
        let changed = Manifest::read(&path).unwrap_err();
        assert!(
            matches!(changed, ManifestError::Changed { .. }),
            "{changed}"
        );
        std::fs::write(&path, text.replace("truck/1", "truck/2")).unwrap();
        let newer = Manifest::read(&path).unwrap_err();
        assert!(matches!(newer, ManifestError::Newer { .. }), "{newer}");
        std::fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(Manifest::read(&path).is_err());
    }

    #[test]
    fn a_paper_that_says_what_can_not_be_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("paper");
        type Change = fn(&mut Shipment);
        let changes: [Change; 7] = [
            |s| s.block = 0,
            |s| s.block = u64::MAX,
            |s| s.digests.truncate(3),
            |s| s.data_offset = u64::MAX,
            |s| s.image_bytes = 1,
            |s| s.slot = 2,
            |s| s.generation = "0".repeat(16),
        ];
        for change in changes {
            let mut wrong = shipment();
            change(&mut wrong);
            Manifest::new(wrong).unwrap().write(&path).unwrap();
            let error = Manifest::read(&path).unwrap_err();
            assert!(matches!(error, ManifestError::Syntax { .. }), "{error}");
        }
    }

    #[test]
    fn there_are_at_most_a_million_digests() {
        assert_eq!(block_for(0), 1 << 20);
        assert_eq!(block_for(1 << 40), 1 << 20);
        assert_eq!(block_for((1 << 40) + 1), 2 << 20);
        assert_eq!(block_for(u64::MAX), 64 << 20);
    }
}

//! What it takes to put a shipped leg in use on the node that it is for, decided before anything is written; and the writing.
//!
//! The seal is taken off last. Before it the node's record says durably that the leg is outdated, since the source went on
//! without it: nobody goes into service from it but by force, until it has been brought in sync.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use flags::{GenerationId, NodeName, PeerFlags, PeerState, RecordFlags, StateRecord};

use super::copy::{CopyError, copy};
use super::manifest::Shipment;
use super::{check, seal};
use crate::array::ArrayError;
use crate::array::disk::Disk;
use crate::array::leg::{Leg, LegError};
use crate::meta::dump::Place;
use crate::meta::restore::Refusal;

/// What the disk holds that is to become the leg.
#[derive(Debug, PartialEq, Eq)]
pub enum Holds {
    /// The image itself: the disk travelled.
    Image,
    /// Nothing that anybody would miss.
    Nothing,
    /// What was in the image, in use already.
    Unloaded,
    /// Something else.
    Else(String),
}

/// What is there now.
#[derive(Debug)]
pub struct Present {
    /// On the disk.
    pub holds: Holds,
    /// Bytes of the disk.
    pub bytes: u64,
    /// The node's record, or why it can't be used.
    pub record: Result<Option<StateRecord>, String>,
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    /// For people, in order.
    pub steps: Vec<String>,
    /// The image has to be copied.
    copies: bool,
    /// The record that is there can't be read and has to make room.
    aside: bool,
    /// What of it counts on.
    before: Option<StateRecord>,
}

/// Whether two paths lead to one file or disk.
pub fn is_same(one: &Metadata, other: &Metadata) -> bool {
    match one.file_type().is_block_device() && other.file_type().is_block_device() {
        true => one.rdev() == other.rdev(),
        false => (one.dev(), one.ino()) == (other.dev(), other.ino()),
    }
}

/// What a disk that is not the image holds. `found` is what was recognised on one without a leg.
pub fn holds(
    leg: Result<Leg, LegError>,
    sealed: bool,
    shipment: &Shipment,
    found: Option<&str>,
) -> Holds {
    match leg {
        Ok(leg) => match shipment.is_of(&leg) {
            // A copy that was not finished, or an image.
            Ok(()) if sealed => Holds::Nothing,
            Ok(()) if leg.is_consistent() => Holds::Unloaded,
            _ if sealed => Holds::Else(format!(
                "another shipped leg, of {}, generation {}",
                leg.tag(),
                leg.record.current
            )),
            _ => Holds::Else(format!(
                "a leg of {}, generation {}",
                leg.tag(),
                leg.record.current
            )),
        },
        Err(LegError::Blank) => match found {
            Some(found) => Holds::Else(found.to_owned()),
            None => Holds::Nothing,
        },
        Err(error) => Holds::Else(format!("a leg that can't be used ({error})")),
    }
}

/// Decides what is to be done.
///
/// # Errors
/// It is for another node or mirror, or something would be lost and `force` is not given.
pub fn plan(
    place: &Place,
    tag: &str,
    shipment: &Shipment,
    present: &Present,
    force: bool,
) -> Result<Plan, Refusal> {
    let refuse = |why: String, next: Option<String>| Err::<Plan, _>(Refusal { why, next });
    let names: Vec<&str> = place.names.iter().map(NodeName::as_str).collect();
    if shipment.tag != tag {
        let why = format!("the image is of mirror {}, not of {tag}", shipment.tag);
        return refuse(why, None);
    }
    if shipment.node != place.node() || usize::from(shipment.slot) != place.slot {
        let why = format!(
            "the image is for {} (slot {}), and this node is {} (slot {})",
            shipment.node,
            shipment.slot,
            place.node(),
            place.slot
        );
        return refuse(why, None);
    }
    if shipment.nodes != names {
        let why = format!(
            "the image is of a mirror of {}, and {} are configured here",
            shipment.nodes.join(", "),
            names.join(", ")
        );
        return refuse(why, Some("netraid config check, on both nodes".into()));
    }
    let disk = place.disk.display();
    if present.bytes < shipment.image_bytes {
        let why = format!(
            "{disk} has {} bytes, and the leg needs {}",
            present.bytes, shipment.image_bytes
        );
        return refuse(why, None);
    }
    let forced = |what: String| match force {
        true => Ok(()),
        false => Err(Refusal {
            why: what,
            next: Some("--force overwrites that".into()),
        }),
    };
    let mut steps = Vec::new();
    let before = match &present.record {
        Ok(before) => before.clone(),
        Err(why) => {
            forced(format!(
                "the state record of this node can't be used: {why}"
            ))?;
            steps.push(format!("set {tag}_record aside"));
            None
        }
    };
    if let Some(before) = &before {
        let array = crate::md::MdUuid(before.array).to_string();
        if before.array != [0; 16] && array != shipment.array {
            forced(format!(
                "this node remembers another mirror of that name (array {array})"
            ))?;
        }
        let source = RecordFlags::WAS_SOURCE.0 | RecordFlags::LAST_OWNER.0;
        if before.flags.0 & source != 0 {
            forced(format!(
                "this node was the source of {tag} when it last ran, and may have written what nobody else has"
            ))?;
        }
    }
    let copies = match &present.holds {
        Holds::Unloaded => {
            return Ok(Plan {
                steps: Vec::new(),
                copies: false,
                aside: false,
                before,
            });
        }
        Holds::Image => false,
        Holds::Nothing => true,
        Holds::Else(what) => {
            forced(format!("{disk} holds {what}"))?;
            steps.push(format!("{disk}: give up {what}"));
            true
        }
    };
    if copies {
        steps.push(format!(
            "{disk}: copy {} bytes, compare each block with its digest, and read all back",
            shipment.image_bytes
        ));
    } else {
        steps.push(format!("{disk}: compare each block with its digest"));
    }
    steps.push(format!(
        "write {tag}_record: {} is a target of {}, its data is outdated",
        shipment.node, shipment.source
    ));
    steps.push(format!("{disk}: take the seal off"));
    Ok(Plan {
        steps,
        copies,
        aside: present.record.is_err(),
        before,
    })
}

impl Plan {
    /// Whether all is done already.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many bytes will be told of.
    pub fn bytes(&self, shipment: &Shipment) -> u64 {
        match self.copies {
            true => shipment.mirror_bytes.saturating_mul(2),
            false => shipment.mirror_bytes,
        }
    }

    /// Does it, each step durable before the next. `agreement` is a number from which agreements are counted, that none before
    /// had, for a node that remembers none.
    ///
    /// # Errors
    /// If the image is not what was loaded, or something can't be written. The disk is sealed or holds no leg then, and doing
    /// it again is right.
    pub fn perform(
        self,
        place: &Place,
        (image, disk): (&Disk, &Disk),
        shipment: &Shipment,
        agreement: u32,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), CopyError> {
        let failed = |error: ArrayError| CopyError::Write {
            disk: place.disk.clone(),
            error: std::io::Error::other(error.to_string()),
        };
        let on_disk = |error: crate::array::disk::DiskError| CopyError::Write {
            disk: place.disk.clone(),
            error: error.error,
        };
        if self.copies {
            check::head(image, shipment).map_err(CopyError::Image)?;
            // From here on nobody takes it for what it was.
            seal::wipe(disk).map_err(on_disk)?;
            copy(image, disk, shipment, tell)?;
        } else {
            check::all(disk, shipment, &mut *tell).map_err(CopyError::Image)?;
        }
        let leg = seal::read(disk).map_err(|error| failed(ArrayError::failed(error)))?;
        let record = outdated(place, &leg, shipment, self.before, agreement);
        remember(place, record, shipment, self.aside).map_err(failed)?;
        seal::take_off(disk).map_err(on_disk)
    }
}

fn remember(
    place: &Place,
    mut record: StateRecord,
    shipment: &Shipment,
    aside: bool,
) -> Result<(), ArrayError> {
    let file = place.record();
    if aside {
        file.set_aside().map_err(ArrayError::failed)?;
    }
    let source = place
        .names
        .iter()
        .find(|name| name.as_str() == shipment.source);
    place
        .flags
        .set_last_owner(false)
        .and_then(|_| place.flags.set_source(source))
        .map_err(ArrayError::failed)?;
    file.store(&mut record).map_err(ArrayError::failed)
}

/// What the node remembers: a target whose source went on. Any other may have gone into service since. What it has promised,
/// and how often it agreed, stays.
fn outdated(
    place: &Place,
    leg: &Leg,
    shipment: &Shipment,
    before: Option<StateRecord>,
    agreement: u32,
) -> StateRecord {
    let known = |slot: u8| {
        let before = before.as_ref()?;
        before.peers.iter().find(|peer| peer.node_id == slot)
    };
    let peers = place.names.iter().enumerate();
    let peers = peers.filter(|(slot, _)| *slot != place.slot);
    let peers = peers.map(|(slot, name)| PeerState {
        node_id: slot as u8,
        name: name.clone(),
        bitmap: leg
            .record
            .peer(slot as u8)
            .map_or(GenerationId::NONE, |peer| peer.bitmap),
        flags: (PeerFlags::MEMBER | PeerFlags::IN_SYNC)
            .with(PeerFlags::SOURCE, name.as_str() == shipment.source),
        discarded: known(slot as u8).map_or(GenerationId::NONE, |peer| peer.discarded),
        agreement: known(slot as u8).map_or(0, |peer| peer.agreement),
    });
    StateRecord {
        sequence: before.as_ref().map_or(0, |before| before.sequence),
        array: leg.superblock.set_uuid.0,
        node_id: place.slot as u8,
        node: leg.record.node.clone(),
        current: leg.record.current,
        history: leg.record.history.clone(),
        flags: RecordFlags::CONSISTENT | RecordFlags::OUTDATED | RecordFlags::MEMBER,
        discarded: GenerationId::NONE,
        agreement: before.as_ref().map_or(agreement, |before| before.agreement),
        votes: before.as_ref().map_or([0; 32], |before| before.votes),
        peers: peers.collect(),
    }
}

#[cfg(test)]
mod tests {
    use flags::{FlagFiles, Tag};

    use super::*;

    fn place(slot: usize) -> Place {
        let names = ["a", "b"].map(|name| NodeName::new(name).unwrap());
        Place {
            flags: FlagFiles::in_folder("/nonexistent".as_ref(), Tag::new("data").unwrap()),
            disk: "/dev/disk".into(),
            names: names.into(),
            slot,
        }
    }

    fn shipment() -> Shipment {
        Shipment {
            tag: "data".into(),
            array: crate::md::MdUuid([7; 16]).to_string(),
            node: "b".into(),
            slot: 1,
            nodes: vec!["a".into(), "b".into()],
            source: "a".into(),
            generation: "00000000000000aa".into(),
            mirror_bytes: 1 << 20,
            image_bytes: 2 << 20,
            data_offset: 1 << 20,
            loaded_ms: 1,
            version: "0".into(),
            metadata: "0".repeat(64),
            block: 1 << 20,
            digests: vec!["0".repeat(64)],
        }
    }

    fn present(record: Option<StateRecord>) -> Present {
        Present {
            holds: Holds::Nothing,
            bytes: 2 << 20,
            record: Ok(record),
        }
    }

    fn record(flags: RecordFlags, array: [u8; 16]) -> StateRecord {
        StateRecord {
            sequence: 3,
            array,
            node_id: 1,
            node: NodeName::new("b").unwrap(),
            current: GenerationId(1),
            history: Vec::new(),
            flags,
            discarded: GenerationId::NONE,
            agreement: 9,
            votes: [1; 32],
            peers: Vec::new(),
        }
    }

    /// Why it is refused; what `--force` does then.
    fn refused(place: &Place, shipment: &Shipment, present: &Present) -> (String, bool) {
        let why = plan(place, "data", shipment, present, false)
            .unwrap_err()
            .why;
        (why, plan(place, "data", shipment, present, true).is_ok())
    }

    #[test]
    fn what_is_for_somebody_else_is_refused_by_force_too() {
        type Change = fn(&mut Shipment);
        let changes: [(Change, &str); 3] = [
            (|s| s.tag = "more".into(), "is of mirror more"),
            (|s| s.nodes[0] = "c".into(), "is of a mirror of c, b"),
            (|s| s.image_bytes = 3 << 20, "the leg needs 3145728"),
        ];
        for (change, words) in changes {
            let mut wrong = shipment();
            change(&mut wrong);
            let (why, forced) = refused(&place(1), &wrong, &present(None));
            assert!(why.contains(words) && !forced, "{why}");
        }
        let (why, forced) = refused(&place(0), &shipment(), &present(None));
        assert!(why.contains("is for b") && !forced, "{why}");
        let fits = plan(&place(1), "data", &shipment(), &present(None), false).unwrap();
        assert!(fits.copies && !fits.is_empty());
    }

    #[test]
    fn what_somebody_may_miss_is_given_up_by_force_alone() {
        let held = Present {
            holds: Holds::Else("a file system".into()),
            ..present(None)
        };
        let lost = Present {
            record: Err("damaged".into()),
            ..present(None)
        };
        let consistent = RecordFlags::CONSISTENT;
        let source = record(consistent | RecordFlags::LAST_OWNER, [7; 16]);
        let crashed = record(consistent | RecordFlags::WAS_SOURCE, [7; 16]);
        for (there, words) in [
            (held, "holds a file system"),
            (lost, "damaged"),
            (present(Some(source)), "was the source"),
            (present(Some(crashed)), "was the source"),
            (
                present(Some(record(consistent, [8; 16]))),
                "another mirror of that name",
            ),
        ] {
            let (why, forced) = refused(&place(1), &shipment(), &there);
            assert!(why.contains(words) && forced, "{why}");
        }
        let target = present(Some(record(consistent, [7; 16])));
        assert!(plan(&place(1), "data", &shipment(), &target, false).is_ok());
    }
}

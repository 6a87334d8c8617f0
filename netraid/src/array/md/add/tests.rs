//! Adding a leg is interrupted after every single write: nothing that differs may go unmarked, and nobody may start a leg
//! whose data is of different times.

use super::*;
use crate::array::create::{Creation, create};
use crate::array::leg::Leg;
use crate::md::superblock::{Features, Role, WRITE_MOSTLY};
use crate::md::{DirtyBits, SECTOR, Superblock};
use crate::mirror::generation::Verdict;
use crate::raid1::metadata::now;
use std::fs;

const DISK: u64 = 8 << 20;
const CHUNK: u64 = 64 << 10;

/// Two disks in a folder: the mirror's source and the leg to be added.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    /// A mirror whose second leg was added and is in sync.
    fn in_sync() -> Scene {
        let scene = Scene {
            folder: tempfile::tempdir().unwrap(),
        };
        for name in ["source", "target"] {
            let file = fs::File::create(scene.path(name)).unwrap();
            file.set_len(DISK).unwrap();
        }
        let nodes = ["server1", "server2"].map(|name| flags::NodeName::new(name).unwrap());
        create(&Creation {
            tag: flags::Tag::new("data").unwrap(),
            disk: scene.path("source"),
            nodes: nodes.to_vec(),
            node: nodes[0].clone(),
            chunk: Some(CHUNK as u32),
            keep: false,
            force: false,
            dry_run: false,
        })
        .unwrap();
        let plan = scene.plan(&request()).unwrap();
        plan.steps.iter().for_each(|step| scene.perform(step));
        scene.recovered();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn leg(&self, name: &str) -> Result<Leg, LegError> {
        Leg::read(&Disk::open(&self.path(name), Access::Read).unwrap())
    }

    fn plan(&self, request: &NewLeg) -> Result<Plan, ArrayError> {
        let found = self.leg("target").ok();
        let target = self.path("target");
        plan(
            &Situation {
                array: Path::new("/dev/md0"),
                set_bits: Path::new("/sys/bits"),
                present: &[(self.path("source"), self.leg("source").unwrap())],
                slot: 1,
                disk: &target,
                size: DISK,
                found: found.as_ref(),
                uuid: MdUuid([9; 16]),
                now: now(),
            },
            request,
        )
    }

    /// What the step does to the disks; the kernel's parts are played here.
    fn perform(&self, step: &Step) {
        match step {
            Step::Write { disk, writes, .. } => {
                let disk = Disk::open(disk, Access::Write).unwrap();
                for (at, data) in writes {
                    disk.write(*at, data).unwrap();
                }
            }
            Step::Mark { leg, chunks, .. } => self.change(leg, |_, bits| {
                chunks.iter().for_each(|run| {
                    bits.set_range(run.clone());
                });
            }),
            Step::Mdadm(_) | Step::Attribute { .. } => {}
        }
    }

    /// Changes a leg's superblock and bits as the kernel would.
    fn change(&self, path: &Path, change: impl FnOnce(&mut Superblock, &mut DirtyBits)) {
        let disk = Disk::open(path, Access::Write).unwrap();
        let leg = Leg::read(&disk).unwrap();
        let (mut superblock, bitmap) = (leg.superblock, leg.bitmap.unwrap());
        let mut bits = bitmap.bits;
        superblock.events += 1;
        superblock.updated = Timestamp::from_seconds(now().seconds);
        change(&mut superblock, &mut bits);
        let mut header = bitmap.header;
        header.events = superblock.events;
        let mut bytes = bits.encode(&header);
        bytes.truncate(header.used() as usize);
        disk.write(bitmap.start, &bytes).unwrap();
        disk.write(superblock.super_offset * SECTOR, &superblock.encode())
            .unwrap();
    }

    /// The kernel has recovered the target and drops the bits.
    fn recovered(&self) {
        for name in ["source", "target"] {
            self.change(&self.path(name), |superblock, bits| {
                let recovering = Features::RECOVERY_OFFSET | Features::RECOVERY_BITMAP;
                superblock.features = superblock.features.without(recovering);
                superblock.set_role(0, Role::Active(0));
                superblock.set_role(1, Role::Active(1));
                superblock.mark_clean();
                bits.clear_range(0..bits.chunks());
            });
        }
    }

    /// A leg is run without the other and writes these chunks.
    fn write_alone(&self, name: &str, chunks: Range<u64>) {
        let other = u32::from(name == "source");
        self.change(&self.path(name), |superblock, bits| {
            superblock.set_role(other, Role::Faulty);
            superblock.mark_active();
            bits.set_range(chunks);
        });
    }
}

fn request() -> NewLeg {
    NewLeg {
        node: "server2".into(),
        location: String::new(),
        full: false,
        discard: false,
        force: false,
    }
}

/// Performs `count` writes of a plan and no more, tearing steps apart.
fn perform_in_part(scene: &Scene, plan: &Plan, count: usize) -> bool {
    let mut left = count;
    for step in &plan.steps {
        let parts = match step {
            Step::Write { disk, what, writes } => writes
                .iter()
                .map(|write| Step::Write {
                    disk: disk.clone(),
                    what: what.clone(),
                    writes: vec![write.clone()],
                })
                .collect(),
            other => vec![other.clone()],
        };
        for part in parts {
            if left == 0 {
                return false;
            }
            left -= 1;
            scene.perform(&part);
        }
    }
    true
}

/// What is marked on either leg.
fn marked(scene: &Scene) -> DirtyBits {
    let mut bits = scene.leg("source").unwrap().bitmap.unwrap().bits;
    if let Ok(target) = scene.leg("target") {
        bits.union_with(&target.bitmap.unwrap().bits);
    }
    bits
}

#[test]
fn wherever_adding_stops_what_differs_is_marked_and_the_leg_is_added_in_part_afterwards() {
    for split_brain in [false, true] {
        for count in 0.. {
            let scene = Scene::in_sync();
            scene.write_alone("source", 3..5);
            if split_brain {
                scene.write_alone("target", 40..42);
            }
            let mut request = request();
            request.discard = split_brain;
            let plan = scene.plan(&request).unwrap();
            assert!(!plan.added.full, "{:?}", plan.added);
            let done = perform_in_part(&scene, &plan, count);

            let bits = marked(&scene);
            let differ = (3..5).chain(split_brain.then_some(40..42).into_iter().flatten());
            for chunk in differ {
                assert!(bits.test(chunk), "after {count} writes, chunk {chunk}");
            }
            let target = scene.leg("target").unwrap();
            let source = scene.leg("source").unwrap();
            assert!(source.is_consistent(), "after {count} writes");
            let verdict = source.witness().decide(&target.witness()).verdict;
            let as_before = target.is_consistent();
            if as_before {
                // Nothing of it may be taken for newer, or for the same, while it is not.
                let expected = match split_brain {
                    true => Verdict::SplitBrain,
                    false => Verdict::ToPeer(Extent::Partial),
                };
                assert_eq!(verdict, expected, "after {count} writes");
            }
            // And it can be added again, in part, without a word about brains.
            request.discard = as_before && split_brain;
            let again = scene.plan(&request).unwrap();
            assert!(!again.added.full, "after {count} writes: {:?}", again.added);
            if done {
                assert!(count > 5, "a plan of {count} writes");
                break;
            }
        }
    }
}

#[test]
fn a_target_that_took_over_is_newer_and_one_that_did_not_is_not() {
    let scene = Scene::in_sync();
    scene.write_alone("target", 7..9);
    let error = scene.plan(&request()).unwrap_err().to_string();
    assert!(error.contains("newer data"), "{error}");
    scene.write_alone("source", 1..2);
    let error = scene.plan(&request()).unwrap_err().to_string();
    assert!(error.contains("split brain"), "{error}");
}

#[test]
fn a_blank_disk_is_filled_completely_and_laid_out_without_a_bad_block_log() {
    let scene = Scene::in_sync();
    fs::File::create(scene.path("target"))
        .unwrap()
        .set_len(DISK)
        .unwrap();
    let plan = scene.plan(&request()).unwrap();
    assert!(plan.added.full);
    plan.steps.iter().for_each(|step| scene.perform(step));
    let leg = scene.leg("target").unwrap();
    assert!(!leg.is_consistent() && leg.superblock.bblog_size == 0);
    assert_eq!(leg.superblock.devflags & WRITE_MOSTLY, WRITE_MOSTLY);
    let bits = leg.bitmap.unwrap().bits;
    assert_eq!(bits.count(), bits.chunks());
    let last = plan.steps.last().map(ToString::to_string);
    let target = scene.path("target").display().to_string();
    assert_eq!(
        last,
        Some(format!(
            "mdadm --manage /dev/md0 --re-add --write-mostly {target}"
        ))
    );
}

#[test]
fn a_leg_that_the_kernel_took_without_giving_it_its_place_is_known_and_started_by_nobody() {
    let scene = Scene::in_sync();
    scene.write_alone("source", 3..5);
    let plan = scene.plan(&request()).unwrap();
    plan.steps.iter().for_each(|step| scene.perform(step));
    // That is the kernel's first superblock of a leg that it was given; the bitmap comes with the second.
    let disk = Disk::open(&scene.path("target"), Access::Write).unwrap();
    let mut superblock = Leg::read(&disk).unwrap().superblock;
    let recovering = Features::RECOVERY_OFFSET | Features::RECOVERY_BITMAP;
    superblock.features = superblock.features.without(recovering);
    superblock.events += 1;
    superblock.updated = Timestamp::from_seconds(now().seconds);
    superblock.set_role(1, Role::Spare);
    disk.write(superblock.super_offset * SECTOR, &superblock.encode())
        .unwrap();
    let leg = scene.leg("target").unwrap();
    assert!(leg.slot == 1 && !leg.is_consistent());
    assert!(marked(&scene).test(3) && marked(&scene).test(4));
    let again = scene.plan(&request()).unwrap();
    assert_ne!(again.added.rule, "new leg");
}

#[test]
fn of_a_leg_whose_full_recovery_was_not_finished_no_block_is_believed() {
    let scene = Scene::in_sync();
    let disk = Disk::open(&scene.path("target"), Access::Write).unwrap();
    let mut superblock = Leg::read(&disk).unwrap().superblock;
    superblock.features = superblock.features | Features::RECOVERY_OFFSET;
    disk.write(superblock.super_offset * SECTOR, &superblock.encode())
        .unwrap();
    let leg = scene.leg("target").unwrap();
    assert_eq!(bytes_in(&leg.dirty()), leg.size());
}

#[test]
fn too_small_a_disk_is_refused_before_anything_is_written() {
    let scene = Scene::in_sync();
    let target = scene.path("target");
    let situation = Situation {
        array: Path::new("/dev/md0"),
        set_bits: Path::new("/sys/bits"),
        present: &[(scene.path("source"), scene.leg("source").unwrap())],
        slot: 1,
        disk: &target,
        size: DISK / 2,
        found: None,
        uuid: MdUuid([9; 16]),
        now: now(),
    };
    let error = plan(&situation, &request()).unwrap_err();
    assert!(matches!(error, ArrayError::Refused { .. }), "{error}");
}

#[test]
fn the_embedded_engine_recognises_what_the_kernel_wrote_to_one_leg_alone() {
    use crate::mirror::generation::{Verdict, decide};
    let scene = Scene::in_sync();
    let read = |name: &str| {
        let device = nbd_server::file::FileDevice::open(scene.path(name), true).unwrap();
        let link = crate::raid1::link::Link::Local(std::sync::Arc::new(device));
        let patience = std::time::Duration::from_secs(5);
        let (_, image) = crate::raid1::metadata::Metadata::read(&link, patience).unwrap();
        image.record.generations
    };
    let verdict = || decide(&read("source"), 0, &read("target"), 1).verdict;
    assert_eq!(verdict(), Verdict::Same);
    scene.write_alone("source", 3..5);
    assert!(matches!(verdict(), Verdict::ToPeer(_)), "{:?}", verdict());
    scene.write_alone("target", 9..10);
    assert_eq!(verdict(), Verdict::SplitBrain);
}

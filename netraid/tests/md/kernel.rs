//! A real kernel assembles legs that we formatted, and resyncs what we marked and nothing else.
//!
//! The two legs of each mirror hold different data everywhere, so what the kernel copied can be seen in the second leg.

use crate::examine::{mirror, write_leg};
use crate::peer;
use netraid::md::format::FormattedLeg;
use netraid::md::superblock::Role;
use netraid::md::{BitmapSuperblock, MdUuid, NewLeg, Superblock};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MIB: u64 = 1 << 20;
const DEVICE: u64 = 16 * MIB;
const CHUNK: u64 = 65536;
/// Chunks that are marked: the first, two runs, the last.
const MARKED: [std::ops::Range<u64>; 4] = [0..1, 17..19, 100..140, 239..240];

/// A mirror that the kernel is to run.
struct Case {
    name: &'static str,
    kind: &'static str,
    legs: Vec<FormattedLeg>,
    /// What the kernel says that it does to the mirror.
    action: Option<&'static str>,
    /// Chunks that it must have copied from the first leg to the second.
    copied: Vec<std::ops::Range<u64>>,
}

fn legs() -> Vec<FormattedLeg> {
    mirror(&[DEVICE, DEVICE], CHUNK as u32)
        .format()
        .unwrap()
        .into_iter()
        .flatten()
        .collect()
}

fn mark(leg: &mut FormattedLeg) {
    for range in MARKED {
        leg.bits.set_range(range);
    }
}

fn cases() -> Vec<Case> {
    let case = |name, kind, legs, action, copied| Case {
        name,
        kind,
        legs,
        action,
        copied,
    };

    let mut active = legs();
    for leg in &mut active {
        mark(leg);
        leg.superblock.mark_active();
    }

    let mut forgotten = legs();
    forgotten.iter_mut().for_each(mark);

    let mut behind = legs();
    mark(&mut behind[0]);
    behind[0].superblock.events = 10;
    behind[0].superblock.set_role(1, Role::Faulty);
    behind[0].bitmap.events = 10;

    let first = legs().remove(0);
    let new = NewLeg {
        device: DEVICE + MIB,
        uuid: MdUuid([5; 16]),
        write_mostly: true,
        fail_fast: false,
    };
    let joined = FormattedLeg::join(&first.superblock, &first.bitmap, 1, 1, &new).unwrap();

    vec![
        case("equal", "both", legs(), None, vec![]),
        case("active", "both", active, Some("resync"), MARKED.into()),
        // Bits beside a clean superblock are dropped: see the documentation of the module `md`.
        case("forgotten", "both", forgotten, None, vec![]),
        case("behind", "alone", behind, Some("recovery"), MARKED.into()),
        case(
            "joined",
            "both",
            vec![first, joined],
            Some("recovery"),
            std::iter::once(0..240).collect(),
        ),
    ]
}

#[test]
fn the_kernel_runs_our_mirrors_and_copies_what_is_marked_and_nothing_else() {
    let (Some(_), Some(linux)) = (peer::mdadm(), peer::linux_uml()) else {
        return;
    };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let cases = cases();
    let disk = |case: usize, leg: usize| folder.path().join(format!("disk{}", case * 2 + leg));
    for (c, case) in cases.iter().enumerate() {
        for (l, leg) in case.legs.iter().enumerate() {
            write_leg(&disk(c, l), leg);
            fill(&disk(c, l), leg, if l == 0 { 0xaa } else { 0xbb });
        }
    }
    let console = boot(&linux, folder.path(), &cases);
    if !console.contains("assemble: started") {
        return peer::skip(&format!(
            "linux.uml does not run on this machine: {}",
            last_line(&console)
        ));
    }
    assert!(console.contains("assemble: finished"), "{console}");
    for (c, case) in cases.iter().enumerate() {
        let log = fs::read_to_string(folder.path().join(case.name)).unwrap();
        for line in ["degraded 0\n", "stopped\n"] {
            assert!(log.contains(line), "{}: no {line:?} in\n{log}", case.name);
        }
        let said = ["resync", "recovery"];
        let said = said
            .into_iter()
            .find(|what| log.contains(&format!("md: {what} of RAID array")));
        assert_eq!(said, case.action, "{}: {log}", case.name);
        let chunks = 0..240;
        let expected: Vec<bool> = chunks
            .map(|n| case.copied.iter().any(|r| r.contains(&n)))
            .collect();
        assert_eq!(
            bytes_of_chunks(&disk(c, 0), &case.legs[0]),
            [0xaa; 240],
            "{}: first leg",
            case.name
        );
        let second = bytes_of_chunks(&disk(c, 1), &case.legs[1]);
        let copied: Vec<bool> = second.iter().map(|&byte| byte == 0xaa).collect();
        assert_eq!(copied, expected, "{}: {log}", case.name);
        for (l, leg) in case.legs.iter().enumerate() {
            check_after(&disk(c, l), leg, case.name);
        }
    }
}

/// What the kernel left behind is a clean mirror of two legs with nothing marked, with our identities.
fn check_after(disk: &Path, leg: &FormattedLeg, name: &str) {
    let raw = fs::read(disk).unwrap();
    let superblock = Superblock::decode(&raw[4096..8192]).unwrap();
    assert!(superblock.is_clean() && superblock.is_in_sync(), "{name}");
    assert_eq!(superblock.array_state(), "AA", "{name}");
    assert_eq!(superblock.device_uuid, leg.superblock.device_uuid, "{name}");
    assert_eq!(superblock.name(), leg.superblock.name(), "{name}");
    let bitmap = BitmapSuperblock::decode(&raw[8192..]).unwrap();
    let trust = bitmap.trust(&superblock).unwrap();
    assert_eq!(trust, netraid::md::bitmap::Trust::Complete, "{name}");
    assert_eq!(
        bitmap.decode_bits(&raw[8192..]).unwrap().count(),
        0,
        "{name}"
    );
    let records = leg.layout.records.unwrap();
    for at in records {
        assert_eq!(
            raw[at as usize..at as usize + 4096],
            [0x5e; 4096],
            "{name}: record"
        );
    }
}

fn fill(disk: &Path, leg: &FormattedLeg, byte: u8) {
    let file = File::options().write(true).open(disk).unwrap();
    file.write_all_at(&vec![byte; 15 * MIB as usize], leg.layout.data)
        .unwrap();
    for at in leg.layout.records.unwrap() {
        file.write_all_at(&[0x5e; 4096], at).unwrap();
    }
}

/// The one byte that each chunk of a leg is full of.
fn bytes_of_chunks(disk: &Path, leg: &FormattedLeg) -> Vec<u8> {
    let raw = fs::read(disk).unwrap();
    let data = &raw[leg.layout.data as usize..][..15 * MIB as usize];
    let chunks = data.chunks(CHUNK as usize).enumerate();
    chunks
        .map(|(n, chunk)| {
            assert!(
                chunk.iter().all(|byte| byte == &chunk[0]),
                "chunk {n} is half copied"
            );
            chunk[0]
        })
        .collect()
}

/// Runs the kernel until it halts, at most two minutes; returns what it said.
fn boot(linux: &Path, work: &Path, cases: &[Case]) -> String {
    let letter = |n: usize| char::from(b'a' + n as u8);
    let mirrors: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(n, c)| {
            format!(
                "{}:{}:{}:{}",
                c.name,
                c.kind,
                letter(2 * n),
                letter(2 * n + 1)
            )
        })
        .collect();
    let init = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/md/assemble.sh");
    let mut command = Command::new("timeout");
    command.arg("120").arg(linux).args([
        "mem=256M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "rw",
        "con=null",
        "con0=null,fd:1",
        "ssl=null",
        "quiet",
    ]);
    command.arg(format!("init={}", init.display()));
    for n in 0..2 * cases.len() {
        command.arg(format!(
            "ubd{n}={}",
            work.join(format!("disk{n}")).display()
        ));
    }
    command.arg(format!("mirrors={}", mirrors.join(",")));
    command.arg(format!("work={}", work.display()));
    // The kernel keeps the memory of its guest in a file there.
    command.env("TMPDIR", work).stdin(Stdio::null());
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn last_line(text: &str) -> &str {
    text.lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing")
}

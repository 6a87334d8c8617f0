//! Trims and zeroing while a resync runs: the legs are equal afterwards, and a disk that was thin still is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytes::Bytes;
use nbd_protocol::command::Command;

use crate::application::Application;
use crate::cluster::MIB;
use crate::node::{PATIENCE, TAG};
use crate::resyncs::{bound, in_the_middle};

/// Bytes of a disk that take up space.
fn allocated(disk: &Path) -> u64 {
    fs::metadata(disk).unwrap().blocks() * 512
}

#[test]
fn trims_and_zeroing_that_overlap_a_resync_leave_the_legs_equal_and_thin() {
    // 12 MiB were written, and go to server2 slowly.
    let cluster = in_the_middle();
    let [server1, server2] = [&cluster.nodes[0], &cluster.nodes[1]];
    let written = allocated(&server1.disk());
    let link = Application::open(&server1.device(TAG)).unwrap();
    let mib = MIB * 4096;
    // Before, at and behind where the resync is; none begins at a chunk, and writes fall into what was just zeroed.
    for turn in 0..4 {
        let (offset, length) = (turn * mib + 3 * 4096, mib - 5 * 4096);
        let zero = match turn % 2 {
            0 => Command::Trim {
                offset,
                length,
                fua: false,
            },
            _ => Command::WriteZeroes {
                offset,
                length,
                fua: false,
                no_hole: false,
                fast: false,
            },
        };
        link.run(zero, PATIENCE).unwrap();
        let write = Command::Write {
            offset: offset + 70_000,
            data: Bytes::from(vec![turn as u8 + 1; 5000]),
            fua: false,
        };
        link.run(write, PATIENCE).unwrap();
    }
    // Nothing is written into this any more.
    let empty = 5 * mib + 4096;
    let trimmed = 6 * mib;
    let trim = Command::Trim {
        offset: empty,
        length: trimmed,
        fua: false,
    };
    link.run(trim, PATIENCE).unwrap();
    let read = Command::Read {
        offset: 4 * mib + 3 * 4096,
        length: 70_000,
    };
    let answer = link.run(read, PATIENCE).unwrap();
    assert!(format!("{answer:?}").len() > 1000, "{answer:?}");
    link.run(Command::Flush, PATIENCE).unwrap();
    server1.sees(&["Source", "Resyncing"]);
    link.close();
    bound(&cluster, 500_000);
    server1.sees(&["Source", "Target"]);
    server2.sees(&["Source", "Target"]);
    cluster.legs_equal(&[0, 1]);

    let data = server2.data();
    for turn in 0..4usize {
        let offset = turn * mib as usize + 3 * 4096;
        let zeroed = &data[offset..offset + mib as usize - 5 * 4096];
        let write = 70_000..75_000;
        for (at, byte) in zeroed.iter().enumerate() {
            let wanted = if write.contains(&at) {
                turn as u8 + 1
            } else {
                0
            };
            assert_eq!(*byte, wanted, "byte {} of the mirror", offset + at);
        }
    }
    let empty = &data[empty as usize..(empty + trimmed) as usize];
    assert!(empty.iter().all(|byte| *byte == 0));
    // A piece of the resync at either edge may be written as a whole. A file system that can't make holes keeps neither thin.
    let [source, target] = [server1, server2].map(|node| allocated(&node.disk()));
    if source < written {
        let most = written - trimmed + 2 * mib;
        assert!(
            source <= most && target <= most,
            "of {written} bytes {trimmed} were trimmed; the target takes up {target}, the source {source}"
        );
    }
}

//! Tests of the file device: real files, holes, slow disks, lost writes.

use std::sync::mpsc;

use super::*;
use crate::batch::set_may_wait;

fn device(size: u64) -> (tempfile::TempDir, std::path::PathBuf, FileDevice) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    File::create(&path).unwrap().set_len(size).unwrap();
    let device = FileDevice::open(&path, false).unwrap();
    (directory, path, device)
}

fn run(device: &FileDevice, command: Command) -> Outcome {
    let (report, outcome) = mpsc::channel();
    device.submit(
        command,
        Completion::new(move |outcome| report.send(outcome).unwrap()),
    );
    outcome.recv().unwrap()
}

fn write(offset: u64, data: &[u8], fua: bool) -> Command {
    Command::Write {
        offset,
        data: Bytes::copy_from_slice(data),
        fua,
    }
}

#[test]
fn commands_do_the_same_here_and_on_a_worker() {
    let (_directory, path, device) = device(8 << 20);
    for wait in [false, true] {
        set_may_wait(wait);
        for slow in [false, true] {
            let until = if slow { u64::MAX } else { 0 };
            device.inner.slow_until.store(until, Ordering::Relaxed);
            let fill = u8::from(wait) * 2 + u8::from(slow) + 1;
            for (length, fua) in [(4096, false), (LONG, false), (4096, true), (3 << 20, true)] {
                assert_eq!(
                    run(&device, write(100, &vec![fill; length], fua)),
                    Ok(Answer::Done)
                );
                let read = Command::Read {
                    offset: 100,
                    length: length as u32,
                };
                assert_eq!(
                    run(&device, read),
                    Ok(Answer::Data(vec![fill; length].into()))
                );
            }
            assert_eq!(run(&device, Command::Flush), Ok(Answer::Done));
            for command in [
                Command::Trim {
                    offset: 0,
                    length: 2 << 20,
                    fua: true,
                },
                Command::WriteZeroes {
                    offset: 0,
                    length: 4096,
                    fua: false,
                    no_hole: true,
                    fast: false,
                },
                Command::Cache {
                    offset: 0,
                    length: 4 << 20,
                },
            ] {
                assert_eq!(run(&device, command), Ok(Answer::Done));
            }
            assert_eq!(std::fs::read(&path).unwrap()[..8192], [0; 8192]);
        }
    }
    set_may_wait(false);
}

#[test]
fn a_file_that_has_become_shorter_fails_reads_instead_of_inventing_bytes() {
    let (_directory, path, device) = device(1 << 20);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let failure = run(
        &device,
        Command::Read {
            offset: 0,
            length: 8192,
        },
    )
    .unwrap_err();
    assert_eq!(failure.errno, Errno::EIO);
    assert!(failure.why.contains("shorter"), "{failure}");
}

#[test]
fn after_one_lost_write_no_flush_succeeds_any_more() {
    let (_directory, _path, device) = device(1 << 20);
    device.inner.lost_writes.store(true, Ordering::Release);
    assert_eq!(run(&device, Command::Flush).unwrap_err().errno, Errno::EIO);
    assert_eq!(
        run(&device, write(0, b"x", true)).unwrap_err().errno,
        Errno::EIO
    );
    assert_eq!(run(&device, write(0, b"x", false)), Ok(Answer::Done));
}

#[test]
fn a_failed_flush_is_noted_in_a_file() {
    let (directory, _path, device) = device(4096);
    let note = directory.path().join("lost");
    device.note_lost_writes(note.clone());
    assert_eq!(run(&device, Command::Flush), Ok(Answer::Done));
    assert!(!note.exists());
    device.inner.lose_writes();
    assert!(note.exists());
    assert_eq!(run(&device, Command::Flush).unwrap_err().errno, Errno::EIO);
}

#[test]
fn a_path_is_exported_once_or_several_times_read_only() {
    let (_directory, path, device) = device(4096);
    let in_use =
        |result: Result<FileDevice, OpenError>| matches!(result, Err(OpenError::InUse { .. }));
    assert!(in_use(FileDevice::open(&path, false)) && in_use(FileDevice::open(&path, true)));
    drop(device);
    let _one = FileDevice::open(&path, true).unwrap();
    let _two = FileDevice::open(&path, true).unwrap();
    assert!(in_use(FileDevice::open(&path, false)));
}

#[test]
fn a_disk_full_of_holes_and_data_is_described_piece_by_piece() {
    let (_directory, _path, device) = device(64 << 20);
    for piece in 0..1200u64 {
        let inner = &device.inner;
        inner.write(piece * 32768, &[1; 4096]).unwrap();
    }
    let status = |offset, length, one| match run(
        &device,
        Command::BlockStatus {
            offset,
            length,
            one,
            context: 0,
        },
    ) {
        Ok(Answer::Extents(extents)) => extents,
        other => panic!("{other:?}"),
    };
    let many = status(0, 64 << 20, false);
    assert_eq!(many.len(), 1024, "one answer is bounded");
    assert!(many.iter().all(|extent| extent.length > 0));
    assert!(
        many.chunks(2)
            .all(|pair| pair[0].status == 0 && pair[1].status == 3)
    );
    assert_eq!(status(0, 64 << 20, true).len(), 1);
    let last = status(63 << 20, 1 << 20, false);
    assert_eq!(
        last,
        [nbd_protocol::command::Extent {
            length: 1 << 20,
            status: 3
        }]
    );
}

//! An application that knows what it was promised: it makes files durable one after the other, and tells of each one
//! only then. What was told before a power loss must be there after it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::job::Job;
use crate::node::Node;
use crate::wait::wait_until;

/// Files that are replaced in turn.
const FILES: u64 = 200;

/// Each file is written beside its place, made durable, moved to its place, and the move made durable. Only then its
/// number is told.
const WRITER: &str = r#"
import os, random, sys
folder, number, files = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
place = os.open(folder, os.O_RDONLY)
while True:
    number += 1
    file = os.open(f"{folder}/new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(file, b"%016d" % number + random.Random(number).randbytes(random.Random(number).randrange(20000)))
    os.fsync(file)
    os.close(file)
    os.rename(f"{folder}/new", f"{folder}/{number % files}")
    os.fsync(place)
    print(number, flush=True)
"#;

/// What was written after the last number that was told may be there, too.
const CHECKER: &str = r#"
import random, sys
folder, last, files = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(max(1, last - files + 1), last + 1):
    found = open(f"{folder}/{number % files}", "rb").read()
    told = int(found[:16])
    assert told >= number and (told - number) % files == 0, f"file {number % files} is number {told}, not {number}"
    assert found[16:] == random.Random(told).randbytes(random.Random(told).randrange(20000)), f"number {told} is damaged"
"#;

/// The application at work.
#[derive(Debug)]
pub struct Writer {
    job: Job,
    before: u64,
}

impl Writer {
    /// Begins to write below a folder of a node, from the number after `before`.
    ///
    /// # Errors
    /// The node is off.
    pub fn start(node: &Node, folder: &str, before: u64) -> Result<Writer> {
        let job = node.spawn(&format!(
            "mkdir -p {folder} && sync && exec python3 -c '{WRITER}' {folder} {before} {FILES}"
        ))?;
        Ok(Writer { job, before })
    }

    /// The highest number that was told; all below it were told too.
    ///
    /// # Errors
    /// What the application wrote is no number.
    pub fn told(&self) -> Result<u64> {
        let output = self.job.output();
        ensure!(output.stderr.is_empty(), "the writer: {}", output.stderr);
        // The last line may have been cut short.
        let whole = output
            .stdout
            .rsplit_once('\n')
            .map_or("", |(whole, _)| whole);
        match whole.lines().last() {
            None => Ok(self.before),
            Some(line) => line
                .parse()
                .with_context(|| format!("the writer told {line:?}")),
        }
    }

    /// Waits until so many more writes were told.
    ///
    /// # Errors
    /// They were not within the deadline, or the application failed.
    pub fn wait_more(&self, count: u64, deadline: Duration) -> Result<()> {
        let goal = self.told()? + count;
        wait_until(deadline, "the application gets on", || {
            Ok((self.told()? >= goal).then_some(()))
        })
    }

    /// Ends the application. The highest number that was told.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(self) -> Result<u64> {
        self.job.kill()?;
        self.told()
    }
}

/// Fails unless every file is as it was told, up to the number `last`.
///
/// # Errors
/// One is not.
pub fn check(node: &Node, folder: &str, last: u64) -> Result<()> {
    let command = format!("python3 -c '{CHECKER}' {folder} {last} {FILES}");
    node.must(&command).map(drop)
}

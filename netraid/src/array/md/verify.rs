//! Verify of a mirror that the kernel runs: the legs are compared by digests while it is in use, by a thread of netraidd.
//!
//! - `walk`: in which order, and what counts as a difference; knows no disk.
//! - `legs`: this node's disk and the targets' exports.
//! - `hold`: keeps writes out of what is read byte by byte.
//! - `repair`: makes equal what differs, by md's own resync.
//!
//! What is compared and found is kept here as long as the daemon lives. Nothing is marked without `--repair`: md would begin
//! to copy what is marked as soon as anything else happened to the array.

mod hold;
mod legs;
mod repair;
mod walk;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::sysfs;
use super::{MdArray, slot_of};
use crate::array::leg::Leg;
use crate::array::{ArrayError, VerifyRequest};
use crate::md::DirtyBits;
use crate::raid1::engine::MOST_DIFFERENCES;
use crate::status::{VerifyDifference, VerifyStatus};
use legs::{Ending, Legs, Way};
use walk::News;

/// The verifies of this process, the last of each mirror: by where its machine's sysfs is, and the tag.
static LAST: Mutex<BTreeMap<(PathBuf, String), Arc<Run>>> = Mutex::new(BTreeMap::new());

/// One verify, under way or over.
struct Run {
    found: Mutex<Found>,
    ending: Arc<Ending>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What it has to say.
struct Found {
    status: VerifyStatus,
    began: Instant,
    /// Bytes that differ and were not copied, by target.
    differing: Vec<u64>,
    /// Chunks with a difference, if they are to be copied.
    chunks: Option<(DirtyBits, u64)>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    fn is_running(&self) -> bool {
        let thread = locked(&self.thread);
        let over = thread.as_ref().is_some_and(JoinHandle::is_finished);
        let running = || locked(&self.found).status.state == RUNNING;
        if over && running() {
            self.end(Err(PANICKED.into()));
        }
        running()
    }

    fn hear(&self, news: News) {
        locked(&self.found).hear(news);
    }

    fn end(&self, result: Result<(), String>) {
        let mut found = locked(&self.found);
        let status = &mut found.status;
        status.ended_ms = Some(wall_clock());
        match result {
            Ok(()) => status.state = "done".into(),
            Err(why) => {
                status.state = "interrupted".into();
                status.why = Some(why);
            }
        }
        found.tick();
    }
}

impl Found {
    fn hear(&mut self, news: News) {
        let status = &mut self.status;
        match news {
            News::Looked { position, bytes } => {
                status.position = position;
                status.checked += bytes;
                self.tick();
            }
            News::Differs { target, range } => {
                let bytes = range.end - range.start;
                status.differing += bytes;
                if let Some(sum) = self.differing.get_mut(target) {
                    *sum += bytes;
                }
                if let Some((chunks, chunk)) = &mut self.chunks {
                    chunks.set_range(range.start / *chunk..range.end.div_ceil(*chunk));
                }
                let Some(node) = status.targets.get(target).cloned() else {
                    return;
                };
                let full = status.differences.len() >= MOST_DIFFERENCES;
                let last = status.differences.last_mut();
                match last
                    .filter(|last| last.node == node && last.offset + last.length == range.start)
                {
                    Some(last) => last.length += bytes,
                    None if full => status.more_differences = true,
                    None => status.differences.push(VerifyDifference {
                        node,
                        offset: range.start,
                        length: bytes,
                    }),
                }
            }
        }
    }

    fn tick(&mut self) {
        let status = &mut self.status;
        let elapsed = self.began.elapsed().as_millis();
        status.elapsed_ms = u64::try_from(elapsed).unwrap_or(u64::MAX);
        status.speed = status.checked.saturating_mul(1000) / status.elapsed_ms.max(1);
        status.percent = match status.stop.saturating_sub(status.start) {
            0 => 100.0,
            whole => status.checked as f64 * 100.0 / whole as f64,
        };
    }
}

impl MdArray {
    fn key(&self) -> (PathBuf, String) {
        (self.machine.sysfs.clone(), self.tag.clone())
    }

    fn last_verify(&self) -> Option<Arc<Run>> {
        locked(&LAST).get(&self.key()).cloned()
    }

    /// Begins one; `ways` are the targets' exports, by node.
    pub(super) fn begin_verify(
        &self,
        request: &VerifyRequest,
        ways: &[(String, String)],
    ) -> Result<(), ArrayError> {
        let before = self.last_verify();
        if before.as_ref().is_some_and(|run| run.is_running()) {
            return Err(ArrayError::refused("a verify is under way already"));
        }
        self.check_local()?;
        let local = self.local_leg()?;
        let range = range(request, local.size())?;
        let targets = self.targets(request, &local, ways)?;
        if request.repair
            && let Some(why) = self.repair_refusal()?
        {
            let hint = "netraid verify without --repair tells what differs; netraid fullresync copies everything";
            return Err(ArrayError::refused_with(why, hint));
        }
        let chunks = local.bitmap.as_ref().filter(|_| request.repair);
        let run = Arc::new(Run {
            found: Mutex::new(Found {
                began: Instant::now(),
                differing: vec![0; targets.len()],
                chunks: chunks.map(|bitmap| {
                    let header = &bitmap.header;
                    let all = DirtyBits::all_clean(header.chunks());
                    (all, u64::from(header.chunk).max(1))
                }),
                status: VerifyStatus {
                    number: before.map_or(0, |run| locked(&run.found).status.number) + 1,
                    state: RUNNING.into(),
                    why: None,
                    targets: targets.iter().map(|way| way.node.clone()).collect(),
                    start: range.start,
                    stop: range.end,
                    position: range.start,
                    checked: 0,
                    percent: 0.0,
                    speed: 0,
                    rate: request.rate,
                    differing: 0,
                    differences: Vec::new(),
                    more_differences: false,
                    repair: request.repair,
                    began_ms: wall_clock(),
                    ended_ms: None,
                    elapsed_ms: 0,
                },
            }),
            ending: Arc::default(),
            thread: Mutex::default(),
        });
        let (array, inner, rate) = (self.clone(), Arc::clone(&run), request.rate);
        let thread = thread::Builder::new()
            .name(format!("verify-{}", self.tag))
            .spawn(move || {
                let result = verify(array, &local, targets, range, rate, &inner);
                if let Err(why) = &result {
                    tracing::warn!("a verify was interrupted: {why}");
                }
                inner.end(result);
            })
            .map_err(|error| ArrayError::Failed(format!("no thread can be started: {error}")))?;
        *locked(&run.thread) = Some(thread);
        locked(&LAST).insert(self.key(), run);
        Ok(())
    }

    /// The legs to compare: those of the request that are in sync.
    fn targets(
        &self,
        request: &VerifyRequest,
        local: &Leg,
        ways: &[(String, String)],
    ) -> Result<Vec<Way>, ArrayError> {
        for node in &request.nodes {
            slot_of(local, node)?;
        }
        let mut targets = Vec::new();
        let names = local.names();
        for member in self.view()?.members {
            let Some(slot) = member.slot.filter(|_| member.is("in_sync")) else {
                continue;
            };
            if member.is("faulty") || member.path(&self.machine.dev) == self.local {
                continue;
            }
            let node = names.get(slot).map(ToString::to_string).unwrap_or_default();
            if !request.nodes.is_empty() && !request.nodes.contains(&node) {
                continue;
            }
            let way = ways.iter().find(|(name, _)| *name == node);
            let (_, uri) = way.ok_or_else(|| {
                ArrayError::refused(format!(
                    "{node} has told no way in yet: its netraidd can't be reached"
                ))
            })?;
            targets.push(Way {
                node,
                slot,
                member: member.name,
                uri: uri.clone(),
            });
        }
        match targets.is_empty() {
            true => Err(ArrayError::refused("no such leg is in sync")),
            false => Ok(targets),
        }
    }

    /// Ends the one that is under way, and waits until it has.
    pub(super) fn end_verify(&self, why: &str) {
        if let Some(run) = self.last_verify() {
            run.ending.say(why);
            let thread = locked(&run.thread).take();
            if thread.is_some_and(|thread| thread.join().is_err()) {
                run.end(Err(PANICKED.into()));
            }
        }
    }

    /// Nothing is remembered of a mirror that was stopped.
    pub(super) fn forget_verify(&self) {
        locked(&LAST).remove(&self.key());
    }

    /// All of a leg was copied: what was found there before counts no more.
    pub(super) fn forget_differences(&self, node: &str) {
        if let Some(run) = self.last_verify() {
            let mut found = locked(&run.found);
            let place = found.status.targets.iter().position(|name| name == node);
            if let Some(sum) = place.and_then(|place| found.differing.get_mut(place)) {
                *sum = 0;
            }
        }
    }

    /// What the last one says, and bytes that it found to differ and that were not copied since, by node.
    pub(super) fn verify_status(&self) -> (Option<VerifyStatus>, Vec<(String, u64)>) {
        let Some(run) = self.last_verify() else {
            return (None, Vec::new());
        };
        let running = run.is_running();
        let mut found = locked(&run.found);
        if running {
            found.tick();
        }
        let nodes = found.status.targets.iter().cloned();
        let differing = nodes.zip(found.differing.iter().copied()).collect();
        (Some(found.status.clone()), differing)
    }

    /// Lets go of what a daemon held that died, unless a verify of this one holds it.
    pub(super) fn let_go(&self) -> Result<(), ArrayError> {
        if self.last_verify().is_some_and(|run| run.is_running()) {
            return Ok(());
        }
        let folder = sysfs::folder(&self.machine.sysfs, &self.name);
        match hold::let_go(&folder) {
            Ok(true) => {
                tracing::warn!(
                    tag = self.tag,
                    "writes had been held by a verify whose daemon died"
                );
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => Err(ArrayError::Failed(format!(
                "{}/suspend_hi holds writes, and can't be set to 0: {error}",
                folder.display()
            ))),
        }
    }
}

/// What is to be compared, in whole units.
fn range(request: &VerifyRequest, size: u64) -> Result<Range<u64>, ArrayError> {
    let stop = request.stop.unwrap_or(size).min(size);
    if request.start >= stop {
        let why = format!(
            "there is nothing from byte {} on up to byte {stop}",
            request.start
        );
        return Err(ArrayError::refused(why));
    }
    let end = stop
        .checked_next_multiple_of(UNIT)
        .unwrap_or(size)
        .min(size);
    Ok(request.start - request.start % UNIT..end)
}

/// The thread.
fn verify(
    array: MdArray,
    local: &Leg,
    targets: Vec<Way>,
    range: Range<u64>,
    rate: u64,
    run: &Run,
) -> Result<(), String> {
    let count = targets.len();
    let mut legs = Legs::open(array.clone(), local, targets, Arc::clone(&run.ending))?;
    let tell = &mut |news| run.hear(news);
    let walked = walk::walk(&mut legs, range, count, rate, tell);
    // What was found is made equal, also if it did not get to its end by itself.
    run.ending.wait(std::time::Duration::ZERO)?;
    let chunks = locked(&run.found).chunks.take();
    let Some((chunks, chunk)) = chunks.filter(|(chunks, _)| !chunks.is_clean()) else {
        return walked;
    };
    // Nothing may stay held while md copies, which can take long: if it could not be let go before, it is tried again.
    let folder = sysfs::folder(&array.machine.sysfs, &array.name);
    hold::let_go(&folder).map_err(|error| format!("writes are still held: {error}"))?;
    array.copy_chunks(&chunks, &run.ending)?;
    let mut left = 0;
    for chunks in chunks.ranges() {
        let range = chunks.start * chunk..(chunks.end * chunk).min(local.size());
        walk::walk(&mut legs, range, count, rate, &mut |news| {
            if let News::Differs { range, .. } = news {
                left += range.end - range.start;
            }
        })?;
    }
    if left > 0 {
        return Err(format!("{left} bytes differ still after they were copied"));
    }
    locked(&run.found).differing.fill(0);
    walked
}

fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

const RUNNING: &str = "running";
const PANICKED: &str = "it ended without a word";
/// What differs is told in units of so many bytes.
const UNIT: u64 = 4096;

#[cfg(test)]
mod tests;

//! A mirror at work: the engine under a lock, with real legs around it; itself a block device.
//!
//! Whoever brings news (a request of the application, a reply of a leg, the clock) takes the lock, lets the engine
//! decide, lets go of the lock, and performs what the engine asked for. What that causes on the same thread is queued
//! and taken up by the same loop, so that nothing is called recursively and many events share one lock and one send.

mod orders;
mod sequence;
mod steps;
mod verifying;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nbd_protocol::command::{Answer, Command, Completion, Errno, Extent, Failure, Outcome};
use nbd_server::device::{BlockDevice, Geometry};

use crate::raid1::engine::{
    DIGESTS, Effect, Engine, Event, OperationId, Order, Progress, RequestId, Shape, Update,
};
use crate::raid1::leg::{LegImage, Slot};
use crate::raid1::link::Link;
use crate::raid1::metadata::Metadata;
pub use verifying::VerifyTimes;

/// One attached leg.
struct Attached {
    link: Link,
    metadata: Mutex<Metadata>,
    data: u64,
    /// What goes to a leg that keeps order.
    sequence: Mutex<sequence::Sequence>,
}

/// What one look at the engine tells.
pub struct View<'a> {
    /// The engine itself.
    pub engine: &'a Engine,
    /// The last resync that ended.
    pub last_resync: Option<crate::status::ResyncEnd>,
    /// When the last verify was.
    pub verify_times: VerifyTimes,
    /// How many were begun.
    pub verifies: u64,
}

struct Core {
    engine: Engine,
    requests: HashMap<RequestId, Completion>,
    next_request: RequestId,
    /// Progress as last seen, to notice the end of a resync.
    resync: Option<Progress>,
    resyncs: u64,
    last_resync: Option<crate::status::ResyncEnd>,
    verify_times: VerifyTimes,
    verifies: u64,
    stopped: bool,
    /// Counts the changes that somebody may wait for.
    changes: u64,
}

/// Told that the leg in a slot was cut off, and why.
pub type OnExpel = Box<dyn Fn(Slot, &str) + Send + Sync>;

/// A mirror whose source is this node.
pub struct Mirror {
    array: crate::md::MdUuid,
    slots: usize,
    local: Slot,
    began: Instant,
    core: Mutex<Core>,
    stopped: Condvar,
    changed: Condvar,
    legs: Vec<Mutex<Option<Arc<Attached>>>>,
    /// Told that the leg in a slot was cut off, and why.
    on_expel: OnExpel,
}

impl Mirror {
    /// Puts `engine` to work on its local leg, which was read from `link`.
    pub fn start(engine: Engine, link: Link, metadata: Metadata, on_expel: OnExpel) -> Arc<Mirror> {
        let (shape, local) = (engine.shape(), engine.local());
        let legs = (0..shape.slots).map(|_| Mutex::new(None)).collect();
        let core = Core {
            engine,
            requests: HashMap::new(),
            next_request: 0,
            resync: None,
            resyncs: 0,
            last_resync: None,
            verify_times: VerifyTimes::default(),
            verifies: 0,
            stopped: false,
            changes: 0,
        };
        let mirror = Arc::new(Mirror {
            array: metadata.array(),
            slots: shape.slots,
            local,
            began: Instant::now(),
            core: Mutex::new(core),
            stopped: Condvar::new(),
            changed: Condvar::new(),
            legs,
            on_expel,
        });
        mirror.put(local, link, metadata);
        mirror.drive([Event::Tick]);
        mirror
    }

    /// Size and division, as they are now.
    pub fn shape(&self) -> Shape {
        self.lock().engine.shape()
    }

    /// Gives the mirror a leg that was connected and whose metadata was read (or just made, with no image).
    ///
    /// Whether it is taken shows in the leg's state; a refused one is cut off with a reason.
    pub fn attach(
        self: &Arc<Self>,
        slot: Slot,
        link: Link,
        metadata: Metadata,
        image: Option<LegImage>,
    ) {
        self.put(slot, link, metadata);
        self.drive([Event::Attach { slot, image }]);
    }

    /// Says that a leg's connection is gone.
    pub fn lost(self: &Arc<Self>, slot: Slot, reason: String) {
        self.drive([Event::Lost { slot, reason }]);
    }

    /// Whether a leg is attached in `slot`, and why not any more if its connection has died.
    pub fn link(&self, slot: Slot) -> Option<Link> {
        self.attached(slot).map(|attached| attached.link.clone())
    }

    /// Lets time pass; to be called a few times a second.
    pub fn tick(self: &Arc<Self>) {
        self.drive([Event::Tick]);
    }

    /// Stops or continues copying.
    pub fn pause_resync(self: &Arc<Self>, paused: bool) {
        self.drive([Event::PauseResync(paused), Event::Tick]);
    }

    /// Finishes what was accepted and makes every leg clean; false if that took longer than `patience`.
    pub fn stop(self: &Arc<Self>, patience: Duration) -> bool {
        self.drive([Event::Stop]);
        let deadline = Instant::now() + patience;
        let mut core = self.lock();
        while !core.stopped {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // The ticker goes on meanwhile, so that a leg that does not answer is expelled.
            let waited = self
                .stopped
                .wait_timeout(core, left)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            core = waited.0;
        }
        drop(core);
        for leg in &self.legs {
            if let Some(attached) = lock(leg).take() {
                attached.link.close();
            }
        }
        true
    }

    /// Looks at the engine; nothing happens meanwhile, so `look` must be quick.
    pub fn view<R>(&self, look: impl FnOnce(View<'_>) -> R) -> R {
        let core = self.lock();
        look(View {
            engine: &core.engine,
            last_resync: core.last_resync.clone(),
            verify_times: core.verify_times,
            verifies: core.verifies,
        })
    }

    /// Wraps the completions of a leg's batch of replies: what they cause is done together at its end.
    pub fn around_batch(mirror: &std::sync::Weak<Mirror>) -> nbd_client::connection::AroundBatch {
        let mirror = mirror.clone();
        Arc::new(move |run: &mut dyn FnMut()| match mirror.upgrade() {
            Some(mirror) => mirror.gather(run),
            None => run(),
        })
    }

    fn put(&self, slot: Slot, link: Link, metadata: Metadata) {
        let data = metadata.data_offset();
        *lock(&self.legs[slot.number()]) = Some(Arc::new(Attached {
            link,
            metadata: Mutex::new(metadata),
            data,
            sequence: Mutex::default(),
        }));
    }

    fn attached(&self, slot: Slot) -> Option<Arc<Attached>> {
        self.legs
            .get(slot.number())
            .and_then(|leg| lock(leg).clone())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    // --- the loop -----------------------------------------------------------------------------------------------

    /// Takes up `events` and everything that they cause on this thread.
    fn drive(self: &Arc<Self>, events: impl IntoIterator<Item = Event>) {
        QUEUE.with_borrow_mut(|queue| {
            queue.extend(
                events
                    .into_iter()
                    .map(|event| (Arc::clone(self), News::Event(event))),
            );
        });
        self.gather(&mut || {});
    }

    /// Runs `run`, and takes up what it and its consequences queued. Nested calls leave that to the outermost.
    fn gather(self: &Arc<Self>, run: &mut dyn FnMut()) {
        if GATHERING.replace(true) {
            run();
            return;
        }
        // Replies to the application go out together as well.
        nbd_server::batch(|| {
            let _scope = Scope;
            run();
            take_up_queue();
        });
    }

    fn apply(self: &Arc<Self>, news: &mut VecDeque<News>, effects: &mut Vec<Effect>) {
        let now = self.now();
        let mut core = self.lock();
        let before = core.engine.stamp();
        for item in news.drain(..) {
            let event = match item {
                News::Event(event) => event,
                News::Request(command, completion) => {
                    let request = core.next_request;
                    core.next_request += 1;
                    core.requests.insert(request, completion);
                    Event::Submit { request, command }
                }
            };
            core.engine.handle(event, now, effects);
        }
        core.notice_end_of_resync();
        core.notice_end_of_verify();
        if core.engine.stamp() != before {
            core.changes += 1;
            self.changed.notify_all();
        }
    }

    /// Performs `effects`. What goes to the local disk comes last: it may be done on this very thread, and what takes
    /// its time there had better travel to the other legs meanwhile.
    fn perform(self: &Arc<Self>, effects: &mut Vec<Effect>, touched: &mut Vec<Link>) {
        let mut local = Vec::new();
        let mut heavy = false;
        for effect in effects.drain(..) {
            match effect {
                Effect::Leg {
                    slot, ref command, ..
                } if slot == self.local => {
                    heavy |= takes_time(command);
                    local.push(effect);
                }
                Effect::Metadata { slot, .. } if slot == self.local => {
                    heavy = true;
                    local.push(effect);
                }
                other => self.perform_one(other, touched),
            }
        }
        if heavy {
            touched.drain(..).for_each(|link| link.kick());
        }
        for effect in local {
            self.perform_one(effect, touched);
        }
    }

    fn perform_one(self: &Arc<Self>, effect: Effect, touched: &mut Vec<Link>) {
        match effect {
            Effect::Leg {
                operation,
                slot,
                command,
                order,
            } => self.to_leg(operation, slot, order, command, touched),
            Effect::Metadata {
                operation,
                slot,
                update,
                order: None,
            } => self.to_metadata(operation, slot, &update),
            Effect::Metadata {
                operation,
                slot,
                update,
                order: Some(order),
            } => self.to_metadata_in_order(operation, slot, order, update, touched),
            Effect::Answer { request, outcome } => {
                let completion = self.lock().requests.remove(&request);
                if let Some(completion) = completion {
                    completion.complete(outcome);
                }
            }
            Effect::Expel { slot, reason } => self.expel(slot, &reason),
            Effect::Stopped => {
                self.lock().stopped = true;
                self.stopped.notify_all();
            }
        }
    }

    fn to_leg(
        self: &Arc<Self>,
        operation: OperationId,
        slot: Slot,
        order: Option<Order>,
        command: Command,
        touched: &mut Vec<Link>,
    ) {
        let Some(attached) = self.attached(slot) else {
            return self.done(
                operation,
                Err(Failure::new(Errno::EIO, "the leg is not connected")),
            );
        };
        // Bytes that go to the network travel while the local disk is being written.
        let status = match &command {
            Command::BlockStatus { length, .. } => Some(*length),
            _ => None,
        };
        let mirror = Arc::clone(self);
        let completion = Completion::new(move |outcome| {
            let outcome = match (outcome, status) {
                (Ok(Answer::Extents(extents)), Some(length)) => {
                    Ok(Answer::Extents(clamp(extents, length)))
                }
                (outcome, _) => outcome,
            };
            mirror.done(operation, outcome);
        });
        let command = shifted(command, attached.data);
        match order {
            None => attached.link.submit(command, completion),
            Some(order) => {
                let link = attached.link.clone();
                let send = Box::new(move || link.submit(command, completion));
                lock(&attached.sequence).send(order, send);
            }
        }
        if slot != self.local {
            touch(touched, &attached.link);
        }
    }

    fn expel(&self, slot: Slot, reason: &str) {
        if let Some(attached) = lock(&self.legs[slot.number()]).take() {
            attached.link.abort();
        }
        tracing::warn!(leg = slot.number(), reason, "leg cut off");
        (self.on_expel)(slot, reason);
    }

    fn done(self: &Arc<Self>, operation: OperationId, outcome: Outcome) {
        self.drive([Event::Done { operation, outcome }]);
    }
}

impl Core {
    fn notice_end_of_resync(&mut self) {
        let progress = self.engine.progress();
        if let (Some(before), None) = (self.resync, progress) {
            self.resyncs += 1;
            let totals = self.engine.resync_totals();
            self.last_resync = Some(crate::status::ResyncEnd {
                number: self.resyncs,
                copied: totals.copied,
                sent: totals.sent,
                compared: totals.compared,
                equal: totals.equal,
                elapsed_ms: before.elapsed,
            });
        }
        self.resync = progress;
    }
}

/// A mirror taken as a device by the NBD server.
pub struct MirrorDevice(pub Arc<Mirror>);

impl BlockDevice for MirrorDevice {
    fn geometry(&self) -> Geometry {
        let minimum = Slot::first(self.0.slots).filter_map(|slot| self.0.link(slot));
        Geometry {
            size: self.0.shape().size,
            minimum_block: minimum.map(|link| link.minimum_block()).max().unwrap_or(1),
            preferred_block: 4096,
            read_only: false,
            rotational: false,
            fast_zero: false,
            multi_connection: true,
            contexts: vec!["base:allocation".into(), "x-netraid:dirty".into()],
        }
    }

    /// Of an array that is started again on the same machine, the local leg's page cache has all that was answered.
    fn memory(&self) -> Option<String> {
        Some(format!("array:{}", self.0.array))
    }

    fn submit(&self, command: Command, completion: Completion) {
        QUEUE.with_borrow_mut(|queue| {
            queue.push_back((Arc::clone(&self.0), News::Request(command, completion)));
        });
        if !nbd_server::batch::is_open() {
            self.0.gather(&mut || {});
        }
    }

    fn kick(&self) {
        self.0.gather(&mut || {});
    }
}

enum News {
    Event(Event),
    Request(Command, Completion),
}

/// Ends the gathering, also when something panics.
struct Scope;

impl Drop for Scope {
    fn drop(&mut self) {
        GATHERING.set(false);
    }
}

fn take_up_queue() {
    let (mut news, mut effects, mut touched) = (VecDeque::new(), Vec::new(), Vec::new());
    loop {
        // All that one mirror has on this thread goes through one lock.
        let mirror = QUEUE.with_borrow_mut(|queue| {
            let (mirror, first) = queue.pop_front()?;
            news.push_back(first);
            while queue
                .front()
                .is_some_and(|(next, _)| Arc::ptr_eq(next, &mirror))
            {
                news.extend(queue.pop_front().map(|(_, item)| item));
            }
            Some(mirror)
        });
        let Some(mirror) = mirror else {
            if touched.is_empty() {
                return;
            }
            touched.drain(..).for_each(|link: Link| link.kick());
            continue;
        };
        mirror.apply(&mut news, &mut effects);
        mirror.perform(&mut effects, &mut touched);
    }
}

fn touch(touched: &mut Vec<Link>, link: &Link) {
    let known = |other: &Link| match (other, link) {
        (Link::Remote(one), Link::Remote(two)) => Arc::ptr_eq(one, two),
        _ => false,
    };
    if !touched.iter().any(known) {
        touched.push(link.clone());
    }
}

/// Whether doing this on the local disk may take longer than sending it to the others.
fn takes_time(command: &Command) -> bool {
    match command {
        Command::Write { data, fua, .. } => *fua || data.len() >= WORTH_SENDING_EARLY,
        Command::Flush | Command::WriteZeroes { .. } | Command::Trim { .. } => true,
        Command::Read { .. } | Command::BlockStatus { .. } | Command::Cache { .. } => false,
    }
}

/// The same command `by` bytes further on.
fn shifted(mut command: Command, by: u64) -> Command {
    match &mut command {
        Command::Read { offset, .. }
        | Command::Write { offset, .. }
        | Command::Trim { offset, .. }
        | Command::WriteZeroes { offset, .. }
        | Command::Cache { offset, .. } => *offset += by,
        Command::BlockStatus {
            offset, context, ..
        } => {
            *offset += by;
            if *context != DIGESTS {
                *context = 0;
            }
        }
        Command::Flush => {}
    }
    command
}

/// A leg's disk may go on behind the mirror's end: extents must not.
fn clamp(extents: Vec<Extent>, length: u64) -> Vec<Extent> {
    let mut left = length;
    let cut = extents.into_iter().map_while(|mut extent| {
        extent.length = extent.length.min(left);
        left -= extent.length;
        (extent.length > 0).then_some(extent)
    });
    cut.collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A write of this many bytes is sent to the other legs before the local disk is written.
const WORTH_SENDING_EARLY: usize = 32 << 10;

thread_local! {
    static GATHERING: Cell<bool> = const { Cell::new(false) };
    static QUEUE: RefCell<VecDeque<(Arc<Mirror>, News)>> = const { RefCell::new(VecDeque::new()) };
}

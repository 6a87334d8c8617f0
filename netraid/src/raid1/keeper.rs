//! Keeps a mirror's remote legs connected: one thread a leg connects, reads its metadata, attaches it, and starts over
//! when it is lost.

pub mod order;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nbd_client::connection::WhenFull;
use nbd_client::{Connection, Options, Target};
use nbd_protocol::session::Session;
use nbd_server::file::digest;

use crate::md::MdUuid;
use crate::md::format::{FormattedLeg, NewLeg};
use crate::mirror::generation::SLOTS;
use crate::raid1::holds::holds;
use crate::raid1::leg::{LegImage, LegState, Slot, SlotSet};
use crate::raid1::link::Link;
use crate::raid1::metadata::{Metadata, MetadataError, NodeNames};
use crate::raid1::running::Mirror;

/// What all keepers of a mirror share.
pub struct Keepers {
    mirror: Arc<Mirror>,
    array: MdUuid,
    names: NodeNames,
    leg_timeout: Duration,
    /// Messages to and from the legs are followed by checksums.
    integrity: bool,
    /// For each leg, connections that ended because a message was changed on its way.
    damaged: [Arc<AtomicU64>; SLOTS],
    turns: [Mutex<()>; SLOTS],
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    targets: HashMap<Slot, TargetState>,
    /// Those that are connected again whenever they are lost.
    kept: SlotSet,
    /// Counts connections, so that each session is newer than those before it.
    connections: u64,
    /// When quiet legs were last asked for a sign of life.
    asked: Option<Instant>,
    stopping: bool,
}

impl State {
    fn is_time_to_ask(&mut self) -> bool {
        let now = Instant::now();
        let due = self.asked.is_none_or(|asked| now - asked >= QUIET);
        if due {
            self.asked = Some(now);
        }
        due
    }
}

struct TargetState {
    target: Target,
    /// Why it is not connected.
    problem: Option<String>,
}

/// Why a disk could not be made a leg.
#[derive(Debug, thiserror::Error)]
pub enum ExtendError {
    /// The request itself is wrong, or the state of the mirror or of the disk forbids it.
    #[error("{0}")]
    Refused(String),
    /// The disk could not be reached or read.
    #[error("{0}")]
    Failed(String),
}

impl Keepers {
    /// Prepares to keep the legs of `mirror`, whose local leg has `metadata`. With `integrity` only servers are taken that
    /// offer checksums ([`nbd_protocol::integrity`]).
    pub fn new(
        mirror: Arc<Mirror>,
        metadata: &Metadata,
        leg_timeout: Duration,
        integrity: bool,
    ) -> Arc<Keepers> {
        Arc::new(Keepers {
            mirror,
            array: metadata.array(),
            names: metadata.names(),
            leg_timeout,
            integrity,
            damaged: Default::default(),
            turns: Default::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Names of the nodes, by slot.
    pub fn names(&self) -> &NodeNames {
        &self.names
    }

    /// Identity of the array.
    pub fn array(&self) -> MdUuid {
        self.array
    }

    /// How often the leg's connection ended because a message was changed on its way.
    pub fn damaged(&self, slot: Slot) -> u64 {
        self.damaged[slot.number()].load(Ordering::Relaxed)
    }

    /// The slot of a node.
    pub fn slot_of(&self, node: &str) -> Option<Slot> {
        self.names
            .iter()
            .position(|name| name.as_str() == node)
            .and_then(Slot::new)
    }

    /// Where the leg in `slot` is, and why it is not connected.
    pub fn target(&self, slot: Slot) -> (String, Option<String>) {
        let state = self.lock();
        match state.targets.get(&slot) {
            Some(target) => (target.target.to_string(), target.problem.clone()),
            None => (String::new(), None),
        }
    }

    /// Connects the leg in `slot`, now and whenever it is lost.
    pub fn keep(self: &Arc<Self>, slot: Slot, target: Target) -> std::io::Result<()> {
        let known = TargetState {
            target,
            problem: None,
        };
        let mut state = self.lock();
        state.targets.insert(slot, known);
        if state.kept.contains(slot) {
            return Ok(());
        }
        state.kept.insert(slot);
        drop(state);
        let keepers = Arc::clone(self);
        thread::Builder::new()
            .name(format!("leg-{slot}"))
            .spawn(move || keepers.keep_leg(slot))?;
        Ok(())
    }

    /// Makes the disk behind `target` the leg of `slot`. Writes nothing itself: the mirror does, in its order.
    pub fn extend(
        self: &Arc<Self>,
        slot: Slot,
        target: &Target,
        force: bool,
    ) -> Result<(), ExtendError> {
        let refused = |why: String| Err(ExtendError::Refused(why));
        let failed = |why: String| ExtendError::Failed(why);
        let _turn = self.turn(slot);
        if self.mirror.view(|view| view.engine.state(slot)) != LegState::Absent {
            return refused(format!("{} has a leg already", self.names[slot.number()]));
        }
        if self.mirror.view(|view| view.engine.is_behind(slot)) {
            return refused(order::is_behind(&self.names[slot.number()]));
        }
        let link = self.open(slot, target).map_err(failed)?;
        if link.is_read_only() {
            return refused(format!("{target} is read-only"));
        }
        if !force
            && let Some(found) =
                holds(&link, self.leg_timeout).map_err(|why| failed(why.to_string()))?
        {
            return refused(format!("{target} holds {found}; --force overwrites it"));
        }
        let metadata = self
            .blank_leg(slot, target, &link)
            .map_err(|error| ExtendError::Refused(error.to_string()))?;
        self.mirror.attach(slot, link, metadata, None);
        self.keep(slot, target.clone())
            .map_err(|error| failed(format!("no thread can be started: {error}")))
    }

    /// Metadata for a disk that is to be filled.
    fn blank_leg(
        &self,
        slot: Slot,
        target: &Target,
        link: &Link,
    ) -> Result<Metadata, order::OrderError> {
        let refused = |error: String| order::OrderError::Refused {
            why: format!("{target} can't be a leg: {error}"),
            hint: None,
        };
        let leg = NewLeg {
            device: link.size(),
            uuid: MdUuid(*uuid::Uuid::new_v4().as_bytes()),
            write_mostly: true,
            fail_fast: false,
        };
        let template = self.mirror.template();
        let (superblock, bitmap) =
            &template.ok_or_else(|| refused("this node's own leg has failed".into()))?;
        let (number, place) = (slot.number() as u32, slot.number() as u16);
        let formatted = FormattedLeg::join(superblock, bitmap, number, place, &leg)
            .map_err(|error| refused(error.to_string()))?;
        Metadata::new(formatted, &self.names, slot).map_err(|error| refused(error.to_string()))
    }

    /// A leg was cut off; its keeper may connect again.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    /// Ends all keepers; legs stay as they are.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    fn keep_leg(&self, slot: Slot) {
        let mut pause = FIRST_PAUSE;
        while !self.lock().stopping {
            if let Some(link) = self.mirror.link(slot) {
                match link.lost() {
                    Some(why) => self.mirror.lost(slot, format!("connection lost: {why}")),
                    None => {
                        if self.mirror.view(|view| view.engine.state(slot)) == LegState::InSync {
                            pause = FIRST_PAUSE;
                        }
                        self.sleep(LOOK);
                    }
                }
                continue;
            }
            let problem = self.connect(slot).err();
            let connected = problem.is_none();
            if let Some(state) = self.lock().targets.get_mut(&slot) {
                state.problem = problem;
            }
            if !connected || self.mirror.link(slot).is_none() {
                self.sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    fn connect(&self, slot: Slot) -> Result<(), String> {
        let _turn = self.turn(slot);
        if self.mirror.link(slot).is_some() {
            return Ok(());
        }
        let target = self
            .lock()
            .targets
            .get(&slot)
            .map(|state| state.target.clone());
        let target = target.ok_or("the target was removed")?;
        let link = self.open(slot, &target)?;
        let (mut metadata, mut image) =
            Metadata::read(&link, self.leg_timeout).map_err(|error| match error {
                MetadataError::Blank => "its disk is blank; use netraid extend to fill it".into(),
                other => other.to_string(),
            })?;
        if metadata.array() != self.array {
            return Err(format!(
                "its disk belongs to another array, {}",
                metadata.array()
            ));
        }
        if metadata.slot() != slot {
            return Err(format!(
                "its disk is leg {} of this mirror, not {slot}",
                metadata.slot()
            ));
        }
        self.bring_along(&mut metadata, &mut image, &link)?;
        self.mirror.attach(slot, link, metadata, Some(image));
        Ok(())
    }

    /// A leg that was away while the mirror was resized gets the mirror's size.
    fn bring_along(
        &self,
        metadata: &mut Metadata,
        image: &mut LegImage,
        link: &Link,
    ) -> Result<(), String> {
        let (found, wanted) = (metadata.shape(), self.mirror.shape());
        if found == wanted {
            return Ok(());
        }
        if found.slots != wanted.slots {
            return Err(format!("its disk is laid out differently: {found:?}"));
        }
        metadata
            .reshape(image, wanted, link.size())
            .map_err(|error| format!("it can't have the mirror's size: {error}"))
    }

    fn open(&self, slot: Slot, target: &Target) -> Result<Link, String> {
        self.open_within(slot, target, self.leg_timeout.min(LONGEST_HANDSHAKE))
    }

    fn open_within(&self, slot: Slot, target: &Target, patience: Duration) -> Result<Link, String> {
        // The event counter grows with every start of the mirror, on whatever node: a later source's sessions are newer
        // than an earlier one's, whose writes its servers then refuse. Asked before the lock below is taken: whoever
        // looks at the engine may ask for our state meanwhile.
        let (events, ordered) = self
            .mirror
            .view(|view| (view.engine.events(), view.engine.is_ordered(slot)));
        let connection = {
            let mut state = self.lock();
            state.connections += 1;
            state.connections & ((1 << CONNECTION_BITS) - 1)
        };
        let generation = (events << CONNECTION_BITS) | connection;
        let mirror: Weak<Mirror> = Arc::downgrade(&self.mirror);
        let options = Options {
            connect_timeout: patience,
            // The engine expels a late leg with a reason; this only catches what it does not see.
            request_timeout: Some(self.leg_timeout * 2),
            max_requests: match ordered {
                true => MOST_IN_ORDER,
                false => MOST_REQUESTS,
            },
            ordered,
            integrity: self.integrity,
            damaged: Some(Arc::clone(&self.damaged[slot.number()])),
            max_bytes: MOST_BYTES,
            when_full: WhenFull::Fail,
            contexts: vec!["base:allocation".into(), digest::CONTEXT.into()],
            session: Some(Session {
                client: u128::from_be_bytes(self.array.0),
                generation,
            }),
            around_batch: Some(Mirror::around_batch(&mirror)),
            ..Options::default()
        };
        let connection = Connection::open(target, options).map_err(|error| error.to_string())?;
        if ordered && !connection.export().ordered {
            return Err(
                "protocol A needs a server that does what it gets in order, and this one does not offer it \
                 (x-netraid:ordered): use our nbd-server, or protocol C"
                    .into(),
            );
        }
        if self.integrity && !connection.export().integrity {
            return Err(
                "data-integrity-alg needs a server that puts checksums behind its messages, and this one does not offer them \
                 (x-netraid:integrity=crc32): use our nbd-server, or data-integrity-alg = \"none\""
                    .into(),
            );
        }
        if !connection.export().fenced {
            tracing::warn!(
                %target,
                "the server does not fence older connections: a write that it held back when a connection died may land \
                 after newer ones"
            );
        }
        Ok(Link::Remote(Arc::new(connection)))
    }

    /// Extending and reconnecting take turns: two connections to one leg would fence each other.
    fn turn(&self, slot: Slot) -> MutexGuard<'_, ()> {
        let turn = &self.turns[slot.number()];
        turn.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn sleep(&self, pause: Duration) {
        let deadline = Instant::now() + pause;
        let state = self.lock();
        if !state.stopping {
            let left = deadline.saturating_duration_since(Instant::now());
            drop(
                self.changed
                    .wait_timeout(state, left)
                    .unwrap_or_else(|poisoned| poisoned.into_inner()),
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// How often a quiet leg is asked for a sign of life. One that has vanished without a word is given up so much later, and
/// twice the leg's timeout, at most.
const QUIET: Duration = Duration::from_secs(5);
/// How often a quiet connection is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Pause after the first failure to connect; doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);
/// The server in front bounds what the application has in flight; these bounds are above it.
const MOST_REQUESTS: usize = 1 << 16;
/// The same for a send buffer of the largest size.
const MOST_IN_ORDER: usize = 1 << 20;
const MOST_BYTES: u64 = 1 << 30;
/// Bits of a session's generation that count connections; the rest is the event counter.
const CONNECTION_BITS: u32 = 24;

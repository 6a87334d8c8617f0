//! What goes into the engine and what comes out of it.

use bytes::Bytes;
use nbd_protocol::command::{Command, Outcome};

use crate::raid1::engine::{Control, Order};
use crate::raid1::leg::{LegImage, LegRecord, Slot, SlotSet, SuperState};

/// Size and division of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes that the application sees.
    pub size: u64,
    /// Bytes under one bit of the write-intent bitmap; a power of two.
    pub chunk: u64,
    /// Number of slots (md: raid disks), 1 to 8.
    pub slots: usize,
}

impl Shape {
    /// Number of chunks; the last may be shorter.
    pub fn chunks(&self) -> u64 {
        self.size.div_ceil(self.chunk)
    }

    /// Bytes of the mirror under the bits of `chunks`; the last chunk may be shorter.
    pub fn bytes_under(&self, chunks: &crate::raid1::chunks::ChunkSet) -> u64 {
        let last = chunks.contains(self.chunks().saturating_sub(1));
        let surplus = if last {
            self.chunks() * self.chunk - self.size
        } else {
            0
        };
        (chunks.count() * self.chunk).saturating_sub(surplus)
    }

    pub(super) fn chunks_of(&self, offset: u64, length: u64) -> std::ops::Range<u64> {
        offset / self.chunk..(offset + length).div_ceil(self.chunk)
    }
}

/// Times and bounds. All times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A remote leg that has not answered for this long is expelled.
    pub leg_timeout: u64,
    /// The same for the local leg.
    pub local_timeout: u64,
    /// How often bits are considered for dropping; a bit stays one to two of these after the last write.
    pub clean_interval: u64,
    /// Most bytes copied in one piece of a resync.
    pub resync_piece: u64,
    /// Most pieces under way while the application is quiet.
    pub resync_window: usize,
    /// Most bytes a second that a resync reads; 0 means no bound.
    pub resync_rate: u64,
    /// Bytes a second below which a resync does not step aside for the application; 0: it always does.
    pub resync_least: u64,
    /// How much of a resync is on its way at once; off while its `plan_ahead` is 0.
    pub control: Control,
    /// A resync compares legs by digests first and sends only what differs.
    pub compare: bool,
    /// Remote legs that are written asynchronously (protocol A), over sessions that keep order.
    pub asynchronous: SlotSet,
    /// Most bytes on their way to each of them whose writes are answered already.
    pub send_buffer: u64,
    /// What becomes of one of them in sync to which too much is on its way.
    pub on_congestion: OnCongestion,
    /// The local leg is kept when it fails a write, and the application is told, while another has all
    /// (`on-io-error = "pass-through"`).
    pub pass_through: bool,
    /// A leg is given up with the first error above so many since it was taken; 0 means no bound.
    pub io_error_limit: u64,
    /// The data gets a generation of its own when the mirror starts, before anything is written: whatever other legs call
    /// newer is none from then on.
    pub new_generation: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            leg_timeout: 10_000,
            local_timeout: 60_000,
            clean_interval: 5_000,
            resync_piece: 1 << 20,
            resync_window: 8,
            resync_rate: 0,
            resync_least: 0,
            control: Control::OFF,
            compare: false,
            asynchronous: SlotSet::EMPTY,
            send_buffer: 10 << 20,
            on_congestion: OnCongestion::Block,
            pass_through: false,
            io_error_limit: IO_ERROR_LIMIT,
            new_generation: false,
        }
    }
}

/// What happens when a send buffer is congested (`on-congestion`), that is, holds more than so many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCongestion {
    /// Writes wait while it is full.
    #[default]
    Block,
    /// The leg is cut off.
    Disconnect(u64),
    /// The leg gets what is on its way, and is left behind for a while.
    PullAhead(u64),
}

/// Errors of a leg that are borne unless something else is configured.
pub const IO_ERROR_LIMIT: u64 = 16;

/// Names an application's request; chosen by the caller, unique among those not yet answered.
pub type RequestId = u64;

/// Names one effect that will be reported as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// What happens to a mirror.
#[derive(Debug)]
pub enum Event {
    /// The application asks for something.
    Submit {
        /// Name for the answer.
        request: RequestId,
        /// What it asks; its range lies within the mirror.
        command: Command,
    },
    /// An [`Effect::Leg`] or [`Effect::Metadata`] is over.
    Done {
        /// Which.
        operation: OperationId,
        /// How it ended.
        outcome: Outcome,
    },
    /// A leg was connected and its metadata read.
    Attach {
        /// Where it belongs.
        slot: Slot,
        /// What its metadata says; `None` for a blank leg that is to be filled (an extension).
        image: Option<LegImage>,
    },
    /// The same on order: with more, or less, than the generations ask for.
    Join {
        /// Where it belongs.
        slot: Slot,
        /// As in [`Event::Attach`].
        image: Option<LegImage>,
        /// What was ordered.
        terms: Terms,
    },
    /// Go on without a leg, as if it had failed.
    Remove {
        /// Which leg; never the last one in sync.
        slot: Slot,
        /// Why, in words.
        reason: String,
    },
    /// Go on without a leg that is in sync, for good: what is written from now on has a generation of its own at once, even if
    /// nothing is. So what this leg has is never taken for what another has that is put in its slot later. Nothing happens
    /// to a leg that does not say on its disk that it is in sync, or is the last that is.
    Part {
        /// Which leg.
        slot: Slot,
        /// Why, in words.
        reason: String,
    },
    /// Other bounds of the resync's speed, in bytes a second; `None` leaves one as it is.
    Speed {
        /// [`Settings::resync_rate`].
        most: Option<u64>,
        /// [`Settings::resync_least`].
        least: Option<u64>,
        /// [`Settings::control`].
        control: Option<Control>,
    },
    /// A leg's connection is gone.
    Lost {
        /// Which leg.
        slot: Slot,
        /// Why, in words.
        reason: String,
    },
    /// Answer nothing that one of these legs has not: while one of them is not in sync, nothing is answered but what says so
    /// itself ([`super::Engine::holds_back`]), and nothing new is begun.
    Guard {
        /// The legs.
        members: SlotSet,
        /// Only these from now on; else those before as well.
        only: bool,
    },
    /// Hold all requests back, whatever legs are there, or do so no more.
    Hold(Hold),
    /// Time has passed; expected a few times a second.
    Tick,
    /// Become larger. Nothing happens while another leg is attached, to a mirror that takes no writes, or if it has that
    /// size already: [`super::Engine::shape`] tells, and [`super::Engine::size_is_durable`].
    Grow {
        /// Bytes of the mirror, which its own leg has room for, in the bitmap as well.
        size: u64,
    },
    /// Stop or continue copying.
    PauseResync(bool),
    /// Compare legs in sync with the source's. [`super::Engine::verify`] tells how far it is, and
    /// [`super::Engine::verify_refused`] why nothing was begun.
    Verify(super::VerifyOrder),
    /// Begin no more pieces of the verify that is under way; why, in words.
    StopVerify(String),
    /// Finish what was accepted, make every leg clean, then [`Effect::Stopped`].
    Stop,
}

/// What becomes of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// They are served.
    #[default]
    No,
    /// They wait.
    Suspend,
    /// They fail.
    Fail,
}

/// What an order to add a leg says beyond what generations do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Copy everything, whatever the bitmaps say.
    pub full: bool,
    /// Give up what the leg wrote while it was alone, or has newer.
    pub discard: bool,
}

/// How a leg was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The rule that decided.
    pub rule: &'static str,
    /// Everything is copied, not only what is marked.
    pub full: bool,
    /// Bytes that the leg's own bitmap had marked.
    pub merged_bytes: u64,
    /// Bytes that are marked now, those included.
    pub dirty_bytes: u64,
}

/// What is written to one leg's metadata, in this order and each durable before the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Event counter for the bitmap's own header.
    pub events: u64,
    /// The event counter when bits were last dropped with no leg absent (md: `events_cleared`).
    pub events_cleared: u64,
    /// Bytes of the mirror. It changes only together with the superblock.
    pub size: u64,
    /// Pages of the bitmap area: number and the bytes of the bit array that it holds.
    pub pages: Vec<(u32, Bytes)>,
    /// The leg's NetRAID record and superblock, if they change.
    pub superblock: Option<(LegRecord, SuperState)>,
}

/// What has to be done now.
#[derive(Debug)]
pub enum Effect {
    /// Give `command` to a leg (offsets are those of the mirror) and report [`Event::Done`].
    Leg {
        /// Name for the report.
        operation: OperationId,
        /// Which leg.
        slot: Slot,
        /// What to do.
        command: Command,
        /// Its place in the leg's stream; `None` for a leg that may do what it gets in any order.
        order: Option<Order>,
    },
    /// Write a leg's metadata durably and report [`Event::Done`].
    Metadata {
        /// Name for the report.
        operation: OperationId,
        /// Which leg.
        slot: Slot,
        /// What to write.
        update: Update,
        /// As in [`Effect::Leg`].
        order: Option<Order>,
    },
    /// Answer the application.
    Answer {
        /// Which request.
        request: RequestId,
        /// The answer.
        outcome: Outcome,
    },
    /// Cut a leg off: nothing more may reach it, and nothing under way may land on it after it is attached again.
    Expel {
        /// Which leg.
        slot: Slot,
        /// Why, in words.
        reason: String,
    },
    /// The mirror is stopped and clean.
    Stopped,
}

/// A source of generation ids: a fixed sequence for a seed, so that the engine itself has no randomness.
#[derive(Clone, Debug)]
pub struct IdSource(u64);

impl IdSource {
    /// The sequence of `seed`; the caller draws it from the system's randomness.
    pub fn new(seed: u64) -> IdSource {
        IdSource(seed)
    }

    /// The next id, never 0 (SplitMix64).
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).max(1)
    }
}

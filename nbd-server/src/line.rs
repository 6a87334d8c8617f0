//! One connection as the rest of the server sees it: where replies go, and whether its requests may still start.
//!
//! Replies may come from any thread. The connection's own thread may wait for its client; every other thread must not,
//! so what a slow client does not take at once is left to a thread of that client alone. What a connection may have in
//! flight is bounded in number and in bytes until the replies are handed to the kernel: a client that never reads
//! holds no more than that.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use linux_sys::socket::{Wait, send};

use crate::batch;
use crate::budget::{Budget, OWN_SHARE};
use crate::export::Export;
use crate::reply::{PARTS, Reply};
use crate::socket::Socket;

/// One connection.
pub(crate) struct Line {
    /// Different for every connection of this process.
    pub(crate) id: u64,
    pub(crate) socket: Socket,
    /// Set when transmission begins.
    pub(crate) export: OnceLock<Arc<Export>>,
    /// Requests are done in the order in which they come; set before transmission begins.
    ordered: AtomicBool,
    sealed: AtomicBool,
    limits: Limits,
    outgoing: Mutex<Outgoing>,
    /// Signalled when something was sent while the connection's own thread waits for room.
    room: Condvar,
    /// Signalled when there is work for the thread that sends to a slow client.
    slow: Condvar,
    /// Nothing of this connection may start any more.
    dead: AtomicBool,
    /// The server is stopping: the end of the input is its own doing.
    stopping: AtomicBool,
}

/// What one connection may have in flight.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) requests: usize,
    /// Of payloads, in both directions. One request may exceed it when it is alone.
    pub(crate) bytes: u64,
    /// Where the part above [`OWN_SHARE`] comes from.
    pub(crate) budget: Arc<Budget>,
}

#[derive(Default)]
struct Outgoing {
    replies: std::collections::VecDeque<Reply>,
    /// An empty queue whose allocation is kept.
    spare: std::collections::VecDeque<Reply>,
    /// Some thread sends; it takes what others add.
    sending: bool,
    /// The sender's part has been left to the slow client's thread.
    handed_over: bool,
    /// The slow client's thread exists.
    sender: bool,
    /// Sending has failed: replies are dropped.
    broken: bool,
    /// Requests that were begun and are not answered in full.
    requests: usize,
    bytes: u64,
    /// Taken from the budget for them.
    borrowed: u64,
    /// The connection's own thread waits for `room`.
    waiting: bool,
}

/// How a round of sending ended.
enum Round {
    /// Nothing is left; the role of the sender was given up.
    Finished,
    /// The client does not take more now; the rest is back in the queue, the role is still held.
    Full,
}

impl Line {
    pub(crate) fn new(id: u64, socket: Socket, limits: Limits) -> Line {
        Line {
            id,
            socket,
            export: OnceLock::new(),
            ordered: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            limits,
            outgoing: Mutex::default(),
            room: Condvar::new(),
            slow: Condvar::new(),
            dead: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    /// From now on everything is done in order.
    pub(crate) fn keep_order(&self) {
        self.ordered.store(true, Ordering::Release);
    }

    /// From now on all messages are followed by checksums.
    pub(crate) fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    /// Whether messages are followed by checksums.
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Whether everything is done in order, up to the first failure.
    pub(crate) fn keeps_order(&self) -> bool {
        self.ordered.load(Ordering::Acquire)
    }

    /// Whether requests of this connection may no longer start.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// From now on nothing of this connection starts. The export's gate is told by its own call.
    pub(crate) fn mark_dead(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// Ends the connection at once, from any thread.
    pub(crate) fn cut(&self) {
        // In this order: what is refused because of the end is not answered any more, so the client asks again elsewhere.
        self.socket.shut_down(Shutdown::Both);
        self.mark_dead();
        self.slow.notify_all();
    }

    /// Lets the connection finish what it has received, from any thread.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.socket.shut_down(Shutdown::Read);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Counts requests as in flight if there is room for them; they leave by their last replies.
    pub(crate) fn try_begin(&self, requests: usize, bytes: u64) -> bool {
        let mut outgoing = self.lock();
        let fits = outgoing.requests + requests <= self.limits.requests
            && outgoing.bytes.saturating_add(bytes) <= self.limits.bytes;
        if !fits && outgoing.requests > 0 {
            return false;
        }
        let more = above_share(outgoing.bytes + bytes) - above_share(outgoing.bytes);
        if more > 0 && !self.limits.budget.borrow(more) {
            return false;
        }
        outgoing.borrowed += more;
        outgoing.requests += requests;
        outgoing.bytes += bytes;
        true
    }

    /// Counts requests as in flight even beyond the limits: they are about to be ended.
    pub(crate) fn begin_regardless(&self, requests: usize, bytes: u64) {
        let mut outgoing = self.lock();
        outgoing.requests += requests;
        outgoing.bytes += bytes;
    }

    /// Takes back what [`Line::try_begin`] counted.
    pub(crate) fn give_back(&self, requests: usize, bytes: u64) {
        let mut outgoing = self.lock();
        outgoing.requests -= requests;
        outgoing.bytes -= bytes;
        self.settle(&mut outgoing);
    }

    /// Returns to the budget what is no longer needed.
    fn settle(&self, outgoing: &mut Outgoing) {
        let needed = above_share(outgoing.bytes);
        if let Some(spare @ 1..) = outgoing.borrowed.checked_sub(needed) {
            outgoing.borrowed = needed;
            self.limits.budget.give_back(spare);
        }
    }

    /// Waits a moment for room (or, with `requests` 0, for silence). Only for the connection's own thread.
    pub(crate) fn wait_for_room(&self, patience: Duration) {
        let mut outgoing = self.lock();
        if outgoing.requests == 0 {
            return;
        }
        outgoing.waiting = true;
        let (mut outgoing, _) = self
            .room
            .wait_timeout(outgoing, patience)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        outgoing.waiting = false;
    }

    /// Requests that are begun and not answered in full.
    pub(crate) fn in_flight(&self) -> usize {
        self.lock().requests
    }

    /// Whether sending has failed: nobody will hear any more answers.
    pub(crate) fn is_broken(&self) -> bool {
        self.lock().broken
    }

    /// Queues a reply. It is sent by the connection's own thread at the end of what it does now, by the end of the
    /// batch that this thread is in, or at once.
    pub(crate) fn answer(self: &Arc<Self>, mut reply: Reply) {
        if self.is_sealed() {
            reply.seal();
        }
        let send_now = {
            let mut outgoing = self.lock();
            if outgoing.broken {
                outgoing.finish(&reply);
                self.wake_own_thread(&mut outgoing);
                false
            } else {
                outgoing.replies.push_back(reply);
                !outgoing.sending
            }
        };
        if send_now && !batch::defer(self) {
            self.send_or_hand_over();
        }
    }

    /// Queues a reply that the connection's own thread is about to send.
    pub(crate) fn answer_later(&self, mut reply: Reply) {
        if self.is_sealed() {
            reply.seal();
        }
        let mut outgoing = self.lock();
        if outgoing.broken {
            outgoing.finish(&reply);
            self.wake_own_thread(&mut outgoing);
        } else {
            outgoing.replies.push_back(reply);
        }
    }

    /// Sends what is queued without waiting for the client; what it does not take is left to a thread of its own.
    pub(crate) fn send_or_hand_over(self: &Arc<Self>) {
        if !self.begin_sending() {
            return;
        }
        if let Round::Full = self.send_queued(Wait::No) {
            self.hand_over();
        }
    }

    /// Sends what is queued, waiting for the client as long as it takes. Only for the connection's own thread.
    pub(crate) fn send_waiting(&self) {
        if self.begin_sending() {
            // Waits, so it can't come back `Full`.
            self.send_queued(Wait::Yes);
        }
    }

    /// Takes the role of the sender if there is something to send and nobody has it.
    fn begin_sending(&self) -> bool {
        let mut outgoing = self.lock();
        if outgoing.sending || outgoing.replies.is_empty() {
            return false;
        }
        outgoing.sending = true;
        true
    }

    fn send_queued(&self, wait: Wait) -> Round {
        let mut outgoing = self.lock();
        loop {
            if outgoing.broken {
                let dropped = std::mem::take(&mut outgoing.replies);
                dropped.iter().for_each(|reply| outgoing.finish(reply));
            }
            if outgoing.replies.is_empty() {
                outgoing.sending = false;
                self.wake_own_thread(&mut outgoing);
                return Round::Finished;
            }
            let spare = std::mem::take(&mut outgoing.spare);
            let mut taken = std::mem::replace(&mut outgoing.replies, spare);
            drop(outgoing);
            let mut full = false;
            let mut sent = Sent::default();
            let mut failed = false;
            while !taken.is_empty() {
                match self.send_some(&mut taken, wait, &mut sent) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait == Wait::No => {
                        full = true;
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(connection = self.id, %error, "sending to the client failed");
                        failed = true;
                        break;
                    }
                }
            }
            outgoing = self.lock();
            outgoing.requests -= sent.requests;
            outgoing.bytes -= sent.bytes;
            if failed {
                outgoing.broken = true;
                taken.drain(..).for_each(|reply| outgoing.finish(&reply));
                self.cut();
            }
            self.wake_own_thread(&mut outgoing);
            if full {
                // In front of what others added meanwhile.
                taken.append(&mut outgoing.replies);
                outgoing.replies = taken;
                return Round::Full;
            }
            outgoing.spare = taken;
        }
    }

    /// One call of the kernel; takes what was sent out of `queue`.
    fn send_some(
        &self,
        queue: &mut std::collections::VecDeque<Reply>,
        wait: Wait,
        sent: &mut Sent,
    ) -> io::Result<()> {
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for reply in queue.iter() {
            if count + PARTS > PIECES {
                break;
            }
            for part in reply.unsent() {
                if !part.is_empty() {
                    pieces[count] = IoSlice::new(part);
                    count += 1;
                }
            }
        }
        let mut bytes = send(self.socket.as_fd(), &pieces[..count], wait)?;
        while let Some(reply) = queue.front_mut() {
            bytes = reply.advance(bytes);
            if !reply.is_sent() {
                break;
            }
            sent.requests += usize::from(reply.last);
            sent.bytes += u64::from(reply.charge);
            queue.pop_front();
        }
        Ok(())
    }

    /// Something has left the books.
    fn wake_own_thread(&self, outgoing: &mut Outgoing) {
        self.settle(outgoing);
        if outgoing.waiting {
            self.room.notify_one();
        }
    }

    /// Leaves the sender's role, which this thread holds, to the thread that waits for this client.
    fn hand_over(self: &Arc<Self>) {
        let mut outgoing = self.lock();
        outgoing.handed_over = true;
        if outgoing.sender {
            drop(outgoing);
            self.slow.notify_one();
            return;
        }
        outgoing.sender = true;
        drop(outgoing);
        let line = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name(format!("nbd-send-{}", self.id))
            .stack_size(STACK);
        if let Err(error) = thread.spawn(move || line.send_to_slow_client()) {
            tracing::warn!(connection = self.id, %error, "no thread to send to a slow client, closing its connection");
            self.cut();
            let mut outgoing = self.lock();
            outgoing.sender = false;
            outgoing.handed_over = false;
            outgoing.broken = true;
            drop(outgoing);
            // Drops the queue and gives the role up.
            self.send_queued(Wait::No);
        }
    }

    /// The slow client's thread: sends whenever others could not; ends after a while without work.
    fn send_to_slow_client(&self) {
        loop {
            let mut outgoing = self.lock();
            if !outgoing.handed_over {
                let (back, waited) = self
                    .slow
                    .wait_timeout(outgoing, LINGER)
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                outgoing = back;
                if !outgoing.handed_over {
                    if waited.timed_out() || self.is_dead() {
                        outgoing.sender = false;
                        return;
                    }
                    continue;
                }
            }
            outgoing.handed_over = false;
            drop(outgoing);
            self.send_queued(Wait::Yes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Outgoing {
    /// A reply that will never be sent still ends what it answers.
    fn finish(&mut self, reply: &Reply) {
        self.requests -= usize::from(reply.last);
        self.bytes -= u64::from(reply.charge);
    }
}

/// The part of a connection's payload bytes that has to be borrowed.
fn above_share(bytes: u64) -> u64 {
    bytes.saturating_sub(OWN_SHARE)
}

/// What one round has ended.
#[derive(Default)]
struct Sent {
    requests: usize,
    bytes: u64,
}

/// Pieces of one sendmsg(2): a header and a payload for each of 64 replies, fewer with checksums.
const PIECES: usize = 129;
const STACK: usize = 256 << 10;
const LINGER: Duration = Duration::from_secs(2);

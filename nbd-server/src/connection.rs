//! One client from its first byte to its last, on a thread of its own.
//!
//! The thread receives as much as there is, runs every request that is complete, and sends what was answered in one
//! call. Requests that are still running on other threads are answered from there.

mod collect;
mod handshake;
mod input;

use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nbd_protocol::check::ExportShape;
use nbd_protocol::command::{Errno, Failure};
use nbd_protocol::error::DecodeError;
use nbd_protocol::integrity::{NOBODY, trailer};
use nbd_protocol::number::{CommandFlags, CommandType};
use nbd_protocol::reply::ReplyTo;
use nbd_protocol::request::{HeaderStyle, RequestHeader};

use crate::batch::{batch, set_may_wait};
use crate::connection::collect::{Next, Segment};
use crate::connection::input::Input;
use crate::export::{Closed, Export};
use crate::line::Line;
use crate::reply::Reply;
use crate::server::Shared;

/// Serves one client to the end. Never panics because of what the client sends.
pub(crate) fn serve(shared: &Shared, line: &Arc<Line>) {
    let agreed = match handshake::run(shared, line) {
        Ok(agreed) => agreed,
        Err(end) => {
            tracing::debug!(connection = line.id, "no transmission: {end}");
            return line.cut();
        }
    };
    let export = agreed.export.name().to_owned();
    tracing::info!(
        connection = line.id,
        peer = line.socket.peer(),
        export,
        style = ?agreed.shape.style,
        session = agreed.session,
        "client attached"
    );
    let mut connection = Connection {
        line: Arc::clone(line),
        export: agreed.export,
        shape: agreed.shape,
        contexts: agreed.contexts,
        input: Input::new(agreed.received),
        segment: Segment::default(),
        graceful: false,
        crowd: 0,
        waited: false,
    };
    let end = connection.transmit();
    set_may_wait(false);
    tracing::info!(connection = line.id, export, "client detached: {end}");
    connection.conclude(&end);
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("it said goodbye")]
    Goodbye,
    #[error("it closed without a goodbye; what had not started was dropped")]
    Hangup,
    #[error("this server ended it")]
    Cut,
    #[error("the server is stopping")]
    Stopping,
    #[error("it broke the protocol: {0}")]
    Broken(#[from] DecodeError),
    #[error("a message came with a wrong checksum, and nothing of it was done")]
    Damaged,
    #[error("it stopped in the middle of a message for {STALL:?}")]
    Stalled,
    #[error("receiving failed: {0}")]
    Receive(std::io::Error),
}

/// Transmission with one client.
struct Connection {
    line: Arc<Line>,
    export: Arc<Export>,
    shape: ExportShape,
    /// Selected block-status contexts: id on the wire, position in the device's list.
    contexts: Vec<(u32, usize)>,
    input: Input,
    segment: Segment,
    /// The client has closed its side, but behind a goodbye: all of the input is to be done.
    graceful: bool,
    /// For so many more segments the client is taken to have several requests under way.
    crowd: u32,
    /// The last requests kept this thread waiting for the disk.
    waited: bool,
}

impl Connection {
    fn transmit(&mut self) -> End {
        loop {
            let step = match self.collect() {
                Next::Run => self.run_segment(),
                Next::More(bytes) => self.receive(bytes),
                Next::Payload(header) => self.receive_payload(header),
                Next::Discard(header, failure) => self.discard(header, failure),
                Next::Disconnect => Err(End::Goodbye),
                Next::Broken(error) => Err(End::Broken(error)),
                Next::Damaged => Err(self.damaged()),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Waits for input, at least `bytes` in all.
    fn receive(&mut self, bytes: usize) -> Result<(), End> {
        while self.input.buffer.len() < bytes {
            match self.input.fill(&self.line.socket, bytes) {
                Ok(0) => return Err(self.end_of_input()),
                Ok(_) => {}
                Err(end) => return Err(end),
            }
        }
        Ok(())
    }

    fn end_of_input(&self) -> End {
        if self.line.is_stopping() {
            End::Stopping
        } else if self.line.is_dead() {
            End::Cut
        } else {
            End::Hangup
        }
    }

    /// Receives a long payload into a buffer of its own.
    fn receive_payload(&mut self, header: RequestHeader) -> Result<(), End> {
        let length = header.payload_length(self.shape.style)? as usize;
        // Memory is taken only when it may be used: what is still in flight has gone first.
        self.make_room(length as u64)?;
        let head = RequestHeader::size(self.shape.style);
        let front = Bytes::copy_from_slice(self.input.buffer.get(..head).unwrap_or_default());
        let whole = length + self.tail();
        match self.input.payload(&self.line.socket, head, whole)? {
            Some(mut data) => {
                let tail = data.split_off(length);
                if !tail.is_empty() && trailer(&[&front, &data]) != tail[..] {
                    return Err(self.damaged());
                }
                self.add_payload(header, data)
            }
            None => Err(self.end_of_input()),
        }
    }

    /// A message was changed on its way: the client hears of it, and nothing more is done for this connection.
    fn damaged(&self) -> End {
        let peer = self.line.socket.peer();
        let export = self.export.name();
        tracing::warn!(
            connection = self.line.id,
            peer,
            export,
            "a message came with a wrong checksum; the connection ends"
        );
        let header = RequestHeader {
            flags: CommandFlags::default(),
            kind: CommandType::READ,
            cookie: NOBODY,
            offset: 0,
            length: 0,
        };
        let failure = Failure::new(Errno::EIO, "a request came with a wrong checksum");
        let to = ReplyTo::new(self.shape.style, header);
        let mut reply = Reply::written(|out| to.failure(&failure, out));
        // It answers no request.
        reply.last = false;
        self.line.answer_later(reply);
        self.line.send_waiting();
        End::Damaged
    }

    /// Consumes the payload of a refused request, then answers it.
    fn discard(&mut self, header: RequestHeader, failure: Failure) -> Result<(), End> {
        let length = header.payload_length(self.shape.style)? as usize;
        let whole = RequestHeader::size(self.shape.style) + length;
        if !self.input.discard(&self.line.socket, whole)? {
            return Err(self.end_of_input());
        }
        self.refuse(header, failure);
        Ok(())
    }

    /// Runs what was collected: takes it in all at once, starts it in order, and sends the answers.
    fn run_segment(&mut self) -> Result<(), End> {
        let bytes = self.segment.bytes;
        let requests = self.segment.requests;
        let room = self.make_room_for(requests, bytes);
        if room.is_err() {
            self.line.begin_regardless(requests, bytes);
            self.drop_segment();
            return room;
        }
        for reply in self.segment.refusals.drain(..) {
            self.line.answer_later(reply);
        }
        if self.segment.refused_change && self.line.keeps_order() {
            // What came behind a request that is not done must not be done either.
            self.export.abandon(&self.line);
            self.drop_segment();
            return Err(End::Cut);
        }
        if self.segment.changes {
            self.admit()?;
        }
        let mut alone = requests == 1
            && self.crowd == 0
            && self.input.buffer.is_empty()
            && self.line.in_flight() == 1;
        // A long write is worth looking whether the next request is there: then both can be worked on.
        if alone && bytes >= LONG && self.segment.changes {
            alone = !self.line.socket.has_input();
        }
        set_may_wait(alone);
        // What a disk is waited for by its nature needs no clock, nor does a write that keeps nobody waiting.
        self.waited = self.segment.durable;
        let watched = !alone || self.segment.reads;
        self.crowd = self.crowd.saturating_sub(1);
        let mut pending = std::mem::take(&mut self.segment.pending);
        let streaming = self.segment.streaming;
        self.segment.reset();
        let outcome = batch(|| {
            let mut outcome = self.start_all(&mut pending, streaming, watched);
            // The client was kept waiting: is there more already? Then it does not wait for each single answer.
            if alone && self.waited && outcome.is_ok() {
                outcome = self.input.poll(&self.line.socket).map(|more| {
                    if more {
                        self.crowd = CROWD;
                    }
                });
            }
            // Before the batch ends, which would send without waiting.
            self.line.send_waiting();
            outcome
        });
        pending.clear();
        self.segment.pending = pending;
        self.export.device().kick();
        outcome
    }

    fn start_all(
        &mut self,
        pending: &mut [Option<crate::pending::Pending>],
        streaming: bool,
        watched: bool,
    ) -> Result<(), End> {
        let mut outcome = Ok(());
        let mut watch = watched.then(Instant::now);
        let count = pending.len();
        for (number, slot) in pending.iter_mut().enumerate() {
            let Some(pending) = slot.take() else {
                continue;
            };
            // Refuses by itself when the connection has died.
            pending.start();
            if streaming {
                self.line.send_waiting();
            }
            let last = number + 1 == count;
            let Some(before) = watch else { continue };
            let now = Instant::now();
            let took = now - before;
            watch = Some(now);
            self.waited = took > WAITED;
            if took > SLOW && !last && outcome.is_ok() && self.peer_may_have_gone() {
                outcome = self.peer_closed();
            }
        }
        outcome
    }

    /// Passes the gate. On failure nothing of the segment has started or will.
    fn admit(&mut self) -> Result<(), End> {
        loop {
            let check_peer = !self.graceful && !self.line.is_stopping();
            let end = match self
                .export
                .admit(&self.line, &mut self.segment.pending, check_peer)
            {
                Ok(()) => return Ok(()),
                Err(Closed::Fenced) => End::Cut,
                Err(Closed::ByPeer) => match self.peer_closed() {
                    Ok(()) => continue,
                    Err(end) => end,
                },
            };
            self.drop_segment();
            return Err(end);
        }
    }

    /// The client has closed its side: finds out whether that was behind a goodbye. If not, nothing of this connection
    /// starts any more.
    fn peer_closed(&mut self) -> Result<(), End> {
        self.input.drain(&self.line.socket);
        if ends_with_goodbye(&self.input.buffer, self.shape.style, self.tail()) {
            self.graceful = true;
            return Ok(());
        }
        self.export.abandon(&self.line);
        Err(End::Hangup)
    }

    fn peer_may_have_gone(&self) -> bool {
        !self.graceful && !self.line.is_stopping() && self.line.socket.peer_has_closed()
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), End> {
        self.make_room_for(1, bytes)?;
        self.line.give_back(1, bytes);
        Ok(())
    }

    /// Counts requests as in flight as soon as the limits allow.
    fn make_room_for(&mut self, requests: usize, bytes: u64) -> Result<(), End> {
        while !self.line.try_begin(requests, bytes) {
            self.line.send_waiting();
            self.line.wait_for_room(PATIENCE);
            if self.line.is_dead() {
                return Err(End::Cut);
            }
            if self.peer_may_have_gone() {
                self.peer_closed()?;
            }
        }
        Ok(())
    }

    /// Ends requests of the segment that will not be run.
    fn drop_segment(&mut self) {
        for reply in self.segment.refusals.drain(..) {
            self.line.answer_later(reply);
        }
        for pending in self.segment.pending.drain(..).flatten() {
            pending.fail(Failure::new(Errno::ESHUTDOWN, "the connection has ended"));
        }
        self.segment.reset();
        self.line.send_waiting();
    }

    /// Ends the connection: what has started is finished and answered, then the socket is closed.
    fn conclude(&self, end: &End) {
        let patience = match end {
            End::Goodbye | End::Stopping | End::Broken(_) => FINISH,
            End::Damaged => FINISH_FOR_NOBODY,
            End::Hangup | End::Stalled => FINISH_FOR_NOBODY,
            End::Cut | End::Receive(_) => Duration::ZERO,
        };
        if !matches!(end, End::Goodbye | End::Stopping) {
            self.export.abandon(&self.line);
        }
        let begun = Instant::now();
        while self.line.in_flight() > 0 && begun.elapsed() < patience && !self.line.is_broken() {
            self.line.send_waiting();
            self.line.wait_for_room(PATIENCE);
        }
        if matches!(end, End::Stopping | End::Broken(_) | End::Damaged) {
            self.line.socket.shut_down(Shutdown::Write);
            self.input.linger(&self.line.socket);
        }
        self.export.abandon(&self.line);
        self.line.cut();
    }
}

/// Whether the requests in `bytes`, the rest of a stream, end in DISC.
fn ends_with_goodbye(mut bytes: &[u8], style: HeaderStyle, tail: usize) -> bool {
    while let Ok(Some(header)) = RequestHeader::decode(style, bytes) {
        if header.kind == nbd_protocol::number::CommandType::DISC {
            return true;
        }
        let Ok(payload) = header.payload_length(style) else {
            return false;
        };
        match bytes.get(RequestHeader::size(style) + payload as usize + tail..) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    false
}

/// Payload bytes from which on a system call more does not matter.
const LONG: u64 = 128 << 10;
/// A request that took this long may have outlived its client.
const SLOW: Duration = Duration::from_millis(1);
/// A request that took this long has waited for a disk.
const WAITED: Duration = Duration::from_micros(60);
const CROWD: u32 = 64;
/// How often the end of a client is looked for while there is no room for its requests.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a client may take for a message that it has begun.
const STALL: Duration = Duration::from_secs(30);
/// How long requests that were accepted may take after the client's goodbye.
const FINISH: Duration = Duration::from_secs(3600);
/// The same when nobody is likely to wait for them.
const FINISH_FOR_NOBODY: Duration = Duration::from_secs(10);

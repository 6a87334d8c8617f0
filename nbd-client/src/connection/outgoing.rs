//! What waits to be sent on one connection, and the rule of who sends it.
//!
//! Whoever submits a request sends it too, without waiting: several requests gathered before a kick leave in one
//! sendmsg(2). While one thread sends, others only queue, and the sending thread takes their frames along. Once the
//! socket is full the frames are handed to the connection's own sender thread, which may wait; so a submitter never
//! does. What is queued here is bounded by the limits of the requests in flight.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::{Condvar, Mutex, MutexGuard};

use bytes::Bytes;
use linux_sys::socket::{self, Wait};
use nbd_protocol::integrity::{TRAILER, trailer};

/// One request on its way: header, payload, and how much of both has left already.
pub(super) struct Frame {
    cookie: u64,
    header: [u8; MAX_HEADER],
    header_length: usize,
    payload: Bytes,
    /// The checksum of both, if that was negotiated.
    trailer: [u8; TRAILER],
    trailer_length: usize,
    sent: usize,
}

impl Frame {
    /// A frame of at most [`MAX_HEADER`] header bytes; a longer header is a mistake of this crate and is cut.
    pub(super) fn new(cookie: u64, header: &[u8], payload: Bytes) -> Frame {
        let header_length = header.len().min(MAX_HEADER);
        let mut fixed = [0; MAX_HEADER];
        fixed[..header_length].copy_from_slice(&header[..header_length]);
        Frame {
            cookie,
            header: fixed,
            header_length,
            payload,
            trailer: [0; TRAILER],
            trailer_length: 0,
            sent: 0,
        }
    }

    /// The same with its checksum behind it.
    pub(super) fn sealed(mut self) -> Frame {
        self.trailer = trailer(&[&self.header[..self.header_length], &self.payload]);
        self.trailer_length = TRAILER;
        self
    }

    fn length(&self) -> usize {
        self.header_length + self.payload.len() + self.trailer_length
    }

    /// The bytes of header, payload and checksum that have not left yet.
    fn rest(&self) -> [&[u8]; PARTS] {
        let mut sent = self.sent;
        let header = &self.header[..self.header_length];
        let trailer = &self.trailer[..self.trailer_length];
        [header, &self.payload, trailer].map(|part| {
            let gone = sent.min(part.len());
            sent -= gone;
            &part[gone..]
        })
    }
}

/// What a kick came to.
#[derive(Debug)]
pub(super) enum Kicked {
    /// Everything left.
    Sent,
    /// Another thread is sending, and takes along what is queued.
    Elsewhere,
    /// The socket is full: the sender thread has the frames now, and must be started if it is not running.
    HandedOver {
        /// No sender thread runs yet: start one.
        start_sender: bool,
    },
}

/// The queue of one connection.
pub(super) struct Outgoing {
    state: Mutex<State>,
    handed_over: Condvar,
}

struct State {
    queued: VecDeque<Frame>,
    queued_bytes: usize,
    /// An emptied queue kept so that its memory is used again.
    spare: VecDeque<Frame>,
    sending: Sending,
    sender_started: bool,
    closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// Nobody sends: the next kick does.
    Nobody,
    /// A submitter is in sendmsg(2) and comes back for more.
    Submitter,
    /// The sender thread sends until the queue is empty.
    SenderThread,
}

impl Outgoing {
    pub(super) fn new() -> Outgoing {
        Outgoing {
            state: Mutex::new(State {
                queued: VecDeque::new(),
                queued_bytes: 0,
                spare: VecDeque::new(),
                sending: Sending::Nobody,
                sender_started: false,
                closed: false,
            }),
            handed_over: Condvar::new(),
        }
    }

    /// Queues a frame; `true` says that enough is gathered to be worth a kick at once.
    pub(super) fn push(&self, frame: Frame) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.queued_bytes += frame.length();
        state.queued.push_back(frame);
        state.queued_bytes >= GATHER_BYTES || state.queued.len() >= GATHER_FRAMES
    }

    /// Sends what is queued, without waiting for the socket. An error means that the connection is gone.
    pub(super) fn kick(&self, socket: BorrowedFd<'_>) -> io::Result<Kicked> {
        let mut state = self.lock();
        if state.sending != Sending::Nobody {
            return Ok(Kicked::Elsewhere);
        }
        state.sending = Sending::Submitter;
        for _ in 0..MAX_ROUNDS {
            let Some(mut frames) = state.take_queued() else {
                state.sending = Sending::Nobody;
                return Ok(Kicked::Sent);
            };
            drop(state);
            let all_sent = send_frames(socket, &mut frames, Wait::No)?;
            state = self.lock();
            if !all_sent {
                state.put_back(frames);
                break;
            }
            state.spare = frames;
        }
        if state.queued.is_empty() || state.closed {
            state.sending = Sending::Nobody;
            return Ok(Kicked::Sent);
        }
        state.sending = Sending::SenderThread;
        let start_sender = !std::mem::replace(&mut state.sender_started, true);
        self.handed_over.notify_one();
        Ok(Kicked::HandedOver { start_sender })
    }

    /// The sender thread's whole life: sends what it is handed, waiting for the socket, until [`Outgoing::close`].
    pub(super) fn run_sender(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Ok(());
            }
            if state.sending != Sending::SenderThread {
                state = self
                    .handed_over
                    .wait(state)
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                continue;
            }
            let Some(mut frames) = state.take_queued() else {
                state.sending = Sending::Nobody;
                continue;
            };
            drop(state);
            send_frames(socket, &mut frames, Wait::Yes)?;
            state = self.lock();
            state.spare = frames;
        }
    }

    /// Ends the sender thread and drops what is queued; returns the cookies of frames of which no byte has left.
    pub(super) fn close(&self) -> Vec<u64> {
        let mut state = self.lock();
        state.closed = true;
        self.handed_over.notify_all();
        let never_sent = state
            .queued
            .iter()
            .filter(|frame| frame.sent == 0)
            .map(|frame| frame.cookie)
            .collect();
        state.queued.clear();
        state.queued_bytes = 0;
        never_sent
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn take_queued(&mut self) -> Option<VecDeque<Frame>> {
        if self.queued.is_empty() {
            return None;
        }
        self.queued_bytes = 0;
        let spare = std::mem::take(&mut self.spare);
        Some(std::mem::replace(&mut self.queued, spare))
    }

    /// Puts frames that did not leave in front of those that were queued meanwhile.
    fn put_back(&mut self, mut frames: VecDeque<Frame>) {
        if self.closed {
            return;
        }
        frames.append(&mut self.queued);
        self.queued_bytes = frames.iter().map(|frame| frame.length() - frame.sent).sum();
        self.queued = frames;
    }
}

/// Sends frames from the front and removes those that have left; `false` when the socket takes no more at the moment.
fn send_frames(
    socket: BorrowedFd<'_>,
    frames: &mut VecDeque<Frame>,
    wait: Wait,
) -> io::Result<bool> {
    while !frames.is_empty() {
        let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
        let mut count = 0;
        for frame in frames.iter() {
            if count + PARTS > MAX_PIECES {
                break;
            }
            for piece in frame.rest() {
                if !piece.is_empty() {
                    pieces[count] = IoSlice::new(piece);
                    count += 1;
                }
            }
        }
        let mut left = match socket::send(socket, &pieces[..count], wait) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait == Wait::No => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        while let Some(frame) = frames.front_mut() {
            let rest = frame.length() - frame.sent;
            if left < rest {
                frame.sent += left;
                break;
            }
            left -= rest;
            frames.pop_front();
        }
    }
    Ok(true)
}

/// Parts of a frame.
const PARTS: usize = 3;

/// Longest request header: that of extended headers.
const MAX_HEADER: usize = 32;

/// Queued bytes from which a submit sends at once instead of waiting for a kick: the socket has work for a while.
const GATHER_BYTES: usize = 256 << 10;

/// Queued frames from which a submit sends at once.
const GATHER_FRAMES: usize = MAX_PIECES / 2;

/// Pieces in one sendmsg(2); the array stands on the stack.
const MAX_PIECES: usize = 129;

/// How often one submitter sends for others before it hands over: nobody is kept for ever.
const MAX_ROUNDS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(cookie: u64) -> Frame {
        Frame::new(cookie, &[0; 28], Bytes::new())
    }

    #[test]
    fn frames_that_did_not_leave_stay_in_front_of_those_queued_meanwhile() {
        let outgoing = Outgoing::new();
        outgoing.push(frame(1));
        outgoing.push(frame(2));
        let mut in_hand = outgoing.lock().take_queued().unwrap();
        outgoing.push(frame(3));
        in_hand.front_mut().unwrap().sent = 5;
        outgoing.lock().put_back(in_hand);
        assert_eq!(outgoing.lock().queued_bytes, 3 * 28 - 5);
        let order: Vec<u64> = outgoing
            .lock()
            .queued
            .iter()
            .map(|frame| frame.cookie)
            .collect();
        assert_eq!(order, [1, 2, 3]);
        assert_eq!(outgoing.close(), [2, 3], "of frame 1 some bytes have left");
        assert!(!outgoing.push(frame(4)) && outgoing.lock().queued.is_empty());
    }

    #[test]
    fn much_that_is_gathered_is_worth_a_kick_at_once() {
        let outgoing = Outgoing::new();
        assert!(!outgoing.push(frame(1)));
        assert!(outgoing.push(Frame::new(2, &[0; 28], Bytes::from(vec![0; GATHER_BYTES]))));
        let outgoing = Outgoing::new();
        assert_eq!(
            (0..GATHER_FRAMES as u64)
                .filter(|cookie| outgoing.push(frame(*cookie)))
                .count(),
            1
        );
    }
}

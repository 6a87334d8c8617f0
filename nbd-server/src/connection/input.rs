//! What a client has sent: a small buffer for headers and short payloads, buffers of their own for long ones.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use linux_sys::buffer::Buffer;
use linux_sys::eager::Eager;
use linux_sys::socket::{Wait, receive};
use nix::sys::socket::{MsgFlags, recv};

use crate::connection::{End, STALL};
use crate::socket::Socket;

/// The receiving side of a connection in transmission.
pub(super) struct Input {
    /// Received and not yet taken.
    pub(super) buffer: BytesMut,
    /// How much the next call asks for.
    window: usize,
    /// The socket gives up waiting after [`IDLE`].
    timed: bool,
    /// Whether the next request is likely to come at once.
    eager: Eager,
}

impl Input {
    pub(super) fn new(received: BytesMut) -> Input {
        Input {
            buffer: received,
            window: SMALLEST,
            timed: true,
            eager: Eager::default(),
        }
    }

    /// Whether something has come, without waiting; takes it.
    pub(super) fn poll(&mut self, socket: &Socket) -> Result<bool, End> {
        match receive(socket.as_fd(), &mut self.buffer, self.window, Wait::No) {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(End::Receive(error)),
        }
    }

    /// Waits for more; 0 is the end. With bytes of an unfinished message in the buffer it does not wait for ever.
    pub(super) fn fill(&mut self, socket: &Socket, whole: usize) -> Result<usize, End> {
        let mut timeouts = 0;
        let mut looked = self.look(socket, whole);
        loop {
            let ask = self.ask(whole);
            let received = looked.take().unwrap_or_else(|| {
                let buffer = &mut self.buffer;
                self.eager
                    .sleep(|| receive(socket.as_fd(), buffer, ask, Wait::Yes))
            });
            match received {
                Ok(count) => {
                    if count == ask && self.window < LARGEST {
                        self.window *= 2;
                    } else if count < ask / 8 && self.window > SMALLEST {
                        // A payload that has to wait keeps the whole window it came in.
                        self.window /= 2;
                    }
                    if !self.timed {
                        self.timed = true;
                        socket
                            .set_receive_timeout(Some(IDLE))
                            .map_err(End::Receive)?;
                    }
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.buffer.is_empty() {
                        self.rest(socket)?;
                    } else if stalled(&mut timeouts) {
                        return Err(End::Stalled);
                    }
                }
                Err(error) => return Err(End::Receive(error)),
            }
        }
    }

    /// What comes in the moment in which a prompt client sends its next request.
    fn look(&mut self, socket: &Socket, whole: usize) -> Option<io::Result<usize>> {
        let ask = self.ask(whole);
        let buffer = &mut self.buffer;
        self.eager
            .look(|| match receive(socket.as_fd(), buffer, ask, Wait::No) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                received => Some(received),
            })
    }

    /// How many bytes to ask for.
    fn ask(&self, whole: usize) -> usize {
        self.window.max(whole.saturating_sub(self.buffer.len()))
    }

    /// Nothing has come for a while: gives memory back and waits without limit.
    fn rest(&mut self, socket: &Socket) -> Result<(), End> {
        self.buffer = BytesMut::new();
        self.window = SMALLEST;
        crate::memory::give_back_sometimes();
        self.timed = false;
        socket.set_receive_timeout(None).map_err(End::Receive)
    }

    /// Takes a header of `head` bytes and the payload of `length` bytes behind it, whose beginning may be in the
    /// buffer; `None` if the stream ends before.
    pub(super) fn payload(
        &mut self,
        socket: &Socket,
        head: usize,
        length: usize,
    ) -> Result<Option<Bytes>, End> {
        self.buffer.advance(head);
        // The next header is likely to be that of another long payload: what comes behind it is not to be copied.
        self.window = SMALLEST;
        let mut payload = Buffer::take(length);
        let mut filled = self.buffer.len().min(length);
        payload[..filled].copy_from_slice(&self.buffer[..filled]);
        self.buffer.advance(filled);
        let mut timeouts = 0;
        while filled < length {
            // One call for all of it: a system call a packet costs more than the packet.
            let all = MsgFlags::MSG_WAITALL;
            match recv(socket.as_fd().as_raw_fd(), &mut payload[filled..], all) {
                Ok(0) => return Ok(None),
                Ok(count) => {
                    filled += count;
                    timeouts = 0;
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) if !stalled(&mut timeouts) => {}
                Err(nix::errno::Errno::EAGAIN) => return Err(End::Stalled),
                Err(error) => return Err(End::Receive(error.into())),
            }
        }
        Ok(Some(payload.freeze()))
    }

    /// Drops the next `length` bytes, received or not; false if the stream ends before.
    pub(super) fn discard(&mut self, socket: &Socket, mut length: usize) -> Result<bool, End> {
        let mut timeouts = 0;
        loop {
            let here = self.buffer.len().min(length);
            self.buffer.advance(here);
            length -= here;
            if length == 0 {
                return Ok(true);
            }
            self.window = LARGEST;
            match receive(socket.as_fd(), &mut self.buffer, self.window, Wait::Yes) {
                Ok(0) => return Ok(false),
                Ok(_) => timeouts = 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stalled(&mut timeouts) {
                        return Err(End::Stalled);
                    }
                }
                Err(error) => return Err(End::Receive(error)),
            }
        }
    }

    /// Takes all that a client left behind when it closed its side. The kernel's socket buffer bounds it.
    pub(super) fn drain(&mut self, socket: &Socket) {
        while self.buffer.len() < MOST_LEFT_BEHIND {
            match receive(socket.as_fd(), &mut self.buffer, LARGEST, Wait::No) {
                Ok(1..) => {}
                _ => return,
            }
        }
    }

    /// Waits a little for the client to close its side. Closing ours with input unread would reset the connection, and
    /// take answers away that the client has not received yet.
    pub(super) fn linger(&self, socket: &Socket) {
        let until = Instant::now() + LINGER;
        let mut scratch = BytesMut::new();
        let mut left = MOST_LEFT_BEHIND;
        while Instant::now() < until && left > 0 && socket.set_receive_timeout(Some(LINGER)).is_ok()
        {
            scratch.clear();
            match receive(socket.as_fd(), &mut scratch, LARGEST, Wait::Yes) {
                Ok(count @ 1..) => left = left.saturating_sub(count),
                _ => return,
            }
        }
    }
}

/// Notes that a receive gave up after [`IDLE`] in the middle of a message; whether that has gone on for [`STALL`].
fn stalled(timeouts: &mut u64) -> bool {
    *timeouts += 1;
    *timeouts * IDLE.as_secs() >= STALL.as_secs()
}

/// What an idle connection asks for: a write of 4 KiB with its header, at once. The buffer grows by what comes.
const SMALLEST: usize = 8 << 10;
/// Enough for 64 writes of 4 KiB; longer single payloads get buffers of their own.
const LARGEST: usize = 256 << 10;
/// How long a connection waits before it gives its buffers back.
pub(super) const IDLE: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_millis(500);
const MOST_LEFT_BEHIND: usize = 64 << 20;

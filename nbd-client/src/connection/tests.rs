//! A server that is a script, on the other end of a socket pair: whatever it does, every request is completed once.

mod lifetime;
mod traffic;
mod violations;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};

use bytes::{BufMut, BytesMut};
use nbd_protocol::command::{Answer, Errno, Outcome};
use nbd_protocol::number::{
    ChunkFlags, ChunkType, EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
    TransmissionFlags,
};

use super::*;

/// The server's end.
struct Script {
    socket: UnixStream,
    style: HeaderStyle,
}

impl Script {
    /// The next request, without its payload.
    fn request(&mut self) -> RequestHeader {
        let mut header = vec![0; RequestHeader::size(self.style)];
        self.socket.read_exact(&mut header).unwrap();
        RequestHeader::decode(self.style, &header).unwrap().unwrap()
    }

    fn payload(&mut self, length: u64) -> Vec<u8> {
        let mut payload = vec![0; length as usize];
        self.socket.read_exact(&mut payload).unwrap();
        payload
    }

    fn say(&mut self, bytes: &[u8]) {
        // The client may have hung up in the middle: that is what some tests are about.
        let _ = self.socket.write_all(bytes);
    }

    /// Whether the client closed the connection; what it sends before that is skipped.
    fn client_left(&mut self) -> bool {
        self.socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut rest = [0; 4096];
        loop {
            match self.socket.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}

fn simple(errno: u32, cookie: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(SIMPLE_REPLY_MAGIC);
    out.put_u32(errno);
    out.put_u64(cookie);
    out
}

fn chunk(done: bool, kind: ChunkType, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(STRUCTURED_REPLY_MAGIC);
    out.put_u16(if done { ChunkFlags::DONE.0 } else { 0 });
    out.put_u16(kind.0);
    out.put_u64(cookie);
    out.put_u32(payload.len() as u32);
    out.put_slice(payload);
    out
}

fn data_chunk(done: bool, cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.extend_from_slice(data);
    chunk(done, ChunkType::OFFSET_DATA, cookie, &payload)
}

fn hole_chunk(done: bool, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.put_u32(length);
    chunk(done, ChunkType::OFFSET_HOLE, cookie, &payload)
}

fn pair(style: HeaderStyle, options: Options) -> (Connection, Script) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let contexts = ["base:allocation", "x-netraid:dirty"];
    let export = Export {
        size: 1 << 40,
        flags: TransmissionFlags(0xffff)
            .without(TransmissionFlags::READ_ONLY)
            .without(TransmissionFlags::BLOCK_STATUS_PAYLOAD),
        minimum_block: 1,
        preferred_block: 4096,
        maximum_payload: 32 << 20,
        block_sizes_given: true,
        style,
        contexts: (7..)
            .zip(contexts)
            .map(|(id, name)| Context {
                name: name.to_owned(),
                id,
            })
            .collect(),
        fenced: false,
        ordered: false,
        integrity: false,
        memory: None,
        name: None,
        description: None,
    };
    let opened = Opened {
        socket: ours.into(),
        export,
        surplus: BytesMut::new(),
    };
    (
        Connection::start(opened, options).unwrap(),
        Script {
            socket: theirs,
            style,
        },
    )
}

/// Submits without a kick; the outcome arrives on the channel, and a second one would too.
fn submit(connection: &Connection, command: Command) -> Receiver<Outcome> {
    let (sender, outcome) = mpsc::channel();
    connection.submit(
        command,
        Completion::new(move |outcome| sender.send(outcome).unwrap()),
    );
    outcome
}

fn ask(connection: &Connection, command: Command) -> Receiver<Outcome> {
    let outcome = submit(connection, command);
    connection.kick();
    outcome
}

/// The one outcome of a request: there is no second.
fn only(outcome: Receiver<Outcome>) -> Outcome {
    let first = outcome.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(outcome.recv(), Err(mpsc::RecvError), "completed twice");
    first
}

const READ: Command = Command::Read {
    offset: 4096,
    length: 1000,
};

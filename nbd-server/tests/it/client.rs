//! A client that sends what it is told to, right or wrong. Written from the protocol document alone, so that a mistake
//! of the protocol crate can't hide itself.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub const EXPORT_NAME: u32 = 1;
pub const ABORT: u32 = 2;
pub const LIST: u32 = 3;
pub const STARTTLS: u32 = 5;
pub const INFO: u32 = 6;
pub const GO: u32 = 7;
pub const STRUCTURED_REPLY: u32 = 8;
pub const LIST_META_CONTEXT: u32 = 9;
pub const SET_META_CONTEXT: u32 = 10;
pub const EXTENDED_HEADERS: u32 = 11;

pub const ACK: u32 = 1;
pub const REP_SERVER: u32 = 2;
pub const REP_META_CONTEXT: u32 = 4;
pub const ERR_UNSUP: u32 = 0x8000_0001;
pub const ERR_POLICY: u32 = 0x8000_0002;
pub const ERR_INVALID: u32 = 0x8000_0003;
pub const ERR_UNKNOWN: u32 = 0x8000_0006;

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;

pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 2;
pub const DF: u16 = 4;
pub const REQ_ONE: u16 = 8;
pub const FAST_ZERO: u16 = 16;

pub const EPERM: u32 = 1;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;

/// A connection that speaks byte by byte.
pub struct Client {
    pub stream: UnixStream,
    structured: bool,
}

/// A simple reply, or one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub cookie: u64,
    pub error: u32,
    pub done: bool,
    pub kind: u16,
    pub payload: Vec<u8>,
}

impl Client {
    /// Connects and takes the greeting; sends no client flags.
    pub fn greet(path: &Path) -> Client {
        let stream = UnixStream::connect(path).unwrap();
        // A server that does not answer fails the test instead of hanging it.
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut client = Client {
            stream,
            structured: false,
        };
        assert_eq!(client.bytes(18), b"NBDMAGICIHAVEOPT\0\x03");
        client
    }

    /// Connects and says that it speaks fixed newstyle without zeroes.
    pub fn connect(path: &Path) -> Client {
        let mut client = Client::greet(path);
        client.send(&3u32.to_be_bytes());
        client
    }

    /// Ready to send requests that are answered by simple replies.
    pub fn attach(path: &Path, export: &str) -> Client {
        let mut client = Client::connect(path);
        assert_eq!(client.go(export), ACK);
        client
    }

    /// Ready to send requests that are answered in chunks; with `base:allocation` as context 1.
    pub fn attach_structured(path: &Path, export: &str) -> Client {
        let mut client = Client::connect(path);
        client.structured(export);
        assert_eq!(client.go(export), ACK);
        client
    }

    pub fn structured(&mut self, export: &str) {
        assert_eq!(self.option(STRUCTURED_REPLY, b"").last().unwrap().0, ACK);
        let replies = self.option(SET_META_CONTEXT, &meta(export, &["base:allocation"]));
        assert_eq!(replies.len(), 2, "{replies:?}");
        self.structured = true;
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn number<const N: usize>(&mut self) -> [u8; N] {
        self.bytes(N).try_into().unwrap()
    }

    /// Sends an option and takes all replies up to the last: type and data of each.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send(&option_bytes(option, data));
        let mut replies = Vec::new();
        loop {
            assert_eq!(u64::from_be_bytes(self.number()), 0x0003_e889_0455_65a9);
            assert_eq!(u32::from_be_bytes(self.number()), option);
            let kind = u32::from_be_bytes(self.number());
            let length = u32::from_be_bytes(self.number()) as usize;
            replies.push((kind, self.bytes(length)));
            if kind == ACK || kind & 0x8000_0000 != 0 {
                return replies;
            }
        }
    }

    /// GO; returns the type of the last reply.
    pub fn go(&mut self, export: &str) -> u32 {
        self.option(GO, &go_data(export)).last().unwrap().0
    }

    /// Sends a compact request without payload.
    pub fn request(&mut self, kind: u16, flags: u16, cookie: u64, offset: u64, length: u32) {
        self.send(&request_bytes(kind, flags, cookie, offset, length));
    }

    /// Sends a WRITE.
    pub fn write(&mut self, flags: u16, cookie: u64, offset: u64, data: &[u8]) {
        let mut message = request_bytes(WRITE, flags, cookie, offset, data.len() as u32);
        message.extend_from_slice(data);
        self.send(&message);
    }

    /// Takes one reply; `data` bytes follow a simple one that succeeded.
    pub fn answer(&mut self, data: usize) -> Answer {
        match u32::from_be_bytes(self.number()) {
            0x6744_6698 => {
                let error = u32::from_be_bytes(self.number());
                let cookie = u64::from_be_bytes(self.number());
                let payload = if error == 0 {
                    self.bytes(data)
                } else {
                    Vec::new()
                };
                Answer {
                    cookie,
                    error,
                    done: true,
                    kind: 0,
                    payload,
                }
            }
            0x668e_33ef => {
                assert!(self.structured, "a chunk without negotiation");
                let flags = u16::from_be_bytes(self.number());
                let kind = u16::from_be_bytes(self.number());
                let cookie = u64::from_be_bytes(self.number());
                let length = u32::from_be_bytes(self.number()) as usize;
                let payload = self.bytes(length);
                let error = match kind & 0x8000 {
                    0 => 0,
                    _ => u32::from_be_bytes(payload[..4].try_into().unwrap()),
                };
                Answer {
                    cookie,
                    error,
                    done: flags & 1 == 1,
                    kind,
                    payload,
                }
            }
            magic => panic!("neither a reply nor a chunk: {magic:#x}"),
        }
    }

    /// One command that needs no data back; returns its error.
    pub fn call(&mut self, kind: u16, flags: u16, offset: u64, length: u32) -> u32 {
        self.request(kind, flags, 77, offset, length);
        let answer = self.answer(0);
        assert_eq!((answer.cookie, answer.done), (77, true));
        answer.error
    }

    /// One WRITE; returns its error.
    pub fn call_write(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        self.write(flags, 78, offset, data);
        let answer = self.answer(0);
        assert_eq!((answer.cookie, answer.done), (78, true));
        answer.error
    }

    /// One READ over simple replies.
    pub fn call_read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        self.request(READ, 0, 79, offset, length);
        let answer = self.answer(length as usize);
        assert_eq!((answer.cookie, answer.error), (79, 0));
        answer.payload
    }

    /// All chunks of one request.
    pub fn chunks(&mut self) -> Vec<Answer> {
        let mut chunks = vec![self.answer(0)];
        while !chunks.last().unwrap().done {
            chunks.push(self.answer(0));
        }
        chunks
    }

    /// Waits until the server has closed the connection; whatever it still sends is dropped.
    pub fn wait_for_close(&mut self) {
        let mut scratch = [0; 4096];
        loop {
            match self.stream.read(&mut scratch) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the server keeps the connection open: {error}"),
            }
        }
    }
}

pub fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

pub fn request_bytes(kind: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// Data of GO and INFO, asking for nothing in particular.
pub fn go_data(export: &str) -> Vec<u8> {
    let mut data = (export.len() as u32).to_be_bytes().to_vec();
    data.extend(export.as_bytes());
    data.extend(0u16.to_be_bytes());
    data
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn meta(export: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (export.len() as u32).to_be_bytes().to_vec();
    data.extend(export.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

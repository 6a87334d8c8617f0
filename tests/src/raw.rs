//! A bare NBD connection: sends what it is told, right or wrong, and shows the bytes that come back.
//!
//! Written from the protocol document on its own, so that it agrees with our libraries only if both are right.

use std::io::{self, Read, Write};
use std::time::Duration;

use crate::servers::{Connection, Endpoint};

/// Client flags of an ordinary client: fixed newstyle, no zeroes.
pub const ORDINARY_CLIENT: u32 = 3;

/// `NBD_OPT_*` numbers.
pub mod option {
    #![allow(missing_docs, reason = "named as in the protocol document")]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// `NBD_REP_*` numbers.
pub mod reply {
    #![allow(missing_docs, reason = "named as in the protocol document")]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    pub const ERR_POLICY: u32 = 0x8000_0002;
    pub const ERR_INVALID: u32 = 0x8000_0003;
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
}

/// `NBD_CMD_*` numbers.
pub mod command {
    #![allow(missing_docs, reason = "named as in the protocol document")]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// What a server answered to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionReply {
    /// The option that it answers.
    pub option: u32,
    /// `NBD_REP_*`.
    pub kind: u32,
    /// What came with it.
    pub data: Vec<u8>,
}

/// What GO tells about an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Export {
    /// Bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
}

/// A connection, past the greeting.
#[derive(Debug)]
pub struct Raw {
    stream: Connection,
}

impl Raw {
    /// Connects, reads the greeting and sends client flags.
    pub fn greet(endpoint: &Endpoint, client_flags: u32) -> io::Result<Raw> {
        let mut stream = endpoint.connect()?;
        let greeting: [u8; 18] = read_array(&mut stream)?;
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT", "greeting");
        stream.write_all(&client_flags.to_be_bytes())?;
        Ok(Raw { stream })
    }

    /// Connects and says GO for an export, with simple replies.
    pub fn go(endpoint: &Endpoint, export: &str) -> io::Result<(Raw, Export)> {
        let mut raw = Raw::greet(endpoint, ORDINARY_CLIENT)?;
        raw.send_option(option::GO, &go_data(export))?;
        let mut found = None;
        loop {
            let answer = raw.read_option_reply()?;
            match answer.kind {
                reply::INFO if answer.data.len() == 12 && answer.data[..2] == [0, 0] => {
                    found = Some(Export {
                        size: u64::from_be_bytes(answer.data[2..10].try_into().expect("8 bytes")),
                        flags: u16::from_be_bytes([answer.data[10], answer.data[11]]),
                    });
                }
                reply::INFO => {}
                reply::ACK => {
                    return found.map(|export| (raw, export)).ok_or_else(|| {
                        io::Error::other("GO was acknowledged without NBD_INFO_EXPORT")
                    });
                }
                _ => {
                    return Err(io::Error::other(format!(
                        "GO was answered with {answer:x?}"
                    )));
                }
            }
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends an option with a true length.
    pub fn send_option(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        self.send(&option_bytes(option, data.len() as u32, data))
    }

    /// Reads one reply to an option.
    pub fn read_option_reply(&mut self) -> io::Result<OptionReply> {
        let magic: [u8; 8] = read_array(&mut self.stream)?;
        assert_eq!(
            u64::from_be_bytes(magic),
            0x0003_e889_0455_65a9,
            "magic of an option reply"
        );
        let option = u32::from_be_bytes(read_array(&mut self.stream)?);
        let kind = u32::from_be_bytes(read_array(&mut self.stream)?);
        let length = u32::from_be_bytes(read_array(&mut self.stream)?);
        assert!(length <= 1 << 20, "an option reply of {length} bytes");
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data)?;
        Ok(OptionReply { option, kind, data })
    }

    /// Sends one option and returns its final reply.
    pub fn ask(&mut self, option: u32, data: &[u8]) -> io::Result<OptionReply> {
        self.send_option(option, data)?;
        loop {
            let answer = self.read_option_reply()?;
            assert_eq!(answer.option, option, "the option that a reply belongs to");
            if !matches!(
                answer.kind,
                reply::SERVER | reply::INFO | reply::META_CONTEXT
            ) {
                return Ok(answer);
            }
        }
    }

    /// Sends a request header; a payload is sent with [`Raw::send`].
    pub fn send_request(
        &mut self,
        flags: u16,
        command: u16,
        cookie: u64,
        offset: u64,
        length: u32,
    ) -> io::Result<()> {
        self.send(&request_bytes(flags, command, cookie, offset, length))
    }

    /// Reads a simple reply: its error number (0 is success) and cookie.
    pub fn read_reply(&mut self) -> io::Result<(u32, u64)> {
        let magic: [u8; 4] = read_array(&mut self.stream)?;
        assert_eq!(
            u32::from_be_bytes(magic),
            0x6744_6698,
            "magic of a simple reply"
        );
        let errno = u32::from_be_bytes(read_array(&mut self.stream)?);
        let cookie = u64::from_be_bytes(read_array(&mut self.stream)?);
        Ok((errno, cookie))
    }

    /// Sends one request with its payload and returns the error number of its reply.
    pub fn call(
        &mut self,
        flags: u16,
        command: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> io::Result<u32> {
        const COOKIE: u64 = 0x1234_5678_9abc_def0;
        self.send_request(flags, command, COOKIE, offset, length)?;
        self.send(payload)?;
        let (errno, cookie) = self.read_reply()?;
        assert_eq!(cookie, COOKIE, "cookie of a reply");
        Ok(errno)
    }

    /// Reads `length` bytes at `offset` of the export.
    pub fn read(&mut self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        match self.call(0, command::READ, offset, length, &[])? {
            0 => {
                let mut data = vec![0; length as usize];
                self.stream.read_exact(&mut data)?;
                Ok(data)
            }
            errno => Err(io::Error::other(format!(
                "READ was answered with error {errno}"
            ))),
        }
    }

    /// How long one read waits before it fails.
    pub fn set_read_timeout(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(limit)
    }

    /// How long one write waits before it fails.
    pub fn set_write_timeout(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_write_timeout(limit)
    }

    /// Whether the server ends the connection within `limit`; what it still sends is thrown away.
    pub fn is_closed_within(&mut self, limit: Duration) -> bool {
        let started = std::time::Instant::now();
        let mut bytes = [0; 4096];
        while started.elapsed() < limit {
            let left = limit
                .saturating_sub(started.elapsed())
                .max(Duration::from_millis(1));
            if self.stream.set_read_timeout(left).is_err() {
                return true;
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => {
                    let waiting = matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    );
                    return !waiting;
                }
            }
        }
        false
    }
}

/// The bytes of an option, with a claimed length of its data.
pub fn option_bytes(option: u32, claimed: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(claimed.to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The bytes of a request's header.
pub fn request_bytes(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// The data of INFO and GO for an export, asking for nothing special.
pub fn go_data(export: &str) -> Vec<u8> {
    let mut data = (export.len() as u32).to_be_bytes().to_vec();
    data.extend(export.as_bytes());
    data.extend([0, 0]);
    data
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn meta_context_data(export: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (export.len() as u32).to_be_bytes().to_vec();
    data.extend(export.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

fn read_array<const N: usize>(stream: &mut Connection) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

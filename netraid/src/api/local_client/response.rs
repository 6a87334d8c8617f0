//! Reads an HTTP/1.1 answer: a bounded head, and a body of a known length, in chunks, or until the end (RFC 9112, 6.3).

use std::io::{self, Read};

/// Bytes of a head that are taken.
const MAX_HEAD: usize = 16 << 10;
/// Bytes of a line between chunks that are taken.
const MAX_CHUNK_LINE: usize = 256;

/// What of the body is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// So many bytes.
    Bytes(u64),
    /// So many bytes of this chunk, then more chunks.
    Chunk(u64),
    /// All until the connection is closed.
    UntilClosed,
    /// The next thing is a chunk's size.
    ChunkSize,
    /// The next thing is the line end after a chunk.
    ChunkEnd,
    /// The next things are trailers.
    Trailers,
    /// Nothing.
    Nothing,
}

/// An answer as it comes from `R`. A read that runs out of time loses nothing: calling again goes on.
#[derive(Debug)]
pub(super) struct Reader<R> {
    source: R,
    /// Read from the source, not used yet; `at` is where the unused part begins.
    buffer: Vec<u8>,
    at: usize,
    /// A line of head or framing, as far as it has come.
    part: Vec<u8>,
    rest: Rest,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(source: R) -> Reader<R> {
        Reader {
            source,
            buffer: Vec::new(),
            at: 0,
            part: Vec::new(),
            rest: Rest::Nothing,
        }
    }

    pub(super) fn source(&mut self) -> &mut R {
        &mut self.source
    }

    /// Reads the head; the status of it.
    pub(super) fn head(&mut self) -> io::Result<u16> {
        loop {
            let mut budget = MAX_HEAD;
            let first = self.short_line(budget)?;
            let status =
                status(&first).ok_or_else(|| garbled("its first line is none of HTTP/1.1"))?;
            let (mut length, mut chunked) = (None, false);
            loop {
                budget = budget.saturating_sub(self.part.len());
                let line = self.short_line(budget)?;
                budget = budget.saturating_sub(line.len() + 2);
                if line.is_empty() {
                    break;
                }
                let (name, value) = line
                    .split_once(':')
                    .ok_or_else(|| garbled("a header has no name"))?;
                let value = value.trim();
                if name.eq_ignore_ascii_case("content-length") {
                    let bytes: u64 = value
                        .parse()
                        .map_err(|_| garbled("its length is no number"))?;
                    if length.replace(bytes).is_some_and(|before| before != bytes) {
                        return Err(garbled("it has two lengths"));
                    }
                } else if name.eq_ignore_ascii_case("transfer-encoding") {
                    if !value.eq_ignore_ascii_case("chunked") {
                        return Err(garbled("its transfer encoding is unknown"));
                    }
                    chunked = true;
                }
            }
            // 1xx: the real one follows.
            if (100..200).contains(&status) {
                continue;
            }
            self.rest = match (status, chunked, length) {
                (204 | 304, _, _) => Rest::Nothing,
                (_, true, None) => Rest::ChunkSize,
                (_, true, Some(_)) => return Err(garbled("it has a length and chunks")),
                (_, false, Some(bytes)) => Rest::Bytes(bytes),
                (_, false, None) => Rest::UntilClosed,
            };
            return Ok(status);
        }
    }

    /// The whole body, if it has at most `most` bytes.
    pub(super) fn body(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let piece = self.piece()?;
            if piece.is_empty() {
                return Ok(body);
            }
            if body.len() + piece.len() > most {
                return Err(garbled(&format!("it has more than {most} bytes")));
            }
            body.extend_from_slice(piece);
            let used = piece.len();
            self.consume(used);
        }
    }

    /// Reads up to the end of a line of the body into `line`, without the line end; false if there is no line any more.
    pub(super) fn line(&mut self, line: &mut Vec<u8>, most: usize) -> io::Result<bool> {
        loop {
            let piece = self.piece()?;
            if piece.is_empty() {
                return Ok(!line.is_empty());
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let text = &piece[..end.unwrap_or(piece.len())];
            if line.len() + text.len() > most {
                return Err(garbled(&format!("a line has more than {most} bytes")));
            }
            line.extend_from_slice(text);
            let used = text.len() + usize::from(end.is_some());
            self.consume(used);
            if end.is_some() {
                return Ok(true);
            }
        }
    }

    /// Bytes of the body that are here, at least one; none only at its end. They stay until [`Reader::consume`].
    fn piece(&mut self) -> io::Result<&[u8]> {
        let most = loop {
            match self.rest {
                Rest::Nothing | Rest::Bytes(0) => return Ok(&[]),
                Rest::Bytes(bytes) => break bytes,
                Rest::UntilClosed => break u64::MAX,
                Rest::Chunk(0) => self.rest = Rest::ChunkEnd,
                Rest::Chunk(bytes) => break bytes,
                Rest::ChunkEnd => {
                    if !self.short_line(MAX_CHUNK_LINE)?.is_empty() {
                        return Err(garbled("a chunk is longer than it says"));
                    }
                    self.rest = Rest::ChunkSize;
                }
                Rest::ChunkSize => {
                    let line = self.short_line(MAX_CHUNK_LINE)?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    if !size.bytes().all(|c| c.is_ascii_hexdigit()) {
                        return Err(garbled("a chunk's size is no number"));
                    }
                    self.rest = match u64::from_str_radix(size, 16) {
                        Ok(0) => Rest::Trailers,
                        Ok(bytes) => Rest::Chunk(bytes),
                        Err(_) => return Err(garbled("a chunk's size is no number")),
                    };
                }
                Rest::Trailers => {
                    if self.short_line(MAX_CHUNK_LINE)?.is_empty() {
                        self.rest = Rest::Nothing;
                    }
                }
            }
        };
        if self.at == self.buffer.len() && !self.fill()? {
            return match self.rest {
                Rest::UntilClosed => {
                    self.rest = Rest::Nothing;
                    Ok(&[])
                }
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let here = &self.buffer[self.at..];
        Ok(&here[..here.len().min(usize::try_from(most).unwrap_or(usize::MAX))])
    }

    fn consume(&mut self, used: usize) {
        self.at += used;
        if let Rest::Bytes(bytes) | Rest::Chunk(bytes) = &mut self.rest {
            *bytes -= used as u64;
        }
    }

    /// A line of head or framing without its end (CR LF, or LF alone), of at most `most` bytes.
    fn short_line(&mut self, most: usize) -> io::Result<String> {
        loop {
            if self.at == self.buffer.len() && !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let here = &self.buffer[self.at..];
            let end = here.iter().position(|byte| *byte == b'\n');
            let text = &here[..end.unwrap_or(here.len())];
            if self.part.len() + text.len() > most {
                return Err(garbled("a line of its head is too long"));
            }
            self.part.extend_from_slice(text);
            self.at += text.len() + usize::from(end.is_some());
            if end.is_some() {
                let mut line = std::mem::take(&mut self.part);
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return String::from_utf8(line).map_err(|_| garbled("its head is no text"));
            }
        }
    }

    /// Reads more; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.at = 0;
        self.buffer.resize(16 << 10, 0);
        let read = loop {
            match self.source.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(*read.as_ref().unwrap_or(&0));
        Ok(read? > 0)
    }
}

fn status(line: &str) -> Option<u16> {
    let rest = line
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let code = rest.get(..3)?;
    let ends = rest.len() == 3 || rest.as_bytes()[3] == b' ';
    (ends && code.bytes().all(|c| c.is_ascii_digit())).then(|| code.parse().ok())?
}

fn garbled(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, and after each runs out of time once.
    struct Slow<'a>(&'a [u8], bool);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let most = buffer.len().min(1);
            self.0.read(&mut buffer[..most])
        }
    }

    fn whole(text: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let mut reader = Reader::new(text);
        Ok((reader.head()?, reader.body(100)?))
    }

    #[test]
    fn bodies_of_all_three_kinds_are_read() {
        let table: [(&[u8], u16, &[u8]); 5] = [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", 200, b"ab"),
            (b"HTTP/1.1 404 \r\ntransfer-encoding: Chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nt: u\r\n\r\n", 404, b"abc"),
            (b"HTTP/1.0 200 OK\r\n\r\nabc", 200, b"abc"),
            (b"HTTP/1.1 204 No Content\r\n\r\nx", 204, b""),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
        ];
        for (text, status, body) in table {
            assert_eq!(
                whole(text).unwrap(),
                (status, body.to_vec()),
                "{}",
                text.escape_ascii()
            );
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(101));
        let endless = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(4000));
        let table: [&[u8]; 14] = [
            b"",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno name\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\na",
            long.as_bytes(),
            endless.as_bytes(),
        ];
        for text in table {
            assert!(whole(text).is_err(), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_body_that_comes_byte_by_byte_with_pauses_loses_nothing() {
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\na\nb\r\n4\r\nc\n\nd\r\n0\r\n\r\n";
        let (head, body) =
            text.split_at(text.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4);
        let mut reader = Reader::new(io::Cursor::new(head));
        reader.head().unwrap();
        let mut reader = Reader {
            source: Slow(body, false),
            buffer: Vec::new(),
            at: 0,
            part: Vec::new(),
            rest: reader.rest,
        };
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        loop {
            match reader.line(&mut line, 10) {
                Ok(true) => lines.push(String::from_utf8(std::mem::take(&mut line)).unwrap()),
                Ok(false) => break,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(lines, ["a", "bc", "", "d"]);
    }
}

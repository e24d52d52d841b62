//! Heads and bodies of HTTP/1.1 messages as they come off a socket.

use anyhow::{Context, Result, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};
use weir_tests::pattern::Digest;

/// The connection ended where a message had not.
#[derive(Debug, thiserror::Error)]
#[error("the connection ended {0}")]
pub(crate) struct Ended(pub(crate) &'static str);

/// A message's first line and its fields, in order and in the case they came in.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// Request line or status line, without its line end.
    pub(crate) first: String,
    /// The fields.
    pub(crate) fields: Vec<(String, String)>,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// A server's buffered socket: blocking, as servers are.
pub(crate) type Reader = BufReader<TcpStream>;

/// A client's socket, as event loops use it: `O_NONBLOCK`, waiting with poll(2). On a socket in a socket
/// map a recv(2) that blocks fails with EAGAIN when anything but data wakes it (seen on Linux 6.18), so
/// Weir leaves clients that block alone.
#[derive(Debug)]
pub(crate) struct Patient {
    pub(crate) stream: TcpStream,
    /// How long to wait for bytes, or for room.
    patience: Duration,
}

impl Patient {
    /// Connects within `patience`.
    pub(crate) fn connect(to: SocketAddr, patience: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, patience).with_context(|| format!("connect {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, patience })
    }

    /// Another handle on the same socket.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        Ok(Self { stream: self.stream.try_clone()?, patience: self.patience })
    }

    /// Waits until the socket is ready.
    pub(crate) fn wait(&self, wanted: PollFlags) -> std::io::Result<()> {
        let limit = Timespec::try_from(self.patience).map_err(std::io::Error::other)?;
        let ready = poll(&mut [PollFd::new(&self.stream, wanted)], Some(&limit))?;
        if ready == 0 { Err(ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                done => return done,
            }
        }
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        loop {
            match self.stream.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Head {
    /// Reads one; `None` when the connection ends before its first byte.
    pub(crate) fn read(from: &mut impl BufRead) -> Result<Option<Self>> {
        let Some(first) = line(from)? else { return Ok(None) };
        let mut fields = Vec::new();
        loop {
            let text = line(from)?.ok_or(Ended("within a head"))?;
            if text.is_empty() {
                return Ok(Some(Self { first, fields }));
            }
            let (name, value) = text.split_once(':').with_context(|| format!("field {text:?}"))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// A field's value; the name's case does not matter.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The n-th word of the first line.
    pub(crate) fn word(&self, index: usize) -> Result<&str> {
        self.first.split(' ').nth(index).with_context(|| format!("first line {:?}", self.first))
    }

    /// A status line's code.
    pub(crate) fn status(&self) -> Result<u16> {
        self.word(1)?.parse().with_context(|| format!("status line {:?}", self.first))
    }

    /// How a request's body ends.
    pub(crate) fn request_framing(&self) -> Result<Framing> {
        Ok(self.framing()?.unwrap_or(Framing::Length(0)))
    }

    /// How an answer's body ends.
    pub(crate) fn answer_framing(&self) -> Result<Framing> {
        Ok(match self.status()? {
            100..200 | 204 | 304 => Framing::Length(0),
            _ => self.framing()?.unwrap_or(Framing::Close),
        })
    }

    /// True where the sender will keep the connection.
    pub(crate) fn keeps_alive(&self) -> bool {
        let close = |value: &str| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("close"));
        !self.field("connection").is_some_and(close)
    }

    fn framing(&self) -> Result<Option<Framing>> {
        if self.field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return Ok(Some(Framing::Chunked));
        }
        self.field("content-length").map(|length| Ok(Framing::Length(length.parse()?))).transpose()
    }
}

/// Reads a body to its end, and shows each piece as it comes.
pub(crate) fn body(
    from: &mut impl BufRead,
    framing: Framing,
    mut piece: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    match framing {
        Framing::Length(length) => exactly(from, length, &mut piece),
        Framing::Close => loop {
            let mut buffer = [0; 1 << 14];
            let count = from.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            piece(buffer.get(..count).unwrap_or_default())?;
        },
        Framing::Chunked => loop {
            let size = line(from)?.ok_or(Ended("within a chunked body"))?;
            let digits = size.split(';').next().unwrap_or_default();
            let length = u64::from_str_radix(digits, 16).with_context(|| format!("chunk size {size:?}"))?;
            exactly(from, length, &mut piece)?;
            let end = line(from)?.ok_or(Ended("within a chunk"))?;
            ensure!(end.is_empty(), "a chunk longer than its size: {end:?}");
            if length == 0 {
                return Ok(());
            }
        },
    }
}

/// Reads a body to its end; only its digest stays.
pub(crate) fn digest(from: &mut impl BufRead, framing: Framing) -> Result<Digest> {
    let mut digest = Digest::default();
    body(from, framing, |piece| {
        digest.add(piece);
        Ok(())
    })?;
    Ok(digest)
}

fn exactly(from: &mut impl BufRead, length: u64, piece: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut left = length;
    while left > 0 {
        let buffer = from.fill_buf()?;
        if buffer.is_empty() {
            return Err(
                anyhow!(Ended("within a body")).context(format!("{left} of {length} bytes are missing"))
            );
        }
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        piece(buffer.get(..take).unwrap_or_default())?;
        from.consume(take);
        left -= take as u64;
    }
    Ok(())
}

/// One line without its CRLF; `None` at the end of the stream.
fn line(from: &mut impl BufRead) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    if from.take(1 << 20).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    ensure!(bytes.ends_with(b"\n"), Ended("within a line"));
    let text = String::from_utf8(bytes)?;
    let text = text.strip_suffix("\r\n").with_context(|| format!("no line end: {text:?}"))?;
    Ok(Some(text.to_owned()))
}

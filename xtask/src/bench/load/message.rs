//! What the load generator and the server say to each other. Every request carries a fresh nonce and
//! the length it wants; the answer's body has that length and begins with that nonce, so that bytes
//! which were lost, doubled or swapped between connections are noticed.

use anyhow::{Context, Result, bail, ensure};

/// Hexadecimal digits of a nonce; also the shortest body that an answer can have.
pub(super) const NONCE_LEN: usize = 16;

/// Longest head that either side accepts.
const MAX_HEAD: usize = 4096;

/// Writes a request for `body` bytes into `out`, replacing what was there.
pub(super) fn write_request(out: &mut Vec<u8>, host: &str, nonce: u64, body: usize, reuse: bool) {
    use std::io::Write;
    out.clear();
    let connection = if reuse { "" } else { "Connection: close\r\n" };
    // A Vec takes any number of bytes.
    let _infallible = write!(
        out,
        "GET /{body}/{nonce:016x} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: weir-bench\r\n{connection}\r\n"
    );
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// To be repeated at the start of the answer's body.
    pub(super) nonce: [u8; NONCE_LEN],
    /// Length of the answer's body.
    pub(super) body: usize,
    /// Whether the connection stays open.
    pub(super) reuse: bool,
    /// Bytes that the request took.
    pub(super) len: usize,
}

/// Reads one request from the start of `bytes`; `None` while it is incomplete.
pub(super) fn parse_request(bytes: &[u8]) -> Result<Option<Request>> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(len) = head.parse(bytes).context("not a request")? else {
        ensure!(bytes.len() < MAX_HEAD, "a request head of more than {MAX_HEAD} bytes");
        return Ok(None);
    };
    let path = head.path.context("a request without a path")?;
    let (body, nonce) = path
        .strip_prefix('/')
        .and_then(|path| path.split_once('/'))
        .with_context(|| format!("not a path of ours: {path}"))?;
    let reuse = !head.headers.iter().any(|field| {
        field.name.eq_ignore_ascii_case("connection") && field.value.eq_ignore_ascii_case(b"close")
    });
    Ok(Some(Request {
        nonce: nonce.as_bytes().try_into().with_context(|| format!("not a nonce: {nonce}"))?,
        body: body.parse().with_context(|| format!("not a length: {body}"))?,
        reuse,
        len,
    }))
}

/// Writes the head of an answer and its nonce into `out`; what follows are `body - NONCE_LEN` bytes of
/// filling.
pub(super) fn write_answer_head(out: &mut Vec<u8>, request: &Request) {
    use std::io::Write;
    let connection = if request.reuse { "" } else { "Connection: close\r\n" };
    // A Vec takes any number of bytes.
    let _infallible = write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{connection}\r\n", request.body);
    out.extend_from_slice(&request.nonce);
}

/// An answer that is being received, checked against what was asked for.
#[derive(Debug, Default)]
pub(super) struct Answer {
    nonce: [u8; NONCE_LEN],
    body: usize,
    /// The head and the nonce, as long as they are incomplete.
    start: Vec<u8>,
    /// Body bytes that are still to come; `None` until the head and the nonce are there.
    missing: Option<usize>,
}

impl Answer {
    /// Expects the answer to the request with `nonce` for `body` bytes.
    pub(super) fn expect(&mut self, nonce: u64, body: usize) {
        self.nonce = hex(nonce);
        self.body = body;
        self.start.clear();
        self.missing = None;
    }

    /// Takes the next bytes of the connection; true when the answer is complete. An error means that
    /// the answer is not the one that was asked for.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<bool> {
        let taken = match self.missing {
            Some(_) => bytes.len(),
            None if self.start.is_empty() => {
                let taken = self.begin(bytes)?;
                if self.missing.is_none() {
                    self.start.extend_from_slice(bytes);
                }
                taken
            }
            None => {
                let mut start = std::mem::take(&mut self.start);
                start.extend_from_slice(bytes);
                let taken = self.begin(&start)?;
                self.start = start;
                taken
            }
        };
        let Some(missing) = self.missing else { return Ok(false) };
        let left = missing.checked_sub(taken).context("more bytes than the answer has")?;
        self.missing = Some(left);
        Ok(left == 0)
    }

    /// Parses the head and compares the nonce. Sets `missing` to the body's length and returns how many
    /// of the body's bytes are in `bytes`.
    fn begin(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(len) = head.parse(bytes).context("not an answer")? else {
            ensure!(bytes.len() < MAX_HEAD, "an answer head of more than {MAX_HEAD} bytes");
            return Ok(0);
        };
        let status = head.code.unwrap_or_default();
        ensure!(status == 200, "status {status}");
        let length = head
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case("content-length"))
            .context("an answer without a content-length")?;
        let length: usize = std::str::from_utf8(length.value)?.parse()?;
        ensure!(length == self.body, "an answer of {length} bytes instead of {}", self.body);
        let body = bytes.get(len..).unwrap_or_default();
        let Some(nonce) = body.get(..NONCE_LEN) else { return Ok(0) };
        if nonce != self.nonce {
            bail!("the answer to another request: nonce {}", String::from_utf8_lossy(nonce));
        }
        self.missing = Some(self.body);
        Ok(body.len())
    }
}

fn hex(nonce: u64) -> [u8; NONCE_LEN] {
    let mut digits = [0; NONCE_LEN];
    for (digit, shift) in digits.iter_mut().zip((0..64).step_by(4).rev()) {
        let value = u8::try_from((nonce >> shift) & 0xf).unwrap_or_default();
        *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
    }
    digits
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn answer_to(nonce: u64, body: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let request = Request { nonce: hex(nonce), body, reuse: true, len: 0 };
        write_answer_head(&mut bytes, &request);
        bytes.resize(bytes.len() + body - NONCE_LEN, b'w');
        bytes
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        write_request(&mut bytes, "10.0.0.1:8080", 0xab, 100, false);
        let request = parse_request(&bytes).unwrap().unwrap();
        assert_eq!(request, Request { nonce: hex(0xab), body: 100, reuse: false, len: bytes.len() });
        assert_eq!(parse_request(&bytes[..bytes.len() - 1]).unwrap(), None);
    }

    #[test]
    fn an_answer_is_complete_with_its_last_byte_however_it_was_cut() {
        let bytes = answer_to(7, 100);
        for cut in 1..bytes.len() {
            let mut answer = Answer::default();
            answer.expect(7, 100);
            assert!(!answer.feed(&bytes[..cut]).unwrap(), "cut at {cut}");
            assert!(answer.feed(&bytes[cut..]).unwrap(), "cut at {cut}");
        }
    }

    #[test]
    fn an_answer_to_another_request_is_refused() {
        let mut answer = Answer::default();
        answer.expect(8, 100);
        assert!(answer.feed(&answer_to(7, 100)).is_err());
    }

    #[test]
    fn an_answer_of_another_length_is_refused() {
        let mut answer = Answer::default();
        answer.expect(7, 101);
        assert!(answer.feed(&answer_to(7, 100)).is_err());
    }

    #[test]
    fn bytes_after_the_answer_are_refused() {
        let mut answer = Answer::default();
        answer.expect(7, 100);
        let mut bytes = answer_to(7, 100);
        bytes.push(b'w');
        assert!(answer.feed(&bytes).is_err());
    }
}

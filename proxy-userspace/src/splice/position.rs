//! Where in a client's bytes the reading is. A pair may be armed only where one request has ended and
//! nothing of the next has been read; hyper keeps that to itself.

use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Bytes of an end of head: CR LF CR LF.
const END_OF_HEAD: u32 = 4;

/// See the module.
#[derive(Default)]
pub(super) struct Position {
    /// Bytes of the client that have been read.
    read: AtomicU64,
    /// How much of an end of head has been matched.
    matched: AtomicU32,
    head_end: AtomicU64,
    request_end: AtomicU64,
    any_injected: AtomicBool,
    injected: Mutex<Option<Bytes>>,
}

impl Position {
    /// Bytes have been read.
    pub(super) fn advance(&self, bytes: &[u8]) {
        let before = self.read.load(Relaxed);
        self.read.store(before + bytes.len() as u64, Relaxed);
        let mut matched = self.matched.load(Relaxed);
        if matched == END_OF_HEAD {
            return;
        }
        for (at, byte) in bytes.iter().enumerate() {
            matched = match (matched, byte) {
                (0 | 2, b'\r') | (1 | 3, b'\n') => matched + 1,
                (_, b'\r') => 1,
                _ => 0,
            };
            if matched == END_OF_HEAD {
                self.head_end.store(before + at as u64 + 1, Relaxed);
                break;
            }
        }
        self.matched.store(matched, Relaxed);
    }

    /// hyper has a request's head; `body` is its length where that is known.
    pub(super) fn request_begins(&self, body: Option<u64>) {
        let known = self.matched.swap(0, Relaxed) == END_OF_HEAD;
        let end = body.filter(|_| known).map(|body| self.head_end.load(Relaxed) + body);
        self.request_end.store(end.unwrap_or(u64::MAX), Relaxed);
    }

    /// How many bytes have been read, modulo 2^32, if they end where the last request ended.
    pub(super) fn between_requests(&self) -> Option<u32> {
        let read = self.read.load(Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "counted modulo 2^32")]
        (read == self.request_end.load(Relaxed)).then_some(read as u32)
    }

    /// Puts bytes before what the client sends next.
    pub(super) fn inject(&self, request: Bytes) {
        *self.injected.lock() = Some(request);
        self.any_injected.store(true, Relaxed);
    }

    /// What was put there.
    pub(super) fn take_injected(&self) -> Option<Bytes> {
        if !self.any_injected.swap(false, Relaxed) {
            return None;
        }
        self.injected.lock().take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn after(pieces: &[&[u8]], body: Option<u64>) -> Position {
        let position = Position::default();
        for piece in pieces {
            position.advance(piece);
        }
        position.request_begins(body);
        position
    }

    #[test]
    fn the_end_of_a_request_is_known_however_its_head_was_cut() {
        for at in 0..HEAD.len() {
            let (one, two) = HEAD.split_at(at);
            let position = after(&[one, two], Some(3));
            assert_eq!(position.between_requests(), None);
            position.advance(b"abc");
            assert_eq!(position.between_requests(), Some(31), "cut at {at}");
        }
    }

    #[test]
    fn a_request_that_was_read_together_with_the_next_one_has_no_end() {
        let both = [HEAD, HEAD].concat();
        assert_eq!(after(&[&both], Some(0)).between_requests(), None);
    }

    #[test]
    fn a_body_of_unknown_length_has_no_end() {
        assert_eq!(after(&[HEAD], None).between_requests(), None);
    }

    #[test]
    fn the_next_request_is_measured_anew() {
        let position = after(&[HEAD], Some(0));
        assert_eq!(position.between_requests(), Some(28));
        position.advance(HEAD);
        assert_eq!(position.between_requests(), None);
        position.request_begins(Some(0));
        assert_eq!(position.between_requests(), Some(56));
    }
}

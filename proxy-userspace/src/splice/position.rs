//! Where in a client's bytes the reading is. A pair may be armed only where one request has ended and
//! nothing of the next has been read; hyper keeps that to itself, but what is admitted to it is known.

use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// See the module.
#[derive(Default)]
pub(super) struct Position {
    /// Bytes of the client that have been read.
    read: AtomicU64,
    /// Requests whose heads have been admitted.
    admitted: AtomicU64,
    /// All that was read belongs to those, and they are complete.
    is_between: AtomicBool,
    /// Requests that hyper has come to.
    begun: AtomicU64,
    /// The latest was none of the client's bytes.
    was_injected: AtomicBool,
    any_injected: AtomicBool,
    injected: Mutex<Option<Bytes>>,
}

impl Position {
    /// Bytes have been read.
    pub(super) fn advance(&self, bytes: usize) {
        self.read.store(self.read.load(Relaxed) + bytes as u64, Relaxed);
    }

    /// How far what was read has been admitted.
    pub(super) fn admitted(&self, requests: u64, is_between: bool) {
        self.admitted.store(requests, Relaxed);
        self.is_between.store(is_between, Relaxed);
    }

    /// hyper has a request's head; it was injected, or it was not.
    pub(super) fn request_begins(&self, injected: bool) {
        self.was_injected.store(injected, Relaxed);
        if !injected {
            self.begun.store(self.begun.load(Relaxed) + 1, Relaxed);
        }
    }

    /// How many bytes have been read, modulo 2^32, if they end where the last request ended.
    pub(super) fn between_requests(&self) -> Option<u32> {
        let between = self.is_between.load(Relaxed)
            && !self.was_injected.load(Relaxed)
            && self.begun.load(Relaxed) == self.admitted.load(Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "counted modulo 2^32")]
        between.then_some(self.read.load(Relaxed) as u32)
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

    #[test]
    fn a_request_has_ended_where_it_was_admitted_whole_and_hyper_has_come_to_it() {
        let position = Position::default();
        position.advance(31);
        position.admitted(1, true);
        assert_eq!(position.between_requests(), None);
        position.request_begins(false);
        assert_eq!(position.between_requests(), Some(31));
    }

    #[test]
    fn while_a_body_or_the_next_head_is_being_read_no_request_has_ended() {
        let position = Position::default();
        position.advance(31);
        position.admitted(1, false);
        position.request_begins(false);
        assert_eq!(position.between_requests(), None);
        position.advance(3);
        position.admitted(1, true);
        assert_eq!(position.between_requests(), Some(34));
    }

    #[test]
    fn of_two_requests_that_were_read_together_the_second_ends_the_reading() {
        let position = Position::default();
        position.advance(56);
        position.admitted(2, true);
        position.request_begins(false);
        assert_eq!(position.between_requests(), None);
        position.request_begins(false);
        assert_eq!(position.between_requests(), Some(56));
    }

    #[test]
    fn behind_a_request_that_was_injected_there_is_no_place_until_the_client_has_sent_one() {
        let position = Position::default();
        position.advance(28);
        position.admitted(1, true);
        position.request_begins(false);
        position.request_begins(true);
        assert_eq!(position.between_requests(), None);
        position.advance(28);
        position.admitted(2, true);
        position.request_begins(false);
        assert_eq!(position.between_requests(), Some(56));
    }
}

//! What stands between a client's socket and hyper: bytes are let through as they are admitted.

use super::{Downstream, Phase};
use crate::admission::Framer;
use bytes::{Bytes, BytesMut};

/// See the module.
pub(super) struct Gate {
    framer: Framer,
    /// The beginning of a head that is not whole: at most one of the longest, and what was read with it.
    held: BytesMut,
    /// May pass.
    ready: Bytes,
}

impl Gate {
    /// `replay` has been read from the client already.
    pub(super) fn new(shared: &Downstream, replay: &[u8]) -> Self {
        let framer = Framer::of_client(shared.relay.rules.clone(), shared.wire.is_secure());
        let framer = framer.admitting(shared.choices);
        let mut gate = Self { framer, held: BytesMut::new(), ready: Bytes::new() };
        if !replay.is_empty() {
            shared.splice.read(replay.len());
            gate.held.extend_from_slice(replay);
            gate.sift(shared);
        }
        gate
    }

    /// Bytes that were not read from the client and need not be judged.
    pub(super) fn inject(&mut self, bytes: Bytes) {
        self.ready = bytes;
    }

    /// What may pass of the bytes that were kept back: at most so much of it.
    pub(super) fn take(&mut self, room: usize) -> Bytes {
        self.ready.split_to(room.min(self.ready.len()))
    }

    /// Nothing more is going to pass.
    pub(super) fn is_shut(&self) -> bool {
        self.framer.refusal().is_some()
    }

    /// What the client still sends is not looked at.
    pub(super) fn is_over(&self) -> bool {
        self.framer.is_over()
    }

    /// Nothing passes until the answer to an upgrade is known; then the bytes behind it are the next request.
    pub(super) fn waits_for_answer(&mut self, shared: &Downstream) -> bool {
        if !self.framer.is_switching() {
            return false;
        }
        let Some(behind) = shared.switch.release() else { return true };
        self.framer.stays();
        self.held = behind;
        self.sift(shared);
        false
    }

    /// Bytes of the next request wait for the rest of its head.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes have been read: how many of them may pass as they are. The others are kept back.
    pub(super) fn pass(&mut self, shared: &Downstream, bytes: &[u8]) -> usize {
        shared.splice.read(bytes.len());
        // The rest of a body whose request has been answered is no request.
        if shared.phase() == Phase::Idle && self.framer.awaits_head() {
            shared.head_begins();
        }
        if !self.held.is_empty() {
            self.held.extend_from_slice(bytes);
            self.sift(shared);
            return 0;
        }
        let passed = self.framer.admit(bytes);
        self.held.extend_from_slice(bytes.get(passed..).unwrap_or_default());
        self.tell(shared);
        passed
    }

    fn sift(&mut self, shared: &Downstream) {
        let passed = self.framer.admit(&self.held);
        self.ready = self.held.split_to(passed).freeze();
        self.tell(shared);
    }

    fn tell(&mut self, shared: &Downstream) {
        if let Some((refusal, part)) = self.framer.refusal() {
            shared.refuse(refusal, part);
            self.held = BytesMut::new();
        }
        if self.framer.is_switching() {
            shared.switch.hold(std::mem::take(&mut self.held));
        }
        shared.splice.admitted(self.framer.heads(), self.framer.is_between());
    }
}

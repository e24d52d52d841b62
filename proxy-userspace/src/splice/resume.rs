//! Goes on with a request where the kernel half cannot: its kept head is put before hyper, and what is to
//! be done with it beside.

use super::{Splice, alarm::Carried};
use crate::{
    datapath::{Slot, now_ns},
    flow::Reason,
};
use bytes::BytesMut;
use proxy_common::pair;
use std::{sync::atomic::Ordering::Relaxed, task::Poll, time::Duration};
use tokio::time::Instant;

/// A request that the kernel half began and the agent goes on with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Resumed {
    /// When its first byte was sent.
    pub(crate) began: Instant,
    /// What is to be done with it.
    pub(crate) task: Task,
}

/// See [`Resumed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    /// Read the answer from the endpoint that has the request.
    ReadAnswer,
    /// Answer it without one.
    Refuse(Reason),
    /// Report it, with the status that the client may have seen: its connection ends within the exchange.
    Cut(Reason, u16),
}

impl Splice {
    /// The endpoint sent something to the agent, or its connection has ended.
    pub(super) fn disturbed(&self) -> Poll<()> {
        let turned = self.slot.lock().as_ref().is_some_and(|slot| slot.turn() && slot.resume());
        if turned {
            if let Some(upstream) = self.upstream.lock().as_mut() {
                upstream.owes_answer = true;
            }
            self.resume(Task::ReadAnswer);
        } else if self.take_back() {
            // Nothing was due: the endpoint has closed its idle connection, as it may.
            self.part();
            *self.upstream.lock() = None;
        } else if let Some(word) = self.word().filter(|word| pair::is_half_done(*word)) {
            if !self.cut(word, Reason::UpstreamReset) {
                return self.disturbed();
            }
        } else {
            // A request is just being handed over, or back: `waits` is set.
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// The exchange has taken too long.
    pub(super) fn late(&self) -> Poll<()> {
        let (word, carried) = self.carried();
        let Some(reason) = self.alarm.late(carried, now_ns()) else {
            // It rang for an exchange that was answered just in time.
            return Poll::Pending;
        };
        if !self.slot.lock().as_ref().is_some_and(|slot| slot.give_up(word)) {
            let answered = matches!(carried, Carried::Answered(_)) && self.carried().0 == word;
            return if answered && self.cut(word, reason) { Poll::Ready(()) } else { Poll::Pending };
        }
        self.part();
        *self.upstream.lock() = None;
        self.resume(Task::Refuse(reason));
        Poll::Ready(())
    }

    /// The client has gone: whatever is under way is cut short.
    pub(crate) fn abandon(&self) {
        if let Some(word) = self.word() {
            // Or it is complete by now, and counted.
            let _cut = self.cut(word, Reason::DownstreamReset);
        }
    }

    fn word(&self) -> Option<u64> {
        self.slot.lock().as_ref().map(Slot::word)
    }

    /// Ends the exchange of this word, which hyper does not know of, and the connection with it. False where
    /// the kernel half has just brought it to its end, and counted it.
    fn cut(&self, word: u64, reason: Reason) -> bool {
        let status = self.slot.lock().as_ref().filter(|slot| slot.cut(word)).map(Slot::status);
        let Some(status) = status else { return false };
        self.part();
        *self.upstream.lock() = None;
        self.is_cut.store(true, Relaxed);
        self.resume(Task::Cut(reason, u16::try_from(status).unwrap_or_default()));
        true
    }

    /// What hyper writes is not for the client, whose connection ends with a reset.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Relaxed)
    }

    fn resume(&self, task: Task) {
        let slot = self.slot.lock();
        let Some(slot) = slot.as_ref() else { return };
        let (head, whole) = slot.request();
        // hyper wants to read the whole request; the endpoint has it, or nobody needs it. One that is refused while
        // its body is still to come ends the connection, as a relayed one does.
        let is_half = matches!(task, Task::Refuse(_)) && slot.has_open_body();
        let mut request = BytesMut::from(head);
        if !is_half {
            request.resize(whole as usize, 0);
        }
        let began = instant(slot.times().0);
        self.armed.store(false, Relaxed);
        self.waits.store(false, Relaxed);
        self.body_apart.store(slot.has_open_body(), Relaxed);
        *self.resumed.lock() = Some(Resumed { began, task });
        self.position.inject(request.freeze());
    }
}

/// The kernel's `CLOCK_MONOTONIC` nanoseconds as tokio's time.
pub(super) fn instant(ns: u64) -> Instant {
    let ago = now_ns().saturating_sub(ns);
    let now = Instant::now();
    now.checked_sub(Duration::from_nanos(ago)).unwrap_or(now)
}

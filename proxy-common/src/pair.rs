//! The armed pair: a client's socket and an endpoint's, between which the kernel half carries requests
//! and answers. Its state word is shared memory that both halves change by compare-and-swap; the
//! transitions here are pure, so that both make the same ones and a model can be checked.
//!
//! An exchange ends when neither [`REQUEST_OPEN`] nor an answer bit is left. Whoever takes
//! [`KERNEL`] away owns what follows: at an idle word that is the next request, within an exchange the
//! answer. ARCHITECTURE.md draws it; `tests/pair_model.rs` checks it.

use crate::{abi::abi, flow::FlowKey};

/// The kernel half may begin exchanges, and carries the one under way.
pub const KERNEL: u64 = 1;
/// Bytes of the request's body are still to come; they go where its head went, whoever owns the pair.
pub const REQUEST_OPEN: u64 = 1 << 1;
/// The answer has not begun.
pub const ANSWER_DUE: u64 = 1 << 2;
/// The answer has begun.
pub const ANSWER_OPEN: u64 = 1 << 3;
/// The answer goes to the agent's upstream socket: the agent passes it on.
pub const TURNED: u64 = 1 << 4;
/// The client's program has the pair for itself until its request is handed to the endpoint: it may
/// find the endpoint gone, and then the request must be the agent's once, not twice.
pub const BEGINNING: u64 = 1 << 5;
/// The last message of the answer is being handed to the client and the exchange counted: until that is
/// done nobody else may end it, or it would be counted twice.
pub const ANSWER_ENDS: u64 = 1 << 6;

/// An exchange is under way in the kernel half.
const BUSY: u64 = REQUEST_OPEN | ANSWER_DUE | ANSWER_OPEN | BEGINNING;
/// Counts exchanges and take-backs, so that a compare-and-swap never mistakes a word for an older one
/// whose fields were others.
const EPOCH: u64 = 0x00ff_ff00;
const EPOCH_ONE: u64 = 0x100;
/// The low 32 bits of how many bytes the client had sent to the agent when the pair was armed.
const SEEN_SHIFT: u32 = 32;

abi! {
    /// One pair: an entry of the array that both halves map. All fields but the word are written by
    /// one side at a time: the agent while it owns the pair, the kernel half while it does.
    Pair [2224] {
        /// See the module.
        word: u64,
        /// When the exchange began, `CLOCK_MONOTONIC` nanoseconds.
        started_ns: u64,
        /// When the request's last byte passed; 0 while there are more to come.
        asked_ns: u64,
        /// When its answer began.
        answered_ns: u64,
        /// When the kernel half last moved something.
        moved_ns: u64,
        /// Exchanges completed in the kernel half since the pair was made.
        exchanges: u64,
        /// The generation of the snapshot that the pair was armed by.
        generation: u32,
        /// The policy of the endpoint: first half of the keys of its nodes.
        policy: u32,
        /// Which series of the metrics its exchanges count for.
        series: u32,
        /// The request's method, a bit of `policy::method`.
        method: u32,
        /// The rule that allowed the request.
        rule: u32,
        /// The answer's status code.
        status: u32,
        /// Bytes of the request that are still to come.
        request_left: u32,
        /// Bytes of the answer that are still to come.
        answer_left: u32,
        /// The request's length, its head included.
        request_bytes: u32,
        /// The answer's length, its head included.
        answer_bytes: u32,
        /// The client's socket.
        client: FlowKey,
        /// The endpoint's socket.
        endpoint: FlowKey,
        /// Length of the request's head; so much of `head` is set.
        request_head: u32,
        /// Length of the answer's head.
        answer_head: u32,
        /// 1: only watched, for comparison; the connection stays in relay.
        control: u32,
        /// Explicit padding.
        pad: u32,
        /// The request's head, so that the agent can go on where the kernel half cannot.
        head: HeadBytes,
    }
}

abi! {
    /// How long clients waited for the first byte of an answer: from the client's `sendmsg` to the
    /// `sendmsg` of the answer, whoever carried both. One a processor for each group.
    Waits [24] {
        /// Requests.
        count: u64,
        /// Sum, nanoseconds.
        sum_ns: u64,
        /// Sum of squares, square microseconds.
        squares_us: u64,
    }
}

/// Index of the requests that were carried in the kernel half.
pub const GROUP_SPLICED: u32 = 0;
/// Index of those of the control group.
pub const GROUP_CONTROL: u32 = 1;

/// Longest head that is kept, and so the longest that is carried.
pub const HEAD_MAX: usize = 2048;

/// A request's head.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadBytes(pub [u8; HEAD_MAX]);

impl Default for HeadBytes {
    fn default() -> Self {
        Self([0; HEAD_MAX])
    }
}

/// The word of a pair that the agent arms: `seen` is how many bytes of the client it has read, modulo
/// 2^32. `None` unless the agent owns an idle pair.
#[inline(always)]
#[must_use]
pub const fn armed(word: u64, seen: u32) -> Option<u64> {
    if word & (KERNEL | BUSY | TURNED) != 0 {
        return None;
    }
    Some((word & EPOCH) | ((seen as u64) << SEEN_SHIFT) | KERNEL)
}

/// The kernel half begins an exchange; `sent` is how many bytes the client has sent to the agent.
/// `None` unless the pair is armed and idle, and the agent has read everything.
#[inline(always)]
#[must_use]
pub const fn begun(word: u64, sent: u32) -> Option<u64> {
    if word & (KERNEL | BUSY | TURNED) != KERNEL || (word >> SEEN_SHIFT) as u32 != sent {
        return None;
    }
    Some(next_epoch(word) | BEGINNING)
}

/// The request has been handed to the endpoint: its answer is due.
#[inline(always)]
#[must_use]
pub const fn handed(word: u64, body_open: bool) -> Option<u64> {
    if word & BEGINNING == 0 {
        return None;
    }
    let open = if body_open { REQUEST_OPEN } else { 0 };
    Some((word & !BEGINNING) | ANSWER_DUE | open)
}

/// The request could not be handed over: it is the agent's, and so is the pair.
#[inline(always)]
#[must_use]
pub const fn undone(word: u64) -> Option<u64> {
    if word & BEGINNING == 0 {
        return None;
    }
    Some(word & !(KERNEL | BEGINNING))
}

/// The answer begins to go to the client. `None` where none is due, or the agent took it over.
#[inline(always)]
#[must_use]
pub const fn answered(word: u64) -> Option<u64> {
    if word & (KERNEL | ANSWER_DUE) != KERNEL | ANSWER_DUE {
        return None;
    }
    Some((word & !ANSWER_DUE) | ANSWER_OPEN)
}

/// The kernel half cannot carry the answer: it goes to the agent. `None` where none is due.
#[inline(always)]
#[must_use]
pub const fn turned(word: u64) -> Option<u64> {
    if word & (KERNEL | ANSWER_DUE) != KERNEL | ANSWER_DUE {
        return None;
    }
    Some((word & !(KERNEL | ANSWER_DUE)) | TURNED)
}

/// The answer's last message is about to go to the client. `None` where the agent has cut the exchange
/// short.
#[inline(always)]
#[must_use]
pub const fn ending(word: u64) -> Option<u64> {
    if word & (KERNEL | ANSWER_OPEN) != KERNEL | ANSWER_OPEN {
        return None;
    }
    Some(word | ANSWER_ENDS)
}

/// The client's socket left the map before the first message of the answer: that one and the rest go to
/// the agent. `None` where no answer has begun.
#[inline(always)]
#[must_use]
pub const fn turned_back(word: u64) -> Option<u64> {
    if word & (KERNEL | ANSWER_OPEN) != KERNEL | ANSWER_OPEN {
        return None;
    }
    Some((word & !(KERNEL | ANSWER_OPEN | ANSWER_ENDS)) | TURNED)
}

/// The agent takes over an answer that was turned: what is left is its own.
#[inline(always)]
#[must_use]
pub const fn resumed(word: u64) -> Option<u64> {
    if word & TURNED == 0 {
        return None;
    }
    Some(word & !TURNED)
}

/// The agent takes the pair back between two exchanges, also one that it has been left. `None` while an
/// exchange is under way.
#[inline(always)]
#[must_use]
pub const fn taken(word: u64) -> Option<u64> {
    if word & (BUSY | TURNED) != 0 {
        return None;
    }
    Some(next_epoch(word) & !KERNEL)
}

/// The agent gives up an exchange whose answer has not begun, and will answer by itself.
#[inline(always)]
#[must_use]
pub const fn given_up(word: u64) -> Option<u64> {
    if word & (KERNEL | ANSWER_DUE) != KERNEL | ANSWER_DUE {
        return None;
    }
    Some(word & !(KERNEL | BUSY))
}

/// The agent cuts short what it cannot take over, and gives up the entry. `None` while the kernel half is
/// at the end of the answer, for the time of a program's run.
#[inline(always)]
#[must_use]
pub const fn cut(word: u64) -> Option<u64> {
    if word & ANSWER_ENDS != 0 {
        return None;
    }
    Some(freed(word))
}

/// Whether both words are of the same exchange.
#[inline(always)]
#[must_use]
pub const fn is_same_exchange(one: u64, other: u64) -> bool {
    (one ^ other) & EPOCH == 0
}

/// An exchange is under way, in the kernel half or turned.
#[inline(always)]
#[must_use]
pub const fn is_busy(word: u64) -> bool {
    word & (BUSY | TURNED) != 0
}

/// Part of an exchange is over and the rest is between the client and the endpoint: nobody else can bring
/// it to its end.
#[inline(always)]
#[must_use]
pub const fn is_half_done(word: u64) -> bool {
    word & ANSWER_OPEN != 0 || word & (REQUEST_OPEN | ANSWER_DUE | BEGINNING | TURNED) == REQUEST_OPEN
}

/// The word of an entry that belongs to nobody any more: what was read of it before is stale.
#[inline(always)]
#[must_use]
pub const fn freed(word: u64) -> u64 {
    next_epoch(word) & EPOCH
}

#[inline(always)]
const fn next_epoch(word: u64) -> u64 {
    (word & !EPOCH) | (word.wrapping_add(EPOCH_ONE) & EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: u32 = 77;

    fn armed_pair() -> u64 {
        armed(0, SEEN).unwrap_or_default()
    }

    /// The pair within an exchange whose answer is due.
    fn due(body_open: bool) -> u64 {
        begun(armed_pair(), SEEN).and_then(|word| handed(word, body_open)).unwrap_or_default()
    }

    fn open(body_open: bool) -> u64 {
        answered(due(body_open)).unwrap_or_default()
    }

    #[test]
    fn an_exchange_begins_only_when_the_agent_has_read_everything() {
        assert!(begun(armed_pair(), SEEN).is_some());
        assert_eq!(begun(armed_pair(), SEEN + 1), None);
        assert_eq!(begun(0, 0), None);
    }

    #[test]
    fn a_request_that_is_being_handed_over_is_nobody_elses() {
        let word = begun(armed_pair(), SEEN).unwrap_or_default();
        assert!(is_busy(word) && armed(word, SEEN).is_none() && begun(word, SEEN).is_none());
        for agents in [taken(word), given_up(word), turned(word), resumed(word)] {
            assert_eq!(agents, None);
        }
        assert!(answered(word).is_none() && turned_back(word).is_none());
    }

    #[test]
    fn a_request_that_could_not_be_handed_over_leaves_the_pair_to_the_agent() {
        let own = begun(armed_pair(), SEEN).and_then(undone).unwrap_or_default();
        assert!(!is_busy(own) && own & KERNEL == 0 && armed(own, SEEN).is_some());
        assert!(taken(own).is_some(), "the agent still thinks it armed");
        assert!(undone(due(false)).is_none() && handed(due(false), false).is_none());
    }

    #[test]
    fn an_exchange_goes_from_due_to_open_to_idle() {
        let due = due(false);
        assert!(is_busy(due) && taken(due).is_none() && begun(due, SEEN).is_none());
        let open = open(false);
        assert!(is_busy(open) && given_up(open).is_none() && turned(open).is_none());
        let idle = open & !ANSWER_OPEN;
        assert!(!is_busy(idle) && taken(idle).is_some() && begun(idle, SEEN).is_some());
    }

    #[test]
    fn an_exchange_that_is_ending_is_counted_once() {
        let ending = ending(open(false)).unwrap_or_default();
        assert!(cut(ending).is_none() && cut(open(false)).is_some() && is_busy(ending));
        assert_eq!(super::ending(cut(open(false)).unwrap_or_default()), None);
        assert!(super::ending(due(false)).is_none() && super::ending(armed_pair()).is_none());
        let turned = turned_back(ending).and_then(resumed).unwrap_or_default();
        assert!(cut(turned).is_some() && armed(turned, SEEN).is_some());
        let idle = ending & !(ANSWER_OPEN | ANSWER_ENDS);
        assert!(begun(idle, SEEN).is_some());
    }

    #[test]
    fn a_body_keeps_the_pair_busy_after_an_early_answer() {
        let answered = open(true) & !ANSWER_OPEN;
        assert!(is_busy(answered) && taken(answered).is_none());
        assert!(taken(answered & !REQUEST_OPEN).is_some());
    }

    #[test]
    fn a_turned_answer_is_the_agents_alone() {
        let turned = turned(due(false)).unwrap_or_default();
        assert!(is_busy(turned) && answered(turned).is_none() && armed(turned, 0).is_none());
        let own = resumed(turned).unwrap_or_default();
        assert!(!is_busy(own) && armed(own, 0).is_some());
    }

    #[test]
    fn an_answer_that_lost_its_client_at_once_is_turned_and_others_are_not() {
        let turned = turned_back(open(false)).unwrap_or_default();
        assert!(is_busy(turned) && resumed(turned).is_some_and(|own| !is_busy(own)));
        assert!(turned_back(due(false)).is_none() && turned_back(armed_pair()).is_none());
    }

    #[test]
    fn a_body_stays_the_endpoints_after_its_answer_was_turned() {
        let own = turned(due(true)).and_then(resumed).unwrap_or_default();
        assert!(is_busy(own) && own & REQUEST_OPEN != 0 && armed(own, SEEN).is_none());
        assert!(armed(own & !REQUEST_OPEN, SEEN).is_some());
    }

    #[test]
    fn what_was_given_up_cannot_be_answered() {
        let own = given_up(due(true)).unwrap_or_default();
        assert!(!is_busy(own) && answered(own).is_none() && begun(own, SEEN).is_none());
    }

    #[test]
    fn a_word_from_before_an_exchange_or_a_take_back_is_never_seen_again() {
        let before = armed_pair();
        let idle = open(false) & !ANSWER_OPEN;
        assert_ne!(before, idle);
        assert_ne!(freed(before), freed(idle));
        let again = taken(before).and_then(|word| armed(word, SEEN));
        assert!(again.is_some_and(|again| again != before));
    }

    #[test]
    fn an_exchange_is_told_from_the_next_one() {
        let (due, open) = (due(false), open(false));
        assert!(is_same_exchange(due, open));
        let next = begun(open & !ANSWER_OPEN, SEEN).unwrap_or_default();
        assert!(!is_same_exchange(due, next));
    }

    #[test]
    fn an_exchange_is_half_done_when_only_its_ends_can_complete_it() {
        let answered = open(true) & !ANSWER_OPEN;
        assert!(is_half_done(open(false)) && is_half_done(answered));
        let beginning = begun(armed_pair(), SEEN).unwrap_or_default();
        for word in [armed_pair(), beginning, due(true), turned(due(true)).unwrap_or_default()] {
            assert!(!is_half_done(word));
        }
    }

    #[test]
    fn what_was_freed_belongs_to_nobody() {
        for word in [armed_pair(), due(true), open(false)] {
            let free = freed(word);
            assert!(free & KERNEL == 0 && !is_busy(free) && !is_same_exchange(word, free));
        }
    }
}

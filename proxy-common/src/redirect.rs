//! The rule by which a message may be redirected into the peer's socket: pure, so that it can be
//! tested on the host; `proxy-ebpf/src/redirect.rs` applies it.
//!
//! A redirect has no back-pressure and is read before anything in the TCP queue. So a direction may
//! go from redirect to TCP at any time and keeps its order, but never back; and what one side may
//! have redirected without an answer from the other is capped.

use crate::abi::SocketState;

/// How one message travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Carry {
    /// Into the peer's ingress queue.
    Redirect,
    /// By TCP, and every later message of this direction too.
    Tcp,
}

/// Decides for a message of `size` bytes from the socket with state `me`.
///
/// `drained`: the sender had read everything that was redirected to it when it sent this message.
/// An application that speaks with redirected data unread is pipelining: both directions go plain.
#[inline(always)]
pub fn decide(me: &SocketState, size: u32, drained: bool) -> Carry {
    if me.plain != 0 || !drained || me.turn_bytes.saturating_add(size) > me.turn_cap {
        Carry::Tcp
    } else {
        Carry::Redirect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(turn_bytes: u32, plain: u32) -> SocketState {
        SocketState { turn_bytes, turn_cap: 1000, plain, ..SocketState::default() }
    }

    #[test]
    fn a_turn_is_redirected_up_to_its_cap_and_not_beyond() {
        assert_eq!(decide(&state(0, 0), 1000, true), Carry::Redirect);
        assert_eq!(decide(&state(0, 0), 1001, true), Carry::Tcp);
        assert_eq!(decide(&state(999, 0), 2, true), Carry::Tcp);
        assert_eq!(decide(&state(u32::MAX, 0), u32::MAX, true), Carry::Tcp);
    }

    #[test]
    fn a_plain_direction_stays_plain() {
        assert_eq!(decide(&state(0, 1), 1, true), Carry::Tcp);
    }

    #[test]
    fn a_pipelining_sender_goes_plain() {
        assert_eq!(decide(&state(0, 0), 1, false), Carry::Tcp);
    }
}

//! Reads the head that a message begins with: `proxy_common::head` over the message's own bytes.
//!
//! Only the linear part of a message can be seen: as much of it as the window holds is made linear. A head
//! that is not all there is incomplete.

use crate::{ctx, scratch::Scratch};
use aya_ebpf::{bindings::sk_msg_md, helpers::generated::bpf_probe_read_kernel};
use core::ptr::{read_volatile, write_volatile};
use proxy_common::head::{
    AnswerHead, DIGITS_MAX, RequestHead, STATUS_AT, Span, State, Unsure, WINDOW, answer_head, decimal,
    request_head, step,
};

/// Bytes between two looks at where a scan is.
const BLOCK: usize = 8;
const _: () = assert!(WINDOW.is_multiple_of(BLOCK));

/// The request that a message begins with.
///
/// Ask before the program's ways part: the verifier follows the scan (50 000 instructions) once for each
/// way by which it gets here, as with [`answer`].
#[inline(always)]
pub fn request(msg: *mut sk_msg_md) -> Result<RequestHead, Unsure> {
    Scratch::with(|scratch| {
        let (state, seen) = run(msg, State::REQUEST, scratch);
        request_head(state, seen, &scratch.cells, |span| number(&mut scratch.digits, msg, span))
    })
    .unwrap_or(Err(Unsure::Busy))
}

/// The answer that a message begins with, to a HEAD request or another.
#[inline(always)]
pub fn answer(msg: *mut sk_msg_md, head_request: bool) -> Result<AnswerHead, Unsure> {
    Scratch::with(|scratch| {
        let (state, seen) = run(msg, State::ANSWER, scratch);
        let status = || status(msg);
        answer_head(state, seen, &scratch.cells, head_request, status, |span| {
            number(&mut scratch.digits, msg, span)
        })
    })
    .unwrap_or(Err(Unsure::Busy))
}

/// Scans from the message's first byte; the state and how many bytes there were to look at.
#[inline(always)]
fn run(msg: *mut sk_msg_md, start: State, scratch: &mut Scratch) -> (State, u32) {
    ctx::pull(msg, WINDOW);
    scratch.clear_cells();
    let mut state = State::from_bits(blocks(msg, start.bits(), scratch));
    if !state.is_final() {
        state = State::from_bits(rest(msg, state.bits(), scratch));
    }
    let (data, end) = ctx::data(msg);
    (state, end.saturating_sub(data).min(WINDOW) as u32)
}

/// Whole blocks: one look at the end of the data and at the state for each, because every way out of
/// the loop costs the verifier as much as two bytes. A final state stays as it is.
///
/// Scalars cross the call: a state that the verifier does not know keeps the loop at one path.
#[inline(never)]
fn blocks(msg: *mut sk_msg_md, start: u64, scratch: &mut Scratch) -> u64 {
    let (data, end) = ctx::data(msg);
    let mut state = State::from_bits(start);
    let mut at = 0;
    while at < WINDOW {
        let address = data + at;
        if address + BLOCK > end {
            break;
        }
        // SAFETY: below `data_end`, as the verifier checks again; bytes have no alignment.
        let block = unsafe { &*(address as *const [u8; BLOCK]) };
        for byte in block {
            state = step(state, *byte, at as u32, &mut scratch.cells);
            at += 1;
        }
        if state.is_final() {
            break;
        }
    }
    // SAFETY: a live, aligned word of the caller's. Not a local: a position that the verifier knows
    // would make it follow `rest` once for each.
    unsafe { write_volatile(&raw mut scratch.scanned, at as u32) };
    state.bits()
}

/// What is left of the data behind the last whole block.
#[inline(never)]
fn rest(msg: *mut sk_msg_md, start: u64, scratch: &mut Scratch) -> u64 {
    let (data, end) = ctx::data(msg);
    let mut state = State::from_bits(start);
    // SAFETY: as in `blocks`.
    let scanned = unsafe { read_volatile(&raw const scratch.scanned) } as usize;
    if scanned >= WINDOW {
        return start;
    }
    let address = data + scanned;
    let mut at = 0;
    while at < BLOCK - 1 {
        if address + at + 1 > end {
            break;
        }
        // SAFETY: below `data_end`, as the verifier checks again.
        let byte = unsafe { *((address + at) as *const u8) };
        state = step(state, byte, (scanned + at) as u32, &mut scratch.cells);
        at += 1;
    }
    state.bits()
}

#[inline(always)]
fn status(msg: *mut sk_msg_md) -> Option<[u8; 3]> {
    let (data, end) = ctx::data(msg);
    if data + STATUS_AT + 3 > end {
        return None;
    }
    // SAFETY: below `data_end`.
    Some(unsafe { *((data + STATUS_AT) as *const [u8; 3]) })
}

/// Reads the digits of a span; `None` where they cannot be read.
#[inline(always)]
fn number(digits: &mut [u8; DIGITS_MAX as usize], msg: *mut sk_msg_md, span: Span) -> Option<u64> {
    copy(digits, msg, span)?;
    Some(decimal(digits, span.len()))
}

/// Copies a part of the message's head, which a scan has found, into the first bytes of `to`; `None`
/// where it does not fit.
#[inline(always)]
pub fn copy<const SIZE: usize>(to: &mut [u8; SIZE], msg: *mut sk_msg_md, span: Span) -> Option<()> {
    let (data, end) = ctx::data(msg);
    let (from, len) = (data + span.start as usize, span.len());
    if len as usize > SIZE || from + len as usize > end {
        return None;
    }
    // SAFETY: `len` bytes fit; the helper checks where they are read.
    let outcome = unsafe { bpf_probe_read_kernel(to.as_mut_ptr().cast(), len, from as *const _) };
    (outcome == 0).then_some(())
}

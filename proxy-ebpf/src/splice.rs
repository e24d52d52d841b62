//! sk_msg, for armed pairs: carries a request from the client's `sendmsg` straight into the endpoint's
//! socket, and the answer straight back. The transitions are `proxy_common::pair`'s.
//!
//! Fails to the agent: whatever is not proven to be one whole, small, allowed request goes to it on the
//! same connection, and so does every answer that is not proven to be small.

use crate::{
    atomic, control, ctx,
    maps::{PAIRED, PAIRS, SOCKETS, STATES, count},
    scan, tally, verdict,
};
use aya_ebpf::{
    bindings::{BPF_F_INGRESS, sk_action::SK_PASS},
    helpers::generated::{bpf_ktime_get_ns, bpf_msg_apply_bytes, bpf_probe_read_kernel},
    programs::SkMsgContext,
};
use core::hint::black_box;
use proxy_common::{
    abi::{Settings, SocketState, counter},
    flow::FlowKey,
    head::Framing,
    pair::{self, ANSWER_DUE, ANSWER_ENDS, ANSWER_OPEN, GROUP_SPLICED, HEAD_MAX, KERNEL, Pair, REQUEST_OPEN},
    policy::{Verdict, method},
};

/// How often a transition is tried again that lost a race: the other parties change the word at most
/// twice within an exchange.
const TRIES: u32 = 4;

/// Carries the message of an application's socket if it is the kernel half's to carry.
#[inline(always)]
pub fn carry(
    ctx: &SkMsgContext,
    key: &FlowKey,
    me: &mut SocketState,
    peer: &SocketState,
    settings: &Settings,
) -> bool {
    let Some((pair, word)) = pair_of(key, me) else { return false };
    // What the run for the message's first part asked for still holds: the rest would go in pieces.
    limit(ctx, 0);
    if pair.control != 0 {
        control::asked(pair);
        return false;
    }
    if me.opener != 0 {
        if word & REQUEST_OPEN != 0 {
            return request_goes_on(ctx, me, pair);
        }
        return request_begins(ctx, me, peer, pair, word, settings);
    }
    if word & ANSWER_OPEN != 0 {
        return later_part(ctx, me, pair, word);
    }
    word & (KERNEL | ANSWER_DUE) == KERNEL | ANSWER_DUE && answer_begins(ctx, me, pair, word, settings)
}

/// The pair that this socket is one end of, and its word. That is read first: a change of it proves that
/// the pair was this socket's throughout.
#[inline(always)]
fn pair_of(key: &FlowKey, me: &mut SocketState) -> Option<(&'static mut Pair, u64)> {
    if me.pair == 0 {
        // SAFETY: one word, read whole.
        me.pair = unsafe { PAIRED.get(key) }.copied()?;
    }
    let pair = PAIRS.get_ptr_mut(me.pair.wrapping_sub(1))?;
    // SAFETY: an array's entry lives as long as the map; see `Pair` for who writes what when.
    let pair = unsafe { &mut *pair };
    let word = atomic::load(&pair.word);
    let own = if me.opener != 0 { &pair.client } else { &pair.endpoint };
    if own != key {
        me.pair = 0;
        return None;
    }
    Some((pair, word))
}

#[inline(always)]
fn request_begins(
    ctx: &SkMsgContext,
    me: &mut SocketState,
    peer: &SocketState,
    pair: &mut Pair,
    word: u64,
    settings: &Settings,
) -> bool {
    let size = ctx.size();
    let Some(beginning) = pair::begun(word, me.to_peer) else { return false };
    if pair.generation != settings.generation
        || size > settings.request_cap
        || !in_order(ctx, me, peer, settings)
    {
        return false;
    }
    let Some(agent) = agent_of(pair).filter(|agent| agent.plain == 0) else { return false };
    let Ok(head) = scan::request(ctx.msg) else { return false };
    let whole = u64::from(head.head_len).saturating_add(head.content_length);
    if whole > u64::from(settings.request_cap) || u64::from(size) > whole {
        return false;
    }
    let Verdict::Allow { rule } = verdict::decide(ctx.msg, &head, pair.policy) else { return false };
    if !atomic::swap_if(&mut pair.word, word, beginning) {
        return false;
    }
    pair.started_ns = now();
    pair.method = head.method;
    pair.rule = rule;
    pair.request_bytes = whole as u32;
    pair.request_left = whole as u32 - size;
    pair.asked_ns = if pair.request_left == 0 { pair.started_ns } else { 0 };
    // Until the pair is handed over or back nobody else changes the word.
    if !keep(ctx, pair, head.head_len) || !redirect(ctx, &pair.endpoint) {
        if let Some(undone) = pair::undone(beginning) {
            atomic::swap_if(&mut pair.word, beginning, undone);
        }
        return false;
    }
    if let Some(due) = pair::handed(beginning, pair.request_left != 0) {
        // Fails only where the client's connection has ended in the agent.
        atomic::swap_if(&mut pair.word, beginning, due);
    }
    me.redirected = me.redirected.wrapping_add(u64::from(size));
    agent.redirected = agent.redirected.wrapping_add(u64::from(size));
    count(counter::SPLICED, 1);
    true
}

/// Copies the request's head to where the agent finds it.
#[inline(always)]
fn keep(ctx: &SkMsgContext, pair: &mut Pair, length: u32) -> bool {
    if length == 0 || length > HEAD_MAX as u32 {
        return false;
    }
    let to = (&raw mut pair.head).cast();
    // SAFETY: the entry has room for `length` bytes, and the source is checked by the helper.
    let failed = unsafe { bpf_probe_read_kernel(to, length, (ctx.data() as *const u8).cast()) };
    pair.request_head = length;
    failed == 0
}

/// Nothing that the client or the agent still has to read came by TCP, or it would be overtaken; and the
/// client has read what was redirected to it, or it pipelines.
#[inline(always)]
fn in_order(ctx: &SkMsgContext, me: &mut SocketState, peer: &SocketState, settings: &Settings) -> bool {
    if me.plain != 0 || peer.plain != 0 {
        return false;
    }
    if me.unread != 0 {
        if !ctx::drained(ctx.msg, settings) {
            return false;
        }
        me.unread = 0;
    }
    true
}

/// The state of the agent's socket to the endpoint, in whose stead the client's speaks. Where it is plain,
/// the endpoint may still have to read what came by TCP.
#[inline(always)]
fn agent_of(pair: &Pair) -> Option<&'static mut SocketState> {
    let agent = STATES.get_ptr_mut(pair.endpoint.reversed())?;
    // SAFETY: only `redirected` is changed here; the agent's socket does not speak while the pair is armed.
    Some(unsafe { &mut *agent })
}

#[inline(always)]
fn request_goes_on(ctx: &SkMsgContext, me: &mut SocketState, pair: &mut Pair) -> bool {
    let part = first(ctx, pair.request_left);
    if !redirect(ctx, &pair.endpoint) {
        // The agent sees the endpoint's connection end, and closes this one.
        return false;
    }
    me.redirected = me.redirected.wrapping_add(u64::from(part));
    if let Some(agent) = agent_of(pair) {
        agent.redirected = agent.redirected.wrapping_add(u64::from(part));
    }
    pair.request_left -= part;
    if pair.request_left == 0 {
        pair.asked_ns = now();
        atomic::keep(&mut pair.word, !REQUEST_OPEN);
    }
    true
}

#[inline(always)]
fn answer_begins(
    ctx: &SkMsgContext,
    me: &mut SocketState,
    pair: &mut Pair,
    word: u64,
    settings: &Settings,
) -> bool {
    let Some(client) = client_of(pair) else {
        turn(pair, word, pair::turned);
        return false;
    };
    let head = carriable(ctx, pair, settings).unwrap_or_default();
    // Opaque: LLVM would leave the numbers undefined where there is no answer, and ask for what made it so
    // again later; the verifier does not see that the two belong together.
    let head =
        Answer { status: black_box(head.status), length: black_box(head.length), body: black_box(head.body) };
    if head.status == 0 {
        turn(pair, word, pair::turned);
        return false;
    }
    let ends = ctx.size() == head.length + head.body;
    let begun = |word| if ends { pair::answered(word).and_then(pair::ending) } else { pair::answered(word) };
    if !change(pair, word, begun) {
        return false;
    }
    pair.answered_ns = now();
    control::waited(GROUP_SPLICED, pair.answered_ns.wrapping_sub(pair.started_ns));
    pair.status = head.status;
    pair.answer_head = head.length;
    pair.answer_bytes = head.length + head.body;
    pair.answer_left = pair.answer_bytes;
    // The clock costs as much as a look-up: it is read once a message.
    let begun = pair.answered_ns;
    if !answer_goes_on(ctx, me, pair, client, begun) {
        turn(pair, atomic::load(&pair.word), pair::turned_back);
        return false;
    }
    true
}

/// A message of an answer that has begun.
#[inline(always)]
fn later_part(ctx: &SkMsgContext, me: &mut SocketState, pair: &mut Pair, word: u64) -> bool {
    let Some(client) = client_of(pair) else { return false };
    if ctx.size() >= pair.answer_left && !change(pair, word, pair::ending) {
        return false;
    }
    let carried = answer_goes_on(ctx, me, pair, client, now());
    if !carried {
        atomic::keep(&mut pair.word, !ANSWER_ENDS);
    }
    carried
}

/// The state of the client's socket, if that is there.
#[inline(always)]
fn client_of(pair: &Pair) -> Option<&'static mut SocketState> {
    let client = STATES.get_ptr_mut(pair.client)?;
    // SAFETY: of its fields only `unread` is changed here, where a lost update moves a cap by one message,
    // and `carried`, by this answer's program alone.
    Some(unsafe { &mut *client })
}

/// The answer that the message begins with, if it is one that fits the lane.
#[inline(always)]
fn carriable(ctx: &SkMsgContext, pair: &Pair, settings: &Settings) -> Option<Answer> {
    let head = scan::answer(ctx.msg, pair.method & method::HEAD != 0).ok()?;
    let body = match head.framing {
        Framing::NoBody => 0,
        Framing::Length(length) => length,
    };
    let whole = u64::from(head.head_len).saturating_add(body);
    if whole > u64::from(settings.answer_cap) || u64::from(ctx.size()) > whole {
        return None;
    }
    Some(Answer { status: head.status, length: head.head_len, body: body as u32 })
}

/// See [`carriable`].
#[derive(Default)]
struct Answer {
    status: u32,
    /// Of the head.
    length: u32,
    body: u32,
}

#[inline(always)]
fn answer_goes_on(
    ctx: &SkMsgContext,
    me: &mut SocketState,
    pair: &mut Pair,
    client: &mut SocketState,
    now: u64,
) -> bool {
    let part = first(ctx, pair.answer_left);
    if !redirect(ctx, &pair.client) {
        return false;
    }
    client.unread = client.unread.saturating_add(part);
    client.carried = client.carried.wrapping_add(u64::from(part));
    me.redirected = me.redirected.wrapping_add(u64::from(part));
    pair.answer_left -= part;
    if pair.answer_left == 0 {
        pair.moved_ns = now;
        pair.exchanges += 1;
        tally::count(pair, now);
        atomic::keep(&mut pair.word, !(ANSWER_OPEN | ANSWER_ENDS));
    }
    true
}

/// The agent passes the answer on.
#[inline(always)]
fn turn(pair: &mut Pair, word: u64, transition: impl Fn(u64) -> Option<u64>) {
    if change(pair, word, transition) {
        count(counter::TURNED, 1);
    }
}

/// Makes a transition within the exchange that `word` is of; false where it is not to be made any more.
#[inline(always)]
fn change(pair: &mut Pair, word: u64, transition: impl Fn(u64) -> Option<u64>) -> bool {
    let (of, mut word) = (word, word);
    let mut tries = 0;
    while tries < TRIES && pair::is_same_exchange(of, word) {
        let Some(to) = transition(word) else { return false };
        if atomic::swap_if(&mut pair.word, word, to) {
            return true;
        }
        word = atomic::load(&pair.word);
        tries += 1;
    }
    false
}

/// How much of the message belongs to what is `left`; the program runs again for the rest.
#[inline(always)]
fn first(ctx: &SkMsgContext, left: u32) -> u32 {
    let size = ctx.size();
    if size <= left {
        return size;
    }
    limit(ctx, left);
    left
}

/// The verdict holds for so many bytes; 0: for the whole message.
#[inline(always)]
fn limit(ctx: &SkMsgContext, bytes: u32) {
    // SAFETY: the helper takes the hook's own context.
    unsafe { bpf_msg_apply_bytes(ctx.msg, bytes) };
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn redirect(ctx: &SkMsgContext, to: &FlowKey) -> bool {
    let mut key = *to;
    SOCKETS.redirect_msg(ctx, &mut key, u64::from(BPF_F_INGRESS)) == i64::from(SK_PASS)
}

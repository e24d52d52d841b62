//! Lends a client's connection to the kernel half, and takes it back.
//!
//! After a complete exchange the relay keeps the endpoint's connection with the client's, and *arms* the
//! pair: from then on the kernel half carries what it can prove (`proxy-ebpf/src/splice.rs`). What it
//! cannot comes to the client's connection here as ever; reading it takes the pair back first.
//!
//! Where the kernel half cannot go on within an exchange (the answer is too large, the endpoint closes,
//! time is up), the request is *resumed*: its head, which the kernel half kept, is put before hyper as if
//! the client had sent it here, so that the rest takes the same way as any relayed request.
//!
//! Fails to relay: whatever is missing for a pair, the connection is relayed.

mod alarm;
mod position;
mod resume;
mod worth;

pub(crate) use alarm::Watched;
pub(crate) use resume::{Resumed, Task};
pub(crate) use worth::Worth;

use crate::{
    balance,
    balance::random,
    datapath::{Slot, Terms, UpstreamLane, kernel_generation},
    downstream::{Downstream, Phase},
    metrics::Series,
    route::{Route, route},
    snapshot::Endpoint,
    upstream::Upstream,
};
use alarm::{Alarm, Carried, Ring};
use bytes::Bytes;
use parking_lot::Mutex;
use position::Position;
use proxy_common::{pair, policy::POLICY_NONE};
use resume::instant;
use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::Instant;

/// Exchanges that a connection must have had in relay: short connections never pay for a pair.
const EXCHANGES: u32 = 2;
/// How soon to look again whether a busy pair is idle, when the client sends ahead.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What a downstream connection has to do with the splice lane. Changed by the connection's own task
/// only; atomics because that task moves between threads.
#[derive(Default)]
pub(crate) struct Splice {
    slot: Mutex<Option<Slot>>,
    /// The endpoint's connection, while no request of the relay uses it.
    upstream: Mutex<Option<Box<Upstream>>>,
    armed: AtomicBool,
    /// It stays in relay, for comparison.
    is_control: AtomicBool,
    /// The connection has something to do that must wait for the end of an exchange.
    waits: AtomicBool,
    is_cut: AtomicBool,
    /// The body of a request that the agent resumed was not complete: the rest goes past the agent.
    body_apart: AtomicBool,
    exchanges: AtomicU32,
    written: AtomicBool,
    position: Position,
    resumed: Mutex<Option<Resumed>>,
    alarm: Arc<Alarm>,
    /// What the kernel half counts the connection's requests for; held so that it stays.
    series: Mutex<Option<Arc<Series>>>,
}

impl Splice {
    /// Bytes of the client have been read.
    pub(crate) fn read(&self, bytes: usize) {
        self.position.advance(bytes);
    }

    /// So many requests of the client have been admitted; `is_between` where they are complete and nothing
    /// else has been read.
    pub(crate) fn admitted(&self, requests: u64, is_between: bool) {
        self.position.admitted(requests, is_between);
    }

    /// hyper has read a request's head.
    pub(crate) fn request_begins(&self) {
        self.position.request_begins(self.resumed().is_some());
    }

    /// The request has ended, however it ended.
    pub(crate) fn request_ends(&self) {
        *self.resumed.lock() = None;
    }

    /// The request that hyper reads or answers now is one that the kernel half began.
    pub(crate) fn resumed(&self) -> Option<Resumed> {
        *self.resumed.lock()
    }

    /// hyper has begun to write (false) or has nothing left to write (true).
    pub(crate) fn written(&self, all: bool) {
        self.written.store(all, Relaxed);
    }

    /// hyper has nothing left to write.
    pub(crate) fn has_written(&self) -> bool {
        self.written.load(Relaxed)
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.armed.load(Relaxed)
    }

    /// An exchange is under way that hyper does not know of.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_armed() && self.slot.lock().as_ref().is_some_and(|slot| pair::is_busy(slot.word()))
    }

    /// Takes the pair back, so that the client's bytes are the agent's to read. False while an exchange is
    /// under way in the kernel half; [`Splice::poll`] wakes the task when it is over.
    pub(crate) fn take_back(&self) -> bool {
        if !self.is_armed() {
            return true;
        }
        let taken = self.slot.lock().as_ref().is_none_or(Slot::take);
        self.armed.store(!taken, Relaxed);
        self.waits.store(!taken, Relaxed);
        taken
    }

    /// An exchange is complete. Keeps the endpoint's connection for the pair, or gives it back.
    pub(crate) fn keep(&self, downstream: &Downstream, mut upstream: Box<Upstream>) {
        let exchanges = self.exchanges.load(Relaxed).saturating_add(1);
        self.exchanges.store(exchanges, Relaxed);
        let fit = exchanges >= EXCHANGES
            && downstream.is_mapped()
            && upstream.lane == UpstreamLane::Mapped
            && !self.is_control.load(Relaxed)
            && downstream.relay.datapath.splices()
            && self.terms(downstream, &upstream).is_some()
            && upstream.is_reusable();
        let mut kept = self.upstream.lock();
        if fit && kept.is_none() {
            upstream.reused = true;
            *kept = Some(upstream);
        } else {
            drop(kept);
            self.give_back(downstream, upstream);
        }
    }

    /// Lets others use the endpoint's connection, unless this client still sends a body on it, or an answer to
    /// it is still to come.
    fn give_back(&self, downstream: &Downstream, upstream: Box<Upstream>) {
        if !upstream.owes_answer && !self.slot.lock().as_ref().is_some_and(Slot::has_open_body) {
            upstream.give_back(&downstream.relay);
        }
    }

    /// Bytes of the client are here that are the rest of a body: the endpoint, which has the beginning, is
    /// gone. They must not be read as a request.
    pub(crate) fn is_astray(&self) -> bool {
        if !self.body_apart.load(Relaxed) {
            return false;
        }
        let astray = self.slot.lock().as_ref().is_some_and(Slot::has_open_body);
        self.body_apart.store(astray, Relaxed);
        astray
    }

    /// The endpoint's connection for a request that is relayed, if it leads where the route does.
    pub(crate) fn upstream<'a>(
        &self,
        downstream: &Downstream,
        route: &'a Route,
    ) -> Option<(Box<Upstream>, &'a Endpoint)> {
        let mut upstream = self.upstream.lock().take()?;
        let wanted = upstream.key.endpoint;
        let mut usable = route.cluster.usable_within(route.family, balance::scope(downstream, route));
        let found =
            usable.find(|one| one.addr == wanted && route.pinned.is_none_or(|pinned| pinned == wanted));
        match found {
            Some(endpoint) if upstream.is_fresh() => return Some((upstream, endpoint)),
            Some(_) => {}
            None => {
                self.part();
                self.give_back(downstream, upstream);
            }
        }
        None
    }

    /// The connection on which the endpoint has the request that the agent goes on with. No other will do:
    /// the request's body is not here.
    pub(crate) fn owing(&self) -> Option<Box<Upstream>> {
        self.upstream.lock().take_if(|upstream| upstream.owes_answer)
    }

    /// The endpoint's connection was not used after all.
    pub(crate) fn put_back(&self, upstream: Box<Upstream>) {
        *self.upstream.lock() = Some(upstream);
    }

    /// Arms the pair, if everything is ready for it. Called between two requests, when hyper has written
    /// all it had.
    pub(crate) fn arm(&self, downstream: &Arc<Downstream>) {
        if self.is_armed()
            || !self.written.load(Relaxed)
            || downstream.phase() != Phase::Idle
            || downstream.relay.drain.is_leaving()
            || downstream.wire.is_secure()
        {
            return;
        }
        let upstream = self.upstream.lock();
        let Some(upstream) = upstream.as_ref() else { return };
        let Some(seen) = self.position.between_requests() else { return };
        let Some(terms) = self.terms(downstream, upstream) else { return };
        let Some(own) = upstream.own_key() else { return };
        let mut slot = self.slot.lock();
        if slot.is_none() {
            *slot = self.slot_of(downstream);
        }
        let Some(slot) = slot.as_ref() else { return };
        if self.is_control.load(Relaxed) {
            return;
        }
        match slot.join(downstream.client_key(), own.reversed()) {
            Ok(()) => self.armed.store(slot.arm(seen, terms), Relaxed),
            Err(error) => tracing::warn!(%error, client = %downstream.client.0, "pair"),
        }
    }

    fn slot_of(&self, downstream: &Arc<Downstream>) -> Option<Slot> {
        let watched = &downstream.relay.watched;
        let Some(slot) = downstream.relay.datapath.pair() else {
            watched.want_one();
            return None;
        };
        watched.watch(slot.index(), downstream, Arc::clone(&self.alarm));
        if is_one_of(downstream.relay.settings.splice_control) {
            self.is_control.store(true, Relaxed);
            if let Err(error) = slot.observe(downstream.client_key()) {
                tracing::warn!(%error, client = %downstream.client.0, "control group");
            }
        }
        Some(slot)
    }

    /// What the kernel half may carry now; `None` where that is nothing.
    fn terms(&self, downstream: &Downstream, upstream: &Upstream) -> Option<Terms> {
        if downstream.relay.worth.is_off() {
            return None;
        }
        let snapshot = downstream.relay.snapshot.load();
        let route = route(&snapshot, downstream.orig_dst)?;
        let mut usable = route.cluster.usable_within(route.family, balance::scope(downstream, &route));
        let endpoint = usable.find(|one| one.addr == upstream.key.endpoint)?;
        let passage = downstream.passage(endpoint);
        let policy = passage.for_kernel()?;
        self.alarm.limit(route.timeouts);
        downstream.relay.observer.access_log.arms(downstream, &passage);
        let generation = kernel_generation(snapshot.generation);
        let unknown = &downstream.relay.unknown_workload;
        let source = &downstream.workload(&snapshot);
        let destination = endpoint.workload.as_ref().unwrap_or(unknown);
        let metrics = &downstream.relay.observer.metrics;
        let series = metrics.series(&route.cluster.name, source, destination);
        let id = series.id;
        *self.series.lock() = Some(series);
        let policy = policy.map_or(POLICY_NONE, |policy| policy.compiled.id);
        Some(Terms { generation, policy, series: id })
    }

    /// Ready when something happened that the connection's task must see to.
    fn poll(&self, cx: &mut Context<'_>, downstream: &Downstream) -> Poll<()> {
        if !self.is_armed() {
            return Poll::Pending;
        }
        // Until it is silent: only then does the next ring wake the task.
        while let Some(ring) = self.alarm.poll(cx) {
            match ring {
                Ring::Late => match self.late() {
                    Poll::Ready(()) => return Poll::Ready(()),
                    Poll::Pending => {}
                },
                Ring::Idle => self.let_go(),
                Ring::Unwanted => self.release(downstream),
            }
        }
        let disturbed = self.upstream.lock().as_ref().is_some_and(|one| one.poll_disturbed(cx).is_ready());
        if disturbed {
            return self.disturbed();
        }
        if self.waits.load(Relaxed) && self.take_back() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Closes the endpoint's connection, which has been idle for as long as one may be: the endpoint is
    /// about to close it, and must not do so while a request is on its way to it.
    fn let_go(&self) {
        if self.take_back() {
            self.part();
            *self.upstream.lock() = None;
        }
    }

    /// Gives the pair up for a connection that has more use for it.
    fn release(&self, downstream: &Downstream) {
        if !self.take_back() {
            return;
        }
        let upstream = self.upstream.lock().take();
        if let Some(upstream) = upstream {
            self.give_back(downstream, upstream);
        }
        self.lose_slot(downstream);
    }

    /// The request that the agent goes on with, for hyper to read.
    pub(crate) fn take_injected(&self) -> Option<Bytes> {
        self.position.take_injected()
    }

    fn part(&self) {
        if let Some(slot) = self.slot.lock().as_ref() {
            slot.part();
        }
    }

    /// The client's connection ends: its endpoint connection is free for others, unless an exchange is
    /// under way on it.
    pub(crate) fn leave(&self, downstream: &Downstream) {
        downstream.relay.observer.access_log.parts(&downstream.client_key());
        if self.take_back() {
            return self.release(downstream);
        }
        self.lose_slot(downstream);
    }

    fn lose_slot(&self, downstream: &Downstream) {
        // Who looks through the pairs has their list locked, and locks one slot after the other.
        let slot = self.slot.lock().take();
        if let Some(slot) = slot {
            downstream.relay.watched.forget(slot.index());
        }
    }

    /// What the kernel half carries now, and the word that says so.
    fn carried(&self) -> (u64, Carried) {
        let slot = self.slot.lock();
        let Some(slot) = slot.as_ref() else { return (0, Carried::Nothing) };
        let word = slot.word();
        if word & (pair::KERNEL | pair::TURNED) == 0 {
            return (word, Carried::Nothing);
        }
        let (started, moved) = slot.times();
        let under_way = word & (pair::KERNEL | pair::BEGINNING) == pair::KERNEL && pair::is_busy(word);
        let is_due = word & pair::ANSWER_DUE != 0;
        let carried = match (under_way, word & pair::REQUEST_OPEN != 0) {
            (false, _) => Carried::Idle(started.max(moved)),
            (true, true) if is_due => Carried::Asking { started, left: slot.request_left() },
            (true, false) if is_due => Carried::Unanswered { started, asked: slot.asked().max(started) },
            (true, _) => Carried::Answered(started),
        };
        (word, carried)
    }

    /// Since when nothing was asked for, by what the kernel half saw; `None` where it saw nothing.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        match self.carried().1 {
            Carried::Asking { .. } | Carried::Unanswered { .. } | Carried::Answered(_) => {
                Some(Instant::now())
            }
            Carried::Idle(since) => Some(instant(since)),
            // Armed before, perhaps.
            Carried::Nothing => {
                let moved = self.slot.lock().as_ref().map_or(0, |slot| slot.times().1);
                (moved != 0).then(|| instant(moved))
            }
        }
    }
}

/// True with this probability.
fn is_one_of(part: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "a probability")]
    let drawn = (random() >> 11) as f64 / (1_u64 << 53) as f64;
    drawn < part
}

/// Completes when something happened after which hyper is to be polled.
pub(crate) async fn turn(downstream: &Downstream) {
    let splice = &downstream.splice;
    let mut pause = pin!(tokio::time::sleep(Duration::ZERO));
    let mut pausing = false;
    let turn = std::future::poll_fn(|cx| {
        loop {
            if splice.poll(cx, downstream).is_ready() {
                return Poll::Ready(());
            }
            if !splice.waits.load(Relaxed) {
                return Poll::Pending;
            }
            if !std::mem::replace(&mut pausing, true) {
                pause.as_mut().reset(Instant::now() + LOOK_AGAIN);
            }
            ready!(pause.as_mut().poll(cx));
            pausing = false;
        }
    });
    turn.await;
}

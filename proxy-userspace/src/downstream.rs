//! One accepted connection: what its driver, hyper's IO and the request in flight share.

mod io;

pub(crate) use io::DownstreamIo;

use crate::{
    datapath::Steered,
    deadline::Deadline,
    flow::{LaneLabel, Reason},
    identity::PodIdentity,
    muffle::Muffle,
    netns::Lease,
    orig_dst::{DownstreamAddr, OrigDstAddr},
    party::Passages,
    record::{Draft, Failure},
    relay::Relay,
    snapshot::{Snapshot, Timeouts},
    splice::Splice,
    wire::Wire,
};
use parking_lot::Mutex;
use proxy_common::flow::FlowKey;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// When to look whether a client has read its answer, at first and at most.
const READ_POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// How long the last FIN waits for that.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Where a connection is in its requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Nothing of the next request has been read.
    Idle,
    /// Part of a request's head has been read.
    Head,
    /// A request is in flight.
    Request,
}

/// See the module.
pub(crate) struct Downstream {
    pub(crate) relay: Arc<Relay>,
    pub(crate) wire: Wire,
    pub(crate) client: DownstreamAddr,
    /// The agent's end.
    pub(crate) local: SocketAddr,
    pub(crate) orig_dst: OrigDstAddr,
    /// What the kernel half knows; `None` where it did not steer the connection.
    pub(crate) identity: Option<Steered>,
    /// The client's hold on its network namespace, where upstream sockets are born.
    pub(crate) lease: Option<Lease>,
    /// The timeouts that hold outside of requests.
    pub(crate) timeouts: Timeouts,
    pub(crate) deadline: Deadline,
    /// For what the connection's task polls beside hyper's server.
    pub(crate) muffle: Muffle,
    pub(crate) splice: Splice,
    /// What holds for this client at endpoints.
    pub(crate) passages: Passages,
    /// The client's socket: local is the client's end.
    client_key: FlowKey,
    /// The client's socket is still in the socket map.
    mapped: AtomicBool,
    phase: AtomicU8,
    opened: Instant,
    first_byte: AtomicU64,
    request: RequestProgress,
    /// Requests whose end has not been reported yet: that is done when the answer has been sent.
    #[expect(clippy::vec_box, reason = "handed over, not copied")]
    ended: Mutex<Vec<Box<Draft>>>,
    any_ended: AtomicBool,
}

/// How far the body of the request in flight has come.
#[derive(Debug, Default)]
struct RequestProgress {
    bytes: AtomicU64,
    /// Nanoseconds after `opened`; 0 while it is not complete.
    complete_at: AtomicU64,
    failed: AtomicBool,
}

impl Downstream {
    pub(crate) fn new(
        relay: Arc<Relay>,
        wire: Wire,
        (client, local): (DownstreamAddr, SocketAddr),
        (orig_dst, identity): (OrigDstAddr, Option<Steered>),
        timeouts: Timeouts,
    ) -> Self {
        let deadline = Deadline::new();
        let lease = identity.as_ref().map(|who| relay.namespaces.lease(who.netns_cookie, who.pid));
        let opened = Instant::now();
        deadline.idle(opened, timeouts.downstream_idle);
        Self {
            relay,
            wire,
            client,
            local,
            orig_dst,
            timeouts,
            deadline,
            muffle: Muffle::new(),
            splice: Splice::default(),
            passages: Passages::default(),
            client_key: FlowKey::new(client.0, local),
            mapped: AtomicBool::new(identity.as_ref().is_some_and(|steered| steered.mapped)),
            identity,
            lease,
            phase: AtomicU8::new(Phase::Idle as u8),
            opened,
            first_byte: AtomicU64::new(0),
            request: RequestProgress::default(),
            ended: Mutex::default(),
            any_ended: AtomicBool::new(false),
        }
    }

    /// The client's pod, by the snapshot in force.
    pub(crate) fn pod(&self) -> Option<Arc<PodIdentity>> {
        let cgroup_id = self.identity.as_ref().map_or(0, |steered| steered.cgroup_id);
        self.relay.identity.pod_of(cgroup_id, self.client.0.ip())
    }

    /// The client's workload as metrics and logs say it.
    pub(crate) fn workload(&self, snapshot: &Snapshot) -> Arc<str> {
        if let Some(pod) = self.pod() {
            return Arc::clone(&pod.key);
        }
        let by_address = snapshot.workload_by_ip.get(&self.client.0.ip());
        Arc::clone(by_address.unwrap_or(&self.relay.unknown_workload))
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Request,
        }
    }

    /// The client's socket: local is the client's end.
    pub(crate) fn client_key(&self) -> FlowKey {
        self.client_key
    }

    /// When it was accepted.
    pub(crate) fn opened_at(&self) -> Instant {
        self.opened
    }

    /// The client has not said anything yet.
    pub(crate) fn is_silent(&self) -> bool {
        self.phase() == Phase::Idle
    }

    /// The request is complete: the endpoint's time runs. Otherwise its body sees to that.
    pub(crate) fn await_answer(&self, now: Instant, timeout: Option<Duration>) {
        if self.request_completed_at().is_some() {
            self.deadline.stage_from(now, Reason::ResponseHeadTimeout, timeout);
        } else {
            self.deadline.no_stage();
        }
    }

    /// The first byte of a request has been read.
    pub(crate) fn head_begins(&self) {
        let now = Instant::now();
        self.phase.store(Phase::Head as u8, Relaxed);
        self.first_byte.store(self.nanos(now), Relaxed);
        self.deadline.stage_from(now, Reason::RequestHeadTimeout, self.timeouts.request_head);
    }

    /// A request's head is complete, and with it the request if it is `whole`; returns when its
    /// first byte was read.
    pub(crate) fn request_begins(&self, whole: bool) -> Instant {
        if self.phase() == Phase::Idle {
            // Pipelined: it was read together with the one before.
            self.first_byte.store(self.nanos(Instant::now()), Relaxed);
        }
        self.phase.store(Phase::Request as u8, Relaxed);
        self.request.bytes.store(0, Relaxed);
        self.request.failed.store(false, Relaxed);
        let first_byte = self.first_byte();
        let complete_at = if whole { self.nanos(Instant::now()).max(1) } else { 0 };
        self.request.complete_at.store(complete_at, Relaxed);
        first_byte
    }

    /// The current request began before it was read here.
    pub(crate) fn began_at(&self, began: Instant) -> Instant {
        self.first_byte.store(self.nanos(began), Relaxed);
        began
    }

    /// Nothing was asked for since too long, on either lane; else the deadline is moved.
    pub(crate) fn is_idle(&self) -> bool {
        let timeout = self.timeouts.downstream_idle;
        let since = self.splice.idle_since();
        if since.is_some_and(|since| timeout.is_some_and(|timeout| since.elapsed() < timeout)) {
            self.deadline.idle(since.unwrap_or_else(Instant::now), timeout);
            return false;
        }
        if !self.splice.take_back() {
            self.deadline.idle(Instant::now(), timeout);
            return false;
        }
        true
    }

    /// When the first byte of the current request was read.
    pub(crate) fn first_byte(&self) -> Instant {
        self.opened + Duration::from_nanos(self.first_byte.load(Relaxed))
    }

    pub(crate) fn request_body_read(&self, bytes: usize) {
        let before = self.request.bytes.load(Relaxed);
        self.request.bytes.store(before.saturating_add(bytes as u64), Relaxed);
    }

    pub(crate) fn request_body_complete(&self, now: Instant) {
        self.request.complete_at.store(self.nanos(now).max(1), Relaxed);
    }

    pub(crate) fn request_body_failed(&self) {
        self.request.failed.store(true, Relaxed);
    }

    pub(crate) fn request_body_bytes(&self) -> u64 {
        self.request.bytes.load(Relaxed)
    }

    /// When the request's last byte was read, if it was.
    pub(crate) fn request_completed_at(&self) -> Option<Instant> {
        match self.request.complete_at.load(Relaxed) {
            0 => None,
            nanos => Some(self.opened + Duration::from_nanos(nanos)),
        }
    }

    /// The client broke off within the request's body, or sent one that cannot be read.
    pub(crate) fn request_body_has_failed(&self) -> bool {
        self.request.failed.load(Relaxed)
    }

    /// The request in flight has ended, well or not.
    pub(crate) fn request_ends(&self, draft: Box<Draft>, now: Instant) {
        self.phase.store(Phase::Idle as u8, Relaxed);
        self.deadline.idle(now, self.timeouts.downstream_idle);
        self.splice.request_ends();
        self.ended.lock().push(draft);
        self.any_ended.store(true, Relaxed);
    }

    /// Reports the requests that have ended. Called when hyper has written what it could, so that
    /// no client waits for its own log line.
    pub(crate) fn report_ended(&self, fault: Option<&Failure>) {
        if !self.any_ended.swap(false, Relaxed) {
            return;
        }
        let drafts = std::mem::take(&mut *self.ended.lock());
        for draft in drafts {
            draft.report(self, fault);
        }
    }

    /// Why a request ends without its answer: the connection's task knows.
    pub(crate) fn why_it_broke_off(&self) -> Failure {
        match self.deadline.expired() {
            Some(reason) => reason.into(),
            None if self.relay.drain.is_aborting() => Reason::Draining.into(),
            None => Reason::DownstreamReset.into(),
        }
    }

    /// An exchange with an endpoint is complete: it counts for a client on probation.
    pub(crate) fn exchanged(&self) {
        if let Some(identity) = self.identity.as_ref().filter(|identity| !identity.mapped) {
            self.relay.datapath.watched_exchange(identity.cgroup_id);
        }
    }

    /// True while answers to the client are redirected.
    pub(crate) fn is_mapped(&self) -> bool {
        self.mapped.load(Relaxed)
    }

    /// Call before the first byte of anything large or of unknown length.
    pub(crate) fn leave_map(&self) {
        if self.is_mapped() && self.relay.datapath.before_large_answer(&self.client_key) {
            self.mapped.store(false, Relaxed);
        }
    }

    /// Ends an orderly connection, when the client has read what was redirected to it: FIN may cost it the
    /// rest (`proxy-ebpf/src/drained.rs`). What it still sends is read and thrown away: it would be answered
    /// with a reset, which overtakes the answer. One that has closed is done with at once.
    pub(crate) async fn take_leave(&self) {
        let (begun, mut pause) = (Instant::now(), READ_POLL.0);
        while self.is_mapped() && !self.relay.datapath.has_drained(&self.client_key) {
            if begun.elapsed() > READ_WITHIN || self.relay.drain.is_aborting() {
                tracing::debug!(client = %self.client.0, "a client does not read its answer");
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(READ_POLL.1);
        }
        if let Err(error) = self.wire.shut_write() {
            tracing::debug!(%error, client = %self.client.0, "FIN");
        }
        self.wire.discard().await;
    }

    /// The lane of an exchange with an endpoint.
    pub(crate) fn lane(&self, upstream_mapped: bool) -> LaneLabel {
        if upstream_mapped || self.is_mapped() { LaneLabel::Relay } else { LaneLabel::Plain }
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.opened).as_nanos()).unwrap_or(u64::MAX)
    }
}

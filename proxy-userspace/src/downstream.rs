//! What a connection's driver, hyper's IO and the request in flight share.

mod connection;
mod gate;
mod io;

pub(crate) use connection::Connection;
pub(crate) use io::DownstreamIo;

use crate::{
    admission::{Part, Refusal},
    deadline::Deadline,
    flow::Reason,
    muffle::Muffle,
    record::{Draft, Failure},
    upgrade::Switch,
};
use parking_lot::Mutex;
use std::{
    ops::Deref,
    sync::{
        Arc, OnceLock,
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

/// What a request is served by: the connection that it came on, and where that request is. HTTP/1 has one
/// of them a connection, for one request after the other; HTTP/2 one for each of its streams.
pub(crate) struct Downstream {
    pub(crate) connection: Arc<Connection>,
    pub(crate) deadline: Deadline,
    /// For what the task polls beside hyper's server.
    pub(crate) muffle: Muffle,
    /// One of many streams on the connection, by HTTP/2.
    is_stream: bool,
    /// Its client takes trailers.
    trailers: AtomicBool,
    phase: AtomicU8,
    first_byte: AtomicU64,
    request: RequestProgress,
    /// Requests whose end has not been reported yet: that is done when the answer has been sent.
    #[expect(clippy::vec_box, reason = "handed over, not copied")]
    ended: Mutex<Vec<Box<Draft>>>,
    any_ended: AtomicBool,
    /// Why nothing of the client is admitted any more.
    refusal: OnceLock<(Refusal, Part)>,
    /// An answer has said that it is the last.
    is_closing: AtomicBool,
    /// Whether the connection becomes another protocol's.
    pub(crate) switch: Switch,
}

impl Deref for Downstream {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
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
    /// A connection without a request yet.
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        let deadline = Deadline::new();
        deadline.idle(connection.opened, connection.timeouts.downstream_idle);
        Self {
            connection,
            deadline,
            muffle: Muffle::new(),
            is_stream: false,
            trailers: AtomicBool::new(false),
            phase: AtomicU8::new(Phase::Idle as u8),
            first_byte: AtomicU64::new(0),
            request: RequestProgress::default(),
            ended: Mutex::default(),
            any_ended: AtomicBool::new(false),
            refusal: OnceLock::new(),
            is_closing: AtomicBool::new(false),
            switch: Switch::default(),
        }
    }

    /// One of the connection's streams.
    pub(crate) fn stream(connection: Arc<Connection>) -> Self {
        Self { is_stream: true, ..Self::new(connection) }
    }

    /// It is one of many streams on the connection, by HTTP/2.
    pub(crate) fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Whether the request says so of its client.
    pub(crate) fn takes_trailers(&self, so: bool) {
        self.trailers.store(so, Relaxed);
    }

    /// Trailers of the answer go to the client: by HTTP/2 they are part of the answer.
    pub(crate) fn passes_trailers(&self) -> bool {
        self.is_stream || self.trailers.load(Relaxed)
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Request,
        }
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

    /// The client has sent something that is not admitted.
    pub(crate) fn refuse(&self, refusal: Refusal, part: Part) {
        tracing::debug!(%refusal, client = %self.client.0, "not admitted");
        self.relay.observer.metrics.bad_request(refusal.oddity);
        let _first = self.refusal.set((refusal, part));
    }

    /// Why nothing of the client is admitted any more.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal.get().map(|(refusal, _)| *refusal)
    }

    /// An answer has said that it is the connection's last.
    pub(crate) fn closes(&self) {
        self.is_closing.store(true, Relaxed);
    }

    /// A request that hyper never saw is to be answered, behind all the others.
    pub(crate) fn owes_refusal(&self) -> Option<Refusal> {
        let owes = !self.is_closing.load(Relaxed) && !self.relay.drain.is_leaving();
        self.refusal.get().filter(|(_, part)| owes && *part == Part::Head).map(|(refusal, _)| *refusal)
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

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.opened).as_nanos()).unwrap_or(u64::MAX)
    }
}

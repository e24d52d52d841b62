//! One connection to an endpoint: a request at a time, driven by the task whose request it carries.
//!
//! hyper's client is two halves, a sender and a driver that wants to be polled. Here the task of
//! the downstream connection polls both, instead of a task of the upstream connection: a request
//! costs no switch between tasks, and a client that goes away takes its upstream connection with
//! it. Nobody polls an idle connection; [`Pool::take`] looks whether it is still fresh.

mod acquire;
mod connect;
mod http2;
mod io;
mod pool;
mod trunk;

pub(crate) use acquire::{Source, Speech, acquire, connect_plain};
pub(crate) use connect::{ConnectError, Connector};
pub(crate) use http2::is_bad_answer;
pub(crate) use pool::{Birthplace, Key, Pool};

use crate::{
    admission::{Framer, Refusal},
    body::RequestBody,
    datapath::{Datapath, UpstreamLane},
    metrics::Metrics,
    muffle::Muffle,
    relay::Relay,
    tls::{Proof, Secured},
    upgrade,
    wire::Wire,
};
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2::SendRequest as SendStream},
};
use io::UpstreamIo;
use parking_lot::Mutex;
use proxy_common::flow::FlowKey;
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{task::coop, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// See the module.
pub(crate) struct Upstream {
    sender: Sender,
    driver: Driver,
    io: Arc<UpstreamWire>,
    pub(crate) key: Key,
    pub(crate) lane: UpstreamLane,
    /// The endpoint's workload, where it is on probation.
    pub(crate) watched: Option<u64>,
    /// It carried a request before: the endpoint may have closed it meanwhile.
    pub(crate) reused: bool,
    /// The endpoint has had the next request already: only the answer is to be read.
    pub(crate) owes_answer: bool,
    idle_since: Instant,
    /// How long it may be idle: its cluster's choice.
    idle_timeout: Option<Duration>,
    /// What the endpoint had to prove, where it is not a place on a trunk.
    proof: Option<Arc<Proof>>,
}

/// hyper's half that takes requests.
enum Sender {
    /// One at a time.
    One(http1::SendRequest<RequestBody>),
    /// Many at once.
    Many(SendStream<RequestBody>),
}

#[expect(clippy::large_enum_variant, reason = "boxed together with the rest of `Upstream`")]
enum Driver {
    /// Polled by the task that has the connection.
    Here(http1::Connection<UpstreamIo, RequestBody>),
    /// A task of its own, for the rest of its life: both bodies are under way at once.
    Task { _ends_with_this: AbortOnDropHandle<()> },
    /// Its trunk's own task drives it, and others with it.
    Trunk { _place: trunk::Place },
    /// The connection has ended.
    Ended,
}

/// Why a request got no answer.
pub(crate) struct SendError {
    /// The request, if no byte of it was written.
    pub(crate) unsent: Option<Request<RequestBody>>,
    /// Some of the answer had been read.
    pub(crate) answered: bool,
    /// Why what was answered is not admitted.
    pub(crate) refusal: Option<Refusal>,
    /// The endpoint has said that it did nothing about the request.
    pub(crate) unprocessed: bool,
    pub(crate) error: hyper::Error,
}

impl Upstream {
    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
        muffle: &Muffle,
    ) -> Result<Response<Incoming>, SendError> {
        let sender = match &mut self.sender {
            Sender::One(sender) => sender,
            Sender::Many(sender) => {
                let is_secure = self.io.wire.is_secure();
                return send_stream(sender, http2::request(request, self.key.endpoint, is_secure)).await;
            }
        };
        self.io.answered.store(false, Relaxed);
        let owes = std::mem::take(&mut self.owes_answer);
        self.io.muted.store(owes, Relaxed);
        self.io.unasked.store(owes, Relaxed);
        self.io.framer.lock().expect(*request.method() == Method::HEAD, upgrade::asks(&request));
        // The answer is handed over by the driver, below, within the same poll: there is nothing
        // to be woken for but the driver's own socket.
        let mut answer = pin!(coop::unconstrained(sender.try_send_request(request)));
        let outcome = std::future::poll_fn(|cx| {
            muffle.poll(cx, |cx| {
                self.driver.poll(cx);
                answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            })
        })
        .await;
        outcome.map_err(|mut failed| SendError {
            // What the kernel half has carried was sent, and its body is not here.
            unsent: failed.take_message().filter(|_| !owes),
            answered: self.io.answered.load(Relaxed),
            refusal: self.io.refusal(),
            unprocessed: false,
            error: failed.into_error(),
        })
    }

    /// Moves bytes, both ways.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        self.driver.poll(cx);
    }

    /// Lets the request's body go on while nobody polls the answer's. Such a connection is not used
    /// again.
    pub(crate) fn drive_apart(&mut self) {
        if !matches!(self.driver, Driver::Here(_)) {
            return;
        }
        if let Driver::Here(connection) = std::mem::replace(&mut self.driver, Driver::Ended) {
            let task = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "upstream connection");
                }
            });
            self.driver = Driver::Task { _ends_with_this: AbortOnDropHandle::new(task) };
        }
    }

    /// The exchange is complete: keeps the connection for another one, if it is fit for that.
    pub(crate) fn give_back(mut self: Box<Self>, relay: &Relay) {
        if let Some(watched) = self.watched {
            relay.datapath.watched_exchange(watched);
        }
        if self.is_reusable() {
            relay.pool.put(self);
        }
    }

    /// Whether another request can be sent: hyper has written and read everything of the last one
    /// (a request's body that was answered early included).
    pub(crate) fn is_reusable(&mut self) -> bool {
        let Sender::One(sender) = &self.sender else { return false };
        if !sender.is_ready() {
            self.driver.poll(&mut Context::from_waker(Waker::noop()));
        }
        matches!(self.driver, Driver::Here(_)) && sender.is_ready() && self.io.refusal().is_none()
    }

    /// It is one stream of a connection that others use as well.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.sender, Sender::Many(_))
    }

    /// The connection as it is under HTTP, which has ended on it, and what the endpoint has said since.
    pub(crate) fn into_wire(self) -> (Arc<UpstreamWire>, Bytes) {
        let said = std::mem::take(&mut *self.io.behind.lock());
        (self.io, said.freeze())
    }

    /// Why what the endpoint sent last is not admitted.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.io.refusal()
    }

    /// The agent's socket; `None` where it is gone.
    pub(crate) fn own_key(&self) -> Option<FlowKey> {
        let local = self.io.wire.stream().local_addr().ok()?;
        Some(FlowKey::new(local, self.key.endpoint))
    }

    /// Ready when there is something to read, the connection's end included.
    pub(crate) fn poll_disturbed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.wire.poll_readable(cx)
    }

    /// What the TLS session's handshake came to, where there is one.
    pub(crate) fn secured(&self) -> Option<&Arc<Secured>> {
        self.io.wire.secured()
    }

    /// Idle for longer than its cluster allows, or its endpoint would have to prove something else by now.
    fn is_overdue(&self, now: Instant) -> bool {
        self.idle_timeout.is_some_and(|timeout| now >= self.idle_since + timeout)
            || self.proof.as_ref().is_some_and(|proof| proof.is_retired())
    }

    /// Whether the endpoint has kept silent, as it should on an idle connection. From here on nothing
    /// that happens to the connection wakes the task which had it last.
    pub(crate) fn is_fresh(&mut self) -> bool {
        self.driver.poll(&mut Context::from_waker(Waker::noop()));
        matches!(self.driver, Driver::Here(_))
    }
}

/// Sends a request on a trunk and waits for the head of its answer.
async fn send_stream(
    sender: &mut SendStream<RequestBody>,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, SendError> {
    sender.try_send_request(request).await.map_err(|mut failed| {
        let unsent = failed.take_message();
        let error = failed.into_error();
        let unprocessed = http2::is_unprocessed(&error);
        SendError { unsent, answered: false, refusal: None, unprocessed, error }
    })
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Self::Here(connection) = self
            && let Poll::Ready(ended) = Pin::new(connection).poll(cx)
        {
            // The request in flight, if there is one, is told by hyper.
            if let Err(error) = ended {
                tracing::debug!(%error, "upstream connection");
            }
            *self = Self::Ended;
        }
    }
}

/// The socket, and what must be undone when it is closed.
pub(crate) struct UpstreamWire {
    pub(crate) wire: Wire,
    /// Part of the current answer has been read.
    answered: AtomicBool,
    /// What hyper writes has been carried in the kernel half: it is not sent again.
    muted: AtomicBool,
    /// hyper has not written that request yet: it would take the answer for an unexpected one.
    unasked: AtomicBool,
    /// Judges what the endpoint sends.
    framer: Mutex<Framer>,
    /// What has been read behind an answer after which the connection is no longer HTTP.
    behind: Mutex<BytesMut>,
    announced: Announced,
}

impl UpstreamWire {
    fn refusal(&self) -> Option<Refusal> {
        self.framer.lock().refusal().map(|(refusal, _)| refusal)
    }
}

/// An upstream socket that the kernel half and the metrics know of.
struct Announced {
    cookie: u64,
    datapath: Datapath,
    metrics: Arc<Metrics>,
    opened: bool,
}

impl Drop for Announced {
    fn drop(&mut self) {
        if self.opened {
            self.metrics.upstream_closed();
        } else {
            self.datapath.forget_upstream(self.cookie);
        }
    }
}

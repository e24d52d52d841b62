//! Connections that are not HTTP, or are not any more: bytes both ways until both sides have ended.

use crate::{
    balance,
    downstream::Downstream,
    flow::{LaneLabel, Reason},
    record::{Draft, Failure},
    route::Route,
    snapshot::Endpoint,
    tls,
    upstream::{ConnectError, UpstreamWire, connect_plain},
    wire::{self, Wire},
};
use bytes::Bytes;
use hyper::rt::ReadBuf;
use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{net::TcpStream, time::Instant};

/// Endpoints of a Service that are looked at to find one that a client may connect to.
const MAX_LOOKED_AT: usize = 16;
/// What is read at once, each way.
const CHUNK: usize = 16 * 1024;

/// A plain connection to an endpoint, on which nobody has spoken.
pub(crate) struct UpstreamSocket {
    upstream: Arc<UpstreamWire>,
    endpoint: Endpoint,
}

impl UpstreamSocket {
    pub(crate) fn stream(&self) -> &TcpStream {
        self.upstream.wire.stream()
    }
}

/// Connects; the caller bounds the time.
pub(crate) async fn connect(
    downstream: &Downstream,
    endpoint: &Endpoint,
) -> Result<UpstreamSocket, ConnectError> {
    let upstream = connect_plain(downstream, endpoint.addr).await?;
    Ok(UpstreamSocket { upstream, endpoint: endpoint.clone() })
}

/// Carries the connection to its end; `first` has been read from the client already.
pub(crate) async fn carry(
    downstream: &Downstream,
    route: &Route,
    first: Bytes,
    upstream: Option<UpstreamSocket>,
) {
    let mut draft = Box::new(Draft::of_nothing("TCP", downstream.opened_at()));
    draft.lane = LaneLabel::Opaque;
    draft.cluster = Some(route.cluster.clone());
    downstream.deadline.no_stage();
    downstream.leave_map();
    let (first, server_name) = tls::hello::of(downstream, first).await;
    draft.server_name = server_name;
    let upstream = match upstream {
        Some(upstream) => {
            let passage = downstream.passage(&upstream.endpoint);
            draft.admit_opaque(&upstream.endpoint, &passage).map(|()| upstream)
        }
        None => reach(downstream, route, &mut draft).await,
    };
    let flow = Flow::default();
    let outcome = match upstream {
        Ok(upstream) => {
            draft.tries(&upstream.endpoint);
            let (wire, idle) = (&upstream.upstream.wire, downstream.timeouts.tunnel_idle);
            let outcome = flow.run(downstream, wire, (&first, &[]), idle).await;
            if outcome.is_err() {
                wire::reset_on_close(upstream.stream());
            }
            outcome
        }
        Err(failure) => Err(failure),
    };
    flow.end(downstream, draft, outcome);
}

/// An endpoint that the client may not connect to, where it may connect to none: of many, the first few are
/// looked at, as the kernel half does.
pub(crate) fn closed<'a>(downstream: &Downstream, route: &'a Route) -> Option<&'a Endpoint> {
    let usable = route.cluster.usable_within(route.family, balance::scope(downstream, route));
    let mut all =
        usable.filter(|one| route.pinned.is_none_or(|pinned| pinned == one.addr)).take(MAX_LOOKED_AT);
    let first = all.next().filter(|one| downstream.passage(one).is_closed())?;
    all.all(|one| downstream.passage(one).is_closed()).then_some(first)
}

/// Resets a connection that may lead to no endpoint, before its first byte: where the kernel half knows the
/// client, its connect was refused already.
pub(crate) fn refuse(downstream: &Downstream, route: &Route, endpoint: &Endpoint) {
    let mut draft = Box::new(Draft::of_nothing("TCP", downstream.opened_at()));
    draft.lane = LaneLabel::Opaque;
    draft.cluster = Some(route.cluster.clone());
    draft.failure = draft.admit_opaque(endpoint, &downstream.passage(endpoint)).err();
    downstream.leave_map();
    wire::reset_on_close(downstream.wire.stream());
    downstream.request_ends(draft, Instant::now());
    downstream.report_ended(None);
}

async fn reach(downstream: &Downstream, route: &Route, draft: &mut Draft) -> Result<UpstreamSocket, Failure> {
    let (cluster, mut avoid) = (&route.cluster, None);
    let client = balance::Client::of(downstream, route);
    loop {
        let endpoint = balance::pick(route, &client, avoid).ok_or(Reason::NoEndpoint)?;
        draft.admit_opaque(endpoint, &downstream.passage(endpoint))?;
        let connect = connect(downstream, endpoint);
        let connected = match cluster.timeouts.connect {
            Some(timeout) => tokio::time::timeout(timeout, connect).await,
            None => Ok(connect.await),
        };
        let failure = match connected {
            Ok(Ok(upstream)) => return Ok(upstream),
            Ok(Err(error)) => Failure::new(Reason::ConnectFailed, &error),
            Err(_) => Failure::from(Reason::ConnectTimeout),
        };
        draft.tries(endpoint);
        if avoid.replace(endpoint.addr).is_some() || cluster.endpoints.len() == 1 {
            return Err(failure);
        }
    }
}

/// Bytes carried so far.
#[derive(Default)]
pub(crate) struct Flow {
    up: AtomicU64,
    down: AtomicU64,
}

impl Flow {
    /// Carries bytes both ways until both sides have ended, or nothing has moved for `idle`. What has been read
    /// already, `from_client` and `from_endpoint`, comes first.
    pub(crate) async fn run(
        &self,
        downstream: &Downstream,
        upstream: &Wire,
        (from_client, from_endpoint): (&[u8], &[u8]),
        idle: Option<Duration>,
    ) -> Result<(), Failure> {
        let client = &downstream.wire;
        let up = async {
            write_all(upstream, from_client, &self.up).await.map_err(broken_upstream)?;
            pump(client, upstream, &self.up, broken_downstream, broken_upstream).await
        };
        let down = async {
            write_all(client, from_endpoint, &self.down).await.map_err(broken_downstream)?;
            pump(upstream, client, &self.down, broken_upstream, broken_downstream).await
        };
        tokio::select! {
            both = async { tokio::try_join!(up, down) } => both.map(|_| ()),
            () = self.silent_for(idle) => Err(Reason::TunnelIdle.into()),
            () = downstream.relay.drain.aborted() => Err(Reason::Draining.into()),
        }
    }

    /// Tells what became of the connection.
    pub(crate) fn end(&self, downstream: &Downstream, mut draft: Box<Draft>, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            // Neither side must take a broken stream for a finished one.
            wire::reset_on_close(downstream.wire.stream());
            draft.failure = Some(failure);
        }
        draft.received(self.up.load(Relaxed), None);
        draft.bytes_sent = self.down.load(Relaxed);
        downstream.request_ends(draft, Instant::now());
        downstream.report_ended(None);
    }

    /// Completes when nothing has moved for `idle`, or up to a quarter longer.
    async fn silent_for(&self, idle: Option<Duration>) {
        let Some(idle) = idle else { return std::future::pending().await };
        let moved = || self.up.load(Relaxed).wrapping_add(self.down.load(Relaxed));
        let (mut seen, mut quiet) = (moved(), 0);
        while quiet < 4 {
            tokio::time::sleep(idle / 4).await;
            let now = moved();
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
    }
}

fn broken_upstream(error: io::Error) -> Failure {
    Failure::new(Reason::UpstreamReset, &error)
}

fn broken_downstream(error: io::Error) -> Failure {
    Failure::new(Reason::DownstreamReset, &error)
}

/// Copies one way until its end, and passes the end on.
async fn pump(
    from: &Wire,
    to: &Wire,
    moved: &AtomicU64,
    unread: fn(io::Error) -> Failure,
    unwritten: fn(io::Error) -> Failure,
) -> Result<(), Failure> {
    loop {
        let bytes = poll_fn(|cx| poll_read(from, cx)).await.map_err(unread)?;
        if bytes.is_empty() {
            break;
        }
        write_all(to, &bytes, moved).await.map_err(unwritten)?;
    }
    poll_fn(|cx| to.poll_shut_write(cx)).await.map_err(unwritten)
}

/// What can be read; nothing at the end. A tunnel that waits has no buffer.
fn poll_read(from: &Wire, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    let mut storage = [MaybeUninit::uninit(); CHUNK];
    let mut buf = ReadBuf::uninit(&mut storage);
    ready!(from.poll_read(cx, buf.unfilled()))?;
    Poll::Ready(Ok(Bytes::copy_from_slice(buf.filled())))
}

async fn write_all(to: &Wire, mut bytes: &[u8], moved: &AtomicU64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = poll_fn(|cx| to.poll_write(cx, bytes)).await?;
        moved.fetch_add(count as u64, Relaxed);
        bytes = bytes.get(count..).unwrap_or_default();
    }
    poll_fn(|cx| to.poll_flush(cx)).await
}

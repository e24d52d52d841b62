//! Connections that are not HTTP/1: bytes both ways, by plain TCP, until both sides have ended.

use crate::{
    balance,
    downstream::Downstream,
    flow::{LaneLabel, Reason},
    record::{Draft, Failure},
    route::Route,
    snapshot::Endpoint,
    upstream::{ConnectError, Connected, connect_plain},
    wire,
};
use bytes::Bytes;
use rustix::net::Shutdown;
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio::{net::TcpStream, time::Instant};

/// Endpoints of a Service that are looked at to find one that a client may connect to.
const MAX_LOOKED_AT: usize = 16;
/// What is read at once, each way.
const CHUNK: usize = 32 * 1024;

/// A plain connection to an endpoint, on which nobody has spoken.
pub(crate) struct UpstreamSocket {
    connected: Connected,
    endpoint: Endpoint,
}

impl UpstreamSocket {
    pub(crate) fn stream(&self) -> &TcpStream {
        self.connected.stream()
    }
}

/// Connects; the caller bounds the time.
pub(crate) async fn connect(
    downstream: &Downstream,
    endpoint: &Endpoint,
) -> Result<UpstreamSocket, ConnectError> {
    let connected = connect_plain(downstream, endpoint.addr).await?;
    Ok(UpstreamSocket { connected, endpoint: endpoint.clone() })
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
            let outcome = flow.run(downstream, upstream.stream(), &first).await;
            if outcome.is_err() {
                wire::reset_on_close(upstream.stream());
            }
            outcome
        }
        Err(failure) => Err(failure),
    };
    if let Err(failure) = outcome {
        // Neither side must take a broken stream for a finished one.
        wire::reset_on_close(downstream.wire.stream());
        draft.failure = Some(failure);
    }
    draft.received(flow.up.load(Relaxed), None);
    draft.bytes_sent = flow.down.load(Relaxed);
    downstream.request_ends(draft, Instant::now());
    downstream.report_ended(None);
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
struct Flow {
    up: AtomicU64,
    down: AtomicU64,
}

impl Flow {
    async fn run(&self, downstream: &Downstream, upstream: &TcpStream, first: &[u8]) -> Result<(), Failure> {
        let client = downstream.wire.stream();
        let up = async {
            write_all(upstream, first, &self.up).await.map_err(broken_upstream)?;
            pump(client, upstream, &self.up, broken_downstream, broken_upstream).await
        };
        let down = pump(upstream, client, &self.down, broken_upstream, broken_downstream);
        let timeouts = &downstream.timeouts;
        let idle =
            timeouts.downstream_idle.zip(timeouts.response_body_idle).map(|(one, other)| one.max(other));
        tokio::select! {
            both = async { tokio::try_join!(up, down) } => both.map(|_| ()),
            () = self.silent_for(idle) => Err(Reason::ResponseBodyIdle.into()),
            () = downstream.relay.drain.aborted() => Err(Reason::Draining.into()),
        }
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
    from: &TcpStream,
    to: &TcpStream,
    moved: &AtomicU64,
    unread: fn(io::Error) -> Failure,
    unwritten: fn(io::Error) -> Failure,
) -> Result<(), Failure> {
    let mut chunk = vec![0; CHUNK];
    loop {
        from.readable().await.map_err(unread)?;
        match from.try_read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                let bytes = chunk.get(..count).unwrap_or_default();
                write_all(to, bytes, moved).await.map_err(unwritten)?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(unread(error)),
        }
    }
    match rustix::net::shutdown(to, Shutdown::Write) {
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(unwritten(error.into())),
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8], moved: &AtomicU64) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(count) => {
                moved.fetch_add(count as u64, Relaxed);
                bytes = bytes.get(count..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

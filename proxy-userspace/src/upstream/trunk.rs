//! Connections to endpoints that speak HTTP/2: each carries many requests at once, of any client that may use it,
//! and is driven by a task of its own.

use super::{Driver, Key, Sender, Upstream, UpstreamWire, connect::ConnectError};
use crate::{body::RequestBody, datapath::UpstreamLane, tls::Proof};
use hyper::{
    client::conn::http2,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    future::Future as _,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Instant;

/// Requests on one connection at once, where the endpoint would allow more.
const MAX_STREAMS: usize = 100;
/// Connections that a key may have; further requests wait on them for their turn.
const MAX_TRUNKS: usize = 64;
/// What an endpoint may send ahead, in a stream and in all of them.
const WINDOWS: (u32, u32) = (256 << 10, 4 << 20);
/// Largest answer head.
const MAX_HEADER_LIST: u32 = 64 << 10;
/// What hyper keeps of a request's body that the endpoint does not take yet.
const MAX_SEND_BUFFER: usize = 64 << 10;

/// One such connection.
pub(super) struct Trunk {
    key: Key,
    sender: http2::SendRequest<RequestBody>,
    io: Arc<UpstreamWire>,
    watched: Option<u64>,
    status: Arc<Status>,
    /// Requests that it carries.
    open: AtomicUsize,
    used: AtomicBool,
    idle_since: Mutex<Instant>,
    idle_timeout: Option<Duration>,
    /// What the endpoint had to prove.
    proof: Option<Arc<Proof>>,
}

/// What its task knows.
struct Status {
    over: AtomicBool,
    /// Requests that the endpoint allows at once.
    room: AtomicUsize,
}

/// The right to one request on a trunk.
pub(super) struct Place(Arc<Trunk>);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.idle_since.lock() = Instant::now();
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Trunk {
    /// Speaks HTTP/2 on a connected socket, from now on in a task of its own: it ends when nobody has the trunk
    /// any more and its last request has.
    pub(super) async fn start(
        io: Arc<UpstreamWire>,
        key: Key,
        (watched, proof): (Option<u64>, Option<Arc<Proof>>),
        idle_timeout: Option<Duration>,
    ) -> Result<Self, ConnectError> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .handshake(TrunkIo(Arc::clone(&io)))
            .await?;
        let status = Arc::new(Status { over: AtomicBool::new(false), room: AtomicUsize::new(MAX_STREAMS) });
        let told = Arc::clone(&status);
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let ended = std::future::poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                told.room.store(connection.current_max_send_streams().clamp(1, MAX_STREAMS), Relaxed);
                polled
            })
            .await;
            told.over.store(true, Relaxed);
            if let Err(error) = ended {
                tracing::debug!(%error, endpoint = %key.endpoint, "upstream HTTP/2 connection");
            }
        });
        let (open, used) = (AtomicUsize::new(0), AtomicBool::new(false));
        let idle_since = Mutex::new(Instant::now());
        Ok(Self { key, sender, io, watched, status, open, used, idle_since, idle_timeout, proof })
    }

    /// It takes new requests: neither has it ended, nor did the endpoint say GOAWAY, nor does it have to prove
    /// something else by now.
    fn is_fit(&self) -> bool {
        let is_retired = self.proof.as_ref().is_some_and(|proof| proof.is_retired());
        !self.status.over.load(Relaxed) && self.sender.is_ready() && !is_retired
    }

    fn has_room(&self) -> bool {
        self.open.load(Relaxed) < self.status.room.load(Relaxed)
    }

    fn is_overdue(&self, now: Instant) -> bool {
        let since = *self.idle_since.lock();
        self.open.load(Relaxed) == 0 && self.idle_timeout.is_some_and(|timeout| now >= since + timeout)
    }

    /// A place on it, as the request's connection.
    pub(super) fn place(self: &Arc<Self>) -> Box<Upstream> {
        self.open.fetch_add(1, Relaxed);
        Box::new(Upstream {
            sender: Sender::Many(self.sender.clone()),
            driver: Driver::Trunk { _place: Place(Arc::clone(self)) },
            io: Arc::clone(&self.io),
            key: self.key,
            lane: UpstreamLane::Plain,
            watched: self.watched,
            reused: self.used.swap(true, Relaxed),
            owes_answer: false,
            idle_since: Instant::now(),
            idle_timeout: None,
            proof: None,
        })
    }
}

/// hyper's view of the socket: frames are judged by hyper alone.
struct TrunkIo(Arc<UpstreamWire>);

impl Read for TrunkIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.0.wire.poll_read(cx, buf).map_ok(drop)
    }
}

impl Write for TrunkIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.wire.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.wire.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.wire.poll_shut_write(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.wire.poll_write_vectored(cx, slices)
    }
}

/// All trunks.
#[derive(Default)]
pub(crate) struct Trunks(Mutex<HashMap<Key, Group>>);

#[derive(Default)]
struct Group {
    trunks: Vec<Arc<Trunk>>,
    /// Held by the one who opens another.
    opening: Arc<tokio::sync::Mutex<()>>,
}

impl Trunks {
    /// A place on a trunk that has room.
    pub(super) fn take(&self, key: &Key) -> Option<Box<Upstream>> {
        let mut groups = self.0.lock();
        let group = groups.get_mut(key)?;
        let found = group.trunks.iter().find(|one| one.is_fit() && one.has_room());
        let full = group.trunks.len() >= MAX_TRUNKS;
        let shared = || {
            let fit = group.trunks.iter().filter(|one| full && one.is_fit());
            fit.min_by_key(|one| one.open.load(Relaxed))
        };
        found.or_else(shared).map(Trunk::place)
    }

    /// The same for a key whose endpoint is known to speak HTTP/2: it has had trunks lately.
    pub(super) fn known(&self, key: &Key) -> Option<Arc<tokio::sync::Mutex<()>>> {
        Some(Arc::clone(&self.0.lock().get(key)?.opening))
    }

    /// One opens a trunk, others that came meanwhile wait for it.
    pub(super) fn opening(&self, key: &Key) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.0.lock().entry(*key).or_default().opening)
    }

    /// A place on a new trunk, which others may use too.
    pub(super) fn add(&self, trunk: Trunk) -> Box<Upstream> {
        let trunk = Arc::new(trunk);
        let place = trunk.place();
        let mut groups = self.0.lock();
        let group = groups.entry(trunk.key).or_default();
        group.trunks.retain(|one| one.is_fit());
        if group.trunks.len() < MAX_TRUNKS {
            group.trunks.push(trunk);
        }
        place
    }

    /// Lets go of what has ended, or has been idle for longer than its cluster allows, and of all birthplaces
    /// that are not `wanted` any more. What they carry still comes to its end.
    pub(super) fn sweep(&self, wanted: impl Fn(super::Birthplace) -> bool) {
        let now = Instant::now();
        let mut closed = Vec::new();
        self.0.lock().retain(|key, group| {
            let wanted = wanted(key.born);
            let leaves = |one: &mut Arc<Trunk>| !wanted || !one.is_fit() || one.is_overdue(now);
            closed.extend(group.trunks.extract_if(.., leaves));
            !group.trunks.is_empty() || Arc::strong_count(&group.opening) > 1
        });
        // Closing takes system calls: not under the lock.
        drop(closed);
    }

    /// Connections that there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.lock().values().map(|group| group.trunks.len()).sum()
    }
}

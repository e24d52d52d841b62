//! In-process tests of the relay: real sockets on loopback, raw clients, scripted endpoints. The
//! kernel half is absent; every connection is told its original destination.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod admission;
mod bodies;
mod choices;
mod client_certificates;
mod combinations;
mod conformance;
mod edge;
mod http;
mod http2;
mod limits;
mod opaque;
mod own_certificates;
mod policy;
mod pool;
mod proxy_protocol;
mod timeouts;
mod tls;
mod upgrades;
mod upstream_tls;
mod via;

use crate::{
    flow::{Observer, RequestRecord},
    listener::{self, Limits},
    orig_dst::OrigDstSource,
    relay::Relay,
    snapshot::{Cluster, Snapshot, Timeouts},
    testing,
};
use arc_swap::ArcSwap;
use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

/// Nothing on loopback takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// A timeout that fires in a test.
pub(crate) const SHORT: Duration = Duration::from_millis(150);

/// A relay with one cluster, and its way in.
pub(crate) struct Ring {
    pub(crate) addr: SocketAddr,
    pub(crate) relay: Arc<Relay>,
    _stop: tokio_util::sync::DropGuard,
}

/// What a test changes.
pub(crate) struct Setup {
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) timeouts: Timeouts,
    pub(crate) cluster: fn(&mut Cluster),
    pub(crate) limits: (u32, u32),
    pub(crate) args: Vec<&'static str>,
    /// The kernel half has told who the client is.
    pub(crate) known: bool,
}

impl Setup {
    pub(crate) fn new(endpoints: &[SocketAddr]) -> Self {
        Self {
            endpoints: endpoints.to_vec(),
            timeouts: Timeouts::default(),
            cluster: |_| {},
            limits: (1000, 1000),
            args: Vec::new(),
            known: true,
        }
    }

    pub(crate) fn timeouts(mut self, change: impl FnOnce(&mut Timeouts)) -> Self {
        change(&mut self.timeouts);
        self
    }

    pub(crate) async fn start(self) -> Ring {
        let frontend: SocketAddr = "10.96.0.1:8080".parse().unwrap();
        let mut cluster = testing::cluster_of(&self.endpoints);
        cluster.timeouts = self.timeouts;
        (self.cluster)(&mut cluster);
        let snapshot = testing::snapshot_with(frontend, cluster);
        Ring::of(snapshot, (frontend, self.known), &self.args, self.limits).await
    }
}

impl Ring {
    /// One with this configuration, whose clients all have asked for one address; whether the kernel half has
    /// told who they are.
    pub(crate) async fn of(
        snapshot: Snapshot,
        (asked, known): (SocketAddr, bool),
        more_args: &[&'static str],
        limits: (u32, u32),
    ) -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let mut args = vec!["--acceleration", "off"];
        args.extend(more_args);
        let config = testing::config(&args);
        let observer = Observer { metrics: Arc::default(), access_log: Default::default() };
        let relay = Relay::new(&config, snapshot, crate::datapath::Datapath::plain(), observer).unwrap();
        let mut relay = Arc::into_inner(relay).unwrap();
        let identity = known.then(|| testing::steered(asked, relay.namespaces.own()));
        relay.orig_dst = OrigDstSource::Fixed(asked, identity);
        let relay = Arc::new(relay);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let limits = Limits::new(limits.0, limits.1);
        tokio::spawn(listener::accept(listener, Arc::clone(&relay), limits, stop.clone()));
        tokio::spawn(Arc::clone(&relay).sweep());
        Self { addr, relay, _stop: stop.drop_guard() }
    }

    /// One with an endpoint.
    pub(crate) async fn to(endpoint: &Endpoint) -> Self {
        Setup::new(&[endpoint.addr]).start().await
    }

    pub(crate) async fn client(&self) -> Peer {
        Peer(TcpStream::connect(self.addr).await.unwrap())
    }

    /// Waits until so many requests have ended; all of them.
    pub(crate) async fn records(&self, count: usize) -> Vec<RequestRecord> {
        eventually(|| async { self.relay.records.lock().len() >= count }).await;
        self.relay.records.lock().clone()
    }

    /// Requests that were not admitted for this reason.
    pub(crate) fn bad_requests(&self, reason: &str) -> bool {
        let text = self.relay.observer.metrics.text(crate::metrics::Format::Prometheus).unwrap();
        text.contains(&format!("weir_bad_requests_total{{reason=\"{reason}\"}}"))
    }

    /// Waits for the only record there is.
    pub(crate) async fn record(&self) -> RequestRecord {
        self.records(1).await.pop().unwrap()
    }
}

/// One end of a connection.
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Reads until what was read ends like this.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut all = Vec::new();
        while !all.ends_with(end.as_bytes()) {
            let mut byte = [0];
            let count = within(self.0.read(&mut byte)).await.unwrap();
            assert_ne!(count, 0, "ended after {:?}", String::from_utf8_lossy(&all));
            all.push(byte[0]);
        }
        String::from_utf8(all).unwrap()
    }

    /// A request's or an answer's head.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// The next head, however long it takes; `None` at the end.
    pub(crate) async fn maybe_head(&mut self) -> Option<String> {
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n\r\n") {
            all.push(self.0.read_u8().await.ok()?);
        }
        String::from_utf8(all).ok()
    }

    /// An answer whose body has this length.
    pub(crate) async fn answer(&mut self, body: usize) -> (String, Vec<u8>) {
        let head = self.head().await;
        (head, self.exactly(body).await)
    }

    pub(crate) async fn exactly(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        within(self.0.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// Everything up to the end; an error where it was reset.
    pub(crate) async fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        within(self.0.read_to_end(&mut bytes)).await.map(|_| bytes)
    }

    /// The same, however long it takes.
    pub(crate) async fn rest_unlimited(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).await.map(|_| bytes)
    }

    /// What arrives up to the end, however it ends, as text.
    pub(crate) async fn all(&mut self) -> String {
        let mut all = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = within(self.0.read(&mut chunk)).await {
            all.extend_from_slice(&chunk[..count]);
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Nothing comes for a while; it may have ended.
    pub(crate) async fn quiet(&mut self) {
        let read = tokio::time::timeout(SHORT, self.0.read(&mut [0])).await;
        assert!(!matches!(read, Ok(Ok(1..))), "something came");
    }

    pub(crate) fn reset(self) {
        self.0.set_zero_linger().unwrap();
    }
}

/// A scripted endpoint.
pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    listener: TcpListener,
}

impl Endpoint {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { addr: listener.local_addr().unwrap(), listener }
    }

    pub(crate) async fn accept(&self) -> Peer {
        Peer(within(self.listener.accept()).await.unwrap().0)
    }

    /// One whose backlog is full: further handshakes hang.
    pub(crate) async fn with_full_backlog() -> FullEndpoint {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = tokio::time::timeout(SHORT, TcpStream::connect(addr)).await {
            waiting.push(stream.unwrap());
        }
        FullEndpoint { addr, _open: (listener, waiting) }
    }

    /// The same, however long it takes.
    pub(crate) async fn accept_any(&self) -> Peer {
        Peer(self.listener.accept().await.unwrap().0)
    }

    /// Nobody connects for a while.
    pub(crate) async fn stays_alone(&self) {
        assert!(tokio::time::timeout(SHORT, self.listener.accept()).await.is_err());
    }

    /// An address where nobody listens.
    pub(crate) async fn absent() -> SocketAddr {
        Self::new().await.addr
    }
}

/// See [`Endpoint::with_full_backlog`].
pub(crate) struct FullEndpoint {
    pub(crate) addr: SocketAddr,
    _open: (TcpListener, Vec<TcpStream>),
}

pub(crate) async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("within the patience of the test")
}

/// Waits until it is so.
pub(crate) async fn eventually<F: Future<Output = bool>>(so: impl Fn() -> F) {
    within(async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) const GET: &str = "GET /a HTTP/1.1\r\nHost: web\r\n\r\n";
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

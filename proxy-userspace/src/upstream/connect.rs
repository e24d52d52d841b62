//! New connections to endpoints.

use super::{Announced, Driver, Key, Sender, Speech, Upstream, UpstreamIo, UpstreamWire, trunk::Trunk};
use crate::{
    admission::{Framer, Rules},
    datapath::{Datapath, DatapathError, UpstreamLane},
    flow::Reason,
    listener::{KeepAlive, leaves_room},
    metrics::{Handshake, Metrics},
    record::Failure,
    route::choices::HeadLimits,
    tls::{Proof, Secured},
    wire::{Role, Wire},
};
use hyper::client::conn::http1;
use parking_lot::Mutex;
use proxy_common::flow::FlowKey;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream as StdTcpStream},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tokio::{net::TcpSocket, time::Instant};
use tokio_rustls::TlsConnector;

/// Largest answer head, and the most that is read at once.
const READ_BUFFER: usize = HeadLimits::STRICT.bytes;

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) datapath: Datapath,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) keep_alive: KeepAlive,
    /// Endpoints may redirect into the agent's sockets.
    pub(crate) redirects: bool,
    /// What is admitted of endpoints' answers.
    pub(crate) rules: Arc<Rules>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The kernel half could not be told.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// hyper refused the socket.
    #[error(transparent)]
    Handshake(#[from] hyper::Error),
    /// The endpoint has not proved what it should, or speaks no TLS.
    #[error("TLS with the endpoint: {0}")]
    Tls(io::Error),
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let reason = match error {
            ConnectError::Tls(_) => Reason::UpstreamTls,
            _ => Reason::ConnectFailed,
        };
        Self::new(reason, &error)
    }
}

/// A socket that is connected to an endpoint, before anybody speaks on it.
pub(crate) struct Connected {
    wire: Wire,
    announced: Announced,
    proof: Option<Arc<Proof>>,
    pub(crate) lane: UpstreamLane,
    pub(crate) watched: Option<u64>,
}

impl Connected {
    /// What is spoken on it: where that was left to the endpoint, what it chose.
    pub(crate) fn agrees_on(&self, speech: Speech) -> Speech {
        let is_http2 = || self.wire.secured().is_some_and(|secured| secured.alpn == Some("h2"));
        match speech {
            Speech::Either if is_http2() => Speech::Http2,
            Speech::Either => Speech::Http1(UpstreamLane::Plain),
            certain => certain,
        }
    }
}

impl Connector {
    /// A socket in the agent's own network namespace.
    pub(crate) fn socket(&self, endpoint: SocketAddr) -> io::Result<Socket> {
        Socket::new(Domain::for_address(endpoint), Type::STREAM.nonblocking(), Some(Protocol::TCP))
    }

    /// Connects `socket`, wherever it was born. The caller bounds the time.
    pub(crate) async fn connect(
        &self,
        socket: Socket,
        endpoint: SocketAddr,
        wanted: UpstreamLane,
    ) -> Result<Connected, ConnectError> {
        if !leaves_room(&socket) {
            return Err(io::Error::from(rustix::io::Errno::MFILE).into());
        }
        socket.set_tcp_nodelay(true)?;
        self.keep_alive.apply(&socket)?;
        let cookie = socket.cookie()?;
        let (datapath, metrics) = (self.datapath.clone(), Arc::clone(&self.metrics));
        let mut announced = Announced { cookie, datapath, metrics, opened: false };
        self.datapath.announce_upstream(cookie, wanted)?;
        let socket = TcpSocket::from_std_stream(StdTcpStream::from(socket));
        let stream = socket.connect(endpoint).await?;
        announced.opened = true;
        self.metrics.upstream_opened();
        let own = FlowKey::new(stream.local_addr()?, endpoint);
        let settled = self.datapath.settle_upstream(&own, cookie);
        let wire = Wire::new(stream, self.redirects);
        Ok(Connected { wire, announced, proof: None, lane: settled.lane, watched: settled.watched })
    }

    /// Shakes hands with the endpoint: from here on the connection is a TLS session's. The caller bounds the time.
    pub(crate) async fn secure(
        &self,
        connected: &mut Connected,
        proof: &Arc<Proof>,
        speech: Speech,
    ) -> Result<(), ConnectError> {
        let begun = Instant::now();
        let connector = TlsConnector::from(Arc::clone(proof.config(speech.tongue())));
        let shaken = connector.connect(proof.server_name.clone(), connected.wire.view()).await;
        let secured = shaken.and_then(|stream| {
            let secured = Secured::with_endpoint(stream.get_ref().1, proof);
            if speech == Speech::Http2 && secured.alpn != Some("h2") {
                return Err(io::Error::new(ErrorKind::Unsupported, "the endpoint does not speak HTTP/2"));
            }
            Ok((stream, secured))
        });
        self.metrics.tls_with_endpoint(&Handshake::with_endpoint(&secured, begun.elapsed()));
        let (stream, secured) = secured.map_err(ConnectError::Tls)?;
        connected.wire.secure(stream.into(), Role::Client, secured);
        connected.proof = Some(Arc::clone(proof));
        Ok(())
    }

    /// An HTTP client on a connected socket.
    pub(crate) async fn handshake(
        &self,
        connected: Connected,
        key: Key,
        idle_timeout: Option<Duration>,
    ) -> Result<Box<Upstream>, ConnectError> {
        let (lane, watched, proof) = (connected.lane, connected.watched, connected.proof.clone());
        let io = self.wire(connected);
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .max_buf_size(READ_BUFFER)
            .handshake(UpstreamIo::new(Arc::clone(&io)))
            .await?;
        let driver = Driver::Here(connection);
        let idle_since = Instant::now();
        Ok(Box::new(Upstream {
            sender: Sender::One(sender),
            driver,
            io,
            key,
            lane,
            watched,
            reused: false,
            owes_answer: false,
            idle_since,
            idle_timeout,
            proof,
        }))
    }

    /// The same for HTTP/2.
    pub(super) async fn trunk(
        &self,
        connected: Connected,
        key: Key,
        idle_timeout: Option<Duration>,
    ) -> Result<Trunk, ConnectError> {
        let known = (connected.watched, connected.proof.clone());
        Trunk::start(self.wire(connected), key, known, idle_timeout).await
    }

    /// The same, for one request.
    pub(crate) async fn stream(&self, connected: Connected, key: Key) -> Result<Box<Upstream>, ConnectError> {
        Ok(Arc::new(self.trunk(connected, key, None).await?).place())
    }

    /// The connection, for whatever is spoken on it.
    pub(super) fn wire(&self, connected: Connected) -> Arc<UpstreamWire> {
        Arc::new(UpstreamWire {
            wire: connected.wire,
            answered: AtomicBool::new(false),
            muted: AtomicBool::new(false),
            unasked: AtomicBool::new(false),
            framer: Mutex::new(Framer::of_endpoint(Arc::clone(&self.rules))),
            behind: Mutex::default(),
            announced: connected.announced,
        })
    }
}

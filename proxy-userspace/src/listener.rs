//! Accepts connections, within limits.

use crate::{config::Config, orig_dst::DownstreamAddr, relay::Relay};
use anyhow::Context as _;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const BACKLOG: i32 = 4096;
/// How long accept pauses when the system is out of something, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// Descriptors that are not for connections: maps, logs, configuration, the admin listener.
const RESERVED_FILES: u64 = 256;
/// Descriptors that no connection gets, whatever `--max-connections` says.
const SPARE_FILES: u64 = 32;

/// TCP keep-alive of the agent's own sockets: redirected bytes make no packets, so without it
/// connection tracking takes a busy connection for a dead one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepAlive(Option<Duration>);

impl From<Duration> for KeepAlive {
    fn from(period: Duration) -> Self {
        Self((!period.is_zero()).then_some(period))
    }
}

impl KeepAlive {
    pub(crate) fn apply(self, socket: &Socket) -> io::Result<()> {
        let Some(period) = self.0 else { return Ok(()) };
        // Whole seconds, at least one, is what the kernel takes.
        let period = period.max(Duration::from_secs(1));
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(period).with_interval(period))
    }
}

/// Binds the listener on every address. Accepted sockets inherit TCP_NODELAY and keep-alive.
pub fn bind(config: &Config) -> anyhow::Result<Vec<TcpListener>> {
    let addrs = if config.listen_addr.is_empty() { node_addresses()? } else { config.listen_addr.clone() };
    anyhow::ensure!(!addrs.is_empty(), "no node address found: set --listen-addr");
    let keep_alive = KeepAlive::from(config.tcp_keepalive);
    let bind = |ip: IpAddr| {
        let addr = SocketAddr::new(ip, config.listen_port);
        bind_one(addr, keep_alive).with_context(|| format!("listen on {addr}"))
    };
    addrs.into_iter().map(bind).collect()
}

fn bind_one(addr: SocketAddr, keep_alive: KeepAlive) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    keep_alive.apply(&socket)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The first address of each family that pods can reach: of an interface that is up, not loopback,
/// not link-local.
fn node_addresses() -> anyhow::Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs().context("list network interfaces")?;
    let up = interfaces.iter().filter(|one| one.is_oper_up() && !one.is_loopback() && !one.is_link_local());
    let mut addrs: Vec<IpAddr> = up.map(if_addrs::Interface::ip).collect();
    let first4 = addrs.iter().copied().find(IpAddr::is_ipv4);
    let first6 = addrs.drain(..).find(IpAddr::is_ipv6);
    Ok(first4.into_iter().chain(first6).collect())
}

/// Raises the soft limit of open files to the hard one; returns how many connections that carries,
/// at two files each.
pub fn connection_budget() -> u32 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise RLIMIT_NOFILE");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::from(u32::MAX));
    u32::try_from((files / 2).saturating_sub(RESERVED_FILES)).unwrap_or(u32::MAX).max(1)
}

/// Whether enough descriptors are left behind this one for the admin listener, configuration and logs. The kernel
/// hands out the lowest free number.
pub(crate) fn leaves_room(file: &impl AsRawFd) -> bool {
    use rustix::process::{Resource, getrlimit};
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    u64::try_from(file.as_raw_fd()).is_ok_and(|number| number < limit.saturating_sub(SPARE_FILES))
}

/// How many connections may be open, in all and from one client address.
pub struct Limits {
    all: u32,
    per_client: u32,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: u32,
    by_client: HashMap<IpAddr, u32>,
}

/// One connection within the limits; leaving is dropping it.
pub(crate) struct Admitted {
    limits: Arc<Limits>,
    client: IpAddr,
}

impl Limits {
    /// At most `all` connections, at most `per_client` from one address.
    #[must_use]
    pub fn new(all: u32, per_client: u32) -> Arc<Self> {
        Arc::new(Self { all, per_client, open: Mutex::default() })
    }

    /// The name of the limit that is reached, if one is.
    fn admit(self: &Arc<Self>, client: IpAddr) -> Result<Admitted, &'static str> {
        let mut open = self.open.lock();
        if open.all >= self.all {
            return Err("connections");
        }
        let of_client = open.by_client.entry(client).or_default();
        if *of_client >= self.per_client {
            return Err("per_client");
        }
        *of_client += 1;
        open.all += 1;
        Ok(Admitted { limits: Arc::clone(self), client })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.limits.open.lock();
        open.all = open.all.saturating_sub(1);
        if let Some(of_client) = open.by_client.get_mut(&self.client) {
            *of_client = of_client.saturating_sub(1);
            if *of_client == 0 {
                open.by_client.remove(&self.client);
            }
        }
    }
}

/// Accepts until `stop` is cancelled, and then what has connected until then: closing the listener would
/// reset it.
pub async fn accept(listener: TcpListener, relay: Arc<Relay>, limits: Arc<Limits>, stop: CancellationToken) {
    let mut pause = PAUSE.0;
    while let Some(accepted) = next(&listener, &stop).await {
        match accepted {
            Ok((stream, _)) if !leaves_room(&stream) => {
                relay.observer.metrics.downstream_refused("files");
                crate::wire::reset_on_close(&stream);
                drop(stream);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
            Ok((stream, client)) => {
                pause = PAUSE.0;
                admit(stream, DownstreamAddr(client), &relay, &limits);
            }
            Err(error) if is_about_one_connection(&error) => tracing::debug!(%error, "accept"),
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis(), "accept");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// `None` where nobody else may come, or waits.
async fn next(
    listener: &TcpListener,
    stop: &CancellationToken,
) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    match stop.run_until_cancelled(listener.accept()).await {
        Some(accepted) => Some(accepted),
        None => listener.accept().now_or_never(),
    }
}

/// The peer gave up before it was accepted: nothing is wrong with the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn admit(stream: TcpStream, client: DownstreamAddr, relay: &Arc<Relay>, limits: &Arc<Limits>) {
    match limits.admit(client.0.ip()) {
        Ok(admitted) => {
            let connection = crate::connection::serve(Arc::clone(relay), stream, client);
            tokio::spawn(async move {
                connection.await;
                drop(admitted);
            });
        }
        Err(limit) => {
            relay.observer.metrics.downstream_refused(limit);
            crate::wire::reset_on_close(&stream);
        }
    }
}

//! Sockets that are born in a client's network namespace, so that endpoints see the client's own
//! address.
//!
//! `setns` changes the calling thread, so one thread does nothing else: it enters the namespace,
//! calls `socket`, and goes back. A namespace is found through the process that the connect hook
//! saw, and believed only if the new socket carries the cookie that the hook saw too: process ids
//! are used again. An open namespace keeps a deleted pod's network alive, so it is let go soon
//! after its last client.

use crate::flow::AddressFallback;
use parking_lot::Mutex;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::HashMap,
    fs::File,
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

/// Sockets that may wait for the thread; more fall back to the node's address.
const QUEUE: usize = 1024;

/// The namespaces of clients that are connected now, or were a moment ago.
#[derive(Clone)]
pub(crate) struct Namespaces {
    own: u64,
    known: Arc<Mutex<HashMap<u64, Known>>>,
    orders: mpsc::SyncSender<Order>,
}

struct Known {
    /// Opened with the first socket.
    file: Option<Arc<File>>,
    clients: usize,
    unused_since: Instant,
}

/// A client's hold on its namespace.
pub(crate) struct Lease {
    cookie: u64,
    pid: u32,
    failed: AtomicBool,
    known: Arc<Mutex<HashMap<u64, Known>>>,
}

/// Something to be done inside a namespace, and proof asked for that it is the right one.
struct Order {
    namespace: Arc<File>,
    /// The cookie to be proved; `None` where it was before.
    proof: Option<u64>,
    job: Box<dyn FnOnce(Result<(), NoSocket>) + Send>,
}

/// Why there is no socket in the client's namespace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSocket {
    /// The kernel half knows nothing of the client.
    #[error("the client is not known")]
    NoIdentity,
    /// `/proc/PID/ns/net` is not there any more.
    #[error("process {pid}: {error}")]
    ProcessGone {
        /// The process that called connect.
        pid: u32,
        /// The error.
        error: io::Error,
    },
    /// The process id belongs to somebody else by now.
    #[error("the process is in another namespace (cookie {found}, expected {expected})")]
    OtherNamespace {
        /// Cookie of the namespace that was entered.
        found: u64,
        /// The client's.
        expected: u64,
    },
    /// The kernel refused.
    #[error("{0}")]
    Refused(#[from] io::Error),
    /// Too many sockets are waiting for the thread.
    #[error("too many sockets at once")]
    Busy,
}

impl NoSocket {
    /// The counted reason.
    pub(crate) fn fallback(&self) -> AddressFallback {
        match self {
            Self::NoIdentity => AddressFallback::NoIdentity,
            Self::ProcessGone { .. } | Self::OtherNamespace { .. } => AddressFallback::ProcessGone,
            Self::Refused(_) | Self::Busy => AddressFallback::Refused,
        }
    }

    /// It will be no better next time.
    fn is_final(&self) -> bool {
        !matches!(self, Self::Busy)
    }
}

impl Namespaces {
    /// Starts the thread. Fails where the agent's own namespace cannot be opened.
    pub(crate) fn start() -> io::Result<Self> {
        let own_file = File::open("/proc/self/ns/net")?;
        let own = netns_cookie(&tcp_socket(Domain::IPV4)?)?;
        let (orders, queue) = mpsc::sync_channel(QUEUE);
        std::thread::Builder::new().name("weir-netns".into()).spawn(move || obey(&own_file, &queue))?;
        Ok(Self { own, known: Arc::default(), orders })
    }

    /// The agent's own namespace.
    #[cfg(test)]
    pub(crate) fn own(&self) -> u64 {
        self.own
    }

    /// Takes part in a namespace until the lease is dropped.
    pub(crate) fn lease(&self, cookie: u64, pid: u32) -> Lease {
        let mut known = self.known.lock();
        let entry = known.entry(cookie).or_insert_with(|| Known {
            file: None,
            clients: 0,
            unused_since: Instant::now(),
        });
        entry.clients += 1;
        Lease { cookie, pid, failed: AtomicBool::new(false), known: Arc::clone(&self.known) }
    }

    /// A TCP socket for connecting to `peer`, not connected yet, non-blocking.
    pub(crate) async fn socket(&self, lease: Option<&Lease>, peer: SocketAddr) -> Result<Socket, NoSocket> {
        let lease = lease.ok_or(NoSocket::NoIdentity)?;
        let domain = Domain::for_address(peer);
        if lease.cookie == self.own {
            return Ok(tcp_socket(domain)?);
        }
        let made = self.inside(lease, move || tcp_socket(domain)).await;
        if made.as_ref().is_err_and(NoSocket::is_final) {
            lease.failed.store(true, Relaxed);
        }
        Ok(made??)
    }

    /// Runs a job that does not block inside the lease's namespace.
    pub(crate) async fn inside<T: Send + 'static>(
        &self,
        lease: &Lease,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoSocket> {
        let (namespace, believed) = self.open(lease)?;
        let (reply, done) = oneshot::channel();
        let job = Box::new(move |entered: Result<(), NoSocket>| {
            if reply.send(entered.map(|()| job())).is_err() {
                tracing::trace!("nobody waits for this socket any more");
            }
        });
        let order =
            Order { namespace: Arc::clone(&namespace), proof: (!believed).then_some(lease.cookie), job };
        self.orders.try_send(order).map_err(|_| NoSocket::Busy)?;
        let done = done.await.map_err(|_| NoSocket::Busy)??;
        if let Some(known) = self.known.lock().get_mut(&lease.cookie) {
            known.file.get_or_insert(namespace);
        }
        Ok(done)
    }

    /// The namespace, opened and believed before, or else the process's, which is to be proved.
    fn open(&self, lease: &Lease) -> Result<(Arc<File>, bool), NoSocket> {
        let known = self.known.lock().get(&lease.cookie).and_then(|known| known.file.clone());
        if let Some(file) = known {
            return Ok((file, true));
        }
        let opened = File::open(format!("/proc/{}/ns/net", lease.pid));
        opened
            .map(|file| (Arc::new(file), false))
            .map_err(|error| NoSocket::ProcessGone { pid: lease.pid, error })
    }

    /// Closes namespaces that had no client for so long.
    pub(crate) fn forget_unused(&self, unused_for: Duration) {
        let now = Instant::now();
        let stays = |_: &u64, known: &mut Known| known.clients > 0 || now < known.unused_since + unused_for;
        self.known.lock().retain(stays);
    }

    /// A client of this namespace is connected, or was a moment ago.
    pub(crate) fn is_known(&self, cookie: u64) -> bool {
        self.known.lock().contains_key(&cookie)
    }
}

impl Lease {
    pub(crate) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// No socket could be had, nor can one be expected.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(known) = self.known.lock().get_mut(&self.cookie) {
            known.clients = known.clients.saturating_sub(1);
            known.unused_since = Instant::now();
        }
    }
}

/// The thread. Ends with the last sender.
fn obey(own: &File, orders: &mpsc::Receiver<Order>) {
    for order in orders {
        let entered = enter(&order.namespace, order.proof);
        (order.job)(entered);
        // Every order enters its own namespace first, so a failure here harms none; but the thread
        // would keep this namespace alive.
        if let Err(error) = move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network)) {
            tracing::error!(%error, "setns back to the agent's own network namespace");
        }
    }
}

fn enter(namespace: &File, proof: Option<u64>) -> Result<(), NoSocket> {
    let network = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(namespace.as_fd(), network).map_err(io::Error::from)?;
    let Some(expected) = proof else { return Ok(()) };
    match netns_cookie(&tcp_socket(Domain::IPV4)?)? {
        found if found == expected => Ok(()),
        found => Err(NoSocket::OtherNamespace { found, expected }),
    }
}

fn tcp_socket(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
}

/// The cookie of the namespace that a socket lives in, as BPF programs see it (Linux 5.14).
#[allow(unsafe_code)]
fn netns_cookie(socket: &Socket) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut size = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or_default();
    // SAFETY: both pointers are to live locals, and `size` is that of the first.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if outcome == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

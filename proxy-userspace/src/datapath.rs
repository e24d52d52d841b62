//! The kernel half as the rest of the agent sees it. Only this module knows aya (invariant I4).

use crate::snapshot::Snapshot;
use proxy_common::flow::FlowKey;
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// What the kernel recorded about a steered connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steered {
    /// What the client called connect with.
    pub orig_dst: SocketAddr,
    /// The client's identity.
    pub cgroup_id: u64,
    /// The client's process, in the initial pid namespace.
    pub pid: u32,
    /// The client's network namespace.
    pub netns_cookie: u64,
    /// How long the TCP handshake took.
    pub handshake: Option<Duration>,
    /// The client's socket is in the socket map: answers to it are redirected.
    pub mapped: bool,
}

/// How bytes to an endpoint travel on one upstream connection, for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamLane {
    /// Both ends are in the socket map: only for requests of known length under the cap.
    Mapped,
    /// Ordinary TCP: for everything.
    Plain,
}

/// What became of an upstream connection after its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The lane it got.
    pub lane: UpstreamLane,
    /// The endpoint's workload, where its socket is on this node and still on probation.
    pub watched: Option<u64>,
}

/// A handle on the loaded kernel half; clones share it. Without a kernel half (steering by
/// iptables) every call answers "plain".
#[derive(Clone, Debug)]
pub struct Datapath {
    _inner: Arc<()>,
}

/// Why a kernel table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The kernel refused.
    #[error("map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// The error.
        source: aya::maps::MapError,
    },
}

impl Datapath {
    /// No kernel half: every connection is plain.
    #[must_use]
    pub fn plain() -> Self {
        Self { _inner: Arc::new(()) }
    }

    /// What the client of an accepted connection asked for; `None` when the kernel half did not
    /// steer it. `peer` and `local` are the accepted socket's addresses. One map lookup.
    pub fn steered(&self, _peer: SocketAddr, _local: SocketAddr) -> Result<Option<Steered>, DatapathError> {
        Ok(None)
    }

    /// Call before the first byte of an answer that is larger than the cap or of unknown length:
    /// takes the client's socket out of the socket map where nothing can be lost by it. `client`
    /// is the key of the *client's* socket (local = client). True when the socket is plain now.
    pub fn before_large_answer(&self, _client: &FlowKey) -> bool {
        true
    }

    /// Call with a new upstream socket's cookie before it connects: the kernel half never steers
    /// it, times it, and maps it if `wanted` says so and the endpoint's workload allows.
    pub fn announce_upstream(&self, _cookie: u64, _wanted: UpstreamLane) -> Result<(), DatapathError> {
        Ok(())
    }

    /// Call after the handshake and before the first byte: what the connection became. `own` is
    /// the key of the agent's own socket (local = the agent's end).
    pub fn settle_upstream(&self, _own: &FlowKey) -> Settled {
        Settled { lane: UpstreamLane::Plain, watched: None }
    }

    /// Call when an upstream socket has been closed or never connected.
    pub fn forget_upstream(&self, _cookie: u64) {}

    /// Counts one complete, relayed exchange of a workload that may be on probation.
    pub fn watched_exchange(&self, _cgroup_id: u64) {}

    /// Writes a snapshot into the kernel's service tables.
    pub fn apply(&self, _snapshot: &Snapshot) -> anyhow::Result<()> {
        Ok(())
    }
}

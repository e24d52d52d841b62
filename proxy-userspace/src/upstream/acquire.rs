//! A connection for a request: from the pool, or a new one from the client's network namespace.

use super::{
    Birthplace, Key, Upstream,
    connect::{ConnectError, Connected},
};
use crate::{
    datapath::UpstreamLane, downstream::Downstream, flow::Reason, record::Failure, snapshot::Cluster,
};
use std::net::SocketAddr;

/// Where a connection may come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// An idle one is welcome.
    PoolOrNew,
    /// Idle ones have just disappointed.
    New,
}

/// A connection to `endpoint`, within the cluster's connect timeout.
pub(crate) async fn acquire(
    downstream: &Downstream,
    cluster: &Cluster,
    endpoint: SocketAddr,
    wanted: UpstreamLane,
    source: Source,
) -> Result<Box<Upstream>, Failure> {
    if source == Source::PoolOrNew {
        let key = Key { born: downstream.birthplace(), endpoint };
        if let Some(idle) = downstream.relay.pool.take(&key, wanted) {
            return Ok(idle);
        }
    }
    downstream.deadline.stage(Reason::ConnectTimeout, cluster.timeouts.connect);
    let opened = downstream.deadline.guard(open(downstream, cluster, endpoint, wanted)).await?;
    opened.map_err(|error| Failure::new(Reason::ConnectFailed, &error))
}

/// A new connection on which nobody has spoken; never mapped, for a tunnel.
pub(crate) async fn connect_plain(
    downstream: &Downstream,
    endpoint: SocketAddr,
) -> Result<Connected, ConnectError> {
    let (socket, _) = downstream.upstream_socket(endpoint).await?;
    downstream.relay.connector.connect(socket, endpoint, UpstreamLane::Plain).await
}

async fn open(
    downstream: &Downstream,
    cluster: &Cluster,
    endpoint: SocketAddr,
    wanted: UpstreamLane,
) -> Result<Box<Upstream>, ConnectError> {
    let relay = &downstream.relay;
    let (socket, born) = downstream.upstream_socket(endpoint).await?;
    let key = Key { born, endpoint };
    let connected = relay.connector.connect(socket, endpoint, wanted).await?;
    if wanted == UpstreamLane::Mapped {
        relay.pool.settled(&key, connected.lane, connected.watched.is_some());
    }
    relay.connector.handshake(connected, key, cluster.timeouts.upstream_idle).await
}

impl Downstream {
    /// Where upstream sockets of this client are born, as far as is known.
    fn birthplace(&self) -> Birthplace {
        match &self.lease {
            Some(lease) if !lease.has_failed() => Birthplace::Namespace(lease.cookie()),
            _ => Birthplace::NodeInstead,
        }
    }

    /// A socket in the client's network namespace; on the node where that cannot be had.
    async fn upstream_socket(
        &self,
        endpoint: SocketAddr,
    ) -> Result<(socket2::Socket, Birthplace), ConnectError> {
        let connector = &self.relay.connector;
        let namespaces = &self.relay.namespaces;
        match namespaces.socket(self.lease.as_ref(), endpoint).await {
            Ok(socket) => Ok((socket, self.birthplace())),
            Err(why) => {
                self.relay.observer.metrics.address_fallback(why.fallback());
                tracing::debug!(client = %self.client.0, %why, "the endpoint will see the node's address");
                Ok((connector.socket(endpoint)?, Birthplace::NodeInstead))
            }
        }
    }
}

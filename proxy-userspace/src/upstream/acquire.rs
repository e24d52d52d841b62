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

/// What is spoken with an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Speech {
    /// A request at a time; it may travel by this lane.
    Http1(UpstreamLane),
    /// With prior knowledge (RFC 9113 section 3.3).
    Http2,
}

/// A connection to `endpoint`, or a place on one, within the cluster's connect timeout.
pub(crate) async fn acquire(
    downstream: &Downstream,
    cluster: &Cluster,
    endpoint: SocketAddr,
    speech: Speech,
    source: Source,
) -> Result<Box<Upstream>, Failure> {
    let wanted = match speech {
        Speech::Http1(wanted) => wanted,
        Speech::Http2 => return acquire_place(downstream, cluster, endpoint, source).await,
    };
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

async fn acquire_place(
    downstream: &Downstream,
    cluster: &Cluster,
    endpoint: SocketAddr,
    source: Source,
) -> Result<Box<Upstream>, Failure> {
    let trunks = &downstream.relay.pool.trunks;
    let key = Key { born: downstream.birthplace(), endpoint };
    let known = || if source == Source::PoolOrNew { trunks.take(&key) } else { None };
    if let Some(place) = known() {
        return Ok(place);
    }
    downstream.deadline.stage(Reason::ConnectTimeout, cluster.timeouts.connect);
    let open = async {
        let opening = trunks.opening(&key);
        let _turn = opening.lock().await;
        if let Some(place) = known() {
            return Ok(place);
        }
        let (socket, born) = downstream.upstream_socket(endpoint).await?;
        let connector = &downstream.relay.connector;
        let connected = connector.connect(socket, endpoint, UpstreamLane::Plain).await?;
        let key = Key { born, endpoint };
        Ok(trunks.add(connector.trunk(connected, key, cluster.timeouts.upstream_idle).await?))
    };
    let opened: Result<_, ConnectError> = downstream.deadline.guard(open).await?;
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

//! A connection for a request: from the pool, or a new one from the client's network namespace.

use super::{Birthplace, Key, Upstream, UpstreamWire, connect::ConnectError};
use crate::{
    datapath::UpstreamLane, downstream::Downstream, flow::Reason, record::Failure, route::Route,
    snapshot::Protocol, tls::Tongue,
};
use std::{net::SocketAddr, sync::Arc};

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
    /// With prior knowledge (RFC 9113 section 3.3), or by ALPN, nothing else being offered.
    Http2,
    /// The one or the other, as the endpoint likes (by ALPN).
    Either,
}

impl Speech {
    /// What a cluster's endpoints are spoken to in: what its Service says, or what the client speaks. What a client
    /// of a Gateway speaks says nothing about the endpoints behind it; in TLS they say so themselves.
    pub(crate) fn of(route: &Route, client_has_streams: bool, wanted: UpstreamLane) -> Self {
        match (route.cluster.protocol, &route.proof) {
            (Protocol::Http2, _) => Self::Http2,
            // What is encrypted is nothing for the kernel half.
            (Protocol::Http1, Some(_)) => Self::Http1(UpstreamLane::Plain),
            (Protocol::Detect | Protocol::Opaque, Some(_)) => Self::Either,
            (Protocol::Detect, None) if client_has_streams && !route.edge => Self::Http2,
            (Protocol::Detect | Protocol::Http1 | Protocol::Opaque, None) => Self::Http1(wanted),
        }
    }

    /// The same for ALPN.
    pub(super) fn tongue(self) -> Tongue {
        match self {
            Self::Http1(_) => Tongue::Http1,
            Self::Http2 => Tongue::Http2,
            Self::Either => Tongue::Either,
        }
    }
}

/// A connection to `endpoint`, or a place on one, within the cluster's connect timeout.
pub(crate) async fn acquire(
    downstream: &Downstream,
    route: &Route,
    endpoint: SocketAddr,
    speech: Speech,
    source: Source,
) -> Result<Box<Upstream>, Failure> {
    let relay = &downstream.relay;
    let trunks = &relay.pool.trunks;
    let proof = route.proof.as_ref().map(|proof| proof.id);
    let key = Key { born: downstream.birthplace(), endpoint, proof };
    let place = || if source == Source::PoolOrNew { trunks.take(&key) } else { None };
    let idle = |lane| if source == Source::PoolOrNew { relay.pool.take(&key, lane) } else { None };
    let (found, opening) = match speech {
        Speech::Http1(lane) => (idle(lane), None),
        Speech::Http2 => (place(), Some(trunks.opening(&key))),
        Speech::Either => (place().or_else(|| idle(UpstreamLane::Plain)), trunks.known(&key)),
    };
    if let Some(found) = found {
        return Ok(found);
    }
    let connect = route.timeouts.connect;
    downstream.deadline.stage(Reason::ConnectTimeout, connect);
    let opened = downstream.deadline.guard(async {
        // Where many requests share a connection, those that come while one is being opened wait for it.
        let turn = match &opening {
            Some(opening) => Some(opening.lock().await),
            None => None,
        };
        if turn.is_some()
            && let Some(place) = place()
        {
            return Ok(place);
        }
        open(downstream, route, endpoint, speech).await
    });
    opened.await?.map_err(Failure::from)
}

/// A new connection on which nobody has spoken; never mapped, for a tunnel.
pub(crate) async fn connect_plain(
    downstream: &Downstream,
    endpoint: SocketAddr,
) -> Result<Arc<UpstreamWire>, ConnectError> {
    let (socket, _) = downstream.upstream_socket(endpoint).await?;
    let connector = &downstream.relay.connector;
    Ok(connector.wire(connector.connect(socket, endpoint, UpstreamLane::Plain).await?))
}

async fn open(
    downstream: &Downstream,
    route: &Route,
    endpoint: SocketAddr,
    speech: Speech,
) -> Result<Box<Upstream>, ConnectError> {
    let relay = &downstream.relay;
    let connector = &relay.connector;
    let wanted = match speech {
        Speech::Http1(wanted) => wanted,
        Speech::Http2 | Speech::Either => UpstreamLane::Plain,
    };
    let (socket, born) = downstream.upstream_socket(endpoint).await?;
    let mut connected = connector.connect(socket, endpoint, wanted).await?;
    if let Some(proof) = &route.proof {
        connector.secure(&mut connected, proof, speech).await?;
    }
    let key = Key { born, endpoint, proof: route.proof.as_ref().map(|proof| proof.id) };
    let idle_timeout = route.timeouts.upstream_idle;
    if connected.agrees_on(speech) == Speech::Http2 {
        return Ok(relay.pool.trunks.add(connector.trunk(connected, key, idle_timeout).await?));
    }
    if wanted == UpstreamLane::Mapped {
        relay.pool.settled(&key, connected.lane, connected.watched.is_some());
    }
    connector.handshake(connected, key, idle_timeout).await
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

//! One accepted connection: what all its requests share.

use super::{READ_POLL, READ_WITHIN};
use crate::{
    datapath::Steered,
    flow::LaneLabel,
    identity::PodIdentity,
    netns::Lease,
    orig_dst::{DownstreamAddr, OrigDstAddr},
    party::Passages,
    relay::Relay,
    route::choices::Choices,
    snapshot::{Snapshot, Timeouts},
    splice::Splice,
    wire::Wire,
};
use proxy_common::flow::FlowKey;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::time::Instant;

/// See the module.
pub(crate) struct Connection {
    pub(crate) relay: Arc<Relay>,
    pub(crate) wire: Wire,
    pub(crate) client: DownstreamAddr,
    /// Whom a proxy has named as the one that it stands for.
    pub(crate) named: Option<SocketAddr>,
    /// The agent's end.
    pub(crate) local: SocketAddr,
    pub(crate) orig_dst: OrigDstAddr,
    /// What the kernel half knows; `None` where it did not steer the connection.
    pub(crate) identity: Option<Steered>,
    /// The client's hold on its network namespace, where upstream sockets are born.
    pub(crate) lease: Option<Lease>,
    /// The timeouts that hold outside of requests.
    pub(crate) timeouts: Timeouts,
    /// What any route admits that a request on it may have, when it was accepted.
    pub(crate) choices: Choices,
    pub(crate) splice: Splice,
    /// What holds for this client at endpoints.
    pub(crate) passages: Passages,
    /// The client's socket: local is the client's end.
    client_key: FlowKey,
    /// The client's socket is still in the socket map.
    mapped: AtomicBool,
    pub(super) opened: Instant,
}

impl Connection {
    pub(crate) fn new(
        relay: Arc<Relay>,
        wire: Wire,
        (client, local): (DownstreamAddr, SocketAddr),
        (orig_dst, identity): (OrigDstAddr, Option<Steered>),
        timeouts: Timeouts,
    ) -> Self {
        let lease = identity.as_ref().map(|who| relay.namespaces.lease(who.netns_cookie, who.pid));
        Self {
            relay,
            wire,
            client,
            named: None,
            local,
            orig_dst,
            timeouts,
            choices: Choices::default(),
            splice: Splice::default(),
            passages: Passages::default(),
            client_key: FlowKey::new(client.0, local),
            mapped: AtomicBool::new(identity.as_ref().is_some_and(|steered| steered.mapped)),
            identity,
            lease,
            opened: Instant::now(),
        }
    }

    /// Who asks, for endpoints and the log. Policies go by who has connected.
    pub(crate) fn asker(&self) -> SocketAddr {
        self.named.unwrap_or(self.client.0)
    }

    /// The client's pod, by the snapshot in force.
    pub(crate) fn pod(&self) -> Option<Arc<PodIdentity>> {
        let cgroup_id = self.identity.as_ref().map_or(0, |steered| steered.cgroup_id);
        self.relay.identity.pod_of(cgroup_id, self.client.0.ip())
    }

    /// The client's workload as metrics and logs say it.
    pub(crate) fn workload(&self, snapshot: &Snapshot) -> Arc<str> {
        if let Some(pod) = self.pod() {
            return Arc::clone(&pod.key);
        }
        let by_address = snapshot.workload_by_ip.get(&self.client.0.ip());
        Arc::clone(by_address.unwrap_or(&self.relay.unknown_workload))
    }

    /// The client's socket: local is the client's end.
    pub(crate) fn client_key(&self) -> FlowKey {
        self.client_key
    }

    /// When it was accepted.
    pub(crate) fn opened_at(&self) -> Instant {
        self.opened
    }

    /// An exchange with an endpoint is complete: it counts for a client on probation.
    pub(crate) fn exchanged(&self) {
        if let Some(identity) = self.identity.as_ref().filter(|identity| !identity.mapped) {
            self.relay.datapath.watched_exchange(identity.cgroup_id);
        }
    }

    /// True while answers to the client are redirected.
    pub(crate) fn is_mapped(&self) -> bool {
        self.mapped.load(Relaxed)
    }

    /// Call before the first byte of anything large or of unknown length.
    pub(crate) fn leave_map(&self) {
        if self.is_mapped() && self.relay.datapath.before_large_answer(&self.client_key) {
            self.mapped.store(false, Relaxed);
        }
    }

    /// Ends an orderly connection, when the client has read what was redirected to it: FIN may cost it the
    /// rest (`proxy-ebpf/src/drained.rs`). What it still sends is read and thrown away: it would be answered
    /// with a reset, which overtakes the answer. One that has closed is done with at once.
    pub(crate) async fn take_leave(&self) {
        let (begun, mut pause) = (Instant::now(), READ_POLL.0);
        while self.is_mapped() && !self.relay.datapath.has_drained(&self.client_key) {
            if begun.elapsed() > READ_WITHIN || self.relay.drain.is_aborting() {
                tracing::debug!(client = %self.client.0, "a client does not read its answer");
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(READ_POLL.1);
        }
        if let Err(error) = self.wire.shut_write().await {
            tracing::debug!(%error, client = %self.client.0, "FIN");
        }
        self.wire.discard().await;
    }

    /// The lane of an exchange with an endpoint.
    pub(crate) fn lane(&self, upstream_mapped: bool) -> LaneLabel {
        if upstream_mapped || self.is_mapped() { LaneLabel::Relay } else { LaneLabel::Plain }
    }
}

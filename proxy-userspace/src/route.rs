//! From what a client asked for to where its requests go.

pub(crate) mod choices;
#[cfg(test)]
mod conformance;
pub(crate) mod cors;
pub(crate) mod decision;
pub(crate) mod explain;
pub(crate) mod fields;
pub(crate) mod host;
pub(crate) mod path;
pub(crate) mod redirect;
pub(crate) mod rewrite;
pub(crate) mod rule;
pub(crate) mod table;
pub(crate) mod target;

use crate::{
    orig_dst::OrigDstAddr,
    snapshot::{Cluster, Family, Snapshot, Timeouts},
    tls::Proof,
};
use std::{net::SocketAddr, sync::Arc};

/// Where the requests for one original destination go.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The group of endpoints.
    pub(crate) cluster: Arc<Cluster>,
    /// The cluster's timeouts, or those of a rule.
    pub(crate) timeouts: Timeouts,
    /// The client asked for this very endpoint, not for the Service.
    pub(crate) pinned: Option<SocketAddr>,
    /// What the client asked for; endpoints of the other family are not for it.
    pub(crate) family: Family,
    /// The request came to a Gateway or an Ingress: it has been told already who the client is.
    pub(crate) edge: bool,
    /// Endpoints are spoken to in TLS, and have to prove this.
    pub(crate) proof: Option<Arc<Proof>>,
}

impl Route {
    /// To the Service that the client asked for.
    pub(crate) fn to(cluster: &Arc<Cluster>, pinned: Option<SocketAddr>, family: Family) -> Self {
        let (cluster, timeouts) = (Arc::clone(cluster), cluster.timeouts);
        Self { cluster, timeouts, pinned, family, edge: false, proof: None }
    }

    /// To a backend of a rule: its endpoints of the client's family, or those that there are, in TLS where a
    /// policy says so; with the certificate of the Gateway that the request came to, where that has one.
    pub(crate) fn by_rule(
        (cluster, snapshot, door): (&Arc<Cluster>, &Snapshot, &table::Door),
        family: Family,
        limits: rule::Limits,
    ) -> Self {
        let mut families = [family, family.other()].into_iter();
        let usable = families.find(|one| cluster.usable_endpoints(*one).next().is_some());
        let timeouts = limits.over(cluster.timeouts);
        Self {
            cluster: Arc::clone(cluster),
            timeouts,
            pinned: None,
            family: usable.unwrap_or(family),
            edge: true,
            proof: snapshot.routes.proof(door, &cluster.name).cloned(),
        }
    }
}

/// `None` where the address is in no Service (any more).
pub(crate) fn route(snapshot: &Snapshot, orig_dst: OrigDstAddr) -> Option<Route> {
    let family = Family::of(orig_dst.0.ip());
    if let Some(cluster) = snapshot.by_frontend.get(&orig_dst.0) {
        return Some(Route::to(cluster, None, family));
    }
    let cluster = snapshot.by_endpoint.get(&orig_dst.0)?;
    Some(Route::to(cluster, Some(orig_dst.0), family))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::testing::snapshot_of;

    #[test]
    fn a_service_address_leads_to_its_cluster_and_an_endpoint_to_itself() {
        let endpoint: SocketAddr = "10.1.0.7:80".parse().unwrap();
        let frontend: SocketAddr = "10.96.0.1:8080".parse().unwrap();
        let snapshot = snapshot_of(frontend, &[endpoint]);
        let by_service = route(&snapshot, OrigDstAddr(frontend)).unwrap();
        assert_eq!((&*by_service.cluster.name, by_service.pinned), ("default/web:8080", None));
        assert_eq!(route(&snapshot, OrigDstAddr(endpoint)).unwrap().pinned, Some(endpoint));
        assert!(route(&snapshot, OrigDstAddr("10.96.0.2:8080".parse().unwrap())).is_none());
    }
}

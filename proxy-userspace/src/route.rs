//! From what a client asked for to where its requests go.

use crate::{
    orig_dst::OrigDstAddr,
    snapshot::{Cluster, Family, Snapshot},
};
use std::{net::SocketAddr, sync::Arc};

/// Where the requests for one original destination go.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The group of endpoints, with its timeouts.
    pub(crate) cluster: Arc<Cluster>,
    /// The client asked for this very endpoint, not for the Service.
    pub(crate) pinned: Option<SocketAddr>,
    /// What the client asked for; endpoints of the other family are not for it.
    pub(crate) family: Family,
}

/// `None` where the address is in no Service (any more).
pub(crate) fn route(snapshot: &Snapshot, orig_dst: OrigDstAddr) -> Option<Route> {
    let family = Family::of(orig_dst.0.ip());
    if let Some(cluster) = snapshot.by_frontend.get(&orig_dst.0) {
        return Some(Route { cluster: Arc::clone(cluster), pinned: None, family });
    }
    let cluster = snapshot.by_endpoint.get(&orig_dst.0)?;
    Some(Route { cluster: Arc::clone(cluster), pinned: Some(orig_dst.0), family })
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

//! A Gateway with one route to one Service, of which manifests say the rest.

use super::Ring;
use crate::{
    snapshot::{BuildOptions, Builder, Cluster, Snapshot},
    source::objects_and_findings,
    testing::endpoint,
};
use std::{net::SocketAddr, sync::Arc};

const NODE: &str = "127.0.0.1";

/// See the module; remembers what one state leaves for the next.
pub(super) struct Edge {
    pub(super) builder: Builder,
    endpoints: Vec<SocketAddr>,
}

/// How the Gateway is reached, and how its Service is described.
#[derive(Clone, Copy)]
pub(super) struct Shape<'a> {
    /// A listener with TLS, with the certificate of Secret `edge`.
    pub(super) secure: bool,
    pub(super) app_protocol: Option<&'a str>,
}

/// Plain HTTP, and nothing said about the Service.
pub(super) const PLAIN: Shape<'static> = Shape { secure: false, app_protocol: None };

impl Edge {
    pub(super) fn new(endpoints: &[SocketAddr]) -> Self {
        let node_addresses = vec![NODE.parse().unwrap()];
        let options = BuildOptions { node_addresses, ..BuildOptions::default() };
        Self { builder: Builder::new(options), endpoints: endpoints.to_vec() }
    }

    /// The Gateway with these manifests beside it.
    pub(super) fn with(&mut self, shape: Shape<'_>, more: &str) -> Snapshot {
        let listener = match shape.secure {
            false => "{name: web, port: 80, protocol: HTTP}",
            true => "{name: web, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: edge}]}}",
        };
        let says = shape.app_protocol.map(|says| format!(", appProtocol: {says}")).unwrap_or_default();
        let (objects, _) = objects_and_findings(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
             spec: {{clusterIP: 10.96.0.7, ports: [{{name: web, port: 80{says}}}]}}\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\n\
             spec: {{parentRefs: [{{name: edge}}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\n\
             spec: {{gatewayClassName: weir, listeners: [{listener}]}}\n{more}",
        ));
        self.builder.apply(&objects);
        let mut snapshot = self.builder.snapshot().clone();
        // A slice may not name a loopback address.
        let mut cluster = Cluster::clone(snapshot.cluster("default/web:80").unwrap());
        cluster.endpoints = self.endpoints.iter().copied().map(endpoint).collect();
        cluster.endpoints.sort_by_key(|one| one.addr);
        snapshot.clusters.insert(Arc::new(cluster));
        snapshot
    }

    /// What is wrong with them.
    pub(super) fn findings(&self) -> String {
        self.builder.findings().map(|finding| format!("{finding}\n")).collect()
    }
}

/// A relay whose clients all come to the Gateway.
pub(super) async fn ring(snapshot: Snapshot, args: &[&'static str]) -> Ring {
    Ring::of(snapshot, (format!("{NODE}:80").parse().unwrap(), false), args, (1000, 1000)).await
}

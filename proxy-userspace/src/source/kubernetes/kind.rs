//! What is read from the API: the kinds, and how their collections are addressed.

/// A kind of object that is watched in all namespaces.
#[derive(Debug)]
pub(super) struct Kind {
    /// Its API group; empty for the core group.
    pub(super) group: &'static str,
    /// The version that is asked for.
    pub(super) version: &'static str,
    /// `Service`
    pub(super) kind: &'static str,
    /// `services`: the resource in addresses and RBAC rules.
    pub(super) plural: &'static str,
    /// Whether it is a CRD, which a cluster may lack: then there is none of it.
    pub(super) is_extension: bool,
    /// What the API server leaves out.
    pub(super) field_selector: Option<&'static str>,
}

impl Kind {
    const fn built_in(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Self { group, version, kind, plural, is_extension: false, field_selector: None }
    }

    const fn extension(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Self { group, version, kind, plural, is_extension: true, field_selector: None }
    }

    /// `discovery.k8s.io/v1`
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The address of the collection, for all namespaces.
    pub(super) fn path(&self) -> String {
        let root = if self.group.is_empty() { "api" } else { "apis" };
        format!("/{root}/{}/{}", self.api_version(), self.plural)
    }
}

/// Every kind that [`Objects`](crate::source::Objects) holds; `deploy/daemonset.yaml` permits to read
/// exactly these.
///
/// Pods come from all nodes, not from this one alone: a policy's peers are anywhere, and known by their
/// labels and addresses. What else a Pod holds is dropped as it arrives (see `document.rs`), and the API
/// server leaves out those that ended: they have no address any more, though their status names one.
pub(super) static KINDS: [Kind; 13] = [
    Kind::built_in("", "v1", "Service", "services"),
    Kind::built_in("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    Kind {
        field_selector: Some("status.phase!=Failed,status.phase!=Succeeded"),
        ..Kind::built_in("", "v1", "Pod", "pods")
    },
    Kind::built_in("", "v1", "Namespace", "namespaces"),
    Kind::built_in("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    Kind::built_in("networking.k8s.io", "v1", "Ingress", "ingresses"),
    Kind::built_in("networking.k8s.io", "v1", "IngressClass", "ingressclasses"),
    Kind::extension("gateway.networking.k8s.io", "v1", "GatewayClass", "gatewayclasses"),
    Kind::extension("gateway.networking.k8s.io", "v1", "Gateway", "gateways"),
    Kind::extension("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
    Kind::extension("gateway.networking.k8s.io", "v1beta1", "ReferenceGrant", "referencegrants"),
    Kind::extension("cilium.io", "v2", "CiliumNetworkPolicy", "ciliumnetworkpolicies"),
    Kind::extension("cilium.io", "v2", "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies"),
];

//! What is read from the API: the kinds, and how their collections are addressed.

/// A kind of object that is watched in all namespaces.
#[derive(Debug)]
pub(super) struct Kind {
    /// Its API group; empty for the core group.
    pub(super) group: &'static str,
    /// The version that is asked for.
    pub(super) version: &'static str,
    /// One that is asked for where a cluster does not serve the other: its objects read the same.
    pub(super) older: Option<&'static str>,
    /// `Service`
    pub(super) kind: &'static str,
    /// `services`: the resource in addresses and RBAC rules.
    pub(super) plural: &'static str,
    /// Whether it is a CRD, which a cluster may lack: then there is none of it.
    pub(super) is_extension: bool,
    /// Whether its objects are in namespaces.
    pub(super) is_namespaced: bool,
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
        Self {
            group,
            version,
            older: None,
            kind,
            plural,
            is_extension: false,
            is_namespaced: true,
            field_selector: None,
        }
    }

    const fn extension(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Self { is_extension: true, ..Self::built_in(group, version, kind, plural) }
    }

    /// In no namespace.
    const fn of_cluster(self) -> Self {
        Self { is_namespaced: false, ..self }
    }

    /// A kind by its name.
    pub(super) fn named(kind: &str) -> Option<&'static Self> {
        KINDS.iter().find(|known| known.kind == kind)
    }

    /// `discovery.k8s.io/v1`
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The same in an older version, where there is one.
    pub(super) fn as_older(&self) -> Option<Self> {
        Some(Self { version: self.older?, older: None, ..*self })
    }

    /// The address of the collection, for all namespaces.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.root(), self.plural)
    }

    /// The address of the collection in one namespace, which is not looked at where the kind has none.
    pub(super) fn path_in(&self, namespace: &str) -> String {
        if self.is_namespaced {
            format!("{}/namespaces/{namespace}/{}", self.root(), self.plural)
        } else {
            self.path()
        }
    }

    fn root(&self) -> String {
        let root = if self.group.is_empty() { "api" } else { "apis" };
        format!("/{root}/{}", self.api_version())
    }
}

/// Every kind that [`Objects`](crate::source::Objects) holds; `deploy/daemonset.yaml` permits to read
/// exactly these.
///
/// Pods come from all nodes, not from this one alone: a policy's peers are anywhere, and known by their
/// labels and addresses. What else a Pod holds is dropped as it arrives (see `document.rs`), and the API
/// server leaves out those that ended: they have no address any more, though their status names one.
pub(super) static KINDS: [Kind; 14] = [
    Kind::built_in("", "v1", "Service", "services"),
    Kind::built_in("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    Kind {
        field_selector: Some("status.phase!=Failed,status.phase!=Succeeded"),
        ..Kind::built_in("", "v1", "Pod", "pods")
    },
    Kind::built_in("", "v1", "Namespace", "namespaces").of_cluster(),
    Kind::built_in("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    Kind::built_in("networking.k8s.io", "v1", "Ingress", "ingresses"),
    Kind::built_in("networking.k8s.io", "v1", "IngressClass", "ingressclasses").of_cluster(),
    Kind::extension("gateway.networking.k8s.io", "v1", "GatewayClass", "gatewayclasses").of_cluster(),
    Kind::extension("gateway.networking.k8s.io", "v1", "Gateway", "gateways"),
    Kind::extension("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
    Kind::extension("gateway.networking.k8s.io", "v1beta1", "ReferenceGrant", "referencegrants"),
    Kind {
        older: Some("v1alpha3"),
        ..Kind::extension("gateway.networking.k8s.io", "v1", "BackendTLSPolicy", "backendtlspolicies")
    },
    Kind::extension("cilium.io", "v2", "CiliumNetworkPolicy", "ciliumnetworkpolicies"),
    Kind::extension("cilium.io", "v2", "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies")
        .of_cluster(),
];

/// Of these, single ones by their names (`singles.rs`): who may list them has all of a cluster's.
pub(super) static SECRETS: Kind = Kind::built_in("", "v1", "Secret", "secrets");
/// Of these too: there are many, and large ones.
pub(super) static CONFIG_MAPS: Kind = Kind::built_in("", "v1", "ConfigMap", "configmaps");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const DEPLOYED: &str = include_str!("../../../../deploy/daemonset.yaml");

    /// `group resource` of what the deployed ClusterRole allows a verb for.
    fn allowed(verb: &str) -> Vec<String> {
        let mut allowed = Vec::new();
        for object in serde_saphyr::from_multiple::<serde_json::Value>(DEPLOYED).unwrap() {
            let rules = object.get("rules").filter(|_| object.get("kind").unwrap() == "ClusterRole");
            for rule in rules.and_then(serde_json::Value::as_array).into_iter().flatten() {
                let words =
                    |key| -> Vec<String> { serde_json::from_value(rule.get(key).unwrap().clone()).unwrap() };
                if words("verbs").iter().any(|allowed| allowed == verb) {
                    let groups = words("apiGroups");
                    allowed
                        .extend(words("resources").iter().map(|one| format!("{} {one}", groups.join(","))));
                }
            }
        }
        allowed.sort();
        allowed
    }

    #[test]
    fn the_deployed_role_allows_to_read_what_is_followed_and_nothing_else() {
        let mut followed: Vec<_> =
            KINDS.iter().map(|kind| format!("{} {}", kind.group, kind.plural)).collect();
        followed.sort();
        for verb in ["get", "list", "watch"] {
            assert_eq!(allowed(verb), followed, "{verb}");
        }
    }

    #[test]
    fn every_kind_of_the_store_is_followed() {
        let store = include_str!("../../source.rs");
        let (_, kinds) = store.split_once("\nkinds! {").unwrap();
        let (kinds, _) = kinds.split_once("\n}").unwrap();
        let kinds: Vec<_> = kinds.lines().filter(|line| line.ends_with(',')).collect();
        // Secrets and ConfigMaps are followed one by one: `singles.rs`.
        assert_eq!(kinds.len(), KINDS.len() + 2, "{kinds:?}");
    }

    #[test]
    fn collections_are_where_the_api_has_them() {
        let path = |kind, namespace: Option<&str>| {
            let kind = Kind::named(kind).unwrap();
            namespace.map_or_else(|| kind.path(), |namespace| kind.path_in(namespace))
        };
        assert_eq!(path("Service", None), "/api/v1/services");
        assert_eq!(path("Ingress", Some("n")), "/apis/networking.k8s.io/v1/namespaces/n/ingresses");
        assert_eq!(path("GatewayClass", Some("")), "/apis/gateway.networking.k8s.io/v1/gatewayclasses");
    }
}

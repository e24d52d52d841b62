//! What routes refer to: Services, and whether they may.

use super::{Fault, trust::Trusts};
use crate::{
    route::{rule::Destination, table::Proofs},
    source::{
        Objects, Sourced,
        finding::quoted,
        gateway::{self, BackendRef, ReferenceGrant},
        secret::Secret,
        store::Key,
    },
};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What references lead to.
pub(super) struct World<'a> {
    pub(super) objects: &'a Objects,
    grants: HashMap<&'a str, Vec<&'a ReferenceGrant>>,
    pub(super) trusts: Trusts<'a>,
}

/// Who refers.
#[derive(Clone, Copy)]
pub(super) struct Referrer<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
}

impl<'a> Referrer<'a> {
    /// An HTTPRoute.
    pub(super) fn route(namespace: &'a str) -> Self {
        Self { group: gateway::GROUP, kind: "HTTPRoute", namespace }
    }
}

/// A reference that leads nowhere, as `ResolvedRefs` calls it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Unresolved {
    pub(super) reason: &'static str,
    pub(super) text: String,
}

impl<'a> World<'a> {
    pub(super) fn of(objects: &'a Objects, trusts: Trusts<'a>) -> Self {
        let mut grants: HashMap<&str, Vec<&ReferenceGrant>> = HashMap::new();
        for grant in objects.reference_grants.iter() {
            grants.entry(&grant.namespace).or_default().push(&grant.object);
        }
        Self { objects, grants, trusts }
    }

    /// A namespace's labels; its name is one of them, as the API server sees to.
    pub(super) fn labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let known = self.objects.namespaces.get(format!("/{namespace}").as_str());
        let labels = known.and_then(|known| known.object.metadata.labels.clone());
        let mut labels = labels.unwrap_or_default();
        labels.entry("kubernetes.io/metadata.name".to_owned()).or_insert_with(|| namespace.to_owned());
        labels
    }

    /// Whether `from` may refer to an object of `namespace`.
    pub(super) fn permits(
        &self,
        from: Referrer<'_>,
        (group, kind, namespace, name): (&str, &str, &str, &str),
    ) -> bool {
        let grants = self.grants.get(namespace).map_or(&[][..], Vec::as_slice);
        from.namespace == namespace
            || grants.iter().any(|grant| {
                let may = grant.spec.from.iter().any(|one| {
                    one.group == from.group && one.kind == from.kind && one.namespace == from.namespace
                });
                may && grant.spec.to.iter().any(|to| {
                    let named = to.name.as_deref().is_none_or(|only| only.is_empty() || only == name);
                    to.group == group && to.kind == kind && named
                })
            })
    }

    /// A Secret.
    pub(super) fn secret(&self, key: &Key) -> Option<&'a Arc<Sourced<Secret>>> {
        self.objects.secrets.get(key)
    }

    /// A Service.
    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<Service> {
        // What is wrong with it is told where it is served.
        self.objects.services.get(format!("{namespace}/{name}").as_str())?.object.open().ok()
    }

    /// Where a route's backend leads.
    pub(super) fn backend(
        &self,
        from: Referrer<'_>,
        backend: &BackendRef,
    ) -> Result<Destination, Unresolved> {
        let BackendRef { group, kind, name, .. } = backend;
        let namespace = backend.namespace.as_deref().unwrap_or(from.namespace);
        let unresolved = |reason, text| Err(Unresolved { reason, text });
        if !(group.is_empty() && kind == "Service") {
            let text = format!("{} {} is not a kind of backend that Weir knows", quoted(group), quoted(kind));
            return unresolved("InvalidKind", text);
        }
        if !self.permits(from, (group, kind, namespace, name)) {
            let text = format!("no ReferenceGrant lets it refer to Service {namespace}/{name}");
            return unresolved("RefNotPermitted", text);
        }
        let Some(service) = self.service(namespace, name) else {
            return unresolved("BackendNotFound", format!("there is no Service {namespace}/{name}"));
        };
        let port = backend.port.and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
        let ports = tcp_ports(&service);
        let Some(found) = ports.iter().find(|one| one.port == i32::from(port)) else {
            let text = format!("Service {namespace}/{name} has no TCP port {port}");
            return unresolved("BackendNotFound", text);
        };
        if let Some(text) = is_name_alone(&service, namespace, name) {
            return unresolved("InvalidKind", text);
        }
        let cluster = format!("{namespace}/{name}:{port}");
        match self.wants_tls(found, &cluster) {
            Some(text) => unresolved("UnsupportedProtocol", text),
            None => Ok(self.destination(cluster)),
        }
    }

    /// Why nobody can speak to a port as it wants, though it is known to want TLS: nothing says whom to trust,
    /// and in clear text no server of TLS understands a request.
    fn wants_tls(&self, port: &ServicePort, cluster: &str) -> Option<String> {
        let said = port.app_protocol.as_deref().filter(|said| is_encrypted(said))?;
        let told = format!(
            "Service port {cluster} speaks {} (appProtocol): a BackendTLSPolicy has to say whom to trust there",
            quoted(said)
        );
        (!self.trusts.concern(cluster)).then_some(told)
    }

    /// A cluster, unless a policy that cannot be obeyed is in the way.
    fn destination(&self, cluster: String) -> Destination {
        match self.trusts.forbids(&cluster) {
            Some(why) => Destination::Invalid(why.into()),
            None => Destination::Cluster(cluster.into()),
        }
    }

    /// What endpoints have to prove, by cluster.
    pub(super) fn proofs(&self) -> Proofs {
        self.trusts.proofs()
    }

    /// Where a path of an Ingress leads.
    pub(super) fn ingress_backend(
        &self,
        namespace: &str,
        name: &str,
        (number, port_name): (Option<i32>, Option<&str>),
    ) -> Result<Destination, Fault> {
        let missing = |text: String| Err(Fault { path: String::new(), text });
        let Some(service) = self.service(namespace, name) else {
            return missing(format!("there is no Service {namespace}/{name}"));
        };
        if let Some(text) = is_name_alone(&service, namespace, name) {
            return missing(text);
        }
        let wanted = |one: &&ServicePort| match port_name {
            Some(wanted) => one.name.as_deref() == Some(wanted),
            None => Some(one.port) == number,
        };
        match tcp_ports(&service).iter().copied().find(wanted) {
            Some(port) => {
                let cluster = format!("{namespace}/{name}:{}", port.port);
                match self.wants_tls(port, &cluster) {
                    Some(text) => missing(text),
                    None => Ok(self.destination(cluster)),
                }
            }
            None => {
                let port = port_name.map_or_else(|| number.unwrap_or_default().to_string(), quoted);
                missing(format!("Service {namespace}/{name} has no TCP port {port}"))
            }
        }
    }
}

/// HTTP within TLS, by IANA's name, Kubernetes' own, or the ones that service meshes agree on.
fn is_encrypted(app_protocol: &str) -> bool {
    ["https", "kubernetes.io/wss", "wss", "grpcs", "tls"]
        .iter()
        .any(|one| app_protocol.eq_ignore_ascii_case(one))
}

fn tcp_ports(service: &Service) -> Vec<&ServicePort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    ports.iter().filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")).collect()
}

/// An ExternalName is followed nowhere: whoever writes it could send requests anywhere, to this node's own
/// listeners as well (CVE-2021-25740). The Gateway API says that implementations should not follow it
/// (BackendObjectReference, `kind`), and nobody gets more by an Ingress.
fn is_name_alone(service: &Service, namespace: &str, name: &str) -> Option<String> {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    (kind == Some("ExternalName"))
        .then(|| format!("Service {namespace}/{name} is an ExternalName, which is no backend"))
}

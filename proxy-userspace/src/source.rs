//! Where Kubernetes objects come from. A source delivers [`Objects`]; `snapshot::build` turns them
//! into a [`Snapshot`](crate::snapshot::Snapshot). Nothing else reads objects.

pub mod cilium;
pub mod directory;
pub mod finding;
pub mod gateway;
mod manifest;
mod node;
pub mod publisher;

use cilium::{CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy};
use finding::{Finding, Severity};
use gateway::{Gateway, GatewayClass, HttpRoute, ReferenceGrant};
use k8s_openapi::{
    Metadata, Resource,
    api::{
        core::v1::{Namespace, Pod, Service},
        discovery::v1::EndpointSlice,
        networking::v1::{Ingress, IngressClass, NetworkPolicy},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::sync::Arc;

/// Everything that was read, in no particular order.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Services.
    pub services: Vec<Sourced<Service>>,
    /// EndpointSlices.
    pub slices: Vec<Sourced<EndpointSlice>>,
    /// Pods: what policies select.
    pub pods: Vec<Sourced<Pod>>,
    /// Namespaces: policies select them by their labels.
    pub namespaces: Vec<Sourced<Namespace>>,
    /// Policies of Kubernetes itself.
    pub network_policies: Vec<Sourced<NetworkPolicy>>,
    /// Cilium's, of one namespace.
    pub policies: Vec<Sourced<CiliumNetworkPolicy>>,
    /// Cilium's, of all namespaces.
    pub clusterwide_policies: Vec<Sourced<CiliumClusterwideNetworkPolicy>>,
    /// Ingresses.
    pub ingresses: Vec<Sourced<Ingress>>,
    /// Who serves Ingresses of which class.
    pub ingress_classes: Vec<Sourced<IngressClass>>,
    /// Who serves Gateways of which class.
    pub gateway_classes: Vec<Sourced<GatewayClass>>,
    /// Gateways.
    pub gateways: Vec<Sourced<Gateway>>,
    /// HTTPRoutes.
    pub http_routes: Vec<Sourced<HttpRoute>>,
    /// What may be referred to from other namespaces.
    pub reference_grants: Vec<Sourced<ReferenceGrant>>,
}

/// Kinds that are in no namespace.
const CLUSTERWIDE: [&str; 2] = [CiliumClusterwideNetworkPolicy::KIND, Namespace::KIND];

/// An object, and where a finding about it points.
#[derive(Clone, Debug)]
pub struct Sourced<T> {
    /// The object.
    pub object: T,
    /// Its namespace; `default` where the manifest names none, empty where the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The file it was read from.
    pub file: Arc<str>,
    /// Lines within that file.
    pub lines: Lines,
}

/// Lines (from 1) of the fields that findings point at.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// The object's first line.
    pub object: u32,
    /// Fields of `spec` (or of the object, if it has none), and annotations, by key. Of a policy,
    /// everything below `spec`, by its way there: `ingress[0].toPorts`.
    pub fields: Vec<(Box<str>, u32)>,
    /// Items of `ports`.
    pub ports: Vec<u32>,
    /// Items of `endpoints`.
    pub endpoints: Vec<u32>,
}

impl Lines {
    /// The line of a field or annotation; the object's where it has none.
    #[must_use]
    pub fn field(&self, key: &str) -> u32 {
        self.fields.iter().find(|(name, _)| &**name == key).map_or(self.object, |(_, line)| *line)
    }

    /// The line of `ports[index]`.
    #[must_use]
    pub fn port(&self, index: usize) -> u32 {
        self.ports.get(index).copied().unwrap_or(self.object)
    }

    /// The line of `endpoints[index]`.
    #[must_use]
    pub fn endpoint(&self, index: usize) -> u32 {
        self.endpoints.get(index).copied().unwrap_or(self.object)
    }
}

impl<T: Resource + Metadata<Ty = ObjectMeta>> Sourced<T> {
    /// `None` if the object has no name.
    #[must_use]
    pub fn new(object: T, file: Arc<str>, lines: Lines) -> Option<Self> {
        let metadata = object.metadata();
        let name = metadata.name.clone().filter(|name| !name.is_empty())?;
        let namespace = if CLUSTERWIDE.contains(&T::KIND) {
            String::new()
        } else {
            let namespace = metadata.namespace.clone().filter(|namespace| !namespace.is_empty());
            namespace.unwrap_or_else(|| "default".to_owned())
        };
        Some(Self { namespace, name, object, file, lines })
    }

    /// `Kind namespace/name`, or `Kind name`, as findings name it.
    #[must_use]
    pub fn label(&self) -> String {
        label(T::KIND, &self.namespace, &self.name)
    }

    /// A finding about this object.
    #[must_use]
    pub fn finding(
        &self,
        severity: Severity,
        line: u32,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding {
            severity,
            file: self.file.to_string(),
            line,
            object: self.label(),
            text: text.into(),
            fix: fix.into(),
        }
    }
}

/// As [`Sourced::label`].
fn label(kind: &str, namespace: &str, name: &str) -> String {
    if CLUSTERWIDE.contains(&kind) { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

/// The objects of a manifest, for tests; it must be free of findings.
#[cfg(test)]
pub(crate) fn objects(text: &str) -> Objects {
    let (objects, findings) = objects_and_findings(text);
    assert_eq!(findings, []);
    objects
}

/// The same, of one that need not be.
#[cfg(test)]
pub(crate) fn objects_and_findings(text: &str) -> (Objects, Vec<Finding>) {
    let (mut objects, mut findings) = (Objects::default(), Vec::new());
    let parsed = manifest::parse(&"f.yaml".into(), text.as_bytes(), &mut objects, &mut findings);
    assert_eq!(parsed, Ok(()));
    (objects, findings)
}

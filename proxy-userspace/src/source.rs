//! Where Kubernetes objects come from. A source delivers [`Objects`]; `snapshot::build` turns them
//! into a [`Snapshot`](crate::snapshot::Snapshot). Nothing else reads objects.

pub mod cilium;
pub mod config_map;
pub mod directory;
pub mod finding;
pub mod freshness;
pub mod gateway;
pub mod kubernetes;
pub mod lean;
mod manifest;
pub(crate) mod names;
mod node;
pub(crate) mod origin;
pub mod packed;
pub mod publisher;
pub mod secret;
pub mod store;

use cilium::{CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy};
use config_map::ConfigMap;
use finding::{Finding, Severity};
use gateway::{BackendTlsPolicy, Gateway, GatewayClass, HttpRoute, ReferenceGrant};
use k8s_openapi::{
    Metadata, Resource,
    api::{
        core::v1::{Namespace, Service},
        networking::v1::{Ingress, IngressClass, NetworkPolicy},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use lean::{EndpointSlice, Pod};
use packed::Packed;
use secret::Secret;
use std::sync::Arc;
use store::{Key, Store};

/// Declares the kinds: a [`Store`] of each in [`Objects`], and in [`Changes`] what became of it.
macro_rules! kinds {
    ($($(#[$doc:meta])* $field:ident: $ty:ty,)*) => {
        /// Everything that was read, by kind, namespace and name. Cheap to clone; see [`Store`].
        #[derive(Clone, Debug, Default)]
        pub struct Objects { $($(#[$doc])* pub $field: Store<$ty>,)* }

        /// Objects that are new, different or gone, by kind.
        #[derive(Clone, PartialEq, Eq, Debug, Default)]
        pub struct Changes { $($(#[$doc])* pub $field: Vec<Key>,)* }

        impl Objects {
            /// What became different since `old`. Takes time for what differs alone, where one was made
            /// of a clone of the other.
            #[must_use]
            pub fn changes(&self, old: &Self) -> Changes {
                Changes { $($field: self.$field.differences(&old.$field),)* }
            }

            /// Takes out what one reading of a file brought, and puts in what the next one does.
            pub fn exchange(&mut self, old: &Self, new: &Self) {
                $(self.$field.exchange(&old.$field, &new.$field);)*
            }

            /// Puts each object of `new` in the place of whatever has its kind and name.
            pub(crate) fn replace(&mut self, new: &Self) {
                $(new.$field.shared().for_each(|object| self.$field.replace(Arc::clone(object)));)*
            }

            /// Removes whatever has this kind and name.
            pub(crate) fn forget(&mut self, kind: &str, key: &Key) {
                $(if kind == <$ty as Object>::KIND_NAME {
                    self.$field.forget(key);
                })*
            }
        }

        impl Changes {
            /// How many there are.
            #[must_use]
            pub fn len(&self) -> usize {
                0 $(+ self.$field.len())*
            }

            /// Whether nothing changed.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                $(self.$field.is_empty())&&*
            }
        }
    };
}

kinds! {
    /// Services.
    services: Packed<Service>,
    /// EndpointSlices.
    slices: EndpointSlice,
    /// Pods: what policies select.
    pods: Pod,
    /// Namespaces: policies select them by their labels.
    namespaces: Namespace,
    /// Policies of Kubernetes itself.
    network_policies: Packed<NetworkPolicy>,
    /// Cilium's, of one namespace.
    policies: CiliumNetworkPolicy,
    /// Cilium's, of all namespaces.
    clusterwide_policies: CiliumClusterwideNetworkPolicy,
    /// Ingresses.
    ingresses: Ingress,
    /// Who serves Ingresses of which class.
    ingress_classes: IngressClass,
    /// Who serves Gateways of which class.
    gateway_classes: GatewayClass,
    /// Gateways.
    gateways: Gateway,
    /// HTTPRoutes.
    http_routes: HttpRoute,
    /// What may be referred to from other namespaces.
    reference_grants: ReferenceGrant,
    /// How Gateways speak TLS to Services.
    backend_tls_policies: BackendTlsPolicy,
    /// ConfigMaps: certificates of authorities.
    config_maps: ConfigMap,
    /// Secrets: of those with a certificate what TLS needs.
    secrets: Secret,
}

/// Kinds that are in no namespace.
const CLUSTERWIDE: [&str; 4] =
    [CiliumClusterwideNetworkPolicy::KIND, Namespace::KIND, GatewayClass::KIND, IngressClass::KIND];

/// The namespace that an object of a kind is kept under; `said` is what it says itself.
pub(crate) fn namespace_of<'a>(kind: &str, said: Option<&'a str>) -> &'a str {
    if CLUSTERWIDE.contains(&kind) {
        return "";
    }
    said.filter(|said| !said.is_empty()).unwrap_or("default")
}

/// What every kind of object has.
pub trait Object {
    /// Its kind, as the API calls it.
    const KIND_NAME: &'static str;

    /// When it was made, as far as it says.
    fn created(&self) -> Option<&Time>;
}

impl<T: Resource + Metadata<Ty = ObjectMeta>> Object for T {
    const KIND_NAME: &'static str = T::KIND;

    fn created(&self) -> Option<&Time> {
        self.metadata().creation_timestamp.as_ref()
    }
}

/// An object, and where a finding about it points.
#[derive(Clone, PartialEq, Debug)]
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
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Lines {
    /// The object's first line.
    pub object: u32,
    /// Fields of `spec` (or of the object, if it has none), and annotations, by key. Of a policy,
    /// everything below `spec`, by its way there: `ingress[0].toPorts`.
    pub fields: Vec<(Arc<str>, u32)>,
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
        let namespace = namespace_of(T::KIND, metadata.namespace.as_deref()).to_owned();
        Some(Self { namespace, name, object, file, lines })
    }
}

impl<T: Object> Sourced<T> {
    /// `Kind namespace/name`, or `Kind name`, as findings name it.
    #[must_use]
    pub fn label(&self) -> String {
        label(T::KIND_NAME, &self.namespace, &self.name)
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

impl<T> Sourced<T> {
    /// The same, with something else of the object.
    pub(crate) fn map<U>(self, of: impl FnOnce(T) -> U) -> Sourced<U> {
        let Self { object, namespace, name, file, lines } = self;
        Sourced { object: of(object), namespace, name, file, lines }
    }

    /// What a [`Store`] has it under.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }
}

impl<T: Object> Sourced<T> {
    /// Orders objects by what decides between two claims: known age first, then names, then (for
    /// two objects of one name) where they stand.
    #[must_use]
    pub fn seniority(&self) -> (bool, Option<&Time>, &str, &str, &str, u32) {
        let created = self.object.created();
        (created.is_none(), created, &self.namespace, &self.name, &self.file, self.lines.object)
    }
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

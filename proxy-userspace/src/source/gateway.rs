//! Kinds of the Gateway API, as far as Weir reads them: fields that are missing here are unknown.
//! What the API's own schema defaults is defaulted here as well, because files pass no API server; what
//! it forbids is found when the snapshot is built. Enumerations are text until then: a value that a newer
//! API knows faults its object, not the list it came in.

mod backend_tls;
mod filter;
mod route;

pub use backend_tls::{
    BackendTlsPolicy, BackendTlsPolicySpec, BackendValidation, LocalRef, PolicyTarget, SubjectAltName,
};
pub use filter::{
    Cors, ExtensionRef, Filter, Fraction, HeaderFilter, HttpHeader, Mirror, PathModifier, Redirect,
    UrlRewrite,
};
pub use route::{
    BackendRef, CookieConfig, HttpBackendRef, HttpRoute, HttpRouteSpec, Match, ParentRef, PathMatch, Retry,
    RouteRule, RouteTimeouts, SessionPersistence, ValueMatch,
};

use k8s_openapi::{
    ClusterResourceScope, Metadata, NamespaceResourceScope, Resource,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The API's group, of every kind here.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// Kubernetes' own description of a kind.
macro_rules! kind {
    ($type:ident, $kind:literal, $version:literal, $plural:literal, $scope:ty) => {
        impl Resource for $type {
            const API_VERSION: &'static str = concat!("gateway.networking.k8s.io/", $version);
            const GROUP: &'static str = GROUP;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = $version;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = $scope;
        }

        impl Metadata for $type {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

kind!(GatewayClass, "GatewayClass", "v1", "gatewayclasses", ClusterResourceScope);
kind!(Gateway, "Gateway", "v1", "gateways", NamespaceResourceScope);
kind!(HttpRoute, "HTTPRoute", "v1", "httproutes", NamespaceResourceScope);
kind!(BackendTlsPolicy, "BackendTLSPolicy", "v1", "backendtlspolicies", NamespaceResourceScope);
// Clusters of every age serve this version of it.
kind!(ReferenceGrant, "ReferenceGrant", "v1beta1", "referencegrants", NamespaceResourceScope);

/// Who serves the Gateways of a class.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct GatewayClass {
    /// Name.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: GatewayClassSpec,
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(rename = "status")]
    _status: Option<serde_json::Value>,
}

/// `spec` of a GatewayClass.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// `weir.dev/gateway` is ours.
    pub controller_name: String,
    /// Weir has no parameters.
    pub parameters_ref: Option<ParametersRef>,
    /// For people.
    pub description: Option<String>,
}

/// An object of parameters.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct ParametersRef {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace, where it has one.
    pub namespace: Option<String>,
}

/// Where traffic comes in.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct Gateway {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: GatewaySpec,
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(rename = "status")]
    _status: Option<serde_json::Value>,
}

/// `spec` of a Gateway.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Its class.
    pub gateway_class_name: String,
    /// Ports, and who may use them.
    pub listeners: Vec<Listener>,
    /// Where it is reached; none: at the nodes.
    #[serde(default)]
    pub addresses: Vec<GatewayAddress>,
    /// Of the machines that serve it.
    pub infrastructure: Option<Infrastructure>,
    /// Of connections to backends, and of clients' certificates.
    pub tls: Option<GatewayTls>,
    /// Of ListenerSets: not served.
    pub allowed_listeners: Option<AllowedListeners>,
}

/// `spec.tls`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct GatewayTls {
    /// Of connections to backends.
    pub backend: Option<BackendTls>,
    /// Of clients.
    pub frontend: Option<FrontendTls>,
}

/// `spec.tls.backend`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    /// What backends get to see.
    pub client_certificate_ref: Option<SecretRef>,
}

/// `spec.tls.frontend`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendTls {
    /// At every port that is not named.
    pub default: ClientTls,
    /// At this one.
    #[serde(default)]
    pub per_port: Vec<PortTls>,
}

/// `spec.tls.frontend.perPort[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct PortTls {
    /// The port.
    pub port: i32,
    /// What holds there.
    pub tls: ClientTls,
}

/// How clients prove who they are.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct ClientTls {
    /// By certificates.
    pub validation: Option<Validation>,
}

/// `validation` of clients' certificates.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// Who may have signed them.
    pub ca_certificate_refs: Vec<CaRef>,
    /// `AllowValidOnly` or `AllowInsecureFallback`.
    pub mode: Option<String>,
}

/// Certificates of an authority.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct CaRef {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; the Gateway's where it is absent.
    pub namespace: Option<String>,
}

/// `spec.allowedListeners`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct AllowedListeners {
    /// Of which namespaces.
    pub namespaces: Option<ListenerNamespaces>,
}

/// `spec.allowedListeners.namespaces`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct ListenerNamespaces {
    /// `All`, `Selector`, `Same` or `None`.
    pub from: Option<String>,
    /// For `Selector`.
    pub selector: Option<LabelSelector>,
}

/// `spec.infrastructure`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Infrastructure {
    /// For generated objects, of which Weir has none.
    pub labels: Option<BTreeMap<String, String>>,
    /// The same.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Weir has no parameters.
    pub parameters_ref: Option<ParametersRef>,
}

/// `spec.addresses[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct GatewayAddress {
    /// `IPAddress`, `Hostname`, `NamedAddress` or somebody's own.
    #[serde(rename = "type", default = "ip_address")]
    pub kind: String,
    /// The address; absent: any of the type.
    pub value: Option<String>,
}

/// `spec.listeners[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// What routes call it.
    pub name: String,
    /// Hosts that it is for; every one where it is absent.
    pub hostname: Option<String>,
    /// The port.
    pub port: i32,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP` or somebody's own.
    pub protocol: String,
    /// Certificates.
    pub tls: Option<ListenerTls>,
    /// Which routes may attach.
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

/// `spec.listeners[].tls`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// `Terminate` or `Passthrough`.
    #[serde(default = "terminate")]
    pub mode: String,
    /// Secrets.
    #[serde(default)]
    pub certificate_refs: Vec<SecretRef>,
    /// Somebody's own.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// A reference to a Secret, unless it says otherwise.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct SecretRef {
    /// API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Kind.
    #[serde(default = "secret")]
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; the Gateway's where it is absent.
    pub namespace: Option<String>,
}

/// `spec.listeners[].allowedRoutes`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct AllowedRoutes {
    /// Of which namespaces.
    #[serde(default)]
    pub namespaces: RouteNamespaces,
    /// Of which kinds; empty: those that the protocol carries.
    #[serde(default)]
    pub kinds: Vec<RouteKind>,
}

/// `spec.listeners[].allowedRoutes.namespaces`
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct RouteNamespaces {
    /// `Same`, `All` or `Selector`.
    #[serde(default = "same")]
    pub from: String,
    /// For `Selector`.
    pub selector: Option<LabelSelector>,
}

impl Default for RouteNamespaces {
    fn default() -> Self {
        Self { from: same(), selector: None }
    }
}

/// `spec.listeners[].allowedRoutes.kinds[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct RouteKind {
    /// API group.
    #[serde(default = "group")]
    pub group: String,
    /// Kind.
    pub kind: String,
}

/// Lets objects of other namespaces refer to those of its own.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct ReferenceGrant {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What is allowed.
    pub spec: ReferenceGrantSpec,
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
}

/// `spec` of a ReferenceGrant.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct ReferenceGrantSpec {
    /// Any of these may refer ...
    pub from: Vec<GrantFrom>,
    /// ... to any of those.
    pub to: Vec<GrantTo>,
}

/// `spec.from[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct GrantFrom {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
}

/// `spec.to[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct GrantTo {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name; every one where it is absent.
    pub name: Option<String>,
}

fn group() -> String {
    GROUP.to_owned()
}

fn same() -> String {
    "Same".to_owned()
}

fn ip_address() -> String {
    "IPAddress".to_owned()
}

fn terminate() -> String {
    "Terminate".to_owned()
}

fn secret() -> String {
    "Secret".to_owned()
}

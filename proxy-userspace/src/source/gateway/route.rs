//! `HTTPRoute`.

use super::{filter::Filter, group};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// Where HTTP requests go.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct HttpRoute {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: HttpRouteSpec,
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(rename = "status")]
    _status: Option<serde_json::Value>,
}

/// `spec` of an HTTPRoute.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// The Gateways that it is for.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Hosts; those of the listener where there are none.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Rules.
    #[serde(default = "one_rule")]
    pub rules: Vec<RouteRule>,
}

impl Default for HttpRouteSpec {
    fn default() -> Self {
        Self { parent_refs: Vec::new(), hostnames: Vec::new(), rules: one_rule() }
    }
}

/// `spec.parentRefs[]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// API group.
    #[serde(default = "group")]
    pub group: String,
    /// `Gateway`, or `Service` of the core group.
    #[serde(default = "gateway")]
    pub kind: String,
    /// Namespace; the route's where it is absent.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// A listener of this name alone.
    pub section_name: Option<String>,
    /// Listeners of this port alone.
    pub port: Option<i32>,
}

/// `spec.rules[]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRule {
    /// What it is called.
    pub name: Option<String>,
    /// Any of them.
    #[serde(default = "one_match")]
    pub matches: Vec<Match>,
    /// What is done to requests and answers.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Where requests go.
    #[serde(default)]
    pub backend_refs: Vec<HttpBackendRef>,
    /// How long they may take.
    pub timeouts: Option<RouteTimeouts>,
    /// Whether they are tried again.
    pub retry: Option<Retry>,
    /// Whether a client stays with an endpoint.
    pub session_persistence: Option<SessionPersistence>,
}

impl Default for RouteRule {
    fn default() -> Self {
        Self {
            name: None,
            matches: one_match(),
            filters: Vec::new(),
            backend_refs: Vec::new(),
            timeouts: None,
            retry: None,
            session_persistence: None,
        }
    }
}

/// `spec.rules[].matches[]`: all of what is there.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// The path.
    #[serde(default)]
    pub path: PathMatch,
    /// The method.
    pub method: Option<String>,
    /// Fields of the head.
    #[serde(default)]
    pub headers: Vec<ValueMatch>,
    /// Parameters of the query.
    #[serde(default)]
    pub query_params: Vec<ValueMatch>,
}

/// `spec.rules[].matches[].path`
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct PathMatch {
    /// `Exact`, `PathPrefix` or `RegularExpression`.
    #[serde(rename = "type", default = "path_prefix")]
    pub kind: String,
    /// The path.
    #[serde(default = "slash")]
    pub value: String,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self { kind: path_prefix(), value: slash() }
    }
}

/// `headers[]` and `queryParams[]` of a match.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct ValueMatch {
    /// `Exact` or `RegularExpression`.
    #[serde(rename = "type", default = "exact")]
    pub kind: String,
    /// The field's or parameter's name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// `spec.rules[].backendRefs[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct HttpBackendRef {
    /// API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Kind.
    #[serde(default = "service")]
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; the route's where it is absent.
    pub namespace: Option<String>,
    /// A Service needs it.
    pub port: Option<i32>,
    /// How much of the requests, beside the others.
    #[serde(default = "one")]
    pub weight: i32,
    /// For this backend's requests alone.
    #[serde(default)]
    pub filters: Vec<Filter>,
}

/// A Service, unless it says otherwise.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct BackendRef {
    /// API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Kind.
    #[serde(default = "service")]
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; the route's where it is absent.
    pub namespace: Option<String>,
    /// A Service needs it.
    pub port: Option<i32>,
}

impl HttpBackendRef {
    /// Who it is, without what is done on the way.
    #[must_use]
    pub fn backend(&self) -> BackendRef {
        BackendRef {
            group: self.group.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            port: self.port,
        }
    }
}

/// Durations as the API writes them: `1h30m`, `500ms`; `0s` is no limit.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTimeouts {
    /// The whole request.
    pub request: Option<String>,
    /// One try.
    pub backend_request: Option<String>,
}

/// `spec.rules[].retry`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct Retry {
    /// Statuses that are tried again.
    #[serde(default)]
    pub codes: Vec<i32>,
    /// How often at most.
    pub attempts: Option<i32>,
    /// How long between two.
    pub backoff: Option<String>,
}

/// `spec.rules[].sessionPersistence`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionPersistence {
    /// Name of the cookie or field.
    pub session_name: Option<String>,
    /// How long at most.
    pub absolute_timeout: Option<String>,
    /// How long without a request.
    pub idle_timeout: Option<String>,
    /// `Cookie` or `Header`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Of the cookie.
    pub cookie_config: Option<CookieConfig>,
}

/// `spec.rules[].sessionPersistence.cookieConfig`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CookieConfig {
    /// `Session` or `Permanent`.
    pub lifetime_type: Option<String>,
}

fn one_rule() -> Vec<RouteRule> {
    vec![RouteRule::default()]
}

fn one_match() -> Vec<Match> {
    vec![Match::default()]
}

fn gateway() -> String {
    "Gateway".to_owned()
}

fn path_prefix() -> String {
    "PathPrefix".to_owned()
}

fn slash() -> String {
    "/".to_owned()
}

fn exact() -> String {
    "Exact".to_owned()
}

fn service() -> String {
    "Service".to_owned()
}

fn one() -> i32 {
    1
}

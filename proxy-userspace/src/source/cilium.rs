//! `CiliumNetworkPolicy`, as far as it is enforced: fields that are missing here are unknown, and an
//! unknown field is an error. A policy must not mean less than it says.

use super::node::{Node, Value};
use k8s_openapi::{
    Metadata, NamespaceResourceScope, Resource,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde::Deserialize;

/// A policy on the pods of its namespace.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CiliumNetworkPolicy {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// The policy.
    pub spec: Option<Spec>,
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    /// Others write it, and everything is allowed there.
    #[serde(rename = "status")]
    _status: Option<serde_json::Value>,
}

/// `spec`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Which pods.
    pub endpoint_selector: Option<LabelSelector>,
    /// Any of them allows.
    pub ingress: Option<Vec<Ingress>>,
    /// For people.
    #[serde(rename = "description")]
    _description: Option<String>,
}

/// `spec.ingress[]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// What of the pods may be reached.
    pub to_ports: Option<Vec<PortRule>>,
}

/// `spec.ingress[].toPorts[]`
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PortRule {
    /// Any of these ports.
    #[serde(default)]
    pub ports: Vec<PortProtocol>,
    /// What is allowed there; everything where it is missing.
    pub rules: Option<Rules>,
}

/// `spec.ingress[].toPorts[].ports[]`
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PortProtocol {
    /// A number.
    pub port: String,
    /// `TCP` or `ANY`, the default.
    pub protocol: Option<String>,
}

/// `spec.ingress[].toPorts[].rules`
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Rules {
    /// Any of them allows.
    pub http: Option<Vec<HttpRule>>,
}

/// `spec.ingress[].toPorts[].rules.http[]`: regular expressions, each for the whole.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct HttpRule {
    /// Of the method.
    pub method: Option<String>,
    /// Of the target, query included.
    pub path: Option<String>,
    /// Of the Host field.
    pub host: Option<String>,
}

impl Resource for CiliumNetworkPolicy {
    const API_VERSION: &'static str = "cilium.io/v2";
    const GROUP: &'static str = "cilium.io";
    const KIND: &'static str = "CiliumNetworkPolicy";
    const VERSION: &'static str = "v2";
    const URL_PATH_SEGMENT: &'static str = "ciliumnetworkpolicies";
    type Scope = NamespaceResourceScope;
}

impl Metadata for CiliumNetworkPolicy {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Fields that Cilium knows and Weir does not enforce.
const NOT_ENFORCED: [&str; 30] = [
    "authentication",
    "egress",
    "egressDeny",
    "enableDefaultDeny",
    "endPort",
    "fromCIDR",
    "fromCIDRSet",
    "fromEndpoints",
    "fromEntities",
    "fromGroups",
    "fromNodes",
    "fromRequires",
    "headerMatches",
    "headers",
    "icmps",
    "ingressDeny",
    "kafka",
    "dns",
    "l7",
    "l7proto",
    "labels",
    "listener",
    "log",
    "nodeSelector",
    "originatingTLS",
    "serverNames",
    "specs",
    "terminatingTLS",
    "auditMode",
    "cidrGroupRef",
];

/// What to do about a field that is not in the types above.
pub(super) fn cure(field: &str) -> &'static str {
    if NOT_ENFORCED.contains(&field) {
        "Weir does not enforce this field yet: remove it, or the policy"
    } else {
        "check its spelling and indentation"
    }
}

/// Lines of everything below a node, under keys like `ingress[0].toPorts[1].ports`.
pub(super) fn deep_lines(node: &Node, path: &str, lines: &mut Vec<(Box<str>, u32)>) {
    let mut below = |step: String, child: &Node| {
        lines.push((step.as_str().into(), child.line));
        deep_lines(child, &step, lines);
    };
    match &node.value {
        Value::Map(entries) => {
            let dot = if path.is_empty() { "" } else { "." };
            entries.iter().for_each(|(key, child)| below(format!("{path}{dot}{key}"), child));
        }
        Value::List(items) => {
            items.iter().enumerate().for_each(|(index, child)| below(format!("{path}[{index}]"), child));
        }
        _ => {}
    }
}

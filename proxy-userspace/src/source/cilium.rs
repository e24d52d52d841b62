//! `CiliumNetworkPolicy` and `CiliumClusterwideNetworkPolicy`, as far as they are enforced: fields that
//! are missing here are unknown, and an unknown field is an error. A policy must not mean less than it
//! says.

use super::{
    names::shared,
    node::{Node, Value},
};
use k8s_openapi::{
    ClusterResourceScope, Metadata, NamespaceResourceScope, Resource,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde::Deserialize;
use std::sync::Arc;

/// A policy on the pods of its namespace.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct CiliumNetworkPolicy {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// The policy.
    pub spec: Option<Spec>,
    /// More of it: each stands for itself.
    pub specs: Option<Vec<Spec>>,
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    /// Others write it, and everything is allowed there.
    #[serde(rename = "status")]
    _status: Option<serde_json::Value>,
}

/// A policy on pods of every namespace, or on nodes.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct CiliumClusterwideNetworkPolicy {
    /// Its name.
    pub metadata: ObjectMeta,
    /// The policy.
    pub spec: Option<Spec>,
    /// More of it: each stands for itself.
    pub specs: Option<Vec<Spec>>,
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(rename = "status")]
    _status: Option<serde_json::Value>,
}

/// `spec`. A list that is there and empty is not the same as one that is missing.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Which pods.
    pub endpoint_selector: Option<LabelSelector>,
    /// Which nodes; instead of pods.
    pub node_selector: Option<LabelSelector>,
    /// Any of them allows to reach the pods.
    pub ingress: Option<Vec<Ingress>>,
    /// Each of them forbids it, whatever allows it.
    pub ingress_deny: Option<Vec<Ingress>>,
    /// Any of them allows the pods to reach others.
    pub egress: Option<Vec<Egress>>,
    /// Each of them forbids it, whatever allows it.
    pub egress_deny: Option<Vec<Egress>>,
    /// Whether what no policy allows is denied, by direction.
    pub enable_default_deny: Option<DefaultDeny>,
    /// For people.
    #[serde(rename = "description")]
    _description: Option<String>,
    /// For people and their programs.
    #[serde(rename = "labels")]
    _labels: Option<Vec<PolicyLabel>>,
    /// What Cilium writes to its own log.
    #[serde(rename = "log")]
    _log: Option<Log>,
}

/// `spec.enableDefaultDeny`
#[derive(Clone, Copy, PartialEq, Debug, Default, Deserialize)]
pub struct DefaultDeny {
    /// Of what comes to the pods.
    pub ingress: Option<bool>,
    /// Of where they go.
    pub egress: Option<bool>,
}

/// `spec.labels[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
struct PolicyLabel {
    #[serde(rename = "key")]
    _key: String,
    #[serde(rename = "value")]
    _value: Option<String>,
    #[serde(rename = "source")]
    _source: Option<String>,
}

/// `spec.log`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
struct Log {
    #[serde(rename = "value")]
    _value: Option<String>,
}

/// `spec.ingress[]` and `spec.ingressDeny[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// From pods with these labels.
    pub from_endpoints: Option<Vec<LabelSelector>>,
    /// And only from those that have these labels too.
    pub from_requires: Option<Vec<LabelSelector>>,
    /// From addresses that are neither pods' nor nodes'.
    #[serde(rename = "fromCIDR")]
    pub from_cidr: Option<Vec<String>>,
    /// The same, with exceptions.
    #[serde(rename = "fromCIDRSet")]
    pub from_cidr_set: Option<Vec<CidrRule>>,
    /// From what has a name in every cluster.
    pub from_entities: Option<Vec<String>>,
    /// What of the pods may be reached.
    pub to_ports: Option<Vec<PortRule>>,
    /// Only the mode `disabled` is accepted.
    pub authentication: Option<Authentication>,
}

/// `spec.egress[]` and `spec.egressDeny[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Egress {
    /// To pods with these labels.
    pub to_endpoints: Option<Vec<LabelSelector>>,
    /// And only to those that have these labels too.
    pub to_requires: Option<Vec<LabelSelector>>,
    /// To addresses that are neither pods' nor nodes'.
    #[serde(rename = "toCIDR")]
    pub to_cidr: Option<Vec<String>>,
    /// The same, with exceptions.
    #[serde(rename = "toCIDRSet")]
    pub to_cidr_set: Option<Vec<CidrRule>>,
    /// To what has a name in every cluster.
    pub to_entities: Option<Vec<String>>,
    /// To the endpoints of Services.
    pub to_services: Option<Vec<ServiceRule>>,
    /// Which of their ports.
    pub to_ports: Option<Vec<PortRule>>,
    /// Only the mode `disabled` is accepted.
    pub authentication: Option<Authentication>,
}

/// `authentication`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct Authentication {
    /// `disabled`, or something that Weir does not do.
    pub mode: String,
}

/// `fromCIDRSet[]` and `toCIDRSet[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct CidrRule {
    /// An address, or a prefix.
    pub cidr: Option<String>,
    /// But for these.
    pub except: Option<Vec<String>>,
}

/// `toServices[]`: one of the two.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRule {
    /// By name.
    pub k8s_service: Option<ServiceName>,
    /// By the Services' own labels.
    pub k8s_service_selector: Option<ServiceSelector>,
}

/// `toServices[].k8sService`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceName {
    /// The Service's name.
    pub service_name: Option<String>,
    /// Its namespace; the policy's where it is missing.
    pub namespace: Option<String>,
}

/// `toServices[].k8sServiceSelector`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct ServiceSelector {
    /// Of the Services' labels.
    pub selector: LabelSelector,
    /// Their namespace; every one where it is missing.
    pub namespace: Option<String>,
}

/// `toPorts[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct PortRule {
    /// Any of these ports.
    #[serde(default)]
    pub ports: Vec<PortProtocol>,
    /// What is allowed there; everything where it is missing.
    pub rules: Option<Rules>,
}

/// `toPorts[].ports[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortProtocol {
    /// A number, or the name of a port of the pod that is reached; `0` is every port.
    pub port: String,
    /// The last one of a range of numbers.
    pub end_port: Option<i32>,
    /// `TCP`, `UDP`, `SCTP` or `ANY`, the default.
    pub protocol: Option<String>,
}

/// `toPorts[].rules`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct Rules {
    /// Any of them allows.
    pub http: Option<Vec<HttpRule>>,
}

/// `toPorts[].rules.http[]`: regular expressions, each for the whole.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    /// Of the method.
    pub method: Option<String>,
    /// Of the target, query included.
    pub path: Option<String>,
    /// Of the Host field.
    pub host: Option<String>,
    /// Fields that must be there: `Name`, or `Name: value`, literally.
    pub headers: Option<Vec<String>>,
    /// The same, and what to do about a request that has it not.
    pub header_matches: Option<Vec<HeaderMatch>>,
}

/// `toPorts[].rules.http[].headerMatches[]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct HeaderMatch {
    /// The field's name.
    pub name: String,
    /// Its value, literally; any where it is missing or empty.
    pub value: Option<String>,
    /// `LOG`, `ADD`, `DELETE` or `REPLACE`; the rule does not match where it is missing.
    pub mismatch: Option<String>,
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

impl Resource for CiliumClusterwideNetworkPolicy {
    const API_VERSION: &'static str = "cilium.io/v2";
    const GROUP: &'static str = "cilium.io";
    const KIND: &'static str = "CiliumClusterwideNetworkPolicy";
    const VERSION: &'static str = "v2";
    const URL_PATH_SEGMENT: &'static str = "ciliumclusterwidenetworkpolicies";
    type Scope = ClusterResourceScope;
}

impl Metadata for CiliumClusterwideNetworkPolicy {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Fields that Cilium knows and Weir does not enforce.
const NOT_ENFORCED: [&str; 17] = [
    "cidrGroupRef",
    "cidrGroupSelector",
    "dns",
    "fromGroups",
    "fromNodes",
    "icmps",
    "kafka",
    "l7",
    "l7proto",
    "listener",
    "originatingTLS",
    "secret",
    "serverNames",
    "terminatingTLS",
    "toFQDNs",
    "toGroups",
    "toNodes",
];

/// Whether Cilium knows a field that is not in the types above.
pub(super) fn is_known_elsewhere(field: &str) -> bool {
    NOT_ENFORCED.contains(&field)
}

/// Lines of everything below a node, under keys like `ingress[0].toPorts[1].ports`.
pub(super) fn deep_lines(node: &Node, path: &str, lines: &mut Vec<(Arc<str>, u32)>) {
    if node.line == 0 {
        // It came from the API.
        return;
    }
    let mut below = |step: String, child: &Node| {
        lines.push((shared(&step), child.line));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use crate::source::objects_and_findings;
    use serde_json::{Value, json};
    use std::{fs, path::Path};

    /// Every value of a schema with one field in each mapping: one for each way down.
    fn samples(schema: &Value) -> Vec<Value> {
        match schema["type"].as_str() {
            Some("object") => {
                let fields = schema["properties"].as_object();
                let fields = fields.into_iter().flatten().filter(|(name, _)| *name != "metadata");
                let each = fields.flat_map(|(name, schema)| {
                    samples(schema).into_iter().map(move |value| json!({ name: value }))
                });
                [json!({})].into_iter().chain(each).collect()
            }
            Some("array") => samples(&schema["items"]).into_iter().map(|item| json!([item])).collect(),
            Some("integer") => vec![json!(1)],
            Some("boolean") => vec![json!(true)],
            _ => vec![schema["enum"][0].as_str().map_or(json!("x"), |one| json!(one))],
        }
    }

    #[test]
    fn every_field_of_ciliums_own_schemas_is_read_or_refused_by_name() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/cilium");
        if !directory.exists() {
            eprintln!("SKIP: {} is not there", directory.display());
            return;
        }
        for (file, kind) in [
            ("crd-ciliumnetworkpolicies.json", "CiliumNetworkPolicy"),
            ("crd-ciliumclusterwidenetworkpolicies.json", "CiliumClusterwideNetworkPolicy"),
        ] {
            let text = fs::read_to_string(directory.join(file)).unwrap();
            let schema: Value = serde_json::from_str(&text).unwrap();
            let schema = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
            let specs: Vec<_> = ["spec", "specs"]
                .iter()
                .flat_map(|field| samples(&schema[*field]).into_iter().map(move |value| (*field, value)))
                .collect();
            assert!(specs.len() > 300, "{}", specs.len());
            for (field, spec) in specs {
                let object = json!({
                    "apiVersion": "cilium.io/v2", "kind": kind, "metadata": {"name": "p"}, field: spec
                });
                let (_, findings) = objects_and_findings(&object.to_string());
                // What is not of the right kind lacks what the schema requires.
                let odd = |text: &str| text.contains("is unknown");
                let found: Vec<_> = findings.iter().filter(|finding| odd(&finding.text)).collect();
                assert!(found.is_empty(), "{object}: {found:?}");
            }
        }
    }
}

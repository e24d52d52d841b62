//! An object as the API server sends it, without what nobody reads.

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value};

/// Where people put what they applied; a second copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Fields of a Pod that are read.
const POD_SPEC: [&str; 5] = ["nodeName", "hostNetwork", "serviceAccountName", "containers", "initContainers"];
const POD_STATUS: [&str; 5] = ["phase", "podIP", "podIPs", "hostIP", "hostIPs"];
const CONTAINER: [&str; 3] = ["name", "ports", "restartPolicy"];
/// Kinds whose status somebody reads.
const WITH_STATUS: [&str; 6] = ["Pod", "Service", "Ingress", "Gateway", "GatewayClass", "HTTPRoute"];

/// One object as it came.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    namespace: Option<String>,
    name: String,
    version: String,
    json: Value,
}

/// One object, without what nobody reads. As text: a tree of it takes ten times as much memory, and a list
/// may be long.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    /// `metadata.resourceVersion`
    pub(super) version: String,
    /// The object, on one line.
    pub(super) json: Box<str>,
}

impl Raw {
    fn of(json: Value) -> Option<Self> {
        let metadata = json.get("metadata")?;
        let text = |key| metadata.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        Some(Self {
            namespace: text("namespace").map(String::from),
            name: text("name")?.to_owned(),
            version: text("resourceVersion").unwrap_or_default().to_owned(),
            json,
        })
    }

    /// What of an object of this `kind` is read.
    pub(super) fn strip(self, kind: &str) -> Document {
        let Self { namespace, name, version, mut json } = self;
        if let Some(object) = json.as_object_mut() {
            strip_object(object, kind);
        }
        Document { namespace, name, version, json: json.to_string().into() }
    }
}

fn strip_object(object: &mut Map<String, Value>, kind: &str) {
    if let Some(metadata) = fields(object, "metadata") {
        metadata.remove("managedFields");
        strip_annotations(metadata, kind);
    }
    if !WITH_STATUS.contains(&kind) {
        object.remove("status");
    }
    if kind == "Pod" {
        strip_pod(object);
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Value::deserialize(deserializer)?;
        Self::of(json).ok_or_else(|| D::Error::custom("an object without metadata.name"))
    }
}

fn fields<'a>(object: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(key).and_then(Value::as_object_mut)
}

fn strip_annotations(metadata: &mut Map<String, Value>, kind: &str) {
    let Some(annotations) = fields(metadata, "annotations") else { return };
    if kind == "Pod" {
        annotations.retain(|key, _| key.starts_with("weir.dev/"));
    } else {
        annotations.remove(LAST_APPLIED);
    }
}

fn strip_pod(pod: &mut Map<String, Value>) {
    if let Some(spec) = fields(pod, "spec") {
        spec.retain(|key, _| POD_SPEC.contains(&key.as_str()));
        for list in ["containers", "initContainers"] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
                container.retain(|key, _| CONTAINER.contains(&key.as_str()));
            }
        }
    }
    if let Some(status) = fields(pod, "status") {
        status.retain(|key, _| POD_STATUS.contains(&key.as_str()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn stripped(kind: &str, json: Value) -> Value {
        let raw: Raw = serde_json::from_value(json).unwrap();
        serde_json::from_str(&raw.strip(kind).json).unwrap()
    }

    #[test]
    fn of_a_pod_labels_addresses_and_ports_stay() {
        let pod = json!({
            "metadata": {
                "name": "a", "namespace": "n", "uid": "u", "labels": {"app": "x"}, "managedFields": [{}],
                "annotations": {"weir.dev/x": "1", "other": "2"},
            },
            "spec": {
                "nodeName": "node1", "serviceAccountName": "robot", "volumes": [{"name": "v"}],
                "containers": [{"name": "c", "image": "i", "env": [], "ports": [{"name": "http", "containerPort": 80}]}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": []},
        });
        let expected = json!({
            "metadata": {
                "name": "a", "namespace": "n", "uid": "u", "labels": {"app": "x"},
                "annotations": {"weir.dev/x": "1"},
            },
            "spec": {
                "nodeName": "node1", "serviceAccountName": "robot",
                "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        assert_eq!(stripped("Pod", pod), expected);
    }

    #[test]
    fn of_other_kinds_what_others_wrote_about_them_goes() {
        let policy = json!({
            "metadata": {"name": "a", "managedFields": [], "annotations": {LAST_APPLIED: "{}", "x": "y"}},
            "spec": {"anything": 1}, "status": {"nodes": {}},
        });
        let expected = json!({"metadata": {"name": "a", "annotations": {"x": "y"}}, "spec": {"anything": 1}});
        assert_eq!(stripped("CiliumNetworkPolicy", policy), expected);
        let service = json!({"metadata": {"name": "a"}, "status": {"loadBalancer": {}}});
        assert_eq!(stripped("Service", service.clone()), service);
    }

    #[test]
    fn an_object_without_a_name_is_refused() {
        assert!(serde_json::from_value::<Raw>(json!({"metadata": {}})).is_err());
        assert!(serde_json::from_value::<Raw>(json!({})).is_err());
    }
}

//! What a scripted API server holds: objects with versions, and what happened to them.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

/// Of one resource: namespace (empty for what has none) and name.
type Name = (String, String);

/// A resource and its objects' addresses: `services`, `/api/v1/services`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Resource {
    /// `v1`, `discovery.k8s.io/v1`
    pub(super) api_version: String,
    /// `services`
    pub(super) plural: String,
}

/// Something that happened to an object.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) version: u64,
    pub(super) resource: Resource,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(super) what: &'static str,
    pub(super) object: Value,
}

/// All objects.
#[derive(Default)]
pub(super) struct World {
    version: u64,
    objects: BTreeMap<Resource, BTreeMap<Name, Value>>,
    history: VecDeque<Happened>,
    /// History up to here is forgotten.
    forgotten: u64,
}

impl World {
    /// The version of the latest change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Creates or replaces an object, as `kubectl apply` would.
    pub(super) fn put(&mut self, mut object: Value) -> Result<Value> {
        let resource = resource_of(&object)?;
        let name = name_of(&object)?;
        self.version += 1;
        let version = self.version;
        let objects = self.objects.entry(resource.clone()).or_default();
        let old = objects.get(&name);
        let known = |field: &str| old.and_then(|old| old.pointer(field)).cloned();
        let own = object.pointer("/metadata/uid").cloned();
        let uid = own.or(known("/metadata/uid")).unwrap_or_else(|| json!(format!("uid-{version}")));
        let what = if old.is_some() { "MODIFIED" } else { "ADDED" };
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).context("no metadata")?;
        metadata.insert("uid".into(), uid);
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        metadata.insert("managedFields".into(), json!([{"manager": "test"}]));
        objects.insert(name, object.clone());
        self.happened(what, resource, object.clone());
        Ok(object)
    }

    /// Deletes an object; whether there was one.
    pub(super) fn delete(&mut self, resource: &Resource, namespace: &str, name: &str) -> bool {
        let name = (namespace.to_owned(), name.to_owned());
        let Some(mut object) = self.objects.get_mut(resource).and_then(|all| all.remove(&name)) else {
            return false;
        };
        self.version += 1;
        let version = json!(self.version.to_string());
        if let Some(known) = object.pointer_mut("/metadata/resourceVersion") {
            *known = version;
        }
        self.happened("DELETED", resource.clone(), object);
        true
    }

    fn happened(&mut self, what: &'static str, resource: Resource, object: Value) {
        self.history.push_back(Happened { version: self.version, resource, what, object });
    }

    /// What happened before now cannot be watched any more.
    pub(super) fn forget(&mut self) {
        self.forgotten = self.version;
        self.history.clear();
    }

    /// The objects of a resource, by namespace and name; of one namespace, where one is given.
    pub(super) fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Value> {
        let all = self.objects.get(resource).into_iter().flatten();
        all.filter(|((home, _), _)| namespace.is_none_or(|wanted| wanted == home))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// One object.
    pub(super) fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(resource)?.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Whether the cluster has a resource: it is built in, or was made known, or there is such an object.
    pub(super) fn knows(&self, resource: &Resource) -> bool {
        let built_in = !resource.api_version.contains('.') || resource.api_version.contains(".k8s.io");
        (built_in && !resource.api_version.starts_with("gateway.")) || self.objects.contains_key(resource)
    }

    /// Makes a resource known.
    pub(super) fn define(&mut self, resource: Resource) {
        self.objects.entry(resource).or_default();
    }

    /// What happened to a resource's objects after a version; `None` if that is forgotten.
    pub(super) fn since(&self, resource: &Resource, version: u64) -> Option<Vec<Happened>> {
        if version < self.forgotten {
            return None;
        }
        let later = self.history.iter().filter(|one| one.version > version && one.resource == *resource);
        Some(later.cloned().collect())
    }
}

/// Which resource an object is of.
pub(super) fn resource_of(object: &Value) -> Result<Resource> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).with_context(|| format!("no {key}"));
    let kind = text("kind")?.to_lowercase();
    let plural = match kind.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o']) => format!("{stem}ies"),
        _ if kind.ends_with(['s', 'x']) => format!("{kind}es"),
        _ => format!("{kind}s"),
    };
    Ok(Resource { api_version: text("apiVersion")?.to_owned(), plural })
}

/// Where it is, within its resource.
fn name_of(object: &Value) -> Result<Name> {
    let text = |key: &str| object.pointer(key).and_then(Value::as_str).map(String::from);
    Ok((text("/metadata/namespace").unwrap_or_default(), text("/metadata/name").context("no metadata.name")?))
}

/// RFC 7386: what is null goes, what is an object is merged, the rest is replaced.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    if let Value::Object(target) = target {
        for (key, value) in fields {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn plurals_are_kubernetes_own() {
        for (kind, plural) in [
            ("Service", "services"),
            ("NetworkPolicy", "networkpolicies"),
            ("Ingress", "ingresses"),
            ("IngressClass", "ingressclasses"),
            ("Gateway", "gateways"),
        ] {
            let object = json!({"apiVersion": "v1", "kind": kind});
            assert_eq!(resource_of(&object).unwrap().plural, plural);
        }
    }

    #[test]
    fn a_merge_replaces_lists_and_removes_nulls() {
        let mut target = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        merge(&mut target, &json!({"a": {"b": null, "c": [3]}, "e": {"f": null, "g": 2}}));
        assert_eq!(target, json!({"a": {"c": [3]}, "d": 1, "e": {"g": 2}}));
    }
}

//! Which pods a label selector means.

use crate::source::finding::quoted;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

/// Cilium's name for the pod's namespace among its labels.
const NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// A selector, checked. Every requirement must be met; without any it selects all.
#[derive(Debug)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Debug)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// `Err` says what is wrong.
    pub(super) fn new(selector: &LabelSelector) -> Result<Self, String> {
        let labels = selector.match_labels.iter().flatten();
        let labels = labels
            .map(|(name, value)| Ok(Requirement { key: key(name)?, test: Test::In(vec![value.clone()]) }));
        let expressions = selector.match_expressions.iter().flatten().map(requirement);
        labels.chain(expressions).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a pod with these labels is meant.
    pub(super) fn selects(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.0.iter().all(|requirement| {
            let value = match requirement.key.as_str() {
                NAMESPACE => Some(namespace),
                key => labels.and_then(|labels| labels.get(key)).map(String::as_str),
            };
            match &requirement.test {
                Test::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
                Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
                Test::Exists => value.is_some(),
                Test::DoesNotExist => value.is_none(),
            }
        })
    }
}

fn requirement(expression: &LabelSelectorRequirement) -> Result<Requirement, String> {
    let values = expression.values.clone().unwrap_or_default();
    let operator = expression.operator.as_str();
    let test = match (operator, values.is_empty()) {
        ("In", false) => Test::In(values),
        ("NotIn", false) => Test::NotIn(values),
        ("Exists", true) => Test::Exists,
        ("DoesNotExist", true) => Test::DoesNotExist,
        ("In" | "NotIn", true) => return Err(format!("operator {operator} needs values")),
        ("Exists" | "DoesNotExist", false) => return Err(format!("operator {operator} takes no values")),
        _ => return Err(format!("operator {} is unknown", quoted(operator))),
    };
    Ok(Requirement { key: key(&expression.key)?, test })
}

/// A label's key without Cilium's note of where the label is from; only Kubernetes has labels here.
fn key(name: &str) -> Result<String, String> {
    let key = match name.split_once(':') {
        Some(("k8s" | "any", key)) => key,
        Some(_) => return Err(format!("label {} is not a pod's own", quoted(name))),
        None => name,
    };
    if key != NAMESPACE && (key.starts_with("io.cilium.") || key.starts_with("io.kubernetes.")) {
        return Err(format!("label {} is not known", quoted(name)));
    }
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn selector(json: &str) -> Result<Selector, String> {
        Selector::new(&serde_json::from_str(json).unwrap())
    }

    fn selects(json: &str) -> bool {
        let labels = [("app", "web"), ("tier", "front")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        selector(json).unwrap().selects("demo", Some(&labels))
    }

    #[test]
    fn every_requirement_must_be_met() {
        let expression = |body: &str| selects(&format!(r#"{{"matchExpressions": [{{{body}}}]}}"#));
        assert!(selects("{}"));
        assert!(selects(r#"{"matchLabels": {"app": "web", "k8s:tier": "front"}}"#));
        assert!(!selects(r#"{"matchLabels": {"app": "web", "any:tier": "back"}}"#));
        assert!(selects(r#"{"matchLabels": {"k8s:io.kubernetes.pod.namespace": "demo"}}"#));
        assert!(!selects(r#"{"matchLabels": {"io.kubernetes.pod.namespace": "other"}}"#));
        assert!(expression(r#""key": "app", "operator": "In", "values": ["api", "web"]"#));
        assert!(!expression(r#""key": "app", "operator": "NotIn", "values": ["api", "web"]"#));
        assert!(expression(r#""key": "zone", "operator": "NotIn", "values": ["a"]"#));
        assert!(expression(r#""key": "app", "operator": "Exists""#));
        assert!(!expression(r#""key": "app", "operator": "DoesNotExist""#));
        assert!(!expression(r#""key": "zone", "operator": "In", "values": ["a"]"#));
    }

    #[test]
    fn what_it_cannot_mean_is_an_error() {
        for body in [
            r#"{"matchLabels": {"reserved:host": ""}}"#,
            r#"{"matchLabels": {"io.cilium.k8s.policy.serviceaccount": "x"}}"#,
            r#"{"matchExpressions": [{"key": "a", "operator": "In"}]}"#,
            r#"{"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}"#,
            r#"{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["b"]}]}"#,
        ] {
            assert!(selector(body).is_err(), "{body}");
        }
    }
}

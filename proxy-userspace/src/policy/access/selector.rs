//! Which pods a label selector means.

use super::peer::Entity;
use crate::source::{
    finding::quoted,
    names::{LabelSet, shared},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Cilium's names for what it counts among a pod's labels.
const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";

/// What selectors look at in a pod.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Labels {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its own labels.
    pub own: LabelSet,
    /// `spec.serviceAccountName`; `default` where the pod names none.
    pub service_account: Arc<str>,
}

/// Labels of a namespace.
pub type NamespaceLabels = BTreeMap<String, String>;

/// A selector, checked. Every requirement must be met; without any it selects all pods.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Requirement {
    key: Key,
    test: Test,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Key {
    Label(Box<str>),
    Namespace,
    NamespaceLabel(Box<str>),
    ServiceAccount,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

/// Where pods that a selector means are found, and selectors that a pod is meant by: both have it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Anchor {
    /// Pods of a namespace with a label.
    Label(Arc<str>, Arc<str>, Arc<str>),
    /// Pods of a namespace.
    Namespace(Arc<str>),
    /// Pods of any namespace with a label.
    LabelAnywhere(Arc<str>, Arc<str>),
    /// Pods.
    Anywhere,
}

impl Anchor {
    /// Those of a pod.
    pub(super) fn of(labels: &Labels) -> impl Iterator<Item = Self> {
        let namespace = &labels.namespace;
        labels
            .own
            .iter()
            .flat_map(|(key, value)| {
                [
                    Self::Label(Arc::clone(namespace), Arc::clone(key), Arc::clone(value)),
                    Self::LabelAnywhere(Arc::clone(key), Arc::clone(value)),
                ]
            })
            .chain([Self::Namespace(Arc::clone(namespace)), Self::Anywhere])
    }
}

impl Selector {
    /// As Kubernetes reads it: keys are labels. `Err` says what is wrong.
    pub fn of_pods(selector: &LabelSelector) -> Result<Self, String> {
        Self::read(selector, |key| Ok(Key::Label(key.into())))
    }

    /// Pods of the namespaces that have such labels.
    pub fn of_namespaces(selector: &LabelSelector) -> Result<Self, String> {
        Self::read(selector, |key| Ok(Key::NamespaceLabel(key.into())))
    }

    /// As Cilium reads it, for its own kinds.
    pub fn cilium(selector: &LabelSelector) -> Result<Self, String> {
        Self::read(selector, cilium_key)
    }

    fn read(selector: &LabelSelector, key: impl Fn(&str) -> Result<Key, String>) -> Result<Self, String> {
        let labels = selector.match_labels.iter().flatten();
        let labels = labels
            .map(|(name, value)| Ok(Requirement { key: key(name)?, test: Test::In(vec![value.clone()]) }));
        let expressions = selector.match_expressions.iter().flatten();
        let expressions = expressions.map(|one| Ok(Requirement { key: key(&one.key)?, test: test(one)? }));
        labels.chain(expressions).collect::<Result<Vec<_>, String>>().map(Self::of)
    }

    /// The same set is the same selector, however it is written.
    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort();
        requirements.dedup();
        Self(requirements)
    }

    /// Those of them that are in this namespace.
    #[must_use]
    pub fn within(self, namespace: &str) -> Self {
        self.and(&Self(vec![Requirement { key: Key::Namespace, test: Test::In(vec![namespace.to_owned()]) }]))
    }

    /// Those that another one selects too.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.0.extend(other.0.iter().cloned());
        Self::of(self.0)
    }

    /// Whether it has a word on the pods' namespace.
    #[must_use]
    pub fn names_namespace(&self) -> bool {
        self.0.iter().any(|one| matches!(one.key, Key::Namespace | Key::NamespaceLabel(_)))
    }

    /// Whether a pod is meant.
    #[must_use]
    pub fn selects(&self, labels: &Labels, namespace: &NamespaceLabels) -> bool {
        self.0.iter().all(|requirement| {
            let value = match &requirement.key {
                Key::Label(key) => labels.own.get(key),
                Key::Namespace => Some(&*labels.namespace),
                Key::NamespaceLabel(key) => namespace.get(&**key).map(String::as_str),
                Key::ServiceAccount => Some(&*labels.service_account),
            };
            match &requirement.test {
                Test::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
                Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
                Test::Exists => value.is_some(),
                Test::DoesNotExist => value.is_none(),
            }
        })
    }

    /// Every pod that it selects has one of these.
    pub(super) fn anchors(&self) -> Vec<Anchor> {
        let within = |wanted: fn(&Key) -> Option<&str>| {
            self.0.iter().find_map(|one| match &one.test {
                Test::In(values) => wanted(&one.key).map(|key| (key, values)),
                _ => None,
            })
        };
        let label = within(|key| if let Key::Label(key) = key { Some(key) } else { None });
        let namespaces = within(|key| (*key == Key::Namespace).then_some("")).map(|(_, values)| values);
        match (namespaces, label) {
            (None, None) => vec![Anchor::Anywhere],
            (None, Some((key, values))) => {
                values.iter().map(|value| Anchor::LabelAnywhere(shared(key), shared(value))).collect()
            }
            (Some(namespaces), None) => namespaces.iter().map(|one| Anchor::Namespace(shared(one))).collect(),
            (Some(namespaces), Some((key, values))) => namespaces
                .iter()
                .flat_map(|one| {
                    let namespace = shared(one);
                    values
                        .iter()
                        .map(move |value| Anchor::Label(Arc::clone(&namespace), shared(key), shared(value)))
                })
                .collect(),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("any labels");
        }
        for (n, Requirement { key, test }) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { ", " })?;
            match key {
                Key::Label(key) => f.write_str(key)?,
                Key::Namespace => f.write_str("namespace")?,
                Key::NamespaceLabel(key) => write!(f, "namespace's {key}")?,
                Key::ServiceAccount => f.write_str("service account")?,
            }
            match test {
                Test::In(values) => write!(f, "={}", values.join("|"))?,
                Test::NotIn(values) => write!(f, "!={}", values.join("|"))?,
                Test::Exists => f.write_str(" present")?,
                Test::DoesNotExist => f.write_str(" absent")?,
            }
        }
        Ok(())
    }
}

fn test(expression: &LabelSelectorRequirement) -> Result<Test, String> {
    let mut values = expression.values.clone().unwrap_or_default();
    values.sort();
    values.dedup();
    let operator = expression.operator.as_str();
    match (operator, values.is_empty()) {
        ("In", false) => Ok(Test::In(values)),
        ("NotIn", false) => Ok(Test::NotIn(values)),
        ("Exists", true) => Ok(Test::Exists),
        ("DoesNotExist", true) => Ok(Test::DoesNotExist),
        ("In" | "NotIn", true) => Err(format!("operator {operator} needs values")),
        ("Exists" | "DoesNotExist", false) => Err(format!("operator {operator} takes no values")),
        _ => Err(format!("operator {} is unknown", quoted(operator))),
    }
}

/// A key without Cilium's note of where the label is from; only Kubernetes has labels here.
fn cilium_key(name: &str) -> Result<Key, String> {
    let key = match name.split_once(':') {
        Some(("k8s" | "any", key)) => key,
        Some(_) => return Err(format!("label {} is not a pod's own", quoted(name))),
        None => name,
    };
    if key == NAMESPACE {
        return Ok(Key::Namespace);
    }
    if key == SERVICE_ACCOUNT {
        return Ok(Key::ServiceAccount);
    }
    if let Some(label) = key.strip_prefix(NAMESPACE_LABELS).filter(|label| !label.is_empty()) {
        return Ok(Key::NamespaceLabel(label.into()));
    }
    if key.starts_with("io.cilium.") || key.starts_with("io.kubernetes.pod.") {
        return Err(format!("label {} is not known", quoted(name)));
    }
    Ok(Key::Label(key.into()))
}

/// What a selector of a `reserved:` label means, if it is one; `Err` says what is wrong.
pub(crate) fn reserved(selector: &LabelSelector) -> Result<Option<Option<Entity>>, String> {
    const RESERVED: &str = "reserved:";
    let keys = selector.match_labels.iter().flatten().map(|(key, _)| key.as_str());
    let expressions = selector.match_expressions.iter().flatten();
    let mut all = keys.chain(expressions.clone().map(|one| one.key.as_str()));
    let Some(name) = all.clone().find_map(|key| key.strip_prefix(RESERVED)) else { return Ok(None) };
    let alone = all.next().is_some() && all.next().is_none();
    if !alone || expressions.clone().any(|one| one.operator != "Exists") {
        return Err(format!("{} must be a selector's only label", quoted(&format!("{RESERVED}{name}"))));
    }
    Entity::named(name).map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn selector(json: &str) -> Result<Selector, String> {
        Selector::cilium(&serde_json::from_str(json).unwrap())
    }

    fn web() -> Labels {
        Labels {
            namespace: "demo".into(),
            own: [("app", "web"), ("tier", "front")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            service_account: "robot".into(),
        }
    }

    fn selects(json: &str) -> bool {
        let namespace = [("team".to_owned(), "a".to_owned())].into();
        let selector = selector(json).unwrap();
        let selects = selector.selects(&web(), &namespace);
        let anchors: Vec<_> = Anchor::of(&web()).collect();
        assert!(!selects || selector.anchors().iter().any(|one| anchors.contains(one)), "{json}");
        selects
    }

    #[test]
    fn every_requirement_must_be_met() {
        let expression = |body: &str| selects(&format!(r#"{{"matchExpressions": [{{{body}}}]}}"#));
        let label =
            |key: &str, value: &str| selects(&format!(r#"{{"matchLabels": {{"{key}": "{value}"}}}}"#));
        assert!(selects("{}"));
        assert!(selects(r#"{"matchLabels": {"app": "web", "k8s:tier": "front"}}"#));
        assert!(!selects(r#"{"matchLabels": {"app": "web", "any:tier": "back"}}"#));
        assert!(label("k8s:io.kubernetes.pod.namespace", "demo") && !label(NAMESPACE, "other"));
        assert!(label("io.cilium.k8s.namespace.labels.team", "a"));
        assert!(!label("k8s:io.cilium.k8s.namespace.labels.team", "b"));
        assert!(label(SERVICE_ACCOUNT, "robot") && !label(SERVICE_ACCOUNT, "default"));
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
            r#"{"matchLabels": {"io.cilium.k8s.policy.cluster": "x"}}"#,
            r#"{"matchExpressions": [{"key": "a", "operator": "In"}]}"#,
            r#"{"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}"#,
            r#"{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["b"]}]}"#,
        ] {
            assert!(selector(body).is_err(), "{body}");
        }
    }

    #[test]
    fn a_reserved_label_stands_for_an_entity_and_alone() {
        let read = |json: &str| reserved(&serde_json::from_str(json).unwrap());
        assert_eq!(read(r#"{"matchLabels": {"app": "web"}}"#), Ok(None));
        assert_eq!(read(r#"{"matchLabels": {"reserved:host": ""}}"#), Ok(Some(Some(Entity::Host))));
        assert_eq!(read(r#"{"matchLabels": {"reserved:health": ""}}"#), Ok(Some(None)));
        assert!(read(r#"{"matchLabels": {"reserved:host": "", "app": "web"}}"#).is_err());
        assert!(read(r#"{"matchLabels": {"reserved:moon": ""}}"#).is_err());
    }

    #[test]
    fn the_same_requirements_are_the_same_selector() {
        let one = selector(r#"{"matchLabels": {"a": "1", "b": "2"}}"#).unwrap();
        let two = selector(
            r#"{"matchExpressions": [{"key": "any:b", "operator": "In", "values": ["2"]}], "matchLabels": {"a": "1"}}"#,
        );
        assert_eq!(Ok(one), two);
    }
}

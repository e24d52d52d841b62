//! A finding as a Kubernetes Event, where `kubectl describe` shows it.

use super::kind::Kind;
use crate::source::finding::{Finding, Severity};
use serde_json::{Value, json};

/// Bytes of a message that Kubernetes takes.
const MAX_MESSAGE: usize = 1024;

/// The object that a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) kind: &'static Kind,
    /// Empty where the kind has none.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        (self.group, self.kind) == (other.group, other.kind)
    }
}

impl Eq for Kind {}

/// What a finding is about, if it is one that a user should know: not only worth knowing, and about an object.
pub(super) fn about(finding: &Finding) -> Option<About> {
    if finding.severity == Severity::Info {
        return None;
    }
    let (kind, place) = finding.object.split_once(' ')?;
    let kind = Kind::named(kind)?;
    let (namespace, name) = match place.split_once('/') {
        Some((namespace, name)) if kind.is_namespaced => (namespace, name),
        Some((_, name)) => ("", name),
        None => ("", place),
    };
    Some(About { kind, namespace: namespace.to_owned(), name: name.to_owned() })
}

/// The Event. Its name is the same for the same words about the same object (its UID included), so that it
/// is made once, whoever makes it.
pub(super) fn event(finding: &Finding, about: &About, object: &Value, node: &str, now: &str) -> Value {
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
    let fix = if finding.fix.is_empty() { String::new() } else { format!(" ({})", finding.fix) };
    let message = cut(format!("{}{fix}", finding.text));
    let sum = crc32fast::hash(format!("{uid} {message}").as_bytes());
    let served = object.get("apiVersion").and_then(Value::as_str);
    let version = served.map_or_else(|| about.kind.api_version(), str::to_owned);
    let stem: String = about.name.chars().take(230).collect();
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{}.weir-{sum:08x}", stem.trim_end_matches(['-', '.'])), "namespace": namespace},
        "involvedObject": {
            "apiVersion": version, "kind": about.kind.kind,
            "namespace": about.namespace, "name": about.name, "uid": uid,
            "resourceVersion": object.pointer("/metadata/resourceVersion"),
        },
        "type": "Warning",
        "reason": if finding.severity == Severity::Error { "LeftOut" } else { "Doubtful" },
        "message": message,
        "source": {"component": "weir", "host": node},
        "reportingComponent": "weir.dev/agent", "reportingInstance": node,
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    })
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE - 3).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push_str("...");
    }
    message
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn finding(severity: Severity, object: &str, text: &str) -> Finding {
        Finding {
            severity,
            file: "kubernetes".into(),
            line: 0,
            object: object.into(),
            text: text.into(),
            fix: "stop".into(),
        }
    }

    fn place(object: &str) -> Option<(&'static str, String, String)> {
        let about = about(&finding(Severity::Error, object, ""))?;
        Some((about.kind.kind, about.namespace, about.name))
    }

    #[test]
    fn a_finding_names_the_object_it_is_about() {
        assert_eq!(place("Service n/a"), Some(("Service", "n".into(), "a".into())));
        assert_eq!(place("Namespace a"), Some(("Namespace", String::new(), "a".into())));
        assert_eq!(place("GatewayClass default/a"), Some(("GatewayClass", String::new(), "a".into())));
        assert_eq!(place("Secret n/a"), None);
        assert_eq!(place(""), None);
        assert_eq!(about(&finding(Severity::Info, "Service n/a", "")), None);
    }

    #[test]
    fn the_same_words_about_the_same_object_are_the_same_event() {
        let of = |text: &str, uid: &str| {
            let finding = finding(Severity::Warning, "Service n/a", text);
            let object = json!({"metadata": {"uid": uid}});
            event(&finding, &about(&finding).unwrap(), &object, "node1", "t")
        };
        let name = |event: &Value| event.pointer("/metadata/name").unwrap().as_str().unwrap().to_owned();
        let one = of("x", "u");
        assert_eq!(name(&one), name(&of("x", "u")));
        assert_ne!(name(&one), name(&of("y", "u")));
        assert_ne!(name(&one), name(&of("x", "v")));
        assert_eq!(one.pointer("/message").unwrap(), "x (stop)");
        let long = of(&"ä".repeat(2000), "u");
        assert!(long.pointer("/message").unwrap().as_str().unwrap().len() <= MAX_MESSAGE);
    }
}

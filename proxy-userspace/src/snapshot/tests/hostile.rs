//! `wire.md` C9: whatever stands in annotations is text, and costs nobody else anything.

use super::*;
use crate::{
    policy::access::{Transport, Verdict},
    source::objects_and_findings,
};

/// The snapshot, and every finding as it is printed.
fn read(text: &str) -> (Snapshot, Vec<String>) {
    let (objects, mut findings) = objects_and_findings(text);
    let (snapshot, more) = build(&objects, &options(), 1);
    findings.extend(more);
    (snapshot, findings.iter().map(ToString::to_string).collect())
}

/// Text that would be another line of a log, a command, a template, or all of memory.
fn hostile() -> Vec<String> {
    [
        "\r\nerror forged: line",
        "$(id)",
        "`id`",
        "{{ . }} } location / {",
        "'; --",
        "\u{0}\u{1b}[2J",
        "\u{202e}evil",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain(["y".repeat(256 << 10)])
    .collect()
}

/// An object's text with an annotation.
fn annotated(text: &str, name: &str, key: &str, value: &str) -> String {
    let annotation =
        format!("{{name: {name}, annotations: {{{}: {}}}", serde_json::json!(key), serde_json::json!(value));
    let annotated = text.replacen(&format!("{{name: {name}"), &annotation, 1);
    assert_ne!(annotated, text);
    annotated
}

fn one_short_line(finding: &str) {
    assert!(finding.chars().count() < 1000, "{} characters", finding.chars().count());
    assert!(!finding.chars().any(char::is_control), "{finding:?}");
}

#[test]
fn c9_a_hostile_annotation_of_a_service_is_a_mistake_of_that_service_alone() {
    let other = service("other", "clusterIP: 10.96.0.2", HTTP);
    let odd = service("odd", "clusterIP: 10.96.0.3", HTTP);
    let (plain, before) = read(&format!("{other}{odd}"));
    for value in hostile() {
        for (key, mistakes) in [
            ("weir.dev/timeouts", 1),
            ("weir.dev/acceleration", 1),
            ("weir.dev/admission", 1),
            ("weir.dev/x", 1),
            ("service.beta.kubernetes.io/anything", 0),
        ] {
            let (snapshot, findings) = read(&format!("{other}{}", annotated(&odd, "odd", key, &value)));
            assert_eq!(findings.len(), before.len() + mistakes, "{key}: {findings:?}");
            findings.iter().for_each(|one| one_short_line(one));
            let named = findings.iter().filter(|one| one.contains(key)).collect::<Vec<_>>();
            assert_eq!(named.len(), mistakes);
            assert!(named.iter().all(|one| one.contains("Service default/odd")), "{named:?}");
            assert_eq!(snapshot.clusters, plain.clusters, "{key}");
        }
    }
}

#[test]
fn c9_a_policy_whose_mode_cannot_be_read_is_enforced_and_an_annotation_of_others_is_nothing() {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: web}}\n\
               status: {phase: Running, podIP: 10.244.1.11, podIPs: [{ip: 10.244.1.11}]}\n";
    let web = hello() + pod;
    let policy = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\n\
                  spec: {podSelector: {matchLabels: {app: web}}}\n";
    let denies = |text: &str| {
        let (snapshot, findings) = read(&format!("{web}{text}"));
        let access = &snapshot.access;
        let to = access.party_of(access.pod("default/p").unwrap(), Some("10.244.1.11".parse().unwrap()));
        let from = access.party_at("192.0.2.1".parse().unwrap());
        let decided = access.decide(&from, &to, Transport::Tcp, 8080);
        (matches!(decided, Verdict::Deny { .. }), findings)
    };
    let (denied, before) = denies(policy);
    assert!(denied && !denies("").0);
    for value in hostile() {
        for (key, mistakes) in [("weir.dev/policy-mode", 1), ("policy.example/x", 0)] {
            let (denied, findings) = denies(&annotated(policy, "deny", key, &value));
            assert!(denied, "{key}");
            assert_eq!(findings.len(), before.len() + mistakes, "{findings:?}");
            findings.iter().for_each(|one| one_short_line(one));
        }
    }
}

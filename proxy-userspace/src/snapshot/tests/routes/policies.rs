//! What is said of BackendTLSPolicies, and at which Gateways.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::testing::certificates::{Authority, config_map};

/// A policy for these targets; flow YAML.
fn policy(name: &str, created: u16, targets: &str, refs: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\
         metadata: {{name: {name}, generation: 4, creationTimestamp: '{created}-01-01T00:00:00Z'}}\n\
         spec: {{targetRefs: [{targets}], validation: {{hostname: a.test, caCertificateRefs: [{refs}]}}}}\n"
    )
}

fn to(service: &str) -> String {
    format!("{{group: '', kind: Service, name: {service}}}")
}

const CA: &str = "{group: '', kind: ConfigMap, name: ca}";
const SECRET: &str = "{group: '', kind: Secret, name: s}";
const GONE: &str = "{group: '', kind: ConfigMap, name: gone}";
const GOOD: [&str; 2] = ["Accepted=true Accepted", "ResolvedRefs=true ResolvedRefs"];

/// A Gateway with a route to `web`, its authorities, and these policies.
fn with(policies: &str) -> String {
    let ca = config_map("ca", Authority::new().pem());
    let leads = route("r", &format!("rules: [{}]", rule("{path: {value: /}}", "web")));
    format!("{GATEWAY}{leads}{}{ca}{policies}", services(&["web"]))
}

/// What is said of a policy, with each Gateway's name before it.
fn of(text: &str, name: &str) -> Vec<String> {
    said(&findings_of(text).0, "BackendTLSPolicy", name)
}

#[test]
fn a_policy_is_told_what_became_of_its_references() {
    let web = to("web");
    for (refs, accepted, resolved) in [
        (CA.to_owned(), "true Accepted", "true ResolvedRefs"),
        (format!("{CA}, {GONE}"), "true Accepted", "false InvalidCACertificateRef"),
        (GONE.to_owned(), "false NoValidCACertificate", "false InvalidCACertificateRef"),
        (SECRET.to_owned(), "false NoValidCACertificate", "false InvalidKind"),
    ] {
        let expected =
            ["edge".to_owned(), format!("Accepted={accepted}"), format!("ResolvedRefs={resolved}")];
        assert_eq!(of(&with(&policy("p", 2020, &web, &refs)), "p"), expected, "{refs}");
    }
    let invalid = with(&policy("p", 2020, &web, CA).replace("hostname: a.test", "hostname: 10.0.0.1"));
    assert_eq!(of(&invalid, "p"), ["edge", "Accepted=false Invalid"]);
    let unknown = with(&policy("p", 2020, &web, CA).replace("hostname:", "sni: b, hostname:"));
    assert_eq!(of(&unknown, "p"), ["edge", "Accepted=false Invalid"]);
}

#[test]
fn of_policies_for_the_same_target_the_older_one_is_accepted_and_the_others_are_in_conflict() {
    let (web, port) = (to("web"), "{group: '', kind: Service, name: web, sectionName: http}");
    let named = with("").replace("{port: 80}", "{name: http, port: 80}");
    let conflict = ["edge", "Accepted=false Conflicted", "ResolvedRefs=true ResolvedRefs"];
    let text = named
        + &policy("young", 2022, &web, CA)
        + &policy("old", 2020, &web, CA)
        + &policy("by-port", 2023, port, CA)
        + &policy("younger-by-port", 2024, port, CA);
    assert_eq!(of(&text, "old")[1..], GOOD);
    assert_eq!(of(&text, "young"), conflict);
    // A port of it is another target.
    assert_eq!(of(&text, "by-port")[1..], GOOD);
    assert_eq!(of(&text, "younger-by-port"), conflict);
    let (_, findings) = findings_of(&text);
    let told =
        "targetRefs[0]: the older policy default/by-port holds for port \"http\" of Service default/web";
    assert!(findings.iter().any(|one| one.contains(told)), "{findings:?}");
}

#[test]
fn a_policy_is_told_at_each_gateway_that_leads_to_a_target_and_at_no_other() {
    let other = GATEWAY.replace("name: edge", "name: other").replace("port: 80", "port: 81");
    let leads = |filter: &str| {
        let text = format!("rules: [{{filters: [{filter}], backendRefs: [{{name: api, port: 80}}]}}]");
        route("second", &text).replace("name: edge", "name: other")
    };
    let text = with(&policy("p", 2020, &to("web"), CA)) + &other + &services(&["api"]);
    assert_eq!(of(&(text.clone() + &leads("")), "p")[0], "edge");
    assert_eq!(of(&(text.clone() + &leads("")), "p").len(), 3);
    let copied = leads("{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}}}");
    let twice = of(&(text + &copied), "p");
    assert_eq!((&*twice[0], &*twice[3], twice.len()), ("edge", "other", 6));
    // Nobody leads there: there is nowhere to say it.
    let alone = with(&policy("p", 2020, &to("idle"), CA)) + &services(&["idle"]);
    assert_eq!(of(&alone, "p"), Vec::<String>::new());
    let gone = with(&policy("p", 2020, &to("web"), CA)).replacen(&services(&["web"]), "", 1);
    assert_eq!(of(&gone, "p")[..2], ["edge", "Accepted=false TargetNotFound"]);
}

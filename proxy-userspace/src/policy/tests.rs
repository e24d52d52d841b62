//! The authoritative decision.
#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use http::{HeaderValue, Method, Uri, Version};

fn http(method: &str, path: &str, host: &str) -> Allows {
    let pattern = |text: &str| (!text.is_empty()).then(|| Arc::new(Pattern::new(text).unwrap()));
    Allows::Http { method: pattern(method), path: pattern(path), host: pattern(host), fields: Vec::new() }
}

fn policy(rules: Vec<Allows>) -> EndpointPolicy {
    let register = Register::default();
    let rule = |(n, allows)| Arc::new(Rule::new(format!("demo/p#{n}").into(), allows, &register));
    EndpointPolicy::new("demo/p".into(), rules.into_iter().enumerate().map(rule).collect(), &register)
}

/// The name of the rule that allows it, `denied`, or why it is ambiguous.
fn decided(policy: &EndpointPolicy, method: &str, target: &str, host: &str) -> String {
    let (method, uri) = (Method::from_bytes(method.as_bytes()).unwrap(), target.parse::<Uri>().unwrap());
    let host = HeaderValue::from_str(host).unwrap();
    let fields = http::HeaderMap::new();
    let asked = Asked {
        method: &method,
        uri: &uri,
        version: Version::HTTP_11,
        host: Some(&host),
        hosts: 1,
        fields: &fields,
    };
    match policy.decide(&asked) {
        Decision::Allow(rule) => rule.name.to_string(),
        Decision::Deny => "denied".to_owned(),
        Decision::Ambiguous(why) => why.to_owned(),
    }
}

#[test]
fn a_request_is_allowed_by_the_first_rule_that_matches_all_it_names() {
    let policy = policy(vec![
        http("GET", "/a(/.*)?", ""),
        http("GET|HEAD", "/a/b", r"web\.demo"),
        http("", "", "admin:8080"),
    ]);
    let decided = |method, target, host| decided(&policy, method, target, host);
    assert_eq!(decided("GET", "/a", "web"), "demo/p#0");
    assert_eq!(decided("GET", "/a/b", "web.demo"), "demo/p#0");
    assert_eq!(decided("HEAD", "/a/b", "WEB.demo:8080"), "demo/p#1");
    assert_eq!(decided("HEAD", "/a/b", "web"), "denied");
    assert_eq!(decided("get", "/a", "web"), "denied", "methods are exact");
    assert_eq!(decided("GET", "/ab", "web"), "denied");
    assert_eq!(decided("GET", "/a?x", "web"), "denied", "the query is part of what is matched");
    assert_eq!(decided("DELETE", "/x", "admin:8080"), "demo/p#2", "a host with its port");
    assert_eq!(decided("DELETE", "/x", "admin"), "denied");
}

#[test]
fn a_rule_without_fields_allows_every_request_that_is_clear() {
    let policy = policy(vec![http("", "", "")]);
    assert_eq!(decided(&policy, "BREW", "/pot?x=1", "web"), "demo/p#0");
    assert_eq!(decided(&policy, "GET", "/a/../b", "web"), "the path has a dot segment");
    assert!(policy.opens_port().is_none());
}

#[test]
fn i10_an_ambiguous_target_is_neither_allowed_nor_denied() {
    let policy = policy(vec![http("", "/a/.*", "")]);
    assert_eq!(
        decided(&policy, "GET", "/a/%2e%2e/admin", "web"),
        "the path has a percent-encoding of a character that needs none"
    );
    assert_eq!(decided(&policy, "GET", "/a/..;/admin", "web"), "the path has a dot segment");
    assert_eq!(decided(&policy, "GET", "/a//b", "web"), "the path has an empty segment");
}

#[test]
fn a_rule_for_the_port_allows_what_http_rules_would_not() {
    let policy = policy(vec![Allows::Port, http("GET", "/a", "")]);
    assert_eq!(decided(&policy, "PUT", "/b/../c", "web"), "demo/p#0");
    assert!(policy.opens_port().is_some());
}

#[test]
fn without_rules_everything_is_denied() {
    assert_eq!(decided(&policy(Vec::new()), "GET", "/", "web"), "denied");
}

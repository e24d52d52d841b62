//! Compiled nodes by an LPM trie of our own, against the authoritative decision.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod differential;

use super::*;
use crate::policy::{Asked, Decision, Eligibility, EndpointPolicy, Register, Subject};
use http::{HeaderValue, Method, Uri, Version};
use proxy_common::{
    head,
    policy::{HostKey, Verdict, decide, fill_host, host_bits, target_bits},
};
use std::{collections::HashMap, sync::Arc, time::Instant};

/// The kernel half's two tries, walked bit length by bit length.
#[derive(Default)]
struct Tries {
    paths: HashMap<(u32, Vec<u8>), PathNode>,
    hosts: HashMap<(u32, Vec<u8>), u64>,
}

/// The first `bits` bits, which end with a byte, as a key.
fn cut(bytes: &[u8], bits: u32) -> (u32, Vec<u8>) {
    (bits, bytes[..bits as usize / 8].to_vec())
}

impl Tries {
    fn of(policy: &EndpointPolicy) -> Self {
        let mut tries = Self::default();
        for entry in policy.compiled.entries() {
            let (bits, key) = entry.key(policy.compiled.id);
            let bytes = [&key.policy.to_ne_bytes()[..], &key.target].concat();
            assert!(tries.paths.insert(cut(&bytes, bits), entry.node()).is_none(), "one node a prefix");
        }
        for (bits, key, value) in crate::policy::host_table(policy.compiled.hosts()) {
            tries.hosts.insert(cut(&key.host, bits), value);
        }
        tries
    }

    fn longest<V: Copy>(trie: &HashMap<(u32, Vec<u8>), V>, bytes: &[u8], bits: u32) -> Option<V> {
        (0..=bits).rev().step_by(8).find_map(|bits| trie.get(&cut(bytes, bits)).copied())
    }

    /// As `proxy-ebpf/src/verdict.rs` decides about a message.
    fn verdict(&self, policy: u32, message: &[u8]) -> Verdict {
        let Ok(request) = head::scan_request(message) else { return Verdict::Unsure };
        let span = |span: head::Span| &message[span.start as usize..span.end as usize];
        let target = span(request.target);
        if target.len() >= TARGET_MAX {
            return Verdict::Unsure;
        }
        let mut key = policy.to_ne_bytes().to_vec();
        key.extend_from_slice(target);
        key.resize(4 + TARGET_MAX, 0);
        let node = Self::longest(&self.paths, &key, target_bits(request.target.len()));
        let Some(node) = node else { return Verdict::Unsure };
        let mut hosts = 0;
        if node.asks_for_host() {
            let host = span(request.host);
            if host.len() >= HOST_MAX {
                return Verdict::Unsure;
            }
            let (mut padded, mut key) = ([0; HOST_MAX], HostKey { host: [0xff; HOST_MAX] });
            padded[..host.len()].copy_from_slice(host);
            fill_host(&mut key, &padded, request.host.len());
            hosts = Self::longest(&self.hosts, &key.host, host_bits(request.host.len())).unwrap_or(0);
        }
        decide(Some(&node), request.method, hosts)
    }
}

fn policy(rules: &[[&str; 3]]) -> Arc<EndpointPolicy> {
    crate::testing::policy(rules)
}

fn eligibility(rules: &[[&str; 3]]) -> Eligibility {
    policy(rules).eligibility.clone()
}

/// What the kernel half says: `allow N` by the rule's id, `deny` or `unsure`.
fn kernel(policy: &EndpointPolicy, method: &str, target: &str, host: &str) -> String {
    let message = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    match Tries::of(policy).verdict(policy.compiled.id, message.as_bytes()) {
        Verdict::Allow { rule } => {
            let rule = policy.rules.iter().find(|one| one.id == rule).unwrap();
            format!("allow {}", rule.name.rsplit("http").next().unwrap())
        }
        Verdict::Deny => "deny".to_owned(),
        Verdict::Unsure => "unsure".to_owned(),
    }
}

#[test]
fn a_node_holds_what_shorter_patterns_allow() {
    let policy = policy(&[["GET", "/a(/.*)?", ""], ["PUT|POST", "/a/b", ""], ["HEAD", ".*", r"web\.demo"]]);
    let kernel = |method, target, host| kernel(&policy, method, target, host);
    assert_eq!(policy.eligibility, Eligibility::Yes);
    assert_eq!(kernel("GET", "/a", "x"), "allow 0");
    assert_eq!(kernel("GET", "/a/b", "x"), "allow 0");
    assert_eq!(kernel("PUT", "/a/b", "x"), "allow 1");
    assert_eq!(kernel("PUT", "/a/b/c", "x"), "deny");
    assert_eq!(kernel("GET", "/ab", "x"), "deny");
    assert_eq!(kernel("GET", "/a?x", "x"), "deny");
    assert_eq!(kernel("HEAD", "/a/b", "Web.Demo:80"), "allow 2");
    assert_eq!(kernel("HEAD", "/zzz", "web.demo"), "allow 2");
    assert_eq!(kernel("HEAD", "/zzz", "web.demo.x"), "deny");
    assert_eq!(kernel("BREW", "/a", "x"), "unsure");
    assert_eq!(kernel("GET", "/a/../b", "x"), "unsure");
}

#[test]
fn hosts_and_their_suffixes_are_told_apart() {
    let policy = policy(&[["GET", "", r".*\.demo"], ["PUT", "", r"a\.demo|demo"], ["POST", "", r".*"]]);
    let kernel = |method, host| kernel(&policy, method, "/", host);
    assert_eq!(policy.eligibility, Eligibility::Yes);
    for (method, host, expected) in [
        ("GET", "a.demo", "allow 0"),
        ("GET", "b.a.demo", "allow 0"),
        ("GET", "demo", "deny"),
        ("GET", "xdemo", "deny"),
        ("PUT", "a.demo", "allow 1"),
        ("PUT", "demo", "allow 1"),
        ("PUT", "b.demo", "deny"),
        ("POST", "anything", "allow 2"),
    ] {
        assert_eq!(kernel(method, host), expected, "{method} {host}");
    }
}

#[test]
fn what_the_kernel_half_cannot_match_is_unsure_only_where_it_might_match() {
    let policy = policy(&[["GET", "/a", ""], ["GET", "/b/[0-9]+", ""], ["GET", "/c", "[^.]*"]]);
    let kernel = |target| kernel(&policy, "GET", target, "x");
    assert_eq!(kernel("/a"), "allow 0");
    assert_eq!(kernel("/b/1"), "unsure");
    assert_eq!(kernel("/b"), "deny");
    assert_eq!(kernel("/c"), "unsure");
    assert_eq!(kernel("/d"), "deny");
    let why = "rule demo/p#ingress0.ports0.http1: path is a regular expression";
    assert_eq!(policy.eligibility, Eligibility::Partly(why.to_owned()));
    assert_eq!(policy.eligibility.to_string(), format!("partly, because {why}"));
}

#[test]
fn eligibility_says_why_not() {
    assert_eq!(eligibility(&[]), Eligibility::Yes, "everything is denied");
    assert_eq!(eligibility(&[["", "", ""]]), Eligibility::Yes);
    assert_eq!(eligibility(&[["G.*", "/a", ""]]), Eligibility::Yes, "methods are few");
    let why = |what: &str| Eligibility::No(format!("rule demo/p#ingress0.ports0.http0: {what}"));
    assert_eq!(eligibility(&[["", "/a+", ""]]), why("path is a regular expression"));
    assert_eq!(eligibility(&[["", "", "[a-z]+"]]), why("host is a regular expression"));
    assert_eq!(
        eligibility(&[["", "/x[0-9]*", ""], ["", "", ""]]).to_string(),
        "partly, because rule \
        demo/p#ingress0.ports0.http0: path is a regular expression"
    );
    let hosts: Vec<_> = (0..70).map(|n| format!("h{n}")).collect();
    let rules: Vec<_> = hosts.iter().map(|host| ["", "", host.as_str()]).collect();
    let Eligibility::Partly(why) = eligibility(&rules) else { panic!() };
    assert!(why.ends_with("http64: all bits for host patterns are taken"), "{why}");
}

#[test]
fn more_rules_than_a_node_holds_are_merged_or_unsure() {
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    let merged: Vec<_> = methods.iter().map(|method| [*method, "/a", ""]).collect();
    assert_eq!(eligibility(&merged), Eligibility::Yes);
    let merged = policy(&merged);
    assert!(methods.iter().all(|method| kernel(&merged, method, "/a", "x") == "allow 0"));
    let hosts: Vec<_> = methods
        .iter()
        .enumerate()
        .map(|(n, method)| [*method, "/a", ["a", "b", "c", "d", "e", "f", "g"][n]])
        .collect();
    let many = policy(&hosts);
    assert_eq!(kernel(&many, "GET", "/a", "a"), "allow 0");
    assert_eq!(kernel(&many, "PATCH", "/a", "g"), "unsure");
    assert_eq!(kernel(&many, "GET", "/b", "a"), "deny");
    let alike: Vec<_> = hosts.iter().map(|[_, path, host]| ["GET", *path, *host]).collect();
    let alike = policy(&alike);
    assert_eq!(alike.eligibility, Eligibility::Yes);
    assert_eq!(
        (kernel(&alike, "GET", "/a", "g"), kernel(&alike, "GET", "/a", "h")),
        ("allow 0".into(), "deny".into())
    );
}

#[test]
fn patterns_longer_than_a_key_leave_their_targets_to_the_agent() {
    let (fits, long) = ("x".repeat(TARGET_MAX - 2), "x".repeat(TARGET_MAX));
    let policy = policy(&[
        ["", &format!("/{fits}"), ""],
        ["", &format!("/{long}.*"), ""],
        ["PUT", "", &"h".repeat(HOST_MAX)],
    ]);
    let kernel = |method, target: &str, host| kernel(&policy, method, target, host);
    assert_eq!(kernel("GET", &format!("/{fits}"), "x"), "allow 0");
    assert_eq!(kernel("GET", &format!("/{long}"), "x"), "unsure");
    assert_eq!(kernel("PUT", "/", "x"), "deny", "a host that no key holds is no wildcard");
}

#[test]
fn the_same_content_has_the_same_id_for_as_long_as_it_is_held() {
    let register = Register::default();
    let make = |path: &str| {
        let allows = Allows::Http {
            method: None,
            path: Some(register.pattern(path).unwrap()),
            host: None,
            fields: Vec::new(),
        };
        let rule = Arc::new(Rule::new("demo/p#0".into(), allows, &register));
        EndpointPolicy::new("demo/p".into(), vec![rule], &register)
    };
    let (one, again, other) = (make("/a"), make("/[a]"), make("/b"));
    assert!(Arc::ptr_eq(&one.compiled, &again.compiled));
    assert_eq!(one.rules[0].id, other.rules[0].id, "a rule's id is its name's");
    assert!(one.compiled.id != other.compiled.id && one.compiled.id != 0);
    let id = one.compiled.id;
    register.sweep();
    assert_eq!(make("/a").compiled.id, id);
    drop((one, again));
    register.sweep();
    assert_ne!(make("/a").compiled.id, id, "an id is not used for something else, nor twice");
}

/// With `--nocapture` it prints what it costs.
#[test]
fn a_thousand_rules_compile_to_a_node_or_two_each() {
    let paths: Vec<_> = (0..1000).map(|n| format!("/service/{n}(/.*)?")).collect();
    let rules: Vec<_> = paths.iter().map(|path| ["GET", path.as_str(), ""]).collect();
    let policy = policy(&rules);
    let shapes: Vec<_> = policy.rules.iter().map(|rule| (&**rule, &rule.shape)).collect();
    let begun = Instant::now();
    let (entries, why) = compile(&shapes, &mut |_| None);
    eprintln!("1000 rules: {} nodes in {:?}", entries.len(), begun.elapsed());
    assert_eq!((entries.len(), why), (2001, None));
    assert!(entries.iter().all(|entry| entry.candidates.len() <= 1));
}

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from((u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)) * bound as u128) >> 64)
            .unwrap()
    }

    fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

//! A cluster of any size as manifests: 100 Services a namespace with ten endpoints each, one pod a Service
//! and one NetworkPolicy for every two.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// Services of one namespace.
const NAMESPACE: u32 = 100;
/// Endpoints of one Service.
pub(super) const ENDPOINTS: u32 = 10;
/// First ClusterIP, first pod's and first other endpoint's address.
const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);
const PODS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);
const OTHERS: Ipv4Addr = Ipv4Addr::new(10, 160, 0, 1);

/// Of one kind, the n-th object, if it is there.
type Nth = fn(u32) -> Option<Value>;

/// The kinds, as the files are named.
const KINDS: [(&str, Nth); 4] = [
    ("services", |n| Some(service(n))),
    ("slices", |n| Some(slice(n))),
    ("pods", |n| Some(pod(n))),
    ("policies", |n| n.is_multiple_of(2).then(|| policy(n))),
];

/// Every object of a cluster of so many Services.
pub(super) fn objects(services: u32) -> impl Iterator<Item = Value> {
    KINDS.into_iter().flat_map(move |(_, make)| (0..services).filter_map(make))
}

/// Writes them, a file a namespace and kind.
pub(super) fn write(services: u32, directory: &Path) -> Result<()> {
    for namespace in 0..services.div_ceil(NAMESPACE) {
        let numbers = NAMESPACE * namespace..services.min(NAMESPACE * (namespace + 1));
        for (kind, make) in KINDS {
            let mut text = String::new();
            for object in numbers.clone().filter_map(make) {
                writeln!(text, "---\n{object}")?;
            }
            put(&directory.join(format!("{kind}-{namespace:03}.yaml")), &text)?;
        }
    }
    Ok(())
}

/// Replaces a file whole, as a careful writer does.
pub(super) fn put(path: &Path, text: &str) -> Result<()> {
    let aside: PathBuf = path.with_extension("tmp");
    fs::write(&aside, text).with_context(|| aside.display().to_string())?;
    fs::rename(&aside, path).with_context(|| path.display().to_string())
}

fn address(first: Ipv4Addr, index: u32) -> String {
    Ipv4Addr::from_bits(first.to_bits() + index).to_string()
}

fn namespace(n: u32) -> String {
    format!("ns{:03}", n / NAMESPACE)
}

fn service(n: u32) -> Value {
    let port = if n.is_multiple_of(2) { 8080 } else { 9090 };
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": format!("s{n}"), "namespace": namespace(n) },
        "spec": {
            "selector": { "app": format!("a{n}") },
            "clusterIP": address(SERVICES, n),
            "ports": [{ "name": "main", "port": port, "targetPort": 8080 }],
        },
    })
}

fn slice(n: u32) -> Value {
    let endpoint = |m: u32| {
        let address = match m {
            0 => address(PODS, n),
            _ => address(OTHERS, ENDPOINTS * n + m),
        };
        json!({
            "addresses": [address],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": format!("node-{}", (n + m) % 100),
            "targetRef": { "kind": "Pod", "name": format!("p{n}-{m}"), "namespace": namespace(n) },
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("s{n}-x"), "namespace": namespace(n),
            "labels": { "kubernetes.io/service-name": format!("s{n}") },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "main", "port": 8080, "protocol": "TCP" }],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

fn pod(n: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("p{n}-0"), "namespace": namespace(n), "uid": format!("uid-{n}"),
            "labels": { "app": format!("a{n}"), "tier": format!("t{}", n % 7) },
        },
        "spec": {
            "nodeName": format!("node-{}", n % 100),
            "containers": [{ "name": "main", "ports": [{ "name": "web", "containerPort": 8080 }] }],
        },
        "status": { "phase": "Running", "podIP": address(PODS, n), "podIPs": [{ "ip": address(PODS, n) }] },
    })
}

/// Who may call one Service's pods: another's, a tier, and a network.
fn policy(n: u32) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": format!("np{n}"), "namespace": namespace(n) },
        "spec": {
            "podSelector": { "matchLabels": { "app": format!("a{n}") } },
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [
                    { "podSelector": { "matchLabels": { "app": format!("a{}", n + 1) } } },
                    { "podSelector": { "matchLabels": { "tier": format!("t{}", n % 7) } } },
                    { "ipBlock": { "cidr": format!("192.0.{}.0/24", n % 256) } },
                ],
                "ports": [{ "port": 8080, "protocol": "TCP" }],
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn a_cluster_has_what_it_says_and_no_address_twice() {
        let all: Vec<_> = objects(1000).collect();
        let count = |kind: &str| all.iter().filter(|object| object["kind"] == kind).count();
        assert_eq!(["Service", "EndpointSlice", "Pod", "NetworkPolicy"].map(count), [1000, 1000, 1000, 500]);
        let slices = all.iter().filter_map(|object| object["endpoints"].as_array()).flatten();
        let addresses: Vec<_> = slices.map(|endpoint| endpoint["addresses"][0].to_string()).collect();
        let different: std::collections::HashSet<_> = addresses.iter().collect();
        assert_eq!((addresses.len(), different.len()), (10_000, 10_000));
    }
}

//! Small pieces of configuration for tests.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::{
    datapath::Steered,
    policy::{Allows, EndpointPolicy, Register, Rule},
    snapshot::{AccelerationChoice, Cluster, Endpoint, Lane, Protocol, Snapshot, Timeouts, Traffic},
};
use clap::Parser;
use std::{net::SocketAddr, sync::Arc};

/// A ready endpoint.
pub(crate) fn endpoint(addr: SocketAddr) -> Endpoint {
    let workload = Some(Arc::from("default/web-0"));
    Endpoint {
        addr,
        ready: true,
        serving: true,
        terminating: false,
        workload,
        node: None,
        local: false,
        near: true,
        policy: None,
    }
}

/// A policy `demo/p` with rules of method, path and host; an empty pattern is none.
pub(crate) fn policy(rules: &[[&str; 3]]) -> Arc<EndpointPolicy> {
    let register = Register::default();
    let pattern = |text: &str| (!text.is_empty()).then(|| register.pattern(text).unwrap());
    let rule = |(n, [method, path, host]): (usize, &[&str; 3])| {
        let allows = Allows::Http { method: pattern(method), path: pattern(path), host: pattern(host) };
        Arc::new(Rule::new(format!("demo/p#ingress0.ports0.http{n}").into(), allows, &register))
    };
    let rules = rules.iter().enumerate().map(rule).collect();
    Arc::new(EndpointPolicy::new("demo/p".into(), rules, &register))
}

/// `default/web:8080` with the default timeouts.
pub(crate) fn cluster_of(endpoints: &[SocketAddr]) -> Cluster {
    Cluster {
        name: Arc::from("default/web:8080"),
        namespace: "default".into(),
        service: "web".into(),
        port_name: None,
        port: 8080,
        node_port: None,
        lane: Lane::Steer,
        protocol: Protocol::Detect,
        frontends: Vec::new(),
        external: Vec::new(),
        traffic: Traffic::default(),
        endpoints: endpoints.iter().copied().map(endpoint).collect(),
        timeouts: Timeouts::from(config(&[]).timeouts),
        acceleration: AccelerationChoice::Default,
    }
}

/// One cluster at one address.
pub(crate) fn snapshot_of(frontend: SocketAddr, endpoints: &[SocketAddr]) -> Snapshot {
    snapshot_with(frontend, cluster_of(endpoints))
}

/// This cluster at one address.
pub(crate) fn snapshot_with(frontend: SocketAddr, cluster: Cluster) -> Snapshot {
    let cluster = Arc::new(Cluster { frontends: vec![frontend], ..cluster });
    let by_endpoint = cluster.endpoints.iter().map(|one| (one.addr, Arc::clone(&cluster))).collect();
    Snapshot {
        generation: 1,
        by_frontend: [(frontend, Arc::clone(&cluster))].into(),
        by_endpoint,
        clusters: vec![cluster].into(),
        ..Snapshot::default()
    }
}

/// A client of this namespace.
pub(crate) fn steered(orig_dst: SocketAddr, netns_cookie: u64) -> Steered {
    Steered { orig_dst, cgroup_id: 7, pid: std::process::id(), netns_cookie, handshake: None, mapped: false }
}

/// `weir run` with these arguments.
pub(crate) fn config(args: &[&str]) -> crate::config::Config {
    let base = ["weir", "run", "--config", "/nowhere"];
    let cli = crate::config::Cli::try_parse_from(base.iter().chain(args)).unwrap();
    match cli.command {
        crate::config::Command::Run(config) => *config,
        other => unreachable!("{other:?}"),
    }
}

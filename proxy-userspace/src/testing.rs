//! Small pieces of configuration for tests.
#![allow(clippy::unwrap_used, reason = "tests")]

pub(crate) mod certificates;

use crate::{
    datapath::Steered,
    policy::{
        Allows, EndpointPolicy, Register, Rule,
        access::{
            Access, AccessBuilder, AccessPolicy, AccessRule, Action, DirectionRules, Labels, Peer, PodFacts,
            Ports, Selector, Span, Transports,
        },
    },
    route::choices::Choices,
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
        let allows = Allows::Http {
            method: pattern(method),
            path: pattern(path),
            host: pattern(host),
            fields: Vec::new(),
        };
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
        choices: Choices::default(),
    }
}

/// One cluster at one address.
pub(crate) fn snapshot_of(frontend: SocketAddr, endpoints: &[SocketAddr]) -> Snapshot {
    snapshot_with(frontend, cluster_of(endpoints))
}

/// This cluster at one address.
pub(crate) fn snapshot_with(frontend: SocketAddr, cluster: Cluster) -> Snapshot {
    let mut cluster = Cluster { frontends: vec![frontend], ..cluster };
    let access = access_of(&mut cluster, &Arc::default());
    let cluster = Arc::new(cluster);
    let by_endpoint = cluster.endpoints.iter().map(|one| (one.addr, Arc::clone(&cluster))).collect();
    Snapshot {
        generation: 1,
        by_frontend: [(frontend, Arc::clone(&cluster))].into(),
        by_endpoint,
        clusters: vec![cluster].into(),
        access,
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

/// What the endpoints' policies say to everybody. Each endpoint is a pod of its own.
pub(crate) fn access_of(cluster: &mut Cluster, register: &Arc<Register>) -> Access {
    let mut builder = AccessBuilder::default();
    for (n, endpoint) in cluster.endpoints.iter_mut().enumerate() {
        let name: Arc<str> = format!("default/web-{n}").into();
        endpoint.workload = endpoint.workload.is_some().then(|| Arc::clone(&name));
        let Some(policy) = &endpoint.policy else { continue };
        let own = [("n".to_owned(), n.to_string())].into();
        let labels = Labels { namespace: "default".into(), own, service_account: Arc::default() };
        let subject = serde_json::from_str(&format!(r#"{{"matchLabels": {{"n": "{n}"}}}}"#)).unwrap();
        let action = match policy.opens_port() {
            Some(_) => Action::Allow,
            None => Action::AllowHttp(policy.rules.clone()),
        };
        let rule = AccessRule {
            name: format!("{}#ingress0.ports0", policy.name).into(),
            peers: vec![Peer::Anyone],
            ports: vec![Ports { transports: Transports::ALL, span: Span::ALL }],
            action,
            line: 0,
        };
        let rules = if policy.rules.is_empty() { Vec::new() } else { vec![Arc::new(rule)] };
        let ingress = DirectionRules { default_deny: true, rules, ..DirectionRules::default() };
        let subject = Selector::of_pods(&subject).unwrap();
        let (name_of, audit) = (Arc::clone(&policy.name), false);
        let part = AccessPolicy { name: name_of, subject, ingress: Some(ingress), egress: None, audit };
        builder.set_policy(&name, vec![Arc::new(part)]);
        builder.set_pod(PodFacts { name, labels, ..PodFacts::default() });
    }
    builder.build(register)
}

//! Who may connect to whom, by NetworkPolicies, with real connections.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use proxy_common::abi::counter;
use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};
use weir_tests::{
    agent::{Agent, Builder},
    conversation::Conversation,
    manifest::{ConfigDir, Pod as Manifest, Service},
    needs_kernel,
    peer::{self, Server},
    pod::Pod,
    scene::WEB,
    topology::{Placement, Topology},
    wait,
};

/// Ports that every server answers on; none is an HTTP port.
const PORTS: [u16; 3] = [80, 443, 9000];
/// Refused at once: far less than a SYN's first retransmission.
const AT_ONCE: u64 = 500;

/// Only `app=client` may call `app=server`, on TCP port 80 and UDP port 80.
const ONLY_CLIENTS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-clients, namespace: demo}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 80, protocol: TCP}, {port: 80, protocol: UDP}]
---
";

fn tcp(to: SocketAddr) -> String {
    format!("tcp:{to}")
}

fn sctp(to: SocketAddr) -> String {
    format!("sctp:{to}")
}

fn udp(to: SocketAddr) -> String {
    format!("udp:{to}")
}

/// A pod's manifest, running on this node.
fn manifest(pod: &Pod, app: &str) -> String {
    Manifest::new(pod.name(), app).address(pod.v4()).address(pod.v6()).yaml()
}

fn start(topology: &Topology, text: &str, arguments: &[&str]) -> Result<Agent> {
    let builder = Builder::new(topology, &[])?;
    let config = ConfigDir::existing(topology.dir().join("access"));
    std::fs::create_dir_all(config.path())?;
    config.write_text(text)?;
    builder.config(config).args(arguments.iter().map(|&one| one.to_owned())).start()
}

/// What these targets meet: words only, once the agent has seen the pods' cgroups.
fn met(from: &Pod, to: &[String]) -> Result<Vec<String>> {
    Ok(peer::probe(from, to)?.into_iter().map(|(word, _)| word).collect())
}

/// Client, stranger and server on one node, and a policy.
struct Trio {
    agent: Agent,
    client: Pod,
    stranger: Pod,
    server: Pod,
    _serving: Server,
    topology: Topology,
}

impl Trio {
    fn new(policy: &str, arguments: &[&str]) -> Result<Self> {
        let topology = Topology::new()?;
        let (client, stranger) = (topology.pod("client", 10)?, topology.pod("stranger", 12)?);
        let server = topology.pod("server", 11)?;
        let serving = Server::answer(&server, &PORTS)?;
        let text = Self::text(&client, &stranger, &server, "stranger", policy);
        let agent = start(&topology, &text, arguments)?;
        Ok(Self { agent, client, stranger, server, _serving: serving, topology })
    }

    fn text(client: &Pod, stranger: &Pod, server: &Pod, stranger_is: &str, policy: &str) -> String {
        manifest(client, "client") + &manifest(stranger, stranger_is) + &manifest(server, "server") + policy
    }

    /// The manifests, with the stranger's label changed.
    fn with_stranger_as(&self, app: &str) -> String {
        Self::text(&self.client, &self.stranger, &self.server, app, ONLY_CLIENTS)
    }
}

#[test]
fn a_denied_connect_is_refused_at_once_counted_and_told() -> Result<()> {
    needs_kernel!();
    let trio = Trio::new(ONLY_CLIENTS, &[])?;
    let to = [tcp(trio.server.at(80)), tcp(trio.server.at_v6(80)), tcp(trio.server.at(443))];
    assert_eq!(met(&trio.client, &to)?, ["open", "open", "refused"]);
    for (word, took) in peer::probe(&trio.stranger, &to)? {
        assert!(word == "refused" && took < AT_ONCE, "{word} after {took} ms");
    }
    assert_eq!(trio.agent.counters()?.get(counter::REFUSED_INGRESS)?, 4);
    wait::until(Duration::from_secs(5), "the refusal is told", || {
        Ok(trio.agent.stderr()?.contains("connection refused by policy"))
    })?;
    // Who is not selected stays open: the other way round, and to others.
    let _answering = Server::answer(&trio.stranger, &PORTS)?;
    assert_eq!(met(&trio.server, &[tcp(trio.stranger.at(443))])?, ["open"]);
    Ok(())
}

#[test]
fn the_node_itself_always_reaches_its_pods() -> Result<()> {
    needs_kernel!();
    let trio = Trio::new(ONLY_CLIENTS, &[])?;
    let to = PORTS.map(|port| tcp(trio.server.at(port)));
    assert_eq!(met(trio.topology.node(), &to)?, ["open"; 3]);
    Ok(())
}

#[test]
fn egress_is_denied_where_it_begins_and_a_pod_reaches_itself() -> Result<()> {
    needs_kernel!();
    let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nowhere, namespace: demo}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 10.244.1.0/24, except: [10.244.1.12/32]}}]
    ports: [{port: 80, endPort: 100}]
---
";
    let trio = Trio::new(policy, &[])?;
    let _stranger = Server::answer(&trio.stranger, &PORTS)?;
    let _client = Server::answer(&trio.client, &PORTS)?;
    let to = [
        tcp(trio.server.at(80)),
        tcp(trio.server.at(443)),
        tcp(trio.stranger.at(80)),
        tcp(trio.server.at_v6(80)),
        tcp(trio.client.at(443)),
        tcp("127.0.0.1:443".parse()?),
    ];
    assert_eq!(met(&trio.client, &to)?, ["open", "refused", "refused", "refused", "open", "open"]);
    assert_eq!(met(&trio.stranger, &to[..2])?, ["open"; 2]);
    assert_eq!(trio.agent.counters()?.get(counter::REFUSED_EGRESS)?, 3);
    Ok(())
}

#[test]
fn c12_a_changed_label_moves_verdicts_within_200_ms_and_disturbs_no_connection() -> Result<()> {
    needs_kernel!();
    let trio = Trio::new(ONLY_CLIENTS, &[])?;
    let held = tcp(trio.server.at(80));
    let mut watching = peer::start(&trio.stranger, ["probe", "--follow", "--to", &held])?;
    watching.says("refused", Duration::from_secs(10))?;
    let other = Server::http(&trio.client, 7000)?;
    let mut open = Conversation::start(&trio.server, other.addr)?;
    let request = "GET / HTTP/1.1\r\nHost: demo\r\n\r\n";
    open.send(request)?;
    assert_eq!(open.read(1)?.answers[0].status, 200);
    // SIGHUP: the time that a directory must be quiet is not the kernel half's. A busy machine may hold up any
    // of the changes: the median tells what a change takes.
    let mut took = Vec::new();
    for (app, word) in [("client", "open"), ("stranger", "refused")].repeat(3) {
        let from = watching.stdout()?.len() as u64;
        let text = trio.with_stranger_as(app);
        let begun = Instant::now();
        trio.agent.config().write_text(&text)?;
        trio.agent.hang_up()?;
        wait::until(Duration::from_secs(10), "the verdict moves", || {
            Ok(String::from_utf8_lossy(&watching.stdout_from(from)?).contains(word))
        })?;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    assert!(took[took.len() / 2] < Duration::from_millis(200), "verdicts moved after {took:?}");
    open.send(request)?;
    assert_eq!(open.read(1)?.answers[0].status, 200);
    Ok(())
}

#[test]
fn c12_an_address_used_again_inherits_nothing() -> Result<()> {
    needs_kernel!();
    let topology = Topology::new()?;
    let server = topology.pod("server", 11)?;
    let _serving = Server::answer(&server, &PORTS)?;
    let to = [tcp(server.at(80))];
    let first = topology.pod("first", 10)?;
    let before = manifest(&first, "client") + &manifest(&server, "server") + ONLY_CLIENTS;
    let agent = start(&topology, &before, &[])?;
    assert_eq!(met(&first, &to)?, ["open"]);
    // The end that the node has would go with the namespace some time later.
    topology.node().netns().links("link del p10\n")?;
    drop(first);
    let second = topology.pod("second", 10)?;
    // Its manifest is not there yet: it is nobody, and the address is no argument.
    agent.reload_text(&(before + &manifest(&second, "other")))?;
    assert_eq!(met(&second, &to)?, ["refused"]);
    agent.reload_text(&(manifest(&second, "client") + &manifest(&server, "server") + ONLY_CLIENTS))?;
    assert_eq!(met(&second, &to)?, ["open"]);
    Ok(())
}

#[test]
fn who_is_not_known_follows_the_failure_policy() -> Result<()> {
    needs_kernel!();
    for (policy, word) in [("open", "open"), ("closed", "refused")] {
        let trio = Trio::new(ONLY_CLIENTS, &[&format!("--failure-policy={policy}")])?;
        let unknown = trio.topology.pod("unknown", 20)?;
        let outside = trio.topology.pod_in("outside", 21, Placement::Outside)?;
        let to = [tcp(trio.server.at(443))];
        assert_eq!(met(&unknown, &to)?, [word], "{policy}");
        // No pod of ours: none of our business.
        assert_eq!(met(&outside, &to)?, ["open"], "{policy}");
    }
    Ok(())
}

#[test]
fn a_client_on_another_node_is_refused_at_the_uplink_by_a_reset() -> Result<()> {
    needs_kernel!();
    let mut topology = Topology::new()?;
    let (client, stranger) = (topology.remote_pod("client", 10)?, topology.remote_pod("stranger", 12)?);
    let server = topology.pod("server", 11)?;
    let _serving = Server::answer(&server, &PORTS)?;
    let text = manifest(&client, "client") + &manifest(&stranger, "other") + &manifest(&server, "server");
    let agent = start(&topology, &(text + ONLY_CLIENTS), &[])?;
    let to = [tcp(server.at(80)), tcp(server.at_v6(80)), tcp(server.at(443)), tcp(server.at_v6(443))];
    assert_eq!(met(&client, &to)?, ["open", "open", "refused", "refused"]);
    for (word, took) in peer::probe(&stranger, &to)? {
        assert!(word == "refused" && took < AT_ONCE, "{word} after {took} ms");
    }
    assert_eq!(agent.counters()?.get(counter::REFUSED_INGRESS)?, 6);
    // Datagrams: what is denied is dropped, what answers ours is not.
    let to = [udp(server.at(80)), udp(server.at_v6(443))];
    assert_eq!(met(&client, &to)?, ["open", "silent"]);
    assert_eq!(met(&stranger, &to)?, ["silent", "silent"]);
    let _far = Server::answer(&stranger, &PORTS)?;
    assert_eq!(met(&server, &[udp(stranger.at(443)), tcp(stranger.at(443))])?, ["open", "open"]);
    Ok(())
}

#[test]
fn datagrams_of_one_node_are_refused_with_an_error_and_answers_pass() -> Result<()> {
    needs_kernel!();
    let trio = Trio::new(ONLY_CLIENTS, &[])?;
    let to = [udp(trio.server.at(80)), udp(trio.server.at_v6(80)), udp(trio.server.at(443))];
    assert_eq!(met(&trio.client, &to)?, ["open", "open", "forbidden"]);
    let to = [to[0].clone(), to[1].clone(), sctp(trio.server.at(80))];
    assert_eq!(met(&trio.stranger, &to)?, ["forbidden"; 3]);
    assert_eq!(trio.agent.counters()?.get(counter::REFUSED_INGRESS)?, 4);
    wait::until(Duration::from_secs(5), "the refusal is told", || {
        Ok(trio.agent.stderr()?.contains("connection refused by policy"))
    })?;
    // Nobody asked for a connection from there: only answers reach the server.
    let _stranger = Server::answer(&trio.stranger, &PORTS)?;
    let to = [udp(trio.stranger.at(443)), udp(trio.stranger.at_v6(9000)), sctp(trio.stranger.at(80))];
    assert_eq!(met(&trio.server, &to)?, ["open"; 3]);
    let to = [udp(trio.server.at(443)), udp(trio.server.at_v6(80)), sctp(trio.server.at(443))];
    assert_eq!(met(trio.topology.node(), &to)?, ["open"; 3]);
    Ok(())
}

/// The client may send to the server, UDP port 80, and nowhere else.
const ONLY_TO_SERVER: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-to-server, namespace: demo}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: server}}}]
    ports: [{port: 80, protocol: UDP}]
---
";

#[test]
fn datagrams_to_a_service_are_decided_about_where_its_endpoint_is_known() -> Result<()> {
    needs_kernel!();
    let mut topology = Topology::new()?;
    let (client, server) = (topology.pod("client", 10)?, topology.pod("server", 11)?);
    let far = topology.remote_pod("far", 10)?;
    let _serving = [Server::answer(&server, &PORTS)?, Server::answer(&far, &PORTS)?];
    // What the cluster's own proxy does for UDP.
    let node = topology.node().netns();
    for (port, endpoint) in [(53, server.at(80)), (54, server.at(443)), (55, far.at(80)), (56, server.at(80))]
    {
        let rule = format!(
            "-t nat -A PREROUTING -d 10.96.0.53 -p udp --dport {port} -j DNAT --to-destination {endpoint}"
        );
        let ran = node.run(|| Command::new("iptables-legacy").args(rule.split(' ')).output())??;
        anyhow::ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
    let dns = "
apiVersion: v1
kind: Service
metadata: {name: dns, namespace: demo}
spec:
  clusterIP: 10.96.0.53
  ports:
  - {port: 53, protocol: UDP, name: a}
  - {port: 54, protocol: UDP, name: b}
  - {port: 55, protocol: UDP, name: c}
---
";
    let text = manifest(&client, "client") + &manifest(&server, "server") + &manifest(&far, "far");
    let agent = start(&topology, &(text + ONLY_TO_SERVER + dns), &[])?;
    let at = |port| udp(SocketAddr::new("10.96.0.53".parse().unwrap(), port));
    let to = [at(53), at(54), at(55), at(56), udp(far.at(80)), udp(server.at(443)), udp(server.at(80))];
    // Two by who gets it and by the uplink; 56 is no port of the Service.
    let wanted = ["open", "silent", "silent", "forbidden", "forbidden", "forbidden", "open"];
    assert_eq!(met(&client, &to)?, wanted);
    assert_eq!(agent.counters()?.get(counter::REFUSED_EGRESS)?, 5);
    Ok(())
}

#[test]
fn a_service_is_refused_only_where_all_its_endpoints_are_denied() -> Result<()> {
    needs_kernel!();
    let trio = Trio::new("", &[])?;
    let web = Service::new("web", WEB.port()).cluster_ip(WEB.ip()).app_protocol("redis");
    let web = web.endpoints([trio.server.at(443)]).yaml().replace("app: web", "app: server");
    let text = trio.with_stranger_as("stranger") + "---\n" + &web;
    trio.agent.reload_text(&text)?;
    assert_eq!(met(&trio.stranger, &[tcp(WEB)])?, ["refused"]);
    let open = ONLY_CLIENTS.replace("port: 80,", "port: 443,");
    trio.agent.reload_text(&text.replace(ONLY_CLIENTS, &open))?;
    assert_eq!(met(&trio.client, &[tcp(WEB)])?, ["open"]);
    assert_eq!(met(&trio.stranger, &[tcp(WEB)])?, ["refused"]);
    Ok(())
}

#[test]
fn without_the_agent_nothing_is_denied_any_more() -> Result<()> {
    needs_kernel!();
    let mut trio = Trio::new(ONLY_CLIENTS, &[])?;
    let to = [tcp(trio.server.at(443))];
    assert_eq!(met(&trio.stranger, &to)?, ["refused"]);
    trio.agent.kill9()?;
    trio.agent.wait(Duration::from_secs(10))?;
    assert_eq!(met(&trio.stranger, &to)?, ["open"]);
    Ok(())
}

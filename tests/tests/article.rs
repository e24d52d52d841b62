//! The manifests that Weir's users come with: each does what it says.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::Value;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};
use weir_tests::{
    agent::{Agent, Builder},
    manifest::{ConfigDir, Pod as Manifest},
    needs_kernel,
    peer::{self, Server},
    pod::Pod,
    topology::Topology,
    wait,
};

const CLUSTER_IP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 40)), 80);
const TARGET_PORT: u16 = 8080;
const NODE_PORT: u16 = 30_001;

/// The Service: port 80 to the containers' 8080, at node port 30001 too.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: gin-service, namespace: demo}
spec:
  type: NodePort
  clusterIP: 10.96.0.40
  clusterIPs: [10.96.0.40]
  selector: {app: gin-server}
  ports: [{protocol: TCP, port: 80, targetPort: 8080, nodePort: 30001}]
---
";

const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: weir}
spec: {controller: weir.dev/ingress}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: gin-ingress, namespace: demo}
spec:
  ingressClassName: weir
  rules:
  - host: api.example.com
    http:
      paths:
      - path: /user
        pathType: Prefix
        backend: {service: {name: gin-service, port: {number: 80}}}
---
";

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-client, namespace: demo}
spec:
  podSelector: {matchLabels: {app: gin-server}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{protocol: TCP, port: 8080}]
---
";

/// Two servers, of which the second may not be ready; a client, a stranger, and a client outside.
struct Article {
    agent: Agent,
    client: Pod,
    stranger: Pod,
    outside: Pod,
    servers: [Pod; 2],
    _serving: Vec<Server>,
    topology: Topology,
}

impl Article {
    fn new(more: &str) -> Result<Self> {
        let mut topology = Topology::new()?;
        let outside = topology.remote_pod("outside", 10)?;
        let (client, stranger) = (topology.pod("client", 10)?, topology.pod("stranger", 20)?);
        let servers = [topology.pod("server1", 11)?, topology.pod("server2", 12)?];
        let serving = servers.iter().map(|pod| Server::http(pod, TARGET_PORT)).collect::<Result<_>>()?;
        let config = ConfigDir::existing(topology.dir().join("article"));
        std::fs::create_dir_all(config.path())?;
        config.write_text(&Self::text(&client, &stranger, &servers, &[true, true], more))?;
        let agent = Builder::new(&topology, &[])?.config(config).arg("--http-ports=80,8080").start()?;
        Ok(Self { agent, client, stranger, outside, servers, _serving: serving, topology })
    }

    fn text(client: &Pod, stranger: &Pod, servers: &[Pod; 2], ready: &[bool; 2], more: &str) -> String {
        let pod = |pod: &Pod, app: &str| Manifest::new(pod.name(), app).address(pod.v4()).yaml();
        let mut text = pod(client, "client") + &pod(stranger, "stranger");
        let mut slice =
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: gin, namespace: demo, \
             labels: {kubernetes.io/service-name: gin-service}}\naddressType: IPv4\n\
             ports: [{name: '', protocol: TCP, port: 8080}]\nendpoints:\n"
                .to_owned();
        for (server, ready) in servers.iter().zip(ready) {
            text += &pod(server, "gin-server");
            slice += &format!(
                "- {{addresses: [{}], conditions: {{ready: {ready}}}, \
                 targetRef: {{kind: Pod, namespace: demo, name: {}}}}}\n",
                server.v4(),
                server.name()
            );
        }
        text + &slice + "---" + SERVICE + more
    }

    /// The status of a GET, 0 where none came.
    fn status(&self, from: &Pod, url: &str, host: &str) -> Result<u16> {
        let header = format!("Host: {host}");
        let asked = from.curl([
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            "--max-time",
            "5",
            "--header",
            &header,
            url,
        ])?;
        Ok(asked.text().parse()?)
    }
}

/// Which server answered.
fn server(from: &Pod, url: &str) -> Result<String> {
    let answer: Value = from.curl([url])?.json()?;
    Ok(answer["server"].as_str().unwrap().to_owned())
}

#[test]
fn service_port_80_leads_to_target_port_8080() -> Result<()> {
    needs_kernel!();
    let article = Article::new("")?;
    assert!(server(&article.client, &format!("http://{CLUSTER_IP}/"))?.starts_with("server"));
    let line = article.agent.logged(1)?.remove(0);
    assert_eq!(line["upstream_cluster"], "demo/gin-service:80");
    assert!(line["upstream_host"].as_str().unwrap().ends_with(":8080"), "{line}");
    Ok(())
}

#[test]
fn node_port_30001_leads_there_from_outside() -> Result<()> {
    needs_kernel!();
    let article = Article::new("")?;
    let url = format!("http://{}/", article.topology.node().at(NODE_PORT));
    assert!(server(&article.outside, &url)?.starts_with("server"));
    assert!(server(&article.client, &url)?.starts_with("server"));
    Ok(())
}

#[test]
fn ingress_path_user_of_api_example_com_leads_there_and_nothing_else_does() -> Result<()> {
    needs_kernel!();
    let article = Article::new(INGRESS)?;
    let at = |path: &str| format!("http://{}{path}", article.topology.node().at(80));
    for from in [&article.outside, &article.client] {
        assert_eq!(article.status(from, &at("/user"), "api.example.com")?, 200, "{}", from.name());
        assert_eq!(article.status(from, &at("/user/1"), "api.example.com")?, 200);
        assert_eq!(article.status(from, &at("/users"), "api.example.com")?, 404);
        assert_eq!(article.status(from, &at("/user"), "other.example.com")?, 404);
    }
    Ok(())
}

#[test]
fn only_app_client_may_call_app_gin_server_on_port_8080() -> Result<()> {
    needs_kernel!();
    let article = Article::new(POLICY)?;
    let service = format!("http://{CLUSTER_IP}/");
    assert_eq!(article.status(&article.client, &service, "demo")?, 200);
    let own = article.servers[0].at(TARGET_PORT);
    let to =
        [format!("tcp:{CLUSTER_IP}"), format!("tcp:{own}"), format!("tcp:{}", article.servers[0].at(22))];
    for (word, took) in peer::probe(&article.stranger, &to)? {
        assert!(word == "refused" && took < 500, "{word} after {took} ms");
    }
    // Not even its client on another port, and nobody from outside.
    assert_eq!(peer::probe(&article.client, &to[2..])?[0].0, "refused");
    assert_eq!(peer::probe(&article.outside, &to[1..2])?[0].0, "refused");
    // Who is not selected is not restricted, and the node probes whom it will.
    let _open = Server::answer(&article.stranger, &[9000])?;
    assert_eq!(
        peer::probe(&article.servers[0], &[format!("tcp:{}", article.stranger.at(9000))])?[0].0,
        "open"
    );
    assert_eq!(article.status(article.topology.node(), &format!("http://{own}/"), "demo")?, 200);
    Ok(())
}

#[test]
fn an_endpoint_that_fails_its_readiness_probe_gets_no_traffic() -> Result<()> {
    needs_kernel!();
    let article = Article::new("")?;
    let url = format!("http://{CLUSTER_IP}/");
    wait::until(Duration::from_secs(20), "both servers answer", || {
        let first = server(&article.client, &url)?;
        Ok((0..20).any(|_| server(&article.client, &url).is_ok_and(|other| other != first)))
    })?;
    let Article { client, stranger, servers, .. } = &article;
    article.agent.reload_text(&Article::text(client, stranger, servers, &[true, false], ""))?;
    for _ in 0..20 {
        assert_eq!(server(&article.client, &url)?, "server1");
    }
    Ok(())
}

//! The PROXY protocol of a load balancer that nobody here wrote: HAProxy between clients and the node.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{fs, net::SocketAddr, time::Duration};
use weir_tests::{
    manifest::{self, Endpoint, Service},
    needs_kernel, peer,
    pod::Pod,
    process::Process,
    requirements,
    scene::{PORT, Scene, Stage},
    wait,
};

const START: Duration = Duration::from_secs(60);
const HOST: &str = "shop.example.com";
/// Where the balancer listens: version 1, version 2, version 2 before TLS.
const V1: u16 = 7001;
const V2: u16 = 7002;
const V2_TLS: u16 = 7443;

const DOORS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: demo}
spec:
  gatewayClassName: weir
  listeners:
  - {name: http, port: 8081, protocol: HTTP}
  - {name: https, port: 8443, protocol: HTTPS, hostname: shop.example.com, tls: {certificateRefs: [{name: shop}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all, namespace: demo}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 8080}]}]}
---
";

/// A client, HAProxy that speaks for it, and a node that believes HAProxy.
struct Site {
    scene: Scene,
    client: Pod,
    balancer: Pod,
    manifests: String,
    /// The certificate of the node, which clients trust.
    trusted: String,
    _haproxy: Process,
}

impl Site {
    fn new() -> Result<Self> {
        let mut stage = Stage::new(1)?;
        let (client, balancer) =
            (stage.topology.remote_pod("client-far", 10)?, stage.topology.remote_pod("balancer", 20)?);
        let haproxy = haproxy(&balancer, &stage)?;
        let server = &stage.servers[0];
        let member = Endpoint::new(server.at(PORT)).pod(server.name());
        let web = Service::new("web", PORT).cluster_ip([10, 96, 0, 20]).endpoint(member);
        let own = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        let trusted = stage.topology.dir().join("own.pem");
        fs::write(&trusted, own.cert.pem())?;
        let secret = manifest::tls_secret("shop", &own.cert.pem(), &own.signing_key.serialize_pem());
        let pod = manifest::Pod::new(server.name(), "web").address(server.v4());
        let manifests = web.yaml() + &pod.yaml() + DOORS + &secret;
        let believed = format!("--proxy-protocol-from={}/32", balancer.v4());
        let scene = stage.play(&[], &[&believed])?;
        scene.agent.reconfigure_text(&manifests)?;
        let trusted = trusted.display().to_string();
        Ok(Self { scene, client, balancer, manifests, trusted, _haproxy: haproxy })
    }

    /// What the server saw of a request by way of the balancer, and the status.
    fn ask(&self, port: u16) -> Result<(Value, u16)> {
        let scheme = if port == V2_TLS { "https" } else { "http" };
        let resolve = format!("{HOST}:{port}:{}", self.balancer.v4());
        let url = format!("{scheme}://{HOST}:{port}/");
        let told = "\n%{http_code}";
        let fixed = ["--cacert", &self.trusted, "--resolve", &resolve, "--max-time", "20"];
        let asked = self.client.curl(fixed.into_iter().chain(["--write-out", told, &url]))?;
        let text = asked.text();
        let (body, status) = text.rsplit_once('\n').context("no status")?;
        Ok((serde_json::from_str(body).unwrap_or(Value::Null), status.parse()?))
    }
}

fn haproxy(pod: &Pod, stage: &Stage) -> Result<Process> {
    let node = stage.topology.node();
    let listen = |port, to: SocketAddr, how| {
        format!("listen l{port}\n  bind {}\n  server node {to} {how}\n", pod.at(port))
    };
    let config = "global\n  maxconn 200\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  \
                  timeout server 60s\n"
        .to_owned()
        + &listen(V1, node.at(8081), "send-proxy")
        + &listen(V2, node.at(8081), "send-proxy-v2")
        + &listen(V2_TLS, node.at(8443), "send-proxy-v2");
    let file = stage.topology.dir().join("haproxy.cfg");
    fs::write(&file, config)?;
    let mut command = pod.command("haproxy");
    command.args(["-db", "-f"]).arg(file);
    let mut process = pod.spawn("haproxy", command)?;
    let listens = wait::until(START, "haproxy listens", || {
        ensure!(process.ended()?.is_none(), "it ended");
        pod.netns().run(|| std::net::TcpStream::connect(pod.at(V2_TLS)).is_ok())
    });
    listens.with_context(|| process.stderr_tail())?;
    Ok(process)
}

fn forwarded_for(seen: &Value) -> String {
    let fields = seen["fields"].as_array().cloned().unwrap_or_default();
    let is =
        |field: &&Value| field[0].as_str().is_some_and(|name| name.eq_ignore_ascii_case("x-forwarded-for"));
    fields.iter().find(is).and_then(|field| field[1].as_str()).unwrap_or_default().to_owned()
}

#[test]
fn endpoints_and_the_log_learn_whom_a_balancer_speaks_for_by_either_version_and_before_tls() -> Result<()> {
    needs_kernel!();
    if !requirements::program("haproxy") {
        return Ok(());
    }
    let site = Site::new()?;
    for (number, port) in [V1, V2, V2_TLS].into_iter().enumerate() {
        let (seen, status) = site.ask(port)?;
        assert_eq!((status, forwarded_for(&seen)), (200, site.client.v4().to_string()), "{port}: {seen}");
        let lines = site.scene.agent.logged(number + 1)?;
        let from: SocketAddr = lines[number]["downstream_remote_address"].as_str().unwrap().parse()?;
        assert_eq!(from.ip(), site.client.v4(), "{}", lines[number]);
        let name = (port == V2_TLS).then_some(HOST);
        assert_eq!(lines[number]["requested_server_name"].as_str(), name, "{}", lines[number]);
    }
    Ok(())
}

#[test]
fn a_header_is_believed_of_nobody_else_and_its_absence_of_none_who_is_believed() -> Result<()> {
    needs_kernel!();
    if !requirements::program("haproxy") {
        return Ok(());
    }
    let site = Site::new()?;
    let node = site.scene.topology.node().at(8081);
    let request = "GET / HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n";
    let lie = format!("PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n{request}");
    let refused = peer::raw(&site.client, node, lie.as_bytes(), &[])?.text();
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    let open = peer::raw(&site.client, node, request.as_bytes(), &[])?.text();
    assert!(open.starts_with("HTTP/1.1 200 "), "{open}");
    assert!(open.contains(&site.client.v4().to_string()) && !open.contains("192.0.2.7"), "{open}");
    // The balancer itself, without a header: whom it speaks for nobody knows.
    let silent = peer::raw(&site.balancer, node, request.as_bytes(), &[])?.text();
    assert_eq!(silent, "");
    site.scene.agent.metrics_until("it is counted", |all| {
        all.sum("weir_bad_requests_total", &[("reason", "proxy_header")]) == 1.0
    })?;
    Ok(())
}

#[test]
fn policies_go_by_who_has_connected_and_not_by_whom_it_names() -> Result<()> {
    needs_kernel!();
    if !requirements::program("haproxy") {
        return Ok(());
    }
    let site = Site::new()?;
    let only = |address| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: only, namespace: demo}}\nspec:\n  \
             podSelector: {{matchLabels: {{app: web}}}}\n  ingress: [{{from: [{{ipBlock: {{cidr: {address}/32}}}}]}}]\n---\n"
        )
    };
    site.scene.agent.reconfigure_text(&(site.manifests.clone() + &only(site.client.v4())))?;
    for port in [V1, V2, V2_TLS] {
        assert_ne!(site.ask(port)?.1, 200, "{port}: the client that is named may, the balancer may not");
    }
    site.scene.agent.reconfigure_text(&(site.manifests.clone() + &only(site.balancer.v4())))?;
    for port in [V1, V2, V2_TLS] {
        let (seen, status) = site.ask(port)?;
        assert_eq!((status, forwarded_for(&seen)), (200, site.client.v4().to_string()), "{port}");
    }
    Ok(())
}

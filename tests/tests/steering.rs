//! Which connections reach the agent, what it knows of them, and what their two ends see.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::Value;
use std::{collections::BTreeSet, fs, net::SocketAddr, time::Duration};
use weir_tests::{
    manifest::{Endpoint, Service},
    needs_kernel, peer,
    pod::Pod,
    scene::{PORT, Scene, Stage, WEB, WEB_MAPPED, WEB_V6},
    topology::Placement,
    wait,
};

const SECOND: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 20)), 8080);
const PLAIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 30)), 9090);

/// What the scripted server says about a request to this address.
fn inspect(from: &Pod, to: SocketAddr) -> Result<Value> {
    from.curl([format!("http://{to}/")])?.json()
}

fn client_side(from: &Pod, to: SocketAddr) -> Result<Value> {
    peer::run(from, ["getpeername", "--to", &to.to_string()])?.json()
}

fn host(addr: &Value) -> String {
    addr.as_str().unwrap().parse::<SocketAddr>().unwrap().ip().to_string()
}

#[test]
fn a_curl_to_the_cluster_ip_prints_the_servers_answer_is_counted_once_and_logged_once() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let answer: Value = serde_json::from_str(&scene.ask("/hello")?)?;
    assert_eq!(answer["server"], "server1");
    assert_eq!(answer["line"], "GET /hello HTTP/1.1");

    let name = "http_server_request_duration_seconds_count";
    let samples = scene.agent.metrics_until("the request is counted", |all| all.sum(name, &[]) > 0.0)?;
    let series: Vec<_> = samples.with(name, &[]).collect();
    assert_eq!(series.len(), 1, "{series:?}");
    assert!((series[0].value - 1.0).abs() < f64::EPSILON);
    let labels = &series[0].labels;
    assert_eq!(labels["http_request_method"], "GET");
    assert_eq!(labels["http_response_status_code"], "200");
    assert_eq!(labels["http_route"], "demo/web:8080");
    assert_eq!(labels["destination_workload"], "demo/server1");
    assert!(!labels.contains_key("error_type"), "{labels:?}");
    let client = samples.sum("http_client_request_duration_seconds_count", &[]);
    assert!((client - 1.0).abs() < f64::EPSILON);

    let lines = scene.agent.logged(1)?;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["path"], "/hello");
    assert_eq!(lines[0]["response_code"], 200);
    assert_eq!(lines[0]["upstream_cluster"], "demo/web:8080");
    Ok(())
}

#[test]
fn the_endpoint_sees_the_client_pods_address() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    for (to, own) in [
        (WEB, scene.client.v4().to_string()),
        (WEB_MAPPED, scene.client.v4().to_string()),
        (WEB_V6, scene.client.v6().to_string()),
    ] {
        let seen = inspect(&scene.client, to)?;
        assert_eq!(host(&seen["peer"]), own, "{to}");
    }
    let samples = scene.agent.metrics()?;
    assert!(samples.sum("weir_address_fallback_total", &[]).abs() < f64::EPSILON);
    Ok(())
}

#[test]
fn a_request_arrives_as_it_was_sent_without_added_fields() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let sent = "GET /a%20b?c=d HTTP/1.1\r\nhOsT: demo\r\nX-MiXed: One\r\nx-mixed: two\r\nAccept: */*\r\n\r\n";
    let (answer, _) = scene.raw(sent.as_bytes(), &["--half-close"])?;
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let seen: Value = serde_json::from_str(body.trim())?;
    assert_eq!(seen["line"], "GET /a%20b?c=d HTTP/1.1");
    let fields: Vec<_> = seen["fields"].as_array().unwrap().iter().map(ToString::to_string).collect();
    let expected =
        [r#"["hOsT","demo"]"#, r#"["X-MiXed","One"]"#, r#"["x-mixed","two"]"#, r#"["Accept","*/*"]"#];
    assert_eq!(fields.iter().collect::<BTreeSet<_>>().len(), fields.len());
    for field in expected {
        assert!(fields.iter().any(|found| found == field), "{field} of {fields:?}");
    }
    assert_eq!(fields.len(), expected.len(), "{fields:?}");
    Ok(())
}

/// Two Services with one server each: an answer of the wrong server is a wrong original destination.
fn two_services() -> Result<(Scene, String)> {
    let stage = Stage::new(2)?;
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([stage.servers[0].at(PORT)]);
    let second = Service::new("second", PORT).cluster_ip(SECOND.ip()).endpoints([stage.servers[1].at(PORT)]);
    let scene = stage.play(&[web, second], &[])?;
    Ok((scene, format!("{WEB}=server1,{SECOND}=server2")))
}

#[test]
fn orig_dst_survives_10_000_connects_in_a_row() -> Result<()> {
    needs_kernel!();
    let (scene, to) = two_services()?;
    let told = scene.load(&to, &["--requests", "10000", "--reconnect", "1"])?;
    assert_eq!(told["errors"], serde_json::json!({}), "{told}");
    assert_eq!(told["servers"], serde_json::json!({"server1": 5000, "server2": 5000}));
    let flows = |all: &weir_tests::metrics::Samples| all.sum("weir_tcp_open_flows", &[("hop", "downstream")]);
    scene.agent.metrics_until("no flow is left", |all| flows(all) < 0.5)?;
    Ok(())
}

#[test]
fn orig_dst_survives_64_connects_at_once() -> Result<()> {
    needs_kernel!();
    let (scene, to) = two_services()?;
    let told = scene.load(&to, &["--connections", "64", "--requests", "50", "--reconnect", "1"])?;
    assert_eq!(told["errors"], serde_json::json!({}), "{told}");
    assert_eq!(told["statuses"]["200"], 3200);
    Ok(())
}

#[test]
fn b14_getpeername_shows_the_original_destination_over_ipv4_ipv6_and_mapped() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    for to in [WEB, WEB_V6, WEB_MAPPED] {
        assert_eq!(client_side(&scene.client, to)?["peer"], to.to_string());
    }
    Ok(())
}

#[test]
fn b1_an_ipv6_socket_to_a_mapped_address_is_steered() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let told = scene.load(&format!("{WEB_MAPPED}=server1"), &["--requests", "3"])?;
    assert_eq!(told["statuses"]["200"], 3, "{told}");
    assert_eq!(scene.agent.logged(3)?.len(), 3);
    Ok(())
}

#[test]
fn b2_an_ipv6_cluster_ip_is_steered() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let told = scene.load(&format!("{WEB_V6}=server1"), &["--requests", "3"])?;
    assert_eq!(told["statuses"]["200"], 3, "{told}");
    assert_eq!(scene.agent.logged(3)?.len(), 3);
    Ok(())
}

#[test]
fn a_pod_outside_the_cgroup_is_untouched() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let stranger = scene.topology.pod_in("stranger", 20, Placement::Outside)?;
    let direct = scene.server()?.at(PORT);
    assert_eq!(host(&inspect(&stranger, direct)?["peer"]), stranger.v4().to_string());
    assert!(!stranger.curl(["--connect-timeout", "1", &format!("http://{WEB}/")])?.status.success());
    // The client's request after it: had the stranger's been seen, it would be logged before it.
    scene.ask("/marker")?;
    let lines = scene.agent.logged(1)?;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["path"], "/marker");
    Ok(())
}

#[test]
fn host_processes_are_not_steered() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let node = scene.topology.node();
    inspect(node, scene.server()?.at(PORT))?;
    scene.ask("/marker")?;
    let lines = scene.agent.logged(1)?;
    assert_eq!(lines[0]["path"], "/marker", "{lines:?}");
    Ok(())
}

#[test]
fn host_processes_are_steered_when_asked_for() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--steer-host"])?;
    assert_eq!(inspect(scene.topology.node(), WEB)?["server"], "server1");
    assert_eq!(scene.agent.logged(1)?.len(), 1);
    // The agent's own connections are a host process' too, and must not come back to it (I6).
    scene.ask("/again")?;
    assert_eq!(scene.agent.logged(2)?.len(), 2);
    Ok(())
}

#[test]
fn an_endpoints_own_address_on_an_http_port_is_steered() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let direct = scene.server()?.at(PORT);
    let seen = inspect(&scene.client, direct)?;
    assert_eq!(host(&seen["peer"]), scene.client.v4().to_string());
    assert_eq!(scene.agent.logged(1)?.len(), 1);
    assert_eq!(client_side(&scene.client, direct)?["peer"], direct.to_string());
    Ok(())
}

#[test]
fn an_address_that_no_service_knows_is_untouched() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let other = scene.topology.pod("other", 30)?;
    let _serving = peer::Server::http(&other, PORT)?;
    assert_eq!(host(&inspect(&scene.client, other.at(PORT))?["peer"]), scene.client.v4().to_string());
    scene.ask("/marker")?;
    assert_eq!(scene.agent.logged(1)?[0]["path"], "/marker");
    Ok(())
}

/// `demo/plain` on a port that carries no HTTP: two endpoints, and one that is not ready.
fn plain_service(stage: &Stage) -> Service {
    let ready = stage.servers[..2].iter().map(|pod| pod.at(PORT));
    let unready = Endpoint::new(stage.servers[2].at(PORT)).unready();
    Service::new("plain", PLAIN.port()).cluster_ip(PLAIN.ip()).endpoints(ready).endpoint(unready)
}

#[test]
fn a_port_without_http_goes_straight_to_a_ready_endpoint() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(3)?;
    let plain = plain_service(&stage);
    let scene = stage.play(&[plain], &[])?;
    let told = scene.load(&PLAIN.to_string(), &["--requests", "64", "--reconnect", "1"])?;
    let servers: BTreeSet<_> = told["servers"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(servers, BTreeSet::from(["server1", "server2"]), "{told}");
    assert_eq!(host(&inspect(&scene.client, PLAIN)?["peer"]), scene.client.v4().to_string());
    assert_eq!(client_side(&scene.client, PLAIN)?["peer"], PLAIN.to_string());
    let samples = scene.agent.metrics()?;
    assert!(samples.sum("weir_downstream_opened_total", &[]).abs() < f64::EPSILON);
    assert!(samples.sum("weir_kernel_events_total", &[("event", "balanced")]) >= 66.0);
    Ok(())
}

#[test]
fn a_service_without_ready_endpoints_refuses_a_plain_port_and_answers_503_on_an_http_port() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let member = Endpoint::new(stage.servers[0].at(PORT)).unready();
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoint(member.clone());
    let plain = Service::new("plain", PLAIN.port()).cluster_ip(PLAIN.ip()).endpoint(member);
    let scene = stage.play(&[web, plain], &[])?;
    let refused = scene.client.curl([format!("http://{PLAIN}/")])?;
    assert_eq!(refused.status.code(), Some(7), "{refused:?}");
    assert_eq!(scene.status_of("/")?, 503);
    let line = &scene.agent.logged(1)?[0];
    assert_eq!(line["response_flags"], "UH", "{line}");
    Ok(())
}

#[test]
fn an_endpoint_on_another_node_sees_the_client_pods_address() -> Result<()> {
    needs_kernel!();
    let mut stage = Stage::new(0)?;
    let remote = stage.topology.remote_pod("remote", 11)?;
    let _serving = peer::Server::http(&remote, PORT)?;
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([remote.at(PORT)]);
    let scene = stage.play(&[web], &["--acceleration=on"])?;
    assert_eq!(host(&inspect(&scene.client, WEB)?["peer"]), scene.client.v4().to_string());
    assert_eq!(scene.transfer(&[100, 100_000, 1_000_000], &[])?.len(), 3);
    Ok(())
}

#[test]
fn two_pods_with_the_same_loopback_tuples_do_not_mix() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let (web, second) = (stage.web(), stage.topology.pod("second", 40)?);
    let scene = stage.play(&[web], &["--acceleration=on"])?;
    let own: SocketAddr = "127.0.0.1:8080".parse()?;
    let mut alive = Vec::new();
    for pod in [&scene.client, &second] {
        let listen = own.to_string();
        let mut server = peer::start(pod, ["http-server", "--listen", &listen, "--name", pod.name()])?;
        server.says("listening", Duration::from_secs(20))?;
        // Same source and destination in both pods, open at the same time.
        let fixed = ["raw", "--to", &listen, "--bind", "127.0.0.1:40000", "--patience", "3000"];
        let mut client = peer::start(pod, fixed)?;
        client.send(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", pod.name()).as_bytes())?;
        alive.push((pod.name().to_owned(), server, client));
    }
    for (name, _, client) in &mut alive {
        wait::until(Duration::from_secs(10), "an answer", || Ok(client.stdout_text()?.contains("X-Server")))?;
        let answer = client.stdout_text()?;
        assert!(answer.contains(&format!("X-Server: {name}")), "{name}: {answer}");
        assert!(answer.contains(&format!("GET /{name} ")), "{name}: {answer}");
    }
    Ok(())
}

#[test]
fn b10_a_connection_that_was_not_steered_is_refused_by_the_agents_listener() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let listener = scene.topology.node().at(15001);
    let asked = scene.client.curl([format!("http://{listener}/")])?;
    assert!(!asked.status.success(), "{asked:?}");
    assert!(scene.agent.metrics()?.sum("weir_downstream_refused_total", &[]) >= 1.0);
    Ok(())
}

#[test]
fn k9_a_server_that_speaks_first_is_tunnelled_without_a_long_stall() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(0)?;
    let server = stage.topology.pod("mail", 50)?;
    let _serving = peer::Server::speaks_first(&server, PORT, "220 mail ready")?;
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([server.at(PORT)]);
    let scene = stage.play(&[web], &[])?;
    let mut client = peer::start(&scene.client, ["raw", "--to", &WEB.to_string(), "--patience", "2000"])?;
    client.close_stdin();
    client.says("220 mail ready", Duration::from_secs(2))?;
    drop(client);
    let line = &scene.agent.logged(1)?[0];
    assert_eq!(line["protocol"], "TCP", "{line}");
    let samples = scene.agent.metrics()?;
    assert!(samples.sum("weir_opaque_connections_total", &[]) >= 1.0);
    Ok(())
}

#[test]
fn tls_that_a_pod_ends_is_tunnelled_and_logged_with_the_name_that_its_client_asked_for() -> Result<()> {
    needs_kernel!();
    const NAME: &str = "bank.example.com";
    let stage = Stage::new(0)?;
    let server = stage.topology.pod("bank", 50)?;
    let own = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let (trusted, key) = (stage.topology.dir().join("own.pem"), stage.topology.dir().join("own.key"));
    fs::write(&trusted, own.cert.pem())?;
    fs::write(&key, own.signing_key.serialize_pem())?;
    let mut command = server.command("openssl");
    command.args(["s_server", "-www", "-accept", &server.at(PORT).to_string()]);
    command.arg("-cert").arg(&trusted).arg("-key").arg(&key);
    let mut serving = server.spawn("openssl", command)?;
    serving.says("ACCEPT", Duration::from_secs(20))?;
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([server.at(PORT)]);
    let scene = stage.play(&[web], &[])?;
    let (trusted, resolve) = (trusted.display().to_string(), format!("{NAME}:{PORT}:{}", WEB.ip()));
    let url = format!("https://{NAME}:{PORT}/");
    let asked = ["--http1.1", "--cacert", &trusted, "--resolve", &resolve, "--max-time", "20", &url];
    let page = scene.client.curl(asked)?.success()?.text();
    assert!(page.contains("TLS_"), "{page}");
    let line = &scene.agent.logged(1)?[0];
    assert_eq!((&line["protocol"], &line["requested_server_name"]), (&"TCP".into(), &NAME.into()), "{line}");
    assert!(line["tls_version"].is_null(), "it ends in the pod: {line}");
    Ok(())
}

#[test]
fn k7_what_does_not_begin_like_http_is_tunnelled_byte_for_byte() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(0)?;
    let server = stage.topology.pod("echo", 50)?;
    let _serving = peer::Server::echo(&server, PORT)?;
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([server.at(PORT)]);
    let scene = stage.play(&[web], &[])?;
    for sent in ["\u{16}\u{3}\u{1} hello", "SSH-2.0-x\r\n"] {
        let (answer, ended) = scene.raw(sent.as_bytes(), &["--half-close"])?;
        assert_eq!((answer.as_str(), ended.as_str()), (sent, "eof"));
    }
    Ok(())
}

#[test]
fn k1_a_head_in_one_byte_writes_is_relayed_as_one() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=on"])?;
    let sent = b"GET /split HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n";
    let (answer, ended) = scene.raw(sent, &["--write", "1", "--pause", "1"])?;
    assert!(answer.contains("GET /split HTTP/1.1"), "{answer}");
    assert_eq!(ended, "eof");
    Ok(())
}

/// Runs Python in the client pod; `A` is the ClusterIP and `P` the port, `R` a request, and
/// `answer` reads a socket to its end.
fn python(scene: &Scene, code: &str) -> Result<String> {
    let prelude = format!(
        "import socket, sys\nA, P = {:?}, {}\n\
         R = b'GET / HTTP/1.1\\r\\nHost: demo\\r\\nConnection: close\\r\\n\\r\\n'\n\
         def answer(s):\n  return b''.join(iter(lambda: s.recv(65536), b'')).decode()\n",
        WEB.ip().to_string(),
        WEB.port()
    );
    let code = format!("{prelude}{code}");
    Ok(scene.client.run("python3", ["-c", &code], Duration::from_secs(30))?.success()?.text())
}

#[test]
fn b3_a_connect_by_tcp_fast_open_is_steered() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let code = "s = socket.socket()\ns.sendto(R, socket.MSG_FASTOPEN, (A, P))\nprint(answer(s))";
    assert!(python(&scene, code)?.contains("X-Server: server1"));
    assert_eq!(scene.agent.logged(1)?.len(), 1);
    Ok(())
}

#[test]
fn b4_a_connect_by_mptcp_is_steered() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let code = "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\ns.settimeout(3)\n\
                s.connect((A, P))\ns.send(R)\nprint(answer(s))";
    assert!(python(&scene, code)?.contains("X-Server: server1"));
    assert_eq!(scene.agent.logged(1)?.len(), 1);
    Ok(())
}

#[test]
fn b15_a_non_blocking_connect_is_steered_and_a_socket_that_connects_anew_keeps_no_stale_record() -> Result<()>
{
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let other = scene.topology.pod("other", 30)?;
    let _serving = peer::Server::http(&other, PORT)?;
    let code = format!(
        "import ctypes, select\ns = socket.socket()\ns.setblocking(False)\n\
         try: s.connect((A, P))\nexcept BlockingIOError: pass\nselect.select([], [s], [], 5)\n\
         s.setblocking(True)\nprint(s.getpeername()[0])\n\
         unspec = bytes(16)\nassert ctypes.CDLL(None).connect(s.fileno(), unspec, 16) == 0\n\
         s.connect(({:?}, P))\nprint(s.getpeername()[0])\ns.send(R)\nprint(answer(s))",
        other.v4().to_string()
    );
    let said = python(&scene, &code)?;
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some(WEB.ip().to_string().as_str()), "{said}");
    assert_eq!(lines.next(), Some(other.v4().to_string().as_str()), "{said}");
    assert!(said.contains("X-Server: other"), "{said}");
    Ok(())
}

#[test]
fn b8_udp_to_the_same_address_is_not_intercepted() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let code =
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.connect((A, P))\nprint(s.getpeername())";
    assert!(python(&scene, code)?.contains("10.96.0.10"));
    let samples = scene.agent.metrics()?;
    assert!(samples.sum("weir_kernel_events_total", &[("event", "steered")]).abs() < f64::EPSILON);
    Ok(())
}

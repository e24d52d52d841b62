//! WebSocket with a client and a server that nobody here wrote, the agent between.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::{Value, json};
use std::{fs, path::PathBuf, time::Duration};
use weir_tests::{
    binary,
    manifest::{self, Endpoint, HttpPolicy, Service},
    needs_kernel,
    pod::Pod,
    process::Process,
    requirements,
    scene::{PORT, Scene, Stage, WEB},
};

const START: Duration = Duration::from_secs(60);
const HOST: &str = "chat.example.com";
/// Tunnels are older than these when their last byte comes.
const IMPATIENT: [&str; 3] =
    ["--timeout-request=1s", "--timeout-response-body-idle=1s", "--timeout-downstream-idle=1s"];

/// The Python that has websockets; `None`, with a word, where there is none and none is required.
fn python() -> Option<PathBuf> {
    let python = binary::workspace().join("target/venv/bin/python");
    let has = std::process::Command::new(&python).args(["-c", "import websockets"]).output();
    let has = has.is_ok_and(|output| output.status.success());
    assert!(has || !requirements::required(), "websockets is required here: cargo xtask setup peers");
    if !has {
        eprintln!("skipped: websockets is not installed (cargo xtask setup peers)");
    }
    has.then_some(python)
}

fn asset(name: &str) -> PathBuf {
    binary::workspace().join("tests/tests/peers").join(name)
}

/// A server, and the manifests of the Service and the pod that it is behind.
struct Play {
    scene: Scene,
    python: PathBuf,
    outside: Pod,
    web: String,
    _server: Process,
}

impl Play {
    fn new(python: PathBuf, arguments: &[&str]) -> Result<Self> {
        Self::with(python, arguments, None)
    }

    /// The server with a certificate and its key, where it is one of TLS.
    fn with(python: PathBuf, arguments: &[&str], pair: Option<&str>) -> Result<Self> {
        let mut stage = Stage::new(0)?;
        let (pod, outside) = (stage.topology.pod("server", 11)?, stage.topology.remote_pod("outside", 10)?);
        let mut command = pod.command(&python);
        command.arg(asset("websocket_server.py")).args([pod.v4().to_string(), PORT.to_string()]);
        if let Some(pair) = pair {
            let file = stage.topology.dir().join("server.pem");
            fs::write(&file, pair)?;
            command.arg(file);
        }
        let mut server = pod.spawn("websocket", command)?;
        server.says("listening", START)?;
        let member = Endpoint::new(pod.at(PORT)).pod(pod.name());
        let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoint(member);
        let manifest = manifest::Pod::new(pod.name(), "web").address(pod.v4());
        let text = web.yaml() + &manifest.yaml();
        let mut scene = stage.play(&[web], arguments)?;
        scene.servers.push(pod);
        Ok(Self { scene, python, outside, web: text, _server: server })
    }

    /// What the client sees from this pod: a URL, whom it trusts, and where it connects to.
    fn talk(&self, from: &Pod, arguments: [&str; 3]) -> Result<Value> {
        let mut command = from.command(&self.python);
        command.arg(asset("websocket_client.py")).args(arguments);
        from.spawn("websocket", command)?.outcome(Duration::from_secs(120))?.success()?.json()
    }
}

fn expected(fields: &str, denied: u16) -> Value {
    json!({
        "text": "text: gr\u{fc}n",
        "large": true,
        "pong": true,
        "fragments": "in fragments",
        "pause": "after a pause",
        "closed": [4001, "as asked for"],
        "first": "the server speaks first",
        "fields": fields,
        "/refused": 426,
        "/plain": 200,
        "/denied": denied,
        "many": true,
    })
}

#[test]
fn websockets_of_a_service_pass_and_outlive_the_timeouts_of_requests() -> Result<()> {
    needs_kernel!();
    let Some(python) = python() else { return Ok(()) };
    let play = Play::new(python, &IMPATIENT)?;
    let scene = &play.scene;
    let said = play.talk(&scene.client, [&format!("ws://{WEB}"), "-", "-"])?;
    assert_eq!(said, expected(&format!("- {WEB}"), 101));
    let lines = scene.agent.logged(56)?;
    let of = |path: &str| lines.iter().find(|line| line["path"] == path).cloned().unwrap_or_default();
    let chat = of("/chat");
    assert_eq!((&chat["protocol"], &chat["response_code"]), (&json!("WebSocket"), &json!(101)), "{chat}");
    assert_eq!(chat["response_flags"], "-", "{chat}");
    assert!(chat["bytes_received"].as_u64() > Some(3 << 20), "{chat}");
    assert!(chat["bytes_sent"].as_u64() > Some(3 << 20), "{chat}");
    assert!(
        chat["duration"].as_f64() > Some(1500.0) && chat["response_duration"].as_f64() < Some(1500.0),
        "{chat}"
    );
    assert_eq!(
        (&of("/refused")["protocol"], &of("/refused")["response_code"]),
        (&json!("HTTP/1.1"), &json!(426))
    );
    let told = scene
        .agent
        .metrics_until("no tunnel is left", |all| all.sum("weir_upgraded_connections", &[]) == 0.0)?;
    assert_eq!(told.sum("weir_upgrades_total", &[("result", "switched")]), 54.0);
    assert_eq!(told.sum("weir_upgrades_total", &[("result", "declined")]), 2.0);
    Ok(())
}

#[test]
fn a_policy_decides_about_each_request_for_a_websocket() -> Result<()> {
    needs_kernel!();
    let Some(python) = python() else { return Ok(()) };
    let play = Play::new(python, &[])?;
    let policy = HttpPolicy::new("chat", "web", PORT)
        .allow(&[("method", "GET"), ("path", "/(chat(/[0-9]+)?|first|fields|refused|plain)")]);
    play.scene.agent.reconfigure_text(&(play.web.clone() + &policy.yaml()))?;
    let said = play.talk(&play.scene.client, [&format!("ws://{WEB}"), "-", "-"])?;
    assert_eq!(said, expected(&format!("- {WEB}"), 403));
    let lines = play.scene.agent.logged(56)?;
    let denied = lines.iter().find(|line| line["path"] == "/denied").cloned().unwrap_or_default();
    assert_eq!(
        (&denied["response_code_details"], &denied["policy_rule"]),
        (&json!("policy_denied"), &json!("demo/chat"))
    );
    Ok(())
}

#[test]
fn websockets_over_tls_end_at_an_ingress_and_follow_its_rules() -> Result<()> {
    needs_kernel!();
    let Some(python) = python() else { return Ok(()) };
    let play = Play::new(python, &IMPATIENT)?;
    let scene = &play.scene;
    let own = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
    let trusted = scene.topology.dir().join("own.pem");
    fs::write(&trusted, own.cert.pem())?;
    let secret = manifest::tls_secret("own", &own.cert.pem(), &own.signing_key.serialize_pem());
    let paths = ["/chat", "/first", "/fields", "/refused", "/plain"].map(|path| {
        format!("{{path: {path}, pathType: Prefix, backend: {{service: {{name: web, port: {{number: {PORT}}}}}}}}}")
    });
    let ingress = format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: chat, namespace: demo}}\nspec:\n  \
         tls: [{{hosts: [{HOST}], secretName: own}}]\n  rules:\n  - host: {HOST}\n    \
         http: {{paths: [{}]}}\n---\n",
        paths.join(", ")
    );
    scene.agent.reconfigure_text(&(play.web.clone() + &secret + &ingress))?;
    let node = scene.topology.node().v4().to_string();
    for from in [&play.outside, &scene.client] {
        let said = play.talk(from, [&format!("wss://{HOST}"), &trusted.display().to_string(), &node])?;
        assert_eq!(said, expected(&format!("https {HOST}"), 404));
    }
    let lines = scene.agent.logged(112)?;
    let chat = lines.iter().find(|line| line["path"] == "/chat").cloned().unwrap_or_default();
    assert_eq!(
        (&chat["protocol"], &chat["requested_server_name"]),
        (&json!("WebSocket"), &json!(HOST)),
        "{chat}"
    );
    Ok(())
}

/// By plain HTTP to the node, and in TLS to the endpoint, which has to prove that it is `HOST`.
const TO_TLS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: demo}
spec: {gatewayClassName: weir, listeners: [{name: http, port: 8081, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: chat, namespace: demo}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 8080}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: chat, namespace: demo}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  validation: {hostname: chat.example.com, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}
---
";

#[test]
fn websockets_reach_an_endpoint_in_tls_by_a_connection_of_their_own() -> Result<()> {
    needs_kernel!();
    let Some(python) = python() else { return Ok(()) };
    let own = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
    let pair = own.cert.pem() + &own.signing_key.serialize_pem();
    let play = Play::with(python, &IMPATIENT, Some(&pair))?;
    let authority = manifest::authorities("ca", &own.cert.pem());
    play.scene.agent.reconfigure_text(&(play.web.clone() + TO_TLS + &authority))?;
    let node = play.scene.topology.node().at(8081);
    let said = play.talk(&play.outside, [&format!("ws://{node}"), "-", "-"])?;
    assert_eq!(said, expected(&format!("http {node}"), 101));
    let lines = play.scene.agent.logged(56)?;
    let of = |path: &str| lines.iter().find(|line| line["path"] == path).cloned().unwrap_or_default();
    for path in ["/chat", "/plain"] {
        assert_eq!(of(path)["upstream_tls_version"], "TLSv1.3", "{}", of(path));
    }
    assert_eq!(of("/chat")["protocol"], "WebSocket");
    Ok(())
}

//! gRPC with clients and servers that nobody here wrote: grpcio on both sides, the agent between.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};
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

/// The Python that has grpcio; `None`, with a word, where there is none and none is required.
fn python() -> Option<PathBuf> {
    let python = binary::workspace().join("target/venv/bin/python");
    let has = std::process::Command::new(&python).args(["-c", "import grpc"]).output();
    let has = has.is_ok_and(|output| output.status.success());
    assert!(has || !requirements::required(), "grpcio is required here: cargo xtask setup peers");
    if !has {
        eprintln!("skipped: grpcio is not installed (cargo xtask setup peers)");
    }
    has.then_some(python)
}

fn asset(name: &str) -> PathBuf {
    binary::workspace().join("tests/tests/peers").join(name)
}

fn serve(pod: &Pod, python: &PathBuf) -> Result<Process> {
    let mut command = pod.command(python);
    command.arg(asset("grpc_server.py")).args([pod.v4().to_string(), PORT.to_string()]);
    let mut process = pod.spawn("grpc", command)?;
    process.says("listening", START)?;
    Ok(process)
}

/// A grpcio server behind `demo/web`, whose port says `protocol`.
fn play(python: &PathBuf, protocol: Option<&str>) -> Result<(Scene, Process)> {
    let stage = Stage::new(0)?;
    let pod = stage.topology.pod("server", 11)?;
    let server = serve(&pod, python)?;
    let member = Endpoint::new(pod.at(PORT)).pod(pod.name());
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoint(member);
    let web = protocol.into_iter().fold(web, Service::app_protocol);
    let mut scene = stage.play(&[web], &[])?;
    scene.servers.push(pod);
    Ok((scene, server))
}

fn call(scene: &Scene, python: &PathBuf) -> Result<Value> {
    let mut command = scene.client.command(python);
    command.arg(asset("grpc_client.py")).arg(WEB.to_string());
    scene.client.spawn("grpc", command)?.outcome(Duration::from_secs(120))?.success()?.json()
}

#[test]
fn calls_of_every_kind_pass_whether_the_service_says_grpc_or_nothing() -> Result<()> {
    needs_kernel!();
    let Some(python) = python() else { return Ok(()) };
    for protocol in [Some("grpc"), Some("kubernetes.io/h2c"), None] {
        let (scene, _server) = play(&python, protocol)?;
        let said = call(&scene, &python)?;
        let expected = json!({
            "unary": "abc",
            "initial": "n-1",
            "trailing": "3",
            "large": true,
            "empty": true,
            "fail": ["FAILED_PRECONDITION", "not like this: 50% gr\u{fc}n"],
            "unknown": "UNIMPLEMENTED",
            "deadline": "DEADLINE_EXCEEDED",
            "count": 499_500,
            "add": 10_000,
            "health": [8, 1],
            "chat": ["one", "two", "three"],
            "ended": true,
        });
        assert_eq!(said, expected, "{protocol:?}");
        let lines = scene.agent.logged(10)?;
        let of = |path: &str| lines.iter().find(|line| line["path"] == path).cloned().unwrap_or_default();
        assert_eq!(of("/demo.Echo/Unary")["grpc_status"], "0", "{lines:#?}");
        assert_eq!(of("/demo.Echo/Unary")["protocol"], "HTTP/2");
        assert_eq!(of("/demo.Echo/Fail")["grpc_status"], "9");
        let counted = |status: &str| {
            let labels = [("grpc_status", status), ("network_protocol_version", "2")];
            scene.agent.metrics().map(|all| all.sum("http_server_request_duration_seconds_count", &labels))
        };
        assert!(counted("0")? > 5.5 && counted("9")? > 0.5, "{:?}", scene.agent.metrics()?);
    }
    Ok(())
}

#[test]
fn a_call_that_no_rule_allows_is_permission_denied() -> Result<()> {
    needs_kernel!();
    let Some(python) = python() else { return Ok(()) };
    let (scene, _server) = play(&python, Some("grpc"))?;
    let pod = &scene.servers[0];
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).app_protocol("grpc").endpoints([pod.at(PORT)]);
    let allowed =
        HttpPolicy::new("unary", "web", PORT).allow(&[("method", "POST"), ("path", "/demo.Echo/Unary")]);
    let manifest = manifest::Pod::new(pod.name(), "web").address(pod.v4());
    scene.agent.reconfigure_text(&[web.yaml(), manifest.yaml(), allowed.yaml()].concat())?;
    let script = format!(
        "import grpc\nc = grpc.insecure_channel('{WEB}')\n\
         print(c.unary_unary('/demo.Echo/Unary')(b'abc', timeout=20))\n\
         try:\n    c.unary_unary('/demo.Echo/Add')(b'', timeout=20)\n\
         except grpc.RpcError as error:\n    print(error.code().name, error.details())\n"
    );
    let mut command = scene.client.command(&python);
    command.args(["-c", &script]);
    let said = scene.client.spawn("grpc", command)?.outcome(Duration::from_secs(60))?.success()?.text();
    assert_eq!(said, "b'abc'\nPERMISSION_DENIED Access denied\n");
    Ok(())
}

//! The agent with the Kubernetes API as its source: what it serves, with and without it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    path::Path,
    time::{Duration, Instant},
};
use weir_tests::{
    agent::{Agent, Builder},
    apiserver::ApiServer,
    manifest::{Pod as Manifest, Service},
    needs_kernel,
    peer::{self, Server},
    pod::Pod,
    scene::{PORT, Stage, WEB},
    topology::Topology,
    wait,
};

const SOON: Duration = Duration::from_secs(60);

fn web_of(stage: &Stage, server: usize) -> String {
    let endpoint = stage.servers[server].at(PORT);
    Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([endpoint]).yaml()
}

fn agent(stage: &Stage, kubeconfig: &Path) -> Result<Agent> {
    let run = stage.topology.dir().join("run");
    Builder::new(&stage.topology, &[])?
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--run-dir={}", run.display()))
        .arg("--node-name=node1")
        .start()
}

/// Which server answers the client.
fn answering(stage: &Stage) -> Result<String> {
    let told = stage.client.curl([format!("http://{WEB}/")])?.success()?.text();
    let told: Value = serde_json::from_str(&told)?;
    Ok(told["server"].as_str().context("no server")?.to_owned())
}

fn moves_to(stage: &Stage, server: &str) -> Result<()> {
    wait::until(SOON, &format!("{server} answers"), || Ok(answering(stage)? == server))
}

fn staleness(agent: &Agent) -> Result<f64> {
    Ok(agent.metrics()?.sum("weir_config_staleness_seconds", &[]))
}

#[test]
fn f5_traffic_follows_the_api_and_goes_on_without_it_even_across_a_restart() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(2)?;
    let server = stage.topology.node().netns().run(ApiServer::start)??;
    server.put_manifest(&web_of(&stage, 0))?;
    let kubeconfig = server.kubeconfig(stage.topology.dir())?;
    let mut first = agent(&stage, &kubeconfig)?;
    assert_eq!(answering(&stage)?, "server1");
    server.put_manifest(&web_of(&stage, 1))?;
    moves_to(&stage, "server2")?;
    assert!(staleness(&first)? < f64::EPSILON);

    // What changed is kept within ten seconds.
    let kept = stage.topology.dir().join("run/objects.json");
    let address = stage.servers[1].at(PORT).ip().to_string();
    wait::until(SOON, "the change is kept", || Ok(std::fs::read_to_string(&kept)?.contains(&address)))?;
    server.set_down(true);
    first.metrics_until("the state grows old", |all| all.sum("weir_config_staleness_seconds", &[]) > 0.1)?;
    assert_eq!(answering(&stage)?, "server2");
    assert_eq!(first.get("/readyz")?.status, 200);
    first.kill9()?;
    drop(first);

    let second = agent(&stage, &kubeconfig)?;
    assert_eq!(answering(&stage)?, "server2");
    assert!(staleness(&second)? > 0.1);
    let status = second.status()?;
    let degraded = status["degraded"].to_string();
    assert!(degraded.contains("source of the configuration"), "{degraded}");

    server.put_manifest(&web_of(&stage, 0))?;
    server.set_down(false);
    moves_to(&stage, "server1")?;
    wait::until(SOON, "the state is known again", || Ok(staleness(&second)? < f64::EPSILON))
}

const ONLY_CLIENTS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-clients, namespace: demo}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
---
";

#[test]
fn c12_a_label_that_changes_in_the_api_moves_verdicts_within_200_ms() -> Result<()> {
    const ROUNDS: usize = 10;
    const PORT: u16 = 9000;
    needs_kernel!();
    let topology = Topology::new()?;
    let (client, target) = (topology.pod("client", 10)?, topology.pod("server", 11)?);
    let _serving = Server::answer(&target, &[PORT])?;
    let server = topology.node().netns().run(ApiServer::start)??;
    let pod =
        |pod: &Pod, app: &str| Manifest::new(pod.name(), app).address(pod.v4()).address(pod.v6()).yaml();
    server.put_manifest(&(pod(&client, "client") + &pod(&target, "server") + ONLY_CLIENTS))?;
    let kubeconfig = server.kubeconfig(topology.dir())?;
    let _agent = Builder::new(&topology, &[])?
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg("--node-name=node1")
        .start()?;
    let mut watching =
        peer::start(&client, ["probe", "--follow", "--to", &format!("tcp:{}", target.at(PORT))])?;
    watching.says("open", SOON)?;
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let (app, word) = if round % 2 == 0 { ("other", "refused") } else { ("client", "open") };
        let from = watching.stdout()?.len() as u64;
        let begun = Instant::now();
        server.put_manifest(&pod(&client, app))?;
        wait::until(SOON, &format!("the client meets {word}"), || {
            Ok(String::from_utf8_lossy(&watching.stdout_from(from)?).contains(word))
        })?;
        took.push(begun.elapsed());
    }
    took.sort();
    eprintln!("label in the API to verdict: {took:?}");
    assert!(took[ROUNDS / 2] < Duration::from_millis(200), "{took:?}");
    Ok(())
}

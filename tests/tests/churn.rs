//! Policy changes while armed connections run: no request is decided by a generation older than the one in
//! force when it began, and none is lost.
#![allow(clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result, ensure};
use weir_tests::{
    conversation::Conversation,
    manifest::{HttpPolicy, Pod, Service},
    needs_kernel, peer,
    scene::{PORT, Scene, WEB},
};

/// Connections that are led request by request.
const LED: usize = 64;
/// How many of them ask something after a change: the next ones each time.
const ASK: usize = 8;
/// Changes of the policy in a run of the gate; `WEIR_CHURN` asks for another number, with `cargo test`
/// rather than under nextest's time limit.
const CHANGES: u32 = 12;

/// `demo/web` with a policy that allows `/` always and `/p0` or `/p1` in turn.
fn manifests(scene: &Scene, change: u32) -> Result<String> {
    let server = scene.server()?;
    let pod = Pod::new(server.name(), "web").address(server.v4()).yaml();
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([server.at(PORT)]).yaml();
    let turn = format!("/p{}", change % 2);
    let policy = HttpPolicy::new("turns", "web", PORT)
        .allow(&[("method", "GET"), ("path", "/")])
        .allow(&[("method", "GET"), ("path", &turn)]);
    Ok([web, pod, policy.yaml()].concat())
}

#[test]
fn a_request_is_decided_by_the_policy_in_force_when_it_began_through_all_changes() -> Result<()> {
    needs_kernel!();
    let changes = std::env::var("WEIR_CHURN").map_or(Ok(CHANGES), |text| text.parse())?;
    let scene = Scene::web(&["--acceleration=on", "--splice-control=0%"])?;
    scene.agent.reconfigure_text(&manifests(&scene, 0)?)?;
    let clients = (0..LED).map(|_| Conversation::start(&scene.client, WEB));
    let mut clients = clients.collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.arm(&scene)?;
    }
    let to = WEB.to_string();
    let load = ["load", "--to", &to, "--connections", "64", "--requests", "1000000", "--pause", "100"];
    let mut running = peer::start(&scene.client, load)?;
    let before = scene.agent.counters()?.spliced()?;
    for change in 1..=changes {
        scene.agent.reload_text(&manifests(&scene, change)?)?;
        let (allowed, denied) = (format!("/p{}", change % 2), format!("/p{}", (change + 1) % 2));
        clients.rotate_left(ASK);
        for client in clients.iter_mut().take(ASK) {
            // The second of each is decided on a connection that is armed anew.
            for (path, status) in [(&allowed, 200), (&allowed, 200), (&denied, 403), (&denied, 403)] {
                let answer = client.get(path).with_context(|| format!("change {change}, {path}"))?;
                ensure!(answer.status == status, "change {change}: {path} got {}", answer.status);
            }
        }
    }
    ensure!(running.ended()?.is_none(), "the load in the background has ended: {}", running.stderr_tail());
    running.kill()?;
    let carried = scene.agent.counters()?.spliced()? - before;
    ensure!(carried > u64::from(changes), "the kernel half carried {carried}");
    let errors = scene
        .agent
        .metrics()?
        .sum("http_server_request_duration_seconds_count", &[("error_type", "upstream_reset")]);
    ensure!(errors < 0.5, "{errors} requests were lost");
    let lines = scene.agent.access_log()?;
    let lost = lines.iter().find(|line| !matches!(line["response_code"].as_u64(), Some(200 | 403)));
    ensure!(lost.is_none_or(|line| line["response_flags"] == "DC"), "{lost:?}");
    Ok(())
}

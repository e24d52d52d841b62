//! What goes on when something dies, leaves, fills up or is missing. Each error names its object.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use proxy_common::abi::counter;
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use weir_tests::{
    agent::Builder,
    manifest::{ConfigDir, Endpoint, Pod as Manifest, Service},
    metrics::Samples,
    needs_kernel, peer,
    scene::{PORT, Scene, Stage, WEB},
    wait,
};

const PLAIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 30)), 9090);

fn direct(scene: &Scene) -> Result<String> {
    Ok(format!("http://{}/", scene.server()?.at(PORT)))
}

#[test]
fn f1_i5_after_kill_9_port_8080_is_usable_within_a_second() -> Result<()> {
    needs_kernel!();
    let mut scene = Scene::web(&[])?;
    scene.ask("/")?;
    let url = direct(&scene)?;
    scene.agent.kill9()?;
    let begun = Instant::now();
    wait::until(Duration::from_secs(1), "an endpoint's own address answers", || {
        Ok(scene.client.curl(["--max-time", "1", &url])?.status.success())
    })?;
    assert!(begun.elapsed() < Duration::from_secs(1));
    Ok(())
}

#[test]
fn f1_kill_9_under_load_resets_relayed_connections_at_once_and_leaves_plain_ones() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let plain =
        Service::new("plain", PLAIN.port()).cluster_ip(PLAIN.ip()).endpoints([stage.servers[0].at(PORT)]);
    let web = stage.web();
    let mut scene = stage.play(&[web, plain], &["--acceleration=on"])?;
    let load = |to: SocketAddr| {
        let to = to.to_string();
        peer::start(&scene.client, ["load", "--requests", "300", "--pause", "10", "--to", &to])
    };
    // The endpoint's own address: steered while there is an agent, plain afterwards.
    let (relayed, passed) = (load(scene.server()?.at(PORT))?, load(PLAIN)?);
    scene.agent.logged(20)?;
    scene.agent.kill9()?;
    let relayed = relayed.outcome(Duration::from_secs(20))?.json()?;
    let errors = relayed["errors"].as_object().unwrap();
    assert_eq!(errors.len(), 1, "one reset, then everything works: {relayed}");
    assert!(errors.values().all(|count| *count == 1), "{relayed}");
    assert_eq!(relayed["statuses"]["200"], 299, "{relayed}");
    assert!(relayed["elapsed_ms"].as_u64().unwrap() < 15_000, "a connection hung: {relayed}");
    let passed = passed.outcome(Duration::from_secs(20))?.json()?;
    assert_eq!(passed["statuses"]["200"], 300, "{passed}");
    Ok(())
}

#[test]
fn f2_a_new_agent_serves_within_two_seconds_after_kill_9() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let web = stage.web();
    let mut first = Builder::new(&stage.topology, std::slice::from_ref(&web))?.start()?;
    first.kill9()?;
    let begun = Instant::now();
    let scene = stage.play(&[web], &[])?;
    scene.ask("/")?;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    Ok(())
}

#[test]
fn f4_sigterm_finishes_running_requests_steers_no_new_ones_and_exits_0() -> Result<()> {
    needs_kernel!();
    let mut scene = Scene::web(&["--drain-timeout=10s"])?;
    let to = format!("http://{WEB}/delay/1500");
    let mut command = scene.client.command("curl");
    command.args(["--silent", "--show-error", "--include", &to]);
    let running = scene.client.spawn("slow", command)?;
    let open = |all: &Samples| all.sum("weir_downstream_connections", &[]) > 0.5;
    scene.agent.metrics_until("the request runs", open)?;
    scene.agent.terminate()?;
    // Not steered any more, so the endpoint's own address is reached without the agent.
    wait::until(Duration::from_secs(1), "readiness is gone", || {
        Ok(scene.agent.get("/readyz").map_or(true, |answer| answer.status == 503))
    })?;
    let seen: Value = scene.client.curl([direct(&scene)?])?.json()?;
    assert_eq!(seen["server"], "server1");
    let answer = running.outcome(Duration::from_secs(10))?.success()?.text();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    assert!(scene.agent.wait(Duration::from_secs(10))?.success());
    Ok(())
}

#[test]
fn f4_sigterm_closes_idle_kept_alive_connections_and_does_not_wait_for_them() -> Result<()> {
    needs_kernel!();
    let mut scene = Scene::web(&["--drain-timeout=30s"])?;
    let mut idle = peer::start(&scene.client, ["raw", "--to", &WEB.to_string(), "--patience", "30000"])?;
    idle.send(b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n")?;
    idle.says("X-Server", Duration::from_secs(10))?;
    scene.agent.terminate()?;
    assert!(scene.agent.wait(Duration::from_secs(10))?.success());
    assert_eq!(idle.outcome(Duration::from_secs(5))?.stderr.trim(), "eof");
    Ok(())
}

#[test]
fn f4_the_drain_timeout_ends_what_does_not_end_by_itself() -> Result<()> {
    needs_kernel!();
    let mut scene = Scene::web(&["--drain-timeout=500ms"])?;
    let mut hanging = peer::start(&scene.client, ["raw", "--to", &WEB.to_string(), "--patience", "20000"])?;
    hanging.send(b"GET /hang HTTP/1.1\r\nHost: demo\r\n\r\n")?;
    let open = |all: &Samples| all.sum("weir_upstream_connections", &[]) > 0.5;
    scene.agent.metrics_until("the request runs", open)?;
    scene.agent.terminate()?;
    assert!(scene.agent.wait(Duration::from_secs(10))?.success());
    hanging.wait(Duration::from_secs(5))?;
    Ok(())
}

#[test]
fn f4_a_second_sigterm_ends_the_agent_at_once() -> Result<()> {
    needs_kernel!();
    let mut scene = Scene::web(&["--drain-timeout=60s"])?;
    let mut hanging = peer::start(&scene.client, ["raw", "--to", &WEB.to_string(), "--patience", "20000"])?;
    hanging.send(b"GET /hang HTTP/1.1\r\nHost: demo\r\n\r\n")?;
    let open = |all: &Samples| all.sum("weir_upstream_connections", &[]) > 0.5;
    scene.agent.metrics_until("the request runs", open)?;
    scene.agent.terminate()?;
    wait::until(Duration::from_secs(2), "it drains", || {
        Ok(scene.agent.get("/readyz").map_or(true, |answer| answer.status == 503))
    })?;
    scene.agent.terminate()?;
    scene.agent.wait(Duration::from_secs(5))?;
    Ok(())
}

#[test]
fn f6_an_endpoint_that_resets_before_its_head_gives_502_uc() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    assert_eq!(scene.status_of("/reset")?, 502);
    let line = scene.agent.logged(1)?.remove(0);
    assert_eq!(line["response_flags"], "UC", "{line}");
    assert_eq!(line["response_code_details"], "upstream_reset", "{line}");
    Ok(())
}

#[test]
fn u10_an_endpoint_that_answers_garbage_gives_502() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    assert_eq!(scene.status_of("/garbage")?, 502);
    let line = scene.agent.logged(1)?.remove(0);
    assert_eq!(line["response_code_details"], "upstream_protocol", "{line}");
    Ok(())
}

#[test]
fn f9_a_refused_connect_gives_503_uf() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let closed = stage.servers[0].at(9999);
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([closed]);
    let scene = stage.play(&[web], &[])?;
    assert_eq!(scene.status_of("/")?, 503);
    let line = scene.agent.logged(1)?.remove(0);
    assert_eq!(line["response_flags"], "UF", "{line}");
    assert_eq!(line["upstream_host"], closed.to_string(), "{line}");
    Ok(())
}

#[test]
fn f16_a_pod_that_dies_within_a_request_gives_502_and_the_other_endpoint_goes_on() -> Result<()> {
    needs_kernel!();
    let mut scene = Scene::web_with(1, &[])?;
    let to = format!("http://{WEB}/hang");
    let mut command = scene.client.command("curl");
    command.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", &to]);
    let running = scene.client.spawn("doomed", command)?;
    let open = |all: &Samples| all.sum("weir_upstream_connections", &[]) > 0.5;
    scene.agent.metrics_until("the request runs", open)?;
    scene.serving[0].process.kill()?;
    assert_eq!(running.outcome(Duration::from_secs(10))?.text(), "502");
    Ok(())
}

/// A scene that can remember few connections, with that many and more held open.
fn full_table(policy: &str) -> Result<(Scene, Value)> {
    let scene = Scene::web(&["--max-flows=16", "--failure-policy", policy])?;
    let held = ["hold", "--to", &WEB.to_string(), "--connections", "200"].map(str::to_owned);
    let mut process = peer::start(&scene.client, held.iter().map(String::as_str))?;
    process.says("errors", Duration::from_secs(60))?;
    let told = serde_json::from_str(process.stdout_text()?.trim())?;
    drop(process);
    Ok((scene, told))
}

#[test]
fn d18_a_full_flow_table_sends_connections_straight_to_an_endpoint_when_it_fails_open() -> Result<()> {
    needs_kernel!();
    let (scene, told) = full_table("open")?;
    assert_eq!(told["open"], 200, "{told}");
    let samples = scene.agent.metrics()?;
    assert!(samples.sum("weir_kernel_events_total", &[("event", "table_full_open")]) > 0.0);
    recovers(&scene)
}

#[test]
fn d18_a_full_flow_table_refuses_connections_when_it_fails_closed() -> Result<()> {
    needs_kernel!();
    let (scene, told) = full_table("closed")?;
    assert!(told["open"].as_u64().unwrap() < 200, "{told}");
    assert!(!told["errors"].as_object().unwrap().is_empty(), "{told}");
    let samples = scene.agent.metrics()?;
    assert!(samples.sum("weir_kernel_events_total", &[("event", "table_full_closed")]) > 0.0);
    recovers(&scene)
}

#[test]
fn d18_a_full_flow_table_does_not_open_what_policies_deny() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web_with(2, &["--max-flows=16", "--failure-policy=open"])?;
    // Only server1 is open to the client.
    let policy = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: demo}
spec: {podSelector: {matchLabels: {app: closed}}, policyTypes: [Ingress]}
---
";
    let web = Service::new("web", PORT).cluster_ip(WEB.ip());
    let web =
        scene.servers.iter().fold(web, |web, pod| web.endpoint(Endpoint::new(pod.at(PORT)).pod(pod.name())));
    let pods = [(&scene.client, "client"), (&scene.servers[0], "open"), (&scene.servers[1], "closed")];
    let pods = pods.map(|(pod, app)| Manifest::new(pod.name(), app).address(pod.v4()).yaml()).concat();
    scene.agent.reconfigure_text(&format!("---\n{}{pods}{policy}", web.yaml()))?;
    let mut holding = peer::start(&scene.client, ["hold", "--to", &WEB.to_string(), "--connections", "100"])?;
    holding.says("errors", Duration::from_secs(60))?;
    let before = scene.agent.counters()?.get(counter::TABLE_FULL_OPEN)?;
    assert!(before > 0);
    let told = scene.load(&WEB.to_string(), &["--connections=4", "--requests=25", "--reconnect=1"])?;
    assert!(scene.agent.counters()?.get(counter::TABLE_FULL_OPEN)? > before, "{told}");
    assert_eq!(told["servers"], serde_json::json!({"server1": 100}), "{told}");
    Ok(())
}

/// With the held connections gone, new ones are steered again.
fn recovers(scene: &Scene) -> Result<()> {
    let mut asked = 0;
    wait::until(Duration::from_secs(10), "a request is steered again", || {
        asked += 1;
        let path = format!("/again/{asked}");
        Ok(scene.ask(&path).is_ok()
            && wait::until(Duration::from_millis(500), "its line", || {
                Ok(scene.agent.access_log()?.iter().any(|line| line["path"] == path))
            })
            .is_ok())
    })
}

#[test]
fn d14_connections_past_the_limit_are_reset_and_those_within_go_on() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--max-connections=20"])?;
    let mut holding = peer::start(&scene.client, ["hold", "--to", &WEB.to_string(), "--connections", "20"])?;
    holding.says("errors", Duration::from_secs(30))?;
    let full = |all: &Samples| all.sum("weir_downstream_connections", &[]) > 19.5;
    scene.agent.metrics_until("the limit is reached", full)?;
    assert!(scene.ask("/").is_err());
    assert!(scene.agent.metrics()?.sum("weir_downstream_refused_total", &[]) > 0.5);
    drop(holding);
    wait::until(Duration::from_secs(10), "there is room again", || Ok(scene.ask("/").is_ok()))
}

#[test]
fn d14_one_clients_limit_does_not_touch_another_client() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let (web, other) = (stage.web(), stage.topology.pod("other", 40)?);
    let scene = stage.play(&[web], &["--max-connections-per-client=5"])?;
    let mut holding = peer::start(&scene.client, ["hold", "--to", &WEB.to_string(), "--connections", "5"])?;
    holding.says("errors", Duration::from_secs(30))?;
    let full = |all: &Samples| all.sum("weir_downstream_connections", &[]) > 4.5;
    scene.agent.metrics_until("the limit is reached", full)?;
    assert!(scene.ask("/").is_err());
    assert!(other.curl([format!("http://{WEB}/")])?.status.success());
    Ok(())
}

#[test]
fn b12_the_pods_end_frees_what_the_agent_kept_of_it() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let (web, guest) = (stage.web(), stage.topology.pod("guest", 40)?);
    let scene = stage.play(&[web], &[])?;
    let base = scene.agent.open_files()?;
    let load = ["load", "--to", &WEB.to_string(), "--connections", "8", "--requests", "4"].map(str::to_owned);
    peer::run(&guest, load.iter().map(String::as_str))?.success()?;
    drop(guest);
    wait::until(Duration::from_secs(20), "its pooled connections and its namespace are closed", || {
        Ok(scene.agent.open_files()? <= base + 2)
    })
}

#[test]
fn configuration_that_is_announced_again_and_again_does_not_keep_the_agent_from_starting() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let web = stage.web();
    let mut agent = Builder::new(&stage.topology, &[web])?.launch()?;
    let proc = format!("/proc/{}/status", agent.pid());
    // From when on it hears SIGHUP, the first of signals, and does not end of it.
    wait::until(Duration::from_secs(20), "it hears SIGHUP", || {
        let status = fs::read_to_string(&proc)?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
        Ok(u64::from_str_radix(caught.trim(), 16)? & 1 == 1)
    })?;
    let pid = rustix::process::Pid::from_raw(agent.pid().try_into()?).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait::until(Duration::from_secs(120), "the agent has started, or ended", || {
                Ok(kill_process(pid, Signal::HUP).is_err() || over.load(Ordering::Relaxed))
            })
        });
        let ready = agent.ready();
        over.store(true, Ordering::Relaxed);
        ready
    })?;
    let url = format!("http://{WEB}/");
    assert!(stage.client.curl([&url])?.status.success());
    Ok(())
}

/// Runs `weir run` with a configuration that cannot work; what it said before it failed.
fn refusal(builder: &Builder<'_>, stage: &Stage) -> Result<(i32, String)> {
    let process = stage.topology.agent().spawn("doomed", builder.command()?)?;
    let outcome = process.outcome(Duration::from_secs(30))?;
    assert!(!outcome.status.success());
    Ok((outcome.status.code().unwrap_or(-1), outcome.stderr))
}

#[test]
fn a_missing_configuration_directory_is_named() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(0)?;
    let missing = stage.topology.dir().join("no-such-dir");
    let builder = Builder::new(&stage.topology, &[])?.config(ConfigDir::existing(missing.clone()));
    let (_, said) = refusal(&builder, &stage)?;
    assert!(said.contains(&missing.display().to_string()), "{said}");
    Ok(())
}

#[test]
fn a_missing_pod_cgroup_is_named() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(0)?;
    let builder = Builder::new(&stage.topology, &[])?.arg("--pod-cgroup=/no/such/cgroup");
    let (_, said) = refusal(&builder, &stage)?;
    assert!(said.contains("/no/such/cgroup"), "{said}");
    Ok(())
}

#[test]
fn a_listen_address_that_is_not_the_nodes_is_named() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(0)?;
    let builder = Builder::new(&stage.topology, &[])?.arg("--listen-addr=10.9.9.9");
    let (_, said) = refusal(&builder, &stage)?;
    assert!(said.contains("10.9.9.9"), "{said}");
    Ok(())
}

#[test]
fn f24_a_second_agent_on_the_same_run_directory_refuses_and_names_it() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let run_dir = format!("--run-dir={}", stage.topology.dir().join("one").display());
    let second = Builder::new(&stage.topology, &[])?.arg(&run_dir).arg("--admin-addr=127.0.0.1:15021");
    let command = second.arg("--listen-port=15002").command()?;
    let web = stage.web();
    let scene = stage.play(&[web], &[&run_dir])?;
    let outcome = scene.topology.agent().spawn("second", command)?.outcome(Duration::from_secs(20))?;
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains(run_dir.trim_start_matches("--run-dir=")), "{}", outcome.stderr);
    scene.ask("/")?;
    Ok(())
}

#[test]
fn f23_without_the_right_to_load_bpf_the_missing_capability_is_named() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(0)?;
    let builder = Builder::new(&stage.topology, &[])?;
    let full = builder.command()?;
    // The same command line under setpriv, without the capabilities that bpf(2) needs.
    let mut words = full.get_args().map(std::ffi::OsStr::to_owned);
    let entry: Vec<_> = words.by_ref().take_while(|word| word != "--").collect();
    let mut command = std::process::Command::new(full.get_program());
    let drop = "-all,+net_bind_service,+dac_override";
    command
        .args(entry)
        .args(["--", "setpriv", "--bounding-set", drop, "--inh-caps", "-all", "--"])
        .args(words);
    let outcome = stage.topology.agent().spawn("powerless", command)?.outcome(Duration::from_secs(20))?;
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("CAP_BPF"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn nothing_is_left_after_exit() -> Result<()> {
    needs_kernel!();
    let mut scene = Scene::web(&["--drain-timeout=1s"])?;
    scene.ask("/")?;
    let ids = |scene: &Scene| -> Result<Vec<u64>> {
        let status = scene.agent.status()?;
        let programs = status["kernel"]["programs"].as_array().unwrap().clone();
        Ok(programs.iter().map(|program| program["id"].as_u64().unwrap()).collect())
    };
    let loaded = ids(&scene)?;
    assert!(!loaded.is_empty());
    scene.agent.process().signal(Signal::TERM)?;
    assert!(scene.agent.wait(Duration::from_secs(10))?.success());
    // Sockets that sit in a map hold its programs until they are closed; ours are, at exit.
    wait::until(Duration::from_secs(10), "the programs are gone", || {
        let shown =
            weir_tests::shell::run(std::process::Command::new("bpftool").args(["-j", "prog", "show"]))?;
        let shown: Value = serde_json::from_str(&shown)?;
        let alive = shown.as_array().unwrap().iter().filter_map(|program| program["id"].as_u64());
        Ok(!alive.into_iter().any(|id| loaded.contains(&id)))
    })
}

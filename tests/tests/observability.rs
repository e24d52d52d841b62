//! What operators are told: metrics, the access log, status, and their limits.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::Value;
use std::time::Duration;
use weir_tests::{
    cgroup,
    metrics::Samples,
    needs_kernel, peer,
    scene::{PORT, Scene, WEB},
    shell, wait,
};

const SERVER_COUNT: &str = "http_server_request_duration_seconds_count";

#[test]
fn status_shows_listeners_clusters_endpoints_maps_and_the_self_test() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let status = scene.agent.status()?;
    assert_eq!(status["readiness"]["state"], "ready", "{status}");
    assert_eq!(status["mode"]["steering"], "ebpf");
    assert_eq!(status["mode"]["acceleration"], "auto");
    assert!(!status["mode"]["self_test"].as_array().unwrap().is_empty(), "{status}");
    let listener = scene.topology.node().at(15001).to_string();
    assert!(status["listeners"].as_array().unwrap().iter().any(|addr| *addr == listener), "{status}");
    let cluster = &status["clusters"][0];
    assert_eq!(cluster["name"], "demo/web:8080");
    assert_eq!(cluster["lane"], "steer");
    let endpoint = scene.server()?.at(PORT).to_string();
    assert!(cluster["endpoints"].as_array().unwrap().iter().any(|member| member["addr"] == endpoint));
    for map in status["kernel"]["maps"].as_array().unwrap() {
        assert!(map["capacity"].as_u64().unwrap() > 0 && map["name"].as_str().unwrap().len() <= 15, "{map}");
    }
    Ok(())
}

#[test]
fn an_agent_that_nobody_asks_anything_uses_next_to_no_processor_time() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    scene.ask("/")?;
    scene.agent.logged(1)?;
    let used = || cgroup::cpu_time(scene.topology.agent().cgroup().path());
    let (before, idle) = (used()?, Duration::from_secs(3));
    // A loop that wakes itself takes a processor, or what others leave of it.
    wait::throughout(idle, "the agent uses less than a quarter of it", || Ok(used()? - before < idle / 4))
}

#[test]
fn the_lane_of_a_request_is_a_label() -> Result<()> {
    needs_kernel!();
    for (arguments, lanes) in [
        (&["--acceleration=off"][..], &["plain"][..]),
        (&["--acceleration=on", "--splice-pairs=0"], &["relay", "plain"]),
        (&["--acceleration=on", "--splice-control=0%"], &["splice", "relay", "plain"]),
    ] {
        let scene = Scene::web(arguments)?;
        scene.load(&WEB.to_string(), &["--requests", "20"])?;
        let counted = |all: &Samples| all.sum(SERVER_COUNT, &[]) > 19.5;
        let samples = scene.agent.metrics_until("all are counted", counted)?;
        let by_lane = |lane| samples.sum(SERVER_COUNT, &[("lane", lane)]);
        assert!(by_lane(lanes[0]) > 0.5, "{arguments:?}: nothing in {}", lanes[0]);
        let sum: f64 = lanes.iter().map(|lane| by_lane(lane)).sum();
        assert!((sum - 20.0).abs() < 0.5, "{arguments:?}: {sum} in {lanes:?}");
        let told = scene.agent.status()?["lanes"].clone();
        let told: u64 = lanes.iter().filter_map(|lane| told[lane].as_u64()).sum();
        assert_eq!(told, 20, "{arguments:?}");
    }
    Ok(())
}

#[test]
fn latencies_below_a_millisecond_have_buckets_beside_the_standard_ones() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    scene.ask("/")?;
    let counted = |all: &Samples| all.sum(SERVER_COUNT, &[]) > 0.5;
    let samples = scene.agent.metrics_until("it is counted", counted)?;
    let buckets: Vec<f64> = samples
        .with("http_server_request_duration_seconds_bucket", &[])
        .filter_map(|bucket| bucket.labels["le"].parse().ok())
        .collect();
    let has = |edge: f64| buckets.iter().any(|found| (found - edge).abs() < 1e-9);
    let standard = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
    assert!(standard.into_iter().all(has), "{buckets:?}");
    assert!(buckets.iter().filter(|edge| **edge < 0.001).count() >= 2, "{buckets:?}");
    Ok(())
}

#[test]
fn flows_tell_handshakes_bytes_and_who_closed_in_every_mode() -> Result<()> {
    needs_kernel!();
    for mode in ["--acceleration=off", "--acceleration=on"] {
        let scene = Scene::web(&[mode])?;
        let sent = b"GET /trickle/5000/0 HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n";
        let (answer, _) = scene.raw(sent, &[])?;
        let hop = [("hop", "downstream")];
        let closed = |all: &Samples| all.sum("weir_tcp_closed_total", &hop) > 0.5;
        let samples = scene.agent.metrics_until("the flow has ended", closed)?;
        let bytes = |name| samples.sum(name, &hop).round();
        let told = bytes("weir_tcp_sent_bytes_total");
        // TCP counts a FIN as a byte.
        assert!((told - sent.len() as f64).abs() < 1.5, "{mode}: {told} of {}", sent.len());
        let received = bytes("weir_tcp_received_bytes_total");
        assert!((received - answer.len() as f64).abs() < 1.5, "{mode}: {received} of {}", answer.len());
        assert!(samples.sum("weir_tcp_handshake_duration_seconds_count", &hop) > 0.5);
        let by = [("hop", "downstream"), ("closed_by", "agent"), ("kind", "fin")];
        let closes: Vec<_> = samples.with("weir_tcp_closed_total", &hop).collect();
        assert!(samples.sum("weir_tcp_closed_total", &by) > 0.5, "{mode}: {closes:?}");
    }
    Ok(())
}

#[test]
fn a_client_that_resets_is_told_apart_from_one_that_closes() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    peer::raw(&scene.client, WEB, b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n", &["--reset"])?.success()?;
    peer::raw(&scene.client, WEB, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &["--half-close"])?.success()?;
    for kind in ["reset", "fin"] {
        let by = [("hop", "downstream"), ("closed_by", "downstream"), ("kind", kind)];
        scene.agent.metrics_until(kind, |all| all.sum("weir_tcp_closed_total", &by) > 0.5)?;
    }
    Ok(())
}

#[test]
fn every_request_has_one_line_and_one_count_under_load_and_no_event_is_lost() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let load = ["--connections", "16", "--requests", "250", "--reconnect", "50"];
    let told = scene.load(&WEB.to_string(), &load)?;
    assert_eq!(told["statuses"]["200"], 4000, "{told}");
    let samples = scene.agent.metrics_until("all are counted", |all| all.sum(SERVER_COUNT, &[]) > 3999.5)?;
    assert!((samples.sum(SERVER_COUNT, &[]) - 4000.0).abs() < 0.5);
    assert!(samples.sum("weir_ringbuf_lost_events_total", &[]).abs() < f64::EPSILON);
    assert!(samples.sum("weir_access_log_dropped_total", &[]).abs() < f64::EPSILON);
    assert!(samples.sum("weir_access_log_lost_total", &[]).abs() < f64::EPSILON);
    let lines = scene.agent.logged(4000)?;
    assert_eq!(lines.len(), 4000);
    // Those of connections that are closed by now, too.
    let known = |line: &&Value| line["orig_dst"] == WEB.to_string() && line["cgroup_id"] != 0;
    assert_eq!(lines.iter().filter(known).count(), 4000);
    Ok(())
}

#[test]
fn request_id_and_traceparent_reach_the_endpoint_and_the_log() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let fields = ["-H", "X-Request-Id: abc-1", "-H", &format!("traceparent: {trace}")];
    let url = format!("http://{WEB}/");
    let seen = scene.client.curl(fields.into_iter().chain([url.as_str()]))?.text();
    assert!(seen.contains(r#"["X-Request-Id","abc-1"]"#) && seen.contains(trace), "{seen}");
    let line = scene.agent.logged(1)?.remove(0);
    assert_eq!(line["x_request_id"], "abc-1", "{line}");
    assert_eq!(line["traceparent"], trace, "{line}");
    scene.ask("/")?;
    let own = scene.agent.logged(2)?.remove(1);
    assert!(!own["x_request_id"].as_str().unwrap().is_empty(), "{own}");
    Ok(())
}

#[test]
fn d20_labels_do_not_grow_with_paths_methods_and_hosts() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    scene.ask("/")?;
    let methods = ["GET", "REPORT", "PURGE", "PROPFIND", "LOCK"];
    let mut bytes = b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n".to_vec();
    for n in 0..300 {
        let method = methods[n % methods.len()];
        let request = format!("{method} /p/{n}?q={n} HTTP/1.1\r\nHost: h{n}\r\nUser-Agent: u{n}\r\n\r\n");
        bytes.extend_from_slice(request.as_bytes());
    }
    // A method that nobody has registered is refused, by whatever name.
    bytes.extend_from_slice(b"M1 / HTTP/1.1\r\nHost: demo\r\n\r\n");
    let (answers, _) = scene.raw(&bytes, &["--half-close"])?;
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 301);
    assert_eq!(answers.matches("HTTP/1.1 501 ").count(), 1);
    let samples = scene.agent.metrics_until("all are counted", |all| all.sum(SERVER_COUNT, &[]) > 301.5)?;
    let series = samples.with(SERVER_COUNT, &[]).count();
    assert!(series <= 4, "{series} series");
    Ok(())
}

#[test]
fn d21_hostile_text_cannot_forge_a_log_line() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let agent = "\u{1b}[2J\"},{\"x\":1} \u{e2}\u{80}\u{a8}".replace('\u{1b}', "\t");
    let long = "a".repeat(8000);
    let sent = format!(
        "GET /a%22\"{{\"x\":1}}?{} HTTP/1.1\r\nHost: demo\r\nUser-Agent: {agent}{long}\r\nConnection: close\r\n\r\n",
        "b".repeat(4000)
    );
    scene.raw(sent.as_bytes(), &[])?;
    scene.ask("/marker")?;
    let lines = wait::eventually(Duration::from_secs(10), "the marker is logged", || {
        let lines = scene.agent.access_log()?;
        Ok(lines.iter().any(|line| line["path"] == "/marker").then_some(lines))
    })?;
    assert!(lines.len() <= 2, "{lines:?}");
    let text = std::fs::read_to_string(scene.agent.access_log_path())?;
    assert!(text.chars().all(|char| char == '\n' || !char.is_control()), "{text:?}");
    assert!(text.lines().all(|line| line.len() < 8192), "{}", text.len());
    Ok(())
}

#[test]
fn f19_an_access_log_that_cannot_be_written_costs_lines_and_no_request() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--access-log=/dev/full", "--access-log-queue=16"])?;
    let told = scene.load(&WEB.to_string(), &["--requests", "300"])?;
    assert_eq!(told["statuses"]["200"], 300, "{told}");
    let dropped = |all: &Samples| all.sum("weir_access_log_dropped_total", &[]) > 299.5;
    scene.agent.metrics_until("every lost line is counted", dropped)?;
    Ok(())
}

#[test]
fn f19_an_access_log_whose_reader_sleeps_blocks_no_request() -> Result<()> {
    needs_kernel!();
    let stage = weir_tests::scene::Stage::new(1)?;
    let fifo = stage.topology.dir().join("log.fifo");
    shell::run(std::process::Command::new("mkfifo").arg(&fifo))?;
    // Open for both, so that the agent's open does not wait; nobody reads.
    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&fifo)?;
    let web = stage.web();
    let scene =
        stage.play(&[web], &[&format!("--access-log={}", fifo.display()), "--access-log-queue=16"])?;
    let told = scene.load(&WEB.to_string(), &["--requests", "1000"])?;
    assert_eq!(told["statuses"]["200"], 1000, "{told}");
    let dropped = |all: &Samples| all.sum("weir_access_log_dropped_total", &[]) > 100.0;
    scene.agent.metrics_until("lost lines are counted", dropped)?;
    Ok(())
}

#[test]
fn the_admin_listener_answers_livez_readyz_and_status() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    for path in ["/livez", "/readyz", "/metrics", "/status"] {
        assert_eq!(scene.agent.get(path)?.status, 200, "{path}");
    }
    assert_eq!(scene.agent.get("/nothing-here")?.status, 404);
    let told: Value = serde_json::from_str(&scene.agent.get("/status")?.body)?;
    assert!(told["version"].is_string());
    Ok(())
}

//! Every timeout fires with its own status, flag and label, and does not fire within its limit.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::Value;
use std::time::{Duration, Instant};
use weir_tests::{
    manifest::Service,
    needs_kernel, peer,
    scene::{PORT, Scene, Stage, WEB},
};

/// The one access-log line; checks its flag, label and status, and that the metric has the label.
fn reported(scene: &Scene, status: u64, flag: &str, label: &str) -> Result<Value> {
    let line = scene.agent.logged(1)?.remove(0);
    assert_eq!(line["response_flags"], flag, "{line}");
    assert_eq!(line["response_code_details"], label, "{line}");
    assert_eq!(line["response_code"], status, "{line}");
    let name = "http_server_request_duration_seconds_count";
    let counted = |all: &weir_tests::metrics::Samples| all.sum(name, &[("error_type", label)]) > 0.5;
    scene.agent.metrics_until("the error is counted", counted)?;
    Ok(line)
}

#[test]
fn f9_an_endpoint_that_does_not_answer_a_connect_gives_503_uf() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(0)?;
    let nobody = format!("10.244.1.99:{PORT}").parse()?;
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([nobody]);
    let scene = stage.play(&[web], &["--timeout-connect=300ms"])?;
    assert_eq!(scene.status_of("/")?, 503);
    reported(&scene, 503, "UF", "connect_timeout")?;
    Ok(())
}

#[test]
fn d3_a_head_that_stays_incomplete_gives_408() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--timeout-request-head=300ms"])?;
    let (answer, ended) = scene.raw(b"GET / HTTP/1.1\r\nHost: de", &[])?;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    assert_eq!(ended, "eof");
    reported(&scene, 408, "DPE", "request_head_timeout")?;
    Ok(())
}

#[test]
fn d3_a_head_that_trickles_past_the_limit_gives_408() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--timeout-request-head=300ms"])?;
    let head = format!("GET / HTTP/1.1\r\nHost: demo\r\nX-Long: {}", "a".repeat(100));
    let (answer, _) = scene.raw(head.as_bytes(), &["--write", "1", "--pause", "20"])?;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    Ok(())
}

#[test]
fn s20_d4_a_silent_request_body_gives_408() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--timeout-request-body-idle=300ms"])?;
    let (answer, ended) =
        scene.raw(b"POST /sink HTTP/1.1\r\nHost: demo\r\nContent-Length: 10\r\n\r\nabc", &[])?;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    assert_eq!(ended, "eof");
    reported(&scene, 408, "DPE", "request_body_idle")?;
    Ok(())
}

#[test]
fn f7_an_endpoint_that_never_answers_gives_504_ut() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--timeout-response-head=300ms"])?;
    assert_eq!(scene.status_of("/hang")?, 504);
    reported(&scene, 504, "UT", "response_head_timeout")?;
    Ok(())
}

#[test]
fn a_request_that_takes_too_long_as_a_whole_gives_504_ut() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--timeout-request=400ms"])?;
    let begun = Instant::now();
    assert_eq!(scene.status_of("/delay/5000")?, 504);
    assert!(begun.elapsed() < Duration::from_secs(4));
    reported(&scene, 504, "UT", "request_timeout")?;
    Ok(())
}

#[test]
fn u4_a_silent_answer_body_aborts_the_connection() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--timeout-response-body-idle=300ms"])?;
    let asked = scene.client.curl(["--output", "/dev/null", &format!("http://{WEB}/stall/1000")])?;
    assert!(matches!(asked.status.code(), Some(18 | 56)), "{asked:?}");
    let line = scene.agent.logged(1)?.remove(0);
    assert_eq!(line["response_flags"], "UT", "{line}");
    assert_eq!(line["response_code_details"], "response_body_idle", "{line}");
    assert_eq!(line["bytes_sent"], 1000, "{line}");
    Ok(())
}

#[test]
fn an_idle_client_connection_is_closed() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--timeout-downstream-idle=300ms"])?;
    let (answer, ended) = scene.raw(b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n", &[])?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    assert_eq!(ended, "eof");
    assert_eq!(scene.agent.logged(1)?.len(), 1);
    Ok(())
}

#[test]
fn an_idle_pooled_connection_is_closed_and_a_busy_one_is_reused() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--timeout-upstream-idle=1s"])?;
    let count = || -> Result<Value> { Ok(serde_json::from_str::<Value>(&scene.ask("/")?)?["count"].clone()) };
    assert_eq!(count()?, 1);
    assert_eq!(count()?, 2, "the pooled connection was not reused");
    let open = |all: &weir_tests::metrics::Samples| all.sum("weir_upstream_connections", &[]);
    scene.agent.metrics_until("the pooled connection is closed", |all| open(all) < 0.5)?;
    assert_eq!(count()?, 1);
    Ok(())
}

#[test]
fn nothing_fires_within_its_limit() -> Result<()> {
    needs_kernel!();
    let limits = [
        "--timeout-connect=2s",
        "--timeout-request-head=2s",
        "--timeout-request-body-idle=1s",
        "--timeout-response-head=1s",
        "--timeout-request=1500ms",
        "--timeout-response-body-idle=1s",
        "--timeout-downstream-idle=1s",
    ];
    let scene = Scene::web(&limits)?;
    // Longer than any one limit in sum, shorter between two bytes: head, body, answer.
    let sent = b"POST /sink HTTP/1.1\r\nHost: demo\r\nContent-Length: 8\r\n\r\nabcdefgh";
    let (answer, _) = scene.raw(sent, &["--write", "12", "--pause", "150", "--patience", "500"])?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    assert_eq!(scene.status_of("/delay/500")?, 200);
    // An answer that streams is not bound by the request's limit once it has begun.
    assert_eq!(scene.ask("/trickle/10/200?chunked")?.len(), 10);
    for line in scene.agent.logged(3)? {
        assert_eq!(line["response_flags"], "-", "{line}");
    }
    Ok(())
}

#[test]
fn a_zero_timeout_never_fires() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--timeout-response-head=0s", "--timeout-request=0s"])?;
    assert_eq!(scene.status_of("/delay/800")?, 200);
    Ok(())
}

#[test]
fn an_annotation_sets_the_timeouts_of_its_service_alone() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let hasty = stage.web().annotation("weir.dev/timeouts", "realtime,response-head=300ms");
    let other = Service::new("other", PORT)
        .cluster_ip("10.96.0.20".parse::<std::net::Ipv4Addr>()?)
        .endpoints([stage.servers[0].at(PORT)]);
    let scene = stage.play(&[hasty, other], &[])?;
    assert_eq!(scene.status_of("/delay/1500")?, 504);
    let patient = scene.client.curl(["--fail", &format!("http://10.96.0.20:{PORT}/delay/1500")])?;
    assert!(patient.status.success(), "{patient:?}");
    Ok(())
}

const HANG: &[u8] = b"GET /hang HTTP/1.1\r\nHost: demo\r\n\r\n";

/// The one log line says that the client went, and the upstream connection is closed.
fn cancelled(scene: &Scene) -> Result<()> {
    let line = scene.agent.logged(1)?.remove(0);
    assert_eq!(line["response_flags"], "DC", "{line}");
    let open = |all: &weir_tests::metrics::Samples| all.sum("weir_upstream_connections", &[]);
    scene.agent.metrics_until("the upstream connection is closed", |all| open(all) < 0.5)?;
    Ok(())
}

#[test]
fn a_client_that_resets_cancels_the_upstream_request() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let mut client = peer::start(&scene.client, ["raw", "--to", &WEB.to_string(), "--reset", "--hold"])?;
    client.send(HANG)?;
    let open = |all: &weir_tests::metrics::Samples| all.sum("weir_upstream_connections", &[]);
    scene.agent.metrics_until("the endpoint has the request", |all| open(all) > 0.5)?;
    client.kill()?;
    cancelled(&scene)
}

#[test]
fn a_client_that_closes_before_it_is_accepted_is_served_all_the_same() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let fire = b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n";
    scene.agent.stopped(|| peer::raw(&scene.client, WEB, fire, &["--close"])?.success())?;
    let line = scene.agent.logged(1)?.remove(0);
    assert_eq!(line["method"], "GET", "{line}");
    assert_eq!(line["upstream_host"], scene.server()?.at(PORT).to_string(), "{line}");
    Ok(())
}

#[test]
fn a_client_that_resets_before_it_is_accepted_is_counted_as_gone() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    scene.agent.stopped(|| peer::raw(&scene.client, WEB, HANG, &["--reset"])?.success())?;
    scene.agent.metrics_until("the client is counted as gone", |all| {
        all.sum("weir_downstream_refused_total", &[("limit", "client_gone")]) > 0.5
    })?;
    Ok(())
}

#[test]
fn a_client_that_closes_cancels_the_upstream_request() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let asked = scene.client.curl(["--max-time", "0.5", &format!("http://{WEB}/hang")])?;
    assert_eq!(asked.status.code(), Some(28), "{asked:?}");
    cancelled(&scene)
}

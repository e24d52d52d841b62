//! HTTP/2 with prior knowledge, by clients that nobody here wrote.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::Value;
use std::time::Duration;
use weir_tests::{
    needs_kernel, requirements,
    scene::{Scene, Stage, WEB},
};

const LONG: Duration = Duration::from_secs(120);

/// `demo/web`, whose scripted server speaks HTTP/1.1, and says so.
fn scene(arguments: &[&str]) -> Result<Scene> {
    let stage = Stage::new(1)?;
    let web = stage.web().app_protocol("http");
    stage.play(&[web], arguments)
}

#[test]
fn curl_speaks_http2_with_an_endpoint_that_speaks_http1() -> Result<()> {
    needs_kernel!();
    let scene = scene(&[])?;
    let url = format!("http://{WEB}/a?b=c");
    let told = ["--http2-prior-knowledge", "--write-out", "\n%{http_version} %{http_code}", &url];
    let said = scene.client.curl(told)?.success()?.text();
    let (answer, version) = said.rsplit_once('\n').unwrap();
    assert_eq!(version, "2 200");
    let answer: Value = serde_json::from_str(answer)?;
    assert_eq!(answer["server"], "server1");
    let line = scene.agent.logged(1)?.remove(0);
    assert_eq!((&line["protocol"], &line["path"]), (&"HTTP/2".into(), &"/a?b=c".into()));
    // By HTTP/1.1 the same address answers the same.
    assert_eq!(scene.status_of("/")?, 200);
    Ok(())
}

#[test]
fn bodies_of_every_size_come_back_by_http2() -> Result<()> {
    needs_kernel!();
    let scene = scene(&[])?;
    for size in [0, 1, 100_000, 20_000_000] {
        let path = scene.topology.dir().join(format!("body-{size}"));
        std::fs::write(&path, vec![b'x'; size])?;
        let data = format!("@{}", path.display());
        let url = format!("http://{WEB}/");
        let upload = [
            "--http2-prior-knowledge",
            "--fail",
            "--data-binary",
            &data,
            "--write-out",
            "%{size_upload} %{http_code}",
            "--output",
            "/dev/null",
            &url,
        ];
        assert_eq!(scene.client.curl(upload)?.success()?.text(), format!("{size} 200"));
    }
    Ok(())
}

#[test]
fn nghttp_and_h2load_find_nothing_wrong() -> Result<()> {
    needs_kernel!();
    if !requirements::program("nghttp") || !requirements::program("h2load") {
        return Ok(());
    }
    let scene = scene(&[])?;
    let url = format!("http://{WEB}/");
    let said =
        scene.client.run("nghttp", ["--null-out", "--stat", "--multiply=20", &url], LONG)?.success()?.text();
    assert_eq!(said.matches(" 200 ").count(), 20, "{said}");
    let load = ["--requests=3000", "--clients=10", "--max-concurrent-streams=20", &url];
    let said = scene.client.run("h2load", load, LONG)?.success()?.text();
    assert!(said.contains("3000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    let labels = [("network_protocol_version", "2")];
    let counted = scene.agent.metrics()?.sum("http_server_request_duration_seconds_count", &labels);
    assert!(counted > 3019.5, "{counted}");
    assert!(scene.agent.metrics()?.sum("weir_http2_streams", &[]) < 0.5);
    Ok(())
}

#[test]
fn no_request_is_lost_when_the_agent_leaves() -> Result<()> {
    needs_kernel!();
    if !requirements::program("h2load") {
        return Ok(());
    }
    let mut scene = scene(&[])?;
    let mut command = scene.client.command("h2load");
    command
        .args(["--duration=6", "--clients=4", "--max-concurrent-streams=10"])
        .arg(format!("http://{WEB}/"));
    let load = scene.client.spawn("h2load", command)?;
    let served = |all: &weir_tests::metrics::Samples| {
        all.sum("http_server_request_duration_seconds_count", &[("network_protocol_version", "2")]) > 100.0
    };
    scene.agent.metrics_until("requests by HTTP/2", served)?;
    scene.agent.terminate()?;
    assert!(scene.agent.wait(LONG)?.success());
    let lines = scene.agent.access_log()?;
    let failed: Vec<&Value> = lines.iter().filter(|line| line["response_code"] != 200).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    drop(load);
    Ok(())
}

//! The splice lane: requests that the kernel half carries.
#![allow(clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result};
use std::time::Duration;
use weir_tests::{
    metrics::Samples,
    needs_kernel,
    scene::{Scene, WEB},
    wait,
};

/// Requests that the kernel half carried.
fn spliced(all: &Samples) -> f64 {
    all.sum("weir_kernel_events_total", &[("event", "spliced")])
}

#[test]
fn requests_of_a_kept_alive_connection_are_carried_in_the_kernel() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=on"])?;
    let told = scene.load(&WEB.to_string(), &["--requests", "1000"])?;
    assert_eq!(told["statuses"]["200"], 1000, "{told}");
    scene.agent.metrics_until("most requests are carried", |all| spliced(all) > 900.0)?;
    Ok(())
}

#[test]
fn a_control_group_stays_in_relay_and_the_speedup_is_exported() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=on", "--splice-control=50%"])?;
    let comparison = wait::eventually(Duration::from_secs(60), "the lane is compared", || {
        scene.load(&WEB.to_string(), &["--connections", "16", "--requests", "200"])?;
        let all = scene.agent.metrics()?;
        let bound = |bound| all.sum("weir_splice_speedup_ratio", &[("bound", bound)]);
        Ok((bound("estimate") > 0.0).then(|| (bound("lower"), bound("estimate"), bound("upper"))))
    })?;
    let (lower, estimate, upper) = comparison;
    assert!(lower <= estimate && estimate <= upper, "{comparison:?}");
    let all = scene.agent.metrics()?;
    let relayed = all.sum("http_server_request_duration_seconds_count", &[("lane", "relay")]);
    assert!(relayed > 500.0 && spliced(&all) > 500.0, "{relayed} relayed, {} carried", spliced(&all));
    Ok(())
}

const SERVER: &str = "http_server_request_duration_seconds";

/// A family of histograms on the splice lane.
fn carried(all: &Samples, family: &str, part: &str) -> f64 {
    all.sum(&format!("{family}_{part}"), &[("lane", "splice")])
}

#[test]
fn every_carried_request_is_counted_once_and_stays_counted_when_its_connection_is_gone() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=on", "--splice-control=0%"])?;
    let load = ["--connections", "4", "--requests", "250", "--reconnect", "50"];
    let told = scene.load(&WEB.to_string(), &load)?;
    assert_eq!(told["statuses"]["200"], 1000, "{told}");
    let count = format!("{SERVER}_count");
    let samples = scene.agent.metrics_until("all are counted", |all| all.sum(&count, &[]) > 999.5)?;
    assert!((samples.sum(&count, &[]) - 1000.0).abs() < 0.5, "{samples:?}");
    let told = carried(&samples, SERVER, "count");
    assert!(told > 900.0, "{told} were carried");
    assert!((told - spliced(&samples)).abs() < 0.5, "{told} of {}", spliced(&samples));
    let labels = [
        ("lane", "splice"),
        ("http_request_method", "GET"),
        ("http_response_status_code", "200"),
        ("http_route", "demo/web:8080"),
    ];
    assert!((samples.sum(&count, &labels) - told).abs() < 0.5, "{samples:?}");
    for family in [
        "http_client_request_duration_seconds",
        "weir_time_to_first_byte_seconds",
        "weir_answer_body_duration_seconds",
    ] {
        assert!((carried(&samples, family, "count") - told).abs() < 0.5, "{family}");
    }
    let again = scene.agent.metrics()?;
    assert!((again.sum(&count, &[]) - 1000.0).abs() < 0.5, "a second look counts nothing twice");
    Ok(())
}

#[test]
fn time_to_first_byte_and_the_bodys_time_are_told_apart_on_both_lanes() -> Result<()> {
    needs_kernel!();
    for (mode, lane) in [("on", "splice"), ("off", "plain")] {
        // Ten bytes, 10 ms between two of them; and 100 ms before the first.
        for (path, first_byte, body) in [("/trickle/10/10", 0.0, 0.09), ("/delay/100", 0.1, 0.0)] {
            let scene = Scene::web(&[&format!("--acceleration={mode}"), "--splice-control=0%"])?;
            // One connection: short requests make it a spliced one.
            let paths = ["/"].repeat(30).into_iter().chain([path; 3]);
            scene.client.curl(paths.map(|path| format!("http://{WEB}{path}")))?.success()?;
            let count = format!("{SERVER}_count");
            let samples = scene.agent.metrics_until("all are counted", |all| all.sum(&count, &[]) > 32.5)?;
            let sum = |family: &str| samples.sum(&format!("{family}_sum"), &[("lane", lane)]);
            let waited = sum("weir_time_to_first_byte_seconds");
            let flowed = sum("weir_answer_body_duration_seconds");
            let whole = sum(SERVER);
            let told = format!("{path} on {lane}: {waited} s and {flowed} s of {whole} s");
            assert!(waited > 3.0 * first_byte && waited < 3.0 * first_byte + 0.09, "{told}");
            assert!(flowed > 3.0 * body && flowed < 3.0 * body + 0.09, "{told}");
            assert!((waited + flowed - whole).abs() < 0.001, "{told}");
        }
    }
    Ok(())
}

#[test]
fn a_carried_requests_line_says_what_a_relayed_ones_does() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=on", "--splice-control=0%"])?;
    let fields = ["X-Request-Id: id-1", "traceparent: 00-1", "X-Forwarded-For: 192.0.2.1", "User-Agent: me"];
    let fields = fields.iter().flat_map(|field| ["--header", field]);
    let url = format!("http://{WEB}/bytes/100?a=b");
    let arguments = fields.chain(["--data", "12345"]).chain([url.as_str(); 30]);
    scene.client.curl(arguments)?.success()?;
    let lines = scene.agent.logged(30)?;
    assert_eq!(lines.len(), 30, "one line each");
    let carried: Vec<_> = lines.iter().filter(|line| line["lane"] == "splice").collect();
    assert!(carried.len() > 10, "{} were carried", carried.len());
    let relayed = lines.iter().find(|line| line["lane"] == "relay").context("none was relayed")?;
    assert_eq!((&relayed["path"], &relayed["response_code"]), (&"/bytes/100?a=b".into(), &200.into()));
    let times = ["start_time", "duration", "request_duration", "response_duration", "lane"];
    let same = |line: &serde_json::Value| {
        let fields = line.as_object().into_iter().flatten();
        fields
            .filter(|(key, _)| !times.contains(&key.as_str()))
            .map(|(key, value)| format!("{key} {value}"))
            .collect::<Vec<_>>()
    };
    for line in carried {
        assert_eq!(same(line), same(relayed), "{line}");
        let (whole, head) = (line["duration"].as_f64(), line["response_duration"].as_f64());
        assert!(whole > Some(0.0) && head > Some(0.0) && head <= whole, "{line}");
    }
    Ok(())
}

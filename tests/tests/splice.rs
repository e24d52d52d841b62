//! The splice lane: requests that the kernel half carries.
#![allow(clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
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

//! The splice lane: requests that the kernel half carries.
#![allow(clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use weir_tests::{
    metrics::Samples,
    needs_kernel,
    scene::{Scene, WEB},
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

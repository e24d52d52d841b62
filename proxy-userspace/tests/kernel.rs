//! Kernel ring: the kernel half loads on this kernel, within its budget, and its self-test holds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use clap::Parser;
use std::sync::Arc;
use weir::{
    config::{Cli, Command, Config},
    datapath::{Datapath, LoadOptions},
    metrics::Metrics,
    status::{Board, Status},
};

/// Verified instructions that each program may cost: about twice what it costs today.
const BUDGET: [(&str, u32); 14] = [
    // Look for an endpoint that a client may connect to, by chance and in a loop.
    ("weir_connect4", 130_000),
    ("weir_connect6", 130_000),
    // Rewrite two families, and make resets.
    ("weir_ingress", 15_000),
    ("weir_egress", 9000),
    // Find pods at two levels, and ask both ends' policies.
    ("weir_sent", 6000),
    ("weir_received", 6000),
    ("weir_peer4", 100),
    ("weir_peer6", 100),
    ("weir_release", 50),
    ("weir_sockops", 4000),
    // Reads a head of 2 KiB byte by byte; the verifier's limit is a million.
    ("weir_msg", 300_000),
    ("weir_drained", 500),
    ("weir_splice", 500),
    ("weir_ioctl", 500),
];

fn config(arguments: &[&str]) -> Config {
    let arguments = ["weir", "run", "--config", "/nonexistent"].iter().chain(arguments);
    match Cli::parse_from(arguments).command {
        Command::Run(config) => *config,
        _ => unreachable!("parsed as run"),
    }
}

fn load(arguments: &[&str]) -> Status {
    let options = LoadOptions::new(&config(arguments), vec!["127.0.0.1:15001".parse().unwrap()]);
    let datapath = Datapath::load(&options, |_| ()).unwrap_or_else(|error| panic!("{error:#}"));
    let board = Board::new(Arc::new(Metrics::default()));
    datapath.report(&board);
    board.status()
}

#[test]
fn every_program_loads_within_its_verifier_budget() {
    let kernel = load(&["--pod-cgroup", "/"]).kernel.unwrap();
    for (name, budget) in BUDGET {
        let program = kernel.programs.iter().find(|program| program.name == name).unwrap();
        let verified = program.verified_instructions.unwrap();
        eprintln!("{name}: {verified} of {budget}");
        assert!(verified > 0 && verified <= budget, "{name}: {verified} of {budget}");
    }
    assert_eq!(kernel.programs.len(), BUDGET.len(), "a program has no budget");
}

#[test]
fn the_self_test_finds_redirects_whole_on_this_kernel() {
    let status = load(&["--pod-cgroup", "/"]);
    assert_eq!(status.degraded, []);
    assert!(status.mode.self_test.iter().any(|check| check.passed), "{:?}", status.mode.self_test);
    assert!(status.mode.redirect_to_applications);
}

#[test]
fn the_self_test_tries_the_splice_lane_and_leaves_nothing_behind() {
    let status = load(&["--pod-cgroup", "/"]);
    let lane = status.mode.self_test.iter().find(|check| check.check == "splice lane").unwrap();
    assert!(lane.passed, "{lane:?}");
    let kernel = status.kernel.unwrap();
    assert!(kernel.pairs.is_some_and(|pairs| pairs.armed == 0 && pairs.joined == 0));
    // What is counted without a series has an entry of its own.
    for (name, left) in [("STATES", 0), ("SPLICED", 1)] {
        let map = kernel.maps.iter().find(|map| map.name == name).unwrap();
        assert_eq!(map.entries, left, "{map:?}");
    }
}

#[test]
fn a_lane_that_is_not_wanted_is_not_tried() {
    let mode = load(&["--pod-cgroup", "/", "--splice-pairs", "0"]).mode;
    assert!(mode.self_test.iter().all(|check| check.check != "splice lane"), "{mode:?}");
}

#[test]
fn acceleration_off_redirects_nothing() {
    let mode = load(&["--pod-cgroup", "/", "--acceleration", "off"]).mode;
    assert!(!mode.redirect_to_agent && !mode.redirect_to_applications, "{mode:?}");
}

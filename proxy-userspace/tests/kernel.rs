//! Kernel ring: the kernel half loads on this kernel, within its budget, and its self-test holds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use clap::Parser;
use weir::{
    config::{Cli, Command, Config},
    datapath::{Datapath, LoadOptions},
};

/// Verified instructions that each program may cost: about twice what it costs today.
const BUDGET: [(&str, u32); 9] = [
    ("weir_connect4", 1000),
    ("weir_connect6", 1000),
    ("weir_peer4", 100),
    ("weir_peer6", 100),
    ("weir_release", 50),
    ("weir_sockops", 4000),
    ("weir_msg", 2000),
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

fn load(arguments: &[&str]) -> Datapath {
    let options = LoadOptions::new(&config(arguments), vec!["127.0.0.1:15001".parse().unwrap()]);
    Datapath::load(&options, |_| ()).unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn every_program_loads_within_its_verifier_budget() {
    let stats = load(&["--pod-cgroup", "/"]).stats().unwrap();
    for (name, budget) in BUDGET {
        let program = stats.programs.iter().find(|program| program.name == name).unwrap();
        println!("{name}: {} of {budget}", program.verified_instructions);
        assert!(program.verified_instructions > 0, "{name}: the kernel does not say");
        assert!(program.verified_instructions <= budget, "{name}: {}", program.verified_instructions);
    }
    assert_eq!(stats.programs.len(), BUDGET.len());
}

#[test]
fn the_self_test_finds_redirects_whole_on_this_kernel() {
    let stats = load(&["--pod-cgroup", "/"]).stats().unwrap();
    let found = stats.self_test.unwrap();
    println!("{found:?} {:?}", stats.degraded);
    assert_eq!(found.broken, None);
    assert_eq!(stats.degraded, []);
}

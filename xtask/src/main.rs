//! The project's verbs, one file each.
#![expect(clippy::print_stdout, reason = "a command-line tool talks to its user")]

mod bench;
mod build;
mod clean_host;
mod demo;
mod exec;
mod lint;
mod run;
mod setup;
mod soak;
mod test;
mod tidy;

use clap::Parser;
use std::process::ExitCode;

/// Everything one does with Weir's sources. Each verb installs what it needs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
enum Verb {
    /// Install what is missing, saying what and why before.
    Setup(setup::Args),
    /// Build the kernel half, then the host programs with the kernel half inside.
    Build(build::Args),
    /// Show what Weir does: pods, servers, the agent, traffic, a live table of it.
    Run(run::Args),
    /// Test everything; what needs root runs under sudo.
    Test(test::Args),
    /// Remove what a crashed run left behind.
    CleanHost(clean_host::Args),
    /// Measure the datapath against iptables and against no proxy at all.
    Bench(bench::Args),
    /// Random traffic through the real agent while clients, endpoints and policies come and go.
    Soak(soak::Args),
    /// What `bench` runs as root.
    #[command(hide = true)]
    BenchMeasure(bench::Args),
    /// What `bench control` runs as root.
    #[command(hide = true)]
    BenchControl(bench::control::Args),
    /// What `bench protocols` runs as root.
    #[command(hide = true)]
    BenchProtocols(bench::protocols::Args),
    /// The client of `bench control`.
    #[command(hide = true)]
    BenchConnect(bench::control::connect::Args),
    /// The benchmark's load generator.
    #[command(hide = true)]
    BenchClient(bench::load::client::Args),
    /// The benchmark's server.
    #[command(hide = true)]
    BenchServer(bench::load::server::Args),
    /// Format, clippy for the host and for the BPF target, dependencies, tidy.
    Lint(lint::Args),
}

fn main() -> ExitCode {
    let outcome = match Verb::parse() {
        Verb::Setup(args) => setup::setup(&args),
        Verb::Build(args) => build::build(&args).map(drop),
        Verb::Run(args) => run::run(&args),
        Verb::Test(args) => test::test(&args),
        Verb::CleanHost(args) => clean_host::clean_host(&args),
        Verb::Bench(args) => bench::bench(&args),
        Verb::Soak(args) => soak::soak(&args),
        Verb::BenchMeasure(args) => bench::measure(&args),
        Verb::BenchControl(args) => bench::control::measure(&args),
        Verb::BenchProtocols(args) => bench::protocols::measure(&args),
        Verb::BenchConnect(args) => bench::control::connect::run(&args),
        Verb::BenchClient(args) => bench::load::client::load(&args),
        Verb::BenchServer(args) => bench::load::server::serve(&args),
        Verb::Lint(args) => lint::lint(&args),
    };
    outcome.map_or_else(
        |error| {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

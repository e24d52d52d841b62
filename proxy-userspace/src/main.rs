//! The `weir` binary: parses arguments and hands over.

use clap::Parser;
use std::process::ExitCode;
use weir::config::{Cli, Command};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => weir::agent::run(*args),
        Command::Check(args) => weir::cli::check::check(&args),
        Command::Status(args) => weir::cli::status::status(&args),
        Command::Policy(command) => weir::cli::policy::policy(&command),
        Command::Route(command) => weir::cli::route::route(&command),
        Command::Doctor(command) => weir::cli::doctor::doctor(&command),
        Command::Unpin(args) => weir::cli::unpin::unpin(&args),
        Command::Completions(args) => weir::cli::completions(args.shell),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("weir: {error:#}");
        ExitCode::FAILURE
    })
}

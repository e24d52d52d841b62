//! The read commands.
mod agent;
pub(crate) mod cases;
pub mod check;
pub mod doctor;
pub mod policy;
pub mod route;
pub mod status;
pub mod unpin;

use clap::CommandFactory;
use std::process::ExitCode;

/// `weir completions SHELL`: completions on standard output.
pub fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    clap_complete::generate(shell, &mut crate::config::Cli::command(), "weir", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}

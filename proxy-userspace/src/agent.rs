//! Start and stop, in order.
use crate::config::Config;
use std::process::ExitCode;

/// Runs the agent until SIGTERM.
pub fn run(_config: Config) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}

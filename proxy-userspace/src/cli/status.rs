//! `weir status`: asks the running agent.
use crate::config::StatusArgs;
use std::process::ExitCode;

/// Prints what the agent at `admin_addr` answers.
pub fn status(_args: &StatusArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}

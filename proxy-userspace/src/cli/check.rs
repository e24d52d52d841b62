//! `weir check`: validates a directory offline.
use crate::config::CheckArgs;
use std::process::ExitCode;

/// One line a finding; exit 1 on errors.
pub fn check(_args: &CheckArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}

//! `weir doctor`: looks at something from where it is run.

mod tls;

use crate::config::doctor::DoctorCommand;
use std::process::ExitCode;

/// Runs what was asked for.
pub fn doctor(command: &DoctorCommand) -> anyhow::Result<ExitCode> {
    match command {
        DoctorCommand::Tls(args) => tls::tls(args),
    }
}

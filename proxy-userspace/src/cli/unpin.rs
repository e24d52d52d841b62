//! `weir unpin`: takes away what an agent left in the kernel to hold while there is none.

use crate::{config::UnpinArgs, datapath};
use std::{io::Write, process::ExitCode};

/// Prints a line for every link that was there.
pub fn unpin(args: &UnpinArgs) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for path in datapath::unpin(&args.pin_dir)? {
        writeln!(out, "removed {}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

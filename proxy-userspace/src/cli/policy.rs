//! `weir policy`: who may connect to whom and ask for what, without a connection.

mod explain;
mod replay;
mod test;

use crate::{
    config::policy::PolicyCommand,
    policy::question::Ports,
    snapshot::{self, BuildOptions, Snapshot},
    source::directory,
};
use std::{path::Path, process::ExitCode};

/// What was asked could not be understood.
const BAD_INPUT: u8 = 2;

/// `weir policy test`, `explain` and `replay`.
pub fn policy(command: &PolicyCommand) -> anyhow::Result<ExitCode> {
    let outcome = match command {
        PolicyCommand::Test(args) => test::test(args),
        PolicyCommand::Explain(args) => explain::explain(args),
        PolicyCommand::Replay(args) => replay::replay(args),
    };
    outcome.or_else(|error| {
        eprintln!("weir: {error:#}");
        Ok(ExitCode::from(BAD_INPUT))
    })
}

/// A directory's manifests, as the agent would have them.
struct World {
    snapshot: Snapshot,
    ports: Ports,
}

impl World {
    /// Says on standard error how many objects, or parts, are left out.
    fn read(directory: &Path) -> anyhow::Result<Self> {
        let (objects, mut findings) = directory::read(directory)?;
        let (snapshot, more) = snapshot::build(&objects, &BuildOptions::default(), 1);
        findings.extend(more);
        let errors: Vec<_> =
            findings.iter().filter(|one| one.severity == crate::source::finding::Severity::Error).collect();
        for error in &errors {
            eprintln!("weir: {error}");
        }
        Ok(Self { snapshot, ports: Ports::new(&objects) })
    }
}

//! `cargo xtask run`: the demonstration; with arguments after `--`, the built `weir` itself.

use crate::{
    build, demo, exec,
    setup::{self, Group},
};
use anyhow::{Context, Result, bail};
use std::{ffi::OsString, os::unix::process::CommandExt, path::Path, time::Duration};
use weir_tests::requirements;

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// End by itself after so long and print the final table; else Ctrl-C ends it.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    length: Option<Duration>,
    /// Optimised programs.
    #[arg(long)]
    release: bool,
    /// Everything is built, and we are root.
    #[arg(long, hide = true)]
    prepared: bool,
    /// Run `weir` with these arguments instead.
    #[arg(last = true, value_name = "WEIR ARGUMENTS")]
    weir: Vec<OsString>,
}

/// Builds as the user, then plays the demonstration as root.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.prepared {
        return demo::play(args.length);
    }
    let binary = prepare(args.release);
    if !args.weir.is_empty() {
        return weir(&binary?, &args.weir);
    }
    let mut lacks = requirements::missing();
    if exec::which("sudo").is_some() {
        lacks.retain(|lack| !lack.starts_with("root"));
    }
    match binary {
        Ok(binary) if lacks.is_empty() => become_root(&binary, args.length),
        Ok(_) => explain(&lacks),
        Err(error) => {
            lacks.push(format!("{error:#}"));
            explain(&lacks)
        }
    }
}

/// Installs and builds; the agent's path.
fn prepare(release: bool) -> Result<std::path::PathBuf> {
    setup::ensure(&[Group::Kernel, Group::Network])?;
    build::build(&build::Args { release, ..build::Args::default() })
}

/// Runs `weir` in our place. Only the agent itself needs root.
fn weir(binary: &Path, arguments: &[OsString]) -> Result<()> {
    let needs_root = arguments.first().is_some_and(|verb| verb == "run");
    let mut command = if needs_root { exec::as_root(binary) } else { std::process::Command::new(binary) };
    Err(command.args(arguments).exec()).with_context(|| format!("cannot start {}", binary.display()))
}

/// Replaces this process by itself, as root and as just built, which keeps Ctrl-C with the one that
/// cleans up. sudo drops variables: the binaries are named on the command line.
fn become_root(binary: &Path, length: Option<Duration>) -> Result<()> {
    let beside = |name: &str| binary.with_file_name(name);
    let mut command = exec::as_root("env");
    command.arg(format!("WEIR_BIN={}", binary.display()));
    command.arg(format!("WEIR_PEER={}", beside("weir-peer").display()));
    command.arg(beside("xtask")).args(["run", "--prepared"]);
    if let Some(length) = length {
        command.arg("--for").arg(humantime::format_duration(length).to_string().replace(' ', ""));
    }
    Err(command.exec()).context("cannot start the demonstration as root")
}

/// Says what is missing and what works without it.
fn explain(lacks: &[String]) -> Result<()> {
    println!("The demonstration cannot run here. Missing:");
    for lack in lacks {
        println!("  - {lack}");
    }
    println!("What works without:");
    println!("  cargo xtask test --only host                            tests without the kernel");
    println!("  cargo xtask run -- check --config deploy/examples/hello  validate manifests offline");
    bail!("this machine lacks what the demonstration needs")
}

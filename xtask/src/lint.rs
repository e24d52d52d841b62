//! `cargo xtask lint`: format, clippy for the host and for the BPF target, dependencies, tidy.

use crate::{
    build, exec,
    setup::{self, Group, KernelCompiler},
    tidy,
};
use anyhow::Result;

/// Arguments of `cargo xtask lint`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rewrite what rustfmt would write differently, instead of complaining.
    #[arg(long)]
    fix: bool,
}

/// Runs every check, the fast ones first; the first that fails ends it.
pub(crate) fn lint(args: &Args) -> Result<()> {
    setup::ensure(&[Group::Kernel, Group::Lint])?;
    for manifest in ["Cargo.toml", "proxy-ebpf/Cargo.toml"] {
        let mut format = exec::cargo("fmt");
        format.args(["--all", "--manifest-path", manifest]);
        if !args.fix {
            format.arg("--check");
        }
        exec::run(&mut format)?;
    }
    tidy::tidy(exec::root())?;
    exec::run(exec::cargo("clippy").args(["--workspace", "--all-targets", "--", "-Dwarnings"]))?;
    kernel_clippy()?;
    for manifest in ["Cargo.toml", "proxy-ebpf/Cargo.toml"] {
        let mut deny = exec::cargo("deny");
        deny.args(["--config", "deny.toml", "--manifest-path", manifest, "check"]);
        exec::run(deny.args(["--hide-inclusion-graph", "bans", "licenses", "sources"]))?;
    }
    println!("lint: nothing to complain about");
    Ok(())
}

/// Clippy comes with the project's own compiler only.
fn kernel_clippy() -> Result<()> {
    if setup::kernel_compiler()? == KernelCompiler::Debian {
        println!("lint: no clippy for the kernel half: Debian's compiler builds it here");
        return Ok(());
    }
    build::kernel_half("clippy", &["--", "-Dwarnings"])
}

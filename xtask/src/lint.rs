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
    clippy()?;
    for manifest in ["Cargo.toml", "proxy-ebpf/Cargo.toml"] {
        let mut deny = exec::cargo("deny");
        deny.args(["--config", "deny.toml", "--manifest-path", manifest, "check"]);
        exec::run(deny.args(["--hide-inclusion-graph", "bans", "licenses", "sources"]))?;
    }
    println!("lint: nothing to complain about");
    Ok(())
}

/// Debian's compiler, where rustup's is not to be had, comes without clippy.
fn clippy() -> Result<()> {
    if exec::which("rustup").is_none() && exec::output(exec::cargo("clippy").arg("--version")).is_err() {
        println!("lint: NOT checked with clippy: this machine's compiler has none");
        return Ok(());
    }
    exec::run(exec::cargo("clippy").args(["--workspace", "--all-targets", "--", "-Dwarnings"]))?;
    if setup::kernel_compiler()? == KernelCompiler::Debian {
        println!("lint: kernel half NOT checked with clippy: Debian's compiler builds it here");
        return Ok(());
    }
    build::kernel_half("clippy", &["--", "-Dwarnings"])
}

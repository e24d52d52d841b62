//! `cargo xtask build`: the kernel half, then the host programs with it inside.

use crate::{
    exec,
    setup::{self, Group},
};
use anyhow::{Context, Result};
use std::{fs, path::PathBuf, process::Command};

/// Arguments of `cargo xtask build`.
#[derive(clap::Args, Clone, Copy, Default)]
pub(crate) struct Args {
    /// Optimised host programs (the kernel half always is).
    #[arg(long)]
    pub(crate) release: bool,
    /// One optimised agent without shared libraries, in target/static: for the image.
    #[arg(long = "static", conflicts_with = "release")]
    pub(crate) without_libraries: bool,
}

/// The target that the kernel half is compiled for.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// What rustc is told beside its profile: type information for the verifier, and the instruction
/// set with 32-bit operations and compare-and-swap.
const BPF_FLAGS: &str = "-Cdebuginfo=2 -Clink-arg=--btf -Ctarget-cpu=v3";

/// Builds both halves; where the agent is.
pub(crate) fn build(args: &Args) -> Result<PathBuf> {
    setup::ensure(&[Group::Kernel])?;
    kernel_half("build", &[])?;
    let binary = if args.without_libraries { static_agent()? } else { workspace(args)? };
    println!("built {}", binary.display());
    Ok(binary)
}

fn workspace(args: &Args) -> Result<PathBuf> {
    let profile = if args.release { "release" } else { "dev" };
    exec::run(exec::cargo("build").args(["--workspace", "--profile", profile]))?;
    Ok(target_directory().join(if args.release { "release" } else { "debug" }).join("weir"))
}

/// Naming the target keeps the flag away from build scripts and procedural macros, which cannot be
/// static.
fn static_agent() -> Result<PathBuf> {
    let host = host_triple()?;
    let mut command = exec::cargo("build");
    command.env("RUSTFLAGS", "-Ctarget-feature=+crt-static").args(["--package", "proxy-userspace"]);
    exec::run(command.args(["--release", "--target", &host]))?;
    let directory = exec::root().join("target/static");
    fs::create_dir_all(&directory)?;
    let binary = directory.join("weir");
    fs::copy(target_directory().join(host).join("release/weir"), &binary).context("copy the agent")?;
    Ok(binary)
}

/// The triple of the machine that we are on.
pub(crate) fn host_triple() -> Result<String> {
    let version = exec::output(Command::new("rustc").current_dir(exec::root()).arg("-vV"))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc names no host")
}

/// Where cargo puts what it builds.
fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| exec::root().join("target"), PathBuf::from)
}

/// Runs cargo's `verb` on the kernel half. Aya's kernel crate uses unstable features and the BPF
/// target has no precompiled core, hence the bootstrap switch on the stable compiler.
pub(crate) fn kernel_half(verb: &str, extra: &[&str]) -> Result<()> {
    let mut command = exec::cargo(verb);
    command
        .current_dir(exec::root().join("proxy-ebpf"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", BPF_FLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args(["--release", "--target", BPF_TARGET, "--target-dir"])
        .arg(exec::root().join("target/bpf"));
    match setup::kernel_compiler()? {
        setup::KernelCompiler::Sources => command.arg("-Zbuild-std=core"),
        setup::KernelCompiler::Debian => command.env("RUSTC", setup::DEBIAN_RUSTC),
    };
    exec::run(command.args(extra))
}

//! `cargo xtask build`: the kernel half, then the host programs with it inside.

use crate::{
    exec,
    setup::{self, Group},
};
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `cargo xtask build`.
#[derive(clap::Args, Clone, Copy, Default)]
pub(crate) struct Args {
    /// Optimised host programs (the kernel half always is).
    #[arg(long)]
    pub(crate) release: bool,
}

/// The target that the kernel half is compiled for.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// What rustc is told beside its profile: type information for the verifier, and the instruction
/// set with 32-bit operations and compare-and-swap.
const BPF_FLAGS: &str = "-Cdebuginfo=2 -Clink-arg=--btf -Ctarget-cpu=v3";

/// Builds both halves.
pub(crate) fn build(args: &Args) -> Result<()> {
    setup::ensure(&[Group::Kernel])?;
    kernel_half("build", &[])?;
    let mut command = exec::cargo("build");
    command.arg("--workspace");
    if args.release {
        command.arg("--release");
    }
    exec::run(&mut command)?;
    println!("built {}", weir_binary(args).display());
    Ok(())
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

/// The `weir` binary that [`build`] makes.
pub(crate) fn weir_binary(args: &Args) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| exec::root().join("target"), PathBuf::from);
    target.join(if args.release { "release" } else { "debug" }).join("weir")
}

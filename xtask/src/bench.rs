//! `cargo xtask bench`: the datapath measured against iptables and against no proxy at all.

pub(crate) mod load;
mod machine;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the benchmark.
pub(crate) fn bench(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("the benchmark is not written yet")
}

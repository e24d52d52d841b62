//! `cargo xtask bench control`: what a cluster's size costs the agent: its start, its memory, a change of
//! one object until connects see it, and a connect.
//!
//! Latency is measured from outside: a client in a pod connects to a Service in a tight loop, from the moment
//! that a manifest is in its place, or an API server has sent it, until its connect is let through or refused.

mod cluster;
pub(crate) mod connect;
mod stand;

use super::write_json;
use crate::{
    build, exec,
    setup::{self, Group},
};
use anyhow::{Result, ensure};
use serde::Serialize;
use stand::{Source, Stand};
use std::time::Duration;

/// Connects of one batch, and batches of each size, interleaved: many short ones, so that what else the
/// machine does meets both sizes alike.
const CONNECTS: usize = 500;
const BATCHES: usize = 60;
/// A cluster without weight: what connects are compared with.
const SMALL: u32 = 10;

/// Arguments of `cargo xtask bench control`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Sizes to measure, in Services.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 10_000])]
    services: Vec<u32>,
    /// Changes of each kind.
    #[arg(long, default_value_t = 10)]
    changes: usize,
    /// Leave the cost of connects out.
    #[arg(long)]
    no_connects: bool,
}

/// What one size costs.
#[derive(Serialize, Debug)]
struct Size {
    source: Source,
    services: u32,
    endpoints: u32,
    pods: u32,
    policies: u32,
    /// From the agent's start until it is ready.
    start_ms: f64,
    rss_mib: f64,
    /// What of it is the agent's own, and what are pages of files: its program, of which a part is always
    /// there.
    anonymous_mib: f64,
    file_mib: f64,
    /// The same as the first after all changes.
    rss_after_mib: f64,
    peak_mib: f64,
    /// A change of one endpoint until connects see it.
    endpoint_change: Latency,
    /// A pod's new label until its connects are refused or let through; `None` where policies are not
    /// enforced at connect.
    label_change: Option<Latency>,
}

/// Milliseconds of several changes. The directory source waits until nothing has changed for a moment; that
/// is part of it.
#[derive(Serialize, Clone, Copy, Debug)]
struct Latency {
    median_ms: f64,
    max_ms: f64,
}

impl Latency {
    fn of(mut all: Vec<Duration>) -> Option<Self> {
        all.sort_unstable();
        let ms = |one: Option<&Duration>| one.map(|one| one.as_secs_f64() * 1000.0);
        Some(Self { median_ms: ms(all.get(all.len() / 2))?, max_ms: ms(all.last())? })
    }
}

/// What connects cost, in batches that took turns.
#[derive(Serialize, Debug)]
struct Connects {
    services: u32,
    /// Median of the batches' medians, nanoseconds.
    small_ns: f64,
    large_ns: f64,
    /// Median of the batches' ratios, large to small, and the middle half of them.
    ratio: f64,
    quartiles: (f64, f64),
}

#[derive(Serialize, Debug)]
struct Results {
    commit: String,
    kernel: String,
    cpus: usize,
    sizes: Vec<Size>,
    connects: Option<Connects>,
}

/// Builds, then measures as root.
pub(crate) fn control(args: &Args) -> Result<()> {
    setup::ensure(&[Group::Kernel, Group::Network])?;
    let weir = build::build(&build::Args { release: true, ..build::Args::default() })?;
    let mut command = exec::as_root("env");
    command.arg(format!("WEIR_BIN={}", weir.display()));
    let sizes: Vec<_> = args.services.iter().map(ToString::to_string).collect();
    command.arg(weir.with_file_name("xtask")).arg("bench-control");
    command.arg(format!("--services={}", sizes.join(","))).arg(format!("--changes={}", args.changes));
    command.args(args.no_connects.then_some("--no-connects"));
    exec::run(&mut command)
}

/// Measures, prints a table and writes `target/bench/control.json`.
pub(crate) fn measure(args: &Args) -> Result<()> {
    ensure!(exec::is_root(), "namespaces and BPF need root: use `cargo xtask bench control`");
    let mut sizes = Vec::new();
    for source in [Source::Directory, Source::Kubernetes] {
        for services in &args.services {
            let size = measured(source, *services, args.changes)?;
            println!("{}", line(&size));
            sizes.push(size);
        }
    }
    let largest = args.services.iter().max().copied().filter(|_| !args.no_connects);
    let connects = largest.map(compare_connects).transpose()?;
    if let Some(Connects { services, small_ns, large_ns, ratio, quartiles: (low, high) }) = &connects {
        let percent = |ratio: f64| (ratio - 1.0) * 100.0;
        println!(
            "a connect with {SMALL} Services takes {small_ns:.0} ns, with {services} {large_ns:.0} ns: {:+.1} % \
             (half of {BATCHES} pairs within {:+.1} and {:+.1})",
            percent(*ratio),
            percent(*low),
            percent(*high),
        );
    }
    let cpus = std::thread::available_parallelism()?.get();
    let results = Results { commit: super::commit()?, kernel: super::kernel(), cpus, sizes, connects };
    let path = write_json("control.json", &results)?;
    println!("wrote {}", path.display());
    Ok(())
}

fn measured(source: Source, services: u32, changes: usize) -> Result<Size> {
    let mut stand = Stand::raise(source, services)?;
    let (rss_mib, (anonymous_mib, file_mib)) = (stand.rss_mib()?, stand.rss_parts_mib()?);
    let endpoint_change = stand.endpoint_changes(changes)?;
    let label_change = stand.label_changes(changes)?;
    Ok(Size {
        source,
        services,
        endpoints: services * cluster::ENDPOINTS,
        pods: services,
        policies: services.div_ceil(2),
        start_ms: stand.started_in().as_secs_f64() * 1000.0,
        rss_mib,
        anonymous_mib,
        file_mib,
        rss_after_mib: stand.rss_mib()?,
        peak_mib: stand.peak_mib()?,
        endpoint_change: Latency::of(endpoint_change).ok_or_else(|| anyhow::anyhow!("no change"))?,
        label_change: Latency::of(label_change),
    })
}

fn line(size: &Size) -> String {
    let latency = |latency: &Latency| format!("{:.1} (at most {:.1})", latency.median_ms, latency.max_ms);
    format!(
        "{:?}, {} Services, {} endpoints, {} pods, {} policies: start {:.0} ms; {:.0} MiB ({:.0} \
         its own, {:.0} of files), after changes {:.0}, at the peak {:.0}; an endpoint's change {} ms, a label's {} ms",
        size.source,
        size.services,
        size.endpoints,
        size.pods,
        size.policies,
        size.start_ms,
        size.rss_mib,
        size.anonymous_mib,
        size.file_mib,
        size.rss_after_mib,
        size.peak_mib,
        latency(&size.endpoint_change),
        size.label_change.as_ref().map_or_else(|| "(not enforced)".to_owned(), latency),
    )
}

/// Two agents on two nodes of this machine, a small cluster's and a large one's, and their clients in turn.
fn compare_connects(services: u32) -> Result<Connects> {
    let (small, large) =
        (Stand::raise(Source::Directory, SMALL)?, Stand::raise(Source::Directory, services)?);
    let mut pairs = Vec::with_capacity(BATCHES);
    for batch in 0..=BATCHES {
        let pair = (small.connect_cost(CONNECTS)?, large.connect_cost(CONNECTS)?);
        // The first warms up.
        if batch > 0 {
            pairs.push(pair);
        }
    }
    let quarter = |of: fn(&(f64, f64)) -> f64, quarters: usize| {
        let mut all: Vec<_> = pairs.iter().map(of).collect();
        all.sort_unstable_by(f64::total_cmp);
        all.get(all.len() * quarters / 4).copied().unwrap_or(f64::NAN)
    };
    let ratio = |(small, large): &(f64, f64)| large / small;
    Ok(Connects {
        services,
        small_ns: quarter(|(small, _)| *small, 2),
        large_ns: quarter(|(_, large)| *large, 2),
        ratio: quarter(ratio, 2),
        quartiles: (quarter(ratio, 1), quarter(ratio, 3)),
    })
}

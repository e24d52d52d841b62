//! `cargo xtask bench protocols`: HTTP/1.1, HTTP/2 and TLS at the agent's Gateway listeners, beside the other
//! proxies that this machine has: requests a second, CPU time, and the memory of idle connections.
//!
//! Every proxy runs in the same place, with as many workers, certificates and rules, towards the same HTTP/1.1
//! server, one after the other in every round; ratios are of one round.

mod h2load;
mod proxy;
mod site;

use super::{interrupt::Interrupt, write_json};
use crate::{
    build, exec,
    setup::{self, Group},
};
use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::ProgressBar;
use proxy::Proxy;
use serde::Serialize;
use site::{Cost, LARGE, SMALL, Site};
use std::{collections::BTreeMap, time::Duration};

/// Arguments of `cargo xtask bench protocols`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// How often everything is measured, interleaved.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Milliseconds of each run.
    #[arg(long, default_value_t = 1500)]
    window_ms: u64,
    /// Idle connections whose memory is measured, as far as the limit of open files carries; 0: none.
    #[arg(long, default_value_t = 10_000)]
    idle: u32,
    /// Only these protocols.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Protocol::ALL)]
    protocol: Vec<Protocol>,
    /// Beside the agent only these proxies, of those that are installed; without a value: none.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 0.., default_values_t = Proxy::OTHERS)]
    beside: Vec<Proxy>,
}

impl Args {
    /// As a command line has them.
    fn words(&self) -> Vec<String> {
        let list = |all: Vec<&str>| all.join(",");
        let mut words = vec![
            format!("--rounds={}", self.rounds),
            format!("--window-ms={}", self.window_ms),
            format!("--idle={}", self.idle),
            format!("--protocol={}", list(self.protocol.iter().map(|one| one.name()).collect())),
            "--beside".to_owned(),
        ];
        words.extend(
            (!self.beside.is_empty()).then(|| list(self.beside.iter().map(|one| one.name()).collect())),
        );
        words
    }

    /// What is measured, in the order in which it is run and shown.
    fn shapes(&self) -> impl Iterator<Item = Shape> {
        shapes().into_iter().filter(|shape| self.protocol.contains(&shape.protocol))
    }
}

/// Load before what counts.
const WARM_UP: Duration = Duration::from_millis(500);

/// What client and proxy speak.
#[derive(Serialize, clap::ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Protocol {
    #[value(name = "h1")]
    Http1,
    #[value(name = "h2c")]
    Http2,
    #[value(name = "tls-h1")]
    TlsHttp1,
    #[value(name = "tls-h2")]
    TlsHttp2,
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Http1, Self::Http2, Self::TlsHttp1, Self::TlsHttp2];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2c",
            Self::TlsHttp1 => "tls-h1",
            Self::TlsHttp2 => "tls-h2",
        }
    }

    /// What h2load calls it.
    pub(super) const fn spoken(self) -> &'static str {
        match self {
            Self::Http1 | Self::TlsHttp1 => "http/1.1",
            Self::Http2 => "h2c",
            Self::TlsHttp2 => "h2",
        }
    }

    /// Where every proxy serves it.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Http1 => 8081,
            Self::Http2 => 8082,
            Self::TlsHttp1 | Self::TlsHttp2 => 8443,
        }
    }

    pub(super) const fn is_secure(self) -> bool {
        matches!(self, Self::TlsHttp1 | Self::TlsHttp2)
    }

    pub(super) const fn is_http1(self) -> bool {
        matches!(self, Self::Http1 | Self::TlsHttp1)
    }
}

/// What the client does.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Shape {
    pub(super) protocol: Protocol,
    pub(super) conns: usize,
    /// At once on each of them.
    pub(super) streams: usize,
    /// Bytes of an answer.
    pub(super) body: usize,
    /// One request a connection, and every connection once: what connecting costs.
    pub(super) once: bool,
}

/// In the order in which they are run and shown.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for protocol in Protocol::ALL {
        for body in [SMALL, LARGE] {
            shapes.push(Shape { protocol, conns: 32, streams: 1, body, once: false });
        }
        if protocol.is_http1() {
            shapes.push(Shape { protocol, conns: 400, streams: 1, body: SMALL, once: true });
        } else {
            shapes.push(Shape { protocol, conns: 4, streams: 16, body: SMALL, once: false });
        }
    }
    shapes
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.protocol.name();
        let body = if self.body == LARGE { "64 KiB" } else { "100 B" };
        match self.once {
            true => write!(f, "{name}, a connection a request, {body}"),
            false => write!(f, "{name}, {} x {}, {body}", self.conns, self.streams),
        }
    }
}

/// One run.
#[derive(Serialize, Clone, Debug)]
struct Case {
    round: u32,
    proxy: Proxy,
    shape: Shape,
    #[serde(flatten)]
    found: h2load::Found,
    proxy_us: f64,
    all_us: f64,
}

/// Memory of idle connections.
#[derive(Serialize, Clone, Debug)]
struct Idle {
    proxy: Proxy,
    protocol: Protocol,
    connections: u32,
    kib_each: f64,
}

#[derive(Serialize, Debug)]
struct Results {
    commit: String,
    kernel: String,
    versions: BTreeMap<String, String>,
    cases: Vec<Case>,
    idle: Vec<Idle>,
}

/// Builds, then measures as root.
pub(crate) fn protocols(args: &Args) -> Result<()> {
    setup::ensure(&[Group::Kernel, Group::Network, Group::Peers, Group::Bench])?;
    let weir = build::build(&build::Args { release: true, ..build::Args::default() })?;
    let mut command = exec::as_root("env");
    command.arg(format!("WEIR_BIN={}", weir.display()));
    command.arg(weir.with_file_name("xtask")).arg("bench-protocols");
    command.args(args.words());
    let _ignored = Interrupt::watch()?;
    exec::run(&mut command)
}

/// Measures, prints tables and writes `target/bench/protocols.json`.
pub(crate) fn measure(args: &Args) -> Result<()> {
    ensure!(exec::is_root(), "namespaces and BPF need root: use `cargo xtask bench protocols`");
    let interrupt = Interrupt::watch()?;
    let proxies = Proxy::installed(&args.beside);
    let versions = proxies.iter().map(|proxy| Ok((proxy.to_string(), proxy.version()?)));
    let versions: BTreeMap<_, _> = versions.collect::<Result<_>>()?;
    for (name, version) in &versions {
        println!("{name}: {version}");
    }
    let site = Site::new()?;
    let cases = rounds(args, &site, &proxies, &interrupt)?;
    if !cases.is_empty() {
        println!("{}", table(&cases, args.shapes(), &proxies));
    }
    let idle = idle(args, &site, &proxies, &interrupt)?;
    if !idle.is_empty() {
        println!("{}", idle_table(&idle, &proxies));
    }
    let results = Results { commit: super::commit()?, kernel: super::kernel(), versions, cases, idle };
    let path = write_json("protocols.json", &results)?;
    println!("wrote {}", path.display());
    Ok(())
}

/// Every proxy in every round, each round beginning with another.
fn rounds(args: &Args, site: &Site, proxies: &[Proxy], interrupt: &Interrupt) -> Result<Vec<Case>> {
    let window = Duration::from_millis(args.window_ms);
    let bar = ProgressBar::new(u64::from(args.rounds) * u64::try_from(proxies.len())?);
    let mut cases = Vec::new();
    for round in 1..=args.rounds {
        for index in 0..proxies.len() {
            let Some(&proxy) = proxies.get((index + usize::try_from(round)?) % proxies.len()) else {
                continue;
            };
            let stand = site.raise(proxy)?;
            for shape in args.shapes() {
                interrupt.check()?;
                let named = || format!("{proxy}: {shape}");
                // What it keeps for later requests is made first. Of few connections: h2load never ends where
                // its time is over before all of them are open.
                let warm = Shape { once: false, conns: shape.conns.min(32), ..shape };
                stand.run(&warm, WARM_UP).with_context(named)?;
                let Cost { found, proxy_us, all_us } = stand.run(&shape, window).with_context(named)?;
                cases.push(Case { round, proxy, shape, found, proxy_us, all_us });
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(cases)
}

/// Connections that a proxy can have beside as many to endpoints, by the limit of open files.
fn room() -> u32 {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    u32::try_from((files / 2).saturating_sub(500)).unwrap_or(u32::MAX)
}

fn idle(args: &Args, site: &Site, proxies: &[Proxy], interrupt: &Interrupt) -> Result<Vec<Idle>> {
    let count = args.idle.min(room());
    let mut all = Vec::new();
    for &proxy in proxies {
        for &protocol in args.protocol.iter().filter(|_| count > 0) {
            interrupt.check()?;
            // A fresh one: memory that was used once is seldom given back.
            let stand = site.raise(proxy)?;
            let named = || format!("{proxy}: {count} idle connections, {}", protocol.name());
            let kib_each = stand.idle_kib(protocol, count).with_context(named)?;
            all.push(Idle { proxy, protocol, connections: count, kib_each });
        }
    }
    Ok(all)
}

/// Medians of the agent, and beside them its ratios to the others.
fn table(cases: &[Case], shapes: impl Iterator<Item = Shape>, proxies: &[Proxy]) -> Table {
    let others: Vec<_> = proxies.iter().copied().filter(|proxy| *proxy != Proxy::Weir).collect();
    let mut head = ["requests", "req/s", "p99 us", "CPU us"].map(str::to_owned).to_vec();
    head.extend(
        others.iter().flat_map(|other| [format!("/{other} req/s"), "p99".to_owned(), "CPU".to_owned()]),
    );
    let mut table = framed(head);
    for shape in shapes {
        let of = |proxy, figure: fn(&Case) -> f64| {
            let these = cases.iter().filter(move |case| case.proxy == proxy && case.shape == shape);
            these.map(figure).collect::<Vec<_>>()
        };
        let figures: [fn(&Case) -> f64; 3] = [|case| case.found.rps, p99, |case| case.proxy_us];
        let mut row = vec![shape.to_string()];
        row.extend(figures.iter().map(|figure| format!("{:.0}", median(of(Proxy::Weir, *figure)))));
        for other in &others {
            // Runs of one round are beside each other in both.
            let ratio = |figure: &fn(&Case) -> f64| {
                let pairs = of(Proxy::Weir, *figure).into_iter().zip(of(*other, *figure));
                format!("{:.2}", median(pairs.map(|(ours, theirs)| ours / theirs).collect()))
            };
            row.extend(figures.iter().map(ratio));
        }
        table.add_row(row);
    }
    table
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn p99(case: &Case) -> f64 {
    case.found.p99_us as f64
}

fn idle_table(idle: &[Idle], proxies: &[Proxy]) -> Table {
    let count = idle.first().map_or(0, |one| one.connections);
    let head = std::iter::once(format!("KiB an idle connection, of {count}"));
    let mut table = framed(head.chain(proxies.iter().map(ToString::to_string)).collect());
    let measured = |protocol: &Protocol| idle.iter().any(|one| one.protocol == *protocol);
    for protocol in Protocol::ALL.into_iter().filter(measured) {
        let cell = |proxy: &Proxy| {
            let found = idle.iter().find(|one| one.proxy == *proxy && one.protocol == protocol);
            found.map_or_else(String::new, |one| format!("{:.1}", one.kib_each))
        };
        table.add_row(std::iter::once(protocol.name().to_owned()).chain(proxies.iter().map(cell)));
    }
    table
}

fn framed(head: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(head);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_is_measured_with_small_and_large_answers_and_in_a_shape_of_its_own() {
        for protocol in Protocol::ALL {
            let mine: Vec<_> = shapes().into_iter().filter(|shape| shape.protocol == protocol).collect();
            assert_eq!(mine.len(), 3);
            assert!([SMALL, LARGE].iter().all(|body| mine.iter().any(|shape| shape.body == *body)));
        }
    }

    #[test]
    fn ratios_are_of_one_round_and_the_median_of_all() {
        let shape = shapes().remove(0);
        let case = |round, proxy, rps| Case {
            round,
            proxy,
            shape,
            found: h2load::Found { answered: 1, rps, p50_us: 1, p99_us: 1 },
            proxy_us: 1.0,
            all_us: 1.0,
        };
        let rounds = [(1.0, 2.0), (30.0, 10.0), (4.0, 4.0)];
        let cases: Vec<_> = rounds
            .into_iter()
            .zip(1..)
            .flat_map(|((ours, theirs), round)| {
                [case(round, Proxy::Weir, ours), case(round, Proxy::Nginx, theirs)]
            })
            .collect();
        let text = table(&cases, shapes().into_iter(), &[Proxy::Weir, Proxy::Nginx]).to_string();
        let row = text.lines().find(|line| line.contains("h1, 32 x 1, 100 B")).unwrap_or_default();
        assert!(row.split('|').any(|cell| cell.trim() == "1.00"), "{text}");
        assert!(row.split('|').any(|cell| cell.trim() == "4"), "{text}");
    }
}

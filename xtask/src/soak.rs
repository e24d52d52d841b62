//! `cargo xtask soak`: random traffic through the real agent, first in peace, then while clients and servers
//! are killed, endpoints leave and come, and policies change. Every answer must be its request's own, and in
//! the end the agent holds no more than it did before the storm.

mod chaos;

use crate::{
    build, exec,
    setup::{self, Group},
};
use anyhow::{Context, Result, bail, ensure};
use chaos::Chaos;
use comfy_table::presets;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt,
    io::IsTerminal,
    os::unix::process::CommandExt,
    time::{Duration, Instant},
};
use weir_tests::{
    peer,
    process::Process,
    scene::{Scene, WEB},
    wait,
};

/// The part of the time that passes before anything is killed.
const PEACE: u32 = 5;
/// How long the agent may take to let go of everything: longer than its idle timeouts.
const SETTLING: Duration = Duration::from_secs(30);
/// Memory may grow by a part and by what an allocator keeps.
const GROWTH: u64 = 16 << 20;
/// Endpoints of the Service.
const SERVERS: u8 = 3;
/// Connections of the client that is never killed.
const CONNECTIONS: &str = "16";

/// Arguments of `cargo xtask soak`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "30m")]
    length: Duration,
    /// What happens when, and what is asked for; printed, so that a run can be repeated.
    #[arg(long)]
    seed: Option<u64>,
    /// Everything is built, and we are root.
    #[arg(long, hide = true)]
    prepared: bool,
}

/// Builds as the user, then soaks as root.
pub(crate) fn soak(args: &Args) -> Result<()> {
    let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()));
    if args.prepared {
        return play(args.length, seed);
    }
    setup::ensure(&[Group::Kernel, Group::Network])?;
    let binary = build::build(&build::Args::default())?;
    let beside = |name: &str| binary.with_file_name(name);
    let mut command = exec::as_root("env");
    command.arg(format!("WEIR_BIN={}", binary.display()));
    command.arg(format!("WEIR_PEER={}", beside("weir-peer").display()));
    command.arg(beside("xtask")).args(["soak", "--prepared", "--seed", &seed.to_string()]);
    command.arg("--for").arg(humantime::format_duration(args.length).to_string().replace(' ', ""));
    Err(command.exec()).context("cannot start the soak as root")
}

fn play(length: Duration, seed: u64) -> Result<()> {
    println!("soak: {}, --seed {seed}", humantime::format_duration(length));
    let scene = Scene::web_with(SERVERS, &["--acceleration=on", "--access-log=/dev/null"])?;
    let mut chaos = Chaos::new(scene, seed)?;
    let bar = progress(length)?;

    bar.set_message("peace");
    let peace = length / PEACE;
    let client = ask(chaos.scene(), seed)?;
    chaos.wait(peace, &bar)?;
    let calm = told(client)?;
    let before = Held::settled(chaos.scene(), |_| true)?;

    bar.set_message("storm");
    let client = ask(chaos.scene(), seed + 1)?;
    let storm_begins = Instant::now();
    chaos.rage(length.saturating_sub(peace), &bar)?;
    let storm = told(client)?;
    let lasted = storm_begins.elapsed();
    bar.set_message("settling");
    chaos.calm_down()?;
    let after = Held::settled(chaos.scene(), |held| held.exceeds(&before).is_empty())?;
    bar.finish_and_clear();

    let carried = chaos.scene().agent.metrics()?.sum("weir_kernel_events_total", &[("event", "spliced")]);
    println!("{}", table(&before, &after));
    println!(
        "in peace: {calm}\nin {}: {storm}",
        humantime::format_duration(Duration::from_secs(lasted.as_secs()))
    );
    println!("{}, {carried} requests carried in the kernel", chaos.deeds());
    judge(&calm, &storm, &before, &after, carried, chaos.wrong())
}

/// What must hold.
fn judge(
    calm: &Told,
    storm: &Told,
    before: &Held,
    after: &Held,
    carried: f64,
    wrong: Vec<String>,
) -> Result<()> {
    let mut faults = wrong;
    faults.extend(calm.wrong.iter().chain(&storm.wrong).cloned());
    if !calm.cut.is_empty() || calm.statuses.keys().any(|status| *status != 200) {
        faults.push("in peace a request failed".to_owned());
    }
    // A refused connect, a reset within an answer and a timeout are all that kills explain; 403 is the policy's.
    if storm.statuses.keys().any(|status| ![200, 403, 502, 503, 504].contains(status)) {
        faults.push("an answer that no kill explains".to_owned());
    }
    if storm.good() < 0.9 {
        faults.push(format!("only {:.1} % of the requests were answered", storm.good() * 100.0));
    }
    if carried < 1.0 {
        faults.push("the splice lane carried nothing".to_owned());
    }
    faults.extend(after.exceeds(before));
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// What `weir-peer soak` saw.
#[derive(Deserialize)]
struct Told {
    statuses: BTreeMap<u16, u64>,
    cut: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

impl Told {
    /// The part of the requests whose answer came from an endpoint, or was a denial.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    fn good(&self) -> f64 {
        let count = |statuses: &[u16]| {
            statuses.iter().filter_map(|status| self.statuses.get(status)).sum::<u64>() as f64
        };
        let all = self.statuses.values().chain(self.cut.values()).sum::<u64>() as f64;
        count(&[200, 403]) / all
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statuses = self.statuses.iter().map(|(status, count)| format!("{count} x {status}"));
        let cut = self.cut.iter().map(|(how, count)| format!("{count} x {how}"));
        f.write_str(&statuses.chain(cut).collect::<Vec<_>>().join(", "))
    }
}

/// Starts the client that is never killed.
fn ask(scene: &Scene, seed: u64) -> Result<Process> {
    let (to, seed) = (WEB.to_string(), seed.to_string());
    peer::start(&scene.client, ["soak", "--to", &to, "--seed", &seed, "--connections", CONNECTIONS])
}

/// Lets it end, and what it saw.
fn told(mut client: Process) -> Result<Told> {
    client.close_stdin();
    let outcome = client.outcome(Duration::from_secs(90))?.success()?;
    serde_json::from_slice(&outcome.stdout).with_context(|| format!("not told: {}", outcome.text()))
}

/// What the agent and the kernel half hold.
struct Held(BTreeMap<String, u64>);

const MEMORY: &str = "memory, bytes";
/// One entry a series or a workload: they stay as long as those do.
const KEPT: [&str; 3] = ["SPLICED", "WORKLOADS", "ADMITTED"];

impl Held {
    fn now(scene: &Scene) -> Result<Self> {
        let status = scene.agent.status()?;
        let number = |value: Option<&serde_json::Value>| value.and_then(serde_json::Value::as_u64);
        let maps = status.pointer("/kernel/maps").and_then(serde_json::Value::as_array).context("no maps")?;
        let mut held = BTreeMap::new();
        for map in maps {
            let name = map.get("name").and_then(serde_json::Value::as_str).context("a map without name")?;
            if !KEPT.contains(&name) {
                held.insert(name.to_owned(), number(map.get("entries")).context("no entries")?);
            }
        }
        let pairs = number(status.pointer("/kernel/pairs/joined")).context("no pairs")?;
        held.insert("pairs".to_owned(), pairs);
        held.insert("open files".to_owned(), scene.agent.open_files()? as u64);
        held.insert(MEMORY.to_owned(), scene.agent.rss()?);
        Ok(Self(held))
    }

    /// Waits until no flow is open and `enough` holds; what is held then, or at last.
    fn settled(scene: &Scene, enough: impl Fn(&Self) -> bool) -> Result<Self> {
        let waited = wait::eventually(SETTLING, "the agent has let go", || {
            let held = Self::now(scene)?;
            let idle = ["FLOWS", "STATES", "pairs"].iter().all(|name| held.0.get(*name) == Some(&0));
            Ok((idle && enough(&held)).then_some(held))
        });
        waited.or_else(|_| Self::now(scene))
    }

    /// What is more than it was.
    fn exceeds(&self, before: &Self) -> Vec<String> {
        let more = |(name, now): (&String, &u64)| {
            let was = before.0.get(name).copied().unwrap_or_default();
            let allowed = if name == MEMORY { was + was / 4 + GROWTH } else { was };
            (*now > allowed).then(|| format!("{name}: {now}, and {was} before the storm"))
        };
        self.0.iter().filter_map(more).collect()
    }
}

fn table(before: &Held, after: &Held) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(presets::NOTHING).set_header(["held", "before", "after"]);
    for (name, after) in &after.0 {
        let before = before.0.get(name).copied().unwrap_or_default();
        table.add_row([name.clone(), before.to_string(), after.to_string()]);
    }
    table
}

fn progress(length: Duration) -> Result<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{wide_bar} {msg} {elapsed} of {len} s")?;
    let bar = ProgressBar::new(length.as_secs()).with_style(style);
    if length.is_zero() {
        bail!("--for 0s shows nothing");
    }
    Ok(bar)
}

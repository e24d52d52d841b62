//! `cargo xtask bench`: the datapath measured against iptables and against no proxy at all.
//!
//! Built as the user, measured as root: the optimised build of this very program makes the namespaces,
//! and is load generator and server inside them.

pub(crate) mod control;
mod interrupt;
mod kubeproxy;
pub(crate) mod load;
mod machine;
mod plan;
mod plot;
mod policy;
mod proof;
pub(crate) mod protocols;
mod report;
mod results;
mod rounds;
mod services;
mod site;
mod stage;

use crate::{
    build, exec,
    setup::{self, Group},
};
use anyhow::{Context, Result, ensure};
use interrupt::Interrupt;
use plan::Plan;
use results::Results;
use rounds::Rounds;
use std::{fs, path::PathBuf, process::Command, time::Duration};
use weir_tests::cgroup;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// What else is measured than the datapath.
    #[command(subcommand)]
    what: Option<What>,
    /// How often everything is measured, interleaved [default: 5, with --quick 2].
    #[arg(long)]
    rounds: Option<u32>,
    /// Only the headline figures and the goals for them, in some minutes.
    #[arg(long)]
    quick: bool,
    /// Only what has all these words, for example `ebpf-redirect 32 keep-alive`; a comma separates
    /// alternatives.
    #[arg(long, default_value = "")]
    filter: String,
    /// Threads of the load generator and of the server [default: a quarter of the CPUs each, 1 to 2].
    #[arg(long)]
    threads: Option<usize>,
    /// Milliseconds that each run counts [default: 1500, with --quick less]; long ones for profilers.
    #[arg(long)]
    window_ms: Option<u64>,
    /// One more argument for every agent; may be repeated. The access log is off unless asked for.
    #[arg(long, allow_hyphen_values = true)]
    agent_arg: Vec<String>,
}

/// What else there is to measure.
#[derive(clap::Subcommand, Clone, Debug)]
enum What {
    /// What a cluster's size costs: start, memory, a change, a connect.
    Control(control::Args),
    /// HTTP/1.1, HTTP/2 and TLS beside nginx, HAProxy and Envoy, and the memory of idle connections.
    Protocols(protocols::Args),
}

/// Share of the CPUs that others may use while we measure.
const QUIET: f64 = 0.05;

/// Builds, then measures as root.
pub(crate) fn bench(args: &Args) -> Result<()> {
    match &args.what {
        Some(What::Control(args)) => return control::control(args),
        Some(What::Protocols(args)) => return protocols::protocols(args),
        None => {}
    }
    setup::ensure(&[Group::Kernel, Group::Network])?;
    let weir = build::build(&build::Args { release: true, ..build::Args::default() })?;
    let mut command = exec::as_root("env");
    command.arg(format!("WEIR_BIN={}", weir.display()));
    command.arg(weir.with_file_name("xtask")).arg("bench-measure").args(args.words());
    // A Ctrl-C reaches the measuring program too; we wait until it has cleaned up.
    let _ignored = Interrupt::watch()?;
    exec::run(&mut command)
}

/// Measures, prints the report and writes `target/bench/datapath.json` and `.svg`.
pub(crate) fn measure(args: &Args) -> Result<()> {
    ensure!(exec::is_root(), "namespaces and BPF need root: use `cargo xtask bench`");
    let interrupt = Interrupt::watch()?;
    let mut plan = match args.quick {
        true => Plan::quick(args.rounds.unwrap_or(2), &args.filter),
        false => Plan::full(args.rounds.unwrap_or(5), &args.filter),
    };
    if let Some(window) = args.window_ms {
        plan.window = Duration::from_millis(window);
    }
    ensure!(!plan.visits.is_empty(), "the filter {:?} leaves nothing to measure", args.filter);
    let cpus = std::thread::available_parallelism()?.get();
    println!("{}", conditions(cpus, &plan)?);
    let threads = args.threads.unwrap_or((cpus / 4).clamp(1, 2));
    let rounds = Rounds { plan: &plan, interrupt: &interrupt, threads, agent_args: &args.agent_arg };
    let mut cases = Vec::new();
    let outcome = rounds.run(&mut cases);
    let ratios = results::ratios(&cases);
    if !cases.is_empty() {
        println!("{}", report::text(&cases, &ratios));
    }
    outcome?;
    let results = Results { commit: commit()?, kernel: kernel(), cpus, cases, ratios };
    write(&results)
}

impl Args {
    fn words(&self) -> Vec<String> {
        let Self { what: _, rounds, quick, filter, threads, window_ms, agent_arg } = self;
        let mut words = vec![format!("--filter={filter}")];
        words.extend(rounds.map(|rounds| format!("--rounds={rounds}")));
        words.extend(quick.then(|| "--quick".to_owned()));
        words.extend(threads.map(|threads| format!("--threads={threads}")));
        words.extend(window_ms.map(|window| format!("--window-ms={window}")));
        words.extend(agent_arg.iter().map(|argument| format!("--agent-arg={argument}")));
        words
    }
}

/// What the figures depend on, said before they are made.
fn conditions(cpus: usize, plan: &Plan) -> Result<String> {
    let everything = cgroup::mount_point().context("cgroup v2 is not mounted")?;
    let before = machine::Busy::now(&everything)?;
    std::thread::sleep(Duration::from_secs(1));
    let background = before.until(&machine::Busy::now(&everything)?).share;
    let warning = if background > QUIET { ": BUSY, the figures will be wrong" } else { "" };
    let iptables = exec::output(Command::new("iptables").arg("--version"))?;
    let variants = plan.variants().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Ok(format!(
        "Linux {}, {cpus} CPUs, {:.0} % busy in the background{warning}; {}\n{variants}\n\
         {:.0} s of load, and the starts of agents",
        kernel(),
        background * 100.0,
        iptables.trim(),
        plan.duration().as_secs_f64(),
    ))
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn commit() -> Result<String> {
    // Root reads a repository of another user.
    let git = |words: &[&str]| {
        let root = exec::root();
        let mut command = Command::new("git");
        exec::output(
            command.arg("-c").arg(format!("safe.directory={}", root.display())).current_dir(root).args(words),
        )
    };
    let dirty = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Ok(format!("{}{}", git(&["rev-parse", "HEAD"])?.trim(), if dirty { "-dirty" } else { "" }))
}

fn write(results: &Results) -> Result<()> {
    let json = write_json("datapath.json", results)?;
    let svg = json.with_extension("svg");
    plot::draw(&svg, &results.cases)?;
    give_back(&svg)?;
    println!("wrote {} and {}", json.display(), svg.display());
    Ok(())
}

/// Writes results to a file of `target/bench`.
fn write_json(name: &str, results: &impl serde::Serialize) -> Result<PathBuf> {
    let directory = exec::root().join("target/bench");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let path = directory.join(name);
    fs::write(&path, serde_json::to_string_pretty(results)?)?;
    give_back(&directory)?;
    give_back(&path)?;
    Ok(path)
}

/// Under sudo, files belong to who called it.
fn give_back(path: &PathBuf) -> Result<()> {
    let id = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    if let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) {
        std::os::unix::fs::chown(path, Some(user), Some(group))
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

//! Bringing a path up, and runs on it.

use super::{
    load::client::{self, Measured},
    machine,
    plan::{HEADLINE, Path, Shape, Variant},
    proof::{Counts, Proof},
    results::KernelHalf,
    site::Site,
};
use anyhow::{Context, Result, bail, ensure};
use std::time::{Duration, Instant};
use weir_tests::agent::{Agent, Builder};

/// Requests after which a workload has passed probation here.
const PROBATION: &str = "--probation-requests=50";
/// How often the warm-up is repeated until both workloads have passed.
const WARM_UPS: u32 = 20;
/// Bytes of a body that no rule allows to ask for.
const DENIED: usize = 17;

/// How long the sk_msg program's own time is measured.
const TIMED: Duration = Duration::from_millis(200);

/// The agent reads the kernel half's counters at most once in this time.
const SCRAPES_APART: Duration = Duration::from_millis(1050);

/// A path that is ready to carry load.
pub(super) struct Stage<'a> {
    site: &'a Site,
    variant: Variant,
    agent: Option<Agent>,
    /// What the agent had counted when it was last asked.
    scraped: Option<(Instant, Counts)>,
}

/// How long a run lasts and how fast it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tempo {
    /// Before the window.
    pub(super) warmup: Duration,
    /// What counts.
    pub(super) window: Duration,
    /// Requests a second, or as many as go.
    pub(super) rate: Option<f64>,
    /// Of the load generator.
    pub(super) threads: usize,
}

/// One proven run.
pub(super) struct Run {
    /// What the load generator measured.
    pub(super) measured: Measured,
    /// What the kernel half did, where there is an agent.
    pub(super) kernel: KernelHalf,
}

impl<'a> Stage<'a> {
    /// Starts what the path needs. Paths with redirects are ready when both workloads have passed
    /// probation, those with a policy when it has denied something.
    pub(super) fn raise(site: &'a Site, variant: Variant, agent_args: &[String]) -> Result<Self> {
        let agent = match arguments(variant.path) {
            None => None,
            Some(own) => {
                let builder = Builder::new(&site.topology, &[])?.config(site.config(variant)?);
                let words = own.into_iter().map(str::to_owned).chain(agent_args.iter().cloned());
                Some(builder.args(words).start().with_context(|| format!("agent for {variant}"))?)
            }
        };
        let mut stage = Self { site, variant, agent, scraped: None };
        if variant.path.is_redirected() {
            stage.pass_probation()?;
        }
        stage.count()?;
        if variant.rules > 0 {
            stage.is_denied()?;
        }
        Ok(stage)
    }

    /// One run, checked against the agent's counters.
    pub(super) fn run(&mut self, shape: Shape, tempo: Tempo) -> Result<Run> {
        let measured =
            self.site.load(&self.args(shape, tempo)?).with_context(|| format!("{} {shape}", self.variant))?;
        let Some(counted) = self.count()? else {
            return Ok(Run { measured, kernel: KernelHalf::default() });
        };
        let proof = Proof { shape, answered: measured.answered, counted };
        proof.check(self.variant.path).with_context(|| format!("{} {shape}", self.variant))?;
        let timed = self.variant.path.is_redirected() && tempo.rate.is_none();
        let mut kernel = proof.kernel_half();
        if timed {
            let KernelHalf { msg_per_req, msg_ns, .. } = self.timed(shape, tempo)?;
            kernel = KernelHalf { msg_per_req, msg_ns, ..kernel };
        }
        Ok(Run { measured, kernel })
    }

    /// What the sk_msg program costs, by the kernel's statistics: in a run of its own, because they cost
    /// every program two looks at the clock.
    fn timed(&mut self, shape: Shape, tempo: Tempo) -> Result<KernelHalf> {
        let _counting = machine::ProgramStatistics::on()?;
        let tempo = Tempo { warmup: Duration::ZERO, window: TIMED, ..tempo };
        let measured = self.site.load(&self.args(shape, tempo)?)?;
        let counted = self.count()?.unwrap_or_default();
        Ok(Proof { shape, answered: measured.answered, counted }.kernel_half())
    }

    /// The agent's peak resident size.
    pub(super) fn agent_rss_kib(&self) -> Result<Option<u64>> {
        self.agent.as_ref().map(|agent| machine::peak_rss_kib(agent.pid())).transpose()
    }

    fn args(&self, shape: Shape, tempo: Tempo) -> Result<client::Args> {
        Ok(client::Args {
            target: self.site.target(self.variant.path),
            conns: shape.conns,
            body: shape.body,
            close: !shape.reuse,
            rate: tempo.rate,
            warmup_ms: u64::try_from(tempo.warmup.as_millis())?,
            window_ms: u64::try_from(tempo.window.as_millis())?,
            threads: tempo.threads.min(shape.conns),
            cgroup: self.site.cgroup().to_owned(),
        })
    }

    /// What the agent has counted since it was last asked.
    fn count(&mut self) -> Result<Option<Counts>> {
        let Some(agent) = &self.agent else { return Ok(None) };
        let before = self.scraped.map_or_else(Counts::default, |(asked, before)| {
            std::thread::sleep((asked + SCRAPES_APART).saturating_duration_since(Instant::now()));
            before
        });
        let after = Counts::of(&agent.metrics()?);
        self.scraped = Some((Instant::now(), after));
        Ok(Some(after - before))
    }

    /// Asks for what no rule allows.
    fn is_denied(&mut self) -> Result<()> {
        let window = Duration::from_millis(100);
        let tempo = Tempo { warmup: Duration::ZERO, window, rate: None, threads: 1 };
        let shape = Shape { conns: 1, body: DENIED, reuse: true };
        // The load generator takes any answer but the one that it asked for as a failure.
        let answered = self.site.load(&self.args(shape, tempo)?).map_or(0, |measured| measured.answered);
        let counted = self.count()?.unwrap_or_default();
        Proof { shape, answered, counted }.check_denied()
    }

    /// Sends requests until client and server may both be redirected into. Sockets join the map when
    /// they connect: each repetition opens new ones.
    fn pass_probation(&mut self) -> Result<()> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let window = Duration::from_millis(200);
        let tempo = Tempo { warmup: Duration::ZERO, window, rate: None, threads: 1 };
        let args = self.args(Shape { reuse: false, ..HEADLINE }, tempo)?;
        for _ in 0..WARM_UPS {
            self.site.load(&args).context("warm-up")?;
            let samples = agent.metrics()?;
            self.scraped = Some((Instant::now(), Counts::of(&samples)));
            let in_state = |state| samples.sum("weir_workloads", &[("state", state)]);
            ensure!(in_state("barred") == 0.0, "a workload of the benchmark was barred from acceleration");
            if in_state("accelerated") >= 2.0 {
                return Ok(());
            }
        }
        let status = serde_json::to_string_pretty(&agent.status()?)?;
        bail!("client and server did not pass probation after {WARM_UPS} warm-ups; status: {status}")
    }
}

/// How the agent is started for a path; `None` where there is none.
fn arguments(path: Path) -> Option<Vec<&'static str>> {
    const QUIET: &str = "--access-log=off";
    match path {
        Path::Direct | Path::IptablesDnat => None,
        Path::IptablesRelay => Some(vec![QUIET, "--steering=iptables"]),
        Path::EbpfLb | Path::EbpfSteer => Some(vec![QUIET, "--acceleration=off"]),
        Path::EbpfRedirect => Some(vec![QUIET, "--acceleration=auto", PROBATION, "--splice-pairs=0"]),
        // Without a control group: by default one connection in a hundred measures relay.
        Path::EbpfSplice => Some(vec![QUIET, "--acceleration=auto", PROBATION, "--splice-control=0%"]),
    }
}

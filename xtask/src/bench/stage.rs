//! Bringing a path up, and proof that traffic really takes it: the agent's own counters.

use super::{
    load::client::{self, Measured},
    machine,
    plan::{HEADLINE, Path, Shape, Variant},
    site::{self, Site},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    ops::Sub,
    time::{Duration, Instant},
};
use weir_tests::{
    agent::{Agent, Builder},
    metrics::Samples,
};

/// Requests after which a workload has passed probation here.
const PROBATION: &str = "--probation-requests=50";
/// How often the warm-up is repeated until both workloads have passed.
const WARM_UPS: u32 = 20;
/// Redirected messages per request that prove the redirect path. Four are expected: each of two hops has
/// a request and an answer.
const REDIRECTED_AT_LEAST: f64 = 3.0;

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
    /// Redirected messages per request, where an agent's kernel half is loaded.
    pub(super) redirected_per_req: Option<f64>,
}

impl<'a> Stage<'a> {
    /// Starts what the path needs; the redirect path is ready when both workloads have passed probation.
    pub(super) fn raise(site: &'a Site, variant: Variant, agent_args: &[String]) -> Result<Self> {
        let agent = match arguments(variant.path) {
            None => None,
            Some(own) => {
                let builder = Builder::new(&site.topology, &site::known_to_agent(variant))?;
                let words = own.into_iter().map(str::to_owned).chain(agent_args.iter().cloned());
                Some(builder.args(words).start().with_context(|| format!("agent for {variant}"))?)
            }
        };
        let mut stage = Self { site, variant, agent, scraped: None };
        if matches!(variant.path, Path::EbpfRedirect | Path::EbpfSplice) {
            stage.pass_probation()?;
        }
        stage.count()?;
        Ok(stage)
    }

    /// One run, checked against the agent's counters.
    pub(super) fn run(&mut self, shape: Shape, tempo: Tempo) -> Result<Run> {
        let measured =
            self.site.load(&self.args(shape, tempo)?).with_context(|| format!("{} {shape}", self.variant))?;
        let Some(counted) = self.count()? else {
            return Ok(Run { measured, redirected_per_req: None });
        };
        let proof = Proof { conns: shape.conns, requests: measured.requests, counted };
        proof.check(self.variant.path).with_context(|| format!("{} {shape}", self.variant))?;
        Ok(Run { measured, redirected_per_req: Some(proof.redirected_per_req()) })
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
        Path::EbpfSplice => Some(vec![QUIET, "--acceleration=auto", PROBATION]),
    }
}

/// What an agent counted.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    accepted: f64,
    steered: f64,
    balanced: f64,
    mapped: f64,
    redirected: f64,
    spliced: f64,
}

impl Counts {
    fn of(samples: &Samples) -> Self {
        let event = |name| samples.sum("weir_kernel_events_total", &[("event", name)]);
        Self {
            accepted: samples.sum("weir_downstream_opened_total", &[]),
            steered: event("steered"),
            balanced: event("balanced"),
            mapped: event("mapped"),
            redirected: event("redirected"),
            spliced: event("spliced"),
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            accepted: self.accepted - before.accepted,
            steered: self.steered - before.steered,
            balanced: self.balanced - before.balanced,
            mapped: self.mapped - before.mapped,
            redirected: self.redirected - before.redirected,
            spliced: self.spliced - before.spliced,
        }
    }
}

/// What a run did, by the client's count and by the agent's.
struct Proof {
    conns: usize,
    requests: u64,
    counted: Counts,
}

impl Proof {
    /// Fails when the traffic did not take the path that is said to be measured.
    fn check(&self, path: Path) -> Result<()> {
        let Counts { accepted, steered, balanced, mapped, redirected, spliced } = self.counted;
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        let conns = self.conns as f64;
        let taken = match path {
            Path::Direct | Path::IptablesDnat => true,
            Path::IptablesRelay => accepted >= conns && steered == 0.0 && redirected == 0.0,
            Path::EbpfLb => balanced >= conns && accepted == 0.0,
            Path::EbpfSteer => steered >= conns && accepted >= conns && redirected == 0.0,
            Path::EbpfRedirect => {
                steered >= conns && mapped >= conns && self.redirected_per_req() >= REDIRECTED_AT_LEAST
            }
            Path::EbpfSplice => steered >= conns && mapped >= conns && spliced > 0.0,
        };
        ensure!(taken, "traffic did not take this path: {} requests, {:?}", self.requests, self.counted);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn redirected_per_req(&self) -> f64 {
        self.counted.redirected / self.requests as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn proof(text: &str) -> Proof {
        Proof { conns: 32, requests: 1000, counted: Counts::of(&Samples::parse(text).unwrap()) }
    }

    #[test]
    fn redirects_that_did_not_happen_fail_the_redirect_path_and_prove_the_other() {
        let proof =
            proof("weir_downstream_opened_total 32\nweir_kernel_events_total{event=\"steered\"} 32\n");
        assert!(proof.check(Path::EbpfSteer).is_ok());
        assert!(proof.check(Path::EbpfRedirect).is_err());
        assert!(proof.check(Path::IptablesRelay).is_err());
    }

    #[test]
    fn four_messages_a_request_prove_the_redirect_path() {
        let proof = proof(
            "weir_downstream_opened_total 32\nweir_kernel_events_total{event=\"steered\"} 32\n\
             weir_kernel_events_total{event=\"mapped\"} 64\n\
             weir_kernel_events_total{event=\"redirected\"} 4000\n",
        );
        assert!(proof.check(Path::EbpfRedirect).is_ok());
        assert!(proof.check(Path::EbpfSteer).is_err());
    }

    #[test]
    fn the_pass_lane_must_not_touch_the_agent() {
        let text = "weir_kernel_events_total{event=\"balanced\"} 32\n";
        assert!(proof(text).check(Path::EbpfLb).is_ok());
        assert!(proof(&format!("{text}weir_downstream_opened_total 1\n")).check(Path::EbpfLb).is_err());
    }
}

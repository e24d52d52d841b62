//! Making the runs: visit by visit, with a progress bar.

use super::{
    interrupt::Interrupt,
    plan::{HEADLINE, Plan, Variant, Visit},
    results::{Case, OpenLoop},
    site::{Rules, Site},
    stage::{Stage, Tempo},
};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What all visits share.
pub(super) struct Rounds<'a> {
    /// What to measure.
    pub(super) plan: &'a Plan,
    /// Ends the run early.
    pub(super) interrupt: &'a Interrupt,
    /// Of the load generator and of the server.
    pub(super) threads: usize,
    /// Added to every agent's arguments.
    pub(super) agent_args: &'a [String],
}

impl Rounds<'_> {
    /// Makes every run of the plan. The cases so far are in `cases` even when it fails.
    pub(super) fn run(&self, cases: &mut Vec<Case>) -> Result<()> {
        let bar = progress(self.plan.visits.len())?;
        bar.set_message("building the nodes");
        let sites = self.sites()?;
        for visit in &self.plan.visits {
            bar.set_message(format!("round {}: {}", visit.round, visit.variant));
            let site = sites.get(&Rules::of(visit.variant)).context("a variant without a node")?;
            self.visit(site, visit, cases)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// One node for each set of rules that the plan needs.
    fn sites(&self) -> Result<BTreeMap<Rules, Site>> {
        let needed: BTreeSet<_> = self.plan.variants().into_iter().map(Rules::of).collect();
        let site = |rules| {
            self.interrupt.check()?;
            Ok((rules, Site::new(rules, self.threads)?))
        };
        needed.into_iter().map(site).collect()
    }

    fn visit(&self, site: &Site, visit: &Visit, cases: &mut Vec<Case>) -> Result<()> {
        self.interrupt.check()?;
        let mut stage = self.named(Stage::raise(site, visit.variant, self.agent_args), visit.variant)?;
        let mut tempo =
            Tempo { warmup: self.plan.warmup, window: self.plan.window, rate: None, threads: self.threads };
        let first = cases.len();
        for &shape in &visit.shapes {
            let run = self.named(stage.run(shape, tempo), visit.variant)?;
            let mut case = Case::new(visit.variant, visit.round, shape, run.measured);
            case.kernel = run.kernel;
            cases.push(case);
        }
        let here = cases.get_mut(first..).unwrap_or_default();
        let saturation = here.iter().map(|case| case.measured.rps).fold(0.0, f64::max);
        let open = here.iter_mut().find(|case| visit.open_loop && case.conns == HEADLINE.conns);
        if let Some(case) = open {
            let rate = saturation / 2.0;
            tempo.rate = Some(rate);
            let run = self.named(stage.run(case.shape, tempo), visit.variant)?;
            case.open_loop = Some(OpenLoop { rate, measured: run.measured, kernel: run.kernel });
        }
        let rss = stage.agent_rss_kib()?;
        here.iter_mut().for_each(|case| case.agent_rss_kib = rss);
        Ok(())
    }

    /// An interrupted run fails in many ways; its cause comes first.
    fn named<T>(&self, outcome: Result<T>, variant: Variant) -> Result<T> {
        outcome.or_else(|error| {
            self.interrupt.check()?;
            Err(error).with_context(|| format!("measuring {variant}"))
        })
    }
}

fn progress(visits: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{wide_bar} {percent:>3} %, {eta_precise} left  {msg:34}")?;
    let bar = ProgressBar::new(u64::try_from(visits)?).with_style(style);
    bar.enable_steady_tick(Duration::from_secs(1));
    Ok(bar)
}

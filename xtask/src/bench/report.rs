//! The figures for people: tables, goals, and where we lose.

use super::{
    plan::{HEADLINE, Path, RULES, SMALL, Shape, Variant},
    results::{Case, Metric, PAIRS, Ratio, ratio, ratio_name, shapes, spread, variants},
};
use comfy_table::{CellAlignment, Table, presets};
use std::collections::BTreeMap;

/// A difference that is not called a loss.
const TOLERANCE: f64 = 0.03;

/// Every table, the goals and the losses.
pub(super) fn text(cases: &[Case], ratios: &BTreeMap<String, Ratio>) -> String {
    let parts = [
        closed_loops(cases),
        open_loops(cases),
        messages(cases),
        memory(cases),
        comparisons(cases),
        goals(ratios),
        losses_text(&losses(cases)),
    ];
    parts.concat()
}

/// Medians over the rounds, a table for each body and kind of connection.
fn closed_loops(cases: &[Case]) -> String {
    let mut text = String::new();
    for shape in shapes(cases) {
        let mut table = table(&[
            "path",
            "requests/s",
            "min-max",
            "p50 us",
            "p90 us",
            "p99 us",
            "p99.9 us",
            "CPU us/req",
            "own CPU",
            "errors",
        ]);
        for variant in variants(cases) {
            let these: Vec<_> = select(cases, variant, shape).collect();
            let median = |of: fn(&Case) -> f64| spread(these.iter().map(|case| of(case)));
            let Some(rps) = median(|case| case.measured.rps) else { continue };
            let figure = |of| median(of).map_or_else(String::new, |ratio| number(ratio.median));
            let errors: u64 = these.iter().map(|case| case.measured.errors).sum();
            table.add_row([
                variant.to_string(),
                number(rps.median),
                format!("{}-{}", number(rps.min), number(rps.max)),
                figure(|case| case.measured.p50_us),
                figure(|case| case.measured.p90_us),
                figure(|case| case.measured.p99_us),
                figure(|case| case.measured.p999_us),
                figure(|case| case.measured.cpu_us_per_req),
                figure(|case| case.measured.own_cpu_us_per_req),
                errors.to_string(),
            ]);
        }
        text.push_str(&titled(&format!("Closed loop, {}: medians", words(shape)), table));
    }
    text
}

fn open_loops(cases: &[Case]) -> String {
    let mut text = String::new();
    for shape in shapes(cases) {
        let mut table = table(&["path", "rate/s", "p50 us", "p90 us", "p99 us", "p99.9 us", "CPU us/req"]);
        for variant in variants(cases) {
            let these: Vec<_> =
                select(cases, variant, shape).filter_map(|case| case.open_loop.as_ref()).collect();
            let figure = |of: fn(&super::results::OpenLoop) -> f64| {
                spread(these.iter().map(|open| of(open)))
                    .map_or_else(String::new, |ratio| number(ratio.median))
            };
            if these.is_empty() {
                continue;
            }
            table.add_row([
                variant.to_string(),
                figure(|open| open.rate),
                figure(|open| open.measured.p50_us),
                figure(|open| open.measured.p90_us),
                figure(|open| open.measured.p99_us),
                figure(|open| open.measured.p999_us),
                figure(|open| open.measured.cpu_us_per_req),
            ]);
        }
        if !table.is_empty() {
            let title = format!("Open loop at half of each path's own saturation, {}: medians", words(shape));
            text.push_str(&titled(&title, table));
        }
    }
    text
}

/// The sk_msg program, wherever it ran.
fn messages(cases: &[Case]) -> String {
    let mut table = table(&["path", "shape", "spliced", "redirects/req", "runs/req", "ns/run", "min-max"]);
    for shape in shapes(cases) {
        for variant in variants(cases) {
            let median = |of: fn(&Case) -> Option<f64>| spread(select(cases, variant, shape).filter_map(of));
            let Some(ns) = median(|case| case.kernel.msg_ns) else { continue };
            let figure = |of| median(of).map_or_else(String::new, |ratio| format!("{:.2}", ratio.median));
            let spliced = median(|case| case.kernel.spliced_per_req).map_or(0.0, |ratio| ratio.median);
            table.add_row([
                variant.to_string(),
                shape.to_string(),
                format!("{:.1} %", spliced * 100.0),
                figure(|case| case.kernel.redirected_per_req),
                figure(|case| case.kernel.msg_per_req),
                number(ns.median),
                format!("{}-{}", number(ns.min), number(ns.max)),
            ]);
        }
    }
    if table.is_empty() {
        String::new()
    } else {
        titled("weir_msg, by the kernel's statistics: medians", table)
    }
}

fn memory(cases: &[Case]) -> String {
    let mut table = table(&["path", "agent's peak RSS MiB", "TCP buffers MiB", "slab MiB"]);
    for variant in variants(cases) {
        let these = || cases.iter().filter(move |case| case.variant == variant);
        let peak = |of: fn(&Case) -> u64| mib(these().map(of).max());
        table.add_row([
            variant.to_string(),
            mib(these().filter_map(|case| case.agent_rss_kib).max()),
            peak(|case| case.measured.tcp_mem_kib),
            peak(|case| case.measured.slab_kib),
        ]);
    }
    titled("Memory of the whole machine: maxima", table)
}

/// Ratios of the headline shape and of its connection-per-request twin.
fn comparisons(cases: &[Case]) -> String {
    let mut text = String::new();
    for shape in [HEADLINE, Shape { reuse: false, ..HEADLINE }] {
        let mut table = table(&["A over B", "requests/s", "CPU per request", "own CPU", "p99"]);
        for pair in PAIRS {
            let figures = Metric::ALL.map(|metric| ratio(cases, pair, shape, metric));
            let [Some(rps), cpu, own, p99] = figures else { continue };
            let shown = |ratio: Option<Ratio>| ratio.map_or_else(String::new, range);
            table.add_row([
                ratio_name(pair, HEADLINE, Metric::Rps),
                range(rps),
                shown(cpu),
                shown(own),
                shown(p99),
            ]);
        }
        if !table.is_empty() {
            let title = format!("Ratios within a round, {}: median (min-max)", words(shape));
            text.push_str(&titled(&title, table));
        }
    }
    text
}

/// What the project promises of itself: a ratio and its bound.
const GOALS: [(&str, Bound); 15] = [
    ("ebpf-redirect_over_iptables-relay", Bound::AtLeast(1.6)),
    ("ebpf-redirect_over_iptables-relay_cpu", Bound::AtMost(0.65)),
    ("ebpf-redirect_over_iptables-relay_close", Bound::AtLeast(1.0)),
    ("ebpf-lb-10000_over_ebpf-lb-1", Bound::AtLeast(0.95)),
    ("ebpf-lb-10000_over_ebpf-lb-1_close", Bound::AtLeast(0.95)),
    ("ebpf-lb-10000_over_iptables-dnat", Bound::AtLeast(1.0)),
    ("ebpf-lb-10000_over_iptables-dnat_close", Bound::AtLeast(1.0)),
    ("splice_over_iptables-relay-policy", Bound::AtLeast(4.0)),
    ("splice_over_iptables-relay-policy_cpu", Bound::AtMost(0.25)),
    ("splice_over_iptables-dnat", Bound::AtLeast(2.0)),
    ("splice_over_iptables-dnat-10000", Bound::AtLeast(2.2)),
    ("splice_over_direct", Bound::AtLeast(1.7)),
    ("splice-rules-1000_over_splice-rules-10", Bound::AtLeast(0.95)),
    ("splice_over_ebpf-redirect_64k", Bound::AtLeast(1.0)),
    ("splice_over_ebpf-redirect_c1", Bound::AtLeast(1.0)),
];

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

fn goals(ratios: &BTreeMap<String, Ratio>) -> String {
    let mut text = String::new();
    for (name, bound) in GOALS {
        let Some(ratio) = ratios.get(name) else { continue };
        let (met, wanted) = match bound {
            Bound::AtLeast(least) => (ratio.median >= least, format!("at least {least:.2}")),
            Bound::AtMost(most) => (ratio.median <= most, format!("at most {most:.2}")),
        };
        let verdict = if met { "met   " } else { "MISSED" };
        text.push_str(&format!("  {verdict} {name}: {}, goal {wanted}\n", range(*ratio)));
    }
    if text.is_empty() { text } else { format!("\nGoals\n{text}") }
}

/// Ours against theirs, where being slower or dearer is a loss.
const RIVALS: [(Variant, Variant); 15] = {
    use Path::{Direct, EbpfLb, EbpfRedirect, EbpfSplice, EbpfSteer, IptablesDnat, IptablesRelay};
    const SPLICE: Variant = Variant::ruled(EbpfSplice, RULES);
    const fn one(path: Path) -> Variant {
        Variant::new(path, 1)
    }
    const fn many(path: Path) -> Variant {
        Variant::new(path, 10_000)
    }
    [
        (SPLICE, Variant::ruled(IptablesRelay, RULES)),
        (SPLICE, one(IptablesRelay)),
        (SPLICE, one(EbpfRedirect)),
        (SPLICE, one(IptablesDnat)),
        (SPLICE, many(IptablesDnat)),
        (SPLICE, one(Direct)),
        (one(EbpfLb), one(Direct)),
        (one(EbpfLb), one(IptablesDnat)),
        (many(EbpfLb), many(IptablesDnat)),
        (one(EbpfSteer), one(IptablesRelay)),
        (one(EbpfSteer), one(IptablesDnat)),
        (one(EbpfRedirect), one(IptablesRelay)),
        (one(EbpfRedirect), one(EbpfSteer)),
        (one(EbpfRedirect), one(IptablesDnat)),
        (one(EbpfRedirect), one(Direct)),
    ]
};

/// One shape in which one of our paths is worse than a rival.
#[derive(Debug, PartialEq)]
struct Loss {
    ours: Variant,
    theirs: Variant,
    shape: Shape,
    metric: Metric,
    ratio: Ratio,
}

/// Every loss beyond the tolerance, by pair, the worst first.
fn losses(cases: &[Case]) -> Vec<Loss> {
    let mut losses = Vec::new();
    for pair in RIVALS {
        let mut worst: Vec<_> = shapes(cases)
            .into_iter()
            .flat_map(|shape| Metric::ALL.map(|metric| (shape, metric)))
            .filter_map(|(shape, metric)| {
                let ratio = ratio(cases, pair, shape, metric)?;
                let loss = Loss { ours: pair.0, theirs: pair.1, shape, metric, ratio };
                (loss.factor() > 1.0 + TOLERANCE).then_some(loss)
            })
            .collect();
        worst.sort_by(|one, other| other.factor().total_cmp(&one.factor()));
        losses.extend(worst);
    }
    losses
}

impl Loss {
    /// How many times worse, by the median.
    fn factor(&self) -> f64 {
        if self.metric == Metric::Rps { 1.0 / self.ratio.median } else { self.ratio.median }
    }

    /// Whether it was worse in every single round.
    fn always(&self) -> bool {
        if self.metric == Metric::Rps { self.ratio.max < 1.0 } else { self.ratio.min > 1.0 }
    }
}

fn losses_text(losses: &[Loss]) -> String {
    let mut text = format!("\nWhere we lose (by more than {:.0} %)\n", TOLERANCE * 100.0);
    if losses.is_empty() {
        text.push_str("  nowhere in what was measured\n");
    }
    let mut pair = None;
    for loss in losses {
        if pair != Some((loss.ours, loss.theirs)) {
            pair = Some((loss.ours, loss.theirs));
            text.push_str(&format!("  {} against {}\n", loss.ours, loss.theirs));
        }
        let what = match loss.metric {
            Metric::Rps => "requests/s",
            Metric::Cpu => "CPU per request",
            Metric::OwnCpu => "own CPU",
            Metric::P99 => "p99 latency",
        };
        let often = if loss.always() { ", in every round" } else { "" };
        text.push_str(&format!("    {:48} {what:16} {}{often}\n", words(loss.shape), range(loss.ratio)));
    }
    text
}

fn select(cases: &[Case], variant: Variant, shape: Shape) -> impl Iterator<Item = &Case> {
    cases.iter().filter(move |case| case.variant == variant && case.shape == shape)
}

fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(columns);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn titled(title: &str, table: Table) -> String {
    format!("\n{title}\n{table}\n")
}

fn words(shape: Shape) -> String {
    let reuse = if shape.reuse { "keep-alive" } else { "connection per request" };
    let body = if shape.body == SMALL { "100 B" } else { "64 KiB" };
    let plural = if shape.conns == 1 { "" } else { "s" };
    format!("{} connection{plural}, {reuse}, {body}", shape.conns)
}

/// `1.83 (1.79-1.90)`
fn range(ratio: Ratio) -> String {
    format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max)
}

/// Three digits at least, no more than needed.
fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn mib(kib: Option<u64>) -> String {
    kib.map_or_else(|| "-".to_owned(), |kib| format!("{}.{}", kib / 1024, kib % 1024 * 10 / 1024))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::bench::{
        plan::Plan,
        results::{
            KernelHalf, ratios,
            tests::{case, case_of},
        },
    };
    use std::collections::BTreeSet;

    fn slow_redirect() -> Vec<Case> {
        vec![
            case(Path::IptablesRelay, 1, HEADLINE, 1000.0),
            case(Path::EbpfRedirect, 1, HEADLINE, 800.0),
            case(Path::IptablesRelay, 2, HEADLINE, 1000.0),
            case(Path::EbpfRedirect, 2, HEADLINE, 1010.0),
            case(Path::IptablesRelay, 3, HEADLINE, 1000.0),
            case(Path::EbpfRedirect, 3, HEADLINE, 900.0),
        ]
    }

    #[test]
    fn a_median_that_is_worse_is_a_loss_and_says_whether_always() {
        let losses = losses(&slow_redirect());
        assert_eq!(losses.len(), 4, "requests, both CPU figures and p99 all follow");
        assert!((losses[0].factor() - 1.0 / 0.9).abs() < 1e-9);
        assert!(!losses[0].always());
    }

    #[test]
    fn where_nothing_is_lost_the_report_says_so() {
        let cases = [case(Path::Direct, 1, HEADLINE, 10.0)];
        assert!(text(&cases, &ratios(&cases)).contains("nowhere in what was measured"));
    }

    #[test]
    fn every_goal_is_a_ratio_that_a_full_run_has() {
        let shapes: BTreeSet<_> =
            Plan::full(1, "").visits.into_iter().flat_map(|visit| visit.shapes).collect();
        let names: BTreeSet<_> = PAIRS
            .into_iter()
            .flat_map(|pair| shapes.iter().map(move |shape| (pair, *shape)))
            .flat_map(|(pair, shape)| Metric::ALL.map(|metric| ratio_name(pair, shape, metric)))
            .collect();
        for (name, _) in GOALS {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn the_message_program_is_told_of_where_it_ran() {
        let mut spliced = case_of(Variant::ruled(Path::EbpfSplice, RULES), 1, HEADLINE, 1000.0);
        assert_eq!(messages(&[spliced.clone()]), "");
        spliced.kernel = KernelHalf {
            redirected_per_req: Some(0.0),
            spliced_per_req: Some(0.998),
            msg_per_req: Some(2.0),
            msg_ns: Some(412.0),
        };
        let text = messages(&[spliced, case(Path::Direct, 1, HEADLINE, 1000.0)]);
        assert!(text.contains("99.8 %") && text.contains("412") && !text.contains(" direct "), "{text}");
    }

    #[test]
    fn goals_are_judged_by_the_median() {
        let cases = slow_redirect();
        let text = goals(&ratios(&cases));
        assert!(
            text.contains("MISSED ebpf-redirect_over_iptables-relay: 0.90 (0.80-1.01), goal at least 1.60")
        );
    }
}

//! What was measured, as other programs read it: `target/bench/datapath.json`.

use super::{
    load::client::Measured,
    plan::{HEADLINE, LARGE, Path, RULES, Shape, VARIANTS, Variant},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// The file. Other programs read it: keep its shape.
#[derive(Serialize, Debug)]
pub(super) struct Results {
    /// `git rev-parse HEAD`, with `-dirty` where files differ.
    pub(super) commit: String,
    /// `uname -r`
    pub(super) kernel: String,
    /// How many there are.
    pub(super) cpus: usize,
    /// Every single run.
    pub(super) cases: Vec<Case>,
    /// A over B, paired within a round, by name.
    pub(super) ratios: BTreeMap<String, Ratio>,
}

/// One closed-loop run.
#[derive(Serialize, Clone, Debug)]
pub(super) struct Case {
    #[serde(skip)]
    pub(super) variant: Variant,
    #[serde(skip)]
    pub(super) shape: Shape,
    pub(super) path: &'static str,
    /// The path with what is special about this variant of it, as the ratios name it.
    #[serde(rename = "variant")]
    pub(super) name: String,
    /// 1 and up.
    pub(super) round: u32,
    /// Services on the node.
    pub(super) services: u32,
    /// HTTP rules of the policy; 0: there is none.
    pub(super) rules: u32,
    /// Connections at once.
    pub(super) conns: usize,
    /// Bytes of an answer's body.
    pub(super) body: usize,
    /// Keep-alive, or a connection per request.
    pub(super) reuse: bool,
    /// The whole run: the keys of [`Measured`].
    #[serde(flatten)]
    pub(super) measured: Measured,
    /// Peak resident memory of the agent so far, where there is one.
    pub(super) agent_rss_kib: Option<u64>,
    #[serde(flatten)]
    pub(super) kernel: KernelHalf,
    /// At a fixed rate of requests on the same path.
    pub(super) open_loop: Option<OpenLoop>,
}

/// An open-loop run: latency counts from when a request was due.
#[derive(Serialize, Clone, Debug)]
pub(super) struct OpenLoop {
    /// Requests a second that were due: half of the path's saturation in the same round.
    pub(super) rate: f64,
    #[serde(flatten)]
    pub(super) measured: Measured,
    #[serde(flatten)]
    pub(super) kernel: KernelHalf,
}

/// What the kernel half did in a run, warm-up included. Per request that was answered meanwhile.
#[derive(Serialize, Clone, Copy, Default, PartialEq, Debug)]
pub(super) struct KernelHalf {
    /// Messages redirected between the agent and an application, where the kernel half is loaded.
    pub(super) redirected_per_req: Option<f64>,
    /// Requests that went from the client to the endpoint without the agent, likewise.
    pub(super) spliced_per_req: Option<f64>,
    /// Runs of the sk_msg program, by the kernel's statistics, in a run of its own.
    pub(super) msg_per_req: Option<f64>,
    /// Nanoseconds of one such run, where there were any.
    pub(super) msg_ns: Option<f64>,
}

/// A over B in each round.
#[derive(Serialize, Clone, Copy, PartialEq, Debug)]
pub(super) struct Ratio {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Case {
    /// A run of `shape` on `variant`, without what only some paths have.
    pub(super) fn new(variant: Variant, round: u32, shape: Shape, measured: Measured) -> Self {
        Self {
            variant,
            shape,
            path: variant.path.name(),
            name: variant.to_string(),
            round,
            services: variant.services,
            rules: variant.rules,
            conns: shape.conns,
            body: shape.body,
            reuse: shape.reuse,
            measured,
            agent_rss_kib: None,
            kernel: KernelHalf::default(),
            open_loop: None,
        }
    }
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Metric {
    /// Requests a second: more is better.
    Rps,
    /// CPU time of the whole machine per request: less is better.
    Cpu,
    /// CPU time of client, server and agent per request: less is better.
    OwnCpu,
    /// 99th percentile of latency, closed loop: less is better.
    P99,
}

impl Metric {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Rps, Self::Cpu, Self::OwnCpu, Self::P99];

    /// Its value in a case.
    pub(super) const fn of(self, case: &Case) -> f64 {
        match self {
            Self::Rps => case.measured.rps,
            Self::Cpu => case.measured.cpu_us_per_req,
            Self::OwnCpu => case.measured.own_cpu_us_per_req,
            Self::P99 => case.measured.p99_us,
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Rps => "",
            Self::Cpu => "_cpu",
            Self::OwnCpu => "_own_cpu",
            Self::P99 => "_p99",
        }
    }
}

/// The comparisons, A over B.
pub(super) const PAIRS: [(Variant, Variant); 23] = {
    use Path::{Direct, EbpfLb, EbpfRedirect, EbpfSplice, EbpfSteer, IptablesDnat, IptablesRelay};
    const SPLICE: Variant = Variant::ruled(EbpfSplice, RULES);
    const fn one(path: Path) -> Variant {
        Variant::new(path, 1)
    }
    const fn many(path: Path) -> Variant {
        Variant::new(path, 10_000)
    }
    [
        (one(EbpfRedirect), one(IptablesRelay)),
        (SPLICE, Variant::ruled(IptablesRelay, RULES)),
        (SPLICE, one(IptablesRelay)),
        (SPLICE, one(EbpfRedirect)),
        (SPLICE, one(IptablesDnat)),
        (SPLICE, many(IptablesDnat)),
        (SPLICE, one(Direct)),
        (Variant::ruled(EbpfSplice, 1_000), Variant::ruled(EbpfSplice, 10)),
        (Variant::ruled(IptablesRelay, RULES), one(IptablesRelay)),
        (one(EbpfRedirect), one(EbpfSteer)),
        (one(EbpfSteer), one(IptablesRelay)),
        (one(EbpfRedirect), one(IptablesDnat)),
        (one(EbpfRedirect), many(IptablesDnat)),
        (one(EbpfRedirect), one(Direct)),
        (one(IptablesRelay), one(Direct)),
        (many(EbpfLb), one(EbpfLb)),
        (one(EbpfLb), one(IptablesDnat)),
        (many(EbpfLb), one(IptablesDnat)),
        (many(EbpfLb), many(IptablesDnat)),
        (one(EbpfLb), one(Direct)),
        (one(IptablesDnat), one(Direct)),
        (Variant::new(IptablesDnat, 1_000), one(IptablesDnat)),
        (many(IptablesDnat), one(IptablesDnat)),
    ]
};

/// `A_over_B`; what differs from the headline shape (32 connections, keep-alive, 100 B) and what is not
/// requests a second is appended: `_c256`, `_64k`, `_close`, `_cpu`, `_own_cpu`, `_p99`.
pub(super) fn ratio_name((over, under): (Variant, Variant), shape: Shape, metric: Metric) -> String {
    let mut name = if over.path == under.path && over.services != under.services {
        format!("{0}-{1}_over_{0}-{2}", over.path.name(), over.services, under.services)
    } else {
        format!("{over}_over_{under}")
    };
    if shape.conns != HEADLINE.conns {
        name.push_str(&format!("_c{}", shape.conns));
    }
    if shape.body == LARGE {
        name.push_str("_64k");
    }
    if !shape.reuse {
        name.push_str("_close");
    }
    name.push_str(metric.suffix());
    name
}

/// Every ratio of [`PAIRS`] that the cases allow.
pub(super) fn ratios(cases: &[Case]) -> BTreeMap<String, Ratio> {
    let mut ratios = BTreeMap::new();
    for pair in PAIRS {
        for shape in shapes(cases) {
            for metric in Metric::ALL {
                if let Some(ratio) = ratio(cases, pair, shape, metric) {
                    ratios.insert(ratio_name(pair, shape, metric), ratio);
                }
            }
        }
    }
    ratios
}

/// A over B, both from the same round, over all rounds that have both.
pub(super) fn ratio(cases: &[Case], pair: (Variant, Variant), shape: Shape, metric: Metric) -> Option<Ratio> {
    let of =
        |variant: Variant| cases.iter().filter(move |case| case.variant == variant && case.shape == shape);
    let paired = of(pair.0).filter_map(|over| {
        let under = of(pair.1).find(|under| under.round == over.round)?;
        Some(metric.of(over) / metric.of(under))
    });
    spread(paired)
}

/// Median, smallest and largest of some values.
pub(super) fn spread(values: impl Iterator<Item = f64>) -> Option<Ratio> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(Ratio { median: f64::midpoint(lower, upper), min: *sorted.first()?, max: *sorted.last()? })
}

/// Every shape that was measured, once, in order.
pub(super) fn shapes(cases: &[Case]) -> Vec<Shape> {
    let mut shapes: Vec<_> = cases.iter().map(|case| case.shape).collect();
    shapes.sort_by_key(|shape| (shape.body, !shape.reuse, shape.conns));
    shapes.dedup();
    shapes
}

/// Every variant that was measured, in the order of [`VARIANTS`].
pub(super) fn variants(cases: &[Case]) -> Vec<Variant> {
    VARIANTS.into_iter().filter(|variant| cases.iter().any(|case| case.variant == *variant)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    /// A case whose every figure follows from its requests a second.
    pub(in crate::bench) fn case(path: Path, round: u32, shape: Shape, rps: f64) -> Case {
        case_of(Variant::new(path, 1), round, shape, rps)
    }

    /// The same of any variant.
    pub(in crate::bench) fn case_of(variant: Variant, round: u32, shape: Shape, rps: f64) -> Case {
        let us = 1e6 / rps;
        let measured = Measured {
            requests: 1000,
            answered: 1100,
            errors: 0,
            rps,
            p50_us: us,
            p90_us: 1.5 * us,
            p99_us: 2.0 * us,
            p999_us: 3.0 * us,
            max_us: 4.0 * us,
            cpu_us_per_req: 0.5 * us,
            own_cpu_us_per_req: 0.4 * us,
            cpu_busy: 0.5,
            tcp_mem_kib: 0,
            slab_kib: 0,
        };
        Case::new(variant, round, shape, measured)
    }

    #[test]
    fn ratios_are_paired_within_a_round() {
        // The machine is twice as fast in every other round; the ratio does not notice.
        let cases: Vec<_> = [(1, 100.0), (2, 200.0), (3, 100.0)]
            .into_iter()
            .flat_map(|(round, speed)| {
                [
                    case(Path::IptablesRelay, round, HEADLINE, speed),
                    case(Path::EbpfRedirect, round, HEADLINE, 2.0 * speed),
                ]
            })
            .collect();
        let ratios = ratios(&cases);
        let rps = ratios["ebpf-redirect_over_iptables-relay"];
        assert_eq!(rps, Ratio { median: 2.0, min: 2.0, max: 2.0 });
        assert_eq!(ratios["ebpf-redirect_over_iptables-relay_cpu"].median, 0.5);
        assert!(!ratios.contains_key("ebpf-lb_over_direct"));
    }

    #[test]
    fn a_round_without_its_partner_does_not_count() {
        let cases = [
            case(Path::IptablesRelay, 1, HEADLINE, 1.0),
            case(Path::EbpfRedirect, 1, HEADLINE, 3.0),
            case(Path::EbpfRedirect, 2, HEADLINE, 9.0),
        ];
        assert_eq!(ratios(&cases)["ebpf-redirect_over_iptables-relay"].max, 3.0);
    }

    #[test]
    fn names_say_what_differs_from_the_headline() {
        let pair = (Variant::new(Path::EbpfRedirect, 1), Variant::new(Path::IptablesRelay, 1));
        let close = Shape { reuse: false, ..HEADLINE };
        assert_eq!(ratio_name(pair, close, Metric::Rps), "ebpf-redirect_over_iptables-relay_close");
        let large = Shape { conns: 256, body: LARGE, reuse: true };
        assert_eq!(ratio_name(pair, large, Metric::Cpu), "ebpf-redirect_over_iptables-relay_c256_64k_cpu");
        let lb = (Variant::new(Path::EbpfLb, 10_000), Variant::new(Path::EbpfLb, 1));
        assert_eq!(ratio_name(lb, HEADLINE, Metric::Rps), "ebpf-lb-10000_over_ebpf-lb-1");
        let splice = |rules| Variant::ruled(Path::EbpfSplice, rules);
        let sizes = (splice(1_000), splice(10));
        assert_eq!(ratio_name(sizes, HEADLINE, Metric::Rps), "splice-rules-1000_over_splice-rules-10");
        let same_policy = (splice(RULES), Variant::ruled(Path::IptablesRelay, RULES));
        assert_eq!(ratio_name(same_policy, HEADLINE, Metric::Cpu), "splice_over_iptables-relay-policy_cpu");
        let one_at_a_time = Shape { conns: 1, ..HEADLINE };
        let relay = (splice(RULES), Variant::new(Path::EbpfRedirect, 1));
        assert_eq!(ratio_name(relay, one_at_a_time, Metric::Rps), "splice_over_ebpf-redirect_c1");
    }

    #[test]
    fn a_median_of_an_even_number_lies_between() {
        let ratio = spread([4.0, 1.0, 3.0, 2.0].into_iter()).unwrap();
        assert_eq!(ratio, Ratio { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(spread(std::iter::empty()), None);
    }

    #[test]
    fn the_file_has_the_shape_that_others_read() {
        let cases = vec![case(Path::Direct, 1, HEADLINE, 1000.0)];
        let results =
            Results { commit: "abc".into(), kernel: "6.18".into(), cpus: 2, ratios: ratios(&cases), cases };
        let json = serde_json::to_value(&results).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["cases", "commit", "cpus", "kernel", "ratios"]);
        let case = &json["cases"][0];
        assert_eq!((&case["path"], &case["services"]), (&"direct".into(), &1.into()));
        for number in ["round", "conns", "body", "rules", "rps", "p50_us", "p99_us", "cpu_us_per_req"] {
            assert!(case[number].is_number(), "{number}");
        }
        for only_with_an_agent in ["redirected_per_req", "spliced_per_req", "msg_per_req", "msg_ns"] {
            assert!(case[only_with_an_agent].is_null(), "{only_with_an_agent}");
        }
        assert_eq!(case["variant"], "direct");
        assert!(case["reuse"].is_boolean());
    }
}

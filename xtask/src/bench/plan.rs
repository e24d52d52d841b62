//! What is measured, in which order.

use clap::ValueEnum;
use std::{fmt, time::Duration};

/// A way from the client to the server.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Path {
    /// To the server pod's own address.
    Direct,
    /// To a Service address that kube-proxy's iptables rules translate.
    IptablesDnat,
    /// iptables REDIRECT into the agent; plain TCP on both hops.
    IptablesRelay,
    /// To a Service address that the connect hook replaces by an endpoint's.
    EbpfLb,
    /// The connect hook steers to the agent; plain TCP on both hops.
    EbpfSteer,
    /// The same with sk_msg redirects on both hops.
    EbpfRedirect,
    /// The same with pairs armed: the kernel half carries the requests.
    EbpfSplice,
}

impl Path {
    /// Its name in `datapath.json`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::IptablesDnat => "iptables-dnat",
            Self::IptablesRelay => "iptables-relay",
            Self::EbpfLb => "ebpf-lb",
            Self::EbpfSteer => "ebpf-steer",
            Self::EbpfRedirect => "ebpf-redirect",
            Self::EbpfSplice => "splice",
        }
    }

    /// Whether the sk_msg program is in it.
    pub(super) const fn is_redirected(self) -> bool {
        matches!(self, Self::EbpfRedirect | Self::EbpfSplice)
    }

    /// Whether the kernel half is in it.
    pub(super) const fn is_ours(self) -> bool {
        match self {
            Self::Direct | Self::IptablesDnat | Self::IptablesRelay => false,
            Self::EbpfLb | Self::EbpfSteer | Self::EbpfRedirect | Self::EbpfSplice => true,
        }
    }
}

/// A path on a node with this many Services.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Variant {
    /// The path.
    pub(super) path: Path,
    /// Services on the node.
    pub(super) services: u32,
    /// HTTP rules of the policy on the server pod; 0: there is none.
    pub(super) rules: u32,
}

impl Variant {
    /// A path among `services` Services, without policy.
    pub(super) const fn new(path: Path, services: u32) -> Self {
        Self { path, services, rules: 0 }
    }

    /// A path to one Service whose pods have a policy of so many rules.
    pub(super) const fn ruled(path: Path, rules: u32) -> Self {
        Self { path, services: 1, rules }
    }
}

/// `iptables-dnat`, and with more than one Service `iptables-dnat-1000`. Of the paths with a policy,
/// splice always has one: it is named where it is not the usual one, on the others where it is.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.path.name();
        let label = match (self.path, self.rules, self.services) {
            (Path::EbpfSplice, RULES, 1) | (_, 0, 1) => name.to_owned(),
            (_, 0, services) => format!("{name}-{services}"),
            (_, RULES, _) => format!("{name}-policy"),
            (_, rules, _) => format!("{name}-rules-{rules}"),
        };
        f.pad(&label)
    }
}

/// Rules of the policy where its size is not what is varied.
pub(super) const RULES: u32 = 100;

/// All of them, in the order in which they are shown.
pub(super) const VARIANTS: [Variant; 13] = [
    Variant::new(Path::Direct, 1),
    Variant::new(Path::IptablesDnat, 1),
    Variant::new(Path::IptablesDnat, 1_000),
    Variant::new(Path::IptablesDnat, 10_000),
    Variant::new(Path::EbpfLb, 1),
    Variant::new(Path::EbpfLb, 10_000),
    Variant::new(Path::IptablesRelay, 1),
    Variant::ruled(Path::IptablesRelay, RULES),
    Variant::new(Path::EbpfSteer, 1),
    Variant::new(Path::EbpfRedirect, 1),
    Variant::ruled(Path::EbpfSplice, RULES),
    Variant::ruled(Path::EbpfSplice, 10),
    Variant::ruled(Path::EbpfSplice, 1_000),
];

/// What the client does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Shape {
    /// Connections at once.
    pub(super) conns: usize,
    /// Bytes of an answer's body.
    pub(super) body: usize,
    /// Keep-alive, or a connection per request.
    pub(super) reuse: bool,
}

/// The shape of the headline figures.
pub(super) const HEADLINE: Shape = Shape { conns: 32, body: SMALL, reuse: true };
/// Bytes of a small answer.
pub(super) const SMALL: usize = 100;
/// Bytes of a large answer.
pub(super) const LARGE: usize = 64 * 1024;

/// `32 keep-alive 100 B`
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reuse = if self.reuse { "keep-alive" } else { "close" };
        let body = if self.body == LARGE { "64 KiB".to_owned() } else { format!("{} B", self.body) };
        f.pad(&format!("{:>3} {reuse} {body}", self.conns))
    }
}

/// A stay on one variant: the shapes with one body and one kind of connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Visit {
    /// 1 and up.
    pub(super) round: u32,
    /// Where.
    pub(super) variant: Variant,
    /// Measured one after the other.
    pub(super) shapes: Vec<Shape>,
    /// Afterwards an open loop at half of what the shapes reached.
    pub(super) open_loop: bool,
}

/// How much is measured.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// In the order in which they are made.
    pub(super) visits: Vec<Visit>,
    /// Before a window.
    pub(super) warmup: Duration,
    /// What counts.
    pub(super) window: Duration,
}

impl Plan {
    /// Everything: about half an hour.
    pub(super) fn full(rounds: u32, filter: &str) -> Self {
        let shapes = |body, reuse| [1, 32, 256].map(|conns| Shape { conns, body, reuse }).to_vec();
        let groups = [
            (shapes(SMALL, true), true),
            (shapes(SMALL, false), true),
            (shapes(LARGE, true), false),
            (shapes(LARGE, false), false),
        ];
        Self {
            visits: visits(rounds, &VARIANTS, &groups, filter),
            warmup: Duration::from_millis(200),
            window: Duration::from_millis(1500),
        }
    }

    /// The headline figures, and every goal that depends on them.
    pub(super) fn quick(rounds: u32, filter: &str) -> Self {
        let variants: Vec<_> = VARIANTS.into_iter().filter(|variant| variant.services != 1_000).collect();
        // One visit for both: starting agents takes as long as measuring.
        let groups = [(vec![HEADLINE, Shape { reuse: false, ..HEADLINE }], false)];
        Self {
            visits: visits(rounds, &variants, &groups, filter),
            warmup: Duration::from_millis(150),
            window: Duration::from_millis(700),
        }
    }

    /// How long the measuring itself takes.
    pub(super) fn duration(&self) -> Duration {
        let runs = |visit: &Visit| visit.shapes.len() + usize::from(visit.open_loop);
        let runs: usize = self.visits.iter().map(runs).sum();
        (self.warmup + self.window) * u32::try_from(runs).unwrap_or(u32::MAX)
    }

    /// The variants that are visited, in the order of [`VARIANTS`].
    pub(super) fn variants(&self) -> Vec<Variant> {
        let visited = |variant: &Variant| self.visits.iter().any(|visit| visit.variant == *variant);
        VARIANTS.into_iter().filter(visited).collect()
    }
}

/// Round by round and group by group through all variants, so that what is compared was measured within
/// a minute. Each pass begins with another variant: none always runs first or after the same neighbour's
/// heat.
fn visits(rounds: u32, variants: &[Variant], groups: &[(Vec<Shape>, bool)], filter: &str) -> Vec<Visit> {
    let mut visits = Vec::new();
    let mut offset = 0;
    for round in 1..=rounds {
        for (shapes, open_loop) in groups {
            for index in 0..variants.len() {
                let Some(&variant) = variants.get((index + offset) % variants.len()) else { continue };
                let wanted = |shape: &Shape| matches(filter, variant, *shape);
                let shapes: Vec<_> = shapes.iter().copied().filter(wanted).collect();
                if !shapes.is_empty() {
                    visits.push(Visit { round, variant, shapes, open_loop: *open_loop });
                }
            }
            offset += 1;
        }
    }
    visits
}

/// Whether `<variant> <shape>` contains every word of one of the filter's comma-separated alternatives.
fn matches(filter: &str, variant: Variant, shape: Shape) -> bool {
    let name = format!("{variant} {shape}");
    let words: Vec<_> = name.split_whitespace().collect();
    filter.split(',').any(|alternative| alternative.split_whitespace().all(|word| words.contains(&word)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_full_run_has_every_shape_on_every_variant_in_every_round() {
        let plan = Plan::full(5, "");
        for round in 1..=5 {
            for variant in VARIANTS {
                let mine =
                    plan.visits.iter().filter(|visit| visit.round == round && visit.variant == variant);
                assert_eq!(
                    mine.map(|visit| visit.shapes.len()).sum::<usize>(),
                    12,
                    "{variant} in round {round}"
                );
            }
        }
        assert!(plan.duration() < Duration::from_secs(30 * 60));
    }

    #[test]
    fn a_quick_run_leaves_time_for_starting_agents() {
        let plan = Plan::quick(5, "");
        let starts = Duration::from_secs(5) * plan.visits.len().try_into().unwrap();
        assert!(plan.duration() + starts < Duration::from_secs(12 * 60));
    }

    #[test]
    fn passes_begin_with_different_variants() {
        let plan = Plan::quick(2, "");
        let passes = plan.visits.chunks(plan.variants().len());
        let firsts: Vec<_> = passes.map(|pass| pass.first().unwrap().variant).collect();
        assert!(firsts.windows(2).all(|pair| pair.first() != pair.last()));
    }

    #[test]
    fn a_name_says_what_differs_from_the_usual_services_and_rules() {
        let names: Vec<_> = VARIANTS.iter().map(ToString::to_string).collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), VARIANTS.len());
        for name in
            ["iptables-dnat-10000", "iptables-relay-policy", "splice", "splice-rules-10", "splice-rules-1000"]
        {
            assert!(names.iter().any(|found| found == name), "{name}");
        }
    }

    #[test]
    fn a_filter_takes_alternatives_of_words() {
        let shape = HEADLINE;
        let variant = Variant::new(Path::IptablesDnat, 1_000);
        assert!(matches("", variant, shape));
        assert!(matches("direct,iptables-dnat-1000 32", variant, shape));
        assert!(!matches("iptables-dnat 32", variant, shape));
        assert!(!matches("iptables-dnat-1000 close", variant, shape));
    }
}

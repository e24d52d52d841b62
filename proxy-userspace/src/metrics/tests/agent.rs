//! The kernel half at scrape time, the agent itself, the text as a whole.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::{super::*, flows::closed_flow, series};
use crate::{
    flow::{Reason, tests::record},
    status::{KernelStatus, MapStatus, OpenFlows, PairCounts, ProgramStatus, WorkloadCounts},
};
use std::sync::atomic::Ordering;

#[derive(Debug, Default)]
struct View {
    readings: AtomicU64,
    broken: bool,
}

impl KernelView for View {
    fn kernel_status(&self) -> anyhow::Result<KernelStatus> {
        self.readings.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(!self.broken, "no such map");
        let values: Vec<u64> = (1..).take(abi::counter::NAMES.len()).collect();
        let program = |name: &str, stats: Option<u64>| ProgramStatus {
            name: name.to_owned(),
            id: 1,
            verified_instructions: None,
            run_time_ns: stats,
            run_count: stats,
        };
        Ok(KernelStatus {
            programs: vec![program("weir_connect4", Some(9)), program("weir_msg", None)],
            maps: vec![MapStatus { name: "FLOWS".to_owned(), entries: 5, capacity: 10 }],
            counters: KernelStatus::named_counters(&values),
            workloads: WorkloadCounts { probation: 1, accelerated: 2, barred: 3 },
            open_flows: OpenFlows { downstream: 6, upstream: 7 },
            pairs: Some(PairCounts { armed: 8, joined: 9, capacity: 10 }),
        })
    }
}

#[test]
fn the_kernel_half_is_read_at_scrape_time_but_once_a_second_at_most() {
    let metrics = Metrics::default();
    let view = Arc::new(View::default());
    assert_eq!(series(&metrics, &["weir_bpf", "weir_kernel"]), Vec::<String>::new());
    metrics.attach_kernel(view.clone());
    let lines = series(
        &metrics,
        &[
            "weir_bpf",
            "weir_kernel",
            "weir_ringbuf",
            "weir_redirected",
            "weir_workloads",
            "weir_tcp_open",
            "weir_splice",
        ],
    );
    for line in [
        "weir_bpf_map_entries{map=\"FLOWS\"} 5",
        "weir_bpf_map_capacity{map=\"FLOWS\"} 10",
        "weir_bpf_prog_run_time_ns_total{program=\"weir_connect4\"} 9",
        "weir_bpf_prog_run_count_total{program=\"weir_connect4\"} 9",
        "weir_kernel_events_total{event=\"steered\"} 1",
        &format!("weir_ringbuf_lost_events_total {}", abi::counter::EVENTS_LOST + 1),
        &format!("weir_redirected_bytes_total {}", abi::counter::REDIRECTED_BYTES + 1),
        "weir_workloads{state=\"accelerated\"} 2",
        "weir_tcp_open_flows{hop=\"upstream\"} 7",
        "weir_splice_pairs{state=\"armed\"} 8",
        "weir_splice_pairs{state=\"joined\"} 9",
        "weir_splice_pairs_capacity 10",
    ] {
        assert!(lines.iter().any(|one| one == line), "{line} is not among {lines:#?}");
    }
    let absent = ["weir_msg", "events_lost\"", "event=\"redirected_bytes"];
    assert!(!lines.iter().any(|line| absent.iter().any(|word| line.contains(word))), "{lines:#?}");
    metrics.text(Format::OpenMetrics).unwrap();
    assert_eq!(view.readings.load(Ordering::Relaxed), 1);
}

#[test]
fn a_kernel_half_that_cannot_be_read_leaves_the_other_families() {
    let metrics = Metrics::default();
    metrics.attach_kernel(Arc::new(View { broken: true, ..View::default() }));
    metrics.opaque.inc();
    assert_eq!(series(&metrics, &["weir_bpf", "weir_opaque"]), ["weir_opaque_connections_total 1"]);
}

#[test]
fn an_idle_agent_shows_only_what_means_something() {
    let text = Metrics::default().text(Format::Prometheus).unwrap();
    let mut names: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    names.sort_unstable();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        names,
        [
            "process_cpu_seconds_total",
            "process_max_fds",
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "weir_access_log_dropped_total",
            &format!("weir_build_info{{version=\"{version}\"}}"),
            "weir_config_generation",
            "weir_config_last_reload_success",
            "weir_config_reloads_total{result=\"failure\"}",
            "weir_config_reloads_total{result=\"success\"}",
            "weir_downstream_connections",
            "weir_downstream_opened_total",
            "weir_http2_connections",
            "weir_http2_streams",
            "weir_opaque_connections_total",
            "weir_policy_audit_denials_total",
            "weir_upgraded_connections",
            "weir_upstream_connections",
            "weir_upstream_opened_total",
        ]
    );
}

#[test]
fn every_family_is_described_once_and_before_its_series_in_both_formats() {
    let metrics = Metrics::default();
    metrics.attach_kernel(Arc::new(View::default()));
    metrics.request(&record());
    metrics.flow_closed(&closed_flow());
    metrics.address_fallback(AddressFallback::Refused);
    metrics.downstream_refused("total");
    for format in [Format::OpenMetrics, Format::Prometheus] {
        let text = metrics.text(format).unwrap();
        let mut family = "";
        let mut seen = HashSet::new();
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                family = typed.split(' ').next().unwrap();
                assert!(seen.insert(family), "{family} is described twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert!(name.starts_with(family), "{name} is not of {family}");
                assert!(format == Format::OpenMetrics || !typed_counter(&text, family) || name == family);
            }
        }
    }
}

fn typed_counter(text: &str, family: &str) -> bool {
    text.contains(&format!("# TYPE {family} counter\n"))
}

#[test]
fn the_agents_own_cost_is_plausible() {
    let metrics = Metrics::default();
    let value = |name: &str| -> f64 {
        let line = series(&metrics, &[name]).remove(0);
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("process_cpu_seconds_total") > 0.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_open_fds") >= 3.0);
    assert!(value("process_max_fds") >= value("process_open_fds"));
    assert!(value("process_start_time_seconds") > 1.7e9);
}

/// What operators read.
const DOCS: &str = include_str!("../../../../deploy/observability.md");

#[test]
fn every_family_is_in_the_docs() {
    let metrics = Metrics::default();
    metrics.attach_kernel(Arc::new(View::default()));
    metrics.request(&record());
    metrics.flow_closed(&closed_flow());
    metrics.freshness().current("pods");
    metrics.address_fallback(AddressFallback::Refused);
    metrics.downstream_refused("total");
    metrics.http2().opened();
    metrics.http2().ended("idle");
    metrics.upgrade_declined();
    metrics.workload_barred(&abi::WorkloadBarred::default());
    let text = metrics.text(Format::Prometheus).unwrap();
    for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = family.split(' ').next().unwrap();
        assert!(DOCS.contains(&format!("`{name}`")), "{name} is not in the docs");
    }
    for event in abi::counter::NAMES {
        let own = ["redirected_bytes", "events_lost", "access_log_lost"].contains(&event);
        assert!(own || DOCS.contains(&format!("`{event}`")), "{event} is not in the docs");
    }
}

#[test]
fn i8_every_reason_has_a_counter_a_flag_and_a_line_in_the_docs() {
    for reason in Reason::ALL {
        let metrics = Metrics::default();
        metrics.request(&RequestRecord { reason: Some(reason), status: reason.status(), ..record() });
        let counts = series(&metrics, &["http_server_request_duration_seconds_count"]);
        let label = format!("error_type=\"{}\"", reason.label());
        assert!(counts.first().unwrap().contains(&label), "{counts:?}");
        let status = if reason.status() == 0 { "cut".to_owned() } else { reason.status().to_string() };
        let line = format!("| `{}` | {} | {status} |", reason.label(), reason.flag());
        assert!(DOCS.contains(&line), "{line} is not in the docs");
    }
}

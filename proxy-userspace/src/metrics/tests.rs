#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use crate::{
    flow::{Reason, tests::record},
    snapshot::Snapshot,
    status::{KernelStatus, MapStatus, OpenFlows, ProgramStatus, WorkloadCounts},
};
use std::{sync::atomic::Ordering, time::Duration};

/// The series of families whose name begins with one of `prefixes`, sorted.
fn series(metrics: &Metrics, prefixes: &[&str]) -> Vec<String> {
    let text = metrics.text(Format::Prometheus).unwrap();
    let wanted = |line: &&str| prefixes.iter().any(|prefix| line.starts_with(prefix));
    let mut series: Vec<_> = text.lines().filter(wanted).map(String::from).collect();
    series.sort();
    series
}

const LABELS: &str = "http_request_method=\"GET\",http_response_status_code=\"200\",\
http_route=\"default/web:8080\",source_workload=\"default/client\",\
destination_workload=\"default/server\",lane=\"relay\"";

#[test]
fn a_request_makes_exactly_one_series_as_server_and_one_as_client() {
    let metrics = Metrics::default();
    metrics.request(&record());
    metrics.request(&record());
    let lines = series(&metrics, &["http_server"]);
    assert_eq!(lines.len(), 23, "21 buckets, sum and count: {lines:?}");
    let has = |line: String| assert!(lines.contains(&line), "{line} is not among {lines:#?}");
    has(format!("http_server_request_duration_seconds_count{{{LABELS}}} 2"));
    has(format!("http_server_request_duration_seconds_sum{{{LABELS}}} 0.002468"));
    has(format!("http_server_request_duration_seconds_bucket{{le=\"0.001\",{LABELS}}} 0"));
    has(format!("http_server_request_duration_seconds_bucket{{le=\"0.0025\",{LABELS}}} 2"));
    has(format!("http_server_request_duration_seconds_bucket{{le=\"+Inf\",{LABELS}}} 2"));
    let client = series(&metrics, &["http_client_request_duration_seconds_count"]);
    assert_eq!(client, [format!("http_client_request_duration_seconds_count{{{LABELS}}} 2")]);
}

#[test]
fn the_buckets_are_opentelemetrys_and_finer_ones() {
    let metrics = Metrics::default();
    metrics.request(&record());
    let text = metrics.text(Format::OpenMetrics).unwrap();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("http_server_request_duration_seconds_bucket{le=\""));
    let bounds: Vec<f64> = lines.map(|line| line.split('"').next().unwrap().parse().unwrap()).collect();
    assert_eq!(bounds[..6], [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025]);
    let standard = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
    assert_eq!(bounds[6..20], standard);
    assert_eq!(bounds[20..], [f64::INFINITY]);
}

#[test]
fn a_duration_on_a_bound_is_within_it() {
    let metrics = Metrics::default();
    metrics.request(&RequestRecord { duration: Duration::from_millis(5), ..record() });
    let at = |le: &str| {
        let line = series(&metrics, &[&format!("http_server_request_duration_seconds_bucket{{le=\"{le}\"")]);
        line[0].rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!((at("0.0025"), at("0.005")), ("0".to_owned(), "1".to_owned()));
}

#[test]
fn what_clients_and_endpoints_invent_makes_no_series() {
    let metrics = Metrics::default();
    for number in 0..500 {
        let method = http::Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
        metrics.request(&RequestRecord { method, path: format!("/{number}"), ..record() });
        metrics.request(&RequestRecord { status: 500 + number % 100, ..record() });
    }
    let counts = series(&metrics, &["http_server_request_duration_seconds_count"]);
    assert!(
        counts.iter().any(|line| line.contains("http_request_method=\"_OTHER\"") && line.ends_with(" 500"))
    );
    assert!(counts.iter().any(|line| line.contains("http_response_status_code=\"5xx\"")));
    assert!(counts.iter().any(|line| line.contains("http_response_status_code=\"503\"")));
    assert!(counts.len() < 20, "{counts:#?}");
}

#[test]
fn our_own_answer_is_an_error_with_its_reason_and_the_endpoint_gave_no_status() {
    let metrics = Metrics::default();
    let late = RequestRecord { status: 504, reason: Some(Reason::ResponseHeadTimeout), ..record() };
    metrics.request(&late);
    let server = series(&metrics, &["http_server_request_duration_seconds_count"]);
    assert_eq!(server.len(), 1);
    assert!(server[0].contains("http_response_status_code=\"504\""));
    assert!(server[0].contains("error_type=\"response_head_timeout\""));
    let client = series(&metrics, &["http_client_request_duration_seconds_count"]);
    assert_eq!(client.len(), 1);
    assert!(!client[0].contains("http_response_status_code") && client[0].contains("error_type"));
}

#[test]
fn a_request_that_reached_no_endpoint_has_no_client_series_and_no_empty_labels() {
    let metrics = Metrics::default();
    metrics.request(&RequestRecord {
        status: 0,
        reason: Some(Reason::DownstreamReset),
        cluster: None,
        upstream_duration: None,
        ..record()
    });
    assert_eq!(series(&metrics, &["http_client"]), Vec::<String>::new());
    let server = series(&metrics, &["http_server_request_duration_seconds_count"]);
    let expected = "http_server_request_duration_seconds_count{http_request_method=\"GET\",\
        source_workload=\"default/client\",destination_workload=\"default/server\",lane=\"relay\",\
        error_type=\"downstream_reset\"} 1";
    assert_eq!(server, [expected]);
}

#[test]
fn opaque_connections_are_no_requests() {
    let metrics = Metrics::default();
    metrics.request(&RequestRecord { lane: LaneLabel::Opaque, ..record() });
    assert_eq!(series(&metrics, &["http_"]), Vec::<String>::new());
    assert_eq!(series(&metrics, &["weir_opaque"]), ["weir_opaque_connections_total 1"]);
}

#[test]
fn a_full_family_counts_on_under_coarser_labels() {
    let metrics = Metrics::default();
    for number in 0..3000 {
        metrics.request(&RequestRecord { source_workload: format!("ns/pod-{number}").into(), ..record() });
    }
    let counts = series(&metrics, &["http_server_request_duration_seconds_count"]);
    assert_eq!(counts.len(), 1801, "nine tenths of the limit, and one for the rest");
    let rest = counts.iter().find(|line| line.contains("_other")).unwrap();
    assert!(rest.ends_with(" 1200"), "{rest}");
    assert!(rest.contains("http_response_status_code=\"200\""), "errors stay visible: {rest}");
    assert!(
        rest.contains("http_route=\"_other\",source_workload=\"_other\",destination_workload=\"_other\"")
    );
}

#[test]
fn no_family_ever_has_more_series_than_its_limit() {
    let metrics = Metrics::default();
    for number in 0..3000 {
        metrics.request(&RequestRecord { source_workload: format!("ns/pod-{number}").into(), ..record() });
    }
    for reason in Reason::ALL {
        for status in 100..600 {
            metrics.request(&RequestRecord {
                status,
                reason: Some(reason),
                upstream_duration: None,
                ..record()
            });
        }
    }
    let counts = series(&metrics, &["http_server_request_duration_seconds_count"]);
    assert_eq!(counts.len(), SERIES_LIMIT);
    let total: u64 = counts.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(total, 3000 + 14 * 500, "and none is lost");
}

#[test]
fn series_of_workloads_that_are_gone_make_room_when_it_is_short() {
    let metrics = Metrics::default();
    let send = |range: std::ops::Range<u32>| {
        for number in range {
            metrics
                .request(&RequestRecord { source_workload: format!("ns/pod-{number}").into(), ..record() });
        }
    };
    let count = || series(&metrics, &["http_server_request_duration_seconds_count"]).len();
    let mut snapshot = Snapshot::default();
    snapshot.workload_by_ip.insert("10.0.0.1".parse().unwrap(), "ns/pod-7".into());
    send(0..100);
    metrics.config_in_force(Arc::new(snapshot));
    assert_eq!(count(), 100, "there is room: last values stay");
    send(100..1500);
    metrics.config_in_force(Arc::new(Snapshot::default()));
    assert_eq!(count(), 0);
}

#[test]
fn a_thousand_requests_at_once_are_all_counted() {
    let metrics = Metrics::default();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let metrics = &metrics;
            scope.spawn(move || {
                for number in 0..1000 {
                    let source_workload = format!("ns/pod-{}", (number * 7 + thread) % 50).into();
                    metrics.request(&RequestRecord { source_workload, ..record() });
                }
            });
        }
    });
    let counts = series(&metrics, &["http_server_request_duration_seconds_count"]);
    let total: u64 = counts.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!((counts.len(), total), (50, 4000));
}

fn closed_flow() -> abi::FlowClosed {
    let words = |ip: &str| proxy_common::addr::words_of(ip.parse().unwrap());
    abi::FlowClosed {
        kind: abi::EVENT_FLOW_CLOSED,
        srtt_us: 80,
        local: words("10.0.0.1"),
        remote: words("10.0.0.9"),
        retransmits: 3,
        bytes_sent: 1000,
        bytes_received: 2000,
        flow: abi::Flow {
            addr: words("10.0.0.2"),
            port: 80,
            connect_ns: 1_000_000,
            established_ns: 1_040_000,
            hop: abi::HOP_UPSTREAM,
            closed_by: abi::CLOSED_BY_ACCEPTOR,
            close_kind: abi::CLOSE_RESET,
            ..abi::Flow::default()
        },
        ..abi::FlowClosed::default()
    }
}

#[test]
fn a_flow_that_ended_is_timed_and_counted_for_its_two_workloads() {
    let metrics = Metrics::default();
    let mut snapshot = Snapshot::default();
    for (ip, name) in [("10.0.0.1", "default/client"), ("10.0.0.2", "default/server")] {
        snapshot.workload_by_ip.insert(ip.parse().unwrap(), name.into());
    }
    metrics.config_in_force(Arc::new(snapshot));
    metrics.flow_closed(&closed_flow());
    let labels =
        "hop=\"upstream\",source_workload=\"default/client\",destination_workload=\"default/server\"";
    let lines = series(&metrics, &["weir_tcp"]);
    for line in [
        format!("weir_tcp_handshake_duration_seconds_sum{{{labels}}} 0.00004"),
        format!("weir_tcp_handshake_duration_seconds_count{{{labels}}} 1"),
        format!("weir_tcp_srtt_seconds_sum{{{labels}}} 0.00008"),
        format!("weir_tcp_sent_bytes_total{{{labels}}} 1000"),
        format!("weir_tcp_received_bytes_total{{{labels}}} 2000"),
        format!("weir_tcp_retransmitted_segments_total{{{labels}}} 3"),
        "weir_tcp_closed_total{hop=\"upstream\",closed_by=\"upstream\",kind=\"reset\"} 1".to_owned(),
    ] {
        assert!(lines.contains(&line), "{line} is not among {lines:#?}");
    }
}

#[test]
fn who_closed_depends_on_the_hop() {
    let metrics = Metrics::default();
    for (hop, by) in [
        (abi::HOP_DOWNSTREAM, abi::CLOSED_BY_OPENER),
        (abi::HOP_DOWNSTREAM, abi::CLOSED_BY_ACCEPTOR),
        (abi::HOP_UPSTREAM, abi::CLOSED_BY_OPENER),
        (abi::HOP_UPSTREAM, abi::CLOSED_NOT),
    ] {
        let flow = abi::Flow { hop, closed_by: by, close_kind: abi::CLOSE_FIN, ..closed_flow().flow };
        metrics.flow_closed(&abi::FlowClosed { flow, ..closed_flow() });
    }
    let expected = [
        "weir_tcp_closed_total{hop=\"downstream\",closed_by=\"agent\",kind=\"fin\"} 1",
        "weir_tcp_closed_total{hop=\"downstream\",closed_by=\"downstream\",kind=\"fin\"} 1",
        "weir_tcp_closed_total{hop=\"upstream\",closed_by=\"agent\",kind=\"fin\"} 1",
        "weir_tcp_closed_total{hop=\"upstream\",closed_by=\"nobody\",kind=\"fin\"} 1",
    ];
    assert_eq!(series(&metrics, &["weir_tcp_closed"]), expected);
}

#[test]
fn a_handshake_that_never_completed_is_not_timed() {
    let metrics = Metrics::default();
    let flow = abi::Flow { established_ns: 0, close_kind: abi::CLOSE_UNCONNECTED, ..closed_flow().flow };
    metrics.flow_closed(&abi::FlowClosed { flow, srtt_us: 0, ..closed_flow() });
    assert_eq!(series(&metrics, &["weir_tcp_handshake", "weir_tcp_srtt"]), Vec::<String>::new());
}

#[test]
fn a_barred_workload_is_counted_by_call_and_phase() {
    let metrics = Metrics::default();
    let barred = |by, admitted| abi::WorkloadBarred { by, admitted, ..abi::WorkloadBarred::default() };
    metrics.workload_barred(&barred(abi::BARRED_BY_SPLICE, 0));
    metrics.workload_barred(&barred(abi::BARRED_BY_FIONREAD, 1));
    let expected = [
        "weir_workload_barred_total{by=\"fionread\",phase=\"tripwire\"} 1",
        "weir_workload_barred_total{by=\"splice\",phase=\"probation\"} 1",
    ];
    assert_eq!(series(&metrics, &["weir_workload_barred"]), expected);
}

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
        &["weir_bpf", "weir_kernel", "weir_ringbuf", "weir_redirected", "weir_workloads", "weir_tcp_open"],
    );
    for line in [
        "weir_bpf_map_entries{map=\"FLOWS\"} 5",
        "weir_bpf_map_capacity{map=\"FLOWS\"} 10",
        "weir_bpf_prog_run_time_ns_total{program=\"weir_connect4\"} 9",
        "weir_bpf_prog_run_count_total{program=\"weir_connect4\"} 9",
        "weir_kernel_events_total{event=\"steered\"} 1",
        "weir_ringbuf_lost_events_total 12",
        "weir_redirected_bytes_total 10",
        "weir_workloads{state=\"accelerated\"} 2",
        "weir_tcp_open_flows{hop=\"upstream\"} 7",
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
            "process_start_time_seconds",
            "weir_access_log_dropped_total",
            &format!("weir_build_info{{version=\"{version}\"}}"),
            "weir_config_generation",
            "weir_config_last_reload_success",
            "weir_config_reloads_total{result=\"failure\"}",
            "weir_config_reloads_total{result=\"success\"}",
            "weir_downstream_connections",
            "weir_downstream_opened_total",
            "weir_opaque_connections_total",
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

//! Flows that the kernel half tells of.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::{super::*, series};

pub(super) fn closed_flow() -> abi::FlowClosed {
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
fn a_flow_to_a_service_has_its_name_and_no_single_destination() {
    let metrics = Metrics::default();
    let snapshot = crate::testing::snapshot_of("10.0.0.2:80".parse().unwrap(), &[]);
    metrics.config_in_force(Arc::new(snapshot));
    let flow = abi::Flow { hop: abi::HOP_DOWNSTREAM, ..closed_flow().flow };
    metrics.flow_closed(&abi::FlowClosed { flow, ..closed_flow() });
    let labels = "hop=\"downstream\",source_workload=\"unknown\",upstream_cluster=\"default/web:8080\"";
    assert_eq!(series(&metrics, &["weir_tcp_sent"]), [format!("weir_tcp_sent_bytes_total{{{labels}}} 1000")]);
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

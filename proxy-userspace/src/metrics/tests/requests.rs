//! Requests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::{super::*, series};
use crate::flow::{Reason, tests::record};
use std::time::Duration;

const LABELS: &str = "http_request_method=\"GET\",http_response_status_code=\"200\",\
http_route=\"default/web:8080\",source_workload=\"default/client\",\
destination_workload=\"default/server\",lane=\"relay\",network_protocol_version=\"1.1\"";

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
fn i9_what_clients_and_endpoints_invent_makes_no_series() {
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
        route: None,
        upstream_duration: None,
        ..record()
    });
    assert_eq!(series(&metrics, &["http_client"]), Vec::<String>::new());
    let server = series(&metrics, &["http_server_request_duration_seconds_count"]);
    let expected = "http_server_request_duration_seconds_count{http_request_method=\"GET\",\
        source_workload=\"default/client\",destination_workload=\"default/server\",lane=\"relay\",\
        network_protocol_version=\"1.1\",error_type=\"downstream_reset\"} 1";
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
fn i9_a_full_family_counts_on_under_coarser_labels() {
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
fn i9_i11_no_family_ever_has_more_series_than_its_limit() {
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
    assert_eq!(total, 3000 + 500 * Reason::ALL.len() as u64, "and none is lost");
}

#[test]
fn i9_series_of_workloads_that_are_gone_make_room_when_it_is_short() {
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

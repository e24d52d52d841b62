//! A record for the tests of everything that reads records.
#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

/// A plain success.
pub(crate) fn record() -> RequestRecord {
    RequestRecord {
        start: SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_123),
        method: http::Method::GET,
        path: "/a?b=c".to_owned(),
        protocol: "HTTP/1.1",
        authority: Some("web:8080".to_owned()),
        status: 200,
        grpc_status: None,
        reason: None,
        error: None,
        cluster: Some("default/web:8080".into()),
        route: None,
        policy_rule: None,
        policy_audit: None,
        lane: LaneLabel::Relay,
        bytes_received: 0,
        bytes_sent: 12,
        duration: Duration::from_micros(1234),
        request_duration: Some(Duration::from_micros(10)),
        response_duration: Some(Duration::from_millis(1)),
        time_to_first_byte: Some(Duration::from_millis(1)),
        upstream_duration: Some(Duration::from_millis(1)),
        upstream_host: Some("10.0.0.2:80".parse().unwrap()),
        attempts: 1,
        downstream: "10.0.0.1:40000".parse().unwrap(),
        orig_dst: "10.96.0.1:8080".parse().unwrap(),
        source_workload: "default/client".into(),
        destination_workload: "default/server".into(),
        cgroup_id: 77,
        request_id: "id-1".to_owned(),
        traceparent: None,
        user_agent: Some("curl/8".to_owned()),
        x_forwarded_for: None,
        tls: None,
        upstream_tls: None,
        server_name: None,
    }
}

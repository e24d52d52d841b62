#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use crate::flow::{LaneLabel, tests::record};
use serde_json::{Value, json};

fn line(record: &RequestRecord) -> String {
    let mut out = String::new();
    append(&mut out, record).unwrap();
    out
}

fn parsed(record: &RequestRecord) -> Value {
    serde_json::from_str(&line(record)).unwrap()
}

#[test]
fn a_request_is_one_line_with_exactly_these_keys() {
    let line = line(&record());
    let expected = concat!(
        r#"{"start_time":"2023-11-14T22:13:20.000123Z","method":"GET","path":"/a?b=c","protocol":"HTTP/1.1","#,
        r#""authority":"web:8080","response_code":200,"grpc_status":null,"response_flags":"-","#,
        r#""response_code_details":"via_upstream","connection_termination_details":null,"#,
        r#""bytes_received":0,"bytes_sent":12,"duration":1.234,"request_duration":0.010,"#,
        r#""response_duration":1.000,"upstream_host":"10.0.0.2:80","upstream_cluster":"default/web:8080","#,
        r#""upstream_request_attempt_count":1,"downstream_remote_address":"10.0.0.1:40000","#,
        r#""x_forwarded_for":null,"x_request_id":"id-1","user_agent":"curl/8","#,
        r#""route_name":"default/web:8080","policy_rule":null,"policy_audit":null,"traceparent":null,"error":null,"#,
        r#""tls_version":null,"tls_cipher":null,"requested_server_name":null,"#,
        r#""downstream_peer_subject":null,"downstream_peer_uri_san":null,"downstream_peer_verified":null,"#,
        r#""upstream_tls_version":null,"upstream_tls_cipher":null,"lane":"relay","#,
        r#""source_workload":"default/client","destination_workload":"default/server","#,
        r#""cgroup_id":77,"orig_dst":"10.96.0.1:8080"}"#,
        "\n"
    );
    assert_eq!(line, expected);
}

#[test]
fn d21_nothing_from_outside_can_end_the_line_or_the_string_or_reach_a_terminal() {
    let cases = [
        ("a\nb", r"a\u000ab"),
        ("a\r\nb", r"a\u000d\u000ab"),
        ("\u{1b}[2J", r"\u001b[2J"),
        ("\0\t", r"\u0000\u0009"),
        ("\u{7f}", r"\u007f"),
        ("\u{80}\u{9b}\u{9f}", r"\u0080\u009b\u009f"),
        ("\u{2028}\u{2029}", r"\u2028\u2029"),
        (r#"","x":"y"#, r#"\",\"x\":\"y"#),
        (r"\", r"\\"),
        ("grün \u{a0}\u{1f30a}", "grün \u{a0}\u{1f30a}"),
    ];
    for (text, escaped) in cases {
        let hostile = RequestRecord { user_agent: Some(text.to_owned()), path: text.to_owned(), ..record() };
        let line = line(&hostile);
        assert!(line.contains(&format!("\"user_agent\":\"{escaped}\"")), "{text:?} became {line}");
        assert_eq!(line.lines().count(), 1);
        assert!(!line.trim_end().contains(|c: char| c.is_control()));
        assert_eq!(parsed(&hostile)["path"], text, "and it reads back");
    }
}

#[test]
fn d21_a_long_field_is_cut_at_a_character() {
    let long = RequestRecord { user_agent: Some("é".repeat(40_000)), path: "x".repeat(2000), ..record() };
    let value = parsed(&long);
    assert_eq!(value["user_agent"], "é".repeat(512));
    assert_eq!(value["path"], "x".repeat(1024));
    let odd = RequestRecord { user_agent: Some(format!("x{}", "é".repeat(600))), ..record() };
    assert_eq!(parsed(&odd)["user_agent"], format!("x{}", "é".repeat(511)));
}

#[test]
fn a_failed_request_says_why_in_flags_and_details() {
    for reason in Reason::ALL {
        let failed = RequestRecord { reason: Some(reason), status: reason.status(), ..record() };
        let value = parsed(&failed);
        assert_eq!(value["response_flags"], reason.flag());
        assert_eq!(value["response_code_details"], reason.label());
        let cut = if reason.status() == 0 { json!(reason.label()) } else { Value::Null };
        assert_eq!(value["connection_termination_details"], cut);
    }
}

#[test]
fn an_answer_that_broke_off_after_its_head_is_a_terminated_connection() {
    let broken = RequestRecord { reason: Some(Reason::UpstreamReset), status: 200, ..record() };
    assert_eq!(parsed(&broken)["connection_termination_details"], "upstream_reset");
}

#[test]
fn an_opaque_connection_has_a_line_too() {
    let opaque = RequestRecord {
        method: http::Method::from_bytes(b"-").unwrap(),
        protocol: "TCP",
        status: 0,
        authority: None,
        upstream_host: None,
        lane: LaneLabel::Opaque,
        ..record()
    };
    let value = parsed(&opaque);
    assert_eq!(value["lane"], "opaque");
    assert_eq!(value["protocol"], "TCP");
    assert_eq!(value["response_code_details"], "-", "nobody answered with HTTP");
    assert_eq!(value["upstream_host"], Value::Null);
}

//! What the kernel half hands over becomes the same record as a relayed request's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::*;
use proxy_common::policy::method;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn series() -> Series {
    Series {
        id: 1,
        route: "demo/web:80".into(),
        source: "demo/client".into(),
        destination: "demo/server".into(),
    }
}

fn pair(head: &[u8]) -> Pair {
    let mut pair = Pair {
        started_ns: 1_000_000,
        answered_ns: 3_000_000,
        moved_ns: 8_000_000,
        method: method::POST,
        status: 201,
        request_bytes: u32::try_from(head.len()).unwrap() + 5,
        request_head: u32::try_from(head.len()).unwrap(),
        answer_bytes: 120,
        answer_head: 100,
        client: FlowKey::new(addr("10.0.0.1:40000"), addr("10.0.0.9:15001")),
        endpoint: FlowKey::new(addr("10.0.0.2:8080"), addr("10.0.0.1:50000")),
        ..Pair::default()
    };
    pair.head.0[..head.len()].copy_from_slice(head);
    pair
}

fn known(now: Instant, parted: bool) -> Known {
    let mut known = Known::default();
    let pair = pair(b"");
    known.arm(pair.client, addr("10.96.0.1:80"), 77, (None, None));
    if parted {
        known.part(&pair.client, now);
    }
    known
}

#[test]
fn a_carried_request_has_all_that_a_relayed_one_has() {
    let head = b"POST /a?b=c HTTP/1.1\r\nHost: web\r\nUser-Agent: curl/8\r\nX-Request-ID: id-1\r\n\
        traceparent: 00-1\r\nX-Forwarded-For: 1.2.3.4\r\nContent-Length: 5\r\n\r\n";
    let pair = pair(head);
    let known = known(Instant::now(), false);
    let record = record(&pair, known.by_client.get(&pair.client), &series());
    assert_eq!((record.method.as_str(), record.path.as_str(), record.status), ("POST", "/a?b=c", 201));
    assert_eq!((record.bytes_received, record.bytes_sent), (5, 20));
    assert_eq!(record.authority.as_deref(), Some("web"));
    assert_eq!(record.user_agent.as_deref(), Some("curl/8"));
    assert_eq!(record.request_id, "id-1");
    assert_eq!(record.traceparent.as_deref(), Some("00-1"));
    assert_eq!(record.x_forwarded_for.as_deref(), Some("1.2.3.4"));
    assert_eq!(record.duration, Duration::from_millis(7));
    assert_eq!(record.response_duration, Some(Duration::from_millis(2)));
    assert_eq!(record.upstream_host, Some(addr("10.0.0.2:8080")));
    assert_eq!(record.downstream, addr("10.0.0.1:40000"));
    assert_eq!((record.orig_dst, record.cgroup_id), (addr("10.96.0.1:80"), 77));
    assert_eq!(record.cluster.as_deref(), Some("demo/web:80"));
    assert_eq!((&*record.source_workload, &*record.destination_workload), ("demo/client", "demo/server"));
}

#[test]
fn a_connection_is_remembered_for_a_second_after_its_end() {
    let now = Instant::now();
    let mut known = known(now, true);
    let client = pair(b"").client;
    let other = client.reversed();
    known.arm(other, addr("10.96.0.2:80"), 1, (None, None));
    known.part(&other, now + LINGER);
    assert!(known.by_client.contains_key(&client));
    known.arm(other, addr("10.96.0.2:80"), 1, (None, None));
    known.part(&other, now + LINGER * 2);
    assert!(!known.by_client.contains_key(&client) && known.by_client.contains_key(&other));
}

#[test]
fn a_new_connection_from_the_same_port_is_not_forgotten_with_the_old_one() {
    let now = Instant::now();
    let mut known = known(now, true);
    let client = pair(b"").client;
    known.arm(client, addr("10.96.0.3:80"), 5, (None, None));
    let other = client.reversed();
    known.arm(other, addr("10.96.0.2:80"), 1, (None, None));
    known.part(&other, now + LINGER * 2);
    assert_eq!(known.by_client[&client].orig_dst, addr("10.96.0.3:80"));
}

#[test]
fn a_record_of_a_forgotten_connection_is_a_line_still() {
    let pair = pair(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n");
    let record = record(&pair, None, &series());
    assert_eq!((record.path.as_str(), record.cgroup_id, record.orig_dst), ("/", 0, addr("0.0.0.0:0")));
    assert!(!record.request_id.is_empty());
}

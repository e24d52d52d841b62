//! Connections that become another protocol's: `wire.md` S21, S22 and U8.

use super::*;
use crate::{
    flow::{LaneLabel, Reason},
    metrics::Format,
    snapshot::Protocol,
};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: web\r\nConnection: keep-alive, Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nConnection: upgrade\r\n\
                      Sec-WebSocket-Accept: a\r\n\r\n";

/// The value of a metric without labels, or with exactly these.
fn value(ring: &Ring, series: &str) -> f64 {
    let text = ring.relay.observer.metrics.text(Format::Prometheus).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// A tunnel, and the request's end of its endpoint.
async fn tunnel(ring: &Ring, endpoint: &Endpoint) -> (Peer, Peer) {
    let mut client = ring.client().await;
    client.send(ASK).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(AGREED).await;
    client.head().await;
    (client, server)
}

#[tokio::test]
async fn a_websocket_is_carried_both_ways_and_has_one_record_when_it_ends() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(ASK).await;
    let mut server = endpoint.accept().await;
    let asked = "GET /chat HTTP/1.1\r\nHost: web\r\nSec-WebSocket-Key: k\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\n\r\n";
    assert_eq!(server.head().await, asked);
    server.send(AGREED).await;
    let told = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: a\r\nConnection: Upgrade\r\n\
                upgrade: websocket\r\n\r\n";
    assert_eq!(client.head().await, told);
    for _ in 0..3 {
        client.send(b"\x81\x83\x00\x00\x00\x00abc").await;
        assert_eq!(server.exactly(9).await, b"\x81\x83\x00\x00\x00\x00abc");
        server.send(b"\x81\x03abc").await;
        assert_eq!(client.exactly(5).await, b"\x81\x03abc");
    }
    assert_eq!(value(&ring, "weir_upgraded_connections"), 1.0);
    assert!(ring.relay.records.lock().is_empty());
    drop(client);
    assert_eq!(server.rest().await.unwrap(), b"");
    drop(server);
    let record = ring.record().await;
    assert_eq!((record.protocol, record.status, record.reason), ("WebSocket", 101, None));
    assert_eq!((record.method.as_str(), &*record.path), ("GET", "/chat"));
    assert_eq!((record.bytes_received, record.bytes_sent, record.attempts), (27, 15, 1));
    assert_eq!((record.lane, record.upstream_host), (LaneLabel::Plain, Some(endpoint.addr)));
    assert!(record.time_to_first_byte.unwrap() < record.duration);
    assert_eq!(value(&ring, "weir_upgraded_connections"), 0.0);
    assert_eq!(value(&ring, "weir_upgrades_total{result=\"switched\"}"), 1.0);
}

#[tokio::test]
async fn s21_what_a_client_sends_too_early_waits_for_the_101_however_it_is_cut() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let early = "GET /admin HTTP/1.1\r\n\r\n";
    let all = format!("{ASK}{early}");
    for cut in 0..all.len() {
        let mut client = ring.client().await;
        let (first, second) = all.split_at(cut);
        client.send(first).await;
        if cut > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client.send(second).await;
        let mut server = endpoint.accept().await;
        assert!(server.head().await.starts_with("GET /chat "), "{cut}");
        let early_read = server.0.try_read(&mut [0]);
        assert!(early_read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "{cut}");
        server.send(format!("{AGREED}hello")).await;
        client.head().await;
        client.until("hello").await;
        server.until(early).await;
    }
}

#[tokio::test]
async fn s21_nothing_reaches_the_endpoint_before_it_has_agreed() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(format!("{ASK}early")).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.quiet().await;
    client.send(" and late").await;
    server.quiet().await;
    endpoint.stays_alone().await;
    server.send(&AGREED[..40]).await;
    server.quiet().await;
    server.send(&AGREED[40..]).await;
    server.until("early and late").await;
    client.head().await;
}

#[tokio::test]
async fn s21_after_any_other_answer_the_bytes_are_the_next_request_on_another_connection() {
    for answer in [
        OK,
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.0\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let endpoint = Endpoint::new().await;
        let ring = Ring::to(&endpoint).await;
        let mut client = ring.client().await;
        client.send(format!("{ASK}{GET}")).await;
        let mut refuses = endpoint.accept().await;
        refuses.head().await;
        refuses.send(answer).await;
        client.until("ok").await;
        let mut server = endpoint.accept().await;
        assert_eq!(server.head().await, GET, "{answer}");
        server.send(OK).await;
        client.until("ok").await;
        // Nor is the connection of the one used for the other.
        assert_eq!(refuses.rest().await.unwrap(), b"", "{answer}");
        client.send(GET).await;
        assert_eq!(server.head().await, GET, "{answer}");
        server.send(OK).await;
        client.until("ok").await;
        let records = ring.records(3).await;
        assert!(records.iter().all(|one| one.protocol == "HTTP/1.1" && one.reason.is_none()), "{records:?}");
        assert_eq!(value(&ring, "weir_upgrades_total{result=\"declined\"}"), 1.0);
    }
}

#[tokio::test]
async fn s21_an_upgrade_behind_other_requests_is_answered_in_its_turn() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(format!("{GET}{GET}{ASK}early")).await;
    let mut server = endpoint.accept().await;
    for _ in 0..2 {
        assert_eq!(server.head().await, GET);
        server.send(OK).await;
        client.until("ok").await;
    }
    let mut socket = endpoint.accept().await;
    assert!(socket.head().await.starts_with("GET /chat "));
    socket.send(AGREED).await;
    client.head().await;
    socket.until("early").await;
    server.quiet().await;
}

#[tokio::test]
async fn u8_a_101_that_was_not_asked_for_like_that_is_a_502() {
    let h2c = ASK.replace("websocket", "h2c");
    let with_body = ASK.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx");
    let unnamed = ASK.replace("keep-alive, Upgrade", "keep-alive");
    let other = AGREED.replace("websocket", "x");
    let http_10 = AGREED.replace("HTTP/1.1", "HTTP/1.0");
    for (ask, answer) in
        [(ASK, &*other), (ASK, &http_10), (&h2c, AGREED), (&with_body, AGREED), (&unnamed, AGREED)]
    {
        let endpoint = Endpoint::new().await;
        let ring = Ring::to(&endpoint).await;
        let mut client = ring.client().await;
        client.send(ask).await;
        let mut server = endpoint.accept().await;
        server.head().await;
        server.send(answer).await;
        assert!(client.until("web:8080\n").await.starts_with("HTTP/1.1 502 "), "{ask}{answer}");
        assert_eq!(ring.record().await.reason, Some(Reason::UpstreamProtocol), "{ask}{answer}");
        assert_eq!(value(&ring, "weir_bad_answers_total{reason=\"status\"}"), 1.0, "{ask}{answer}");
        client.send(GET).await;
        endpoint.accept().await.head().await;
    }
}

#[tokio::test]
async fn s22_what_is_not_allowed_is_not_passed_on_and_what_is_allowed_is() {
    let endpoint = Endpoint::new().await;
    let setup = Setup { args: vec!["--allow-upgrade=spdy/9,chat"], ..Setup::new(&[endpoint.addr]) };
    let ring = setup.start().await;
    for (asked, passed) in [
        ("h2c", None),
        ("other", None),
        ("spdy", None),
        ("SPDY/9", Some("SPDY/9")),
        ("other, h2c, chat", Some("chat")),
        ("websocket, chat", Some("websocket")),
    ] {
        let mut client = ring.client().await;
        client.send(ASK.replace("websocket", asked)).await;
        let mut server = endpoint.accept().await;
        let head = server.head().await;
        let wanted = passed.map(|passed| format!("\r\nConnection: Upgrade\r\nUpgrade: {passed}\r\n"));
        assert_eq!(head.contains("pgrade"), wanted.is_some(), "{head}");
        assert!(wanted.is_none_or(|wanted| head.contains(&wanted)), "{head}");
        if passed == Some("chat") {
            server.send(AGREED.replace("websocket", "chat")).await;
            client.head().await;
            drop((client, server));
            eventually(|| async { ring.relay.records.lock().iter().any(|one| one.protocol == "Upgrade") })
                .await;
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_speaks_http_2_gets_an_ordinary_request() {
    let endpoint = Endpoint::new().await;
    let ring =
        Setup { cluster: |cluster| cluster.protocol = Protocol::Http2, ..Setup::new(&[endpoint.addr]) };
    let ring = ring.start().await;
    let mut client = ring.client().await;
    client.send(ASK).await;
    let mut server = endpoint.accept().await;
    assert_eq!(server.exactly(14).await, b"PRI * HTTP/2.0");
}

#[tokio::test]
async fn an_upgrade_that_a_policy_denies_is_403_and_its_connection_goes_on() {
    let endpoint = Endpoint::new().await;
    let setup = Setup {
        cluster: |cluster| {
            for endpoint in &mut cluster.endpoints {
                endpoint.policy = Some(testing::policy(&[["GET", "/(a|open)", ""]]));
            }
        },
        ..Setup::new(&[endpoint.addr])
    };
    let ring = setup.start().await;
    let mut client = ring.client().await;
    client.send(format!("{ASK}{GET}")).await;
    assert!(client.until("Access denied\r\n").await.starts_with("HTTP/1.1 403 "));
    let mut server = endpoint.accept().await;
    assert_eq!(server.head().await, GET);
    server.send(OK).await;
    client.until("ok").await;
    client.send(ASK.replace("/chat", "/open")).await;
    let mut socket = endpoint.accept().await;
    assert!(socket.head().await.starts_with("GET /open "));
    socket.send(AGREED).await;
    client.head().await;
    client.send("through").await;
    socket.until("through").await;
}

#[tokio::test]
async fn half_a_close_passes_either_way_and_the_other_half_goes_on() {
    for by_client in [true, false] {
        let endpoint = Endpoint::new().await;
        let ring = Ring::to(&endpoint).await;
        let (client, server) = tunnel(&ring, &endpoint).await;
        let (mut ends, mut other) = if by_client { (client, server) } else { (server, client) };
        ends.send("last").await;
        ends.0.shutdown().await.unwrap();
        assert_eq!(other.rest().await.unwrap(), b"last");
        other.send("more").await;
        drop(other);
        assert_eq!(ends.rest().await.unwrap(), b"more");
        assert_eq!(ring.record().await.reason, None, "{by_client}");
    }
}

#[tokio::test]
async fn a_reset_passes_either_way() {
    for by_client in [true, false] {
        let endpoint = Endpoint::new().await;
        let ring = Ring::to(&endpoint).await;
        let (client, server) = tunnel(&ring, &endpoint).await;
        let (resets, mut other) = if by_client { (client, server) } else { (server, client) };
        resets.reset();
        assert!(other.rest().await.is_err(), "{by_client}");
        let expected = if by_client { Reason::DownstreamReset } else { Reason::UpstreamReset };
        let record = ring.record().await;
        assert_eq!((record.reason, record.status), (Some(expected), 101));
    }
}

#[tokio::test]
async fn a_tunnel_outlives_every_timeout_but_its_own() {
    let endpoint = Endpoint::new().await;
    let change = |t: &mut Timeouts| {
        *t = Timeouts {
            request: Some(SHORT),
            response_head: Some(SHORT),
            response_body_idle: Some(SHORT),
            request_body_idle: Some(SHORT),
            downstream_idle: Some(SHORT),
            ..*t
        };
    };
    let ring = Setup::new(&[endpoint.addr]).timeouts(change).start().await;
    let (mut client, mut server) = tunnel(&ring, &endpoint).await;
    tokio::time::sleep(4 * SHORT).await;
    server.send("still").await;
    client.until("still").await;
    client.send("here").await;
    server.until("here").await;
}

#[tokio::test]
async fn an_upgrade_that_is_not_answered_in_time_is_a_504() {
    let endpoint = Endpoint::new().await;
    let ring = Setup::new(&[endpoint.addr]).timeouts(|t| t.response_head = Some(SHORT)).start().await;
    let mut client = ring.client().await;
    client.send(ASK).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    assert!(client.until("web:8080\n").await.starts_with("HTTP/1.1 504 "));
    assert_eq!(server.rest().await.unwrap_or_default(), b"");
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_is_reset() {
    let endpoint = Endpoint::new().await;
    let ring = Setup::new(&[endpoint.addr]).timeouts(|t| t.tunnel_idle = Some(SHORT)).start().await;
    let (mut client, mut server) = tunnel(&ring, &endpoint).await;
    for _ in 0..4 {
        tokio::time::sleep(SHORT / 2).await;
        server.send("x").await;
        client.until("x").await;
    }
    assert!(client.rest().await.is_err());
    assert!(server.rest().await.is_err());
    let record = ring.record().await;
    assert_eq!((record.reason, record.bytes_sent), (Some(Reason::TunnelIdle), 4));
}

#[tokio::test]
async fn an_agent_that_leaves_keeps_its_tunnels_as_long_as_it_waits_and_makes_no_new_ones() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let (mut client, mut server) = tunnel(&ring, &endpoint).await;
    let mut late = ring.client().await;
    late.send(ASK).await;
    let mut agrees_late = endpoint.accept().await;
    agrees_late.head().await;
    ring.relay.drain.leave();
    agrees_late.send(AGREED).await;
    assert!(late.until("web:8080\n").await.starts_with("HTTP/1.1 503 "));
    client.send("still").await;
    server.until("still").await;
    ring.relay.drain.abort();
    assert!(client.rest().await.is_err());
    assert!(server.rest().await.is_err());
    let records = ring.records(2).await;
    assert_eq!([records[0].status, records[1].status], [503, 101]);
    assert!(records.iter().all(|one| one.reason == Some(Reason::Draining)), "{records:?}");
}

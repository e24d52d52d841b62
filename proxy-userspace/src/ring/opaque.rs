//! What is not HTTP/1.

use super::*;
use crate::{
    flow::{LaneLabel, Reason},
    snapshot::Protocol,
};

#[tokio::test]
async fn other_protocols_are_tunnelled_byte_for_byte() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(b"\x16\x03\x01\x00hello").await;
    let mut server = endpoint.accept().await;
    assert_eq!(server.exactly(9).await, b"\x16\x03\x01\x00hello");
    server.send(b"\x00\xffworld").await;
    assert_eq!(client.exactly(7).await, b"\x00\xffworld");
    client.0.shutdown().await.unwrap();
    assert_eq!(server.rest().await.unwrap(), b"");
    server.send("more").await;
    drop(server);
    assert_eq!(client.rest().await.unwrap(), b"more");
    let record = ring.record().await;
    assert_eq!((record.protocol, record.lane, record.reason), ("TCP", LaneLabel::Opaque, None));
    assert_eq!((record.bytes_received, record.bytes_sent, record.attempts), (9, 11, 1));
    assert_eq!(record.upstream_host, Some(endpoint.addr));
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_within_the_detect_timeout() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let begin = tokio::time::Instant::now();
    let mut client = ring.client().await;
    let mut server = endpoint.accept().await;
    server.send("220 ready\r\n").await;
    client.until("220 ready\r\n").await;
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(50) && took < PATIENCE / 2, "{took:?}");
    client.send("QUIT\r\n").await;
    server.until("QUIT\r\n").await;
}

#[tokio::test]
async fn a_client_that_connects_early_is_still_relayed() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    let mut speculative = endpoint.accept().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    assert_eq!(server.head().await, GET);
    server.send(OK).await;
    client.until("ok").await;
    assert_eq!(speculative.rest().await.unwrap(), b"");
    assert_eq!(ring.record().await.lane, LaneLabel::Plain);
}

#[tokio::test]
async fn an_early_client_is_relayed_though_the_endpoint_hangs_up() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    drop(endpoint.accept().await);
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.send(GET).await;
    endpoint.accept().await.head().await;
}

#[tokio::test]
async fn an_early_client_that_speaks_something_else_keeps_its_connection() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    let mut server = endpoint.accept().await;
    client.send("SSH-2.0-x\r\n").await;
    server.until("SSH-2.0-x\r\n").await;
    endpoint.stays_alone().await;
}

#[tokio::test]
async fn a_cluster_that_is_opaque_is_tunnelled_without_a_look() {
    let endpoint = Endpoint::new().await;
    let setup =
        Setup { cluster: |cluster| cluster.protocol = Protocol::Opaque, ..Setup::new(&[endpoint.addr]) };
    let ring = setup.start().await;
    let mut client = ring.client().await;
    let mut server = endpoint.accept().await;
    client.send(GET).await;
    assert_eq!(server.head().await, GET);
    drop(server);
    assert_eq!(client.rest().await.unwrap(), b"");
}

#[tokio::test]
async fn s23_connect_is_405_where_the_port_is_said_to_be_http() {
    let endpoint = Endpoint::new().await;
    let ring =
        Setup { cluster: |cluster| cluster.protocol = Protocol::Http1, ..Setup::new(&[endpoint.addr]) };
    let ring = ring.start().await;
    let mut client = ring.client().await;
    client.send("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n").await;
    assert!(client.all().await.starts_with("HTTP/1.1 405 "));
    endpoint.stays_alone().await;
    assert_eq!(ring.record().await.status, 405);
}

const SAID_TO_BE_HTTP: [fn(&mut Cluster); 2] =
    [|cluster| cluster.protocol = Protocol::Http1, |cluster| cluster.protocol = Protocol::Http2];

#[tokio::test]
async fn k7_what_is_not_http_is_refused_where_the_port_is_said_to_be_http() {
    let openings: [(&[u8], u16); 6] = [
        (b"\x16\x03\x01\x00hello\r\n\r\n", 400),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: web\r\n\r\n", 400),
        (b"get / HTTP/1.1\r\nHost: web\r\n\r\n", 501),
        (b"\nGET / HTTP/1.1\r\nHost: web\r\n\r\n", 400),
        // RFC 9113 section 3.4: a preface that is none ends the connection; GOAWAY may be left out.
        (b"PRI * HTTP/2.0\r\n\r\nMS\r\n\r\n", 505),
        (b"NO SUCH PREFACE\r\n\r\n", 400),
    ];
    for cluster in SAID_TO_BE_HTTP {
        let endpoint = Endpoint::new().await;
        let ring = Setup { cluster, ..Setup::new(&[endpoint.addr]) }.start().await;
        for (opening, status) in openings {
            let mut client = ring.client().await;
            client.send(opening).await;
            let told = client.all().await;
            assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {told}", opening.escape_ascii());
        }
        endpoint.stays_alone().await;
    }
}

#[tokio::test]
async fn a_silent_client_gets_no_endpoint_where_the_port_is_said_to_be_http() {
    for cluster in SAID_TO_BE_HTTP {
        let endpoint = Endpoint::new().await;
        let ring = Setup { cluster, ..Setup::new(&[endpoint.addr]) }.start().await;
        let mut client = ring.client().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        endpoint.stays_alone().await;
        client.send(GET).await;
        endpoint.accept().await;
    }
}

#[tokio::test]
async fn connect_asks_for_a_tunnel_and_gets_one() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    let head = "CONNECT db:5432 HTTP/1.1\r\nHost: db\r\n\r\n";
    client.send(head).await;
    let mut server = endpoint.accept().await;
    assert_eq!(server.head().await, head);
    server.send("HTTP/1.1 200 OK\r\n\r\nhello").await;
    client.until("hello").await;
}

#[tokio::test]
async fn a_request_line_may_come_byte_by_byte() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    for byte in GET.bytes() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(endpoint.accept().await.head().await, GET);
}

#[tokio::test]
async fn a_reset_passes_through_a_tunnel_either_way() {
    for by_client in [true, false] {
        let endpoint = Endpoint::new().await;
        let ring = Ring::to(&endpoint).await;
        let mut client = ring.client().await;
        client.send(b"\x00").await;
        let mut server = endpoint.accept().await;
        server.exactly(1).await;
        let (resets, mut other) = if by_client { (client, server) } else { (server, client) };
        resets.reset();
        assert!(other.rest().await.is_err(), "{by_client}");
        let expected = if by_client { Reason::DownstreamReset } else { Reason::UpstreamReset };
        assert_eq!(ring.record().await.reason, Some(expected));
    }
}

#[tokio::test]
async fn a_tunnel_to_nowhere_ends_with_a_reset() {
    let ring = Setup::new(&[Endpoint::absent().await]).start().await;
    let mut client = ring.client().await;
    client.send(b"\x00").await;
    assert!(client.rest().await.is_err());
    assert_eq!(ring.record().await.reason, Some(Reason::ConnectFailed));
}

#[tokio::test]
async fn a_silent_tunnel_ends() {
    let endpoint = Endpoint::new().await;
    let ring = Setup::new(&[endpoint.addr]).timeouts(|t| t.tunnel_idle = Some(SHORT)).start().await;
    let mut client = ring.client().await;
    client.send(b"\x00").await;
    let mut server = endpoint.accept().await;
    server.exactly(1).await;
    for _ in 0..4 {
        tokio::time::sleep(SHORT / 2).await;
        client.send(b"\x00").await;
    }
    assert!(client.rest().await.is_err());
    assert!(server.rest().await.is_err() || ring.record().await.bytes_received == 5);
}

#[tokio::test]
async fn the_server_that_tunnelled_tls_asks_for_is_in_the_record_and_no_byte_is_changed() {
    let name = rustls_pki_types::ServerName::try_from("shop.example.com").unwrap();
    let config = Arc::new(testing::certificates::Authority::new().client());
    let mut tls = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    for cut in [1, 5, 100, hello.len() - 1, hello.len()] {
        let endpoint = Endpoint::new().await;
        let ring = Ring::to(&endpoint).await;
        let mut client = ring.client().await;
        client.send(&hello[..cut]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.send(&hello[cut..]).await;
        let mut server = endpoint.accept().await;
        assert_eq!(server.exactly(hello.len()).await, hello, "{cut}");
        drop((client, server));
        let record = ring.record().await;
        assert_eq!(record.server_name.as_deref(), Some("shop.example.com"), "{cut}");
        assert_eq!((record.protocol, record.bytes_received), ("TCP", hello.len() as u64));
    }
}

#[tokio::test]
async fn half_a_greeting_of_tls_is_passed_on_without_its_other_half() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(b"\x16\x03\x01\x02\x00\x01").await;
    assert_eq!(endpoint.accept().await.exactly(6).await, b"\x16\x03\x01\x02\x00\x01");
    drop(client);
    assert_eq!(ring.record().await.server_name, None);
}

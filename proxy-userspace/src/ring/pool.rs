//! Upstream connections: kept, used again, and never with something left on them.

use super::*;
use crate::flow::Reason;

async fn ask(client: &mut Peer, server: &mut Peer) {
    client.send(GET).await;
    server.head().await;
    server.send(OK).await;
    client.until("ok").await;
}

#[tokio::test]
async fn clients_share_a_kept_alive_connection() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut one = ring.client().await;
    one.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK).await;
    one.until("ok").await;
    let mut other = ring.client().await;
    for _ in 0..3 {
        ask(&mut one, &mut server).await;
        ask(&mut other, &mut server).await;
    }
    endpoint.stays_alone().await;
    assert!(ring.records(7).await.iter().all(|record| record.attempts == 1));
}

#[tokio::test]
async fn a_connection_that_says_close_is_not_used_again() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    for _ in 0..2 {
        client.send(GET).await;
        let mut server = endpoint.accept().await;
        server.head().await;
        server.send(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
        client.until("ok").await;
        assert_eq!(server.all().await, "");
    }
}

#[tokio::test]
async fn a_connection_that_the_endpoint_has_closed_is_passed_over() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK).await;
    client.until("ok").await;
    drop(server);
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\n\r\n!").await;
    let mut server = endpoint.accept().await;
    server.until("!").await;
    server.send(OK).await;
    client.until("ok").await;
    assert!(ring.records(2).await.iter().all(|record| record.attempts == 1));
}

#[tokio::test]
async fn a_repeatable_request_on_a_connection_that_closes_under_it_is_sent_again() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK).await;
    client.until("ok").await;
    client.send(GET).await;
    server.head().await;
    drop(server);
    let mut server = endpoint.accept().await;
    assert_eq!(server.head().await, GET);
    server.send(OK).await;
    assert!(client.until("ok").await.starts_with("HTTP/1.1 200 "));
    let record = &ring.records(2).await[1];
    assert_eq!((record.attempts, record.reason), (2, None));
}

#[tokio::test]
async fn a_request_that_must_not_be_repeated_is_not() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK).await;
    client.until("ok").await;
    client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n").await;
    server.head().await;
    drop(server);
    assert!(client.until("web:8080\n").await.starts_with("HTTP/1.1 502 "));
    endpoint.stays_alone().await;
    assert_eq!(ring.records(2).await[1].reason, Some(Reason::UpstreamReset));
}

#[tokio::test]
async fn u5_what_an_endpoint_says_unasked_reaches_nobody() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK.to_owned() + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
    client.until("ok").await;
    client.send(GET).await;
    let mut fresh = endpoint.accept().await;
    fresh.head().await;
    fresh.send(OK.replace("ok", "no")).await;
    client.until("no").await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_clusters_timeout() {
    let endpoint = Endpoint::new().await;
    let idle = |t: &mut Timeouts| t.upstream_idle = Some(2 * SHORT);
    let ring = Setup::new(&[endpoint.addr]).timeouts(idle).start().await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK).await;
    client.until("ok").await;
    assert_eq!(ring.relay.pool.idle(), 1);
    assert_eq!(server.rest().await.unwrap(), b"");
    assert_eq!(ring.relay.pool.idle(), 0);
}

#[tokio::test]
async fn a_namespace_without_clients_is_let_go_with_its_connections() {
    let endpoint = Endpoint::new().await;
    let ring = Setup { args: vec!["--timeout-upstream-idle", "300ms"], ..Setup::new(&[endpoint.addr]) };
    let ring = ring.start().await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK).await;
    client.until("ok").await;
    let own = ring.relay.namespaces.own();
    assert!(ring.relay.namespaces.is_known(own));
    drop(client);
    eventually(|| async { !ring.relay.namespaces.is_known(own) }).await;
    assert_eq!(server.rest().await.unwrap(), b"");
}

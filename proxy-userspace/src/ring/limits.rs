//! Limits, and what the client over the limit gets.

use super::*;

async fn is_reset(ring: &Ring) -> bool {
    let mut client = ring.client().await;
    client.rest().await.is_err()
}

#[tokio::test]
async fn the_connection_over_the_limit_is_reset_and_room_is_made_by_closing() {
    let endpoint = Endpoint::new().await;
    let ring = Setup { limits: (2, 100), ..Setup::new(&[endpoint.addr]) }.start().await;
    let (one, _two) = (ring.client().await, ring.client().await);
    eventually(|| async { ring.relay.drain.open() == 2 }).await;
    assert!(is_reset(&ring).await);
    drop(one);
    eventually(|| async { ring.relay.drain.open() == 1 }).await;
    let mut three = ring.client().await;
    three.send(GET).await;
    endpoint.accept().await.head().await;
}

#[tokio::test]
async fn one_client_address_cannot_have_all_connections() {
    let endpoint = Endpoint::new().await;
    let ring = Setup { limits: (100, 1), ..Setup::new(&[endpoint.addr]) }.start().await;
    let _one = ring.client().await;
    eventually(|| async { ring.relay.drain.open() == 1 }).await;
    assert!(is_reset(&ring).await);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = Peer(socket.connect(ring.addr).await.unwrap());
    other.send(GET).await;
    endpoint.accept().await.head().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_431() {
    let ring = Ring::to(&Endpoint::new().await).await;
    let mut client = ring.client().await;
    client.send(format!("GET /a HTTP/1.1\r\nHost: web\r\nX: {}", "x".repeat(70_000))).await;
    assert!(client.all().await.starts_with("HTTP/1.1 431 "));
    assert_eq!(ring.record().await.status, 431);
}

//! B11: what is brought in from outside says that it passed, and what goes in circles ends.

use super::{
    edge::{Edge, PLAIN, ring},
    http2::peer::{Client, body},
    *,
};
use crate::flow::Reason;
use ::http::Request;

/// The Via fields of a head.
fn via(head: &str) -> Vec<&str> {
    head.lines()
        .filter_map(|line| line.strip_prefix("via: ").or_else(|| line.strip_prefix("Via: ")))
        .collect()
}

fn asking(version: &str, fields: &str) -> String {
    format!("GET /a HTTP/{version}\r\nHost: web\r\nConnection: close\r\n{fields}\r\n")
}

#[tokio::test]
async fn b11_a_request_to_a_gateway_says_how_it_came_and_that_it_passed() {
    let endpoint = Endpoint::new().await;
    let ring = ring(Edge::new(&[endpoint.addr]).with(PLAIN, ""), &[]).await;
    for (version, said, expected) in [
        ("1.1", "", &["1.1 weir"][..]),
        ("1.0", "Via: 1.0 fred, 1.1 other\r\n", &["1.0 fred, 1.1 other", "1.0 weir"]),
    ] {
        let mut client = ring.client().await;
        client.send(asking(version, said)).await;
        let mut server = endpoint.accept().await;
        let head = server.head().await;
        assert_eq!(via(&head), expected, "{head}");
        server.send(OK.replace("OK\r\n", "OK\r\nConnection: close\r\n")).await;
        let answer = client.all().await;
        assert!(answer.contains(" 200 OK\r\n") && via(&answer).is_empty(), "{answer}");
    }
    let asked = Request::get("http://web/").body(body(&[], None)).unwrap();
    let answer = tokio::spawn(Client::http2(ring.addr).await.send(asked));
    let mut server = endpoint.accept().await;
    let head = server.head().await;
    assert_eq!(via(&head), ["2 weir"], "{head}");
    server.send(OK).await;
    assert_eq!(answer.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn b11_a_request_that_has_passed_eight_times_gets_508_and_reaches_nobody() {
    let endpoint = Endpoint::new().await;
    let ring = ring(Edge::new(&[endpoint.addr]).with(PLAIN, ""), &["--via=edge.test"]).await;
    let mut client = ring.client().await;
    client.send(asking("1.1", &"Via: 1.1 edge.test\r\n".repeat(8))).await;
    let answer = client.all().await;
    assert!(answer.starts_with("HTTP/1.1 508 "), "{answer}");
    endpoint.stays_alone().await;
    let record = ring.record().await;
    assert_eq!((record.reason, record.status, record.attempts), (Some(Reason::LoopDetected), 508, 0));
    let mut client = ring.client().await;
    client.send(asking("1.1", &"Via: 1.1 edge.test, 1.1 weir\r\n".repeat(7))).await;
    let mut server = endpoint.accept().await;
    assert_eq!(via(&server.head().await).last(), Some(&"1.1 edge.test"));
    server.send(OK).await;
    client.until("ok").await;
}

#[tokio::test]
async fn b11_a_gateway_whose_endpoint_is_itself_ends_the_circle() {
    // The endpoint is the relay's own address, which is known when it runs.
    let mut edge = Edge::new(&[]);
    let ring = ring(edge.with(PLAIN, ""), &[]).await;
    let mut circle = Edge::new(&[ring.addr]);
    ring.relay.snapshot.store(Arc::new(circle.with(PLAIN, "")));
    let mut client = ring.client().await;
    client.send(asking("1.1", "")).await;
    let answer = client.all().await;
    assert!(answer.starts_with("HTTP/1.1 508 "), "{answer}");
    let records = ring.records(9).await;
    let own = records.iter().filter(|record| record.reason == Some(Reason::LoopDetected)).count();
    assert_eq!((records.len(), own), (9, 1));
}

#[tokio::test]
async fn b11_a_request_within_the_cluster_says_nothing_and_one_that_the_node_makes_for_its_client_does() {
    for (known, expected) in [(true, &[][..]), (false, &["1.1 weir"])] {
        let endpoint = Endpoint::new().await;
        let ring = Setup { known, ..Setup::new(&[endpoint.addr]) }.start().await;
        let mut client = ring.client().await;
        client.send(GET).await;
        let mut server = endpoint.accept().await;
        let head = server.head().await;
        assert_eq!(via(&head), expected, "{head}");
        server.send(OK).await;
        client.until("ok").await;
    }
}

#[tokio::test]
async fn b11_off_says_nothing_and_notices_no_circle() {
    let endpoint = Endpoint::new().await;
    let ring = ring(Edge::new(&[endpoint.addr]).with(PLAIN, ""), &["--via=off"]).await;
    let mut client = ring.client().await;
    client.send(asking("1.1", &"Via: 1.1 weir\r\n".repeat(9))).await;
    let mut server = endpoint.accept().await;
    assert_eq!(via(&server.head().await), ["1.1 weir"; 9]);
    server.send(OK).await;
    client.until("ok").await;
}

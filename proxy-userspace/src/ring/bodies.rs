//! Bodies: whole, in both directions, never ahead of the reader, never complete when they are not.

use super::*;
use crate::flow::Reason;

const MANY: usize = 8 << 20;

fn noise(size: usize) -> Vec<u8> {
    (0_u32..).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).take(size).collect()
}

#[tokio::test]
async fn large_bodies_pass_whole_both_ways() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let (mut client, body) = (ring.client().await, noise(MANY));
    let head = format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: {MANY}\r\n\r\n");
    let sent = body.clone();
    let client = tokio::spawn(async move {
        client.send(head).await;
        client.send(sent).await;
        client.answer(MANY).await.1
    });
    let mut server = endpoint.accept().await;
    server.head().await;
    assert!(server.exactly(MANY).await == body);
    server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {MANY}\r\n\r\n")).await;
    server.send(&body).await;
    assert!(within(client).await.unwrap() == body);
    let record = ring.record().await;
    assert_eq!((record.bytes_received, record.bytes_sent), (MANY as u64, MANY as u64));
    assert_eq!(record.reason, None);
}

#[tokio::test]
async fn a_chunked_body_stays_chunked_whatever_the_method() {
    for method in ["POST", "GET"] {
        let endpoint = Endpoint::new().await;
        let ring = Ring::to(&endpoint).await;
        let mut client = ring.client().await;
        let head = format!("{method} / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(&head).await;
        client.send("3\r\nabc\r\n0\r\n\r\n").await;
        let mut server = endpoint.accept().await;
        assert_eq!(server.head().await, head);
        server.until("3\r\nabc\r\n0\r\n\r\n").await;
        let answer = "HTTP/1.1 200 OK\r\nA: b\r\n";
        server.send(format!("{answer}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")).await;
        let got = client.until("0\r\n\r\n").await;
        assert!(got.starts_with(answer) && got.ends_with("2\r\nok\r\n0\r\n\r\n"), "{got}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_becomes_chunked() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send("HTTP/1.0 200 OK\r\n\r\nabc").await;
    drop(server);
    let answer = client.until("0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\r\nabc\r\n"), "{answer}");
    assert_eq!(ring.record().await.reason, None);
}

#[tokio::test]
async fn head_and_304_have_no_body_and_keep_their_length() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send("HEAD / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let mut server = endpoint.accept().await;
    server.head().await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n";
    server.send(answer).await;
    assert_eq!(client.head().await, answer);
    client.send(GET).await;
    server.head().await;
    server.send("HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n");
}

#[tokio::test]
async fn an_endpoint_does_not_run_ahead_of_a_slow_client() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 256 << 20)).await;
    let ahead = fill(&mut server.0).await;
    // What lies in four socket buffers and two of ours.
    assert!(ahead < 40 << 20, "{ahead}");
}

#[tokio::test]
async fn a_client_does_not_run_ahead_of_a_slow_endpoint() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n", 256 << 20)).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    let ahead = fill(&mut client.0).await;
    assert!(ahead < 40 << 20, "{ahead}");
}

/// Writes until nothing more is taken; how much was.
async fn fill(stream: &mut TcpStream) -> usize {
    let (chunk, mut taken) = (vec![0; 1 << 16], 0);
    while let Ok(wrote) = tokio::time::timeout(2 * SHORT, stream.write(&chunk)).await {
        taken += wrote.unwrap();
    }
    taken
}

#[tokio::test]
async fn a_truncated_answer_never_looks_complete() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n",
    ] {
        let endpoint = Endpoint::new().await;
        let ring = Ring::to(&endpoint).await;
        let mut client = ring.client().await;
        client.send(GET).await;
        let mut server = endpoint.accept().await;
        server.head().await;
        server.send(head).await;
        server.send("abc").await;
        drop(server);
        let answer = client.all().await;
        assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
        let record = ring.record().await;
        assert_eq!((record.reason, record.status), (Some(Reason::UpstreamReset), 200));
    }
}

#[tokio::test]
async fn a_truncated_answer_to_http_10_ends_with_a_reset() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send("GET / HTTP/1.0\r\nHost: web\r\n\r\n").await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    client.until("abc").await;
    drop(server);
    assert!(client.rest().await.is_err());
}

#[tokio::test]
async fn a_request_that_breaks_off_is_not_completed_for_the_endpoint() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let mut server = endpoint.accept().await;
    server.until("abc\r\n").await;
    drop(client);
    assert_eq!(server.all().await, "");
    assert_eq!(ring.record().await.reason, Some(Reason::DownstreamReset));
}

#[tokio::test]
async fn an_answer_may_begin_and_end_before_the_request_has_ended() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000\r\n\r\nabc").await;
    let mut server = endpoint.accept().await;
    server.until("abc").await;
    server.send("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = client.until("no").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(ring.record().await.status, 413);
    assert_eq!(ring.relay.pool.idle(), 0);
}

#[tokio::test]
async fn a_client_that_still_sends_can_read_why_it_was_refused() {
    let ring = Setup::new(&[]).start().await;
    let mut client = ring.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: {MANY}\r\n\r\n")).await;
    let (mut receive, mut send) = client.0.into_split();
    let sending = tokio::spawn(async move { send.write_all(&vec![0; MANY]).await.map(|()| send) });
    within(sending).await.unwrap().unwrap();
    let mut answer = String::new();
    within(receive.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("web:8080\n"), "{answer}");
}

#[tokio::test]
async fn both_bodies_flow_at_once_and_do_not_wait_for_each_other() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: {MANY}\r\n\r\nabc")).await;
    let mut server = endpoint.accept().await;
    server.until("abc").await;
    // An answer that the client does not read before it has sent everything.
    let (mut receive, mut answer) = server.0.into_split();
    let writing = tokio::spawn(async move {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n";
        answer.write_all(head.as_bytes()).await.unwrap();
        answer.write_all(&vec![0; 64 << 20]).await.unwrap();
        answer
    });
    let reading = tokio::spawn(async move {
        let mut body = vec![0; MANY - 3];
        receive.read_exact(&mut body).await.map(|_| receive)
    });
    client.send(vec![0; MANY - 3]).await;
    within(reading).await.unwrap().unwrap();
    client.head().await;
    let (body, _) = tokio::join!(client.exactly(64 << 20), writing);
    assert_eq!(body.len(), 64 << 20);
}

#[tokio::test]
async fn an_expected_100_is_sent_when_the_body_is_wanted() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc").await;
    let mut server = endpoint.accept().await;
    assert_eq!(server.head().await, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\n");
    server.until("abc").await;
    server.send(OK).await;
    client.until("ok").await;
}

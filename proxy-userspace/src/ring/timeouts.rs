//! Each timeout fires, with its status and reason, and does not fire when it is not due.

use super::*;
use crate::flow::Reason;

/// Longer than anything that fires here.
const NOT_YET: Duration = Duration::from_millis(60);

async fn ring(endpoint: &Endpoint, change: impl FnOnce(&mut Timeouts)) -> Ring {
    Setup::new(&[endpoint.addr]).timeouts(change).start().await
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("")
}

#[tokio::test]
async fn a_connect_that_takes_too_long_is_a_503() {
    // A full backlog drops SYNs: the handshake hangs.
    let endpoint = Endpoint::with_full_backlog().await;
    let ring = Setup::new(&[endpoint.addr]).timeouts(|t| t.connect = Some(SHORT)).start().await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let answer = client.until("upstream connect timeout: default/web:8080\n").await;
    assert_eq!(status(&answer), "503");
    assert_eq!(ring.record().await.reason, Some(Reason::ConnectTimeout));
}

#[tokio::test]
async fn a_connect_that_takes_too_long_is_tried_elsewhere() {
    let (full, endpoint) = (Endpoint::with_full_backlog().await, Endpoint::new().await);
    let ring = Setup::new(&[full.addr, endpoint.addr]).timeouts(|t| t.connect = Some(SHORT)).start().await;
    tokio::spawn(async move {
        loop {
            let mut server = endpoint.accept().await;
            server.head().await;
            server.send(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
        }
    });
    let mut both = false;
    for _ in 0..50 {
        let mut client = ring.client().await;
        client.send(GET).await;
        assert_eq!(status(&client.until("ok").await), "200");
        both = ring.relay.records.lock().iter().any(|record| record.attempts == 2);
        if both {
            break;
        }
    }
    assert!(both);
}

#[tokio::test]
async fn half_a_head_followed_by_silence_is_a_408() {
    let ring = ring(&Endpoint::new().await, |t| t.request_head = Some(SHORT)).await;
    let mut client = ring.client().await;
    client.send("GET /a HTTP/1.1\r\nHo").await;
    let answer = client.all().await;
    assert_eq!(status(&answer), "408");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.ends_with("request head timeout: default/web:8080\n"), "{answer}");
    let record = ring.record().await;
    assert_eq!((record.reason, record.status), (Some(Reason::RequestHeadTimeout), 408));
    assert_eq!(record.method.as_str(), "-");
}

#[tokio::test]
async fn half_a_second_head_is_a_408_too() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| t.request_head = Some(SHORT)).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK).await;
    client.until("ok").await;
    client.send("GE").await;
    assert_eq!(status(&client.all().await), "408");
    assert_eq!(ring.records(2).await[1].reason, Some(Reason::RequestHeadTimeout));
}

#[tokio::test]
async fn a_head_that_comes_slowly_but_in_time_is_served() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| t.request_head = Some(PATIENCE)).await;
    let mut client = ring.client().await;
    for byte in GET.bytes() {
        client.send([byte]).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK).await;
    client.until("ok").await;
    assert_eq!(ring.record().await.reason, None);
}

#[tokio::test]
async fn a_silent_connection_is_closed_without_a_word_or_a_record() {
    let ring = ring(&Endpoint::new().await, |t| t.downstream_idle = Some(SHORT)).await;
    let mut client = ring.client().await;
    assert_eq!(client.rest().await.unwrap(), b"");
    assert!(ring.relay.records.lock().is_empty());
}

#[tokio::test]
async fn a_connection_that_is_idle_after_a_request_is_closed_without_a_word() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| t.downstream_idle = Some(SHORT)).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    // Longer than the idle timeout: it does not count while a request is in flight.
    tokio::time::sleep(2 * SHORT).await;
    server.send(OK).await;
    client.until("ok").await;
    assert_eq!(client.rest().await.unwrap(), b"");
    assert_eq!(ring.records(1).await.len(), 1);
}

#[tokio::test]
async fn silence_within_a_request_body_is_a_408() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| t.request_body_idle = Some(SHORT)).await;
    let mut client = ring.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nabc").await;
    let mut server = endpoint.accept().await;
    server.until("abc").await;
    let answer = client.all().await;
    assert_eq!(status(&answer), "408");
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("web:8080\n"), "{answer}");
    server.all().await;
    let record = ring.record().await;
    assert_eq!((record.reason, record.bytes_received), (Some(Reason::RequestBodyIdle), 3));
}

#[tokio::test]
async fn a_request_body_that_drips_is_not_silent() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| t.request_body_idle = Some(SHORT)).await;
    let mut client = ring.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\n").await;
    let mut server = endpoint.accept().await;
    for byte in b"abcd!" {
        tokio::time::sleep(NOT_YET).await;
        client.send([*byte]).await;
    }
    server.until("abcd!").await;
    server.send(OK).await;
    client.until("ok").await;
    assert_eq!(ring.record().await.reason, None);
}

#[tokio::test]
async fn an_answer_that_does_not_begin_is_a_504() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| t.response_head = Some(SHORT)).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    let answer = client.until("upstream response timeout: default/web:8080\n").await;
    assert_eq!(status(&answer), "504");
    server.all().await;
    assert_eq!(ring.record().await.reason, Some(Reason::ResponseHeadTimeout));
    // The connection is still good for another request.
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK).await;
    client.until("ok").await;
}

#[tokio::test]
async fn the_endpoints_time_begins_with_the_requests_end() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| t.response_head = Some(2 * SHORT)).await;
    let mut client = ring.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\na").await;
    let mut server = endpoint.accept().await;
    tokio::time::sleep(3 * SHORT).await;
    client.send("!").await;
    server.until("a!").await;
    server.send(OK).await;
    client.until("ok").await;
    assert_eq!(ring.record().await.reason, None);
}

#[tokio::test]
async fn a_request_that_takes_too_long_as_a_whole_is_a_504() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| t.request = Some(SHORT)).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    assert_eq!(status(&client.until("web:8080\n").await), "504");
    assert_eq!(ring.record().await.reason, Some(Reason::RequestTimeout));
}

#[tokio::test]
async fn the_whole_requests_deadline_covers_a_short_answers_body() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| t.request = Some(SHORT)).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
    assert!(client.all().await.ends_with("\r\n\r\nabc"));
    let record = ring.record().await;
    assert_eq!((record.reason, record.status), (Some(Reason::RequestTimeout), 200));
}

#[tokio::test]
async fn a_streaming_answer_may_last_longer_than_a_request() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| t.request = Some(SHORT)).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for _ in 0..4 {
        tokio::time::sleep(NOT_YET).await;
        server.send("1\r\nx\r\n").await;
    }
    server.send("0\r\n\r\n").await;
    client.until("\r\n0\r\n\r\n").await;
    assert_eq!(ring.record().await.reason, None);
}

#[tokio::test]
async fn silence_within_an_answer_cuts_it() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| t.response_body_idle = Some(SHORT)).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let answer = client.all().await;
    assert!(answer.ends_with("3\r\nabc\r\n"), "{answer}");
    server.all().await;
    let record = ring.record().await;
    assert_eq!((record.reason, record.status), (Some(Reason::ResponseBodyIdle), 200));
    assert_eq!(record.bytes_sent, 3);
}

/// A byte now and then behind a head, for as long as somebody takes them.
async fn trickles(mut server: Peer, head: &'static str, piece: &'static str) {
    server.head().await;
    server.send(head).await;
    while server.0.write_all(piece.as_bytes()).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

/// Ten seconds of waiting are nothing yet, and a few bytes earn no more.
#[tokio::test]
async fn u11_an_answer_of_known_length_that_trickles_is_cut_and_a_stream_that_does_is_not() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |_| {}).await;
    let (mut file, mut events) = (ring.client().await, ring.client().await);
    file.send(GET).await;
    tokio::spawn(trickles(
        endpoint.accept().await,
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        "x",
    ));
    events.send(GET.replace("/a", "/events")).await;
    let chunked = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    tokio::spawn(trickles(endpoint.accept().await, chunked, "1\r\n\n\r\n"));
    let begun = tokio::time::Instant::now();
    let cut = tokio::time::timeout(6 * PATIENCE, file.rest_unlimited()).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(9), "{cut:?}");
    let record = ring.record().await;
    assert_eq!((record.reason, record.status), (Some(Reason::ResponseBodySlow), 200));
    assert_eq!(record.reason.unwrap().flag(), "UT");
    for _ in 0..3 {
        events.until("1\r\n\n\r\n").await;
    }
}

#[tokio::test]
async fn u11_without_a_rate_an_answer_may_trickle() {
    let endpoint = Endpoint::new().await;
    let ring =
        Setup { args: vec!["--min-response-body-rate=0"], ..Setup::new(&[endpoint.addr]) }.start().await;
    let mut client = ring.client().await;
    client.send(GET).await;
    tokio::spawn(trickles(
        endpoint.accept().await,
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        "x",
    ));
    let cut = tokio::time::timeout(Duration::from_secs(12), client.rest_unlimited()).await;
    assert!(cut.is_err(), "{cut:?}");
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| t.response_body_idle = Some(SHORT)).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await;
    let chunk = vec![0; 1 << 20];
    while within(server.0.write_all(&chunk)).await.is_ok() {}
    assert_eq!(ring.record().await.reason, Some(Reason::ResponseBodyIdle));
}

#[tokio::test]
async fn a_disabled_timeout_does_not_fire() {
    let endpoint = Endpoint::new().await;
    let ring = ring(&endpoint, |t| {
        *t = Timeouts {
            connect: None,
            request_head: None,
            request_body_idle: None,
            response_head: None,
            request: None,
            response_body_idle: None,
            tunnel_idle: None,
            downstream_idle: None,
            upstream_idle: None,
        };
    })
    .await;
    let mut client = ring.client().await;
    let _speculative = endpoint.accept().await;
    client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Len").await;
    tokio::time::sleep(NOT_YET).await;
    client.send("gth: 2\r\n\r\na").await;
    tokio::time::sleep(NOT_YET).await;
    client.send("!").await;
    let mut server = endpoint.accept().await;
    server.until("a!").await;
    tokio::time::sleep(NOT_YET).await;
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").await;
    tokio::time::sleep(NOT_YET).await;
    server.send("k").await;
    client.until("ok").await;
    assert_eq!(ring.record().await.reason, None);
}

#[tokio::test]
async fn d4_a_body_that_comes_a_byte_at_a_time_is_a_408_and_no_request() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let Peer(client) = ring.client().await;
    let (mut reads, mut writes) = client.into_split();
    writes.write_all(b"POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 100000\r\n\r\n").await.unwrap();
    let trickle = tokio::spawn(async move {
        while writes.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut server = endpoint.accept().await;
    server.head().await;
    let mut answer = String::new();
    let read = tokio::time::timeout(6 * PATIENCE, reads.read_to_string(&mut answer)).await;
    assert!(read.is_ok() && status(&answer) == "408", "{answer}");
    trickle.abort();
    let record = ring.record().await;
    assert_eq!((record.status, record.reason), (408, Some(Reason::RequestBodyIdle)));
    assert!(record.bytes_received < 100_000);
}

#[tokio::test]
async fn d5_a_client_that_takes_nothing_of_its_answer_is_reset() {
    let endpoint = Endpoint::new().await;
    let ring =
        Setup { args: vec!["--timeout-write-idle=150ms"], ..Setup::new(&[endpoint.addr]) }.start().await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40)).await;
    let chunk = vec![0; 1 << 16];
    while server.0.write_all(&chunk).await.is_ok() {}
    assert_eq!(ring.record().await.reason, Some(Reason::WriteIdle));
    assert!(client.rest().await.is_err(), "reset");
}

#[tokio::test]
async fn d5_a_client_that_takes_its_answer_slowly_gets_all_of_it() {
    let endpoint = Endpoint::new().await;
    let ring = Setup { args: vec!["--timeout-write-idle=2s"], ..Setup::new(&[endpoint.addr]) }.start().await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    let size = 24 << 20;
    tokio::spawn(async move {
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")).await;
        server.send(vec![0; size]).await;
    });
    client.head().await;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.exactly(size / 12).await;
    }
    assert_eq!(ring.record().await.reason, None);
}

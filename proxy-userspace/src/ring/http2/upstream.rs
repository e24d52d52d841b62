//! Endpoints that speak HTTP/2.

use super::{
    raw::{self, Came, GOAWAY, HEADERS, RST_STREAM, Raw, SETTINGS, frame},
    *,
};
use std::sync::atomic::Ordering::Relaxed;

/// The agent's connection to an endpoint of frames, its preface read.
pub(super) async fn accepted(endpoint: &Endpoint) -> Raw {
    let mut peer = endpoint.accept().await;
    assert_eq!(peer.exactly(raw::PREFACE.len()).await, raw::PREFACE);
    let mut raw = Raw(peer);
    raw.send(SETTINGS, 0, 0, &[]).await;
    raw.send(SETTINGS, raw::ACK, 0, &[]).await;
    raw
}

pub(super) async fn headers(raw: &mut Raw) -> Came {
    raw.until(|came| came.kind == HEADERS).await.unwrap()
}

async fn answer(raw: &mut Raw, stream: u32) {
    // :status 200 is the eighth of the static table.
    raw.send(HEADERS, raw::END_HEADERS | raw::END_STREAM, stream, &[0x88]).await;
}

#[tokio::test]
async fn requests_of_many_clients_share_a_connection() {
    let echo = Echo::start(Speaks::Http2).await;
    let ring = ring_to(echo.addr, http2).await;
    let mut clients = Vec::new();
    for speaks in [Speaks::Http1, Speaks::Http2] {
        for _ in 0..10 {
            let mut client = Client::connect(speaks, ring.addr).await;
            // One that stays silent is soon taken for one that waits for the server to speak.
            assert_eq!(client.exchange(request("x")).await.status, 200);
            clients.push(client);
        }
    }
    let answers: Vec<_> = clients.iter().map(|client| tokio::spawn(client.send(request("abc")))).collect();
    for one in answers {
        assert_eq!(&*collected(one.await.unwrap().unwrap()).await.bytes, b"abc");
    }
    assert_eq!((echo.connections.load(Relaxed), ring.relay.pool.trunks.count()), (1, 1));
}

#[tokio::test]
async fn more_requests_than_an_endpoint_allows_open_another_connection() {
    let echo = Echo::start(Speaks::Http2).await;
    let ring = ring_to(echo.addr, http2).await;
    let mut client = Client::http2(ring.addr).await;
    // With the second request its settings are known: 50 streams.
    client.exchange(request("x")).await;
    client.exchange(request("x")).await;
    let held: Vec<_> = (0..70)
        .map(|_| {
            let endless =
                futures_util::stream::pending::<Result<http_body::Frame<Bytes>, std::convert::Infallible>>();
            let body = http_body_util::BodyExt::boxed(http_body_util::StreamBody::new(endless));
            tokio::spawn(client.send(Request::post("http://web/").body(body).unwrap()))
        })
        .collect();
    for one in held {
        assert_eq!(within(one).await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(echo.connections.load(Relaxed), 2);
}

#[tokio::test]
async fn u11_a_refused_stream_is_tried_again_whatever_the_method() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http2).await;
    let client = Client::http2(ring.addr).await;
    let answered = tokio::spawn(client.send(request("")));
    let mut server = accepted(&endpoint).await;
    let asked = headers(&mut server).await;
    server.send(RST_STREAM, 0, asked.stream, &7_u32.to_be_bytes()).await;
    let mut other = accepted(&endpoint).await;
    let again = headers(&mut other).await;
    answer(&mut other, again.stream).await;
    assert_eq!(answered.await.unwrap().unwrap().status(), 200);
    let record = ring.record().await;
    assert_eq!((record.attempts, record.reason), (2, None));
}

#[tokio::test]
async fn u11_what_goaway_leaves_out_is_tried_again_and_what_it_names_is_answered() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http2).await;
    let client = Client::http2(ring.addr).await;
    let kept = tokio::spawn(client.send(request("")));
    let mut server = accepted(&endpoint).await;
    let first = headers(&mut server).await;
    let left_out = tokio::spawn(client.send(request("")));
    headers(&mut server).await;
    server.send(GOAWAY, 0, 0, &[first.stream.to_be_bytes(), [0; 4]].concat()).await;
    let mut other = accepted(&endpoint).await;
    let again = headers(&mut other).await;
    answer(&mut other, again.stream).await;
    assert_eq!(left_out.await.unwrap().unwrap().status(), 200);
    answer(&mut server, first.stream).await;
    assert_eq!(kept.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_stream_that_the_endpoint_resets_otherwise_is_a_502_and_not_tried_again() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http2).await;
    let client = Client::http2(ring.addr).await;
    let answered = tokio::spawn(client.send(request("")));
    let mut server = accepted(&endpoint).await;
    let asked = headers(&mut server).await;
    server.send(RST_STREAM, 0, asked.stream, &2_u32.to_be_bytes()).await;
    assert_eq!(answered.await.unwrap().unwrap().status(), 502);
    let record = ring.record().await;
    assert_eq!((record.attempts, record.reason), (1, Some(Reason::UpstreamReset)));
}

#[tokio::test]
async fn u4_an_answer_that_is_reset_without_an_error_is_not_taken_for_a_whole_one() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http2).await;
    let client = Client::http2(ring.addr).await;
    let answered = tokio::spawn(client.send(request("")));
    let mut server = accepted(&endpoint).await;
    let asked = headers(&mut server).await;
    server.send(HEADERS, raw::END_HEADERS, asked.stream, &[0x88]).await;
    server.send(raw::DATA, 0, asked.stream, b"half").await;
    let answer = answered.await.unwrap().unwrap();
    server.send(RST_STREAM, 0, asked.stream, &0_u32.to_be_bytes()).await;
    assert!(within(answer.into_body().collect()).await.is_err());
    assert_eq!(ring.record().await.reason, Some(Reason::UpstreamReset));
}

#[tokio::test]
async fn an_endpoint_that_does_not_speak_http2_is_a_502() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http2).await;
    let client = Client::http2(ring.addr).await;
    let answered = tokio::spawn(client.send(request("")));
    let mut server = endpoint.accept().await;
    server.exactly(raw::PREFACE.len()).await;
    server.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(answered.await.unwrap().unwrap().status(), 502);
    assert_eq!(ring.record().await.reason, Some(Reason::UpstreamProtocol));
}

#[tokio::test]
async fn a_request_that_its_client_cancels_is_reset_at_the_endpoint() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http2).await;
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let client = Client::connect(speaks, ring.addr).await;
        let cancelled = tokio::spawn(client.send(request("")));
        let mut server = accepted(&endpoint).await;
        let asked = headers(&mut server).await;
        cancelled.abort();
        drop(client);
        let reset = server.until(|came| came.kind == RST_STREAM).await.unwrap();
        assert_eq!((reset.stream, reset.code()), (asked.stream, 8), "{speaks:?}");
        server.0.send(frame(GOAWAY, 0, 0, &[[0, 0, 0, 1], [0; 4]].concat())).await;
        drop(server);
        eventually(|| async { ring.relay.pool.trunks.count() == 0 }).await;
    }
}

#[tokio::test]
async fn an_idle_connection_to_an_endpoint_is_closed() {
    let echo = Echo::start(Speaks::Http2).await;
    let setup = Setup { cluster: http2, ..Setup::new(&[echo.addr]) };
    let ring = setup.timeouts(|timeouts| timeouts.upstream_idle = Some(SHORT)).start().await;
    let mut client = Client::http2(ring.addr).await;
    client.exchange(request("x")).await;
    eventually(|| async { ring.relay.pool.trunks.count() == 0 }).await;
    client.exchange(request("x")).await;
    assert_eq!(echo.connections.load(Relaxed), 2);
}

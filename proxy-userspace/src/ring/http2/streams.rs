//! Many requests on one connection, and how they and it come to their ends.

use super::{
    peer::Payload,
    raw::{self, GOAWAY, HEADERS, PING, RST_STREAM, Raw, frame},
    *,
};
use tokio::sync::mpsc;

#[tokio::test]
async fn requests_of_one_connection_do_not_wait_for_each_other() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    let client = Client::http2(ring.addr).await;
    let slow = tokio::spawn(client.send(request("")));
    let mut first = endpoint.accept().await;
    first.head().await;
    let quick = tokio::spawn(client.send(request("")));
    let mut second = endpoint.accept().await;
    second.head().await;
    second.send(OK).await;
    assert_eq!(&*collected(quick.await.unwrap().unwrap()).await.bytes, b"ok");
    first.send(OK.replace("ok", "no")).await;
    assert_eq!(&*collected(slow.await.unwrap().unwrap()).await.bytes, b"no");
}

#[tokio::test]
async fn a_stream_that_its_client_resets_cancels_its_request_upstream_and_no_other() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    let client = Client::http2(ring.addr).await;
    let kept = tokio::spawn(client.send(request("")));
    let mut other = endpoint.accept().await;
    other.head().await;
    let cancelled = tokio::spawn(client.send(request("")));
    let mut server = endpoint.accept().await;
    server.head().await;
    cancelled.abort();
    server.all().await;
    assert_eq!(ring.record().await.reason, Some(Reason::DownstreamReset));
    other.send(OK).await;
    assert_eq!(kept.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn both_bodies_flow_at_once() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let echo = Echo::start(speaks).await;
        let ring = ring_to(echo.addr, if speaks == Speaks::Http1 { http1 } else { http2 }).await;
        let (more, pieces) = mpsc::channel::<Bytes>(1);
        let stream = futures_util::stream::unfold(pieces, |mut pieces| async {
            pieces.recv().await.map(|piece| (Ok(http_body::Frame::data(piece)), pieces))
        });
        let body: Payload =
            http_body_util::BodyExt::boxed(SyncStream(parking_lot::Mutex::new(Box::pin(stream))));
        let asked = Request::post("http://web/").body(body).unwrap();
        let answer = tokio::spawn(Client::http2(ring.addr).await.send(asked));
        more.send("one".into()).await.unwrap();
        let mut answer = within(answer).await.unwrap().unwrap().into_body();
        assert_eq!(within(answer.frame()).await.unwrap().unwrap().into_data().unwrap(), "one");
        more.send("two".into()).await.unwrap();
        assert_eq!(within(answer.frame()).await.unwrap().unwrap().into_data().unwrap(), "two");
        drop(more);
        assert!(
            within(answer.frame()).await.is_none_or(|last| last.unwrap().into_data().unwrap().is_empty())
        );
        assert_eq!(ring.record().await.reason, None, "{speaks:?}");
    }
}

/// hyper wants bodies to be `Sync`, which the stream's future is not.
struct SyncStream<S>(parking_lot::Mutex<std::pin::Pin<Box<S>>>);

impl<S> http_body::Body for SyncStream<S>
where
    S: futures_util::Stream<Item = Result<http_body::Frame<Bytes>, std::convert::Infallible>>,
{
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.0.lock().as_mut().poll_next(cx)
    }
}

#[tokio::test]
async fn a_late_answer_is_a_504_and_its_neighbours_go_on() {
    let endpoint = Endpoint::new().await;
    let setup = Setup { cluster: http1, ..Setup::new(&[endpoint.addr]) };
    let ring = setup.timeouts(|timeouts| timeouts.response_head = Some(SHORT)).start().await;
    let mut client = Client::http2(ring.addr).await;
    assert_eq!(client.exchange(request("")).await.status, 504);
    assert_eq!(ring.record().await.reason, Some(Reason::ResponseHeadTimeout));
    let again = tokio::spawn(client.send(request("")));
    let _late = endpoint.accept().await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK).await;
    assert_eq!(again.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn s20_a_body_that_stops_is_a_408_whatever_the_endpoint_speaks() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let endpoint = Endpoint::new().await;
        let cluster = if speaks == Speaks::Http1 { http1 } else { http2 };
        let setup = Setup { cluster, ..Setup::new(&[endpoint.addr]) };
        let ring = setup.timeouts(|timeouts| timeouts.request_body_idle = Some(SHORT)).start().await;
        let mut raw = Raw::open(&ring).await;
        raw.send(HEADERS, raw::END_HEADERS, 1, &raw::asked("POST", &[("content-length", b"10")])).await;
        raw.send(raw::DATA, 0, 1, b"abc").await;
        if speaks == Speaks::Http1 {
            // Cut off: what came of the body is not taken for the whole.
            let cut = endpoint.accept().await.all().await;
            assert!(cut.contains("content-length: 10") && cut.ends_with("abc"), "{cut}");
        } else {
            let mut server = upstream::accepted(&endpoint).await;
            let asked = upstream::headers(&mut server).await;
            let reset = server.until(|came| came.kind == RST_STREAM).await.unwrap();
            assert_eq!(reset.stream, asked.stream);
        }
        raw.until(|came| came.kind == HEADERS && came.stream == 1).await.unwrap();
        let record = ring.record().await;
        assert_eq!((record.reason, record.status), (Some(Reason::RequestBodyIdle), 408), "{speaks:?}");
    }
}

#[tokio::test]
async fn u4_an_answer_that_breaks_off_is_reset() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    let client = Client::http2(ring.addr).await;
    let answer = tokio::spawn(client.send(request("")));
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").await;
    let answer = within(answer).await.unwrap().unwrap();
    drop(server);
    let broken = within(answer.into_body().collect()).await;
    assert!(broken.is_err());
    assert_eq!(ring.record().await.reason, Some(Reason::UpstreamReset));
}

#[tokio::test]
async fn while_the_agent_leaves_what_is_in_flight_is_answered_and_the_connection_ends() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    let client = Client::http2(ring.addr).await;
    let answer = tokio::spawn(client.send(request("")));
    let mut server = endpoint.accept().await;
    server.head().await;
    ring.relay.drain.leave();
    tokio::time::sleep(SHORT).await;
    server.send(OK).await;
    assert_eq!(&*collected(answer.await.unwrap().unwrap()).await.bytes, b"ok");
    within(ring.relay.drain.empty()).await;
}

#[tokio::test]
async fn goaway_comes_in_two_steps() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    let mut raw = Raw::open(&ring).await;
    raw.send(HEADERS, raw::END_HEADERS | raw::END_STREAM, 1, &raw::get(&[])).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    ring.relay.drain.leave();
    let first = raw.until(|came| came.kind == GOAWAY).await.unwrap();
    assert_eq!((first.payload[..4].to_vec(), first.code()), (vec![0x7f, 0xff, 0xff, 0xff], 0));
    // What was sent before the client knew is still taken.
    raw.send(HEADERS, raw::END_HEADERS | raw::END_STREAM, 3, &raw::get(&[])).await;
    let ping = raw.until(|came| came.kind == PING && came.flags == 0).await.unwrap();
    raw.send(PING, raw::ACK, 0, &ping.payload).await;
    let second = raw.until(|came| came.kind == GOAWAY).await.unwrap();
    assert_eq!((second.payload[..4].to_vec(), second.code()), (vec![0, 0, 0, 3], 0));
    let mut other = endpoint.accept().await;
    other.head().await;
    server.send(OK).await;
    other.send(OK).await;
    within(ring.relay.drain.empty()).await;
}

#[tokio::test]
async fn an_abort_ends_every_stream_with_its_record() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    let client = Client::http2(ring.addr).await;
    let _answer = tokio::spawn(client.send(request("")));
    let mut server = endpoint.accept().await;
    server.head().await;
    ring.relay.drain.leave();
    ring.relay.drain.abort();
    within(ring.relay.drain.empty()).await;
    assert_eq!(ring.record().await.reason, Some(Reason::Draining));
}

#[tokio::test]
async fn d6_a_connection_without_streams_is_told_to_go_and_closed() {
    let endpoint = Endpoint::new().await;
    let setup = Setup { cluster: http1, ..Setup::new(&[endpoint.addr]) };
    let ring = setup.timeouts(|timeouts| timeouts.downstream_idle = Some(SHORT)).start().await;
    let mut raw = Raw::open(&ring).await;
    assert_eq!(raw.until(|came| came.kind == GOAWAY).await.unwrap().code(), 0);
    let ping = raw.until(|came| came.kind == PING).await.unwrap();
    raw.0.send(frame(PING, raw::ACK, 0, &ping.payload)).await;
    assert_eq!(raw.until(|_| false).await, None);
    within(ring.relay.drain.empty()).await;
}

#[tokio::test]
async fn d1_d2_a_client_that_says_nothing_or_part_of_the_preface_is_not_waited_for() {
    let endpoint = Endpoint::new().await;
    let setup = Setup { cluster: http1, ..Setup::new(&[endpoint.addr]) };
    let short = |timeouts: &mut Timeouts| {
        timeouts.request_head = Some(SHORT);
        timeouts.downstream_idle = Some(2 * SHORT);
    };
    let ring = setup.timeouts(short).start().await;
    for begin in ["", "PRI * HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n"] {
        let mut client = ring.client().await;
        client.send(begin).await;
        let answer = client.all().await;
        let told = ["HTTP/1.1 408 ", "HTTP/1.1 505 "].iter().any(|status| answer.starts_with(status));
        assert!(answer.is_empty() || told, "{begin}: {answer}");
    }
    within(ring.relay.drain.empty()).await;
}

#[tokio::test]
async fn d6_half_a_frame_and_settings_that_nobody_acknowledges_end_a_connection() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    let mut half = Raw::open(&ring).await;
    half.0.send(&frame(PING, 0, 0, &[0; 8])[..12]).await;
    let mut silent = ring.client().await;
    silent.send([raw::PREFACE, &frame(raw::SETTINGS, 0, 0, &[])].concat()).await;
    let mut silent = Raw(silent);
    // Both take ten seconds, side by side.
    let patient = Duration::from_secs(30);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let reads = async { tokio::join!(half.0.0.read_to_end(&mut first), silent.0.0.read_to_end(&mut second)) };
    let _ends = tokio::time::timeout(patient, reads).await.unwrap();
    assert!(
        first.ends_with(&1_u32.to_be_bytes()) && second.ends_with(&4_u32.to_be_bytes()),
        "{first:?} {second:?}"
    );
    within(ring.relay.drain.empty()).await;
}

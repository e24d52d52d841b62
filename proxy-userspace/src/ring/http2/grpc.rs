//! Calls by gRPC: their statuses, their deadlines, their failures.

use super::{
    raw::{self, HEADERS},
    upstream::{accepted, headers},
    *,
};

fn call(timeout: Option<&'static str>) -> Request<peer::Payload> {
    let asked = Request::post("http://web/demo.Echo/Say").header("content-type", "application/grpc+proto");
    let asked = asked.header("te", "trailers");
    let asked = timeout.into_iter().fold(asked, |asked, timeout| asked.header("grpc-timeout", timeout));
    asked.body(body(&[b"\0\0\0\0\x01a"], None)).unwrap()
}

#[tokio::test]
async fn the_status_in_the_trailers_is_passed_on_and_recorded() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, |_| {}).await;
    let answer = tokio::spawn(Client::http2(ring.addr).await.send(call(None)));
    let mut server = accepted(&endpoint).await;
    let asked = headers(&mut server).await;
    let head = raw::block(&[(":status", b"200"), ("content-type", b"application/grpc+proto")]);
    server.send(HEADERS, raw::END_HEADERS, asked.stream, &head).await;
    server.send(raw::DATA, 0, asked.stream, b"\0\0\0\0\x01b").await;
    let trailers = raw::block(&[("grpc-status", b"5"), ("grpc-message", b"gone"), ("x-detail-bin", b"AAE")]);
    server.send(HEADERS, raw::END_HEADERS | raw::END_STREAM, asked.stream, &trailers).await;
    let answer = collected(answer.await.unwrap().unwrap()).await;
    let trailers = answer.trailers.unwrap();
    assert_eq!(trailers.get("grpc-status").unwrap(), "5");
    assert_eq!(trailers.get("x-detail-bin").unwrap(), "AAE");
    assert_eq!(&*answer.bytes, b"\0\0\0\0\x01b");
    let record = ring.record().await;
    assert_eq!(record.grpc_status.map(crate::grpc::Status::label), Some("5"));
    assert_eq!((record.status, record.reason), (200, None));
}

#[tokio::test]
async fn a_failure_of_ours_is_told_in_an_answer_of_trailers_alone() {
    let ring = Setup { cluster: http2, ..Setup::new(&[Endpoint::absent().await]) }.start().await;
    let answer = Client::http2(ring.addr).await.exchange(call(None)).await;
    assert_eq!((answer.status, answer.bytes.len()), (StatusCode::OK, 0));
    assert_eq!(answer.fields.get("grpc-status").unwrap(), "14");
    assert_eq!(answer.fields.get("content-type").unwrap(), "application/grpc");
    assert_eq!(answer.fields.get("grpc-message").unwrap(), "upstream connect failed: default/web:8080");
    let record = ring.record().await;
    assert_eq!((record.status, record.reason), (200, Some(Reason::ConnectFailed)));
    assert!(record.is_own_answer());
}

#[tokio::test]
async fn the_callers_deadline_counts_and_is_passed_on() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http2).await;
    let asked = tokio::spawn(Client::http2(ring.addr).await.send(call(Some("200m"))));
    let mut server = accepted(&endpoint).await;
    let call = headers(&mut server).await;
    let answer = within(asked).await.unwrap().unwrap();
    assert_eq!(answer.headers().get("grpc-status").unwrap(), "4");
    let reset = server.until(|came| came.kind == raw::RST_STREAM).await.unwrap();
    assert_eq!(reset.stream, call.stream);
    assert_eq!(ring.record().await.reason, Some(Reason::RequestTimeout));
}

#[tokio::test]
async fn a_call_without_a_deadline_is_not_late_by_a_services_timeout() {
    let endpoint = Endpoint::new().await;
    let setup = Setup { cluster: http2, ..Setup::new(&[endpoint.addr]) };
    let short = |timeouts: &mut Timeouts| {
        timeouts.request = Some(SHORT);
        timeouts.response_head = Some(SHORT);
    };
    let ring = setup.timeouts(short).start().await;
    let asked = tokio::spawn(Client::http2(ring.addr).await.send(call(None)));
    let mut server = accepted(&endpoint).await;
    let call = headers(&mut server).await;
    tokio::time::sleep(3 * SHORT).await;
    let head = raw::block(&[(":status", b"200"), ("grpc-status", b"0")]);
    server.send(HEADERS, raw::END_HEADERS | raw::END_STREAM, call.stream, &head).await;
    assert_eq!(within(asked).await.unwrap().unwrap().status(), 200);
    assert_eq!(ring.record().await.grpc_status.map(crate::grpc::Status::label), Some("0"));
}

#[tokio::test]
async fn a_caller_may_wait_with_its_next_message_for_as_long_as_the_endpoint_may() {
    let endpoint = Endpoint::new().await;
    let setup = Setup { cluster: http2, ..Setup::new(&[endpoint.addr]) };
    let ring = setup.timeouts(|timeouts| timeouts.request_body_idle = Some(SHORT)).start().await;
    let mut raw = raw::Raw::open(&ring).await;
    let fields: [(&str, &[u8]); 2] = [("content-type", b"application/grpc"), ("te", b"trailers")];
    raw.send(HEADERS, raw::END_HEADERS, 1, &raw::asked("POST", &fields)).await;
    raw.send(raw::DATA, 0, 1, b"\0\0\0\0\x01a").await;
    let mut server = accepted(&endpoint).await;
    let call = headers(&mut server).await;
    server.until(|came| came.kind == raw::DATA).await.unwrap();
    tokio::time::sleep(3 * SHORT).await;
    raw.send(raw::DATA, raw::END_STREAM, 1, b"\0\0\0\0\x01b").await;
    server.until(|came| came.flags & raw::END_STREAM != 0).await.unwrap();
    let head = raw::block(&[(":status", b"200"), ("grpc-status", b"0")]);
    server.send(HEADERS, raw::END_HEADERS | raw::END_STREAM, call.stream, &head).await;
    raw.until(|came| came.kind == HEADERS).await.unwrap();
    assert_eq!(ring.record().await.reason, None);
}

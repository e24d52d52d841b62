//! HTTP/2 on either side: what passes, what is refused, and what a client may not make the agent do.

mod floods;
mod grpc;
pub(super) mod peer;
pub(super) mod raw;
mod streams;
mod upstream;

use super::*;
use crate::flow::Reason;
use ::http::{self, HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use peer::{Client, Echo, Sent, Speaks, body, collected, request};

/// The cluster's endpoints speak HTTP/1.
pub(super) fn http1(cluster: &mut Cluster) {
    cluster.protocol = crate::snapshot::Protocol::Http1;
}

/// The cluster's endpoints speak HTTP/2.
pub(super) fn http2(cluster: &mut Cluster) {
    cluster.protocol = crate::snapshot::Protocol::Http2;
}

async fn ring_to(addr: std::net::SocketAddr, cluster: fn(&mut Cluster)) -> Ring {
    Setup { cluster, ..Setup::new(&[addr]) }.start().await
}

#[tokio::test]
async fn a_request_by_http2_reaches_an_http1_endpoint_as_one_of_its_own() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    let client = Client::http2(ring.addr).await;
    let asked = Request::put("http://web:80/a%20b?c=d;e")
        .header("cookie", "a=1")
        .header("x-b", "1")
        .header("cookie", "b=2")
        .header("x-b", "2")
        .header("te", "trailers")
        .body(body(&[b"abc"], None))
        .unwrap();
    let answer = tokio::spawn(client.send(asked));
    let mut server = endpoint.accept().await;
    let head = server.head().await;
    assert_eq!(
        head,
        "PUT /a%20b?c=d;e HTTP/1.1\r\nhost: web:80\r\ncookie: a=1; b=2\r\nx-b: 1\r\nx-b: 2\r\n\
         transfer-encoding: chunked\r\nte: trailers\r\nconnection: TE\r\n\r\n"
    );
    assert_eq!(server.until("0\r\n\r\n").await, "3\r\nabc\r\n0\r\n\r\n");
    server.send("HTTP/1.1 299 Odd\r\nX-A: 1\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok").await;
    let answer = collected(answer.await.unwrap().unwrap()).await;
    assert_eq!((answer.status, &*answer.bytes), (StatusCode::from_u16(299).unwrap(), &b"ok"[..]));
    assert_eq!(answer.fields.len(), 2, "{:?}", answer.fields);
    let record = ring.record().await;
    assert_eq!((record.protocol, record.status, record.reason), ("HTTP/2", 299, None));
    assert_eq!(
        (record.authority.as_deref(), record.bytes_received, record.bytes_sent),
        (Some("web:80"), 3, 2)
    );
}

#[tokio::test]
async fn bodies_and_trailers_are_the_same_whatever_either_side_speaks() {
    for endpoint in [Speaks::Http1, Speaks::Http2] {
        let echo = Echo::start(endpoint).await;
        let ring = ring_to(echo.addr, if endpoint == Speaks::Http1 { http1 } else { http2 }).await;
        for client in [Speaks::Http1, Speaks::Http2] {
            for size in [0, 1, 9, 65_535, 65_536, 3 << 20] {
                for length in [true, false] {
                    let sent = Sent::of(size, length);
                    let mut connection = Client::connect(client, ring.addr).await;
                    let answer = within(connection.exchange(sent.request())).await;
                    let context = format!("{client:?} to {endpoint:?}, {size} bytes, length {length}");
                    assert_eq!(answer.status, 200, "{context}");
                    assert!(answer.bytes == sent.bytes, "{context}: {} bytes came back", answer.bytes.len());
                    assert_eq!(answer.fields.get("x-method").unwrap(), "POST", "{context}");
                    let trailers = answer.trailers.unwrap_or_default();
                    // A length leaves no room for trailers in HTTP/1.
                    let expected = (!length).then_some("nonce-7");
                    let got = trailers.get("x-nonce").map(|value| value.to_str().unwrap());
                    assert_eq!(got, expected, "{context}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_get_with_a_body_keeps_it_on_the_way_down() {
    let echo = Echo::start(Speaks::Http1).await;
    let ring = ring_to(echo.addr, http1).await;
    let asked = Request::get("http://web/").body(body(&[b"a", b"bc"], None)).unwrap();
    let answer = within(Client::http2(ring.addr).await.exchange(asked)).await;
    assert_eq!(&*answer.bytes, b"abc");
}

#[tokio::test]
async fn answers_without_a_body_stay_without_one() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    let mut client = Client::http2(ring.addr).await;
    for (method, head, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Some("5")),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", Some("7")),
    ] {
        let asked = Request::builder().method(method).uri("http://web/").body(body(&[], None)).unwrap();
        let serve = async {
            let mut server = endpoint.accept().await;
            server.head().await;
            server.send(head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
            server
        };
        let (answer, _server) = tokio::join!(client.exchange(asked), serve);
        assert_eq!(answer.bytes.len(), 0);
        assert_eq!(answer.fields.get("content-length").map(|value| value.to_str().unwrap()), length);
    }
}

#[tokio::test]
async fn h1_to_h12_a_request_with_two_readings_reaches_no_endpoint() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(endpoint.addr, http1).await;
    let mut client = Client::http2(ring.addr).await;
    let get = || Request::get("http://web/a");
    let asked = [
        get().header("host", "other"),
        get().header("host", "web").header("host", "web"),
        Request::get("http://u:p@web/"),
        Request::get("https://web/"),
        get().header("http2-settings", "AAMAAABk"),
        Request::builder().method("get").uri("http://web/"),
        get().header("x", " a"),
        get().header("content-length", "0").header("content-length", "0"),
    ];
    for asked in asked {
        let answer = client.exchange(asked.body(body(&[], None)).unwrap()).await;
        assert!(matches!(answer.status.as_u16(), 400 | 501), "{answer:?}");
    }
    assert!(ring.bad_requests("authority") && ring.bad_requests("field_value"));
    let records = ring.records(8).await;
    assert!(records.iter().all(|one| one.reason == Some(Reason::BadRequest) && one.error.is_some()));
    endpoint.stays_alone().await;
}

#[tokio::test]
async fn a_detected_service_speaks_http2_with_those_that_do() {
    let echo = Echo::start(Speaks::Http2).await;
    let ring = ring_to(echo.addr, |_| {}).await;
    let answer = Client::http2(ring.addr).await.exchange(request("a")).await;
    assert_eq!(answer.fields.get("x-version").unwrap(), "HTTP/2.0");
}

#[tokio::test]
async fn local_answers_come_by_http2_too() {
    let ring = Setup { cluster: http1, ..Setup::new(&[Endpoint::absent().await]) }.start().await;
    let answer = Client::http2(ring.addr).await.exchange(request("")).await;
    assert_eq!(answer.status, 503);
    assert!(answer.bytes.ends_with(b"default/web:8080\n"), "{:?}", answer.bytes);
    assert!(!answer.fields.contains_key("connection"));
}

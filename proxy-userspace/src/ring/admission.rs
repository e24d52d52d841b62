//! What is not admitted, on whole connections: what the client is told, and what reaches no endpoint.

use super::*;
use crate::{flow::Reason, route::choices::HeadLimits};

const HEAD_MAX: usize = HeadLimits::STRICT.bytes;

fn get(fields: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: web\r\n{fields}\r\n")
}

fn chunked(body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

/// Answers every request of every connection; what it was asked, head by head.
fn answering(endpoint: Endpoint) -> Arc<parking_lot::Mutex<Vec<String>>> {
    let asked = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heads = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut peer, heads) = (endpoint.accept().await, Arc::clone(&heads));
            tokio::spawn(async move {
                loop {
                    let head = peer.head().await;
                    heads.lock().push(head);
                    peer.send(OK).await;
                }
            });
        }
    });
    asked
}

#[tokio::test]
async fn s31_of_good_bad_good_the_first_is_answered_the_second_refused_and_the_third_never_read() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let asked = answering(endpoint);
    let bad = "GET /b HTTP/1.1\r\nHost: web\r\nContent-Length: +3\r\n\r\n";
    let all = [GET, bad, &GET.replace("/a", "/third")].concat();
    for cut in [all.len(), GET.len(), GET.len() + 5, all.len() - 3, 1] {
        let mut client = ring.client().await;
        for piece in all.as_bytes().chunks(cut) {
            client.send(piece).await;
        }
        let answers = client.all().await;
        let (first, second) = answers.split_once("ok").unwrap_or_else(|| panic!("{answers}"));
        assert!(first.starts_with("HTTP/1.1 200 "), "{answers}");
        assert!(second.starts_with("HTTP/1.1 400 ") && second.contains("connection: close"), "{answers}");
        assert_eq!(second.matches("HTTP/1.1").count(), 1, "{answers}");
    }
    let records = ring.records(10).await;
    let refused: Vec<_> = records.iter().filter(|record| record.status == 400).collect();
    assert_eq!((records.len(), refused.len()), (10, 5));
    for record in refused {
        assert_eq!(record.reason, Some(Reason::BadRequest));
        assert!(record.error.as_deref().unwrap().starts_with("content_length: "), "{record:?}");
    }
    assert!(asked.lock().iter().all(|head| head.starts_with("GET /a ")));
    assert!(ring.bad_requests("content_length"));
}

#[tokio::test]
async fn s15_s17_s18_a_bad_chunk_is_answered_400_and_the_endpoint_sees_a_broken_body() {
    for bad in
        ["0x3\r\nabc\r\n0\r\n\r\n", "3\nabc\r\n0\r\n\r\n", "3\r\nabcXX", "3;\nxx\r\n", "0\r\nX\r\n\r\n"]
    {
        let endpoint = Endpoint::new().await;
        let ring = Ring::to(&endpoint).await;
        let mut client = ring.client().await;
        client.send(chunked("2\r\nab\r\n")).await;
        let mut server = endpoint.accept().await;
        server.until("2\r\nab\r\n").await;
        client.send(bad).await;
        let answer = client.all().await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("connection: close"),
            "{bad:?}: {answer}"
        );
        let rest = server.all().await;
        assert!(!rest.contains("0\r\n\r\n"), "{bad:?}: a short success: {rest:?}");
        let record = ring.record().await;
        assert_eq!((record.status, record.reason), (400, Some(Reason::BadRequest)), "{bad:?}");
        assert!(ring.bad_requests(if bad.starts_with('0') && !bad.starts_with("0x") {
            "trailer"
        } else {
            "chunk"
        }));
    }
}

#[tokio::test]
async fn s13_s14_an_endpoint_that_answers_without_reading_is_not_used_again() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send("POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 100\r\n\r\nabc").await;
    let mut first = endpoint.accept().await;
    first.head().await;
    first.send(OK).await;
    client.until("ok").await;
    let mut other = ring.client().await;
    other.send(GET).await;
    // A connection of its own: the first still waits for a body.
    let mut second = endpoint.accept().await;
    assert_eq!(second.head().await, GET);
    second.send(OK).await;
    other.until("ok").await;
}

#[tokio::test]
async fn s19_trailers_end_here() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(chunked("3\r\nabc\r\n0\r\nContent-Length: 5\r\nHost: evil\r\n\r\n")).await;
    let mut server = endpoint.accept().await;
    assert!(server.until("0\r\n\r\n").await.ends_with("3\r\nabc\r\n0\r\n\r\n"));
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n").await;
    assert!(client.until("0\r\n\r\n").await.ends_with("2\r\nok\r\n0\r\n\r\n"));
}

#[tokio::test]
async fn s20_a_body_that_ends_too_early_is_never_a_complete_one() {
    for request in [
        "POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nabc".to_owned(),
        chunked("a\r\nabc"),
        chunked("3\r\nabc\r\n"),
    ] {
        let endpoint = Endpoint::new().await;
        let ring = Ring::to(&endpoint).await;
        let mut client = ring.client().await;
        client.send(&request).await;
        let mut server = endpoint.accept().await;
        server.until("abc").await;
        client.0.shutdown().await.unwrap();
        let rest = server.all().await;
        assert!(!rest.contains("0\r\n\r\n"), "{rest:?}");
        assert_eq!(ring.record().await.reason, Some(Reason::DownstreamReset), "{request}");
    }
}

#[tokio::test]
async fn s22_what_stands_behind_an_upgrade_to_http_2_is_a_request_of_its_own() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let asked = answering(endpoint);
    for upgrade in [
        "Upgrade: websocket\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n",
        "Upgrade: h2c\r\nHTTP2-Settings: AAMA\r\n",
    ] {
        asked.lock().clear();
        let mut client = ring.client().await;
        client.send(get(upgrade) + &GET.replace("/a", "/admin")).await;
        client.until("ok").await;
        client.until("ok").await;
        let asked = asked.lock();
        assert_eq!(asked.len(), 2);
        assert!(asked[1].starts_with("GET /admin "), "{asked:?}");
        assert!(!asked[0].to_lowercase().contains("upgrade"), "{asked:?}");
        assert!(!asked[0].to_lowercase().contains("http2-settings"), "{asked:?}");
    }
}

#[tokio::test]
async fn s24_an_empty_body_of_http_10_ends_the_connection() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let asked = answering(endpoint);
    let mut client = ring.client().await;
    client.send(format!("POST /a HTTP/1.0\r\nHost: web\r\n\r\n{GET}")).await;
    let answer = client.all().await;
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "{answer}");
    assert_eq!(asked.lock().len(), 1);
    assert!(asked.lock()[0].starts_with("POST /a HTTP/1.1\r\n"));
}

#[tokio::test]
async fn s25_a_client_that_waits_is_told_to_go_on_when_there_is_an_endpoint_and_not_before() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send("POST /a HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc").await;
    let mut server = endpoint.accept().await;
    assert!(!server.until("abc").await.to_lowercase().contains("expect"));
    server.send(OK).await;
    client.until("ok").await;
    let nowhere = Setup::new(&[]).start().await;
    let mut client = nowhere.client().await;
    client.send("POST /a HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn every_refusal_has_its_status_and_a_record_and_reaches_no_endpoint() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let long = "a".repeat(9000);
    for (request, status, reason) in [
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned(), 405, "connect"),
        (format!("GET /{long} HTTP/1.1\r\nHost: web\r\n\r\n"), 414, "target_length"),
        (get("Expect: 200-ok\r\n"), 417, "expect"),
        (get(&"X: y\r\n".repeat(101)), 431, "field_count"),
        (get(&format!("X: {long}\r\n").repeat(8)), 431, "head_length"),
        ("get / HTTP/1.1\r\nHost: web\r\n\r\n".to_owned(), 501, "method"),
        ("GET / HTTP/1.2\r\nHost: web\r\n\r\n".to_owned(), 505, "version"),
        ("GET / HTTP/1.1\nHost: web\n\n".to_owned(), 400, "line_end"),
        ("GET /a%2fb HTTP/1.1\r\nHost: web\r\n\r\n".to_owned(), 400, "path"),
    ] {
        let mut client = ring.client().await;
        // One that is HTTP first, so that nobody takes the second for another protocol.
        client.send(GET).await;
        let mut server = endpoint.accept().await;
        server.head().await;
        server.send(OK).await;
        client.until("ok").await;
        client.send(&request).await;
        let answer = client.all().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{reason}: {answer}");
        assert!(answer.contains("connection: close") && ring.bad_requests(reason), "{reason}: {answer}");
        server.quiet().await;
    }
    let records = ring.records(18).await;
    let refused: Vec<_> = records.iter().filter(|record| record.reason.is_some()).collect();
    assert_eq!((records.len(), refused.len()), (18, 9));
    assert!(refused.iter().all(|record| record.reason == Some(Reason::BadRequest) && record.attempts == 0));
}

#[tokio::test]
async fn p15_a_head_of_64_kib_passes_whole_however_it_is_cut() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let fields = |last: usize| {
        let mut all = vec![format!("X-Long: {}\r\n", "x".repeat(16_000)); 4];
        all.push(format!("X-Long: {}\r\n", "y".repeat(last)));
        get(&all.concat())
    };
    let head = fields(HEAD_MAX - fields(0).len());
    assert_eq!(head.len(), HEAD_MAX);
    let mut client = ring.client().await;
    let mut server = None;
    for size in [HEAD_MAX, 1000, 50_000] {
        for piece in head.as_bytes().chunks(size) {
            client.send(piece).await;
        }
        let server = match &mut server {
            Some(server) => server,
            none => none.insert(endpoint.accept().await),
        };
        assert_eq!(server.head().await, head);
        server.send(OK).await;
        client.until("ok").await;
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_within_a_head_is_answered_by_nobody_and_recorded() {
    let ring = Ring::to(&Endpoint::new().await).await;
    let mut client = ring.client().await;
    client.send("GET /a HTTP/1.1\r\nHo").await;
    client.0.shutdown().await.unwrap();
    assert_eq!(client.all().await, "");
    let record = ring.record().await;
    assert_eq!((record.status, record.reason), (0, Some(Reason::DownstreamReset)));
}

#[tokio::test]
async fn a_head_that_was_begun_behind_another_request_has_its_own_deadline() {
    let endpoint = Endpoint::new().await;
    let setup = Setup::new(&[endpoint.addr]).timeouts(|timeouts| timeouts.request_head = Some(SHORT));
    let ring = setup.start().await;
    let mut client = ring.client().await;
    client.send(format!("{GET}GET /b HT")).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK).await;
    client.until("ok").await;
    assert!(client.all().await.starts_with("HTTP/1.1 408 "));
    assert_eq!(ring.records(2).await[1].reason, Some(Reason::RequestHeadTimeout));
}

#[tokio::test]
async fn u5_an_answer_with_more_behind_it_is_the_connections_last() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    for answer in [OK.to_owned() + OK, OK.to_owned() + "x"] {
        client.send(GET).await;
        let mut server = endpoint.accept().await;
        server.head().await;
        server.send(answer).await;
        assert_eq!(client.until("ok").await, OK);
    }
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK.replace("ok", "no")).await;
    client.until("no").await;
}

#[tokio::test]
async fn u4_an_endpoint_that_goes_wrong_within_its_answer_is_cut_off() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    for (good, bad) in [
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "3\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "0\r\nbad trailer\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", ""),
        ("Content-Length: 10\r\n\r\nok", ""),
    ] {
        let mut client = ring.client().await;
        client.send(GET).await;
        let mut server = endpoint.accept().await;
        server.head().await;
        server.send(format!("HTTP/1.1 200 OK\r\n{good}")).await;
        client.until(if good.ends_with("ok") { "ok" } else { "ok\r\n" }).await;
        server.send(bad).await;
        drop(server);
        let rest = client.all().await;
        assert!(!rest.contains("0\r\n\r\n"), "a short success: {rest:?}");
    }
    let reasons: Vec<_> = ring.records(4).await.into_iter().map(|record| record.reason.unwrap()).collect();
    assert_eq!(reasons[..2], [Reason::UpstreamProtocol; 2]);
    assert_eq!(reasons[2..], [Reason::UpstreamReset; 2]);
}

#[tokio::test]
async fn u7_u8_u9_an_answer_that_is_not_admitted_is_a_502() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    for answer in [
        "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17),
        "HTTP/1.1 1000 Odd\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(150)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", format!("X: {}\r\n", "y".repeat(10_000)).repeat(50)),
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok".to_owned(),
    ] {
        let mut client = ring.client().await;
        client.send(GET).await;
        let mut server = endpoint.accept().await;
        server.head().await;
        server.send(&answer).await;
        let got = client.until("web:8080\n").await;
        assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
    }
    for record in ring.records(5).await {
        assert_eq!((record.reason, record.attempts), (Some(Reason::UpstreamProtocol), 1), "{record:?}");
    }
}

#[tokio::test]
async fn u6_an_answer_with_bare_line_feeds_becomes_one_with_cr_lf() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK.replace("\r\n", "\n")).await;
    assert_eq!(client.until("ok").await, OK);
}

#[tokio::test]
async fn u12_an_answer_before_the_requests_end_is_the_clients() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send("POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000\r\n\r\nabc").await;
    let mut server = endpoint.accept().await;
    server.until("abc").await;
    server.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
    drop(server);
    let answer = client.until("ok").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn d22_an_endpoint_that_answers_503_is_asked_once_a_request() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut peer, count) = (endpoint.accept().await, Arc::clone(&count));
            tokio::spawn(async move {
                loop {
                    peer.head().await;
                    count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    peer.send("HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno").await;
                }
            });
        }
    });
    let mut client = ring.client().await;
    for _ in 0..200 {
        client.send(GET).await;
        let answer = client.until("no").await;
        assert!(answer.starts_with("HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n"), "{answer}");
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 200);
}

#[tokio::test]
async fn d24_what_is_compressed_passes_as_it_is() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    let request = get("Accept-Encoding: gzip, br\r\n");
    client.send(&request).await;
    let mut server = endpoint.accept().await;
    assert_eq!(server.head().await, request);
    let squeezed: Vec<u8> = (0..=255).rev().collect();
    let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 256\r\n\r\n";
    server.send([head.as_bytes(), &squeezed].concat()).await;
    assert_eq!(client.answer(256).await, (head.to_owned(), squeezed));
}

#[tokio::test]
async fn p6_options_of_the_server_itself_is_answered_here() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send("OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204 "));
    endpoint.stays_alone().await;
}

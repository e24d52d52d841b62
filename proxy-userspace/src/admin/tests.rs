#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;
use crate::{flow::tests::record, metrics::Metrics, status::Status};
use std::{
    io::{Read, Write},
    net::TcpStream as StdStream,
};

fn pages() -> Pages {
    Pages { board: Arc::new(Board::new(Arc::new(Metrics::default()))), own_name: "node-1".to_owned() }
}

fn get(path: &str) -> Request<()> {
    Request::get(path).header(HOST, "127.0.0.1:15020").body(()).unwrap()
}

fn body_of(answer: Answer) -> String {
    use http_body_util::BodyExt;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let body = runtime.block_on(answer.into_body().collect()).unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

/// Sends `request` as it is and reads until the server closes.
fn exchange(addr: SocketAddr, request: &str) -> String {
    let mut stream = StdStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn readyz_says_503_and_why_until_ready_and_again_while_draining() {
    let pages = pages();
    let ask = || {
        let answer = pages.answer(&get("/readyz"));
        (answer.status().as_u16(), body_of(answer))
    };
    assert_eq!(ask(), (503, "not ready: the agent is starting\n".to_owned()));
    pages.board.starting("loading the kernel half");
    assert_eq!(ask(), (503, "not ready: loading the kernel half\n".to_owned()));
    pages.board.ready();
    assert_eq!(ask(), (200, "ok\n".to_owned()));
    pages.board.draining();
    assert_eq!(ask(), (503, "not ready: draining\n".to_owned()));
    assert_eq!(pages.answer(&get("/livez")).status(), 200, "and it lives all the time");
}

#[test]
fn c14_only_addresses_localhost_and_the_nodes_own_name_are_answered() {
    let pages = pages();
    let asked =
        |host: &str| pages.answer(&Request::get("/livez").header(HOST, host).body(()).unwrap()).status();
    for host in [
        "127.0.0.1",
        "10.1.2.3:15020",
        "[::1]:15020",
        "[fd00::1]",
        "localhost:80",
        "LOCALHOST",
        "node-1.",
        "Node-1:1",
    ] {
        assert_eq!(asked(host), 200, "{host}");
    }
    for host in
        ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:15020", "", "a b", "node-2"]
    {
        assert_eq!(asked(host), 421, "{host}");
    }
}

#[test]
fn c14_a_request_without_one_host_is_refused() {
    let pages = pages();
    let none = Request::get("/livez").body(()).unwrap();
    assert_eq!(pages.answer(&none).status(), 421);
    let two = Request::get("/livez").header(HOST, "127.0.0.1").header(HOST, "127.0.0.1").body(()).unwrap();
    assert_eq!(pages.answer(&two).status(), 421);
    let absolute = Request::get("http://evil.example/livez").header(HOST, "127.0.0.1").body(()).unwrap();
    assert_eq!(pages.answer(&absolute).status(), 421);
    let old = Request::get("/livez").version(Version::HTTP_10).body(()).unwrap();
    assert_eq!(pages.answer(&old).status(), 200);
}

#[test]
fn c14_other_paths_and_methods_are_refused() {
    let pages = pages();
    assert_eq!(pages.answer(&get("/")).status(), 404);
    assert_eq!(pages.answer(&get("/metrics/")).status(), 404);
    let post = Request::post("/metrics").header(HOST, "localhost").body(()).unwrap();
    let refusal = pages.answer(&post);
    assert_eq!(refusal.status(), 405);
    assert_eq!(refusal.headers()[ALLOW], "GET, HEAD");
}

#[test]
fn c14_no_page_changes_anything_whatever_it_is_asked() {
    let pages = pages();
    pages.board.ready();
    let state = || serde_json::to_string(&pages.board.status()).unwrap();
    let before: Status = serde_json::from_str(&state()).unwrap();
    let paths = ["/metrics", "/livez", "/readyz", "/status", "/route/explain", "/policy/explain"];
    for path in paths {
        for target in [path.to_owned(), format!("{path}?reload=1&log=trace&quit")] {
            for method in ["GET", "HEAD"] {
                let asked = Request::builder().method(method).uri(&target).header(HOST, "localhost");
                let status = pages.answer(&asked.body(()).unwrap()).status();
                assert_ne!(status, 405, "{method} {target}");
            }
            for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get"] {
                // As the page of another origin would, in whose browser this address is open.
                let asked = Request::builder().method(method).uri(&target).header(HOST, "127.0.0.1:15020");
                let asked = asked.header("origin", "http://evil.example").body(()).unwrap();
                let answer = pages.answer(&asked);
                assert_eq!(answer.status(), 405, "{method} {target}");
                assert!(!answer.headers().contains_key("access-control-allow-origin"));
            }
        }
    }
    let after: Status = serde_json::from_str(&state()).unwrap();
    assert_eq!(format!("{:?}", after.config), format!("{:?}", before.config));
    assert_eq!(pages.board.readiness(), Readiness::Ready);
}

#[test]
fn metrics_speak_the_format_that_the_scraper_names() {
    let pages = pages();
    let plain = pages.answer(&get("/metrics"));
    assert_eq!(plain.headers()[CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    assert!(!body_of(plain).contains("# EOF"));
    let mut request = get("/metrics");
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static(accept));
    let open = pages.answer(&request);
    assert_eq!(open.headers()[CONTENT_TYPE], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(body_of(open).ends_with("# EOF\n"));
}

#[test]
fn status_is_json_that_reads_back() {
    let pages = pages();
    pages.board.metrics().request(&record());
    let status: Status = serde_json::from_str(&body_of(pages.answer(&get("/status")))).unwrap();
    assert_eq!(status.lanes["relay"], 1);
    assert_eq!(status.kernel, None);
}

#[test]
fn the_listener_answers_over_tcp_and_stops() {
    let admin = Admin::start("127.0.0.1:0".parse().unwrap(), pages().board).unwrap();
    let addr = admin.addr();
    let answer = exchange(addr, "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    let head = exchange(addr, "HEAD /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(head.contains("content-length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(admin.stop());
    assert!(StdStream::connect(addr).is_err());
}

#[test]
fn a_taken_address_is_an_error_at_start() {
    let taken = StdListener::bind("127.0.0.1:0").unwrap();
    let error = Admin::start(taken.local_addr().unwrap(), pages().board).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn f25_a_large_head_is_refused_and_a_large_body_is_not_waited_for() {
    let admin = Admin::start("127.0.0.1:0".parse().unwrap(), pages().board).unwrap();
    let head = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES));
    assert!(exchange(admin.addr(), &head).starts_with("HTTP/1.1 431 "));
    let body = "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n\r\nfew";
    assert!(exchange(admin.addr(), body).starts_with("HTTP/1.1 405 "));
    assert!(admin.stop());
}

#[test]
fn f25_more_connections_than_slots_wait_their_turn() {
    let admin = Admin::start("127.0.0.1:0".parse().unwrap(), pages().board).unwrap();
    let idle: Vec<_> = (0..CONNECTIONS).map(|_| StdStream::connect(admin.addr()).unwrap()).collect();
    let addr = admin.addr();
    let late = thread::spawn(move || {
        exchange(addr, "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    });
    drop(idle);
    assert!(late.join().unwrap().starts_with("HTTP/1.1 200 "));
    assert!(admin.stop());
}

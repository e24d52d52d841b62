//! What routes of one Gateway choose for themselves, and a Service for its own address.

use super::{
    edge::{Edge, PLAIN, ring},
    http2::{
        peer::{Client, Echo, Speaks, body},
        raw::{self, HEADERS, Raw},
    },
    *,
};
use crate::{
    admission::Oddity,
    flow::Reason,
    metrics::Format,
    route::choices::{Choices, EscapedSlashes, HeadLimits},
};
use ::http::Request;

/// A second route, for paths below `/own`, with these choices.
fn own(choices: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: own, annotations: {{weir.dev/admission: '{choices}'}}}}\n\
         spec: {{parentRefs: [{{name: edge}}], rules: [{{matches: [{{path: {{value: /own}}}}], \
         backendRefs: [{{name: web, port: 80}}]}}]}}\n"
    )
}

/// A relay with both routes.
async fn with(choices: &str, endpoint: &Endpoint) -> Ring {
    let mut edge = Edge::new(&[endpoint.addr]);
    let snapshot = edge.with(PLAIN, &own(choices));
    assert!(!edge.findings().contains("weir.dev"), "{}", edge.findings());
    ring(snapshot, &[]).await
}

/// Answers every request of every connection; the heads.
fn answering(endpoint: Endpoint) -> Arc<parking_lot::Mutex<Vec<String>>> {
    let heads = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let asked = Arc::clone(&heads);
    tokio::spawn(async move {
        loop {
            let (mut peer, heads) = (endpoint.accept_any().await, Arc::clone(&heads));
            tokio::spawn(async move {
                while let Some(head) = peer.maybe_head().await {
                    heads.lock().push(head);
                    peer.send(OK).await;
                }
            });
        }
    });
    asked
}

/// The status of a request on a connection of its own.
async fn status(ring: &Ring, target: &str, fields: &str) -> u16 {
    let mut client = ring.client().await;
    client.send(format!("GET {target} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n{fields}\r\n")).await;
    let answer = client.all().await;
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("{target}: {answer:?}")).parse().unwrap()
}

fn counted(ring: &Ring, oddity: Oddity) -> u64 {
    let text = ring.relay.observer.metrics.text(Format::Prometheus).unwrap();
    let line = format!("weir_bad_requests_total{{reason=\"{}\"}} ", oddity.label());
    let found = text.lines().find_map(|one| one.strip_prefix(&line));
    found.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn p15_a_route_may_take_larger_heads_and_its_neighbour_takes_none_of_them() {
    let endpoint = Endpoint::new().await;
    let ring = with("head=512KiB,field=256KiB,fields=300", &endpoint).await;
    let asked = answering(endpoint);
    let long = |size: usize| format!("X: {}\r\n", "x".repeat(size));
    let cases = [
        (long(200_000), 200, Oddity::HeadLength),
        (long(15_000).repeat(30), 200, Oddity::HeadLength),
        ("X: y\r\n".repeat(290), 200, Oddity::FieldCount),
    ];
    for (fields, taken, oddity) in &cases {
        let before = counted(&ring, *oddity);
        assert_eq!(status(&ring, "/own", fields).await, *taken);
        assert_eq!(status(&ring, "/other", fields).await, 431);
        assert_eq!(counted(&ring, *oddity), before + 1);
    }
    // More than any route of the listener takes.
    for fields in [long(300_000), long(250_000).repeat(3), "X: y\r\n".repeat(301)] {
        assert_eq!(status(&ring, "/own", &fields).await, 431);
    }
    let heads = asked.lock().clone();
    assert_eq!(heads.len(), cases.len());
    for (head, (fields, ..)) in heads.iter().zip(&cases) {
        let (sent, got) = (fields.matches("X: ").count(), head.matches("X: ").count());
        assert!(head.starts_with("GET /own ") && sent == got && head.len() > fields.len(), "{got} of {sent}");
    }
    let refused = ring.records(9).await.into_iter().filter(|record| record.status == 431);
    for record in refused {
        assert_eq!((record.reason, record.attempts), (Some(Reason::BadRequest), 0), "{record:?}");
        assert!(
            record.error.as_deref().unwrap().starts_with("head_length: ")
                || record.error.unwrap().starts_with("field_count: ")
        );
    }
}

#[tokio::test]
async fn d10_p15_by_http2_too_a_route_may_take_larger_heads_and_its_neighbour_takes_none_of_them() {
    let echo = Echo::start(Speaks::Http1).await;
    let snapshot = Edge::new(&[echo.addr]).with(PLAIN, &own("head=256KiB,field=128KiB"));
    let ring = ring(snapshot, &[]).await;
    let mut client = Client::http2(ring.addr).await;
    let ask = |path: &str, size: usize| {
        let asked = Request::get(format!("http://web{path}")).header("x", "y".repeat(size));
        asked.body(body(&[], None)).unwrap()
    };
    for (path, size, status) in [
        ("/own", 100_000, 200),
        ("/own", 20_000, 200),
        ("/other", 15_000, 200),
        ("/other", 20_000, 431),
        ("/own", 140_000, 431),
        ("/own", 10, 200),
    ] {
        assert_eq!(within(client.exchange(ask(path, size))).await.status, status, "{path} {size}");
    }
    assert_eq!(counted(&ring, Oddity::HeadLength), 2);
    // What more than any route takes is refused while it is read, in as many frames as it comes.
    let mut raw = Raw::open(&ring).await;
    let block = raw::asked("GET", &[("x", &[b'y'; 300_000])]);
    let (first, rest) = block.split_at(16_000);
    raw.send(HEADERS, raw::END_STREAM, 1, first).await;
    let pieces: Vec<_> = rest.chunks(16_000).collect();
    for (n, piece) in pieces.iter().enumerate() {
        let flags = if n + 1 == pieces.len() { raw::END_HEADERS } else { 0 };
        raw.0.send(raw::frame(raw::CONTINUATION, flags, 1, piece)).await;
    }
    let came = raw.until(|came| came.kind == HEADERS || came.kind == raw::GOAWAY).await.unwrap();
    // 431 is no entry of the static table: a literal, or Huffman's code of it.
    let says = |text: &[u8]| came.payload.windows(text.len()).any(|part| part == text);
    assert!(came.kind == raw::GOAWAY || says(b"431") || says(&[0x69, 0x90, 0xff]), "{came:?}");
}

#[tokio::test]
async fn p10_s7_p7_what_a_route_chooses_is_for_its_own_requests_alone() {
    let endpoint = Endpoint::new().await;
    let ring =
        with("escaped-slashes=keep,underscores=keep,empty-segments=reject,non-utf8=reject", &endpoint).await;
    let asked = answering(endpoint);
    for (target, fields, expected) in [
        ("/own/a%2fb?x=%2f", "", 200),
        ("/other/a%2fb", "", 400),
        ("/own/..%2fother", "", 400),
        ("/own", "user_id: 7\r\n", 200),
        ("/other", "user_id: 7\r\n", 400),
        ("/own", "Content_Length: 7\r\n", 400),
        ("/own//a", "", 400),
        ("/other//a", "", 200),
        ("/own/%ff", "", 400),
    ] {
        assert_eq!(status(&ring, target, fields).await, expected, "{target} {fields}");
    }
    let lines: Vec<_> = asked.lock().iter().map(|head| head.lines().next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["GET /own/a%2Fb?x=%2f HTTP/1.1", "GET /own HTTP/1.1", "GET /other/a HTTP/1.1"]);
    assert!(asked.lock()[1].contains("\r\nuser_id: 7\r\n"));
    assert_eq!((counted(&ring, Oddity::Path), counted(&ring, Oddity::Underscore)), (4, 2));
    for record in ring.records(9).await.iter().filter(|record| record.status == 400) {
        assert_eq!((record.reason, record.attempts), (Some(Reason::BadRequest), 0), "{record:?}");
    }
}

#[tokio::test]
async fn p10_where_a_route_says_so_its_client_is_sent_to_the_path_with_plain_slashes() {
    let endpoint = Endpoint::new().await;
    let ring = with("escaped-slashes=redirect", &endpoint).await;
    let mut client = ring.client().await;
    for (target, location) in [
        ("/own/a%2Fb%2f?q=%2f", Some("/own/a/b/?q=%2f")),
        ("/own/a%2f%2fb", Some("/own/a/b")),
        ("/own%5Ca", None),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
        let head = client.head().await;
        match location {
            Some(location) => {
                assert!(head.starts_with("HTTP/1.1 307 "), "{head}");
                assert!(head.contains(&format!("location: {location}\r\n")), "{head}");
            }
            None => assert!(head.starts_with("HTTP/1.1 400 "), "{head}"),
        }
    }
    endpoint.stays_alone().await;
}

#[tokio::test]
async fn p12_bytes_that_are_no_text_pass_where_the_path_does_not_matter() {
    let endpoint = Endpoint::new().await;
    let annotated = own("non-utf8=keep")
        .replace("[{path: {value: /own}}]", "[{path: {value: /}}, {path: {value: /own}}]");
    let mut edge = Edge::new(&[endpoint.addr]);
    let snapshot = edge.with(PLAIN, &annotated.replace("rules:", "hostnames: [any.test], rules:"));
    let findings = edge.findings();
    assert!(findings.contains("non-utf8=keep does not hold for prefix /own"), "{findings}");
    let ring = ring(snapshot, &[]).await;
    let asked = answering(endpoint);
    for (host, target, expected) in [
        ("any.test", "/caf%e9", 200),
        ("any.test", "/own/caf%e9", 400),
        ("any.test", "/%c0%ae%c0%ae/x", 400),
        ("web", "/caf%e9", 400),
    ] {
        let mut client = ring.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        let answer = client.all().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{host} {target}: {answer}");
    }
    let heads = asked.lock();
    assert!(heads.len() == 1 && heads[0].starts_with("GET /caf%E9 HTTP/1.1\r\n"), "{heads:?}");
}

#[tokio::test]
async fn p10_p15_a_service_chooses_for_requests_to_its_own_address() {
    let endpoint = Endpoint::new().await;
    let setup = Setup {
        cluster: |cluster| {
            cluster.choices = Choices {
                head: HeadLimits { bytes: 256 << 10, field: 128 << 10, fields: 200 },
                escaped_slashes: EscapedSlashes::Keep,
                ..Choices::default()
            };
        },
        ..Setup::new(&[endpoint.addr])
    };
    let ring = setup.start().await;
    let asked = answering(endpoint);
    assert_eq!(status(&ring, "/a%2Fb", &format!("X: {}\r\n", "x".repeat(100_000))).await, 200);
    assert!(asked.lock()[0].starts_with("GET /a%2Fb HTTP/1.1\r\n"));
    // The next configuration is stricter: it holds for connections that are open, too.
    let mut client = ring.client().await;
    client.send(GET).await;
    client.until("ok").await;
    let mut snapshot = Snapshot::clone(&ring.relay.snapshot.load());
    let strict = Arc::new(Cluster { choices: Choices::default(), ..Cluster::clone(&snapshot.clusters[0]) });
    snapshot.by_frontend.insert("10.96.0.1:8080".parse().unwrap(), strict);
    ring.relay.snapshot.store(Arc::new(snapshot));
    client.send(GET.replace("/a ", "/a%2Fb ")).await;
    assert!(client.all().await.starts_with("HTTP/1.1 400 "));
    assert_eq!(asked.lock().len(), 2);
}

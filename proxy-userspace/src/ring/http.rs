//! What passes, what ends here, and what the client sees when something goes wrong.

use super::*;
use crate::flow::{LaneLabel, Reason};

#[tokio::test]
async fn a_request_and_its_answer_pass_byte_for_byte() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    let request = "PUT /a%20b?c=d;e HTTP/1.1\r\nHOST: web\r\nx-B: 1\r\nX-a: 2\r\nX-B: 3\r\n\
                   cOOkie: a=b\r\nContent-Length: 3\r\nx-Request-ID: r1\r\n\r\nabc";
    client.send(request).await;
    let mut server = endpoint.accept().await;
    // Fields of one name are sent together: their order among each other is what counts.
    let grouped = request.replace("X-a: 2\r\nX-B: 3\r\n", "X-B: 3\r\nX-a: 2\r\n");
    assert_eq!(server.until("abc").await, grouped);
    let answer = "HTTP/1.1 299 Odd Reason\r\nX-Server: a\r\nset-Cookie: 1\r\nSet-Cookie: 2\r\n\
                  content-Length: 2\r\nZ: z\r\n\r\n!!";
    server.send(answer).await;
    assert_eq!(client.until("!!").await, answer);
    let record = ring.record().await;
    assert_eq!((record.status, record.reason, record.attempts), (299, None, 1));
    assert_eq!((&*record.path, record.protocol, &*record.request_id), ("/a%20b?c=d;e", "HTTP/1.1", "r1"));
    assert_eq!((record.bytes_received, record.bytes_sent, record.lane), (3, 2, LaneLabel::Plain));
    assert_eq!(record.upstream_host, Some(endpoint.addr));
    assert_eq!(record.cluster.as_deref(), Some("default/web:8080"));
    assert_eq!(&*record.destination_workload, "default/web-0");
    assert!(record.request_duration.is_some() && record.upstream_duration.is_some());
}

#[tokio::test]
async fn hop_by_hop_fields_end_here_and_the_order_stays() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client
        .send("GET / HTTP/1.1\r\nConnection: keep-alive, x-hop\r\nA: 1\r\nX-Hop: 1\r\nHost: web\r\nB: 2\r\nTE: trailers\r\nC: 3\r\n\r\n")
        .await;
    let mut server = endpoint.accept().await;
    assert_eq!(
        server.head().await,
        "GET / HTTP/1.1\r\nA: 1\r\nHost: web\r\nB: 2\r\nC: 3\r\nTE: trailers\r\nConnection: TE\r\n\r\n"
    );
    server.send("HTTP/1.1 204 No Content\r\nKeep-Alive: timeout=5\r\nA: 1\r\nConnection: keep-alive\r\nB: 2\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 204 No Content\r\nA: 1\r\nB: 2\r\n\r\n");
}

#[tokio::test]
async fn without_a_kernel_half_the_endpoint_learns_the_clients_address_from_a_field() {
    let endpoint = Endpoint::new().await;
    let ring = Setup { known: false, ..Setup::new(&[endpoint.addr]) }.start().await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let head = endpoint.accept().await.head().await;
    assert!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{head}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_on_one_upstream_connection() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET.replace("/a", "/1") + &GET.replace("/a", "/2") + &GET.replace("/a", "/3")).await;
    let mut server = endpoint.accept().await;
    for n in 1..=3 {
        assert!(server.head().await.starts_with(&format!("GET /{n} ")));
        server.send(OK.replace("ok", &format!("o{n}"))).await;
    }
    assert_eq!(client.until("o3").await, [1, 2, 3].map(|n| OK.replace("ok", &format!("o{n}"))).concat());
    assert_eq!(ring.records(3).await.len(), 3);
    endpoint.stays_alone().await;
}

#[tokio::test]
async fn a_client_that_has_half_closed_gets_its_answer() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    client.0.shutdown().await.unwrap();
    let mut server = endpoint.accept().await;
    server.head().await;
    tokio::time::sleep(SHORT).await;
    server.send(OK).await;
    let answer = String::from_utf8(client.rest().await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok"), "{answer}");
    assert_eq!(ring.record().await.reason, None);
}

#[tokio::test]
async fn a_client_that_resets_cancels_its_request_upstream() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    client.reset();
    server.all().await;
    assert_eq!(ring.record().await.reason, Some(Reason::DownstreamReset));
    eventually(|| async { ring.relay.drain.open() == 0 }).await;
}

#[tokio::test]
async fn a_client_that_closes_cancels_its_request_upstream() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    drop(client);
    server.all().await;
    assert_eq!(ring.record().await.reason, Some(Reason::DownstreamReset));
}

#[tokio::test]
async fn a_client_that_half_closes_and_then_closes_cancels_its_request_upstream() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    client.0.shutdown().await.unwrap();
    tokio::time::sleep(SHORT).await;
    assert!(ring.relay.records.lock().is_empty());
    drop(client);
    server.all().await;
    assert_eq!(ring.record().await.reason, Some(Reason::DownstreamReset));
}

#[tokio::test]
async fn an_address_without_a_service_is_answered_404() {
    let ring = Ring::to(&Endpoint::new().await).await;
    ring.relay.snapshot.store(Arc::default());
    let mut client = ring.client().await;
    client.send(GET).await;
    let text = "no route: 10.96.0.1:8080\n";
    let (head, body) = client.answer(text.len()).await;
    assert_eq!(String::from_utf8(body).unwrap(), text);
    let expected = format!(
        "HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    assert_eq!(head, expected);
    assert_eq!(ring.record().await.reason, Some(Reason::NoRoute));
}

#[tokio::test]
async fn a_service_without_ready_endpoints_is_answered_503() {
    let ring = Setup::new(&[]).start().await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let answer = client.until("default/web:8080\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("no ready endpoint"), "{answer}");
    assert_eq!(ring.record().await.reason, Some(Reason::NoEndpoint));
}

#[tokio::test]
async fn a_refused_connect_is_tried_on_another_endpoint() {
    let endpoint = Endpoint::new().await;
    let ring = Setup::new(&[Endpoint::absent().await, endpoint.addr]).start().await;
    tokio::spawn(async move {
        loop {
            let mut server = endpoint.accept().await;
            server.head().await;
            server.send(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
        }
    });
    for _ in 0..20 {
        let mut client = ring.client().await;
        client.send(GET).await;
        assert!(client.until("ok").await.starts_with("HTTP/1.1 200"));
    }
    let attempts: Vec<u32> = ring.records(20).await.iter().map(|record| record.attempts).collect();
    assert!(attempts.contains(&2) && attempts.iter().all(|count| *count <= 2), "{attempts:?}");
}

#[tokio::test]
async fn where_nobody_listens_the_client_is_told_503() {
    let ring = Setup::new(&[Endpoint::absent().await]).start().await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let answer = client.until("upstream connect failed: default/web:8080\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let record = ring.record().await;
    assert_eq!((record.reason, record.attempts), (Some(Reason::ConnectFailed), 1));
    assert!(record.error.unwrap().contains("refused"));
}

#[tokio::test]
async fn an_endpoint_that_closes_before_it_answers_is_a_502() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    drop(server);
    assert!(client.until("web:8080\n").await.starts_with("HTTP/1.1 502 "));
    assert_eq!(ring.record().await.reason, Some(Reason::UpstreamReset));
}

#[tokio::test]
async fn an_answer_that_must_not_be_forwarded_is_a_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ] {
        let endpoint = Endpoint::new().await;
        let ring = Ring::to(&endpoint).await;
        let mut client = ring.client().await;
        client.send(GET).await;
        let mut server = endpoint.accept().await;
        server.head().await;
        server.send(answer).await;
        assert!(client.until("web:8080\n").await.starts_with("HTTP/1.1 502 "), "{answer}");
        assert_eq!(ring.record().await.reason, Some(Reason::UpstreamProtocol), "{answer}");
    }
}

#[tokio::test]
async fn s3_a_request_with_another_transfer_coding_reaches_no_endpoint_and_ends_its_connection() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    for (codings, status) in [("gzip, chunked", 501), ("chunked\r\nTransfer-Encoding: chunked", 400)] {
        let mut client = ring.client().await;
        client
            .send(format!("POST /a HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: {codings}\r\n\r\n0\r\n\r\n"))
            .await;
        let answer = client.all().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        let record = ring.record().await;
        assert_eq!((record.reason, record.status), (Some(Reason::BadRequest), status), "{codings}");
    }
    endpoint.stays_alone().await;
}

#[tokio::test]
async fn what_cannot_be_parsed_is_answered_400_and_recorded_once() {
    let ring = Ring::to(&Endpoint::new().await).await;
    let mut client = ring.client().await;
    client.send("GET /a HTTP/1.1\r\nbad header\r\n\r\n").await;
    assert!(client.all().await.starts_with("HTTP/1.1 400 "));
    let record = ring.record().await;
    assert_eq!((record.reason, record.status), (Some(Reason::BadRequest), 400));
}

#[tokio::test]
async fn http_10_is_spoken_with_a_client_that_speaks_it() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send("GET /a HTTP/1.0\r\nHost: web\r\n\r\n").await;
    let mut server = endpoint.accept().await;
    assert!(server.head().await.starts_with("GET /a HTTP/1.1\r\n"));
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    let answer = client.all().await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
    assert_eq!(ring.record().await.protocol, "HTTP/1.0");
}

#[tokio::test]
async fn while_the_agent_leaves_an_answer_is_the_last_of_its_connection() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut idle = ring.client().await;
    idle.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    server.send(OK).await;
    idle.until("ok").await;
    let mut busy = ring.client().await;
    busy.send(GET).await;
    server.head().await;
    ring.relay.drain.leave();
    assert_eq!(idle.rest().await.unwrap(), b"");
    server.send(OK).await;
    let answer = busy.all().await;
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("ok"), "{answer}");
    within(ring.relay.drain.empty()).await;
}

#[tokio::test]
async fn a_client_that_came_just_before_the_agent_leaves_is_answered() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    // One has not spoken yet, one has said half of it, one has said all and nobody has read it.
    let (mut silent, mut slow, mut quick) = (ring.client().await, ring.client().await, ring.client().await);
    let (half, rest) = GET.split_at(9);
    slow.send(half).await;
    eventually(|| async { ring.relay.drain.open() == 3 }).await;
    quick.send(GET).await;
    ring.relay.drain.leave();
    silent.send(GET).await;
    slow.send(rest).await;
    tokio::spawn(async move {
        loop {
            let mut server = endpoint.accept().await;
            tokio::spawn(async move {
                server.head().await;
                server.send(OK).await;
                server.rest().await
            });
        }
    });
    for client in [&mut silent, &mut slow, &mut quick] {
        let answer = client.all().await;
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("ok"), "{answer}");
    }
    within(ring.relay.drain.empty()).await;
}

#[tokio::test]
async fn an_abort_cuts_what_has_not_ended() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(GET).await;
    let mut server = endpoint.accept().await;
    server.head().await;
    ring.relay.drain.leave();
    ring.relay.drain.abort();
    within(ring.relay.drain.empty()).await;
    assert_eq!(client.all().await, "");
    assert_eq!(ring.record().await.reason, Some(Reason::Draining));
}

//! The scanner against hyper, as the agent sets it up: the kernel half accepts no request that the agent
//! would refuse or read otherwise.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../../proxy-common/tests/heads/generator.rs"]
mod heads;

use bytes::Bytes;
use heads::{Heads, method_name, part};
use http::{Request, Response, header};
use http_body_util::Empty;
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use proxy_common::head::{Framing, scan_answer, scan_request};
use std::{convert::Infallible, future::pending};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    sync::mpsc,
};

/// Generated heads a test; those beyond doubt go through hyper.
const CASES: usize = 200_000;
const READ_BUFFER: usize = 64 * 1024;

/// What hyper's server makes of a head; `None`: it refuses. The body is never read.
async fn hyper_server(bytes: &[u8]) -> Option<Request<Incoming>> {
    let (mut client, server) = duplex(READ_BUFFER);
    client.write_all(bytes).await.unwrap();
    let (seen, mut requests) = mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<Incoming>| {
        seen.send(request).unwrap();
        pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    });
    let connection = http1::Builder::new()
        .half_close(true)
        .preserve_header_case(true)
        .auto_date_header(false)
        .max_buf_size(READ_BUFFER)
        .serve_connection(TokioIo::new(server), service);
    tokio::select! {
        biased;
        _ = connection => None,
        request = requests.recv() => request,
    }
}

/// What hyper's client makes of an answer to such a request.
async fn hyper_client(bytes: &[u8], head_request: bool) -> Option<(Response<Incoming>, impl Sized)> {
    let (client, mut server) = duplex(READ_BUFFER);
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .max_buf_size(READ_BUFFER)
        .handshake(TokioIo::new(client))
        .await
        .unwrap();
    let method = if head_request { "HEAD" } else { "GET" };
    let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request);
    let mut connection = Box::pin(connection);
    // hyper refuses an answer that is there before its request was sent.
    let answer = async {
        let mut first = [0; 512];
        assert!(server.read(&mut first).await.unwrap() > 0);
        server.write_all(bytes).await.unwrap();
        answer.await
    };
    let found = tokio::select! {
        biased;
        _ = connection.as_mut() => None,
        answer = answer => answer.ok(),
    };
    found.map(|answer| (answer, (connection, server)))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn requests_beyond_doubt_are_what_hyper_reads() {
    let runtime = runtime();
    let mut heads = Heads::new(4);
    let mut accepted = 0;
    for _ in 0..CASES {
        let bytes = heads.request();
        let Ok(head) = scan_request(&bytes) else { continue };
        accepted += 1;
        let request = runtime.block_on(hyper_server(&bytes));
        let request = request.unwrap_or_else(|| panic!("hyper refuses {}", bytes.escape_ascii()));
        assert_eq!(request.method().as_str(), method_name(head.method));
        assert_eq!(request.uri().to_string().as_bytes(), part(&bytes, head.target));
        let hosts: Vec<_> = request.headers().get_all(header::HOST).iter().collect();
        assert_eq!(hosts.len(), 1);
        assert!(hosts[0].as_bytes().starts_with(part(&bytes, head.host)));
        let length = request.body().size_hint().exact();
        assert_eq!(length, Some(head.content_length), "{}", bytes.escape_ascii());
    }
    assert!(accepted > CASES / 10, "{accepted} accepted");
}

#[test]
fn answers_beyond_doubt_are_what_hyper_reads() {
    let runtime = runtime();
    let mut heads = Heads::new(5);
    let mut accepted = 0;
    for case in 0..CASES {
        let (bytes, head_request) = (heads.answer(), case % 8 == 0);
        let Ok(head) = scan_answer(&bytes, head_request) else { continue };
        accepted += 1;
        let found = runtime.block_on(hyper_client(&bytes[..head.head_len as usize], head_request));
        let (answer, _open) = found.unwrap_or_else(|| panic!("hyper refuses {}", bytes.escape_ascii()));
        assert_eq!(u32::from(answer.status().as_u16()), head.status);
        let hint = answer.body().size_hint().exact();
        let expected = match head.framing {
            Framing::NoBody => 0,
            Framing::Length(length) => length,
        };
        assert_eq!(hint, Some(expected), "{head_request} {}", bytes.escape_ascii());
    }
    assert!(accepted > CASES / 10, "{accepted} accepted");
}

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::*;
use crate::testing::certificates::Authority;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

/// Both ends of a TLS connection on loopback: ours below hyper, and tokio-rustls' own.
async fn secured() -> (Wire, client::TlsStream<TcpStream>) {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connector = TlsConnector::from(Arc::new(authority.client()));
    let connect = async move {
        let stream = TcpStream::connect(addr).await.unwrap();
        connector.connect(ServerName::try_from("web.test").unwrap(), stream).await.unwrap()
    };
    let accept = async {
        let mut wire = Wire::new(listener.accept().await.unwrap().0, false);
        let acceptor = TlsAcceptor::from(Arc::new(authority.server(&["web.test"])));
        let stream = acceptor.accept(wire.view()).await.unwrap();
        let secured = Secured {
            version: "TLSv1.3",
            cipher: "-",
            alpn: None,
            server_name: None,
            scope: "test".into(),
            peer: None,
        };
        wire.secure(stream.into(), Role::Server, secured);
        wire
    };
    tokio::join!(accept, connect)
}

async fn read(wire: &Wire) -> io::Result<Vec<u8>> {
    let mut storage = [MaybeUninit::uninit(); 4096];
    let mut buf = ReadBuf::uninit(&mut storage);
    std::future::poll_fn(|cx| wire.poll_read(cx, buf.unfilled())).await?;
    Ok(buf.filled().to_vec())
}

async fn write(wire: &Wire, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let count = std::future::poll_fn(|cx| wire.poll_write(cx, bytes)).await.unwrap();
        bytes = &bytes[count..];
    }
    std::future::poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
}

#[tokio::test]
async fn bytes_pass_through_a_session_both_ways_and_the_last_ones_before_its_end() {
    let (wire, mut client) = secured().await;
    assert!(wire.is_secure());
    let large: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let sent = large.clone();
    let both = async {
        let (mut read_half, mut write_half) = tokio::io::split(&mut client);
        let send = async {
            write_half.write_all(&sent).await.unwrap();
            write_half.flush().await.unwrap();
        };
        let mut got = vec![0; sent.len()];
        let (_, read) = tokio::join!(send, read_half.read_exact(&mut got));
        read.unwrap();
        got
    };
    let echo = async {
        let mut seen = Vec::new();
        while seen.len() < large.len() {
            let some = read(&wire).await.unwrap();
            write(&wire, &some).await;
            seen.extend(some);
        }
        seen
    };
    let (got, seen) = tokio::join!(both, echo);
    assert!(got == large && seen == large);
    wire.write_last(b"the end").await.unwrap();
    let mut rest = Vec::new();
    // An error where close_notify is missing.
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"the end");
}

#[tokio::test]
async fn a_client_may_end_without_close_notify_and_a_server_may_not() {
    let (wire, mut client) = secured().await;
    client.get_mut().0.shutdown().await.unwrap();
    assert_eq!(read(&wire).await.unwrap(), b"");
    let (mut wire, mut server) = secured().await;
    wire.session.as_mut().unwrap().role = Role::Client;
    server.get_mut().0.shutdown().await.unwrap();
    assert_eq!(read(&wire).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn an_orderly_end_leaves_the_other_way_open() {
    let (wire, mut client) = secured().await;
    client.shutdown().await.unwrap();
    assert_eq!(read(&wire).await.unwrap(), b"");
    wire.write_last(b"answer").await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"answer");
}

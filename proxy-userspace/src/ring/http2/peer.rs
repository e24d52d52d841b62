//! hyper's own client and server, as peers.

use super::*;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

pub(in crate::ring) type Payload = BoxBody<Bytes, Infallible>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ring) enum Speaks {
    Http1,
    Http2,
}

/// A body of these pieces, and trailers.
pub(in crate::ring) fn body(pieces: &[&[u8]], trailers: Option<HeaderMap>) -> Payload {
    if pieces.is_empty() && trailers.is_none() {
        return http_body_util::Empty::new().boxed();
    }
    let pieces: Vec<Bytes> = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
    let frames = pieces.into_iter().map(Frame::data).chain(trailers.map(Frame::trailers));
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames.map(Ok))))
}

/// A POST with this body.
pub(super) fn request(text: &'static str) -> Request<Payload> {
    let body = if text.is_empty() { body(&[], None) } else { body(&[text.as_bytes()], None) };
    Request::post("http://web/a").body(body).unwrap()
}

/// What a client sends and expects to come back.
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    length: bool,
}

impl Sent {
    pub(super) fn of(size: usize, length: bool) -> Self {
        let bytes = (0..size).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
        Self { bytes, length }
    }

    pub(super) fn request(&self) -> Request<Payload> {
        let pieces: Vec<&[u8]> = self.bytes.chunks(10_000).collect();
        let trailers = HeaderMap::from_iter([
            (http::HeaderName::from_static("x-nonce"), "nonce-7".parse().unwrap()),
            (http::header::HOST, "evil".parse().unwrap()),
        ]);
        let mut request = Request::post("http://web/echo").header("te", "trailers");
        request = match self.length {
            true => request.header("content-length", self.bytes.len()),
            false => request.header("trailer", "x-nonce"),
        };
        request.body(body(&pieces, (!self.length).then_some(trailers))).unwrap()
    }
}

/// An answer that has come to its end.
#[derive(Debug)]
pub(in crate::ring) struct Answer {
    pub(in crate::ring) status: StatusCode,
    pub(in crate::ring) fields: HeaderMap,
    pub(in crate::ring) bytes: Bytes,
    pub(in crate::ring) trailers: Option<HeaderMap>,
}

pub(super) async fn collected(answer: Response<Incoming>) -> Answer {
    let (head, body) = answer.into_parts();
    let body = within(body.collect()).await.unwrap();
    let trailers = body.trailers().cloned();
    Answer { status: head.status, fields: head.headers, bytes: body.to_bytes(), trailers }
}

#[derive(Clone)]
enum Sender {
    Http1(Arc<tokio::sync::Mutex<conn::http1::SendRequest<Payload>>>),
    Http2(conn::http2::SendRequest<Payload>),
}

/// A client with one connection.
#[derive(Clone)]
pub(in crate::ring) struct Client(Sender);

impl Client {
    pub(in crate::ring) async fn connect(speaks: Speaks, addr: SocketAddr) -> Self {
        Self::over(speaks, TcpStream::connect(addr).await.unwrap()).await
    }

    pub(in crate::ring) async fn http2(addr: SocketAddr) -> Self {
        Self::connect(Speaks::Http2, addr).await
    }

    /// In TLS with a server of this name.
    pub(in crate::ring) async fn secure(
        speaks: Speaks,
        addr: SocketAddr,
        config: rustls::ClientConfig,
        name: &'static str,
    ) -> Self {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(addr).await.unwrap();
        Self::over(speaks, connector.connect(name.try_into().unwrap(), stream).await.unwrap()).await
    }

    async fn over<S>(speaks: Speaks, stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        match speaks {
            Speaks::Http1 => {
                let (sender, connection) = conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                Self(Sender::Http1(Arc::new(tokio::sync::Mutex::new(sender))))
            }
            Speaks::Http2 => {
                let builder = conn::http2::Builder::new(TokioExecutor::new());
                let (sender, connection) = builder.handshake(io).await.unwrap();
                tokio::spawn(connection);
                Self(Sender::Http2(sender))
            }
        }
    }

    pub(in crate::ring) fn send(
        &self,
        mut request: Request<Payload>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + 'static {
        let sender = self.0.clone();
        async move {
            match sender {
                Sender::Http2(mut sender) => sender.send_request(request).await,
                Sender::Http1(sender) => {
                    let host = request.uri().authority().unwrap().as_str().parse().unwrap();
                    request.headers_mut().insert("host", host);
                    *request.uri_mut() = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
                    let mut sender = sender.lock().await;
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        }
    }

    pub(in crate::ring) async fn exchange(&mut self, request: Request<Payload>) -> Answer {
        collected(within(self.send(request)).await.unwrap()).await
    }
}

/// An endpoint that sends back what it gets, piece by piece.
pub(in crate::ring) struct Echo {
    pub(in crate::ring) addr: SocketAddr,
    pub(in crate::ring) connections: Arc<AtomicUsize>,
    pub(in crate::ring) requests: Arc<AtomicUsize>,
}

impl Echo {
    pub(in crate::ring) async fn start(speaks: Speaks) -> Self {
        Self::start_with(speaks, None).await
    }

    /// The same in TLS.
    pub(in crate::ring) async fn start_with(speaks: Speaks, tls: Option<rustls::ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (connections, requests): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let acceptor = tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        let echo = Self { addr, connections: Arc::clone(&connections), requests: Arc::clone(&requests) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Relaxed);
                let (acceptor, requests) = (acceptor.clone(), Arc::clone(&requests));
                tokio::spawn(async move {
                    let Some(acceptor) = acceptor else {
                        return serve(stream, speaks, (None, None), requests).await;
                    };
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let session = stream.get_ref().1;
                    let name = session.server_name().map(String::from);
                    let client = session
                        .peer_certificates()
                        .map(|chain| crate::testing::certificates::common_name(&chain[0]));
                    serve(stream, speaks, (name, client), requests).await;
                });
            }
        });
        echo
    }
}

/// The name that was asked for in TLS, and the client's own by its certificate.
type Told = (Option<String>, Option<String>);

/// One connection of an [`Echo`].
async fn serve(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    speaks: Speaks,
    told: Told,
    requests: Arc<AtomicUsize>,
) {
    let io = TokioIo::new(stream);
    let service = service_fn(move |request| {
        requests.fetch_add(1, Relaxed);
        echo(request, told.clone())
    });
    match speaks {
        Speaks::Http1 => drop(http1::Builder::new().serve_connection(io, service).await),
        Speaks::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).max_concurrent_streams(50);
            drop(builder.serve_connection(io, service).await);
        }
    }
}

async fn echo(
    request: Request<Incoming>,
    (server_name, client): Told,
) -> Result<Response<Incoming>, Infallible> {
    let (head, body) = request.into_parts();
    let mut answer = Response::new(body);
    let fields = answer.headers_mut();
    fields.insert("x-method", head.method.as_str().parse().unwrap());
    fields.insert("x-version", format!("{:?}", head.version).parse().unwrap());
    if let Some(name) = server_name {
        fields.insert("x-server-name", name.parse().unwrap());
    }
    if let Some(client) = client {
        fields.insert("x-client", client.parse().unwrap());
    }
    if let Some(host) = head.headers.get("host") {
        fields.insert("x-host", host.clone());
    }
    for name in ["trailer", "content-length"] {
        if let Some(value) = head.headers.get(name) {
            fields.insert(http::HeaderName::from_static(name), value.clone());
        }
    }
    assert!(answer.body().size_hint().lower() < u64::MAX);
    Ok(answer)
}

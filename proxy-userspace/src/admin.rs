//! `/metrics`, `/livez`, `/readyz`, `/status` and `/route/explain`, on a thread and a runtime of their own: whatever
//! happens here, traffic does not notice, and the other way round.

use crate::{
    metrics::Format,
    policy::{
        explain::explain,
        question::{Ports, Question},
    },
    route::{explain::Hypothetical, path::parameter},
    status::{Board, Readiness},
};
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST},
    uri::Authority,
};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    pin::pin,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS: usize = 64;
/// Bytes and fields of a request's head; a larger one is answered 431.
const HEAD_BYTES: usize = 16 * 1024;
const HEAD_FIELDS: usize = 64;
/// How long a request's head may take, silence before it included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How old a connection grows before it is closed after its current answer, and how long a client
/// may then take to read that one.
const AGE: Duration = Duration::from_secs(60);
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// How long to wait when the machine has no file descriptor or memory for a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The running admin listener.
#[derive(Debug)]
pub struct Admin {
    addr: SocketAddr,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Admin {
    /// Binds `addr`, then serves what `board` knows until [`Admin::stop`].
    pub fn start(addr: SocketAddr, board: Arc<Board>) -> io::Result<Self> {
        let listener = StdListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let pages = Arc::new(Pages { board, own_name: own_name() });
        let thread = thread::Builder::new().name("weir-admin".to_owned()).spawn(move || {
            runtime.block_on(stopped.run_until_cancelled(serve(listener, pages)));
        })?;
        Ok(Self { addr, stop, thread })
    }

    /// Where it listens; the port is the real one where 0 was asked for.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the listener and its connections. False when its thread had panicked.
    #[must_use]
    pub fn stop(self) -> bool {
        self.stop.cancel();
        self.thread.join().is_ok()
    }
}

/// The node's name, by which people may call the listener.
fn own_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, Arc::clone(&pages), slot));
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// One connection from its first request to its last.
async fn converse(stream: TcpStream, pages: Arc<Pages>, _slot: OwnedSemaphorePermit) {
    let answer = service_fn(|request| {
        let answer = pages.answer(&request);
        async { Ok::<_, Infallible>(answer) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_headers(HEAD_FIELDS)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), answer)
    );
    let mut ended = timeout(AGE, connection.as_mut()).await;
    if ended.is_err() {
        connection.as_mut().graceful_shutdown();
        ended = timeout(LAST_ANSWER, connection).await;
    }
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "an admin connection failed");
    }
}

/// What is served.
#[derive(Debug)]
struct Pages {
    board: Arc<Board>,
    own_name: String,
}

type Answer = Response<Full<Bytes>>;

impl Pages {
    /// The answer to any request; its body is not looked at.
    fn answer<B>(&self, request: &Request<B>) -> Answer {
        if !self.is_for_us(request) {
            return text(
                StatusCode::MISDIRECTED_REQUEST,
                "the Host is neither an address nor a name of this node\n",
            );
        }
        let page: fn(&Self, &Request<B>) -> Answer = match request.uri().path() {
            "/metrics" => Self::metrics,
            "/livez" => |_, _| text(StatusCode::OK, "ok\n"),
            "/readyz" => |pages, _| pages.readyz(),
            "/status" => |pages, _| pages.status(),
            "/route/explain" => Self::route,
            "/policy/explain" => Self::policy,
            _ => {
                let pages = "/metrics /livez /readyz /status /route/explain /policy/explain\n";
                return text(StatusCode::NOT_FOUND, pages);
            }
        };
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        page(self, request)
    }

    /// False when a browser was tricked into asking us (DNS rebinding): a page of some name that
    /// resolves to this address sends that name as the host.
    fn is_for_us<B>(&self, request: &Request<B>) -> bool {
        let mut hosts = request.headers().get_all(HOST).iter();
        let named = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().is_ok_and(|host| self.is_our_name(host)),
            (None, _) => request.version() == Version::HTTP_10,
            (Some(_), Some(_)) => false,
        };
        named && request.uri().authority().is_none_or(|authority| self.is_our_name(authority.as_str()))
    }

    fn is_our_name(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host().trim_matches(['[', ']']).trim_end_matches('.');
        name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || name.eq_ignore_ascii_case(&self.own_name)
    }

    fn metrics<B>(&self, request: &Request<B>) -> Answer {
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Format::accepted(accept);
        match self.board.metrics().text(format) {
            Ok(body) => page(StatusCode::OK, format.content_type(), body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn readyz(&self) -> Answer {
        match self.board.readiness() {
            Readiness::Ready => text(StatusCode::OK, "ok\n"),
            Readiness::Starting { reason } => {
                text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n"))
            }
            Readiness::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: draining\n"),
        }
    }

    /// Where a request of the query's description goes.
    fn route<B>(&self, request: &Request<B>) -> Answer {
        let (asked, json) = match Hypothetical::of_query(request.uri().query().unwrap_or_default()) {
            Ok(asked) => asked,
            Err(why) => return text(StatusCode::BAD_REQUEST, why + "\n"),
        };
        match asked.explain(&self.board.metrics().snapshot()) {
            Err(why) => text(StatusCode::BAD_REQUEST, why + "\n"),
            Ok(explained) if !json => text(StatusCode::OK, explained.to_string()),
            Ok(explained) => match serde_json::to_string_pretty(&explained) {
                Ok(body) => page(StatusCode::OK, "application/json", body + "\n"),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
        }
    }

    /// What policies decide about a connection or request of the query's description.
    fn policy<B>(&self, request: &Request<B>) -> Answer {
        let query = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let pairs: Vec<(String, String)> = query
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(&parameter(value)).into_owned()))
            .collect();
        let json = pairs.iter().any(|(name, value)| name == "output" && value == "json");
        let explained = Question::of_pairs(&pairs)
            .map_err(anyhow::Error::msg)
            .and_then(|question| explain(&question, &self.board.metrics().snapshot(), &Ports::default()));
        match explained {
            Err(why) => text(StatusCode::BAD_REQUEST, format!("{why:#}\n")),
            Ok(all) if !json => text(StatusCode::OK, all.iter().map(ToString::to_string).collect::<String>()),
            Ok(all) => match serde_json::to_string_pretty(&all) {
                Ok(body) => page(StatusCode::OK, "application/json", body + "\n"),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
        }
    }

    fn status(&self) -> Answer {
        match serde_json::to_string(&self.board.status()) {
            Ok(body) => page(StatusCode::OK, "application/json", body + "\n"),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    page(status, "text/plain; charset=utf-8", body)
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests;

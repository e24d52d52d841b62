//! Is it HTTP/1 or HTTP/2? The first bytes tell. A client that says nothing gets an upstream connection after
//! a moment, in case the server speaks first; whoever speaks then decides. Where `appProtocol` says HTTP there
//! is nothing to decide: what cannot be read as HTTP is refused as such, for the endpoint might read it.

use crate::{
    balance,
    downstream::Downstream,
    policy::Passage,
    route::Route,
    snapshot::Protocol,
    tunnel::{self, UpstreamSocket},
};
use bytes::Bytes;
use hyper::rt::ReadBuf;
use proxy_common::http::{Opening, opening};
use std::{future::Future, io, mem::MaybeUninit, pin::pin, time::Duration};

/// The first read: the whole of most requests.
const FIRST_READ: usize = 2048;

/// How long a new connection may be silent though the agent leaves: its first request may be under way.
const NEWCOMER: Duration = Duration::from_secs(1);

/// What a connection carries. The bytes have been read from the client already.
pub(crate) enum Verdict {
    /// HTTP/1, perhaps.
    Http(Bytes),
    /// HTTP/2: the whole preface is here.
    Http2(Bytes),
    /// Anything else; the upstream socket, if one had to be opened to find out.
    Opaque(Bytes, Option<UpstreamSocket>),
    /// Nothing: it ended, or was silent for too long.
    Over,
}

/// Looks at the first bytes of a connection.
pub(crate) async fn detect(downstream: &Downstream, route: Option<&Route>) -> Verdict {
    // A Gateway's, or one without a route, whose client is told so in HTTP: the client speaks first.
    let Some(route) = route else { return unprompted(downstream).await };
    match route.cluster.protocol {
        Protocol::Opaque => return Verdict::Opaque(Bytes::new(), None),
        Protocol::Http1 | Protocol::Http2 => return unprompted(downstream).await,
        Protocol::Detect => {}
    }
    let mut client = pin!(client_speaks(downstream, Others::Tunnelled));
    let patience = downstream.relay.settings.detect_timeout;
    match tokio::time::timeout(patience, client.as_mut()).await {
        Ok(verdict) => verdict,
        Err(_) if !downstream.is_silent() => client.await,
        Err(_) => {
            let remaining = downstream.timeouts.downstream_idle.map(|idle| idle.saturating_sub(patience));
            let either = either_speaks(downstream, route, client);
            tokio::select! {
                biased;
                verdict = either => verdict,
                () = sleep_or_never(remaining), if downstream.is_silent() => Verdict::Over,
                () = dismissed(downstream) => Verdict::Over,
            }
        }
    }
}

/// Waits for the client to speak, which must.
async fn unprompted(downstream: &Downstream) -> Verdict {
    let mut client = pin!(client_speaks(downstream, Others::Refused));
    let mut late = false;
    tokio::select! {
        biased;
        verdict = client.as_mut() => return verdict,
        () = sleep_or_never(downstream.relay.settings.protocol_detect), if downstream.is_silent() => late = true,
        () = sleep_or_never(downstream.timeouts.downstream_idle), if downstream.is_silent() => {}
        () = dismissed(downstream), if downstream.is_silent() => {}
    }
    // It may have begun to speak since the select was entered.
    if !downstream.is_silent() {
        return client.await;
    }
    if late {
        downstream.relay.observer.metrics.downstream_refused("protocol_detect");
    }
    Verdict::Over
}

/// Completes when the agent leaves and a client has had the time to say why it came.
async fn dismissed(downstream: &Downstream) {
    downstream.relay.drain.left().await;
    tokio::time::sleep_until(downstream.opened_at() + NEWCOMER).await;
}

/// What becomes of bytes that are not HTTP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// They are carried as they are.
    Tunnelled,
    /// They count as HTTP/1, whose reader has an answer for them.
    Refused,
}

/// Reads until the client's bytes decide.
async fn client_speaks(downstream: &Downstream, others: Others) -> Verdict {
    let first = match read_some(downstream).await {
        Ok(first) if first.is_empty() => return Verdict::Over,
        Ok(first) => first,
        Err(error) => {
            tracing::debug!(%error, client = %downstream.client.0, "first bytes");
            return Verdict::Over;
        }
    };
    downstream.head_begins();
    match classify(&first, others) {
        Opening::Http1 => Verdict::Http(first),
        Opening::Http2 => Verdict::Http2(first),
        Opening::Opaque => Verdict::Opaque(first, None),
        Opening::Unsure => more_bytes(downstream, first, others).await,
    }
}

/// A few letters were not enough. If no more come it is hyper that lets the head time out.
async fn more_bytes(downstream: &Downstream, first: Bytes, others: Others) -> Verdict {
    let mut bytes = first.to_vec();
    let mut late = pin!(sleep_or_never(downstream.timeouts.request_head));
    let mut undecided = pin!(sleep_or_never(downstream.relay.settings.protocol_detect));
    loop {
        let more = tokio::select! {
            more = read_some(downstream) => more,
            // No method begins like that: there is nobody who would read an answer in HTTP/1.
            () = &mut undecided, if bytes.starts_with(b"PRI ") => {
                downstream.relay.observer.metrics.downstream_refused("protocol_detect");
                return Verdict::Over;
            }
            () = &mut late => return Verdict::Http(bytes.into()),
        };
        match more {
            Ok(more) if !more.is_empty() => bytes.extend_from_slice(&more),
            _ => return Verdict::Http(bytes.into()),
        }
        match classify(&bytes, others) {
            Opening::Http1 => return Verdict::Http(bytes.into()),
            Opening::Http2 => return Verdict::Http2(bytes.into()),
            Opening::Opaque => return Verdict::Opaque(bytes.into(), None),
            Opening::Unsure => {}
        }
    }
}

/// CONNECT asks for a tunnel, so it gets one: the endpoint is a proxy, or answers that it is none. Where
/// nothing is tunnelled it is answered 405.
fn classify(bytes: &[u8], others: Others) -> Opening {
    match (opening(bytes), others) {
        (Opening::Http1, Others::Tunnelled) if bytes.starts_with(b"CONNECT ") => Opening::Opaque,
        (Opening::Opaque, Others::Refused) => Opening::Http1,
        (opening, _) => opening,
    }
}

/// Connects to an endpoint and waits for whoever speaks first.
async fn either_speaks(
    downstream: &Downstream,
    route: &Route,
    mut client: std::pin::Pin<&mut impl Future<Output = Verdict>>,
) -> Verdict {
    let upstream = tokio::select! {
        verdict = client.as_mut() => return verdict,
        connected = speculate(downstream, route) => connected,
    };
    let Some(upstream) = upstream else { return client.await };
    let verdict = tokio::select! {
        verdict = client.as_mut() => verdict,
        speaks = server_speaks(&upstream) => {
            if speaks {
                return Verdict::Opaque(Bytes::new(), Some(upstream));
            }
            // It closed, or was reset: perhaps it waits for a client only so long.
            drop(upstream);
            return client.await;
        }
    };
    match verdict {
        Verdict::Opaque(first, _) => Verdict::Opaque(first, Some(upstream)),
        other => other,
    }
}

/// `None` where no endpoint can be had, or only for HTTP: the client may still speak it, and be told.
async fn speculate(downstream: &Downstream, route: &Route) -> Option<UpstreamSocket> {
    let endpoint = balance::pick(route, &balance::Client::of(downstream, route), None)?;
    if !matches!(*downstream.passage(endpoint), Passage::Open(_)) {
        return None;
    }
    let connect = tunnel::connect(downstream, endpoint);
    let connected = match route.timeouts.connect {
        Some(timeout) => tokio::time::timeout(timeout, connect).await.ok()?,
        None => connect.await,
    };
    match connected {
        Ok(upstream) => Some(upstream),
        Err(error) => {
            tracing::debug!(%error, endpoint = %endpoint.addr, "connect for a silent client");
            None
        }
    }
}

/// False where the connection ended without a byte.
async fn server_speaks(upstream: &UpstreamSocket) -> bool {
    matches!(upstream.stream().peek(&mut [0]).await, Ok(1..))
}

/// Reads once; nothing means the end.
pub(crate) async fn read_some(downstream: &Downstream) -> io::Result<Bytes> {
    let mut storage = [MaybeUninit::uninit(); FIRST_READ];
    let mut buf = ReadBuf::uninit(&mut storage);
    std::future::poll_fn(|cx| downstream.wire.poll_read(cx, buf.unfilled())).await?;
    Ok(Bytes::copy_from_slice(buf.filled()))
}

async fn sleep_or_never(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

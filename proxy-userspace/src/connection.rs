//! One accepted connection, from its first byte to its last.

use crate::{
    detect::{self, Verdict},
    downstream::{Connection, Downstream},
    orig_dst::DownstreamAddr,
    proxy_protocol,
    record::{Draft, Failure},
    relay::Relay,
    route::{route, table::Scheme},
    server, tls, tunnel,
    wire::Wire,
};
use bytes::Bytes;
use std::{future::Future, io, sync::Arc};
use tokio::{net::TcpStream, time::Instant};

/// Serves it to its end. It counts as open from now on, not from when it is first polled.
pub(crate) fn serve(
    relay: Arc<Relay>,
    stream: TcpStream,
    client: DownstreamAddr,
) -> impl Future<Output = ()> + Send + 'static {
    relay.observer.metrics.downstream_opened();
    relay.drain.connection_opened();
    let open = Open(Arc::clone(&relay));
    async move {
        if let Err(error) = serve_known(relay, stream, client).await {
            tracing::debug!(%error, client = %client.0, "downstream connection");
        }
        drop(open);
    }
}

/// A connection that is counted as open.
struct Open(Arc<Relay>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.observer.metrics.downstream_closed();
        self.0.drain.connection_closed();
    }
}

/// What it waits for is in boxes, so that a connection takes no more memory than what it is in: most of them
/// are idle.
async fn serve_known(relay: Arc<Relay>, stream: TcpStream, client: DownstreamAddr) -> io::Result<()> {
    let local = stream.local_addr()?;
    let found = relay.orig_dst.find(&relay.datapath, &stream, (client, local));
    let (orig_dst, identity) = match found {
        Ok(found) => found,
        Err(unknown) => {
            relay.observer.metrics.downstream_refused(unknown.label());
            tracing::debug!(client = %client.0, %unknown, "connection refused");
            return Ok(());
        }
    };
    let routed = route(&relay.snapshot.load(), orig_dst);
    let timeouts = routed.as_ref().map_or(relay.settings.timeouts, |route| route.timeouts);
    let wire = Wire::new(stream, relay.settings.redirects);
    let site = relay.snapshot.load().by_gateway.get(&orig_dst.0).cloned().filter(|_| routed.is_none());
    let mut connection = Connection::new(relay, wire, (client, local), (orig_dst, identity), timeouts);
    let of_service = || routed.as_ref().map(|route| route.cluster.choices);
    connection.choices = site.as_ref().map(|site| site.choices).or_else(of_service).unwrap_or_default();
    let site = site.filter(|site| site.scheme == Scheme::Https);
    if routed.is_none() && !Box::pin(proxy_protocol::accept(&mut connection)).await {
        return Ok(());
    }
    let secure = match &site {
        Some(site) => Box::pin(tls::accept(&mut connection, site)).await,
        None => Ok(()),
    };
    let downstream = Arc::new(Downstream::new(Arc::new(connection)));
    if let Err(failure) = secure {
        report_insecure(&downstream, failure);
        return Ok(());
    }
    if site.is_some() {
        // ALPN has decided; without it, it is HTTP/1.1 (RFC 9113 section 3.2).
        if downstream.wire.secured().and_then(|secured| secured.alpn) == Some("h2") {
            Box::pin(server::http2::serve(downstream, Bytes::new())).await;
            return Ok(());
        }
        match Box::pin(detect::detect(&downstream, None)).await {
            Verdict::Http(first) | Verdict::Http2(first) | Verdict::Opaque(first, _) => {
                Box::pin(server::serve(downstream, first)).await;
            }
            Verdict::Over => {}
        }
        return Ok(());
    }
    if let Some(route) = &routed
        && let Some(endpoint) = tunnel::closed(&downstream, route)
    {
        tunnel::refuse(&downstream, route, endpoint);
        return Ok(());
    }
    match (Box::pin(detect::detect(&downstream, routed.as_ref())).await, &routed) {
        (Verdict::Opaque(first, upstream), Some(route)) => {
            Box::pin(tunnel::carry(&downstream, route, first, upstream)).await;
        }
        (Verdict::Http2(first), _) => Box::pin(server::http2::serve(downstream, first)).await,
        (Verdict::Http(first) | Verdict::Opaque(first, _), _) => {
            Box::pin(server::serve(downstream, first)).await;
        }
        (Verdict::Over, _) => {}
    }
    Ok(())
}

/// A connection without a session never became one of requests: it has a record of its own.
fn report_insecure(downstream: &Downstream, failure: Failure) {
    let mut draft = Box::new(Draft::of_nothing("TLS", downstream.opened_at()));
    draft.failure = Some(failure);
    downstream.request_ends(draft, Instant::now());
    downstream.report_ended(None);
}

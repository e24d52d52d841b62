//! Upgrades of HTTP/1.1 connections to another protocol (RFC 9110 section 7.8), WebSocket above all.
//!
//! A request that asks for one is decided about like any other, and goes to its endpoint on a connection that no
//! other request uses. Until the answer is known, nobody knows what the client's bytes behind the request are:
//! they are held. An answer other than 101 makes them the next request; 101 makes both connections a tunnel.

use crate::{
    admission::Rules,
    downstream::Downstream,
    flow::Reason,
    metrics::Upgraded,
    record::{Draft, Failure},
    snapshot::Protocol,
    tunnel::Flow,
    upstream::Upstream,
    wire,
};
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Request, Version, header, response};
use http_body::Body;
use parking_lot::Mutex;
use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

/// What a request asks for, among its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Asked(HeaderValue);

/// What a request asks its connection to be made into, where the client's connection waits for the answer.
pub(crate) fn asked<B: Body>(downstream: &Downstream, request: &Request<B>) -> Option<Asked> {
    let may = request.version() == Version::HTTP_11 && request.body().is_end_stream();
    let token = wanted(request.headers(), &downstream.relay.rules).filter(|_| may)?;
    downstream.switch.holds().then_some(Asked(token))
}

/// The choice that admission makes of the head's bytes (`admission/head.rs`).
fn wanted(fields: &HeaderMap, rules: &Rules) -> Option<HeaderValue> {
    let token = fields.get_all(header::UPGRADE).iter().find_map(|value| rules.upgrade(value.as_bytes()))?;
    let token = HeaderValue::from_bytes(token).ok()?;
    names_upgrade(fields).then_some(token)
}

fn names_upgrade(fields: &HeaderMap) -> bool {
    let options = fields
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

/// Asks the endpoint for what the client has asked for; false where it has not, or the endpoint speaks HTTP/2:
/// there it is an ordinary request, as RFC 9110 allows.
pub(crate) fn ask<B>(request: &mut Request<B>, protocol: Protocol) -> bool {
    let asked = request.extensions_mut().remove::<Asked>().filter(|_| protocol != Protocol::Http2);
    let Some(Asked(token)) = asked else { return false };
    say(request.headers_mut(), token.clone());
    request.extensions_mut().insert(Asked(token));
    true
}

/// Whether this request asks its endpoint.
pub(crate) fn asks<B>(request: &Request<B>) -> bool {
    request.extensions().get::<Asked>().is_some()
}

/// Both fields are for this hop alone, so that each hop writes its own.
fn say(fields: &mut HeaderMap, token: HeaderValue) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, token);
}

/// What an endpoint agrees to with 101: it must be what was asked for.
pub(crate) fn agreed(fields: &HeaderMap, asked: Option<&Asked>) -> Result<HeaderValue, &'static str> {
    let Asked(token) = asked.ok_or("101 that nobody asked for")?;
    let mut values = fields.get_all(header::UPGRADE).iter();
    match (values.next(), values.next()) {
        (Some(said), None)
            if said.as_bytes().trim_ascii().eq_ignore_ascii_case(token.as_bytes())
                && names_upgrade(fields) =>
        {
            Ok(said.clone())
        }
        _ => Err("101 for another protocol than the one that was asked for"),
    }
}

/// Makes the head of a 101, whose hop-by-hop fields have been taken out, the client's.
pub(crate) fn tell(head: &mut response::Parts, token: HeaderValue) {
    // They mean nothing in a 101 (RFC 9110 section 8.6).
    head.headers.remove(header::CONTENT_LENGTH);
    say(&mut head.headers, token);
}

/// Whether a client's connection stays what it is: what its reader and the request that asks share.
#[derive(Default)]
pub(crate) struct Switch {
    /// What has been read behind the request that asks, while nobody knows what it is.
    behind: Mutex<Option<BytesMut>>,
    declined: AtomicBool,
    agreed: Mutex<Option<Box<Agreed>>>,
}

/// Both sides want the tunnel.
pub(crate) struct Agreed {
    draft: Box<Draft>,
    upstream: Box<Upstream>,
    idle: Option<Duration>,
    open: Upgraded,
}

impl Agreed {
    /// `draft` is the record of the request that asked, `fields` are those of the 101.
    pub(crate) fn new(
        downstream: &Downstream,
        mut draft: Box<Draft>,
        (fields, upstream): (&HeaderMap, Box<Upstream>),
    ) -> Self {
        let is_websocket = fields
            .get(header::UPGRADE)
            .is_some_and(|token| token.as_bytes().eq_ignore_ascii_case(b"websocket"));
        draft.upgraded(if is_websocket { "WebSocket" } else { "Upgrade" });
        let timeouts = draft.cluster.as_ref().map_or(downstream.timeouts, |cluster| cluster.timeouts);
        let open = downstream.relay.observer.metrics.upgraded();
        Self { draft, upstream, idle: timeouts.tunnel_idle, open }
    }
}

impl Switch {
    /// Nothing is read from now on; this has been read already.
    pub(crate) fn hold(&self, behind: BytesMut) {
        *self.behind.lock() = Some(behind);
    }

    fn holds(&self) -> bool {
        self.behind.lock().is_some()
    }

    /// The connection stays: what was held is the next request.
    pub(crate) fn decline(&self) {
        self.declined.store(true, Relaxed);
    }

    /// What was held, once the connection is known to stay.
    pub(crate) fn release(&self) -> Option<BytesMut> {
        if self.declined.swap(false, Relaxed) { self.behind.lock().take() } else { None }
    }

    /// The client is being told.
    pub(crate) fn agree(&self, agreed: Agreed) {
        *self.agreed.lock() = Some(Box::new(agreed));
    }

    /// What there is to carry on, when HTTP has ended on the connection.
    pub(crate) fn take(&self) -> Option<Box<Agreed>> {
        self.agreed.lock().take()
    }
}

/// Carries an upgraded connection to its end; `told` where the client has the whole 101.
pub(crate) async fn carry(downstream: &Downstream, agreed: Box<Agreed>, told: bool) {
    let Agreed { draft, upstream, idle, open } = *agreed;
    let flow = Flow::default();
    let outcome = if told {
        let behind = downstream.switch.behind.lock().take().unwrap_or_default();
        let (upstream, said) = upstream.into_wire();
        let outcome = flow.run(downstream, &upstream.wire, (&behind, &said), idle).await;
        if outcome.is_err() {
            wire::reset_on_close(upstream.wire.stream());
        }
        outcome
    } else {
        Err(untold(downstream))
    };
    drop(open);
    flow.end(downstream, draft, outcome);
}

fn untold(downstream: &Downstream) -> Failure {
    match downstream.why_it_broke_off() {
        Failure { reason: Reason::DownstreamReset, error: None, .. } => {
            Failure::new(Reason::DownstreamReset, &"the client did not take the answer to its upgrade")
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn s22_only_what_is_allowed_is_asked_for_and_only_where_connection_names_it() {
        let rules = Rules { upgrades: vec!["websocket".to_owned()], ..Rules::default() };
        let token =
            |pairs: &[_]| wanted(&fields(pairs), &rules).map(|token| token.to_str().unwrap().to_owned());
        let is = |token: &str| Some(token.to_owned());
        assert_eq!(
            token(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]),
            is("WebSocket")
        );
        assert_eq!(token(&[("connection", "upgrade"), ("upgrade", "h2c, websocket")]), is("websocket"));
        assert_eq!(
            token(&[("connection", "upgrade"), ("upgrade", "h2c"), ("upgrade", "websocket")]),
            is("websocket")
        );
        for none in [
            &[("upgrade", "websocket")][..],
            &[("connection", "upgrade")],
            &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")],
            &[("connection", "upgraded"), ("upgrade", "websocket")],
            &[("connection", "upgrade"), ("upgrade", "websocket/13")],
            &[("connection", "close"), ("upgrade", "websocket")],
        ] {
            assert_eq!(token(none), None, "{none:?}");
        }
    }

    #[test]
    fn u8_a_101_is_for_what_was_asked_for() {
        let asked = Asked(HeaderValue::from_static("websocket"));
        let agrees = |pairs: &[_]| agreed(&fields(pairs), Some(&asked)).is_ok();
        assert!(agrees(&[("connection", "Upgrade"), ("upgrade", "WebSocket")]));
        assert!(!agrees(&[("connection", "Upgrade"), ("upgrade", "x")]));
        assert!(!agrees(&[("connection", "Upgrade"), ("upgrade", "websocket"), ("upgrade", "x")]));
        assert!(!agrees(&[("connection", "Upgrade"), ("upgrade", "websocket, x")]));
        assert!(!agrees(&[("connection", "Upgrade")]));
        assert!(!agrees(&[("upgrade", "websocket")]));
        assert!(agreed(&fields(&[("connection", "Upgrade"), ("upgrade", "websocket")]), None).is_err());
    }
}

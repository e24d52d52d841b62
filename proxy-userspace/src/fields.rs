//! Header fields on their way through: everything passes as it is, in its order and case, but what
//! belongs to one hop only (RFC 9110 section 7.6.1).

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
};
use std::net::IpAddr;

/// Which way a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    /// Towards the endpoint. Its Transfer-Encoding stays: hyper frames the body as it says.
    Request,
    /// Towards the client.
    Answer,
}

/// Takes out the fields that end here, those that Connection names among them.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, message: Message) {
    if headers.keys().any(|name| ends_here(name, message)) {
        let named = named_by_connection(headers);
        let leaves = |name: &HeaderName| !ends_here(name, message) && !named.contains(name);
        retain(headers, leaves);
    }
}

/// Appends the client's address to X-Forwarded-For: only where the endpoint cannot see it.
pub(crate) fn append_forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    if let Ok(value) = HeaderValue::from_str(&client.to_string()) {
        headers.append(HeaderName::from_static("x-forwarded-for"), value);
    }
}

/// Tells an endpoint behind a Gateway who asks, for which host, and how.
pub(crate) fn say_who_asks(headers: &mut HeaderMap, client: IpAddr, scheme: &'static str) {
    append_forwarded_for(headers, client);
    headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static(scheme));
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
}

fn ends_here(name: &HeaderName, message: Message) -> bool {
    match name.as_str() {
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "upgrade" => true,
        "expect" | "http2-settings" => message == Message::Request,
        "transfer-encoding" => message == Message::Answer,
        _ => false,
    }
}

/// Fields that Connection names; never those that delimit or address the message.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
    names.filter(|name| ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name)).collect()
}

/// Keeps the order, which `HeaderMap::remove` does not.
fn retain(headers: &mut HeaderMap, stays: impl Fn(&HeaderName) -> bool) {
    let before = std::mem::replace(headers, HeaderMap::with_capacity(headers.len()));
    let mut last = None;
    for (name, value) in before {
        if name.is_some() {
            last = name;
        }
        if let Some(name) = last.as_ref().filter(|name| stays(name)) {
            headers.append(name.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }

    fn listed(map: &HeaderMap) -> Vec<(&str, &str)> {
        map.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
    }

    #[test]
    fn hop_by_hop_fields_and_those_that_connection_names_end_here() {
        let mut map = headers(&[
            ("host", "web"),
            ("connection", "keep-alive, X-Hop, close"),
            ("x-hop", "1"),
            ("a", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("a", "2"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("proxy-connection", "keep-alive"),
            ("trailer", "x"),
            ("b", "3"),
        ]);
        strip_hop_by_hop(&mut map, Message::Request);
        assert_eq!(listed(&map), [("host", "web"), ("a", "1"), ("a", "2"), ("b", "3")]);
    }

    #[test]
    fn connection_cannot_name_what_delimits_or_addresses_the_message() {
        let mut map =
            headers(&[("host", "web"), ("connection", "Host, Content-Length"), ("content-length", "3")]);
        strip_hop_by_hop(&mut map, Message::Request);
        assert_eq!(listed(&map), [("host", "web"), ("content-length", "3")]);
    }

    #[test]
    fn the_framing_of_a_request_stays_and_that_of_an_answer_goes() {
        let chunked = [("transfer-encoding", "chunked"), ("b", "1")];
        let (mut request, mut answer) = (headers(&chunked), headers(&chunked));
        strip_hop_by_hop(&mut request, Message::Request);
        strip_hop_by_hop(&mut answer, Message::Answer);
        assert_eq!(listed(&request), chunked);
        assert_eq!(listed(&answer), [("b", "1")]);
    }

    #[test]
    fn the_clients_address_is_appended_to_what_was_there() {
        let mut map = headers(&[("x-forwarded-for", "192.0.2.1")]);
        append_forwarded_for(&mut map, [10, 1, 0, 9].into());
        assert_eq!(listed(&map), [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-for", "10.1.0.9")]);
    }
}

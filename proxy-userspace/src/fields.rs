//! Header fields on their way through: everything passes as it is, in its order and case, but what
//! belongs to one hop only (RFC 9110 section 7.6.1).

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, MAX_FORWARDS, TRANSFER_ENCODING},
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

/// Gives each value memory of its own, for a message that goes by HTTP/2. A value is a part of the buffer that it
/// was read into, 8 KiB or more, and the table that HPACK compresses by keeps the values that it knows, some fifty of
/// them, for as long as the connection lives (RFC 7541 section 2.3.2): with each it would keep the buffer.
pub(crate) fn detach(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        if let Ok(mut own) = HeaderValue::from_bytes(value.as_bytes()) {
            own.set_sensitive(value.is_sensitive());
            *value = own;
        }
    }
}

/// Whether a request may go on, and says to the next hop how much further. `false` where it is ours to answer:
/// OPTIONS and TRACE count hops (RFC 9110 section 7.6.2). `Err` says why there is no count.
pub(crate) fn take_hop(method: &Method, headers: &mut HeaderMap) -> Result<bool, &'static str> {
    if *method != Method::OPTIONS && *method != Method::TRACE {
        return Ok(true);
    }
    let mut values = headers.get_all(MAX_FORWARDS).iter();
    let Some(value) = values.next() else { return Ok(true) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (Some(digits), None) = (digits.filter(|digits| !digits.is_empty()), values.next()) else {
        return Err("Max-Forwards is not one number");
    };
    // More hops than can be counted are as many as can.
    let Some(left) = digits.parse().unwrap_or(u64::MAX).checked_sub(1) else { return Ok(false) };
    headers.insert(MAX_FORWARDS, HeaderValue::from(left));
    Ok(true)
}

/// Appends the client's address to X-Forwarded-For: only where the endpoint cannot see it.
pub(crate) fn append_forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    if let Ok(value) = HeaderValue::from_str(&client.to_string()) {
        headers.append(X_FORWARDED_FOR, value);
    }
}

/// What endpoints behind Gateways are told of clients.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Telling {
    /// So many proxies in front of the agent are believed.
    pub(crate) trusted: usize,
    /// `Forwarded` too (RFC 7239).
    pub(crate) forwarded: bool,
}

/// Tells an endpoint behind a Gateway who asks, for which host, and how. What clients say about that is believed
/// where so many proxies in front of the agent are trusted, and only as far as they have said it themselves.
pub(crate) fn say_who_asks(
    headers: &mut HeaderMap,
    (client, scheme): (IpAddr, &'static str),
    Telling { trusted, forwarded }: Telling,
) {
    let (proto, host) =
        (HeaderName::from_static("x-forwarded-proto"), HeaderName::from_static("x-forwarded-host"));
    let before = forwarded_for(headers, trusted);
    let believed = [&proto, &host].map(|name| headers.get(name).filter(|_| trusted > 0).cloned());
    if headers.keys().any(says_who_asks) {
        retain(headers, |name| !says_who_asks(name));
    }
    let [said_proto, said_host] = believed;
    let said_proto = said_proto.unwrap_or(HeaderValue::from_static(scheme));
    let said_host = said_host.or_else(|| headers.get(HOST).cloned());
    let all = forwarded.then(|| forwarded_by(&before, client, (&said_proto, said_host.as_ref())));
    for hop in before {
        headers.append(X_FORWARDED_FOR, hop);
    }
    append_forwarded_for(headers, client);
    headers.insert(proto, said_proto);
    headers.extend(said_host.map(|said| (host, said)));
    headers.extend(all.flatten().map(|all| (FORWARDED, all)));
}

/// RFC 7239 section 4: an element a hop, the last of them the client's as the agent sees it. What a proxy has said
/// that is no address is not repeated.
fn forwarded_by(
    before: &[HeaderValue],
    client: IpAddr,
    (proto, host): (&HeaderValue, Option<&HeaderValue>),
) -> Option<HeaderValue> {
    let address = |hop: &HeaderValue| hop.to_str().ok()?.parse().ok();
    let node = |address: Option<IpAddr>| match address {
        Some(IpAddr::V4(v4)) => format!("for={v4}"),
        Some(IpAddr::V6(v6)) => format!("for=\"[{v6}]\""),
        None => "for=unknown".to_owned(),
    };
    let mut all: Vec<_> = before.iter().map(|hop| node(address(hop))).collect();
    let is_plain =
        |text: &&str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte));
    let said = |value: &HeaderValue| value.to_str().ok().filter(is_plain).map(str::to_owned);
    let mut own = node(Some(client));
    own.extend(host.and_then(said).map(|host| format!(";host=\"{host}\"")));
    own.extend(
        said(proto).filter(|proto| !proto.contains([':', '[', ']'])).map(|proto| format!(";proto={proto}")),
    );
    all.push(own);
    HeaderValue::try_from(all.join(", ")).ok()
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Fields by which whoever stands before an endpoint says what the endpoint cannot see.
fn says_who_asks(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-forwarded-")
        || name.starts_with("x-weir-")
        || matches!(name, "forwarded" | "x-real-ip")
}

/// The last so many addresses of X-Forwarded-For, in their order.
fn forwarded_for(headers: &HeaderMap, last: usize) -> Vec<HeaderValue> {
    let values = headers.get_all(X_FORWARDED_FOR).iter();
    let hops = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let hops: Vec<_> = hops.filter_map(|hop| HeaderValue::from_bytes(hop).ok()).collect();
    hops.into_iter().rev().take(last).rev().collect()
}

fn ends_here(name: &HeaderName, message: Message) -> bool {
    match name.as_str() {
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "upgrade" => true,
        "expect" | "http2-settings" | "proxy-authorization" => message == Message::Request,
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
    fn detached_values_are_the_same_and_keep_no_buffer() {
        let mut buffer = bytes::Bytes::from(vec![b'v'; 8192]);
        let mut map = HeaderMap::new();
        for name in [HOST, FORWARDED, FORWARDED] {
            map.append(name, HeaderValue::from_maybe_shared(buffer.split_to(3)).unwrap());
        }
        map.get_mut(HOST).unwrap().set_sensitive(true);
        assert!(!buffer.is_unique());
        let before = map.clone();
        detach(&mut map);
        assert_eq!(map, before);
        assert!(map.get(HOST).unwrap().is_sensitive());
        drop(before);
        assert!(buffer.is_unique());
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
    fn s33_what_is_for_this_hop_ends_here_also_where_connection_does_not_name_it() {
        let mut map = headers(&[
            ("proxy-authorization", "Basic eA=="),
            ("te", "trailers, gzip"),
            ("trailer", "x"),
            ("http2-settings", "AAMA"),
            ("proxy-connection", "close"),
            ("authorization", "Basic eA=="),
        ]);
        strip_hop_by_hop(&mut map, Message::Request);
        assert_eq!(listed(&map), [("authorization", "Basic eA==")]);
    }

    #[test]
    fn s34_what_a_client_says_about_itself_is_believed_only_of_proxies_that_are_trusted() {
        let said = [
            ("host", "web"),
            ("x-forwarded-for", "192.0.2.9, 192.0.2.1"),
            ("forwarded", "for=192.0.2.9"),
            ("x-forwarded-for", "192.0.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "192.0.2.9"),
            ("a", "1"),
        ];
        let told = |trusted| {
            let mut map = headers(&said);
            say_who_asks(&mut map, ([10, 1, 0, 9].into(), "http"), Telling { trusted, forwarded: false });
            listed(&map)
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let own = "host=web a=1 x-forwarded-for=10.1.0.9 x-forwarded-proto=http x-forwarded-host=web";
        assert_eq!(told(0), own);
        let behind_two = "host=web a=1 x-forwarded-for=192.0.2.1 x-forwarded-for=192.0.2.2 x-forwarded-for=10.1.0.9 \
                          x-forwarded-proto=https x-forwarded-host=web";
        assert_eq!(told(2), behind_two);
    }

    /// RFC 7239 section 4.
    #[test]
    fn s34_forwarded_is_told_on_request_and_never_what_a_client_says_there() {
        let told = |said: &[(&str, &str)], client: IpAddr, trusted| {
            let mut map = headers(said);
            say_who_asks(&mut map, (client, "http"), Telling { trusted, forwarded: true });
            let all: Vec<_> = map.get_all("forwarded").iter().map(|value| value.to_str().unwrap()).collect();
            all.join(" | ")
        };
        let v4 = [10, 1, 0, 9].into();
        let said =
            [("host", "web:80"), ("forwarded", "for=evil"), ("x-forwarded-for", "a\", fd00::2, 192.0.2.1")];
        assert_eq!(told(&said, v4, 0), "for=10.1.0.9;host=\"web:80\";proto=http");
        let three = "for=unknown, for=\"[fd00::2]\", for=192.0.2.1, for=10.1.0.9;host=\"web:80\";proto=http";
        assert_eq!(told(&said, v4, 3), three);
        let odd = [("host", "web"), ("x-forwarded-proto", "a;b"), ("x-forwarded-host", "x\";by=y")];
        assert_eq!(told(&odd, "fd00::1".parse().unwrap(), 1), "for=\"[fd00::1]\"");
        assert_eq!(told(&[], v4, 0), "for=10.1.0.9;proto=http");
    }

    /// RFC 9110 section 7.6.2.
    #[test]
    fn options_and_trace_count_their_hops_and_others_do_not() {
        let left = |method: &Method, said: &[&str]| {
            let mut map = headers(&said.iter().map(|value| ("max-forwards", *value)).collect::<Vec<_>>());
            let further = take_hop(method, &mut map);
            let left: Vec<_> = listed(&map).into_iter().map(|(_, value)| value.to_owned()).collect();
            further.map(|further| (further, left.join(" ")))
        };
        for method in [&Method::OPTIONS, &Method::TRACE] {
            assert_eq!(left(method, &[]), Ok((true, String::new())));
            assert_eq!(left(method, &["0"]), Ok((false, "0".to_owned())));
            assert_eq!(left(method, &["1"]), Ok((true, "0".to_owned())));
            assert_eq!(left(method, &["10"]), Ok((true, "9".to_owned())));
            assert_eq!(left(method, &["99999999999999999999999"]), Ok((true, (u64::MAX - 1).to_string())));
            for odd in [&["-1"][..], &[""], &["a"], &["+1"], &["1, 1"], &["1", "1"]] {
                assert!(left(method, odd).is_err(), "{odd:?}");
            }
        }
        assert_eq!(left(&Method::GET, &["0"]), Ok((true, "0".to_owned())));
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

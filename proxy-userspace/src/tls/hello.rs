//! The name that a client asks a server for, where the bytes are passed on and the session is not ours.

use crate::{detect::read_some, downstream::Downstream, route::host};
use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use tokio::time::Instant;

/// The longest greeting that is looked at.
const MOST: usize = 16 * 1024;

/// What the first bytes of a connection say.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Greeting {
    /// They are the beginning of a greeting.
    Unsure,
    /// A whole one: the name, where it has one.
    Whole(Option<Box<str>>),
    /// It is none.
    Other,
}

/// Reads a ClientHello (RFC 8446 section 4.1.2) with its server_name (RFC 6066 section 3).
pub(crate) fn greeting(mut bytes: &[u8]) -> Greeting {
    match bytes {
        [0x16] => return Greeting::Unsure,
        [0x16, 0x03, ..] => {}
        _ => return Greeting::Other,
    }
    let mut acceptor = Acceptor::default();
    loop {
        match acceptor.read_tls(&mut bytes) {
            Ok(1..) => {}
            Ok(0) => return Greeting::Unsure,
            Err(_) => return Greeting::Other,
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(|name| host::name(name).into());
                return Greeting::Whole(name);
            }
            Ok(None) => {}
            Err(_) => return Greeting::Other,
        }
    }
}

/// The same, of a connection: reads on where the greeting came in pieces. Not for longer than a client may be
/// silent at first, lest something that only looks like TLS waits for its answer. Returns all that was read.
pub(crate) async fn of(downstream: &Downstream, first: Bytes) -> (Bytes, Option<Box<str>>) {
    let until = Instant::now() + downstream.relay.settings.detect_timeout;
    let mut bytes = BytesMut::from(first);
    loop {
        match greeting(&bytes) {
            Greeting::Whole(name) => return (bytes.freeze(), name),
            Greeting::Unsure if bytes.len() < MOST => {}
            Greeting::Unsure | Greeting::Other => return (bytes.freeze(), None),
        }
        match tokio::time::timeout_at(until, read_some(downstream)).await {
            Ok(Ok(more)) if !more.is_empty() => bytes.extend_from_slice(&more),
            // Whatever it is, the tunnel finds it again.
            _ => return (bytes.freeze(), None),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::testing::certificates::Authority;
    use rustls::ClientConnection;
    use std::sync::Arc;

    fn hello(name: &str) -> Vec<u8> {
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(Authority::new().client()), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_greeting_names_its_server_when_it_is_whole_and_not_before() {
        let bytes = hello("Shop.Example.com");
        for end in 1..bytes.len() {
            assert_eq!(greeting(bytes.get(..end).unwrap()), Greeting::Unsure, "{end}");
        }
        assert_eq!(greeting(&bytes), Greeting::Whole(Some("shop.example.com".into())));
        assert_eq!(greeting(&hello("192.0.2.1")), Greeting::Whole(None), "an address is no name");
        assert_eq!(greeting(&[&bytes[..], b"\x17\x03\x03\x00\x01x"].concat()), greeting(&bytes));
    }

    #[test]
    fn what_is_no_greeting_names_nobody() {
        for other in [
            &b""[..],
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03\x01\x00\x04\xff\x00\x00\x00",
            b"\x16\x03\x01\x00\x00hello",
        ] {
            assert_eq!(greeting(other), Greeting::Other, "{other:?}");
        }
    }
}

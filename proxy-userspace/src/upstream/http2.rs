//! Requests as an endpoint gets them that speaks HTTP/2, and what its errors say.

use crate::fields;
use http::{
    HeaderValue, Request, Uri, Version,
    header::{CONNECTION, HOST, TRANSFER_ENCODING},
    uri::{Authority, PathAndQuery, Scheme},
};
use std::{error::Error, net::SocketAddr};

/// The request of the pipeline, which speaks HTTP/1.1, in the form of RFC 9113 section 8.3.1.
pub(super) fn request<B>(mut request: Request<B>, endpoint: SocketAddr, is_secure: bool) -> Request<B> {
    let host = request.headers_mut().remove(HOST);
    request.headers_mut().remove(TRANSFER_ENCODING);
    request.headers_mut().remove(CONNECTION);
    fields::detach(request.headers_mut());
    let named = host.as_ref().map(HeaderValue::as_bytes).and_then(|host| Authority::try_from(host).ok());
    let authority = named.or_else(|| Authority::try_from(endpoint.to_string()).ok());
    let mut parts = http::uri::Parts::default();
    let target = request.uri().path_and_query().cloned();
    parts.path_and_query = Some(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    parts.scheme = Some(if is_secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = authority;
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_2;
    request
}

/// The endpoint has certainly not acted on the request: it may be sent again, whatever it is (RFC 9113
/// sections 6.8 and 8.7).
pub(super) fn is_unprocessed(error: &hyper::Error) -> bool {
    let Some(cause) = cause(error).filter(|cause| cause.is_remote()) else { return false };
    cause.is_go_away() || (cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// The endpoint does not speak HTTP/2, or not well.
pub(crate) fn is_bad_answer(error: &hyper::Error) -> bool {
    cause(error).is_some_and(|cause| cause.is_library() && !cause.is_io())
}

fn cause(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = error.source();
    while let Some(one) = source {
        if let Some(found) = one.downcast_ref() {
            return Some(found);
        }
        source = one.source();
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::request;
    use http::Request;

    #[test]
    fn the_host_becomes_the_authority_and_the_coding_goes() {
        let asked = Request::post("/a?b").header("host", "web:80").header("transfer-encoding", "chunked");
        let made = request(asked.body(()).unwrap(), "10.0.0.1:80".parse().unwrap(), false);
        assert_eq!(made.uri().to_string(), "http://web:80/a?b");
        assert!(made.headers().is_empty());
    }

    #[test]
    fn a_request_without_a_host_gets_the_endpoints_address() {
        let made = request(Request::options("*").body(()).unwrap(), "[::1]:80".parse().unwrap(), true);
        assert_eq!(made.uri().authority().unwrap(), "[::1]:80");
        assert_eq!((made.uri().path(), made.uri().scheme_str()), ("*", Some("https")));
    }
}

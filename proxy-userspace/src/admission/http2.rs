//! What hyper reads of a request by HTTP/2 and an intermediary must not pass on (`wire.md` H1 to H13). A
//! field that the next hop reads otherwise is worth as much as a bad frame.

use super::{Oddity, Refusal};
use http::{
    HeaderMap, Method, Request, StatusCode,
    header::{CONTENT_LENGTH, HOST},
};

/// Why a request must not be forwarded. `secure` says whether it came by TLS.
pub(crate) fn request<B>(request: &Request<B>, secure: bool) -> Option<Refusal> {
    let (uri, fields) = (request.uri(), request.headers());
    if *request.method() == Method::CONNECT {
        return Some(Oddity::Connect.because("CONNECT"));
    }
    if request.method().as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Some(Oddity::Method.because("method in lower case"));
    }
    // Without an authority the scheme is not known here any more.
    if uri.authority().is_some() && uri.scheme_str() != Some(if secure { "https" } else { "http" }) {
        return Some(Oddity::TargetForm.because("the scheme is not that of the connection"));
    }
    host(uri.authority().map(http::uri::Authority::as_str), fields).or_else(|| {
        let target = uri.path_and_query().map_or("", |target| target.as_str());
        path(target, request.method()).or_else(|| odd_field(fields))
    })
}

/// RFC 9113 section 8.3.1: the host is there, once, and the same wherever it is.
fn host(authority: Option<&str>, fields: &HeaderMap) -> Option<Refusal> {
    let mut hosts = fields.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Some(Oddity::Host.because("more than one Host field"));
    }
    match (authority, host) {
        (None, None) => Some(Oddity::Host.because("no authority")),
        (Some(authority), _) if authority.contains('@') => {
            Some(Oddity::Host.because("user information in the authority"))
        }
        (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
            Some(Oddity::Authority.because("the authority is not the Host field's"))
        }
        _ => None,
    }
}

fn path(target: &str, method: &Method) -> Option<Refusal> {
    if target == "*" {
        return (*method != Method::OPTIONS)
            .then(|| Oddity::TargetForm.because("the target * is for OPTIONS alone"));
    }
    if !target.starts_with('/') {
        return Some(Oddity::TargetForm.because("the target is no path"));
    }
    let odd = target.bytes().any(|byte| !byte.is_ascii_graphic());
    odd.then(|| Oddity::Path.because("the target has a byte that is not ASCII"))
}

fn odd_field(fields: &HeaderMap) -> Option<Refusal> {
    if fields.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Some(Oddity::ContentLength.because("more than one Content-Length"));
    }
    if fields.contains_key("http2-settings") {
        return Some(Oddity::Connection.because("HTTP2-Settings"));
    }
    let padded = |value: &[u8]| {
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        blank(value.first()) || blank(value.last())
    };
    let any = fields.values().any(|value| padded(value.as_bytes()));
    any.then(|| Oddity::FieldValue.because("a field's value begins or ends with a blank"))
}

/// Why an answer by HTTP/2 must not be forwarded.
pub(crate) fn answer(status: StatusCode) -> Option<Refusal> {
    let in_range = (200..600).contains(&status.as_u16());
    (!in_range).then(|| Oddity::Status.because("a status that is none, or of an answer before the answer"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::{Oddity, request as refused};
    use http::{HeaderValue, Request, Uri};

    fn get(uri: &str, fields: &[(&'static str, &[u8])]) -> Request<()> {
        let mut request = Request::get(uri).body(()).unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        request
    }

    #[test]
    fn what_everybody_sends_passes() {
        assert_eq!(refused(&get("http://web/a?b=%20", &[("x", b"a b")]), false), None);
        assert_eq!(refused(&get("http://WEB/", &[("host", b"web")]), false), None);
        assert_eq!(refused(&get("https://web/", &[]), true), None);
    }

    #[test]
    fn h1_a_request_without_a_host_is_refused() {
        assert_eq!(refused(&get("/a", &[]), false).unwrap().oddity, Oddity::Host);
        assert_eq!(refused(&get("/a", &[("host", b"web")]), false), None);
    }

    #[test]
    fn h2_an_authority_that_is_not_the_host_is_refused() {
        let other = refused(&get("http://web/", &[("host", b"other")]), false);
        assert_eq!(other.unwrap().oddity, Oddity::Authority);
    }

    #[test]
    fn h3_two_hosts_are_refused() {
        let two = get("http://web/", &[("host", b"web"), ("host", b"web")]);
        assert_eq!(refused(&two, false).unwrap().oddity, Oddity::Host);
    }

    #[test]
    fn h4_user_information_is_refused() {
        assert!(refused(&get("http://u:p@web/", &[]), false).is_some());
    }

    #[test]
    fn h5_a_target_that_is_not_ascii_is_refused() {
        assert!(refused(&get("http://web/\u{e9}", &[]), false).is_some());
    }

    #[test]
    fn h6_the_asterisk_is_for_options_alone() {
        let mut request = get("http://web/", &[]);
        *request.uri_mut() =
            Uri::builder().scheme("http").authority("web").path_and_query("*").build().unwrap();
        assert!(refused(&request, false).is_some());
        *request.method_mut() = http::Method::OPTIONS;
        assert_eq!(refused(&request, false), None);
    }

    #[test]
    fn h7_a_value_with_a_blank_at_an_end_is_refused() {
        for value in [&b" a"[..], b"a ", b"\ta", b"a\t", b" "] {
            assert!(refused(&get("http://web/", &[("x", value)]), false).is_some(), "{value:?}");
        }
        assert_eq!(refused(&get("http://web/", &[("x", b"")]), false), None);
    }

    #[test]
    fn h8_two_equal_lengths_are_refused() {
        let two = get("http://web/", &[("content-length", b"0"), ("content-length", b"0")]);
        assert!(refused(&two, false).is_some());
    }

    #[test]
    fn h9_the_scheme_is_that_of_the_connection() {
        assert!(refused(&get("https://web/", &[]), false).is_some());
        assert!(refused(&get("http://web/", &[]), true).is_some());
    }

    #[test]
    fn h10_http2_settings_is_refused() {
        assert!(refused(&get("http://web/", &[("http2-settings", b"AAMAAABk")]), false).is_some());
    }

    #[test]
    fn h11_a_method_in_lower_case_is_refused() {
        let mut request = get("http://web/", &[]);
        *request.method_mut() = http::Method::from_bytes(b"get").unwrap();
        assert!(refused(&request, false).is_some());
    }

    #[test]
    fn h12_connect_is_refused() {
        let mut request = get("http://web/", &[]);
        *request.method_mut() = http::Method::CONNECT;
        assert!(refused(&request, false).is_some());
    }
}

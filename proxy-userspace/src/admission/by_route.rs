//! What a connection lets through because one of its routes admits it, and the route that a request is for does not.

use super::{Law, Oddity, Refusal, Rules};
use crate::route::choices::{Choices, HeadLimits};
use http::{HeaderMap, Request};

/// Bytes of a request line but for method and target, with its end and that of the head.
const REQUEST_LINE: usize = "  HTTP/1.1\r\n\r\n".len();
/// What HTTP/2 counts (RFC 9113 section 6.5.2) beside the other fields for method, path and scheme, but for the
/// values of the first two, and for `:authority`, which is longer than `host`.
const PSEUDO_FIELDS: usize = 3 * 32 + ":method:path:scheme".len() + "https".len() + 6;

/// Judges a request by its own route's choices; its path is judged where it is matched. `is_stream` says that it came
/// by HTTP/2.
pub(crate) fn by_route<B>(
    request: &Request<B>,
    (rules, choices): (&Rules, Choices),
    is_stream: bool,
) -> Result<(), Refusal> {
    let fields = request.headers();
    check_size(request, choices.head, is_stream)?;
    let law = Law { rules, choices };
    if !law.allows_underscores() && fields.keys().any(|name| name.as_str().contains('_')) {
        return Err(Oddity::Underscore.because("a field's name has an underscore"));
    }
    Ok(())
}

/// As it would be sent on by HTTP/1.1, and by HTTP/2 as its peers count.
fn check_size<B>(request: &Request<B>, limits: HeadLimits, is_stream: bool) -> Result<(), Refusal> {
    let fields = request.headers();
    if fields.len() > limits.fields {
        return Err(Oddity::FieldCount.because("more fields than its route takes"));
    }
    let line = request.method().as_str().len() + target_length(request);
    let (total, longest) = sizes(fields);
    if longest > limits.field {
        return Err(Oddity::HeadLength.because("a field is longer than its route takes"));
    }
    let list = total + fields.len() * 32 + line + PSEUDO_FIELDS;
    if is_stream && list > limits.list() {
        return Err(Oddity::HeadLength.because("more bytes of fields than its route takes"));
    }
    if total + fields.len() * ": \r\n".len() + line + REQUEST_LINE > limits.bytes {
        return Err(Oddity::HeadLength.because("the head is longer than its route takes"));
    }
    Ok(())
}

/// Bytes of all names and values, and of the longest line.
fn sizes(fields: &HeaderMap) -> (usize, usize) {
    let lengths = fields.iter().map(|(name, value)| (name.as_str().len(), value.len()));
    lengths.fold((0, 0), |(total, longest), (name, value)| {
        (total + name + value, longest.max(name + ": ".len() + value))
    })
}

fn target_length<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let scheme = uri.scheme_str().map_or(0, |scheme| scheme.len() + "://".len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    scheme + authority + uri.path_and_query().map_or(0, |target| target.as_str().len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get("/a?b").body(()).unwrap();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
        request
    }

    fn judged(request: &Request<()>, head: HeadLimits, is_stream: bool) -> Option<Oddity> {
        let choices = Choices { head, ..Choices::default() };
        by_route(request, (&Rules::default(), choices), is_stream).err().map(|refusal| refusal.oddity)
    }

    #[test]
    fn p15_a_head_is_measured_as_it_would_be_sent_on() {
        let asked = request(&[("host", "web"), ("x", "yy")]);
        let bytes = "GET /a?b HTTP/1.1\r\nhost: web\r\nx: yy\r\n\r\n".len();
        let limits = HeadLimits { bytes, field: "host: web".len(), fields: 2 };
        assert_eq!(judged(&asked, limits, false), None);
        for (limits, oddity) in [
            (HeadLimits { bytes: bytes - 1, ..limits }, Oddity::HeadLength),
            (HeadLimits { field: limits.field - 1, ..limits }, Oddity::HeadLength),
            (HeadLimits { fields: 1, ..limits }, Oddity::FieldCount),
        ] {
            assert_eq!(judged(&asked, limits, false), Some(oddity), "{limits:?}");
        }
    }

    /// RFC 9113 section 6.5.2.
    #[test]
    fn d10_by_http2_a_route_without_choices_takes_16_kib_whatever_its_neighbours_take() {
        let fields = |value: usize| request(&[("host", "web"), ("x", &"y".repeat(value))]);
        let parts = [(":method", 3), (":path", 4), (":scheme", 4), (":authority", 3), ("x", 0)];
        let rest: usize = parts.iter().map(|(name, value)| name.len() + value + 32).sum();
        // The scheme counts as `https`, whatever it is.
        let fitting = 16 * 1024 - rest - 1;
        let x = |value: usize| {
            judged(&fields(value), HeadLimits { field: 1 << 16, ..HeadLimits::default() }, false)
        };
        assert_eq!(x(fitting), None);
        assert_eq!(judged(&fields(fitting), HeadLimits::default(), true), None);
        assert_eq!(judged(&fields(fitting + 1), HeadLimits::default(), true), Some(Oddity::HeadLength));
        let large = HeadLimits { bytes: 1 << 17, field: 1 << 16, fields: 100 };
        assert_eq!(judged(&fields(60_000), large, true), None);
    }

    #[test]
    fn s7_an_underscore_passes_where_the_route_keeps_it() {
        let asked = request(&[("host", "web"), ("user_id", "7")]);
        assert_eq!(judged(&asked, HeadLimits::default(), false), Some(Oddity::Underscore));
        let keeps = Choices { keeps_underscores: true, ..Choices::default() };
        assert!(by_route(&asked, (&Rules::default(), keeps), false).is_ok());
    }
}

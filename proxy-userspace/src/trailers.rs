//! Fields behind a body. They pass where both sides know that they may come, and only those that nobody has to
//! read before the body (RFC 9110 section 6.5.1).

use crate::fields;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{TE, TRAILER},
};

/// Whether whoever sent these fields takes trailers.
pub(crate) fn are_wanted(fields: &HeaderMap) -> bool {
    let values = fields.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case("trailers"))
}

/// Which trailers a message announces, of those that may pass.
pub(crate) fn announced(fields: &HeaderMap) -> Option<HeaderValue> {
    let values = fields.get_all(TRAILER).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(str::trim);
    let passing = |name: &&str| HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| passes(&name));
    let names: Vec<&str> = names.filter(passing).collect();
    (!names.is_empty()).then(|| HeaderValue::try_from(names.join(", ")).ok()).flatten()
}

/// The trailers that pass, in their order; by HTTP/2 perhaps.
pub(crate) fn passing(mut trailers: HeaderMap) -> HeaderMap {
    fields::detach(&mut trailers);
    if trailers.keys().all(passes) {
        return trailers;
    }
    let mut kept = HeaderMap::with_capacity(trailers.len());
    let mut last = None;
    for (name, value) in trailers {
        last = name.or(last);
        if let Some(name) = last.as_ref().filter(|name| passes(name)) {
            kept.append(name.clone(), value);
        }
    }
    kept
}

/// Not what frames or routes a message, says who asks, or how the body is to be read.
fn passes(name: &HeaderName) -> bool {
    let name = name.as_str();
    let told_before = matches!(
        name,
        "age"
            | "authorization"
            | "cache-control"
            | "connection"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "date"
            | "expect"
            | "expires"
            | "forwarded"
            | "host"
            | "keep-alive"
            | "location"
            | "max-forwards"
            | "pragma"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "range"
            | "retry-after"
            | "set-cookie"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "vary"
            | "via"
            | "www-authenticate"
    );
    !told_before && !name.starts_with("x-forwarded-") && !name.starts_with("if-")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn s19_what_frames_routes_or_authorises_is_no_trailer() {
        let sent = fields(&[
            ("grpc-status", "0"),
            ("host", "x"),
            ("content-length", "5"),
            ("cookie", "a"),
            ("b", "1"),
        ]);
        assert_eq!(passing(sent), fields(&[("grpc-status", "0"), ("b", "1")]));
        assert_eq!(announced(&fields(&[("trailer", "Host, b,c, ,Authorization")])).unwrap(), "b, c");
        assert_eq!(announced(&fields(&[("trailer", "host")])), None);
    }

    #[test]
    fn trailers_are_wanted_by_te_alone() {
        assert!(are_wanted(&fields(&[("te", "gzip, Trailers")])));
        assert!(!are_wanted(&fields(&[("te", "gzip")])) && !are_wanted(&fields(&[("trailer", "a")])));
    }
}

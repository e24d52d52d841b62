//! What hyper reads and an intermediary must not pass on: messages that the next hop may frame in another
//! way (RFC 9112 section 11.2). A request gets 400, an answer 502. Fails closed.

use http::{HeaderMap, header, response};

/// Why a request must not be forwarded.
pub(crate) fn request(fields: &HeaderMap) -> Option<&'static str> {
    coding(fields)
}

/// Why an answer must not be forwarded.
pub(crate) fn answer(head: &response::Parts) -> Option<&'static str> {
    if head.status.is_informational() {
        return Some("unexpected informational answer");
    }
    if head.status.as_u16() > 599 {
        return Some("status code out of range");
    }
    coding(&head.headers)
}

/// Chunked, once and alone, or none: an endpoint that does not know another coding reads what stands
/// behind the head as the next request.
fn coding(fields: &HeaderMap) -> Option<&'static str> {
    let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    let first = codings.next()?;
    if codings.next().is_some() || !first.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Some("transfer coding other than chunked");
    }
    fields.contains_key(header::CONTENT_LENGTH).then_some("both Content-Length and Transfer-Encoding")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http::{HeaderName, Response};

    fn fields(fields: &[(&str, &str)]) -> HeaderMap {
        let parse =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        fields.iter().map(parse).fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
    }

    #[test]
    fn s3_only_chunked_once_is_a_transfer_coding() {
        let te = "transfer-encoding";
        for codings in
            [&[(te, "gzip, chunked")][..], &[(te, "chunked"), (te, "chunked")], &[(te, "chunked, chunked")]]
        {
            assert_eq!(request(&fields(codings)), Some("transfer coding other than chunked"), "{codings:?}");
        }
        assert!(request(&fields(&[(te, "identity")])).is_some() && request(&fields(&[(te, "")])).is_some());
        assert_eq!(request(&fields(&[(te, "CHUNKED")])), None);
        assert_eq!(request(&fields(&[("content-length", "3")])), None);
        assert!(request(&fields(&[(te, "chunked"), ("content-length", "3")])).is_some());
    }

    #[test]
    fn an_answer_has_a_status_and_a_framing_that_every_client_knows() {
        let admitted = |status: u16, coding: &str| {
            let built = Response::builder().status(status).header("transfer-encoding", coding).body(());
            answer(&built.unwrap().into_parts().0)
        };
        assert_eq!(admitted(200, "chunked"), None);
        assert!(admitted(200, "gzip").is_some() && admitted(600, "chunked").is_some());
        assert!(admitted(103, "chunked").is_some());
    }
}

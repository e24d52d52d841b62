//! Messages of HTTP/2 as the pipeline knows them, which speaks HTTP/1.1: the host is a field, the target a
//! path, and a body without a length is chunked. What one of them says the other says too.

use crate::fields;
use http::{
    HeaderMap, HeaderValue, Request, Response, Uri,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING},
};
use http_body::Body;

/// A request that admission has let pass.
pub(super) fn request<B: Body>(request: Request<B>) -> Request<B> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().and_then(|one| HeaderValue::from_str(one.as_str()).ok());
    let host = authority.or_else(|| head.headers.get(HOST).cloned());
    let mut fields = HeaderMap::with_capacity(head.headers.len() + 2);
    fields.extend(host.map(|host| (HOST, host)));
    let mut last = None;
    for (name, value) in std::mem::take(&mut head.headers) {
        last = name.or(last);
        match &last {
            Some(name) if *name == HOST => {}
            Some(name) if *name == COOKIE => join_crumb(&mut fields, value),
            Some(name) => {
                fields.append(name.clone(), value);
            }
            None => {}
        }
    }
    if !body.is_end_stream() && !fields.contains_key(CONTENT_LENGTH) {
        fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(target) = head.uri.path_and_query() {
        head.uri = Uri::from(target.clone());
    }
    head.headers = fields;
    Request::from_parts(head, body)
}

/// Cookies may come one by one, and are one field elsewhere (RFC 9113 section 8.2.3).
fn join_crumb(fields: &mut HeaderMap, crumb: HeaderValue) {
    let joined = fields.get(COOKIE).map(|before| [before.as_bytes(), b"; ", crumb.as_bytes()].concat());
    let value = joined.and_then(|joined| HeaderValue::from_bytes(&joined).ok()).unwrap_or(crumb);
    fields.insert(COOKIE, value);
}

/// An answer: nothing in it is about the connection.
pub(super) fn answer<B>(mut answer: Response<B>) -> Response<B> {
    answer.headers_mut().remove(CONNECTION);
    fields::detach(answer.headers_mut());
    answer
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http_body_util::{Empty, Full};

    fn fields(request: &Request<impl Body>) -> Vec<(&str, &str)> {
        request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
    }

    #[test]
    fn the_authority_is_the_host_once_and_the_target_is_a_path() {
        let asked = Request::get("http://web:80/a?b").header("x", "1").header("host", "web:80");
        let made = request(asked.body(Empty::<&[u8]>::new()).unwrap());
        assert_eq!(
            (made.uri().to_string(), fields(&made)),
            ("/a?b".to_owned(), vec![("host", "web:80"), ("x", "1")])
        );
    }

    #[test]
    fn cookie_crumbs_are_joined_in_their_order() {
        let asked =
            Request::get("http://web/").header("cookie", "a=1").header("x", "1").header("cookie", "b=2");
        let made = request(asked.body(Empty::<&[u8]>::new()).unwrap());
        assert_eq!(fields(&made), [("host", "web"), ("cookie", "a=1; b=2"), ("x", "1")]);
    }

    #[test]
    fn a_body_without_a_length_is_chunked_whatever_the_method() {
        let asked = Request::get("http://web/").body(Full::new(&b"abc"[..])).unwrap();
        assert_eq!(fields(&request(asked)), [("host", "web"), ("transfer-encoding", "chunked")]);
        let asked = Request::get("http://web/").header("content-length", "3").body(Full::new(&b"abc"[..]));
        assert_eq!(fields(&request(asked.unwrap())), [("host", "web"), ("content-length", "3")]);
    }
}

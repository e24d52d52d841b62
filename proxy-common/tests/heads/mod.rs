//! Shared by the tests of the scanner and its fuzz target: what must agree.
#![allow(dead_code, reason = "each user takes what it needs")]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::panic, reason = "tests")]

mod generator;
mod reference;

pub(crate) use generator::*;

use proxy_common::head::{FIELDS_MAX, RequestHead, Unsure, scan_answer, scan_request};

/// What is accepted is what the second opinion and httparse read; whether it was.
pub(crate) fn request_agrees(bytes: &[u8]) -> bool {
    let found = scan_request(bytes);
    assert_eq!(found.ok(), reference::request(bytes), "{found:?}: {}", bytes.escape_ascii());
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX as usize];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(bytes);
    match found {
        Ok(head) => {
            let complete =
                parsed.is_ok_and(|status| status == httparse::Status::Complete(head.head_len as usize));
            assert!(complete, "{parsed:?}: {}", bytes.escape_ascii());
            same_request(bytes, &head, &request);
        }
        Err(Unsure::Incomplete) => {
            assert!(!parsed.is_ok_and(|status| status.is_complete()), "{}", bytes.escape_ascii());
        }
        Err(_) => {}
    }
    found.is_ok()
}

fn same_request(bytes: &[u8], head: &RequestHead, request: &httparse::Request<'_, '_>) {
    assert_eq!(request.method, Some(method_name(head.method)));
    assert_eq!(request.version, Some(1));
    assert_eq!(request.path.unwrap_or_default().as_bytes(), part(bytes, head.target));
    let values = |name: &str| -> Vec<&[u8]> {
        let named = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value).collect()
    };
    let [host] = values("host")[..] else { panic!("{}", bytes.escape_ascii()) };
    let name = part(bytes, head.host);
    assert!(host == name || host.starts_with(&[name, b":"].concat()), "{}", bytes.escape_ascii());
    let length = values("content-length").first().map_or(0, |value| decimal(value));
    assert_eq!(length, head.content_length);
    for absent in
        ["transfer-encoding", "upgrade", "expect", "te", "trailer", "max-forwards", "proxy-connection"]
    {
        assert!(values(absent).is_empty(), "{absent}");
    }
}

/// As [`request_agrees`], for an answer.
pub(crate) fn answer_agrees(bytes: &[u8], head_request: bool) -> bool {
    let found = scan_answer(bytes, head_request);
    assert_eq!(found.ok(), reference::answer(bytes, head_request), "{found:?}: {}", bytes.escape_ascii());
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX as usize];
    let mut answer = httparse::Response::new(&mut fields);
    let parsed = answer.parse(bytes);
    match found {
        Ok(head) => {
            let complete =
                parsed.is_ok_and(|status| status == httparse::Status::Complete(head.head_len as usize));
            assert!(complete, "{parsed:?}: {}", bytes.escape_ascii());
            assert_eq!(answer.code.map(u32::from), Some(head.status));
        }
        Err(Unsure::Incomplete) => {
            assert!(!parsed.is_ok_and(|status| status.is_complete()), "{}", bytes.escape_ascii());
        }
        Err(_) => {}
    }
    found.is_ok()
}

/// An accepted head cut short is incomplete, and what follows it changes nothing.
pub(crate) fn request_is_whole(bytes: &[u8], cuts: impl Iterator<Item = usize>) {
    let Ok(head) = scan_request(bytes) else { return };
    let whole = head.head_len as usize;
    assert_eq!(scan_request(&bytes[..whole]), Ok(head));
    for cut in cuts.filter(|cut| *cut < whole) {
        assert_eq!(scan_request(&bytes[..cut]), Err(Unsure::Incomplete), "{cut}: {}", bytes.escape_ascii());
    }
}

/// As [`request_is_whole`], for an answer.
pub(crate) fn answer_is_whole(bytes: &[u8], head_request: bool, cuts: impl Iterator<Item = usize>) {
    let Ok(head) = scan_answer(bytes, head_request) else { return };
    let whole = head.head_len as usize;
    assert_eq!(scan_answer(&bytes[..whole], head_request), Ok(head));
    for cut in cuts.filter(|cut| *cut < whole) {
        let found = scan_answer(&bytes[..cut], head_request);
        assert_eq!(found, Err(Unsure::Incomplete), "{cut}: {}", bytes.escape_ascii());
    }
}

fn decimal(value: &[u8]) -> u64 {
    value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
}

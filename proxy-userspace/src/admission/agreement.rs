//! What must hold for any bytes, for tests and `cargo fuzz run admission`: what is admitted is read the same way by
//! httparse and by the kernel half's scanner, which admits no head that is refused here, and however it is cut.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use super::{Framer, Oddity, Part};
use crate::route::choices::{Choices, EscapedSlashes, MOST};
use proxy_common::head::scan_request;
use std::sync::Arc;

/// What became of bytes: how many passed, how many messages began, and what ended the passing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fate {
    pub(super) passed: usize,
    pub(super) heads: u64,
    pub(super) refusal: Option<(Oddity, Part)>,
    pub(super) is_over: bool,
}

/// Bytes on their way through a framer, as the gates have it.
pub(super) struct Way {
    pub(super) framer: Framer,
    held: Vec<u8>,
    passed: usize,
}

impl Way {
    pub(super) fn new(framer: Framer) -> Self {
        Self { framer, held: Vec::new(), passed: 0 }
    }

    pub(super) fn read(&mut self, piece: &[u8]) {
        self.held.extend(piece);
        let passed = self.framer.admit(&self.held);
        self.held.drain(..passed);
        self.passed += passed;
    }

    pub(super) fn fate(&self) -> Fate {
        let refusal = self.framer.refusal().map(|(refusal, part)| (refusal.oddity, part));
        Fate { passed: self.passed, heads: self.framer.heads(), refusal, is_over: self.framer.is_over() }
    }
}

pub(super) fn strict() -> Framer {
    Framer::of_client(Arc::default(), false)
}

/// What a connection lets through of whose routes one or another admits everything.
fn generous() -> Framer {
    strict().admitting(Choices {
        head: MOST,
        escaped_slashes: EscapedSlashes::Keep,
        keeps_non_utf8: true,
        keeps_underscores: true,
        rejects_empty_segments: false,
    })
}

/// Length of the body, or that it is chunked, as httparse sees the head that passed.
fn framing(head: &[u8]) -> Option<u64> {
    let mut fields = [httparse::EMPTY_HEADER; MOST.fields];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(head);
    assert_eq!(parsed, Ok(httparse::Status::Complete(head.len())), "{}", head.escape_ascii());
    let values = |name: &str| {
        let named = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value).collect::<Vec<_>>()
    };
    assert!(values("host").len() <= 1);
    match (&values("transfer-encoding")[..], &values("content-length")[..]) {
        ([], []) => Some(0),
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => None,
        ([], [length]) => Some(std::str::from_utf8(length).unwrap().parse().unwrap()),
        odd => panic!("{odd:?} was admitted: {}", head.escape_ascii()),
    }
}

/// What must hold for any bytes of a client, whatever its routes admit; whether its first head is admitted by the
/// strict choices.
#[cfg_attr(not(fuzzing), allow(unreachable_pub, reason = "only the fuzz target is outside"))]
pub fn agrees(bytes: &[u8]) -> bool {
    let (admitted, more) = (agrees_with(bytes, strict), agrees_with(bytes, generous));
    assert!(more || !admitted, "what is more generous refuses more: {}", bytes.escape_ascii());
    admitted
}

fn agrees_with(bytes: &[u8], framer: fn() -> Framer) -> bool {
    let mut whole = Way::new(framer());
    whole.read(bytes);
    let scanned = scan_request(bytes);
    let mut first = Way::new(framer());
    let end = (1..=bytes.len()).find(|end| {
        first.read(&bytes[end - 1..*end]);
        first.framer.heads() > 0 || first.framer.refusal().is_some()
    });
    if let Ok(scanned) = &scanned {
        let passed = first.fate().passed;
        assert_eq!(
            passed,
            scanned.head_len as usize,
            "only the kernel half admits: {}",
            bytes.escape_ascii()
        );
    }
    if first.framer.heads() == 0 {
        return false;
    }
    let head = &bytes[..end.unwrap()];
    let length = framing(head.strip_prefix(b"\r\n").unwrap_or(head));
    match first.framer.awaits() {
        "length" => assert!(length.is_some_and(|length| length > 0)),
        "chunked" => assert_eq!(length, None),
        _ => assert_eq!(length, Some(0)),
    }
    if let Ok(scanned) = scanned {
        assert_eq!(length, Some(scanned.content_length));
    }
    // The whole, and piece by piece.
    let mut pieces = Way::new(framer());
    bytes.chunks(3).for_each(|piece| pieces.read(piece));
    assert_eq!(pieces.fate(), whole.fate(), "{}", bytes.escape_ascii());
    true
}

//! The scanner against a second opinion and httparse: what it accepts they read the same.
#![allow(clippy::indexing_slicing, reason = "tests")]

mod heads;

use heads::{Heads, answer_agrees, answer_is_whole, request_agrees, request_is_whole};
use proptest::prelude::*;

/// Each of the two big tests; together they are the million that invariant I1 asks for.
const CASES: usize = 600_000;

#[test]
fn generated_requests_are_read_as_by_other_parsers() {
    let mut heads = Heads::new(1);
    let mut accepted = 0;
    for _ in 0..CASES {
        let bytes = heads.request();
        if request_agrees(&bytes) {
            accepted += 1;
            request_is_whole(&bytes, std::iter::once(heads.below(bytes.len())));
        }
    }
    assert!(accepted > CASES / 10 && accepted < CASES * 9 / 10, "{accepted} accepted");
}

#[test]
fn generated_answers_are_read_as_by_other_parsers() {
    let mut heads = Heads::new(2);
    let mut accepted = 0;
    for case in 0..CASES {
        let (bytes, head_request) = (heads.answer(), case % 8 == 0);
        if answer_agrees(&bytes, head_request) {
            accepted += 1;
            answer_is_whole(&bytes, head_request, std::iter::once(heads.below(bytes.len())));
        }
    }
    assert!(accepted > CASES / 10 && accepted < CASES * 9 / 10, "{accepted} accepted");
}

#[test]
fn every_prefix_of_an_accepted_head_is_incomplete() {
    let mut heads = Heads::new(3);
    for _ in 0..1000 {
        let (request, answer) = (heads.request(), heads.answer());
        request_is_whole(&request, 0..request.len());
        answer_is_whole(&answer, false, 0..answer.len());
    }
}

/// The corpus of the fuzz target (`fuzz/`), which does the same with bytes of its own.
#[test]
fn the_fuzz_corpus_is_read_as_by_other_parsers() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/head");
    let files = std::fs::read_dir(corpus).expect("the corpus is committed");
    let mut accepted = 0;
    for file in files {
        let bytes = std::fs::read(file.expect("readable").path()).expect("readable");
        accepted += u32::from(request_agrees(&bytes));
        accepted += u32::from(answer_agrees(&bytes, false));
        request_is_whole(&bytes, 0..bytes.len());
        answer_is_whole(&bytes, false, 0..bytes.len());
    }
    assert!(accepted > 0, "the corpus has heads beyond doubt");
}

proptest! {
    #[test]
    fn any_bytes_are_read_as_by_other_parsers(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        request_agrees(&bytes);
        answer_agrees(&bytes, false);
    }

    #[test]
    fn any_target_is_read_as_by_other_parsers(target in "[/.a?%;~\\\\#@A-Z\u{e9}]{0,12}") {
        request_agrees(format!("GET /{target} HTTP/1.1\r\nHost: web\r\n\r\n").as_bytes());
        request_agrees(format!("GET {target} HTTP/1.1\r\nHost: web\r\n\r\n").as_bytes());
    }

    #[test]
    fn any_host_is_read_as_by_other_parsers(host in "[a-f.:0-9\\[\\]_ ,@-]{0,8}", port in 0_u32..70_000) {
        request_agrees(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        request_agrees(format!("GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n").as_bytes());
    }

    #[test]
    fn any_field_is_read_as_by_other_parsers(
        name in "(content-length|connection|te|trailer|proxy|upgrade|expect|host)?[a-z_ -]{0,3}",
        value in "[ \t]{0,2}(keep-alive|close|[0-9,+ -]{0,12})[ \t]{0,2}",
    ) {
        request_agrees(format!("PUT / HTTP/1.1\r\nHost: web\r\n{name}:{value}\r\n\r\n").as_bytes());
        answer_agrees(format!("HTTP/1.1 200 OK\r\n{name}:{value}\r\n\r\n").as_bytes(), false);
    }

    #[test]
    fn a_length_is_read_as_written(length in 0_u64..20_000_000_000) {
        let head = format!("PUT / HTTP/1.1\r\nHost: web\r\nContent-Length: {length}\r\n\r\n");
        prop_assert_eq!(request_agrees(head.as_bytes()), length < 10_000_000_000);
    }
}

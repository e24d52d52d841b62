//! Rows U1 to U13 that an endpoint's bytes decide.

use super::*;

fn endpoint(to_head: bool) -> Framer {
    let mut framer = Framer::of_endpoint(Arc::default());
    framer.expect(to_head, false);
    framer
}

/// Why an answer to GET is refused.
fn odd(answer: impl AsRef<[u8]>) -> Option<Oddity> {
    let found = fate(|| endpoint(false), answer.as_ref());
    found.refusal.map(|(oddity, _)| oddity)
}

fn with(fields: &str, rest: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{rest}")
}

#[test]
fn u6_a_bare_lf_is_repaired_unless_answers_are_to_be_strict() {
    let strict = || {
        let mut framer = Framer::of_endpoint(Arc::new(Rules { strict_answers: true, ..Rules::default() }));
        framer.expect(false, false);
        framer
    };
    for answer in
        ["HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\nX: y\r\n\r\nok"]
    {
        assert_eq!(odd(answer), None, "{answer:?}");
        let found = fate(strict, answer.as_bytes());
        assert_eq!(found.refusal, Some((Oddity::LineEnd, Part::Head)), "{answer:?}");
    }
    let plain = fate(strict, with("Content-Length: 2", "ok").as_bytes());
    assert_eq!((plain.refusal, plain.heads), (None, 1));
}

#[test]
fn u1_a_length_and_a_coding_are_refused() {
    let answer = with("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n");
    assert_eq!(odd(answer), Some(Oddity::BothLengths));
}

#[test]
fn u2_two_lengths_are_refused() {
    for lengths in [
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2, 2",
    ] {
        assert_eq!(odd(with(lengths, "ok")), Some(Oddity::ContentLength), "{lengths}");
    }
}

#[test]
fn u3_another_coding_than_chunked_is_refused() {
    for codings in ["gzip", "chunked, gzip", "chunked\r\nTransfer-Encoding: chunked", "chunked, chunked"] {
        let refusal = odd(with(&format!("Transfer-Encoding: {codings}"), "0\r\n\r\n"));
        assert_eq!(refusal, Some(Oddity::TransferEncoding), "{codings}");
    }
    assert_eq!(odd(with("Transfer-Encoding: gzip, chunked", "0\r\n\r\n")), Some(Oddity::TransferCoding));
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(odd(old), Some(Oddity::TransferEncoding));
}

#[test]
fn u4_an_odd_chunk_is_refused_before_the_bodys_end() {
    for rest in ["3\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "x\r\n", "3 \r\nabc\r\n0\r\n\r\n"] {
        assert_eq!(odd(with("Transfer-Encoding: chunked", rest)), Some(Oddity::Chunk), "{rest:?}");
    }
}

#[test]
fn u5_what_stands_behind_an_answer_never_passes() {
    let whole = with("Content-Length: 2", "ok");
    let second = with("Content-Length: 6", "poison");
    for (answer, to_head) in [
        (whole, false),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), false),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n".to_owned(), false),
        (with("Content-Length: 2", ""), true),
        (with("Transfer-Encoding: chunked", "0\r\n\r\n"), false),
    ] {
        let found = fate(|| endpoint(to_head), format!("{answer}{second}").as_bytes());
        assert_eq!(found.passed, answer.len(), "{answer:?}");
        assert_eq!(found.refusal, Some((Oddity::Unasked, Part::Head)), "{answer:?}");
    }
}

#[test]
fn u6_a_bare_lf_in_a_head_is_an_endpoints_own_affair() {
    let answer = "HTTP/1.1 200 OK\nContent-Length: 2\n\nok";
    let found = fate(|| endpoint(false), answer.as_bytes());
    assert_eq!((found.passed, found.refusal), (answer.len(), None));
}

#[test]
fn u7_a_status_is_three_digits_from_100_to_599() {
    for line in [
        "HTTP/1.1 099 X",
        "HTTP/1.1 1000 X",
        "HTTP/1.1 999 X",
        "HTTP/1.1 600 X",
        "HTTP/1.1 20 X",
        "HTTP/1.1 2x0 X",
        "HTTP/1.1 000",
        "HTTP/1.1  200 X",
        "HTTP/1.1 200 a\0b",
    ] {
        assert_eq!(odd(format!("{line}\r\n\r\n")), Some(Oddity::Status), "{line:?}");
    }
    for line in ["HTTP/2.0 200 OK", "http/1.1 200 OK", "SSH-2.0-OpenSSH_9.2", "ICY 200 OK", "", "HTTP/1.1"] {
        assert!(odd(format!("{line}\r\n\r\n\r\n")).is_some(), "{line:?}");
    }
    for line in ["HTTP/1.1 599 X", "HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.0 404 Not \u{e4}"] {
        assert_eq!(odd(format!("{line}\r\nContent-Length: 0\r\n\r\n")), None, "{line:?}");
    }
}

#[test]
fn u8_an_unasked_101_and_more_than_sixteen_interim_answers_are_refused() {
    assert_eq!(odd("HTTP/1.1 101 Switching Protocols\r\n\r\n"), Some(Oddity::Status));
    let hints = |count: usize| "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n".repeat(count);
    let last = with("Content-Length: 0", "");
    assert_eq!(odd(hints(16) + &last), None);
    assert_eq!(odd(hints(17) + &last), Some(Oddity::Interim));
}

#[test]
fn u9_a_head_has_limits() {
    let fields = |count: usize| vec!["X: y"; count].join("\r\n");
    let of = |answer: String| {
        let mut way = Way::new(endpoint(false));
        answer.as_bytes().chunks(1000).for_each(|piece| way.read(piece));
        way.fate().refusal.map(|(oddity, _)| oddity)
    };
    assert_eq!(of(with(&format!("{}\r\nContent-Length: 0", fields(99)), "")), None);
    assert_eq!(of(with(&fields(150), "")), Some(Oddity::FieldCount));
    let long = vec![format!("X: {}", "y".repeat(10_000)); 50].join("\r\n");
    assert_eq!(of(with(&long, "")), Some(Oddity::HeadLength));
}

#[test]
fn u10_what_does_not_begin_with_a_status_line_is_refused() {
    assert_eq!(odd("<html>\r\nhello\r\n\r\n"), Some(Oddity::FirstLine));
}

#[test]
fn u13_a_line_end_within_a_value_is_refused() {
    assert_eq!(odd(with("Location: /a\rX-Evil: 1", "")), Some(Oddity::FieldValue));
    assert_eq!(odd(with("Location: /a\r\n /b", "")), Some(Oddity::Fold));
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection() {
    let answer = with("Server: x", "all\r\n\r\nof it");
    let found = fate(|| endpoint(false), answer.as_bytes());
    assert_eq!((found.passed, found.refusal), (answer.len(), None));
}

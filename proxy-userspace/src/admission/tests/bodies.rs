//! Rows S15 to S19: the framing of chunked bodies.

use super::*;

/// The fate of a chunked body; `passed` counts its own bytes.
fn body(bytes: impl AsRef<[u8]>) -> Fate {
    let head = post("Transfer-Encoding: chunked");
    let all = [head.as_bytes(), bytes.as_ref()].concat();
    let found = fate(strict, &all);
    assert_eq!(found.heads.min(1), 1, "{found:?}");
    Fate { passed: found.passed - head.len(), ..found }
}

fn is_refused(bytes: &str) -> bool {
    let found = body(bytes);
    // Whatever has passed, the body's end has not.
    found.refusal.is_some_and(|(_, part)| part == Part::Body) && !found.is_over && found.heads == 1
}

#[test]
fn s15_a_size_that_is_no_plain_hexadecimal_number_is_refused() {
    for size in ["0x3", "-3", "+3", " 3", "", "FFFFFFFFFFFFFFFFF", "3g", "FFFFFFFFFFFFFFFF", "3_0", "\"3\""] {
        assert!(is_refused(&format!("{size}\r\nabc\r\n0\r\n\r\n")), "{size:?}");
    }
}

#[test]
fn s16_zeros_before_a_size_are_admitted_up_to_sixteen_digits_and_a_space_is_not() {
    let with = |size: &str| format!("{size}\r\nabc\r\n0\r\n\r\n");
    for size in ["3", "03", "0000000000000003"] {
        let all = with(size);
        let found = body(&all);
        assert_eq!((found.refusal, found.passed), (None, all.len()), "{size}");
    }
    for size in ["3 ", "3\t", "0000000000000000003", "3 ;a"] {
        assert!(is_refused(&with(size)), "{size:?}");
    }
    assert_eq!(body("000\r\n\r\n").refusal, None);
}

#[test]
fn s17_every_line_of_a_chunk_ends_with_cr_lf() {
    for bytes in [
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabcXX",
        "3\r\nab\r\n0\r\n\r\n",
        "3\rabc",
        "3\r\nabc\r0",
    ] {
        assert!(is_refused(bytes), "{bytes:?}");
    }
}

#[test]
fn s18_a_chunk_extension_is_admitted_up_to_a_kibibyte_a_body() {
    for extension in [";a=b", ";a", ";a=\"b c\"", ";"] {
        let all = format!("3{extension}\r\nabc\r\n0\r\n\r\n");
        let found = body(&all);
        assert_eq!((found.refusal, found.passed), (None, all.len()), "{extension}");
    }
    assert!(is_refused("3;\nxx\r\nabc\r\n0\r\n\r\n"));
    assert!(is_refused("3;a\rb\r\nabc\r\n0\r\n\r\n"));
    assert!(is_refused("3;a\0\r\nabc\r\n0\r\n\r\n"));
    let long = |length: usize| format!("1;{}\r\na\r\n", "x".repeat(length));
    assert_eq!(body(long(1024) + "0\r\n\r\n").refusal, None);
    assert!(is_refused(&long(1025)));
    assert!(is_refused(&long(600).repeat(2)));
    assert!(is_refused(&long(20_000)[..1200]));
}

#[test]
fn s19_a_trailer_section_is_read_to_its_end_and_none_of_it_is_a_request() {
    let all = "0\r\nContent-Length: 5\r\nHost: evil\r\n\r\n";
    let next = target("/next");
    let found = body(format!("{all}{next}"));
    assert_eq!((found.passed, found.heads, found.refusal), (all.len() + next.len(), 2, None));
    for trailer in [
        "X: y\n\r\n",
        "X\r\n\r\n",
        " X: y\r\n\r\n",
        "X : y\r\n\r\n",
        "X: a\rb\r\n\r\n",
        "X: \0\r\n\r\n",
        "\n",
    ] {
        assert!(is_refused(&format!("0\r\n{trailer}")), "{trailer:?}");
    }
    assert!(is_refused(&format!("0\r\n{}", "X: y\r\n".repeat(65))));
    let mut way = Way::new(strict());
    way.read(format!("{}0\r\nX: {}\r\n", post("Transfer-Encoding: chunked"), "y".repeat(9000)).as_bytes());
    assert_eq!(way.fate().refusal, Some((Oddity::Trailer, Part::Body)));
}

#[test]
fn a_body_is_followed_to_its_end_and_the_next_request_begins_there() {
    let smuggled = target("/admin");
    let chunks = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    let found = body(format!("{chunks}{}", target("/next")));
    assert_eq!((found.heads, found.refusal), (2, None));
    let sized = post(&format!("Content-Length: {}", smuggled.len())) + &smuggled + &target("/next");
    assert_eq!(fate(strict, sized.as_bytes()).heads, 2);
}

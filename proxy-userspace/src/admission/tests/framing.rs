//! Rows S1 to S34 that a head decides, and K4.

use super::*;

#[test]
fn s1_s2_a_length_and_a_coding_are_refused_in_either_order() {
    for fields in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: chunked\r\nX: y\r\ncontent-length: 0",
    ] {
        assert_eq!(refused(post(fields)), Some(Oddity::BothLengths), "{fields}");
        assert_eq!(
            refused(post(fields) + "0\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n"),
            Some(Oddity::BothLengths)
        );
    }
}

#[test]
fn s3_chunked_once_and_alone_is_a_coding_and_another_before_it_is_501() {
    let te = "Transfer-Encoding";
    for codings in [
        format!("{te}: chunked\r\n{te}: chunked"),
        format!("{te}: identity\r\n{te}: chunked"),
        format!("{te}: chunked, chunked"),
        format!("{te}: identity"),
        format!("{te}: gzip"),
        format!("{te}: chunked, gzip"),
        format!("{te}: identity, chunked"),
        format!("{te}: , chunked"),
    ] {
        assert_eq!(refused(post(&codings)), Some(Oddity::TransferEncoding), "{codings}");
    }
    for codings in ["gzip, chunked", "deflate,gzip , chunked"] {
        let refusal = refused(post(&format!("{te}: {codings}")));
        assert_eq!(refusal, Some(Oddity::TransferCoding), "{codings}");
        assert_eq!(refusal.unwrap().status(), 501);
    }
}

#[test]
fn s4_an_obfuscated_coding_is_refused() {
    for field in [
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: ",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding:\r\n chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\r\n\tTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\x00",
        "Transfer-Encoding: chun\rked",
        "Transfer\x00-Encoding: chunked",
        "Transfer-Encoding\t: chunked",
    ] {
        let refusal = refused(post(field)).unwrap_or_else(|| panic!("admitted: {field:?}"));
        assert_eq!(refusal.status(), 400, "{field:?}");
    }
    let first = "POST / HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: h\r\n\r\n";
    assert_eq!(refused(first), Some(Oddity::Fold));
}

#[test]
fn s5_white_space_and_case_of_chunked_are_admitted() {
    for field in ["Transfer-Encoding:\tchunked", "transfer-encoding: CHUNKED", "TRANSFER-ENCODING:chunked  "]
    {
        assert_eq!(refused(post(field) + "0\r\n\r\n"), None, "{field:?}");
    }
}

#[test]
fn s6_a_coding_in_http_10_is_refused() {
    let head = "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(refused(head), Some(Oddity::TransferEncoding));
}

#[test]
fn s7_an_underscore_is_refused_unless_it_is_allowed_and_then_never_hides_the_framing() {
    for field in [
        "Transfer_Encoding: chunked\r\nContent-Length: 5",
        "Content_Length: 5",
        "X_Real_Ip: 10.0.0.1",
        "_: x",
    ] {
        assert_eq!(refused(post(field)), Some(Oddity::Underscore), "{field}");
    }
    let allowing = || {
        let rules = Rules { underscores: true, ..Rules::default() };
        Framer::of_client(Arc::new(rules), false)
    };
    assert_eq!(fate(allowing, get("X_Real_Ip: 10.0.0.1").as_bytes()).refusal, None);
    // What hyper would not read as the framing must not be read so here either: what passed as a body would be its
    // next request.
    for field in [
        "Transfer_Encoding: chunked\r\nContent-Length: 5",
        "Content_Length: 5\r\nContent-Length: 3",
        "Content_Length: 5",
        "TRANSFER_encoding: gzip",
    ] {
        let refusal = fate(allowing, post(field).as_bytes()).refusal;
        assert_eq!(refusal, Some((Oddity::Underscore, Part::Head)), "{field}");
    }
}

#[test]
fn s8_s9_s11_s12_a_length_that_is_no_plain_number_is_refused() {
    for length in [
        "+3",
        "-3",
        "0x3",
        "3 3",
        "",
        " ",
        "1_0",
        "18446744073709551616",
        "3, 4",
        "3, 3",
        "3,",
        "3;",
        "3.0",
        "18446744073709551615",
        "9223372036854775808",
        "1000000000000000000",
        "003",
        "00",
        "\u{b2}",
        "3\t3",
        "a",
    ] {
        let refusal = refused(post(&format!("Content-Length: {length}")));
        assert_eq!(refusal, Some(Oddity::ContentLength), "{length:?}");
    }
    assert_eq!(refused(post("Content-Length: 3\r\nContent-Length: 4")), Some(Oddity::ContentLength));
    for length in ["0", "3", "999999999999999999", " 3\t"] {
        assert_eq!(refused(post(&format!("Content-Length:{length}"))), None, "{length:?}");
    }
}

#[test]
fn s10_two_lengths_are_refused_even_where_equal() {
    assert_eq!(refused(post("Content-Length: 3\r\nContent-Length: 3")), Some(Oddity::ContentLength));
}

#[test]
fn s13_what_a_get_has_for_a_body_is_no_request() {
    let body = "GET /admin HTTP/1.1\r\nHost: h\r\nX: 1\r\n\r\n";
    let all = get(&format!("Content-Length: {}", body.len())) + body;
    let found = fate(strict, all.as_bytes());
    assert_eq!((found.passed, found.heads, found.refusal), (all.len(), 1, None));
}

#[test]
fn s23_connect_is_405_and_with_a_path_400() {
    let head = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: a:80\r\n\r\n");
    assert_eq!(refused(head("a:80")).map(Oddity::status), Some(405));
    assert_eq!(refused(head("/a")).map(Oddity::status), Some(400));
}

#[test]
fn s24_http_10_ends_its_connection_unless_it_keeps_it_alive() {
    let head = |fields: &str| format!("POST / HTTP/1.0\r\nHost: h\r\n{fields}\r\n");
    let again = head("");
    // Without a length there is no body, and what follows is nothing.
    let alone = fate(strict, (head("") + &again).as_bytes());
    assert_eq!((alone.heads, alone.is_over, alone.passed), (1, true, head("").len()));
    let kept = head("Connection: keep-alive\r\nContent-Length: 2\r\n") + "ab" + &again;
    let both = fate(strict, kept.as_bytes());
    assert_eq!((both.heads, both.is_over, both.passed), (2, true, kept.len()));
}

#[test]
fn s25_another_expectation_is_417() {
    assert_eq!(refused(post("Expect: 200-ok")).map(Oddity::status), Some(417));
    assert_eq!(refused(post("Expect: 100-continue, x")).map(Oddity::status), Some(417));
    assert_eq!(refused(post("Expect: 100-Continue\r\nContent-Length: 0")), None);
}

#[test]
fn s26_a_bare_lf_anywhere_is_refused() {
    for head in [
        "GET /a HTTP/1.1\nHost: h\n\n",
        "GET /a HTTP/1.1\nHost: h\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: h\r\n\n",
        "GET /a HTTP/1.1\r\nHost: h\n\r\n",
        "\n\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n",
        "\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        assert_eq!(refused(head), Some(Oddity::LineEnd), "{head:?}");
    }
}

#[test]
fn s27_control_characters_are_refused_in_names_and_values() {
    for byte in (0..=0x1f).chain([0x7f]).filter(|byte| !b"\t\n".contains(byte)) {
        for field in [&[b'X', byte, b':', b' ', b'y'][..], &[b'X', b':', b' ', b'y', byte, b'z']] {
            let head = [b"GET / HTTP/1.1\r\nHost: h\r\n", field, b"\r\n\r\n"].concat();
            assert!(refused(&head).is_some(), "{byte:#x} in {field:?}");
        }
    }
    assert_eq!(refused(get("X: a\tb")), None);
}

#[test]
fn s28_fold_empty_name_no_colon_and_a_space_in_front_are_refused() {
    for (field, oddity) in [
        ("X: y\r\n z", Oddity::Fold),
        ("X: y\r\n\tz", Oddity::Fold),
        (": y", Oddity::FieldName),
        ("X", Oddity::FieldName),
        ("X y: z", Oddity::FieldName),
        ("X\u{e4}: z", Oddity::FieldName),
        ("(X): z", Oddity::FieldName),
    ] {
        assert_eq!(refused(get(field)), Some(oddity), "{field:?}");
    }
    assert_eq!(refused(" GET / HTTP/1.1\r\nHost: h\r\n\r\n"), Some(Oddity::FirstLine));
}

#[test]
fn s29_bytes_beyond_ascii_pass_in_a_value() {
    assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: h\r\nX: a\xe9b\xff\r\n\r\n"), None);
}

#[test]
fn s30_one_empty_line_before_a_request_is_admitted() {
    assert_eq!(refused(format!("\r\n{}", target("/"))), None);
    assert_eq!(refused(format!("\r\n\r\n{}", target("/"))), Some(Oddity::EmptyLines));
    let between = format!("{}\r\n{}", target("/"), target("/"));
    assert_eq!(fate(strict, between.as_bytes()).heads, 2);
}

#[test]
fn s31_k4_requests_behind_one_another_are_judged_each_and_none_behind_a_bad_one() {
    let (good, bad) = (target("/a"), target("/a#b"));
    let all = [good.as_str(), &bad, &good].concat();
    let found = fate(strict, all.as_bytes());
    assert_eq!((found.passed, found.heads), (good.len(), 1));
    assert_eq!(found.refusal, Some((Oddity::TargetForm, Part::Head)));
    assert_eq!(fate(strict, good.repeat(3).as_bytes()).heads, 3);
}

#[test]
fn s32_connection_cannot_take_out_what_every_hop_needs() {
    for name in ["Host", "content-length", "Transfer-Encoding", "AUTHORIZATION", "Cookie", "x-weir-identity"]
    {
        assert_eq!(refused(get(&format!("Connection: close, {name}"))), Some(Oddity::Connection), "{name}");
    }
    assert_eq!(refused(get("Connection: a b")), Some(Oddity::Connection));
    assert_eq!(refused(get("Connection: \"x\"")), Some(Oddity::Connection));
    for option in ["close, X-Forwarded-For", "keep-alive", "", ",, close", "TE", "upgrade, http2-settings"] {
        assert_eq!(refused(get(&format!("Connection: {option}"))), None, "{option}");
    }
}

#[test]
fn a_connection_ends_behind_a_request_that_says_so() {
    let head = get("Connection: x, Close");
    let found = fate(strict, (head.clone() + "garbage").as_bytes());
    assert_eq!((found.passed, found.is_over, found.refusal), (head.len(), true, None));
}

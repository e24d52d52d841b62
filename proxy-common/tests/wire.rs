//! What the scanner makes of every hostile or odd request head on the list of what bad input must get.
//! Names begin with the entry's id: S framing, P target and host, K splitting. Entries about bodies,
//! about segments and about the user half alone are tested there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod heads;

use heads::part;
use proxy_common::head::{RequestHead, Unsure, WINDOW, scan_request};

/// `~` stands for CRLF.
fn wire(text: &str) -> Vec<u8> {
    text.replace('~', "\r\n").into_bytes()
}

fn scan(text: &str) -> Result<RequestHead, Unsure> {
    scan_request(&wire(text))
}

/// A request with this line behind its Host.
fn with_line(line: &str) -> Result<RequestHead, Unsure> {
    scan(&format!("POST / HTTP/1.1~Host: h~{line}~~"))
}

fn with_host(value: &str) -> Result<RequestHead, Unsure> {
    scan(&format!("GET / HTTP/1.1~Host:{value}~~"))
}

fn with_target(target: &str) -> Result<RequestHead, Unsure> {
    scan(&format!("GET {target} HTTP/1.1~Host: h~~"))
}

fn exact_target(target: &str) {
    let bytes = wire(&format!("GET {target} HTTP/1.1~Host: h~~"));
    let head = scan_request(&bytes).unwrap();
    assert_eq!(part(&bytes, head.target), target.as_bytes());
}

#[track_caller]
fn all(found: impl IntoIterator<Item = Result<RequestHead, Unsure>>, reason: Unsure) {
    for (at, one) in found.into_iter().enumerate() {
        assert_eq!(one, Err(reason), "the one at {at}");
    }
}

#[test]
fn s1_s2_both_framings_are_unsure_in_either_order() {
    let lines =
        ["Content-Length: 6~Transfer-Encoding: chunked", "Transfer-Encoding: chunked~Content-Length: 4"];
    all(lines.map(with_line), Unsure::TransferEncoding);
}

#[test]
fn s3_s5_any_transfer_encoding_is_unsure() {
    let values =
        [" chunked", " identity", " chunked, chunked", " gzip, chunked", ":\tchunked", " CHUNKED", ""];
    all(values.map(|value| with_line(&format!("transfer-ENCODING:{value}"))), Unsure::TransferEncoding);
    all(values.map(|value| with_line(&format!("A: b~Transfer-Encoding:{value}"))), Unsure::TransferEncoding);
}

#[test]
fn s4_an_obfuscated_transfer_encoding_is_unsure() {
    all(
        [with_line("Transfer-Encoding : chunked"), with_line("\x0bTransfer-Encoding: chunked")],
        Unsure::FieldName,
    );
    all([with_line(" Transfer-Encoding: chunked")], Unsure::Fold);
    let values = ["\"chunked\"", "xchunked", "chunked;a=b", "chunked\0", "\x0bchunked", "~ chunked"];
    all(values.map(|value| with_line(&format!("Transfer-Encoding: {value}"))), Unsure::TransferEncoding);
}

#[test]
fn s6_s24_http_1_0_is_unsure() {
    let heads =
        ["POST / HTTP/1.0~Transfer-Encoding: chunked~~", "GET / HTTP/1.0~Host: h~Connection: keep-alive~~"];
    all(heads.map(scan), Unsure::Version);
}

#[test]
fn s7_an_underscore_in_a_name_is_unsure() {
    let lines = [
        "Transfer_Encoding: chunked~Content-Length: 5",
        "Content_Length: 5",
        "X_Real_Ip: ::1",
        "_: a",
        "A_: a",
    ];
    all(lines.map(with_line), Unsure::FieldName);
}

#[test]
fn s8_s9_s12_a_length_that_is_no_plain_number_is_unsure() {
    let values = [
        "+3",
        "-3",
        "0x3",
        "3 3",
        "",
        " ",
        "1_0",
        "3, 4",
        "3, 3",
        "3,",
        "18446744073709551616",
        "18446744073709551615",
        "12345678901",
    ];
    all(values.map(|value| with_line(&format!("Content-Length: {value}"))), Unsure::ContentLength);
}

#[test]
fn s10_two_lengths_are_unsure_even_where_equal() {
    let lines = ["Content-Length: 3~Content-Length: 3", "Content-Length: 3~content-length: 4"];
    all(lines.map(with_line), Unsure::ContentLength);
}

#[test]
fn s11_leading_zeros_of_a_length_are_unsure() {
    all(
        ["003", "00", "01"].map(|value| with_line(&format!("Content-Length: {value}"))),
        Unsure::ContentLength,
    );
}

#[test]
fn s13_a_request_ends_where_its_length_says() {
    let bytes = wire("GET / HTTP/1.1~Host: h~Content-Length: 38~~GET /admin HTTP/1.1~Host: h~X: 1~~");
    let head = scan_request(&bytes).unwrap();
    assert_eq!(head.content_length, 38);
    assert!(bytes[head.head_len as usize..].starts_with(b"GET /admin"));
    assert_eq!(with_line("Content-Length: 0").unwrap().content_length, 0);
    assert_eq!(with_line("Content-Length:\t9999999999 ").unwrap().content_length, 9_999_999_999);
}

#[test]
fn s21_s22_an_upgrade_is_unsure() {
    all([with_line("Upgrade: websocket"), with_line("upgrade: h2c~HTTP2-Settings: AAMA")], Unsure::Upgrade);
    all([with_line("Connection: Upgrade~Upgrade: websocket")], Unsure::Connection);
}

#[test]
fn s23_connect_is_unsure() {
    all(["CONNECT a:80 HTTP/1.1~Host: a~~", "CONNECT /a HTTP/1.1~Host: a~~"].map(scan), Unsure::Method);
}

#[test]
fn s25_an_expectation_is_unsure() {
    all([with_line("Expect: 100-continue"), with_line("EXPECT: 200-ok")], Unsure::Expect);
}

#[test]
fn a_request_that_counts_its_hops_is_unsure() {
    all([with_line("Max-Forwards: 0"), with_line("max-forwards:10")], Unsure::HopByHop);
    assert!(scan("OPTIONS / HTTP/1.1~Host: h~Max-Forward: 1~~").is_ok());
}

#[test]
fn s26_a_bare_lf_anywhere_is_unsure() {
    let whole = wire("GET /a HTTP/1.1~Host: h:80~Content-Length: 3 ~Connection: keep-alive~A: b~~");
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] = b'\n';
        if bytes != whole {
            assert_eq!(scan_request(&bytes), Err(Unsure::LineEnd), "LF at {at}");
        }
        let mut bytes = whole.clone();
        if bytes[at] == b'\r' {
            bytes.remove(at);
            assert_eq!(scan_request(&bytes), Err(Unsure::LineEnd), "no CR at {at}");
        }
    }
}

#[test]
fn s27_control_characters_anywhere_are_unsure() {
    let whole = wire("GET /a HTTP/1.1~Host: h~A: b c~~");
    for at in 0..=whole.len() - 2 {
        for byte in (0..=8).chain([11, 12]).chain(14..=31).chain([13, 127]) {
            let mut bytes = whole.clone();
            bytes.insert(at, byte);
            let found = scan_request(&bytes);
            assert!(found.is_err_and(|reason| reason != Unsure::Incomplete), "{byte} at {at}: {found:?}");
        }
    }
    all([with_line("A: b\0"), with_line("A: b\x7f")], Unsure::FieldValue);
    all([with_line("A: b\rc"), with_line("A: b\r")], Unsure::LineEnd);
}

#[test]
fn s28_fold_empty_name_no_colon_and_a_space_in_front_are_unsure() {
    all([with_line("A: b~ c"), with_line("A: b~\tc")], Unsure::Fold);
    all([with_line(": b"), with_line("A"), with_line("A b"), with_line("A : b")], Unsure::FieldName);
    all([scan(" GET / HTTP/1.1~Host: h~~")], Unsure::Method);
    all([scan("GET / HTTP/1.1~ Host: h~~")], Unsure::Fold);
}

#[test]
fn s29_obs_text_passes_in_a_value_only() {
    let mut bytes = wire("GET / HTTP/1.1~Host: h~X: a?b~~");
    let at = bytes.iter().position(|byte| *byte == b'?').unwrap();
    bytes[at] = 0xe9;
    assert!(scan_request(&bytes).is_ok());
    all([with_line("X\u{e9}: a")], Unsure::FieldName);
}

#[test]
fn s30_empty_lines_in_front_are_unsure() {
    all(["~GET / HTTP/1.1~Host: h~~", "~~GET / HTTP/1.1~Host: h~~"].map(scan), Unsure::Method);
    all(["\nGET / HTTP/1.1~Host: h~~"].map(scan), Unsure::LineEnd);
}

#[test]
fn s31_k4_each_pipelined_request_has_a_head_of_its_own() {
    let bytes = wire("GET /a HTTP/1.1~Host: h~~GET /admin HTTP/1.1~Host: h~~");
    let first = scan_request(&bytes).unwrap();
    assert_eq!(part(&bytes, first.target), b"/a");
    let rest = &bytes[first.head_len as usize..];
    assert_eq!(part(rest, scan_request(rest).unwrap().target), b"/admin");
}

#[test]
fn s32_connection_may_say_keep_alive_and_nothing_else() {
    for value in [" keep-alive", "Keep-Alive", "\tKEEP-ALIVE \t"] {
        assert!(with_line(&format!("connection:{value}")).is_ok(), "{value}");
    }
    let values = [
        "close",
        "close, X-Forwarded-For",
        "Host",
        "content-length",
        "keep-alive, x",
        "keep-alive,",
        "keep",
        "",
        "keep-alives",
        "keep-alive x",
    ];
    all(values.map(|value| with_line(&format!("Connection: {value}"))), Unsure::Connection);
    all([with_line("Connection: keep-alive~Connection: keep-alive")], Unsure::Connection);
}

#[test]
fn s33_fields_of_one_hop_are_unsure_but_keep_alive() {
    let names = ["Proxy-Connection", "TE", "te", "Trailer", "Proxy-Authorization", "proxy-x"];
    all(names.map(|name| with_line(&format!("{name}: a"))), Unsure::HopByHop);
    for name in
        ["Keep-Alive", "Proxy", "Trailers", "T", "Tea", "Hos", "Hosts", "Content-Lengths", "Expectation"]
    {
        assert!(with_line(&format!("{name}: a")).is_ok(), "{name}");
    }
}

#[test]
fn s34_forwarding_fields_are_carried_as_they_are() {
    assert!(with_line("X-Forwarded-For: 10.0.0.1~Forwarded: for=10.0.0.1").is_ok());
}

#[test]
fn p1_p2_none_and_two_hosts_are_unsure() {
    let heads = [
        "GET / HTTP/1.1~~",
        "GET / HTTP/1.1~A: b~~",
        "GET / HTTP/1.1~Host: h~Host: h~~",
        "GET / HTTP/1.1~Host: h~host: i~~",
    ];
    all(heads.map(scan), Unsure::Host);
    all([with_host(" a, b")], Unsure::Host);
}

#[test]
fn p3_an_odd_host_is_unsure() {
    let values = [
        "", " ", "a/b@c", "u@a", "a:99999", "a:65536", "a:", "a:0", "a:080", "a:8a", "a:80:80", "a b",
        "a\\b", "a%41", "a..b", ".a", "a.", "[]", "[::1", "::1", "[::1]a", "[g]", "a[b]", "[::1]:", "\u{e9}",
    ];
    all(values.map(with_host), Unsure::Host);
}

#[test]
fn p3_the_port_is_not_part_of_the_host() {
    for (value, host) in [
        ("h", "h"),
        (" Web-1.Example_x:8080\t", "Web-1.Example_x"),
        ("10.0.0.1:59999 ", "10.0.0.1"),
        ("[fd00::1]:1", "[fd00::1]"),
        ("[::ffff:10.0.0.1]", "[::ffff:10.0.0.1]"),
    ] {
        let bytes = wire(&format!("GET / HTTP/1.1~Host:{value}~~"));
        let head = scan_request(&bytes).unwrap();
        assert_eq!(part(&bytes, head.host), host.as_bytes());
    }
}

#[test]
fn p4_p5_p6_anything_but_the_origin_form_is_unsure() {
    let targets = [
        "http://good/a",
        "ftp://good/a",
        "http://u:p@good/a",
        "http://good#f",
        "admin",
        "*",
        "a:80",
        "",
        " /a",
        "?a",
    ];
    all(targets.map(with_target), Unsure::TargetForm);
    all([scan("OPTIONS * HTTP/1.1~Host: h~~")], Unsure::TargetForm);
    all([scan("PRI * HTTP/2.0~~SM~~")], Unsure::Method);
}

#[test]
fn p7_an_empty_segment_is_unsure() {
    all(["//evil/x", "/a//b", "/a//", "//", "//?a"].map(with_target), Unsure::Segment);
    exact_target("/a/?b//c");
}

#[test]
fn p8_a_fragment_is_unsure() {
    all(["/a#b", "/a#/../admin", "/#", "/a?b#c"].map(with_target), Unsure::TargetByte);
}

#[test]
fn p9_dot_segments_are_unsure() {
    let targets =
        ["/a/../admin", "/./admin", "/a/..", "/a/.", "/.", "/..", "/../", "/a/..?b", "/a/.?b", "/a/./"];
    all(targets.map(with_target), Unsure::Segment);
    all(["/%2e%2e/admin", "/.%2e/", "/a%2f..%2fb"].map(with_target), Unsure::PercentEncoded);
    all(["/a/..;/admin"].map(with_target), Unsure::TargetByte);
    for target in ["/...", "/..a", "/.a", "/a.", "/a..", "/.well-known/x", "/a?b=../c"] {
        exact_target(target);
    }
}

#[test]
fn p10_p11_p12_encoded_paths_and_odd_bytes_are_unsure() {
    let targets = ["/a%2fadmin", "/a%5c", "/a/%252e%252e/admin", "/a%zz%2", "/a%00b", "/%c0%ae"];
    all(targets.map(with_target), Unsure::PercentEncoded);
    let targets =
        ["/a\\b", "/?\\", "/\u{e9}", "/a?\u{e9}", "/\"", "/<", "/{a}", "/a|b", "/^", "/`", "/[a]", "/a?[]=b"];
    all(targets.map(with_target), Unsure::TargetByte);
    exact_target("/a?b=%2f%zz");
}

#[test]
fn p13_the_target_is_what_was_sent() {
    for target in ["/Admin", "/admin", "/admin/", "/admin.", "/admin?x", "/admin?", "/a=b,c:d@e!$&'()*+"] {
        exact_target(target);
    }
    all([with_target("/admin;x")], Unsure::TargetByte);
    all(["/admin%20", "/admin%3f"].map(with_target), Unsure::PercentEncoded);
}

#[test]
fn p14_delimiters_methods_and_versions_are_exact() {
    let methods = ["get", "Get", "GETS", "GE", "TRACE", "PROPFIND", "G\u{e9}T", ""];
    all(methods.map(|method| scan(&format!("{method} / HTTP/1.1~Host: h~~"))), Unsure::Method);
    let lines = ["GET\t/ HTTP/1.1", "GET  / HTTP/1.1", "GET /\tHTTP/1.1", "GET / HTTP/1.1 ", "GET /"];
    for line in lines {
        assert!(scan(&format!("{line}~Host: h~~")).is_err(), "{line}");
    }
    let versions =
        ["HTTP/0.9", "HTTP/1.2", "HTTP/1.11", "http/1.1", "HTTP/2.0", "HTTPS/1.1", " HTTP/1.1", ""];
    all(versions.map(|version| scan(&format!("GET / {version}~Host: h~~"))), Unsure::Version);
    for (bit, method) in heads::METHODS.iter().enumerate() {
        assert_eq!(scan(&format!("{method} / HTTP/1.1~Host: h~~")).unwrap().method, 1 << bit);
    }
}

#[test]
fn p15_k3_a_head_beyond_the_window_or_the_number_of_fields_is_unsure() {
    let padded = |len: usize| {
        let head = format!("GET / HTTP/1.1~Host: h~A: {}~~", "x".repeat(len));
        (wire(&head).len(), scan(&head))
    };
    let room = WINDOW - padded(0).0;
    assert_eq!(padded(room).1.unwrap().head_len as usize, WINDOW);
    all([padded(room + 1).1, padded(room + 8).1, padded(60_000).1], Unsure::BeyondWindow);
    all([with_target(&format!("/{}", "a".repeat(8192)))], Unsure::BeyondWindow);
    assert!(scan(&format!("GET / HTTP/1.1~Host: h~{}~", "A: b~".repeat(99))).is_ok());
    all([scan(&format!("GET / HTTP/1.1~Host: h~{}~", "A: b~".repeat(100)))], Unsure::TooManyFields);
}

#[test]
fn k1_every_cut_is_incomplete() {
    let bytes = wire("GET /admin HTTP/1.1~Host: h~Content-Length: 1~~");
    for cut in 0..bytes.len() {
        assert_eq!(scan_request(&bytes[..cut]), Err(Unsure::Incomplete), "{cut}");
    }
    assert!(scan_request(&bytes).is_ok());
}

#[test]
fn k7_other_protocols_are_unsure() {
    for bytes in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PROXY TCP4 1 2 3 4\r\n",
        b"\r\n\r\n\0\r\nQUIT\n",
    ] {
        assert_eq!(scan_request(bytes), Err(Unsure::Method));
    }
}

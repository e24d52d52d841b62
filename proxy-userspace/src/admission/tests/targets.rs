//! Rows P1 to P16, and K1, K3, K7.

use super::*;

#[test]
fn p1_a_request_without_a_host_is_refused() {
    assert_eq!(refused("GET /a HTTP/1.1\r\n\r\n"), Some(Oddity::Host));
    assert_eq!(refused("GET http://h/a HTTP/1.1\r\n\r\n"), Some(Oddity::Host));
    assert_eq!(refused("GET /a HTTP/1.0\r\n\r\n"), None);
}

#[test]
fn p2_two_hosts_are_refused() {
    for hosts in ["Host: a\r\nHost: b", "Host: a\r\nhost: a", "Host: a, b", "Host: a b"] {
        let refusal = refused(format!("GET /a HTTP/1.1\r\n{hosts}\r\n\r\n"));
        assert_eq!(refusal, Some(Oddity::Host), "{hosts}");
    }
}

#[test]
fn p3_what_is_no_host_is_refused() {
    let with = |host: &str| refused(format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    for host in [
        "a/b@c",
        "u@a",
        "a:99999",
        "",
        " ",
        "a:",
        "a:b",
        "a:80:80",
        ":80",
        "[::1",
        "::1",
        "[::1]x",
        "[x]",
        "a?b",
        "a#b",
        "a%2eb",
        "[::1]:99999",
        "a\\b",
        "\u{e4}",
        "[]",
        "a:+80",
    ] {
        assert_eq!(with(host), Some(Oddity::Host), "{host:?}");
    }
    for host in ["a", "A.b-c.", "a:80", "10.0.0.1:8080", "[::1]", "[fd00::1]:80", "my_service", "a:0"] {
        assert_eq!(with(host), None, "{host:?}");
    }
}

#[test]
fn p4_an_authority_that_is_not_the_hosts_is_refused() {
    let with = |target: &str| refused(format!("GET {target} HTTP/1.1\r\nHost: good\r\n\r\n"));
    assert_eq!(with("http://evil/a"), Some(Oddity::Authority));
    assert_eq!(with("http://good:80/a"), Some(Oddity::Authority));
    assert_eq!(with("http:///a"), Some(Oddity::Authority));
    for target in ["http://good/a", "HTTP://GOOD/a?b", "http://good"] {
        assert_eq!(with(target), None, "{target}");
    }
}

#[test]
fn p5_another_url_is_refused() {
    for odd in
        ["ftp://h/a", "http://u:p@h/a", "http://h#f", "https://h/a", "http:h/a", "http://h?x", "file:///a"]
    {
        let refusal = refused(target(odd)).unwrap_or_else(|| panic!("admitted: {odd}"));
        assert_eq!(refusal.status(), 400, "{odd}");
    }
}

#[test]
fn p5_over_tls_a_url_is_one_of_https() {
    let secure = || Framer::of_client(Arc::default(), true);
    let of = |one: &str| fate(secure, target(one).as_bytes()).refusal.map(|(oddity, _)| oddity);
    assert_eq!(of("https://h/a"), None);
    assert_eq!(of("http://h/a"), Some(Oddity::TargetForm));
    assert_eq!(of("https://evil/a"), Some(Oddity::Authority));
}

#[test]
fn p6_only_paths_urls_and_the_star_of_options_are_targets() {
    for odd in ["admin", "*", "a:80", "?a", "http", "*/a"] {
        assert_eq!(refused(target(odd)), Some(Oddity::TargetForm), "{odd}");
    }
    assert_eq!(refused("PRI * HTTP/1.1\r\nHost: h\r\n\r\n").map(Oddity::status), Some(501));
    assert_eq!(refused("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"), None);
}

#[test]
fn p7_p9_slashes_and_dots_are_admitted_where_they_have_one_meaning() {
    for path in ["//evil/x", "/a/../admin", "/./admin", "/a/..", "/%2e%2e/admin/../..", "/.%2e/"] {
        let above = path::canonical(path).is_err();
        assert_eq!(refused(target(path)), above.then_some(Oddity::Path), "{path}");
    }
    for path in ["/a/..;/admin", "/..", "/a/../..", "/a/..%3b/b"] {
        assert_eq!(refused(target(path)), Some(Oddity::Path), "{path}");
    }
}

#[test]
fn p8_a_fragment_is_refused() {
    for odd in ["/a#b", "/a#/../admin", "/a?b#c", "/#"] {
        assert_eq!(refused(target(odd)), Some(Oddity::TargetForm), "{odd}");
    }
}

#[test]
fn p10_p12_odd_encodings_and_bytes_are_refused() {
    for path in ["/a%2fadmin", "/a%2Fb", "/a%5cb", "/a\\b", "/a%zz%2", "/a%", "/a%00b", "/%c0%ae", "/%ff"] {
        assert_eq!(refused(target(path)), Some(Oddity::Path), "{path}");
    }
    // What is no URI's byte, and hyper does not read either; what is none and everybody reads passes.
    for odd in ["/<a", "/a>", "/`", "/?<", "/?a>", "/?\""] {
        assert!(refused(target(odd)).is_some(), "{odd}");
    }
    assert_eq!(refused(target("/{a}|\"^?`{|}^")), None);
    for byte in (0_u8..=b' ').chain(0x7f..=0xff).filter(|byte| *byte != b'\n') {
        for raw in [&[b'/', b'a', byte, b'b'][..], &[b'/', b'?', byte]] {
            let head = [b"GET ", raw, b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
            assert!(refused(&head).is_some(), "{raw:?}");
        }
    }
}

#[test]
fn p11_what_is_encoded_twice_is_not_decoded_twice() {
    assert_eq!(refused(target("/a/%252e%252e/admin")), None);
    assert_eq!(path::canonical("/a/%252e%252e/admin").unwrap(), "/a/%252e%252e/admin");
}

#[test]
fn p13_case_and_parameters_are_a_paths_own() {
    for path in ["/Admin", "/admin;x", "/admin/", "/admin.", "/admin%20", "/admin?x", "/admin%3f"] {
        assert_eq!(refused(target(path)), None, "{path}");
        let only = path.split('?').next().unwrap();
        assert!(path::canonical(only).unwrap().eq_ignore_ascii_case(only), "{path}");
    }
}

#[test]
fn p14_delimiters_versions_and_methods_are_exact() {
    for (line, status) in [
        ("GET\t/ HTTP/1.1", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET /  HTTP/1.1", 400),
        ("GET /a b HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("GET /", 400),
        ("GET", 400),
        ("/", 400),
        ("GET / http/1.1", 400),
        ("GET / HTTP/1", 400),
        ("GET / HTTP/1.10", 400),
        ("GET / HTTP/01.1", 400),
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        ("G(T / HTTP/1.1", 400),
        ("get / HTTP/1.1", 501),
        ("GETT / HTTP/1.1", 501),
        ("X1 / HTTP/1.1", 501),
    ] {
        let refusal = refused(format!("{line}\r\nHost: h\r\n\r\n"));
        assert_eq!(refusal.map(Oddity::status), Some(status), "{line:?}");
    }
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "M-SEARCH"] {
        let head = format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n");
        let allowing = || {
            let rules = Rules { methods: vec!["M-SEARCH".to_owned()], ..Rules::default() };
            Framer::of_client(Arc::new(rules), false)
        };
        assert_eq!(fate(allowing, head.as_bytes()).heads, 1, "{method}");
    }
}

/// RFC 9110 section 9.3.8.
#[test]
fn trace_is_refused_unless_it_is_allowed_and_never_has_a_body() {
    assert_eq!(refused("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n"), Some(Oddity::Trace));
    assert_eq!(Oddity::Trace.status(), 405);
    let allowing = || {
        let rules = Rules { methods: vec!["TRACE".to_owned()], ..Rules::default() };
        Framer::of_client(Arc::new(rules), false)
    };
    let with =
        |fields: &str| fate(allowing, format!("TRACE / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes());
    assert_eq!((with("").heads, with("Content-Length: 0\r\n").heads), (1, 1));
    for body in ["Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n"] {
        assert_eq!(with(body).refusal, Some((Oddity::Trace, Part::Head)), "{body}");
    }
}

#[test]
fn p15_a_head_that_did_not_come_as_text_is_held_to_the_same_limits() {
    let check = |count: usize| {
        let mut fields = HeaderMap::from_iter([(http::header::HOST, http::HeaderValue::from_static("h"))]);
        for _ in 1..count {
            fields.append("x", http::HeaderValue::from_static("y"));
        }
        let law = (&Rules::default(), Choices::default());
        super::check("GET", "/", &fields, law).map_err(|refusal| refusal.oddity)
    };
    assert_eq!((check(100), check(101)), (Ok(()), Err(Oddity::FieldCount)));
}

#[test]
fn p15_k3_what_is_too_long_is_414_or_431() {
    let long = |length: usize| "a".repeat(length);
    for (head, status) in [
        (target(&format!("/{}", long(8191))), None),
        (target(&format!("/{}", long(8192))), Some(414)),
        (get(&vec!["X: y"; 99].join("\r\n")), None),
        (get(&vec!["X: y"; 100].join("\r\n")), Some(431)),
        (get(&format!("X: {}", long(16_381))), None),
        (get(&format!("X: {}", long(16_382))), Some(431)),
    ] {
        let found = once(&head);
        assert_eq!(found.refusal.map(|(oddity, _)| oddity.status()), status, "{} bytes", head.len());
    }
    // The whole head: 64 KiB are admitted, and a byte more is not.
    let fields = |last: usize| {
        let mut fields = vec![format!("X: {}", long(16_000)); 4];
        fields.push(format!("X: {}", long(last)));
        get(&fields.join("\r\n"))
    };
    let fitting = HEAD_MAX - fields(0).len();
    assert_eq!(once(&fields(fitting)).refusal, None);
    assert_eq!(once(&fields(fitting + 1)).refusal, Some((Oddity::HeadLength, Part::Head)));
    let line = once(&target(&format!("/{}", long(70_000)))).refusal;
    assert_eq!(line.map(|(oddity, _)| oddity.status()), Some(414));
}

#[test]
fn p15_what_one_route_takes_passes_and_what_none_does_is_refused_however_it_is_cut() {
    let head = HeadLimits { bytes: 200_000, field: 100_000, fields: 150 };
    let of = |text: &str, size: usize| {
        let mut way = Way::new(strict().admitting(Choices { head, ..Choices::default() }));
        text.as_bytes().chunks(size).for_each(|piece| way.read(piece));
        way.fate()
    };
    let long = |length: usize| format!("X: {}", "a".repeat(length));
    let whole = |last: usize| get(&[long(80_000), long(80_000), long(last)].join("\r\n"));
    let fitting = head.bytes - whole(0).len();
    for (text, oddity) in [
        (get(&long(99_997)), None),
        (get(&long(99_998)), Some(Oddity::HeadLength)),
        (whole(fitting), None),
        (whole(fitting + 1), Some(Oddity::HeadLength)),
        (get(&vec!["X: y"; 149].join("\r\n")), None),
        (get(&vec!["X: y"; 150].join("\r\n")), Some(Oddity::FieldCount)),
    ] {
        let found = of(&text, text.len());
        assert_eq!(found.refusal.map(|(oddity, _)| oddity), oddity, "{} bytes", text.len());
        for size in [1000, 65_535, 65_536, head.bytes - 1, head.bytes] {
            assert_eq!(of(&text, size), found, "{size} bytes at a time");
        }
    }
}

/// Too long for every cut: cut at some, and into small pieces.
fn once(head: &str) -> Fate {
    let bytes = head.as_bytes();
    let of = |size: usize| {
        let mut way = Way::new(strict());
        bytes.chunks(size).for_each(|piece| way.read(piece));
        way.fate()
    };
    let whole = of(bytes.len());
    for size in [7, 1460, 4096, 8192, HEAD_MAX - 1, HEAD_MAX, HEAD_MAX + 1] {
        assert_eq!(of(size), whole, "{size} bytes at a time");
    }
    whole
}

#[test]
fn k7_other_protocols_are_refused() {
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n",
        b"\x16\x03\x01\x02\x00\x01\n",
    ] {
        assert!(refused(bytes).is_some(), "{bytes:?}");
    }
}

use crate::route::{choices::HeadLimits, path};

const HEAD_MAX: usize = HeadLimits::STRICT.bytes;

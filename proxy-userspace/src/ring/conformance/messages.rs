//! RFC 9113 section 8: requests, and what makes one malformed.

use super::*;

fn with(name: &'static str, fields: &[(&str, &[u8])], expect: Expect) -> Case {
    case(name, frame(HEADERS, WHOLE, 1, &get(fields)), expect)
}

fn of(name: &'static str, fields: &[(&str, &[u8])], expect: Expect) -> Case {
    case(name, frame(HEADERS, WHOLE, 1, &block(fields)), expect)
}

const METHOD: (&str, &[u8]) = (":method", b"GET");
const SCHEME: (&str, &[u8]) = (":scheme", b"http");
const AUTHORITY: (&str, &[u8]) = (":authority", b"web");
const PATH: (&str, &[u8]) = (":path", b"/a");

pub(super) fn cases() -> Vec<Case> {
    [endings(), lengths(), fields(), connection_fields(), pseudo(), targets()].into_iter().flatten().collect()
}

fn post(length: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &asked("POST", &[("content-length", length)]))
}

fn data(flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, 1, bytes)
}

fn trailers(flags: u8) -> Vec<u8> {
    frame(HEADERS, flags, 1, &block(&[("x", b"1")]))
}

fn endings() -> Vec<Case> {
    vec![
        case(
            "8.1 trailers end a request",
            [posts(1), data(0, b"a"), trailers(WHOLE)].concat(),
            Expect::Answered(1),
        ),
        case(
            "8.1 trailers may come without a body",
            [posts(1), trailers(WHOLE)].concat(),
            Expect::Answered(1),
        ),
        case(
            "8.1 trailers that do not end the stream are malformed",
            [posts(1), data(0, b"a"), trailers(END_HEADERS)].concat(),
            Expect::Malformed,
        ),
        // Nobody below sees them: h2 leaves them out.
        case(
            "8.1 H13 pseudo-header fields among trailers go nowhere",
            [posts(1), frame(HEADERS, WHOLE, 1, &block(&[(":path", b"/b"), ("x", b"1")]))].concat(),
            Expect::Answered(1),
        ),
        case(
            "8.1 DATA behind trailers is an error",
            [posts(1), trailers(WHOLE), data(END_STREAM, b"a")].concat(),
            Expect::Stream(1, CLOSED),
        ),
    ]
}

fn lengths() -> Vec<Case> {
    vec![
        case(
            "8.1.1 a length that is that of the body is taken",
            [post(b"3"), data(END_STREAM, b"abc")].concat(),
            Expect::Answered(1),
        ),
        case(
            "8.1.1 a body shorter than its length is malformed",
            [post(b"5"), data(END_STREAM, b"abc")].concat(),
            Expect::Malformed,
        ),
        case(
            "8.1.1 a body longer than its length is malformed",
            [post(b"2"), data(END_STREAM, b"abc")].concat(),
            Expect::Malformed,
        ),
        case(
            "8.1.1 frames that are longer together are malformed",
            [post(b"3"), data(0, b"ab"), data(END_STREAM, b"cd")].concat(),
            Expect::Malformed,
        ),
        with("8.1.1 a length without a body is malformed", &[("content-length", b"1")], Expect::Malformed),
        with(
            "8.1.1 a length of none without a body is taken",
            &[("content-length", b"0")],
            Expect::Answered(1),
        ),
        case(
            "8.1.1 a length that is no number is malformed",
            [post(b"x"), data(END_STREAM, b"abc")].concat(),
            Expect::Malformed,
        ),
        case(
            "8.1.1 a negative length is malformed",
            [post(b"-3"), data(END_STREAM, b"abc")].concat(),
            Expect::Malformed,
        ),
        case(
            "8.1.1 two lengths that differ are malformed",
            [
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &asked("POST", &[("content-length", b"3"), ("content-length", b"4")]),
                ),
                data(END_STREAM, b"abc"),
            ]
            .concat(),
            Expect::Malformed,
        ),
    ]
}

fn fields() -> Vec<Case> {
    vec![
        with("8.2 a field is taken", &[("x-a", b"1")], Expect::Answered(1)),
        with("8.2.1 a name in upper case is malformed", &[("X-A", b"1")], Expect::Malformed),
        with("8.2.1 a name with a blank is malformed", &[("x a", b"1")], Expect::Malformed),
        with("8.2.1 an empty name is malformed", &[("", b"1")], Expect::Malformed),
        with("8.2.1 a name with a colon is malformed", &[("x:a", b"1")], Expect::Malformed),
        with("8.2.1 a name with a control character is malformed", &[("x\u{1}", b"1")], Expect::Malformed),
        with("8.2.1 a name that is not ASCII is malformed", &[("\u{e9}", b"1")], Expect::Malformed),
        with("8.2.1 a value with NUL is malformed", &[("x", b"a\0b")], Expect::Malformed),
        with("8.2.1 a value with CR is malformed", &[("x", b"a\rb")], Expect::Malformed),
        with("8.2.1 a value with LF is malformed", &[("x", b"a\nb")], Expect::Malformed),
        with("8.2.1 a value that begins with a blank is malformed", &[("x", b" a")], Expect::Malformed),
        with("8.2.1 a value that ends with a blank is malformed", &[("x", b"a ")], Expect::Malformed),
        with("8.2.1 a value that begins with a tab is malformed", &[("x", b"\ta")], Expect::Malformed),
        with("8.2.1 a value that ends with a tab is malformed", &[("x", b"a\t")], Expect::Malformed),
        with("8.2.1 an empty value is taken", &[("x", b"")], Expect::Answered(1)),
        with("8.2.1 a value with a blank inside is taken", &[("x", b"a b")], Expect::Answered(1)),
        with("8.2.1 a value that is not ASCII is taken", &[("x", b"a\xe9b")], Expect::Answered(1)),
        with(
            "8.2.3 cookies may be cut into crumbs",
            &[("cookie", b"a=1"), ("cookie", b"b=2")],
            Expect::Answered(1),
        ),
    ]
}

fn connection_fields() -> Vec<Case> {
    vec![
        with("8.2.2 Connection is malformed", &[("connection", b"close")], Expect::Malformed),
        with("8.2.2 Keep-Alive is malformed", &[("keep-alive", b"timeout=5")], Expect::Malformed),
        with("8.2.2 Proxy-Connection is malformed", &[("proxy-connection", b"close")], Expect::Malformed),
        with("8.2.2 Transfer-Encoding is malformed", &[("transfer-encoding", b"chunked")], Expect::Malformed),
        with("8.2.2 Upgrade is malformed", &[("upgrade", b"h2c")], Expect::Malformed),
        with("8.2.2 TE of anything but trailers is malformed", &[("te", b"gzip")], Expect::Malformed),
        with(
            "8.2.2 TE of trailers and something else is malformed",
            &[("te", b"trailers, gzip")],
            Expect::Malformed,
        ),
        with("8.2.2 TE of trailers is taken", &[("te", b"trailers")], Expect::Answered(1)),
    ]
}

fn pseudo() -> Vec<Case> {
    let all = [METHOD, SCHEME, AUTHORITY, PATH];
    let twice = |one: (&'static str, &'static [u8])| [&all[..], &[one]].concat();
    vec![
        with("8.3 an unknown pseudo-header field is malformed", &[(":x", b"1")], Expect::Malformed),
        with("8.3 that of an answer is malformed in a request", &[(":status", b"200")], Expect::Malformed),
        of(
            "8.3 one behind a field is malformed",
            &[METHOD, SCHEME, ("x", b"1"), AUTHORITY, PATH],
            Expect::Malformed,
        ),
        of("8.3 their order does not matter", &[PATH, AUTHORITY, SCHEME, METHOD], Expect::Answered(1)),
        of("8.3.1 two methods are malformed", &twice(METHOD), Expect::Malformed),
        of("8.3.1 two schemes are malformed", &twice(SCHEME), Expect::Malformed),
        of("8.3.1 two authorities are malformed", &twice(AUTHORITY), Expect::Malformed),
        of("8.3.1 two paths are malformed", &twice(PATH), Expect::Malformed),
        of("8.3.1 no method is malformed", &[SCHEME, AUTHORITY, PATH], Expect::Malformed),
        of("8.3.1 no scheme is malformed", &[METHOD, AUTHORITY, PATH], Expect::Malformed),
        of("8.3.1 no path is malformed", &[METHOD, SCHEME, AUTHORITY], Expect::Malformed),
        of("8.3.1 no authority is malformed", &[METHOD, SCHEME, PATH], Expect::Malformed),
        of(
            "8.3.1 a host instead of the authority is taken",
            &[METHOD, SCHEME, PATH, ("host", b"web")],
            Expect::Answered(1),
        ),
        with("8.3.1 a host that is the authority is taken", &[("host", b"web")], Expect::Answered(1)),
        with("8.3.1 a host that is not the authority is malformed", &[("host", b"other")], Expect::Malformed),
        with("8.3.1 two hosts are malformed", &[("host", b"web"), ("host", b"web")], Expect::Malformed),
    ]
}

fn targets() -> Vec<Case> {
    let path = |path: &'static [u8]| [METHOD, SCHEME, AUTHORITY, (":path", path)];
    let authority = |authority: &'static [u8]| [METHOD, SCHEME, (":authority", authority), PATH];
    let method = |method: &'static [u8]| [(":method", method), SCHEME, AUTHORITY, PATH];
    vec![
        of("8.3.1 an empty path is malformed", &path(b""), Expect::Malformed),
        of("8.3.1 a path without a slash is malformed", &path(b"a"), Expect::Malformed),
        of("8.3.1 a path with a blank is malformed", &path(b"/a b"), Expect::Malformed),
        of("8.3.1 a path with CR and LF is malformed", &path(b"/a\r\nx: y"), Expect::Malformed),
        of("8.3.1 a path that is not ASCII is malformed", &path(b"/\xc3\xa9"), Expect::Malformed),
        of("8.3.1 a URL as the path is malformed", &path(b"http://web/a"), Expect::Malformed),
        of("8.3.1 the asterisk is for OPTIONS alone", &path(b"*"), Expect::Malformed),
        of("8.3.1 a path with a query is taken", &path(b"/a?b=c&d"), Expect::Answered(1)),
        of("8.3.1 user information is malformed", &authority(b"u:p@web"), Expect::Malformed),
        of("8.3.1 an authority with a path is malformed", &authority(b"web/a"), Expect::Malformed),
        of("8.3.1 an empty authority is malformed", &authority(b""), Expect::Malformed),
        of("8.3.1 an authority with a port is taken", &authority(b"web:8080"), Expect::Answered(1)),
        of(
            "8.3.1 the scheme of TLS without TLS is malformed",
            &[METHOD, (":scheme", b"https"), AUTHORITY, PATH],
            Expect::Malformed,
        ),
        of(
            "8.3.1 a scheme that is none is malformed",
            &[METHOD, (":scheme", b"ht tp"), AUTHORITY, PATH],
            Expect::Malformed,
        ),
        of("8.3.1 an empty method is malformed", &method(b""), Expect::Malformed),
        of("8.3.1 a method with a blank is malformed", &method(b"GE T"), Expect::Malformed),
        of("8.3.1 a method in lower case is malformed", &method(b"get"), Expect::Refused),
        of("8.3.1 a method that nobody knows is taken", &method(b"PURGE"), Expect::Answered(1)),
        of("8.5 CONNECT with a path is malformed", &method(b"CONNECT"), Expect::Malformed),
        of("8.5 CONNECT is refused", &[(":method", b"CONNECT"), AUTHORITY], Expect::Refused),
        of(
            "8.5 an extended CONNECT that was not offered is malformed",
            &[&method(b"CONNECT")[..], &[(":protocol", b"websocket")]].concat(),
            Expect::Malformed,
        ),
    ]
}

#[tokio::test]
async fn rfc9113_8_messages() {
    conforms(cases()).await;
}

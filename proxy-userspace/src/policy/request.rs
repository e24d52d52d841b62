//! What a policy looks at in a request, and whether it can be looked at without doubt.
//!
//! A rule must match the very target that is forwarded, as the endpoint will read it. A target that
//! servers are known to read in more than one way is refused, not guessed at (invariant I10).

use crate::route::host;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

/// The parts of a request's head that rules match.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) version: Version,
    /// The first Host field.
    pub(crate) host: Option<&'a HeaderValue>,
    /// How many there are.
    pub(crate) hosts: usize,
    /// All fields.
    pub(crate) fields: &'a HeaderMap,
}

/// The same, checked, as rules match it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Subject<'a> {
    pub(super) method: &'a str,
    /// Path and query as sent.
    pub(super) target: &'a str,
    /// In lower case, with its port if it has one; `None` only for HTTP/1.0.
    pub(super) host: Option<String>,
    /// All fields.
    pub(super) fields: &'a HeaderMap,
    /// Bytes of the host without its port.
    name: usize,
}

impl<'a> Subject<'a> {
    /// `Err` says why the request cannot be decided about.
    pub(super) fn of(asked: &Asked<'a>) -> Result<Self, &'static str> {
        let host = host::of_request(asked.uri, asked.version, (asked.host, asked.hosts))?;
        let target = match asked.uri.path_and_query() {
            Some(target) => target.as_str(),
            None => return Err("the target is neither a path nor a URL"),
        };
        if target == "*" {
            if asked.method != Method::OPTIONS {
                return Err("the target * is for OPTIONS alone");
            }
        } else if let Some(why) = ambiguous(target.as_bytes()) {
            return Err(why);
        }
        let name = host.as_deref().map_or(0, |host| without_port(host).len());
        Ok(Self { method: asked.method.as_str(), target, host, fields: asked.fields, name })
    }

    /// The host without its port.
    pub(super) fn host_name(&self) -> Option<&str> {
        self.host.as_deref().and_then(|host| host.get(..self.name))
    }
}

/// `example.com:80` and `[::1]:80` without the port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// Why servers might disagree about what this target names, if they might (`wire.md` P7 to P13).
pub(super) fn ambiguous(target: &[u8]) -> Option<&'static str> {
    if target.first() != Some(&b'/') {
        return Some("the target does not begin with a slash");
    }
    if target.contains(&b'\\') {
        return Some("the target has a backslash");
    }
    if !target.iter().all(|byte| matches!(byte, b'!'..=b'~') && *byte != b'#') {
        return Some("the target has a byte that is not a target's");
    }
    // No server looks for the way in the query: as it is sent, so it is matched.
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    if let Some(why) = encodings(path) {
        return Some(why);
    }
    if path.windows(2).any(|pair| pair == b"//") {
        return Some("the path has an empty segment");
    }
    path.split(|byte| *byte == b'/').find_map(segment)
}

/// Percent-encodings that servers decode at different times, or not at all.
fn encodings(path: &[u8]) -> Option<&'static str> {
    let mut rest = path.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            continue;
        }
        let (Some(high), Some(low)) = (rest.next().and_then(digit), rest.next().and_then(digit)) else {
            return Some("the path has a broken percent-encoding");
        };
        match high << 4 | low {
            b'/' => return Some("the path has an encoded slash"),
            b'\\' => return Some("the path has an encoded backslash"),
            0 => return Some("the path has an encoded zero byte"),
            // RFC 3986 section 6.2.2.2: the same path as with the plain character, in other bytes.
            plain if plain.is_ascii_alphanumeric() || b"-._~".contains(&plain) => {
                return Some("the path has a percent-encoding of a character that needs none");
            }
            _ => {}
        }
    }
    None
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A segment that is a dot segment, or becomes one (or empty) when its parameters are cut off.
fn segment(segment: &[u8]) -> Option<&'static str> {
    let dots = segment.iter().take_while(|byte| **byte == b'.').count();
    match (dots, segment.get(dots..).unwrap_or_default()) {
        (1 | 2, [] | [b';', ..] | [b'%', b'3', b'b' | b'B', ..]) => Some("the path has a dot segment"),
        (0, [b';', ..] | [b'%', b'3', b'b' | b'B', ..]) => Some("the path has an empty segment"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    static NO_FIELDS: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);

    fn asked<'a>(uri: &'a Uri, host: Option<&'a HeaderValue>) -> Asked<'a> {
        Asked {
            method: &Method::GET,
            uri,
            version: Version::HTTP_11,
            host,
            hosts: usize::from(host.is_some()),
            fields: &NO_FIELDS,
        }
    }

    #[test]
    fn p7_to_p12_a_target_that_servers_read_differently_is_ambiguous() {
        let targets = [
            "//evil/x",
            "/a//b",
            "/a#b",
            "/a/../admin",
            "/./admin",
            "/a/..",
            "/a/.",
            "/..",
            "/%2e%2e/admin",
            "/.%2e/",
            "/%2E./x",
            "/a/%2e",
            "/a/..;/admin",
            "/a/.;x/b",
            "/a/..%3b/b",
            "/a%2fadmin",
            "/a%2Fb",
            "/a%5cb",
            r"/a\b",
            "/a%zz",
            "/a%2",
            "/a%",
            "/a%00b",
            "/a?b#c",
            "a",
            "",
            "*",
            "/a b",
            "/\u{e4}",
            "/a\u{7f}",
            "/a?x\\y",
            "/;/a",
            "/%61dmin",
            "/a%7eb",
        ];
        for target in targets {
            assert!(ambiguous(target.as_bytes()).is_some(), "{target:?}");
        }
    }

    #[test]
    fn p11_p13_a_target_with_one_reading_is_matched_as_it_is() {
        let targets = [
            "/",
            "/a",
            "/a/",
            "/Admin",
            "/admin;x",
            "/a/..x",
            "/.well-known/x",
            "/a/...",
            "/a/x..;/b",
            "/a/%252e%252e/admin",
            "/admin%20",
            "/admin?x",
            "/admin%3f",
            "/a?b=//c",
            "/a?b=../c",
            "/a?/./b",
            "/%c3%a4",
            "/a.b",
            "/a/.b",
            "/x;..",
            "/{a}",
            "/a?b?c",
            "/a?%61",
            "/a?b=%2F%00%zz",
        ];
        for target in targets {
            assert_eq!(ambiguous(target.as_bytes()), None, "{target:?}");
        }
    }

    #[test]
    fn the_host_is_lowered_and_its_port_known() {
        let uri = Uri::from_static("/a?b");
        for (sent, host, name) in [
            ("Web.Demo:8080", "web.demo:8080", "web.demo"),
            ("web", "web", "web"),
            ("[FD00::1]:80", "[fd00::1]:80", "[fd00::1]"),
            ("[fd00::1]", "[fd00::1]", "[fd00::1]"),
        ] {
            let value = HeaderValue::from_static(sent);
            let subject = Subject::of(&asked(&uri, Some(&value))).unwrap();
            assert_eq!((subject.host.as_deref(), subject.host_name()), (Some(host), Some(name)));
            assert_eq!(subject.target, "/a?b");
        }
    }

    #[test]
    fn p1_to_p6_a_request_without_one_clear_host_and_target_is_refused() {
        let good = HeaderValue::from_static("good");
        for bad in ["", "a b", "a/b@c", "u@a", "a,b", "a?b"] {
            let value = HeaderValue::from_str(bad).unwrap();
            assert!(Subject::of(&asked(&Uri::from_static("/"), Some(&value))).is_err(), "{bad:?}");
        }
        assert!(Subject::of(&asked(&Uri::from_static("/"), None)).is_err());
        let (uri, two) = (Uri::from_static("/"), 2);
        assert!(Subject::of(&Asked { hosts: two, ..asked(&uri, Some(&good)) }).is_err());
        let old = Subject::of(&Asked { version: Version::HTTP_10, ..asked(&uri, None) }).unwrap();
        assert_eq!((old.host_name(), old.host.as_deref()), (None, None));
        for uri in ["http://evil/a", "ftp://good/a", "admin", "a:80", "*", "http://u:p@good/a"] {
            let uri = Uri::from_static(uri);
            assert!(Subject::of(&asked(&uri, Some(&good))).is_err(), "{uri}");
        }
        let absolute = Uri::from_static("http://GOOD/a?b");
        assert_eq!(Subject::of(&asked(&absolute, Some(&good))).unwrap().target, "/a?b");
        let star = Uri::from_static("*");
        let options = Asked { method: &Method::OPTIONS, ..asked(&star, Some(&good)) };
        assert_eq!(Subject::of(&options).unwrap().target, "*");
    }
}

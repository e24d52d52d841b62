//! Text that the schemas have patterns for.

use crate::source::gateway::Cors;
use std::{collections::HashSet, time::Duration};

/// One label of a DNS name.
pub(super) fn label(text: &str) -> bool {
    text.len() <= 63 && long_label(text)
}

/// A DNS name. Its labels may be longer than DNS allows: the schema has no limit for them.
pub(super) fn subdomain(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.split('.').all(long_label)
}

fn long_label(text: &str) -> bool {
    let edge =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

/// A DNS name, or `*.` before one.
pub(super) fn wildcard_name(text: &str) -> bool {
    text.len() <= 253 && subdomain(text.strip_prefix("*.").unwrap_or(text))
}

/// A kind.
pub(super) fn kind(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// A token of RFC 9110.
pub(super) fn header_name(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// `HTTP`, or somebody's own: `example.com/proto`.
pub(super) fn protocol(text: &str) -> bool {
    let word = |text: &str| {
        let bytes = text.as_bytes();
        bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    let own =
        |(domain, name): (&str, &str)| subdomain(domain) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    text.len() <= 255 && (word(text) || text.split_once('/').is_some_and(own))
}

/// `IPAddress`, `Hostname`, `NamedAddress`, or somebody's own: `example.com/type`. The schema's pattern is
/// looser by a slip: it looks for these anywhere.
pub(super) fn address_type(text: &str) -> bool {
    matches!(text, "IPAddress" | "Hostname" | "NamedAddress") || controller(text)
}

/// `example.com/name`.
pub(super) fn controller(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    let own = |(domain, name): (&str, &str)| subdomain(domain) && !name.is_empty() && name.bytes().all(fits);
    text.len() <= 253 && text.split_once('/').is_some_and(own)
}

/// Why a path is none that a route can match (`wire.md` C3).
pub(super) fn path(value: &str) -> Result<(), &'static str> {
    if !value.starts_with('/') {
        return Err("does not begin with a slash");
    }
    if let Some(why) = odd_sequence(value) {
        return Err(why);
    }
    if value.contains('#') {
        return Err("has a fragment");
    }
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let fits = match byte {
            b'%' => {
                [rest.next(), rest.next()].iter().all(|one| one.is_some_and(|byte| byte.is_ascii_hexdigit()))
            }
            other => other.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&other),
        };
        if !fits {
            return Err("has a character that is not a path's");
        }
    }
    Ok(())
}

/// What no path that has been made canonical has.
pub(super) fn odd_sequence(value: &str) -> Option<&'static str> {
    let sequences = [
        ("//", "has an empty segment"),
        ("/./", "has a dot segment"),
        ("/../", "has a dot segment"),
        ("%2f", "has an encoded slash"),
        ("%2F", "has an encoded slash"),
    ];
    let within = sequences.iter().find(|(odd, _)| value.contains(odd)).map(|(_, why)| *why);
    within.or_else(|| (value.ends_with("/..") || value.ends_with("/.")).then_some("ends with a dot segment"))
}

/// Whether it is one of the API's durations.
pub(super) fn is_duration(text: &str) -> bool {
    duration(text).is_some()
}

/// One to four of `12h`, `34m`, `56s`, `78ms`, each with up to five digits.
pub(in super::super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at_checked(digits)?;
        let unit = behind.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, behind) = behind.split_at_checked(unit)?;
        let milliseconds = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        parts += 1;
        if !(1..=5).contains(&digits) || parts > 4 {
            return None;
        }
        total += Duration::from_millis(number.parse::<u64>().ok()? * milliseconds);
        rest = behind;
    }
    (parts > 0).then_some(total)
}

type Fits = fn(&str) -> bool;

/// Faults of a CORS filter, by field.
pub(super) fn cors(cors: &Cors) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    let methods = |text: &str| text == "*" || super::route::METHODS.contains(&text);
    let lists: [(_, _, _, Fits); 4] = [
        ("allowOrigins", &cors.allow_origins, 64, origin),
        ("allowMethods", &cors.allow_methods, 9, methods),
        ("allowHeaders", &cors.allow_headers, 64, header_name),
        ("exposeHeaders", &cors.expose_headers, 64, header_name),
    ];
    for (field, items, most, fits) in lists {
        let mut seen = HashSet::new();
        if items.len() > most {
            faults.push((field, format!("{} items are more than {most}", items.len())));
        }
        if let Some(bad) = items.iter().find(|item| !fits(item) || !seen.insert(*item)) {
            faults.push((field, format!("{bad:?} is not allowed, or there twice")));
        }
        if field != "exposeHeaders" && items.len() > 1 && items.iter().any(|item| item == "*") {
            faults.push((field, "* stands alone".to_owned()));
        }
    }
    if cors.max_age.is_some_and(|age| age < 1) {
        faults.push(("maxAge", "is less than 1".to_owned()));
    }
    faults
}

/// `*`, `https://host`, `https://*.host`, `https://*`, each with a port or none.
fn origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
    let label =
        |one: &str| !one.is_empty() && one.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let named = host.strip_prefix("*.").unwrap_or(host).split('.').all(label);
    let digits = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= 253 && (host == "*" || named) && port.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c3_a_path_with_two_meanings_is_no_match() {
        for bad in [
            "", "a", "/a//b", "/a/./b", "/a/../b", "/a%2fb", "/a%2Fb", "/a#b", "/a/..", "/a/.", "/a b",
            "/a%z", "/a%2", "/a?b",
        ] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
        for good in ["/", "/a", "/a/", "/a.b/..c", "/caf%C3%A9", "/a:b@c;d=e"] {
            assert_eq!(path(good), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn durations_are_the_apis() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1h1m1s1ms", 3_661_001),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in ["", "1", "s", "1d", "100000s", "1.5s", "-1s", "1s1s1s1s1s", "1 s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_those_of_the_schema() {
        assert!(wildcard_name("*.example.com") && wildcard_name("a-b.c") && subdomain("x"));
        for bad in ["", "*", "*.", "a..b", "-a", "A.b", "a.*.b", "a_b", "a.", "ä.de"] {
            assert!(!wildcard_name(bad), "{bad}");
        }
        assert!(kind("HTTPRoute") && !kind("1a") && !kind("a.b") && label("a-1") && !label("a.b"));
        assert!(protocol("HTTP") && protocol("example.com/x") && !protocol("a/b/") && !protocol("-"));
        assert!(controller("weir.dev/gateway") && !controller("weir"));
        assert!(origin("https://*.a.com:80") && origin("*") && !origin("ftp://a") && !origin("https://a/b"));
    }
}

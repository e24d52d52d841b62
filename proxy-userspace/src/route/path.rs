//! The one spelling of a request's path: what is matched is what is forwarded (invariant I10).
//!
//! Slashes are merged, dot segments removed, needless percent-encodings undone (RFC 3986 section 6.2.2).
//! A path that servers read in more than one way, whatever we make of it, is refused, unless its route has chosen
//! one of the readings (`route/choices.rs`).

#[cfg(any(test, fuzzing))]
pub(crate) mod agreement;

use super::choices::Choices;
use http::Uri;
use std::borrow::Cow;

/// What servers might see in a path of which we see something else.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Doubts {
    /// An encoded separator, in words.
    pub(crate) escaped: Option<&'static str>,
    /// Percent-encoded bytes that are not UTF-8.
    pub(crate) not_utf8: bool,
    /// A segment without a character, but for the last; it is not in the spelling any more.
    pub(crate) empty_segment: bool,
}

/// A path that can be forwarded if its route admits what is doubtful about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Spelling<'a> {
    /// The one spelling.
    pub(crate) path: Cow<'a, str>,
    pub(crate) doubts: Doubts,
}

/// The path in its one spelling, by the strict choices; `Err` says why it has none.
pub(crate) fn canonical(path: &str) -> Result<Cow<'_, str>, &'static str> {
    within(path, Choices::default())
}

/// The same by a route's choices.
pub(crate) fn within(path: &str, choices: Choices) -> Result<Cow<'_, str>, &'static str> {
    let Spelling { path, doubts } = read(path)?;
    choices.admit(doubts).map(|()| path)
}

/// The path in its one spelling, whatever is doubtful about it; `Err` says why nobody should see it.
pub(crate) fn read(path: &str) -> Result<Spelling<'_>, &'static str> {
    if !path.starts_with('/') {
        return Err("the target does not begin with a slash");
    }
    // One pass, without a branch a byte: nearly every path is in its one spelling.
    let (mut odd, mut rewrites, mut before) = (false, false, 0);
    for byte in path.bytes() {
        odd |= !matches!(byte, b'!'..=b'~') | matches!(byte, b'#' | b'\\' | b'<' | b'>' | b'`');
        rewrites |= (byte == b'%') | ((before == b'/') & ((byte == b'/') | (byte == b'.')));
        before = byte;
    }
    match (odd, rewrites) {
        (true, _) => Err("the path has a byte that is not a path's"),
        (false, true) => rewritten(path),
        (false, false) => Ok(Spelling { path: Cow::Borrowed(path), doubts: Doubts::default() }),
    }
}

/// A path with plain slashes where they are encoded; `Err` says why there is none.
pub(crate) fn unescaped(path: &str) -> Result<String, &'static str> {
    let plain = path.replace("%2F", "/").replace("%2f", "/");
    canonical(&plain).map(Cow::into_owned)
}

/// A target as a path with its query, where it is not that already; `Err` says why it has no one spelling.
pub(crate) fn one_spelling(uri: &Uri, choices: Choices) -> Result<Option<Uri>, &'static str> {
    if uri.path() == "*" {
        return Ok(None);
    }
    let path = within(uri.path(), choices)?;
    if matches!(path, Cow::Borrowed(_)) && uri.authority().is_none() {
        return Ok(None);
    }
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    };
    target.parse().map(Some).map_err(|_| "the target is none")
}

fn rewritten(path: &str) -> Result<Spelling<'static>, &'static str> {
    let (decoded, mut doubts) = decoded(path)?;
    doubts.empty_segment = decoded.contains("//");
    let mut segments: Vec<&str> = Vec::new();
    let mut open = false;
    for segment in decoded.split('/').skip(1) {
        // The last segment's slash stays where there is nothing behind it.
        open = segment.is_empty();
        if doubts.escaped.is_some() && hides_dots(segment) {
            return Err("the path has a dot segment beside an encoded separator");
        }
        match segment {
            "" => {}
            "." => open = true,
            ".." => {
                segments.pop().ok_or("the path leads above its root")?;
                open = true;
            }
            odd if is_dots_with_parameters(odd) => return Err("the path has a dot segment with parameters"),
            plain => segments.push(plain),
        }
    }
    let mut path = String::with_capacity(decoded.len());
    for segment in &segments {
        path.push('/');
        path.push_str(segment);
    }
    if open || segments.is_empty() {
        path.push('/');
    }
    Ok(Spelling { path: path.into(), doubts })
}

/// Whoever decodes the separators in it gets to see a segment that is `.` or `..`: where that leads nobody has
/// decided about. [`decoded`] has made all escapes of one case.
fn hides_dots(segment: &str) -> bool {
    if !segment.contains("%2F") && !segment.contains("%5C") {
        return false;
    }
    let plain = segment.replace("%2F", "/").replace("%5C", "/");
    plain.split('/').any(|one| matches!(one, "." | "..") || is_dots_with_parameters(one))
}

/// `..;` and `.;x`: some servers cut the parameters off and then go up.
fn is_dots_with_parameters(segment: &str) -> bool {
    let rest = segment.trim_start_matches('.');
    let dots = segment.len() - rest.len();
    matches!(dots, 1 | 2) && (rest.starts_with(';') || rest.starts_with("%3B"))
}

/// Percent-encodings of characters that need none are undone, the others are in upper case.
fn decoded(path: &str) -> Result<(String, Doubts), &'static str> {
    let mut doubts = Doubts::default();
    let mut text = String::with_capacity(path.len());
    // What the escapes mean, to see whether it is text.
    let mut meant = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            text.push(char::from(byte));
            meant.push(byte);
            continue;
        }
        let (Some(high), Some(low)) = (rest.next().and_then(digit), rest.next().and_then(digit)) else {
            return Err("the path has a broken percent-encoding");
        };
        let value = (high << 4) | low;
        meant.push(value);
        match value {
            b'/' => doubts.escaped = doubts.escaped.or(Some("the path has an encoded slash")),
            b'\\' => doubts.escaped = doubts.escaped.or(Some("the path has an encoded backslash")),
            _ => {}
        }
        match value {
            0..0x20 | 0x7f => return Err("the path has an encoded control character"),
            plain if plain.is_ascii_alphanumeric() || b"-._~".contains(&plain) => {
                text.push(char::from(plain));
            }
            _ => {
                text.push('%');
                text.extend(
                    [high, low].map(|digit| {
                        char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase()
                    }),
                );
            }
        }
    }
    doubts.not_utf8 = std::str::from_utf8(&meant).is_err();
    if doubts.not_utf8 && meant.windows(2).any(is_overlong) {
        return Err("the path has a character in more bytes than it needs");
    }
    Ok((text, doubts))
}

/// The beginning of a character in more bytes than UTF-8 gives it (RFC 3629 section 10): `%C0%AE` is a dot to who
/// reads on.
fn is_overlong(pair: &[u8]) -> bool {
    matches!(pair, [0xc0 | 0xc1, 0x80..=0xbf] | [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f])
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A parameter's name or value as it is meant: `+` is a space.
pub(crate) fn parameter(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut meant = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escape =
            bytes.get(at + 1).copied().and_then(digit).zip(bytes.get(at + 2).copied().and_then(digit));
        match (byte, escape) {
            (b'%', Some((high, low))) => {
                meant.push((high << 4) | low);
                at += 3;
                continue;
            }
            (b'+', _) => meant.push(b' '),
            _ => meant.push(*byte),
        }
        at += 1;
    }
    Cow::Owned(meant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::choices::EscapedSlashes;
    use proptest::prelude::*;

    #[test]
    fn p7_p9_slashes_are_merged_and_dot_segments_removed() {
        for (sent, one) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//evil/x", "/evil/x"),
            ("/a//b", "/a/b"),
            ("//", "/"),
            ("/a/../admin", "/admin"),
            ("/./admin", "/admin"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a/%2e%2E/admin", "/admin"),
            ("/.%2e/x/..", "above"),
            ("/%61%2Db", "/a-b"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a;x", "/a;x"),
            ("/.hidden/...", "/.hidden/..."),
            ("/%252e%252e/a", "/%252e%252e/a"),
        ] {
            match canonical(sent) {
                Ok(path) => assert_eq!(path, one, "{sent}"),
                Err(_) => assert_eq!(one, "above", "{sent}"),
            }
        }
    }

    #[test]
    fn p8_p10_p12_a_path_without_one_meaning_is_refused() {
        for sent in [
            "",
            "a",
            "*",
            "/a#b",
            "/a b",
            "/a\\b",
            "/<a",
            "/a>",
            "/`",
            "/..",
            "/a/../..",
            "/a%2fb",
            "/a%5Cb",
            "/a%00b",
            "/a%zz",
            "/a%2",
            "/%c0%ae",
            "/%ff",
            "/a/..;/admin",
            "/a/.;x",
            "/a/..%3b/x",
            "/a\u{e9}",
            "/a%0d%0a",
        ] {
            assert!(canonical(sent).is_err(), "{sent:?} became {:?}", canonical(sent));
        }
    }

    #[test]
    fn p10_p12_what_a_route_keeps_is_matched_undecoded_and_what_leads_elsewhere_is_refused_all_the_same() {
        let keep = Choices {
            escaped_slashes: EscapedSlashes::Keep,
            keeps_non_utf8: true,
            rejects_empty_segments: true,
            ..Choices::default()
        };
        for (sent, one) in [
            ("/a%2fb", Some("/a%2Fb")),
            ("/a%5Cb/%2F/%41", Some("/a%5Cb/%2F/A")),
            ("/%ff/caf%e9", Some("/%FF/caf%E9")),
            ("/a/./b%2Fc", Some("/a/b%2Fc")),
            ("/a%2f..", None),
            ("/..%2fadmin", None),
            ("/a/%2e%2e%5cadmin", None),
            ("/a%2f.%2fb", None),
            ("/a%2f..;x", None),
            ("/a%2f..%3bx%5cb", None),
            ("/%c0%ae%c0%ae/admin", None),
            ("/%e0%80%ae", None),
            ("/%f0%80%80%af", None),
            ("/a%00", None),
            ("/a%zz", None),
            ("/a%2fb/../..", None),
            ("//a", None),
            ("/a//", None),
        ] {
            assert_eq!(within(sent, keep).ok().as_deref(), one, "{sent}");
        }
        let merge = Choices { escaped_slashes: EscapedSlashes::Redirect, ..Choices::default() };
        assert_eq!(within("//a%2f", merge).as_deref(), Ok("/a%2F"));
        for (sent, plain) in [("/a%2fb", Ok("/a/b")), ("/a%2F%2fb/", Ok("/a/b/"))] {
            assert_eq!(unescaped(sent).as_deref(), plain, "{sent}");
        }
        assert!(unescaped("/a%5cb").is_err() && unescaped("/a%2f../..").is_err());
    }

    #[test]
    fn parameters_are_read_as_forms_write_them() {
        assert_eq!(&*parameter("a+b%20c%zz%4"), b"a b c%zz%4");
        assert_eq!(&*parameter("plain"), b"plain");
    }

    proptest! {
        #[test]
        fn p16_a_second_reading_changes_nothing(path in "/([a-c./;%2eEfF]|%2e|%41|%c3%a9){0,24}") {
            if let Ok(once) = canonical(&path) {
                let twice = canonical(&once);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
                prop_assert!(!once.split('/').any(|segment| segment == ".." || segment == "."));
                prop_assert!(!once.contains("//"));
            }
        }
    }
}

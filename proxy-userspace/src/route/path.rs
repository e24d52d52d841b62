//! The one spelling of a request's path: what is matched is what is forwarded (invariant I10).
//!
//! Slashes are merged, dot segments removed, needless percent-encodings undone (RFC 3986 section 6.2.2).
//! A path that servers read in more than one way, whatever we make of it, is refused.

#[cfg(any(test, fuzzing))]
pub(crate) mod agreement;

use http::Uri;
use std::borrow::Cow;

/// The path in its one spelling; `Err` says why it has none.
pub(crate) fn canonical(path: &str) -> Result<Cow<'_, str>, &'static str> {
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
        (false, true) => rewritten(path).map(Cow::Owned),
        (false, false) => Ok(Cow::Borrowed(path)),
    }
}

/// A target as a path with its query, where it is not that already; `Err` says why it has no one spelling.
pub(crate) fn one_spelling(uri: &Uri) -> Result<Option<Uri>, &'static str> {
    if uri.path() == "*" {
        return Ok(None);
    }
    let path = canonical(uri.path())?;
    if matches!(path, Cow::Borrowed(_)) && uri.authority().is_none() {
        return Ok(None);
    }
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    };
    target.parse().map(Some).map_err(|_| "the target is none")
}

fn rewritten(path: &str) -> Result<String, &'static str> {
    let decoded = decoded(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut open = false;
    for segment in decoded.split('/').skip(1) {
        // The last segment's slash stays where there is nothing behind it.
        open = segment.is_empty();
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
    Ok(path)
}

/// `..;` and `.;x`: some servers cut the parameters off and then go up.
fn is_dots_with_parameters(segment: &str) -> bool {
    let rest = segment.trim_start_matches('.');
    let dots = segment.len() - rest.len();
    matches!(dots, 1 | 2) && (rest.starts_with(';') || rest.starts_with("%3B"))
}

/// Percent-encodings of characters that need none are undone, the others are in upper case.
fn decoded(path: &str) -> Result<String, &'static str> {
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
            b'/' => return Err("the path has an encoded slash"),
            b'\\' => return Err("the path has an encoded backslash"),
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
    std::str::from_utf8(&meant).map_err(|_| "the path is not UTF-8")?;
    Ok(text)
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

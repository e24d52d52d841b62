//! POSIX extended regular expressions, as policies write them, in the syntax of the `regex` crate.
//!
//! What means the same in both passes; brackets are rewritten, because `regex` nests them and knows
//! set operations. What POSIX leaves undefined, or what `regex` cannot match in linear time, is an
//! error: a rule must not come to mean something else on the way. `\d`, `\w` and `\s` (and their
//! opposites) are taken as Cilium's proxy takes them: ASCII.

use std::{fmt::Write as _, iter::Peekable, str::Bytes};

/// Bytes of one expression.
pub(super) const MAX_LENGTH: usize = 4096;

/// Characters with a meaning, which a backslash takes away.
const SPECIAL: &[u8] = b"\\^$.[]|()*+?{}-/#&~ \"'<>=!%,:;@_`";

/// The same expression for `regex`, not anchored; `Err` says what cannot be translated.
pub(super) fn translate(ere: &str) -> Result<String, String> {
    if ere.len() > MAX_LENGTH {
        return Err(format!("is longer than {MAX_LENGTH} bytes"));
    }
    if let Some(odd) = ere.chars().find(|c| !matches!(c, ' '..='~')) {
        return Err(format!("{odd:?} is not printable ASCII, which requests consist of: percent-encode it"));
    }
    let mut out = String::with_capacity(ere.len());
    let mut rest = ere.bytes().peekable();
    // Whether something stands to the left that can be repeated.
    let mut repeatable = false;
    while let Some(byte) = rest.next() {
        match byte {
            b'[' => bracket(&mut rest, &mut out)?,
            b'\\' => escape(rest.next(), &mut out)?,
            b'(' if rest.peek() == Some(&b'?') => return Err("(?...) is not POSIX: write it out".to_owned()),
            b'*' | b'+' | b'?' | b'{' => {
                if !repeatable {
                    return Err(format!("{:?} repeats nothing, or a repetition", char::from(byte)));
                }
                out.push(char::from(byte));
                if byte == b'{' {
                    interval(&mut rest, &mut out)?;
                }
                repeatable = false;
                continue;
            }
            b'#' | b'&' | b'~' | b'-' | b'}' => out.extend(['\\', char::from(byte)]),
            _ => out.push(char::from(byte)),
        }
        repeatable = !matches!(byte, b'(' | b'|' | b'^' | b'$');
    }
    Ok(out)
}

/// `m}`, `m,}` or `m,n}`.
fn interval(rest: &mut Peekable<Bytes<'_>>, out: &mut String) -> Result<(), String> {
    let bad = || "{ begins no interval like {2}, {2,} or {2,5}: write \\{ for the character".to_owned();
    let mut inside = String::new();
    loop {
        match rest.next().ok_or_else(bad)? {
            b'}' => break,
            digit @ (b'0'..=b'9' | b',') => inside.push(char::from(digit)),
            _ => return Err(bad()),
        }
    }
    let (low, high) = inside.split_once(',').unwrap_or((&inside, ""));
    if low.is_empty() || high.contains(',') {
        return Err(bad());
    }
    out.push_str(&inside);
    out.push('}');
    Ok(())
}

fn escape(next: Option<u8>, out: &mut String) -> Result<(), String> {
    match next {
        None => Err("ends with a backslash".to_owned()),
        Some(class @ (b'd' | b'D' | b'w' | b'W' | b's' | b'S')) => {
            out.extend(['\\', char::from(class)]);
            Ok(())
        }
        Some(digit @ b'1'..=b'9') => {
            Err(format!("\\{} refers back: there is no linear way to match it", char::from(digit)))
        }
        Some(special) if SPECIAL.contains(&special) => hex(special, out),
        Some(other) => Err(format!("\\{} has no meaning in POSIX", char::from(other))),
    }
}

fn hex(byte: u8, out: &mut String) -> Result<(), String> {
    write!(out, "\\x{byte:02X}").map_err(|error| error.to_string())
}

/// A bracket expression after its `[`.
fn bracket(rest: &mut Peekable<Bytes<'_>>, out: &mut String) -> Result<(), String> {
    let open = || "[ has no ]".to_owned();
    out.push('[');
    if rest.next_if_eq(&b'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    loop {
        let item = match rest.next().ok_or_else(open)? {
            b']' if !first => break,
            b'[' => match rest.peek() {
                Some(b':') => {
                    class(rest, out)?;
                    first = false;
                    continue;
                }
                Some(kind @ (b'.' | b'=')) => {
                    let kind = char::from(*kind);
                    return Err(format!("[{kind}...{kind}] depends on a locale: write the characters"));
                }
                _ => b'[',
            },
            b'\\' => escaped_in_bracket(rest)?,
            byte => byte,
        };
        first = false;
        hex(item, out)?;
        range(rest, item, out)?;
    }
    out.push(']');
    Ok(())
}

/// In POSIX a backslash in brackets is a character; Cilium's proxy takes it as an escape. Requests
/// contain no backslash, so both agree where what follows is punctuation that means nothing there.
fn escaped_in_bracket(rest: &mut Peekable<Bytes<'_>>) -> Result<u8, String> {
    match rest.next() {
        Some(byte) if byte.is_ascii_punctuation() && !matches!(byte, b'-' | b']') => Ok(byte),
        Some(byte) => Err(format!(
            "\\{0} within [] is a backslash in POSIX: write {0} alone, a - at the end or a ] at the beginning",
            char::from(byte)
        )),
        None => Err("ends with a backslash".to_owned()),
    }
}

/// `-z` after `low`, if it is there; a `-` before the end is a character.
fn range(rest: &mut Peekable<Bytes<'_>>, low: u8, out: &mut String) -> Result<(), String> {
    let mut ahead = rest.clone();
    if ahead.next() != Some(b'-') || matches!(ahead.peek(), Some(b']') | None) {
        return Ok(());
    }
    let high = match ahead.next() {
        Some(b'[' | b'\\') => return Err("a range ends with [ or \\: write the characters".to_owned()),
        Some(high) if high >= low => high,
        _ => return Err("a range ends before it begins".to_owned()),
    };
    *rest = ahead;
    out.push('-');
    hex(high, out)
}

/// `[:alpha:]` after its first `[`.
fn class(rest: &mut Peekable<Bytes<'_>>, out: &mut String) -> Result<(), String> {
    const NAMES: [&str; 12] = [
        "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper",
        "xdigit",
    ];
    rest.next();
    let mut name = String::new();
    while let Some(letter) = rest.next_if(u8::is_ascii_lowercase) {
        name.push(char::from(letter));
    }
    if rest.next() != Some(b':') || rest.next() != Some(b']') || !NAMES.contains(&name.as_str()) {
        return Err(format!("[:{name}:] is no character class"));
    }
    out.extend(["[:", &name, ":]"]);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn matches(ere: &str, text: &str) -> bool {
        let translated = format!(r"\A(?:{})\z", translate(ere).unwrap());
        regex::bytes::RegexBuilder::new(&translated)
            .unicode(false)
            .dot_matches_new_line(true)
            .build()
            .unwrap()
            .is_match(text.as_bytes())
    }

    #[test]
    fn what_posix_says_is_what_is_matched() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("/a.c", &["/abc", "/a.c"], &["/ac", "/abcd", "x/abc"]),
            (r"/a\.c", &["/a.c"], &["/abc"]),
            ("GET|HEAD", &["GET", "HEAD"], &["GETS", "GET|HEAD", ""]),
            ("/(a|b)*", &["/", "/abba"], &["/c"]),
            ("/v[0-9]{1,2}", &["/v1", "/v12"], &["/v", "/v123"]),
            ("[]a]", &["]", "a"], &["b", "[]a]"]),
            ("[^]a]", &["b"], &["]", "a"]),
            ("[a[]", &["a", "["], &["]"]),
            ("[a&&b]", &["a", "b", "&"], &["&&"]),
            ("[+--]", &["+", ",", "-"], &[".", "*"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[-a]", &["a", "-"], &["b"]),
            (r"[\.x]", &[".", "x"], &["y"]),
            ("[[:digit:]x-z]+", &["12", "y3"], &["a", ""]),
            (r"\d+-\w", &["12-a"], &["a-a"]),
            (r"\{a\}\/", &["{a}/"], &["a"]),
            ("a-b#c~d&e", &["a-b#c~d&e"], &["a-b"]),
            ("^/a$", &["/a"], &["/ab"]),
        ];
        for (ere, yes, no) in cases {
            assert!(yes.iter().all(|text| matches(ere, text)), "{ere} matches {yes:?}");
            assert!(!no.iter().any(|text| matches(ere, text)), "{ere} does not match {no:?}");
        }
    }

    #[test]
    fn what_cannot_be_translated_says_so() {
        let cases = [
            (r"(a)\1", "refers back"),
            ("(?i)a", "(?...) is not POSIX"),
            ("a*?", "repeats nothing"),
            ("*a", "repeats nothing"),
            ("a|+", "repeats nothing"),
            ("[[.a.]]", "depends on a locale"),
            ("[[=a=]]", "depends on a locale"),
            ("[[:alpha]", "no character class"),
            ("[[:word:]]", "no character class"),
            ("[a", "[ has no ]"),
            ("[z-a]", "a range ends before it begins"),
            (r"[\d]", "is a backslash in POSIX"),
            (r"[a\-z]", "is a backslash in POSIX"),
            (r"\bx", "has no meaning in POSIX"),
            (r"\Qx", "has no meaning in POSIX"),
            ("a\\", "ends with a backslash"),
            ("a{x}", "begins no interval"),
            ("a{,3}", "begins no interval"),
            ("/grün", "percent-encode it"),
            ("a\nb", "not printable ASCII"),
        ];
        for (ere, says) in cases {
            let error = translate(ere).unwrap_err();
            assert!(error.contains(says), "{ere}: {error}");
        }
        assert!(translate(&"a".repeat(MAX_LENGTH + 1)).is_err());
    }
}

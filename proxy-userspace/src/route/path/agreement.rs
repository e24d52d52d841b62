//! What must hold for any target, for tests and `cargo fuzz run path`: it has one spelling or is refused, whoever
//! reads it; what was matched is what is forwarded (invariant I10); the kernel half sees no other path (I1).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use super::{canonical, one_spelling, read, unescaped, within};
use crate::{
    admission::{self, Rules},
    route::{
        choices::{Choices, EscapedSlashes},
        target::Target,
    },
};
use http::{HeaderMap, HeaderValue, Method, Uri, header::HOST};
use proxy_common::head::scan_request;

/// What must hold for any bytes as a target, whatever its route has chosen; whether they are one that is admitted
/// by the strict choices.
#[cfg_attr(not(fuzzing), allow(unreachable_pub, reason = "only the fuzz target is outside"))]
pub fn agrees(target: &[u8]) -> bool {
    let strict = Choices::default();
    let kept = Choices { escaped_slashes: EscapedSlashes::Keep, keeps_non_utf8: true, ..strict };
    let others = [
        kept,
        Choices { escaped_slashes: EscapedSlashes::Redirect, rejects_empty_segments: true, ..strict },
        Choices { keeps_non_utf8: true, ..strict },
    ];
    let admitted = agrees_within(target, strict);
    for choices in others {
        let more = agrees_within(target, choices);
        assert!(more || !admitted || choices.rejects_empty_segments, "{}", target.escape_ascii());
    }
    admitted
}

fn agrees_within(target: &[u8], choices: Choices) -> bool {
    let path = target.split(|byte| *byte == b'?').next().unwrap();
    let spelling = std::str::from_utf8(path).ok().and_then(|path| within(path, choices).ok());
    match (&spelling, meaning(path, choices)) {
        (Some(spelling), Some(meant)) => is_one_spelling(spelling, &meant, choices),
        (None, None) => {}
        (spelling, meant) => panic!("{spelling:?}, {meant:?}: {}", target.escape_ascii()),
    }
    // What would end the request line, or the head, is no target of this head.
    let Some(text) = std::str::from_utf8(target).ok().filter(|text| !text.contains([' ', '\r', '\n'])) else {
        return false;
    };
    let fields = HeaderMap::from_iter([(HOST, HeaderValue::from_static("web"))]);
    let admitted = admission::check("GET", text, &fields, (&Rules::default(), choices)).is_ok();
    let plain =
        target[path.len()..].iter().all(|byte| matches!(byte, b'!'..=b'~') && !b"#\"<>".contains(byte));
    if target.first() == Some(&b'/') {
        assert_eq!(admitted, plain && target.len() <= 8192 && spelling.is_some(), "{text:?}");
    }
    if admitted {
        is_forwarded_as_matched(text, choices);
    }
    let head = format!("GET {text} HTTP/1.1\r\nHost: web\r\n\r\n");
    if let Ok(scanned) = scan_request(head.as_bytes()) {
        assert!(admitted, "only the kernel half admits {text:?}");
        assert_eq!(&head[scanned.target.start as usize..scanned.target.end as usize], text);
        let forwarded = one_spelling(&text.parse().unwrap(), choices).unwrap();
        assert!(forwarded.is_none_or(|uri| uri == *text), "the kernel half forwards {text:?} as it is");
    }
    admitted
}

/// The segments that a path names, as bytes, and whether a slash ends it; `None` where it has no one meaning.
/// By RFC 3986 section 5.2.4, segment for segment, and not by the text as `canonical` does it.
fn meaning(path: &[u8], choices: Choices) -> Option<(Vec<Vec<u8>>, bool)> {
    let keeps_separators = choices.escaped_slashes != EscapedSlashes::Reject;
    let plain = path.iter().all(|byte| matches!(byte, b'!'..=b'~') && !b"#\\<>`".contains(byte));
    let rest = path.strip_prefix(b"/").filter(|_| plain)?;
    let (mut segments, mut open) = (Vec::new(), true);
    let raws: Vec<_> = rest.split(|byte| *byte == b'/').collect();
    if choices.rejects_empty_segments && raws.iter().rev().skip(1).any(|raw| raw.is_empty()) {
        return None;
    }
    for raw in raws {
        let segment = percent_decoded(raw)?;
        if segment.iter().any(|byte| *byte == 0x7f || *byte < b' ') {
            return None;
        }
        let pieces: Vec<_> = segment.split(|byte| b"/\\".contains(byte)).collect();
        if pieces.len() > 1 && (!keeps_separators || pieces.iter().any(|piece| is_dots(piece))) {
            return None;
        }
        let dots = segment.iter().take_while(|byte| **byte == b'.').count();
        open = segment.is_empty() || segment == b"." || segment == b"..";
        match (dots, &segment[dots..]) {
            (0 | 1, []) => {}
            (2, []) => drop(segments.pop()?),
            (1 | 2, [b';', ..]) => return None,
            _ => segments.push(segment),
        }
    }
    let all = percent_decoded(path)?;
    let kept = || choices.keeps_non_utf8 && !(0..all.len()).any(|at| is_too_long(&all[at..]));
    (std::str::from_utf8(&all).is_ok() || kept()).then_some((segments, open))
}

/// A dot segment, with parameters or without.
fn is_dots(segment: &[u8]) -> bool {
    let name = segment.split(|byte| *byte == b';').next().unwrap();
    name == b"." || name == b".."
}

/// Begins like a character that has fewer bytes in UTF-8, which whoever reads only its bits would take it for.
fn is_too_long(bytes: &[u8]) -> bool {
    let (Some(first), Some(second)) = (bytes.first(), bytes.get(1)) else { return false };
    let bits = u32::from(second & 0x3f);
    second >> 6 == 0b10
        && match first.leading_ones() {
            2 => (u32::from(first & 0x1f) << 6 | bits) < 0x80,
            3 => (u32::from(first & 0x0f) << 12 | bits << 6) < 0x800,
            4 => (u32::from(first & 0x07) << 18 | bits << 12) < 0x1_0000,
            _ => false,
        }
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut pieces = text.split(|byte| *byte == b'%');
    let mut decoded = pieces.next()?.to_vec();
    for piece in pieces {
        let digits = piece.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        decoded.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        decoded.extend(&piece[2..]);
    }
    Some(decoded)
}

/// The spelling names the same segments, itself has no other spelling, and nothing in it is left to decode.
fn is_one_spelling(spelling: &str, (segments, open): &(Vec<Vec<u8>>, bool), choices: Choices) {
    let (again, same) = meaning(spelling.as_bytes(), choices).unwrap();
    assert_eq!((&again, same), (segments, *open || segments.is_empty()), "{spelling:?}");
    assert_eq!(within(spelling, choices).as_deref(), Ok(spelling));
    if choices == Choices::default() {
        assert_eq!(canonical(spelling).as_deref(), Ok(spelling));
    }
    assert!(
        !spelling.contains("//") && !spelling.contains("/./") && !spelling.contains("/../"),
        "{spelling:?}"
    );
    for escape in spelling.split('%').skip(1) {
        let value = u8::from_str_radix(&escape[..2], 16).unwrap();
        assert!(!value.is_ascii_alphanumeric() && !b"-._~".contains(&value), "{spelling:?}");
        let is_kept = choices.escaped_slashes != EscapedSlashes::Reject;
        assert!(is_kept || !b"/\\".contains(&value), "{spelling:?}");
        assert!(!escape[..2].bytes().any(|digit| digit.is_ascii_lowercase()), "{spelling:?}");
    }
}

/// What hyper reads of an admitted target, what routes match and what the endpoint gets are one; where its client is
/// sent instead nothing is left in doubt.
fn is_forwarded_as_matched(text: &str, choices: Choices) {
    let sent: Uri = text.parse().unwrap_or_else(|error| panic!("{text:?} is admitted, and {error}"));
    let doubts = read(sent.path()).unwrap().doubts;
    choices.admit(doubts).unwrap();
    if choices.redirects(doubts)
        && let Ok(elsewhere) = unescaped(sent.path())
    {
        assert_eq!(canonical(&elsewhere).as_deref(), Ok(&*elsewhere), "{text:?}");
        assert!(!elsewhere.contains("%2F") && !elsewhere.contains("%5C"), "{elsewhere:?}");
    }
    let spelled = one_spelling(&sent, choices).unwrap();
    let forwarded = spelled.unwrap_or_else(|| sent.clone());
    let line = forwarded.path_and_query().unwrap().as_str();
    let (method, fields) = (Method::GET, HeaderMap::new());
    let matched = Target::new(Some("web"), &method, &sent, &fields).unwrap();
    assert_eq!(matched.path_and_query(), line, "{text:?}");
    assert_eq!(forwarded.query(), sent.query());
    assert_eq!(text.split_once('?').map(|(_, query)| query), forwarded.query());
    assert!(forwarded.authority().is_none() && line.starts_with('/'), "{text:?} becomes {forwarded}");
    let again = one_spelling(&forwarded, choices).unwrap().unwrap_or_else(|| forwarded.clone());
    assert_eq!(again, forwarded, "{text:?}");
    let again = Target::new(Some("web"), &method, &forwarded, &fields).unwrap();
    assert_eq!(again.path, matched.path);
}

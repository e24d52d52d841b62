//! `weir.dev/admission`: what the requests of a route may be like where RFCs leave a choice, and how large their
//! heads may be.

use super::annotations::{Mistake, PREFIX};
use crate::{
    route::choices::{Choices, EscapedSlashes, HeadLimits, MOST},
    source::finding::quoted,
};
use std::collections::BTreeMap;

/// The annotation.
pub(super) const ADMISSION: &str = "weir.dev/admission";

/// What is wrong, and what is allowed.
type Wrong = (String, String);

/// The choices of an HTTPRoute or an Ingress; a faulty annotation counts as absent.
pub(super) fn of_route(annotations: Option<&BTreeMap<String, String>>) -> (Choices, Vec<Mistake>) {
    let (mut choices, mut mistakes) = (Choices::default(), Vec::new());
    for (key, value) in annotations.into_iter().flatten().filter(|(key, _)| key.starts_with(PREFIX)) {
        let outcome = match key.as_str() {
            ADMISSION => read(value).map(|read| choices = read),
            _ => Err((format!("annotation {} is unknown", quoted(key)), format!("known: {ADMISSION}"))),
        };
        if let Err((text, fix)) = outcome {
            mistakes.push(Mistake { key: key.clone(), text, fix });
        }
    }
    (choices, mistakes)
}

/// `KEY=VALUE,...`.
pub(super) fn read(value: &str) -> Result<Choices, Wrong> {
    let mut choices = Choices::default();
    let mut seen = Vec::new();
    for part in value.split(',').map(str::trim) {
        let (key, value) = part.split_once('=').ok_or_else(|| unknown(part))?;
        let (key, value) = (key.trim(), value.trim());
        if seen.contains(&key) {
            return Err((format!("{ADMISSION}: {} is given twice", quoted(key)), String::new()));
        }
        seen.push(key);
        set(&mut choices, key, value)?;
    }
    if choices.head.field > choices.head.bytes {
        let text = format!("{ADMISSION}: a field may be larger than the head that it is in");
        return Err((text, "give head=SIZE too, at least as large".to_owned()));
    }
    Ok(choices)
}

fn set(choices: &mut Choices, key: &str, value: &str) -> Result<(), Wrong> {
    let least = HeadLimits::default();
    match key {
        "head" => choices.head.bytes = number(key, value, size(value), (least.bytes, MOST.bytes))?,
        "field" => choices.head.field = number(key, value, size(value), (least.field, MOST.field))?,
        "fields" => {
            choices.head.fields = number(key, value, value.parse().ok(), (least.fields, MOST.fields))?;
        }
        "escaped-slashes" => {
            let known = [
                ("reject", EscapedSlashes::Reject),
                ("redirect", EscapedSlashes::Redirect),
                ("keep", EscapedSlashes::Keep),
            ];
            choices.escaped_slashes = one_of(key, value, &known)?;
        }
        "non-utf8" => choices.keeps_non_utf8 = one_of(key, value, &[("reject", false), ("keep", true)])?,
        "underscores" => {
            choices.keeps_underscores = one_of(key, value, &[("reject", false), ("keep", true)])?;
        }
        "empty-segments" => {
            choices.rejects_empty_segments = one_of(key, value, &[("merge", false), ("reject", true)])?;
        }
        _ => return Err(unknown(key)),
    }
    Ok(())
}

fn unknown(part: &str) -> Wrong {
    let keys = "KEY=VALUE with the keys head, field, fields, escaped-slashes, non-utf8, underscores, \
                empty-segments, by commas";
    (format!("{ADMISSION}: {} is unknown", quoted(part)), keys.to_owned())
}

/// A limit may be raised, never lowered: the kernel half, which carries small requests, does not ask.
fn number(key: &str, text: &str, read: Option<usize>, (least, most): (usize, usize)) -> Result<usize, Wrong> {
    read.filter(|number| (least..=most).contains(number)).ok_or_else(|| {
        let allowed = match key {
            "fields" => format!("a number from {least} to {most}"),
            _ => format!("bytes, or like {}KiB; from {least} to {most}", least >> 10),
        };
        (format!("{ADMISSION}: {key}: {} is out of range", quoted(text)), allowed)
    })
}

fn one_of<T: Copy>(key: &str, value: &str, known: &[(&str, T)]) -> Result<T, Wrong> {
    let found = known.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
    found.ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        (format!("{ADMISSION}: {key}: {} is unknown", quoted(value)), format!("one of {}", names.join(", ")))
    })
}

/// Bytes; `Ki`, `KiB`, `Mi` and `MiB` behind the number are known.
fn size(text: &str) -> Option<usize> {
    let end = text.find(|one: char| !one.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    let unit = match unit {
        "" => 1,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn every_key_sets_its_own_choice() {
        let all = "head=256KiB, field=65536,fields=200,escaped-slashes=keep,non-utf8=keep,underscores=keep,\
                   empty-segments=reject";
        let expected = Choices {
            head: HeadLimits { bytes: 256 << 10, field: 64 << 10, fields: 200 },
            escaped_slashes: EscapedSlashes::Keep,
            keeps_non_utf8: true,
            keeps_underscores: true,
            rejects_empty_segments: true,
        };
        assert_eq!(read(all), Ok(expected));
        assert_eq!(read(&expected.to_string()), Ok(expected));
        let strict = "escaped-slashes=reject,non-utf8=reject,underscores=reject,empty-segments=merge";
        assert_eq!(read(strict), Ok(Choices::default()));
        assert_eq!(read("escaped-slashes=redirect").unwrap().escaped_slashes, EscapedSlashes::Redirect);
        for largest in ["head=1MiB,field=1Mi,fields=1000", "head=1024Ki,field=1048576,fields=1000"] {
            assert_eq!(read(largest).unwrap().head, MOST, "{largest}");
        }
    }

    #[test]
    fn what_cannot_be_meant_names_its_key_and_what_is_allowed() {
        for (value, text, fix) in [
            ("head=32KiB", "head: \"32KiB\" is out of range", "from 65536 to 1048576"),
            ("head=2MiB", "head: ", "64KiB"),
            ("head=1GiB", "head: ", "64KiB"),
            ("head=-1", "head: ", "64KiB"),
            ("head=99999999999999999999KiB", "head: ", "64KiB"),
            ("field=1KiB", "field: ", "16KiB"),
            ("head=64KiB,field=128KiB", "larger than the head", "give head=SIZE"),
            ("fields=99", "fields: \"99\"", "from 100 to 1000"),
            ("fields=1001", "fields: ", "from 100 to 1000"),
            ("fields=100KiB", "fields: ", "from 100 to 1000"),
            ("escaped-slashes=decode", "escaped-slashes: \"decode\" is unknown", "reject, redirect, keep"),
            ("non-utf8=yes", "non-utf8: ", "reject, keep"),
            ("underscores=", "underscores: ", "reject, keep"),
            ("empty-segments=keep", "empty-segments: ", "merge, reject"),
            ("slashes=keep", "\"slashes\" is unknown", "escaped-slashes"),
            ("keep", "\"keep\" is unknown", "KEY=VALUE"),
            ("", "\"\" is unknown", "KEY=VALUE"),
            ("fields=100,fields=200", "twice", ""),
        ] {
            let wrong = read(value).unwrap_err();
            assert!(wrong.0.contains(text) && wrong.0.starts_with(ADMISSION), "{value}: {wrong:?}");
            assert!(wrong.1.contains(fix), "{value}: {wrong:?}");
        }
    }

    #[test]
    fn a_faulty_annotation_of_a_route_leaves_the_strict_choices_and_others_are_left_alone() {
        let of = |key: &str, value: &str| of_route(Some(&[(key.to_owned(), value.to_owned())].into()));
        assert_eq!(of("example.com/admission", "x"), (Choices::default(), Vec::new()));
        for (key, value) in [(ADMISSION, "underscores=keep,x=y"), ("weir.dev/admit", "underscores=keep")] {
            let (choices, mistakes) = of(key, value);
            assert_eq!((choices, mistakes.len()), (Choices::default(), 1));
            assert_eq!(mistakes[0].key, key);
        }
        assert!(of(ADMISSION, "underscores=keep").0.keeps_underscores);
        assert_eq!(of_route(None), (Choices::default(), Vec::new()));
    }
}

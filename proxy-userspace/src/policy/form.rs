//! What strings an expression matches, as far as the kernel half can tell them apart: read from the
//! expression's tree, so that equal languages are read alike however they are written.

use regex_syntax::hir::{Class, Hir, HirKind, Look, Repetition};

/// Forms of one expression; one that needs more is of unknown form.
const MAX_FORMS: usize = 64;
/// Bytes of a class that are told apart.
const MAX_CLASS: usize = 16;
/// Repetitions that are written out.
const MAX_COPIES: u32 = 16;

/// Strings that begin alike.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(super) struct Form {
    /// How they begin.
    pub(super) start: Vec<u8>,
    /// How they go on.
    pub(super) rest: Rest,
}

/// How strings go on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(super) enum Rest {
    /// Not at all.
    Nothing,
    /// In every way.
    Anything,
    /// In some ways, perhaps none.
    Unknown,
}

/// Which way strings are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// From the first byte: `start` is a prefix.
    Forwards,
    /// From the last: `start` is a suffix, backwards.
    Backwards,
}

/// Reads expressions over an alphabet: the bytes that can occur in what is matched.
#[derive(Clone, Copy)]
pub(super) struct Reader {
    pub(super) occurs: fn(u8) -> bool,
    pub(super) direction: Direction,
}

impl Reader {
    /// Together these hold every string that the expression matches as a whole; but for those of
    /// unknown rest, they hold no other.
    pub(super) fn read(self, hir: &Hir) -> Vec<Form> {
        let mut forms = match hir.kind() {
            HirKind::Look(Look::Start | Look::End) => vec![Form::EMPTY],
            HirKind::Concat(parts) => {
                let parts = parts.as_slice();
                let start = |hir: &Hir| matches!(hir.kind(), HirKind::Look(Look::Start));
                let end = |hir: &Hir| matches!(hir.kind(), HirKind::Look(Look::End));
                let parts = parts.split_first().filter(|(one, _)| start(one)).map_or(parts, |(_, rest)| rest);
                let parts = parts.split_last().filter(|(one, _)| end(one)).map_or(parts, |(_, rest)| rest);
                self.concat(parts)
            }
            _ => self.expand(hir),
        };
        forms.sort();
        forms.dedup();
        // What begins like a form of any rest is one of its strings.
        let any: Vec<_> = forms.iter().filter(|form| form.rest == Rest::Anything).cloned().collect();
        forms.retain(|form| !any.iter().any(|any| any != form && form.start.starts_with(&any.start)));
        forms
    }

    fn expand(self, hir: &Hir) -> Vec<Form> {
        let forms = match hir.kind() {
            HirKind::Empty => vec![Form::EMPTY],
            HirKind::Literal(literal) => {
                let mut start = literal.0.to_vec();
                if self.direction == Direction::Backwards {
                    start.reverse();
                }
                vec![Form { start, rest: Rest::Nothing }]
            }
            HirKind::Class(class) => self.class(class),
            HirKind::Look(_) => vec![Form::UNKNOWN],
            HirKind::Repetition(repetition) => self.repetition(repetition),
            HirKind::Capture(capture) => self.expand(&capture.sub),
            HirKind::Concat(parts) => self.concat(parts),
            HirKind::Alternation(parts) => parts.iter().flat_map(|part| self.expand(part)).collect(),
        };
        limited(forms)
    }

    fn concat(self, parts: &[Hir]) -> Vec<Form> {
        let join = |forms: Vec<Form>, part: &Hir| product(&forms, &self.expand(part));
        match self.direction {
            Direction::Forwards => parts.iter().fold(vec![Form::EMPTY], join),
            Direction::Backwards => parts.iter().rev().fold(vec![Form::EMPTY], join),
        }
    }

    fn class(self, class: &Class) -> Vec<Form> {
        let bytes = self.bytes(class);
        if bytes.len() > MAX_CLASS {
            return vec![Form::UNKNOWN];
        }
        bytes.into_iter().map(|byte| Form { start: vec![byte], rest: Rest::Nothing }).collect()
    }

    /// The bytes of a class that can occur.
    fn bytes(self, class: &Class) -> Vec<u8> {
        let holds = |byte: u8| match class {
            Class::Bytes(class) => class.iter().any(|range| (range.start()..=range.end()).contains(&byte)),
            Class::Unicode(class) => {
                class.iter().any(|range| (range.start()..=range.end()).contains(&char::from(byte)))
            }
        };
        (0..=127).filter(|byte| (self.occurs)(*byte) && holds(*byte)).collect()
    }

    fn repetition(self, repetition: &Repetition) -> Vec<Form> {
        if repetition.min == 0 && repetition.max.is_none() && self.is_any_byte(&repetition.sub) {
            return vec![Form { start: Vec::new(), rest: Rest::Anything }];
        }
        if repetition.min > MAX_COPIES {
            return vec![Form::UNKNOWN];
        }
        let once = self.expand(&repetition.sub);
        let mut forms = vec![Form::EMPTY];
        for _ in 0..repetition.min {
            forms = product(&forms, &once);
        }
        let Some(max) = repetition.max.filter(|max| *max <= MAX_COPIES) else {
            return product(&forms, &[Form::UNKNOWN]);
        };
        let mut all = forms.clone();
        for _ in repetition.min..max {
            forms = product(&forms, &once);
            all.extend_from_slice(&forms);
        }
        all
    }

    fn is_any_byte(self, hir: &Hir) -> bool {
        match hir.kind() {
            HirKind::Class(class) => {
                let held = self.bytes(class);
                (0..=127).filter(|byte| (self.occurs)(*byte)).all(|byte| held.contains(&byte))
            }
            HirKind::Capture(capture) => self.is_any_byte(&capture.sub),
            _ => false,
        }
    }
}

impl Form {
    /// The empty string.
    const EMPTY: Self = Self { start: Vec::new(), rest: Rest::Nothing };
    /// Anybody's guess.
    const UNKNOWN: Self = Self { start: Vec::new(), rest: Rest::Unknown };
}

/// What one of `left` and then one of `right` is.
fn product(left: &[Form], right: &[Form]) -> Vec<Form> {
    if right.is_empty() {
        return Vec::new();
    }
    // After anything, what can be empty adds nothing.
    let vanishes = right.iter().any(|form| form.start.is_empty() && form.rest != Rest::Unknown);
    let mut forms = Vec::new();
    for form in left {
        let start = &form.start;
        match form.rest {
            Rest::Nothing => forms.extend(
                right.iter().map(|next| Form { start: [&start[..], &next.start].concat(), rest: next.rest }),
            ),
            Rest::Anything if vanishes => forms.push(form.clone()),
            Rest::Anything | Rest::Unknown => {
                forms.push(Form { start: start.clone(), rest: Rest::Unknown });
            }
        }
    }
    limited(forms)
}

fn limited(forms: Vec<Form>) -> Vec<Form> {
    if forms.len() > MAX_FORMS { vec![Form::UNKNOWN] } else { forms }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::policy::Pattern;

    fn forms(source: &str, direction: Direction) -> Vec<String> {
        let reader = Reader { occurs: |byte| matches!(byte, b'!'..=b'~'), direction };
        let show = |form: Form| {
            let rest = match form.rest {
                Rest::Nothing => "",
                Rest::Anything => "*",
                Rest::Unknown => "?",
            };
            String::from_utf8(form.start).unwrap() + rest
        };
        reader.read(Pattern::new(source).unwrap().hir()).into_iter().map(show).collect()
    }

    #[test]
    fn literals_prefixes_and_whole_segments_are_recognised_however_they_are_written() {
        let cases: &[(&[&str], &[&str])] = &[
            (&["/a", "^/a$", "(/a)", "/[a]", "/a{1}", "()/a"], &["/a"]),
            (&[r"/a\.b", "/a[.]b"], &["/a.b"]),
            (&["/a.*", "/a(.)*", "/a.*.*", "/a[!-~]*", "^/a.*$", "/a(.*|x)"], &["/a*"]),
            (&["/a(/.*)?", "/a|/a/.*"], &["/a", "/a/*"]),
            (&[".*", "()|.*", "^.*"], &["*"]),
            (&["/(a|b)", "/a|/b", "/[ab]"], &["/a", "/b"]),
            (&["/v[12]/(x|y.*)?"], &["/v1/", "/v1/x", "/v1/y*", "/v2/", "/v2/x", "/v2/y*"]),
            (&["/a?b"], &["/ab", "/b"]),
            (&["", "^$"], &[""]),
        ];
        for (sources, expected) in cases {
            for source in *sources {
                assert_eq!(&forms(source, Direction::Forwards), expected, "{source}");
            }
        }
    }

    #[test]
    fn what_is_not_recognised_is_unknown_behind_what_is() {
        for (source, expected) in [
            ("/a[a-z]+", "/a?"),
            ("/user/[^/]*/x", "/user/?"),
            (".*a", "?"),
            ("/a.+", "/a?"),
            ("/a.*b", "/a?"),
            ("(/a)*", "?"),
            ("/a{17}", "/?"),
            ("/a[^?]*", "/a?"),
            ("a$b", "a?"),
        ] {
            assert_eq!(forms(source, Direction::Forwards), [expected], "{source}");
        }
        assert_eq!(forms("(a|b|c|d)(a|b|c|d)(a|b|c|d)(a|b|c|d)", Direction::Forwards), ["?"]);
    }

    #[test]
    fn backwards_suffixes_are_recognised() {
        assert_eq!(forms(r"web\.demo", Direction::Backwards), ["omed.bew"]);
        assert_eq!(forms(r".*\.demo", Direction::Backwards), ["omed.*"]);
        assert_eq!(forms(r"(.*\.)?demo", Direction::Backwards), ["omed", "omed.*"]);
        assert_eq!(forms(r"[^.]*\.demo", Direction::Backwards), ["omed.?"]);
    }
}

//! One regular expression of a rule: what it matches, and its tree, by which the compiler reads it.

use super::ere;
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::{ParserBuilder, hir::Hir};
use std::{
    fmt,
    hash::{Hash, Hasher},
};

/// Bytes that one expression may take when compiled.
const MAX_COMPILED: usize = 256 << 10;
/// Bytes of the cache that a thread keeps for one expression.
const MAX_CACHE: usize = 256 << 10;
/// Nested groups of one expression.
const MAX_DEPTH: u32 = 64;

/// A regular expression that must match all of its subject, which is ASCII.
pub(crate) struct Pattern {
    source: String,
    whole: Regex,
    hir: Hir,
}

impl Pattern {
    /// Reads a POSIX extended regular expression; `Err` says what is wrong with it.
    pub(crate) fn new(source: &str) -> Result<Self, String> {
        let translated = ere::translate(source)?;
        let hir = ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .dot_matches_new_line(true)
            .nest_limit(MAX_DEPTH)
            .build()
            .parse(&translated)
            .map_err(|error| short(&error))?;
        let whole = RegexBuilder::new(&format!(r"\A(?:{translated})\z"))
            .unicode(false)
            .dot_matches_new_line(true)
            .nest_limit(MAX_DEPTH)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_CACHE)
            .build()
            .map_err(|error| short(&error))?;
        Ok(Self { source: source.to_owned(), whole, hir })
    }

    /// Whether it matches all of `subject`. Time is linear in its length.
    pub(crate) fn matches(&self, subject: &[u8]) -> bool {
        self.whole.is_match(subject)
    }

    /// As it was written.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Its tree, not anchored.
    pub(super) fn hir(&self) -> &Hir {
        &self.hir
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.source)
    }
}

/// The last line, which names the fault; those before it draw a picture.
fn short(error: &dyn fmt::Display) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn an_expression_matches_from_its_first_byte_to_its_last() {
        let pattern = Pattern::new("/a|/b").unwrap();
        assert!(pattern.matches(b"/a") && pattern.matches(b"/b"));
        assert!(!pattern.matches(b"/ab") && !pattern.matches(b"x/b") && !pattern.matches(b"/b\n"));
    }

    /// Whoever goes back and tries again never comes to an end here.
    #[test]
    fn d23_nested_repetitions_are_matched_in_one_pass() {
        for source in ["(a+)+$", "(a|aa)+", "(a*)*b", "(.*)(.*)(.*)(.*)x"] {
            let subject = [b"a".repeat(100_000), b"!".to_vec()].concat();
            assert!(!Pattern::new(source).unwrap().matches(&subject), "{source}");
        }
    }

    #[test]
    fn d23_what_is_wrong_is_said_in_one_line() {
        for (source, says) in [("(a", "unclosed group"), ("a)", "unopened group"), ("a{9999999999}", "")] {
            let error = Pattern::new(source).unwrap_err();
            assert!(error.contains(says) && error.lines().count() == 1, "{source}: {error}");
        }
        let huge = Pattern::new("((a{1000}){1000}){1000}").unwrap_err();
        assert!(huge.contains("size limit"), "{huge}");
    }
}

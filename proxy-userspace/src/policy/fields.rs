//! What rules ask of a request's fields, and what they do about those that are not as asked.

use crate::source::finding::quoted;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;

/// A field that a request must have.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FieldTest {
    name: HeaderName,
    /// All its values, by commas, literally; any where it is missing.
    value: Option<HeaderValue>,
    otherwise: Otherwise,
}

/// What is done about a request that has not such a field.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Otherwise {
    /// The rule does not match.
    NoMatch,
    /// It matches, and the mismatch is logged.
    Log,
    /// It matches, and the field is added.
    Add,
    /// It matches, and the field is removed.
    Delete,
    /// It matches, and the field gets this value alone.
    Replace,
}

impl FieldTest {
    /// `Err` says what is wrong.
    pub(crate) fn new(name: &str, value: Option<&str>, otherwise: Otherwise) -> Result<Self, String> {
        let field = name.parse().map_err(|_| format!("{} is not a field's name", quoted(name)))?;
        let value = value.filter(|value| !value.is_empty());
        let value = value.map(|value| value.parse().map_err(|_| format!("{} is no value", quoted(value))));
        let value: Option<HeaderValue> = value.transpose()?;
        if value.is_none() && matches!(otherwise, Otherwise::Add | Otherwise::Replace) {
            return Err("has no value to give the field".to_owned());
        }
        Ok(Self { name: field, value, otherwise })
    }

    /// `Name`, or `Name: value`; a space alone parts them as well.
    pub(crate) fn literal(text: &str) -> Result<Self, String> {
        let (name, value) = match text.trim().split_once([':', ' ']) {
            Some((name, value)) => (name, Some(value.trim())),
            None => (text.trim(), None),
        };
        Self::new(name, value, Otherwise::NoMatch)
    }

    fn holds(&self, fields: &HeaderMap) -> bool {
        let mut values = fields.get_all(&self.name).iter();
        let Some(wanted) = &self.value else { return values.next().is_some() };
        match (values.next(), values.next()) {
            (Some(one), None) => one == wanted,
            (Some(_), Some(_)) => {
                let all: Vec<_> = fields.get_all(&self.name).iter().map(HeaderValue::as_bytes).collect();
                all.join(&b","[..]) == wanted.as_bytes()
            }
            (None, _) => false,
        }
    }

    /// Whether a rule with this test may match.
    pub(super) fn allows(&self, fields: &HeaderMap) -> bool {
        self.otherwise != Otherwise::NoMatch || self.holds(fields)
    }

    /// Makes the fields as asked; says what was not, if that is to be logged.
    pub(super) fn enforce(&self, fields: &mut HeaderMap) -> Option<&HeaderName> {
        if self.holds(fields) {
            return None;
        }
        match (self.otherwise, &self.value) {
            (Otherwise::Log, _) => return Some(&self.name),
            (Otherwise::Add, Some(value)) => {
                fields.append(&self.name, value.clone());
            }
            (Otherwise::Replace, Some(value)) => {
                fields.insert(&self.name, value.clone());
            }
            (Otherwise::Delete, _) => {
                fields.remove(&self.name);
            }
            (Otherwise::NoMatch | Otherwise::Add | Otherwise::Replace, _) => {}
        }
        None
    }

    /// Whether it may change fields, or log.
    pub(super) fn has_effect(&self) -> bool {
        self.otherwise != Otherwise::NoMatch
    }
}

impl fmt::Display for FieldTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}: {}", self.name, String::from_utf8_lossy(value.as_bytes())),
            None => write!(f, "{}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn fields(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        all.iter().map(pair).collect()
    }

    #[test]
    fn a_field_is_there_or_has_the_very_value() {
        for (test, all, holds) in [
            ("X-A", &[("x-a", "")][..], true),
            ("x-a", &[("x-b", "")], false),
            ("X-A: 1", &[("x-a", "1")], true),
            ("X-A 1", &[("x-a", "1")], true),
            ("X-A:1", &[("x-a", "1")], true),
            ("X-A: 1", &[("x-a", "1"), ("x-a", "2")], false),
            ("X-A: 1,2", &[("x-a", "1"), ("x-a", "2")], true),
            ("X-A: 1", &[("x-a", "11")], false),
            ("X-A: a", &[("x-a", "A")], false),
        ] {
            assert_eq!(FieldTest::literal(test).unwrap().allows(&fields(all)), holds, "{test} {all:?}");
        }
        assert!(FieldTest::literal("a b c").is_ok() && FieldTest::literal("").is_err());
        assert!(FieldTest::literal("X\u{e4}").is_err());
    }

    #[test]
    fn a_mismatch_changes_the_field_or_is_told() {
        for (otherwise, before, after) in [
            (Otherwise::Add, &[("x-a", "2")][..], &["2", "1"][..]),
            (Otherwise::Add, &[], &["1"]),
            (Otherwise::Replace, &[("x-a", "2"), ("x-a", "3")], &["1"]),
            (Otherwise::Delete, &[("x-a", "2")], &[]),
            (Otherwise::Delete, &[("x-a", "1")], &["1"]),
            (Otherwise::Log, &[("x-a", "2")], &["2"]),
        ] {
            let test = FieldTest::new("X-A", Some("1"), otherwise).unwrap();
            let mut all = fields(before);
            assert!(test.allows(&all));
            let logged = test.enforce(&mut all).is_some();
            assert_eq!(all.get_all("x-a").iter().collect::<Vec<_>>(), after, "{otherwise:?}");
            assert_eq!(logged, otherwise == Otherwise::Log);
        }
        assert!(FieldTest::new("X-A", None, Otherwise::Add).is_err());
    }
}

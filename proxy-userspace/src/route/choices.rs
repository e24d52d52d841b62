//! What a route admits where RFCs leave two readings, and how large heads may be for it. The strict reading is the
//! default. A route is known only when the head has been read: until then what the most generous route of the
//! connection admits is let through, and the request's own route has the last word.

use super::path::Doubts;
use std::fmt;

/// The most that an annotation may ask for: what one connection can make the agent hold.
pub(crate) const MOST: HeadLimits = HeadLimits { bytes: 1024 * 1024, field: 1024 * 1024, fields: 1000 };
/// Bytes that HTTP/2 counts for a field beside its name and value (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;
/// What HTTP/2 is told by default: fields of 16 KiB in all.
const LIST: usize = 16 * 1024;

/// How large a request's head may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HeadLimits {
    /// All of it, in bytes, its empty line included.
    pub(crate) bytes: usize,
    /// One field in bytes, its line's end not included.
    pub(crate) field: usize,
    /// How many fields.
    pub(crate) fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self::STRICT
    }
}

impl HeadLimits {
    /// What holds where nobody asks for more.
    pub(crate) const STRICT: Self = Self { bytes: 64 * 1024, field: 16 * 1024, fields: 100 };

    /// The same for HTTP/2, as its peers count.
    pub(crate) fn list(self) -> usize {
        if self == Self::STRICT {
            return LIST;
        }
        self.bytes.saturating_add(self.fields.saturating_mul(FIELD_OVERHEAD))
    }

    /// The larger of each.
    fn or(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.max(other.bytes),
            field: self.field.max(other.field),
            fields: self.fields.max(other.fields),
        }
    }
}

/// What becomes of `%2F` and `%5C` in a path: separators to some servers, data to others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) enum EscapedSlashes {
    /// 400.
    #[default]
    Reject,
    /// The client is sent to the path with plain slashes; 400 where that has a backslash.
    Redirect,
    /// They are data, matched and forwarded as they are.
    Keep,
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Choices {
    /// How large a head may be.
    pub(crate) head: HeadLimits,
    /// Encoded separators.
    pub(crate) escaped_slashes: EscapedSlashes,
    /// Percent-encoded bytes that are not UTF-8 are kept as they are; 400 otherwise.
    pub(crate) keeps_non_utf8: bool,
    /// Field names may have underscores; 400 otherwise.
    pub(crate) keeps_underscores: bool,
    /// Empty segments are refused, instead of merged with their neighbours.
    pub(crate) rejects_empty_segments: bool,
}

impl fmt::Display for Choices {
    /// As the annotation would say it, but what is strict.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (head, strict) = (self.head, HeadLimits::STRICT);
        let limits = [
            ("head", head.bytes, strict.bytes),
            ("field", head.field, strict.field),
            ("fields", head.fields, strict.fields),
        ];
        let limits = limits.into_iter().filter(|(_, own, strict)| own != strict);
        let mut said: Vec<_> = limits.map(|(name, own, _)| format!("{name}={own}")).collect();
        let slashes = match self.escaped_slashes {
            EscapedSlashes::Reject => None,
            EscapedSlashes::Redirect => Some("escaped-slashes=redirect"),
            EscapedSlashes::Keep => Some("escaped-slashes=keep"),
        };
        let others = [
            slashes,
            self.keeps_non_utf8.then_some("non-utf8=keep"),
            self.keeps_underscores.then_some("underscores=keep"),
            self.rejects_empty_segments.then_some("empty-segments=reject"),
        ];
        said.extend(others.into_iter().flatten().map(str::to_owned));
        f.write_str(&said.join(","))
    }
}

impl Choices {
    /// What either admits.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            head: self.head.or(other.head),
            escaped_slashes: self.escaped_slashes.max(other.escaped_slashes),
            keeps_non_utf8: self.keeps_non_utf8 || other.keeps_non_utf8,
            keeps_underscores: self.keeps_underscores || other.keeps_underscores,
            rejects_empty_segments: self.rejects_empty_segments && other.rejects_empty_segments,
        }
    }

    /// Whether a path in which servers might see this may pass; a redirect counts as passing. `Err` says why not.
    pub(crate) fn admit(self, doubts: Doubts) -> Result<(), &'static str> {
        if let Some(why) = doubts.escaped.filter(|_| self.escaped_slashes == EscapedSlashes::Reject) {
            return Err(why);
        }
        if doubts.not_utf8 && !self.keeps_non_utf8 {
            return Err("the path is not UTF-8");
        }
        if doubts.empty_segment && self.rejects_empty_segments {
            return Err("the path has an empty segment");
        }
        Ok(())
    }

    /// Where a path leads in which separators are escaped, if its client is to be told so.
    pub(crate) fn redirects(self, doubts: Doubts) -> bool {
        doubts.escaped.is_some() && self.escaped_slashes == EscapedSlashes::Redirect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_either_admits_is_what_the_more_generous_does_of_each() {
        let large = HeadLimits { bytes: 1 << 17, fields: 200, ..HeadLimits::default() };
        let one = Choices { head: large, keeps_underscores: true, ..Choices::default() };
        let other = Choices {
            head: HeadLimits { field: 1 << 16, ..HeadLimits::default() },
            escaped_slashes: EscapedSlashes::Keep,
            keeps_non_utf8: true,
            rejects_empty_segments: true,
            ..Choices::default()
        };
        let both = Choices {
            head: HeadLimits { bytes: 1 << 17, field: 1 << 16, fields: 200 },
            escaped_slashes: EscapedSlashes::Keep,
            keeps_non_utf8: true,
            keeps_underscores: true,
            rejects_empty_segments: false,
        };
        assert_eq!((one.or(other), other.or(one)), (both, both));
        assert_eq!(one.or(one), one);
    }

    #[test]
    fn http2_is_told_16_kib_unless_a_route_asks_for_more() {
        assert_eq!(HeadLimits::default().list(), 16 * 1024);
        let large = HeadLimits { bytes: 100_000, field: 1, fields: 10 };
        assert_eq!(large.list(), 100_320);
    }
}

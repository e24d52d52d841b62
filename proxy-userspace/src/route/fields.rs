//! Changes to a head: `RequestHeaderModifier` and `ResponseHeaderModifier`.

use http::{HeaderMap, HeaderName, HeaderValue};

/// What is done to a head, in this order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Changes {
    /// Overwritten.
    pub(crate) set: Vec<(HeaderName, HeaderValue)>,
    /// Appended.
    pub(crate) add: Vec<(HeaderName, HeaderValue)>,
    /// Taken out.
    pub(crate) remove: Vec<HeaderName>,
}

impl Changes {
    /// Whether nothing changes.
    pub(crate) fn is_none(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Does it.
    pub(crate) fn apply(&self, head: &mut HeaderMap) {
        for (name, value) in &self.set {
            head.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            head.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            head.remove(name);
        }
    }
}

/// Fields that say how a message is framed, or end at this hop: a route cannot change them.
pub(crate) fn is_ours(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "content-length"
            | "upgrade"
            | "expect"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_set_added_and_removed_whatever_their_case() {
        let field = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let changes = Changes {
            set: vec![field("x-set", "new")],
            add: vec![field("x-add", "two")],
            remove: vec![HeaderName::from_static("x-remove")],
        };
        let mut head: HeaderMap = [
            field("x-set", "old"),
            field("x-add", "one"),
            field("x-remove", "gone"),
            field("other", "stays"),
        ]
        .into_iter()
        .collect();
        changes.apply(&mut head);
        let mut fields: Vec<_> =
            head.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default())).collect();
        fields.sort_unstable();
        assert_eq!(fields, [("other", "stays"), ("x-add", "one"), ("x-add", "two"), ("x-set", "new")]);
        assert!(!changes.is_none() && Changes::default().is_none());
    }
}

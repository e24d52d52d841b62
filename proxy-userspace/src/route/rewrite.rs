//! `URLRewrite`: another host, another path.

use super::rule::PathPattern;
use http::HeaderValue;

/// What a request becomes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rewrite {
    /// The Host field.
    pub(crate) host: Option<HeaderValue>,
    /// The path.
    pub(crate) path: Option<PathChange>,
}

/// How a path changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PathChange {
    /// All of it.
    Full(Box<str>),
    /// The prefix that was matched.
    Prefix(Box<str>),
}

impl PathChange {
    /// The new path of one that `matched`.
    pub(crate) fn apply(&self, path: &str, matched: &PathPattern) -> String {
        match self {
            Self::Full(full) => full.to_string(),
            Self::Prefix(with) => {
                let prefix = if let PathPattern::Prefix(prefix) = matched { prefix } else { "" };
                let rest = path.strip_prefix(prefix).unwrap_or(path);
                let new = format!("{}{rest}", with.trim_end_matches('/'));
                if new.starts_with('/') { new } else { format!("/{new}") }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_as_the_api_says_it() {
        for (prefix, with, path, new) in [
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo/", "/xyz", "/foo/", "/xyz/"),
            ("/foo", "/", "/foo/bar", "/bar"),
            ("/foo", "/", "/foo/", "/"),
            ("/foo", "/", "/foo", "/"),
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "", "/foo", "/"),
            ("/", "/xyz", "/foo", "/xyz/foo"),
        ] {
            let change = PathChange::Prefix(with.into());
            assert_eq!(change.apply(path, &PathPattern::prefix(prefix)), new, "{prefix} by {with} in {path}");
        }
        assert_eq!(PathChange::Full("/all".into()).apply("/foo", &PathPattern::prefix("/")), "/all");
    }
}

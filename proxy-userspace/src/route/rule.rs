//! One rule of a route: which requests it is for, and what happens to them.

use super::{
    choices::Choices, cors::Cors, fields::Changes, path, redirect::Redirect, rewrite::Rewrite, target::Target,
};
use crate::snapshot::Timeouts;
use http::HeaderName;
use regex::bytes::{Regex, RegexBuilder};
use std::{sync::Arc, time::Duration};

/// Bytes that one expression may take when compiled.
const MAX_COMPILED: usize = 256 << 10;
/// Nested groups of one expression.
const MAX_DEPTH: u32 = 64;

/// A regular expression (RE2's syntax) that must match all of a value.
#[derive(Clone, Debug)]
pub(crate) struct Whole(Regex);

impl Whole {
    /// `Err` says what is wrong with it.
    pub(crate) fn new(source: &str) -> Result<Self, String> {
        // By itself first: `a)|(b` is no expression, though it is one in parentheses.
        compile(source)?;
        compile(&format!(r"\A(?:{source})\z")).map(Self)
    }

    fn matches(&self, value: &[u8]) -> bool {
        self.0.is_match(value)
    }
}

fn compile(source: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(source)
        .unicode(false)
        .dot_matches_new_line(true)
        .nest_limit(MAX_DEPTH)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .build();
    built.map_err(|error| {
        let text = error.to_string();
        text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned()
    })
}

impl PartialEq for Whole {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Whole {}

/// What a value must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    /// This.
    Exact(Box<str>),
    /// What the expression matches.
    Regex(Whole),
}

impl Value {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex(whole) => whole.matches(value),
        }
    }
}

/// Which paths. Canonical, and a prefix has no slash at its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PathPattern {
    /// This one.
    Exact(Box<str>),
    /// What the expression matches as a whole.
    Regex(Whole),
    /// Whole segments.
    Prefix(Box<str>),
    /// Where nothing else matches: an Ingress's default backend.
    Default,
}

impl PathPattern {
    /// A prefix, whatever slash it ends with.
    pub(crate) fn prefix(value: &str) -> Self {
        Self::Prefix(value.trim_end_matches('/').into())
    }

    /// How special it is: its kind, then its length. The API leaves the place of expressions open: here it
    /// is between exact paths and prefixes, or a rule for `/` would leave them nothing.
    pub(crate) fn speciality(&self) -> (u8, usize) {
        match self {
            Self::Exact(path) => (3, path.len()),
            Self::Regex(whole) => (2, whole.0.as_str().len()),
            Self::Prefix(path) => (1, path.len()),
            Self::Default => (0, 0),
        }
    }

    /// Whether it is for this path.
    pub(crate) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Regex(whole) => whole.matches(path.as_bytes()),
            Self::Prefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Default => true,
        }
    }

    /// Whether it is for every path, however that is spelled.
    pub(crate) fn is_for_all(&self) -> bool {
        match self {
            Self::Prefix(prefix) => prefix.is_empty(),
            Self::Default => true,
            Self::Exact(_) | Self::Regex(_) => false,
        }
    }
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "exact path {path}"),
            Self::Regex(whole) => {
                let source = whole.0.as_str();
                let bare = source.strip_prefix(r"\A(?:").and_then(|bare| bare.strip_suffix(r")\z"));
                write!(f, "path expression {}", bare.unwrap_or(source))
            }
            Self::Prefix(path) if path.is_empty() => f.write_str("prefix /"),
            Self::Prefix(path) => write!(f, "prefix {path}"),
            Self::Default => f.write_str("the default backend"),
        }
    }
}

/// What a match asks for beside the path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Conditions {
    /// This method.
    pub(crate) method: Option<Box<str>>,
    /// All of these fields.
    pub(crate) headers: Vec<(HeaderName, Value)>,
    /// All of these parameters of the query, as they are meant.
    pub(crate) query: Vec<(Box<str>, Value)>,
}

impl Conditions {
    /// What of it the request does not meet; `None` where it meets all.
    pub(crate) fn unmet(&self, target: &Target<'_>) -> Option<String> {
        if let Some(method) = self.method.as_deref().filter(|method| *method != target.method) {
            return Some(format!("method is not {method}"));
        }
        if let Some((name, _)) = self.headers.iter().find(|(name, value)| !has_field(target, name, value)) {
            return Some(format!("field {name} does not match"));
        }
        let parameter = self.query.iter().find(|(name, value)| !has_parameter(target, name, value));
        parameter.map(|(name, _)| format!("parameter {name} does not match"))
    }

    /// The same without words.
    pub(crate) fn met(&self, target: &Target<'_>) -> bool {
        self.method.as_deref().is_none_or(|method| method == target.method)
            && self.headers.iter().all(|(name, value)| has_field(target, name, value))
            && self.query.iter().all(|(name, value)| has_parameter(target, name, value))
    }
}

/// Several fields of one name are one, by commas (RFC 9110 section 5.3).
fn has_field(target: &Target<'_>, name: &HeaderName, wanted: &Value) -> bool {
    let mut values = target.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => false,
        (Some(only), None) => wanted.matches(only.as_bytes()),
        (Some(first), Some(second)) => {
            let all: Vec<&[u8]> =
                [first, second].into_iter().chain(values).map(|one| one.as_bytes()).collect();
            wanted.matches(&all.join(&b','))
        }
    }
}

/// The first parameter of a name counts.
fn has_parameter(target: &Target<'_>, name: &str, wanted: &Value) -> bool {
    let mut pairs =
        target.query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let found = pairs.find(|(one, _)| *path::parameter(one) == *name.as_bytes());
    found.is_some_and(|(_, value)| wanted.matches(&path::parameter(value)))
}

/// What happens to the requests of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rule {
    /// `HTTPRoute default/web#rule0`, for the log and metrics.
    pub(crate) name: Arc<str>,
    /// For all of them.
    pub(crate) filters: Filters,
    /// Where they go.
    pub(crate) backends: Vec<Backend>,
    /// Instead of the Service's own timeouts.
    pub(crate) timeouts: Limits,
    /// What it admits.
    pub(crate) choices: Choices,
    /// When a request is tried again: known, not yet done.
    pub(crate) retry: Option<Retry>,
    /// How a client stays with an endpoint: known, not yet done.
    pub(crate) session: Option<Session>,
    /// Why none of them can be served, whatever the backends.
    pub(crate) broken: Option<Box<str>>,
}

/// Timeouts of a rule. The outer `None` says nothing, the inner one is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Limits {
    /// The whole request.
    pub(crate) request: Option<Option<Duration>>,
    /// One try.
    pub(crate) backend: Option<Option<Duration>>,
}

impl Limits {
    /// What holds where a Service has `timeouts`.
    pub(crate) fn over(self, timeouts: Timeouts) -> Timeouts {
        let request = self.request.unwrap_or(timeouts.request);
        // A rule that gives a request more time means its one try, too.
        let answer = self.backend.or(self.request).unwrap_or(timeouts.response_head);
        Timeouts { request, response_head: answer, ..timeouts }
    }
}

/// `retry` of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Retry {
    /// Statuses.
    pub(crate) codes: Vec<u16>,
    /// At most.
    pub(crate) attempts: u32,
    /// Between two.
    pub(crate) backoff: Option<Duration>,
}

/// `sessionPersistence` of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Session {
    /// Of the cookie or field.
    pub(crate) name: Option<Box<str>>,
    /// In a field of its own rather than a cookie.
    pub(crate) in_header: bool,
    /// At most.
    pub(crate) absolute: Option<Duration>,
    /// Without a request.
    pub(crate) idle: Option<Duration>,
}

/// Some of a rule's requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Backend {
    /// How many, beside the others.
    pub(crate) weight: u32,
    /// Where they go.
    pub(crate) to: Destination,
    /// For these alone, after the rule's own.
    pub(crate) filters: Filters,
}

/// Where a backend's requests go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Destination {
    /// To the cluster of this name, `namespace/service:port`; it may be gone (503).
    Cluster(Arc<str>),
    /// Nowhere: there is no such thing (503).
    Missing(Box<str>),
    /// Nowhere: it may not be referred to, or cannot be (500).
    Invalid(Box<str>),
}

/// What is done to requests and answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Filters {
    /// To the request's head.
    pub(crate) request: Changes,
    /// To the answer's.
    pub(crate) answer: Changes,
    /// To where the request is for.
    pub(crate) rewrite: Option<Rewrite>,
    /// It is answered with another place.
    pub(crate) redirect: Option<Redirect>,
    /// Copies.
    pub(crate) mirrors: Vec<Mirror>,
    /// Pages of other origins.
    pub(crate) cors: Option<Arc<Cors>>,
}

/// Copies of some requests go to another cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mirror {
    /// The cluster's name.
    pub(crate) cluster: Arc<str>,
    /// Of so many requests ...
    pub(crate) numerator: u32,
    /// ... in so many; never 0.
    pub(crate) denominator: u32,
}

impl Rule {
    /// The clusters that its requests and their copies go to.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        let to = self.backends.iter().filter_map(|backend| match &backend.to {
            Destination::Cluster(cluster) => Some(cluster),
            Destination::Missing(_) | Destination::Invalid(_) => None,
        });
        let filters = self.backends.iter().map(|backend| &backend.filters).chain([&self.filters]);
        to.chain(filters.flat_map(|filters| &filters.mirrors).map(|mirror| &mirror.cluster))
    }

    /// The backend that a number chooses, each by its weight; `None` where no backend has any.
    pub(crate) fn choose(&self, number: u64) -> Option<&Backend> {
        let total: u64 = self.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let scaled = (u128::from(number) * u128::from(total)) >> 64;
        let mut left = u64::try_from(scaled).unwrap_or_default();
        self.backends.iter().find(|backend| {
            let weight = u64::from(backend.weight);
            let here = left < weight;
            left = left.saturating_sub(weight);
            here
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn rule(weights: &[u32]) -> Rule {
        let backend = |weight: &u32| Backend {
            weight: *weight,
            to: Destination::Cluster(format!("default/w{weight}:80").into()),
            filters: Filters::default(),
        };
        Rule {
            name: "r".into(),
            filters: Filters::default(),
            backends: weights.iter().map(backend).collect(),
            timeouts: Limits::default(),
            choices: Choices::default(),
            retry: None,
            session: None,
            broken: None,
        }
    }

    #[test]
    fn every_backend_gets_what_its_weight_says_and_none_without() {
        let rule = rule(&[7, 0, 3]);
        let mut seen = std::collections::HashMap::new();
        for step in 0..1000_u64 {
            let chosen = rule.choose(step * (u64::MAX / 1000)).unwrap();
            *seen.entry(chosen.weight).or_insert(0_u32) += 1;
        }
        assert!(seen[&7].abs_diff(700) <= 1 && seen[&3].abs_diff(300) <= 1 && seen.len() == 2, "{seen:?}");
        assert_eq!(rule.choose(u64::MAX).unwrap().weight, 3);
    }

    #[test]
    fn c8_without_any_weight_nobody_is_chosen() {
        assert!(rule(&[0, 0]).choose(7).is_none() && rule(&[]).choose(0).is_none());
    }

    #[test]
    fn c2_an_expression_matches_the_whole_and_must_stand_by_itself() {
        let whole = Whole::new("/v[0-9]+|/w").unwrap();
        assert!(whole.matches(b"/v12") && whole.matches(b"/w"));
        assert!(!whole.matches(b"/v12/x") && !whole.matches(b"x/w"));
        for bad in ["a)|(b", "(", "a{99999}", "[z-a]"] {
            assert!(Whole::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_matches_whole_segments() {
        let prefix = PathPattern::prefix("/foo/");
        for (path, expected) in
            [("/foo", true), ("/foo/", true), ("/foo/bar", true), ("/foobar", false), ("/fo", false)]
        {
            assert_eq!(prefix.matches(path), expected, "{path}");
        }
        assert!(PathPattern::prefix("/").matches("/x"));
    }
}

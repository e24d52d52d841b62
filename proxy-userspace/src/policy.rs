//! HTTP policy: which requests may reach an endpoint. What is decided here is authoritative; the
//! kernel half has a compiled copy of what it can match.
//!
//! An endpoint that a policy names the port of allows what some rule of some policy allows, and no
//! more. Other endpoints have no [`EndpointPolicy`] and allow everything.

pub mod access;
mod compile;
mod ere;
pub(crate) mod explain;
mod fields;
mod form;
mod hosts;
mod index;
mod passage;
mod pattern;
pub(crate) mod question;
mod register;
mod request;

pub use register::{Compiled, Register};

pub(crate) use compile::Entry;
pub(crate) use fields::{FieldTest, Otherwise};
pub(crate) use hosts::host_table;
pub(crate) use passage::{Outcome, Passage};
pub(crate) use pattern::Pattern;
pub(crate) use request::Asked;

use compile::Shape;
use http::{HeaderMap, HeaderName};
use index::Index;
use request::Subject;
use std::{fmt, sync::Arc};

/// One rule, as written in one place of one policy.
#[derive(PartialEq, Eq, Hash, Debug)]
pub struct Rule {
    /// Stands for the name in the kernel's tables; never 0.
    pub id: u32,
    /// `namespace/policy#ingress0.ports0.http0`, for the log.
    pub name: Arc<str>,
    /// What it allows.
    pub(crate) allows: Allows,
    shape: Shape,
}

/// What a rule allows.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) enum Allows {
    /// Every byte: the policy opens the port without a word on HTTP.
    Port,
    /// Requests that match every pattern that is there, and have every field.
    Http {
        method: Option<Arc<Pattern>>,
        path: Option<Arc<Pattern>>,
        host: Option<Arc<Pattern>>,
        fields: Vec<FieldTest>,
    },
}

impl Rule {
    /// A rule under the id that its name has.
    pub(crate) fn new(name: Arc<str>, allows: Allows, register: &Register) -> Self {
        Self { id: register.rule(&name), shape: Shape::of(&allows), name, allows }
    }

    fn allows(&self, subject: &Subject<'_>) -> bool {
        let Allows::Http { method, path, host, fields } = &self.allows else { return true };
        let any = |pattern: &Option<Arc<Pattern>>, subject: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(subject.as_bytes()))
        };
        any(method, subject.method)
            && any(path, subject.target)
            && allows_host(host.as_deref(), subject)
            && fields.iter().all(|test| test.allows(subject.fields))
    }

    /// Whether it allows a request; not one that cannot be decided about.
    pub(crate) fn allows_asked(&self, asked: &Asked<'_>) -> bool {
        self.allows == Allows::Port || Subject::of(asked).is_ok_and(|subject| self.allows(&subject))
    }

    /// What of a request is not as it asks; `None` where the request cannot be decided about.
    pub(crate) fn differs(&self, asked: &Asked<'_>) -> Option<Vec<String>> {
        let Allows::Http { method, path, host, fields } = &self.allows else { return Some(Vec::new()) };
        let subject = Subject::of(asked).ok()?;
        let mut differs = Vec::new();
        let mut compare = |what: &str, pattern: &Option<Arc<Pattern>>, subject: &str| {
            if let Some(pattern) = pattern.as_ref().filter(|pattern| !pattern.matches(subject.as_bytes())) {
                differs.push(format!("{what} {subject:?} is not {:?}", pattern.source()));
            }
        };
        compare("method", method, subject.method);
        compare("path", path, subject.target);
        if !allows_host(host.as_deref(), &subject) {
            compare("host", host, subject.host.as_deref().unwrap_or_default());
        }
        let missing = fields.iter().filter(|test| !test.allows(subject.fields));
        differs.extend(missing.map(|test| format!("header {test} is not there")));
        Some(differs)
    }

    /// Makes the fields of a request that it allows as it asks; returns the names of those that it does not
    /// find so and only wants logged.
    pub(crate) fn enforce<'a>(&'a self, fields: &mut HeaderMap) -> Vec<&'a HeaderName> {
        let Allows::Http { fields: tests, .. } = &self.allows else { return Vec::new() };
        tests.iter().filter_map(|test| test.enforce(fields)).collect()
    }

    /// Whether [`Rule::enforce`] may do anything.
    pub(crate) fn has_effect(&self) -> bool {
        matches!(&self.allows, Allows::Http { fields, .. } if fields.iter().any(FieldTest::has_effect))
    }
}

/// With or without the port, either may match; a request without a host matches no pattern.
fn allows_host(pattern: Option<&Pattern>, subject: &Subject<'_>) -> bool {
    let Some(pattern) = pattern else { return true };
    [subject.host_name(), subject.host.as_deref()]
        .into_iter()
        .flatten()
        .any(|host| pattern.matches(host.as_bytes()))
}

/// All that is allowed at one port of one endpoint.
#[derive(PartialEq, Eq, Debug)]
pub struct EndpointPolicy {
    /// The policies that it comes from, `namespace/name`, by commas: who denies.
    pub name: Arc<str>,
    /// Any of them allows. Those for the whole port come first.
    pub rules: Vec<Arc<Rule>>,
    /// Those of them that can match a target.
    index: Index,
    /// The kernel half's copy.
    pub compiled: Arc<Compiled>,
    /// Whether the kernel half can decide by it.
    pub eligibility: Eligibility,
}

/// Whether the kernel half can decide by a policy, or must leave requests to the agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Eligibility {
    /// About every request that it can read.
    Yes,
    /// About some; why not about all.
    Partly(String),
    /// It can allow none; why.
    No(String),
}

impl fmt::Display for Eligibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("yes"),
            Self::Partly(why) => write!(f, "partly, because {why}"),
            Self::No(why) => write!(f, "no, because {why}"),
        }
    }
}

/// What is decided about a request.
#[derive(PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Decision<'a> {
    /// This rule allows it.
    Allow(&'a Arc<Rule>),
    /// No rule does.
    Deny,
    /// The rules cannot be applied, because of this.
    Ambiguous(&'static str),
}

impl EndpointPolicy {
    /// The policies of this name, which have these rules between them.
    pub(crate) fn new(name: Arc<str>, mut rules: Vec<Arc<Rule>>, register: &Register) -> Self {
        rules.sort_by_key(|rule| rule.allows != Allows::Port);
        let (compiled, why) = register.compile(&rules);
        let eligibility = match why {
            Some(why) if compiled.entries().iter().any(Entry::allows_some) => Eligibility::Partly(why),
            Some(why) => Eligibility::No(why),
            None => Eligibility::Yes,
        };
        let index = Index::new(rules.iter().map(|rule| rule.shape.targets()));
        Self { name, rules, index, compiled, eligibility }
    }

    /// Decides about a request. Linear in the length of its target and in the number of rules with a path
    /// that begins like it.
    pub(crate) fn decide(&self, asked: &Asked<'_>) -> Decision<'_> {
        if let Some(rule) = self.opens_port() {
            return Decision::Allow(rule);
        }
        let subject = match Subject::of(asked) {
            Ok(subject) => subject,
            Err(why) => return Decision::Ambiguous(why),
        };
        let allows = |at: usize| self.rules.get(at).is_some_and(|rule| rule.allows(&subject));
        let first = self.index.first(subject.target.as_bytes(), allows);
        first.and_then(|at| self.rules.get(at)).map_or(Decision::Deny, Decision::Allow)
    }

    /// Whether some rule allows a request.
    pub(crate) fn allows(&self, asked: &Asked<'_>) -> bool {
        matches!(self.decide(asked), Decision::Allow(_))
    }

    /// The rule that allows bytes which are not HTTP, if there is one.
    pub(crate) fn opens_port(&self) -> Option<&Arc<Rule>> {
        self.rules.first().filter(|rule| rule.allows == Allows::Port)
    }

    /// Whether some requests are decided about by what they ask for.
    pub(crate) fn has_http(&self) -> bool {
        self.rules.iter().any(|rule| rule.allows != Allows::Port)
    }
}

#[cfg(test)]
mod tests;

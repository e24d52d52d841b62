//! HTTP policy: which requests may reach an endpoint. What is decided here is authoritative; the
//! kernel half has a compiled copy of what it can match.
//!
//! An endpoint that a policy names the port of allows what some rule of some policy allows, and no
//! more. Other endpoints have no [`EndpointPolicy`] and allow everything.

pub mod access;
mod compile;
mod ere;
mod form;
mod hosts;
mod index;
mod pattern;
mod register;
mod request;

pub use register::{Compiled, Register};

pub(crate) use compile::Entry;
pub(crate) use hosts::host_table;
pub(crate) use pattern::Pattern;
pub(crate) use request::Asked;

use compile::Shape;
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
    /// Requests that match every pattern that is there.
    Http { method: Option<Arc<Pattern>>, path: Option<Arc<Pattern>>, host: Option<Arc<Pattern>> },
}

impl Rule {
    /// A rule under the id that its name has.
    pub(crate) fn new(name: Arc<str>, allows: Allows, register: &Register) -> Self {
        Self { id: register.rule(&name), shape: Shape::of(&allows), name, allows }
    }

    fn allows(&self, subject: &Subject<'_>) -> bool {
        let Allows::Http { method, path, host } = &self.allows else { return true };
        let any = |pattern: &Option<Arc<Pattern>>, subject: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(subject.as_bytes()))
        };
        any(method, subject.method) && any(path, subject.target) && allows_host(host.as_deref(), subject)
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
    Allow(&'a Rule),
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
        first.and_then(|at| self.rules.get(at)).map_or(Decision::Deny, |rule| Decision::Allow(rule))
    }

    /// The rule that allows bytes which are not HTTP, if there is one.
    pub(crate) fn opens_port(&self) -> Option<&Rule> {
        self.rules.first().filter(|rule| rule.allows == Allows::Port).map(|rule| &**rule)
    }
}

#[cfg(test)]
mod tests;

//! HTTP policy: which requests may reach an endpoint. What is decided here is authoritative; the
//! kernel half has a compiled copy of what it can match.
//!
//! An endpoint that a policy names the port of allows what some rule of some policy allows, and no
//! more. Other endpoints have no [`EndpointPolicy`] and allow everything.

mod ere;
mod pattern;
mod request;

pub(crate) use pattern::Pattern;
pub(crate) use request::Asked;

use request::Subject;
use std::sync::Arc;

/// One rule, as written in one place of one policy.
#[derive(PartialEq, Eq, Debug)]
pub struct Rule {
    /// `namespace/policy#ingress0.ports0.http0`, for the log.
    pub name: Arc<str>,
    /// What it allows.
    pub(crate) allows: Allows,
}

/// What a rule allows.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Allows {
    /// Every byte: the policy opens the port without a word on HTTP.
    Port,
    /// Requests that match every pattern that is there.
    Http { method: Option<Pattern>, path: Option<Pattern>, host: Option<Pattern> },
}

impl Rule {
    fn allows(&self, subject: &Subject<'_>) -> bool {
        let Allows::Http { method, path, host } = &self.allows else { return true };
        let any = |pattern: &Option<Pattern>, subject: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(subject.as_bytes()))
        };
        any(method, subject.method) && any(path, subject.target) && allows_host(host.as_ref(), subject)
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
    /// Decides about a request. Linear in the number of rules and the length of its target.
    pub(crate) fn decide(&self, asked: &Asked<'_>) -> Decision<'_> {
        if let Some(rule) = self.opens_port() {
            return Decision::Allow(rule);
        }
        let subject = match Subject::of(asked) {
            Ok(subject) => subject,
            Err(why) => return Decision::Ambiguous(why),
        };
        let rule = self.rules.iter().find(|rule| rule.allows(&subject));
        rule.map_or(Decision::Deny, |rule| Decision::Allow(rule))
    }

    /// The rule that allows bytes which are not HTTP, if there is one.
    pub(crate) fn opens_port(&self) -> Option<&Rule> {
        self.rules.first().filter(|rule| rule.allows == Allows::Port).map(|rule| &**rule)
    }
}

#[cfg(test)]
mod tests;

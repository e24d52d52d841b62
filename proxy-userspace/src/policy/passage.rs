//! What holds for the requests of one client at one port of one endpoint: the client's policies of egress and
//! the endpoint's of ingress.

use super::{
    Asked, Decision, Eligibility, EndpointPolicy, Rule,
    access::{Access, Audit, Party, PolicySet, Side, Transport, Verdict},
};
use std::sync::Arc;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) enum Passage {
    /// No connection: these policies deny it.
    Closed { policies: Arc<str> },
    /// Every byte.
    Open(Open),
    /// Requests that each of these allows: one, or that of egress and that of ingress.
    Requests(Vec<Arc<EndpointPolicy>>, Open),
}

/// What is said beside about a connection that is not denied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Open {
    /// The rule that allows all of it, where one does.
    pub(crate) rule: Option<Arc<str>>,
    /// What policies in audit mode would deny.
    pub(crate) audits: Vec<Audit>,
}

/// What is decided about a request.
#[derive(Clone, Debug)]
#[must_use]
pub(crate) enum Outcome {
    /// It is allowed, by these rules: of egress, of ingress.
    Allow(Vec<Arc<Rule>>),
    /// It is denied, by these policies.
    Deny(Arc<str>),
    /// These policies cannot be applied to it, because of this.
    Ambiguous(Arc<str>, &'static str),
}

impl Passage {
    /// Between two parties, to a TCP port of the second.
    pub(crate) fn of(access: &Access, client: &Party, endpoint: &Party, port: u16) -> Self {
        let (egress, ingress) = match access.decide(client, endpoint, Transport::Tcp, port) {
            Verdict::Deny { policies, .. } => return Self::Closed { policies },
            Verdict::Allow { egress, ingress } => (egress, ingress),
        };
        let (mut policies, mut open) = (Vec::new(), Open::default());
        for (set, side) in [egress, ingress].into_iter().flatten() {
            match side {
                Side::Http(rules) => policies.push(policy(&set, &rules, access)),
                Side::Allow { rule, audit } => {
                    open.rule = rule.or(open.rule);
                    open.audits.extend(Some(audit).filter(|audit| !matches!(audit, Audit::Nothing)));
                }
                // `decide` has returned by then.
                Side::Deny { .. } => return Self::Closed { policies: Arc::clone(&set.name) },
            }
        }
        if policies.is_empty() { Self::Open(open) } else { Self::Requests(policies, open) }
    }

    /// Whether no byte may pass.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Decides about a request.
    pub(crate) fn decide(&self, asked: &Asked<'_>) -> Outcome {
        let policies = match self {
            Self::Closed { policies } => return Outcome::Deny(Arc::clone(policies)),
            Self::Open(_) => return Outcome::Allow(Vec::new()),
            Self::Requests(policies, _) => policies,
        };
        let (mut rules, mut denied) = (Vec::with_capacity(policies.len()), None);
        for policy in policies {
            match policy.decide(asked) {
                Decision::Allow(rule) => rules.push(Arc::clone(rule)),
                Decision::Deny => denied = denied.or(Some(&policy.name)),
                Decision::Ambiguous(why) => return Outcome::Ambiguous(Arc::clone(&policy.name), why),
            }
        }
        denied.map_or(Outcome::Allow(rules), |name| Outcome::Deny(Arc::clone(name)))
    }

    /// The policies in audit mode that would deny a request which is allowed.
    pub(crate) fn audited(&self, asked: &Asked<'_>) -> Option<Arc<str>> {
        let (Self::Open(open) | Self::Requests(_, open)) = self else { return None };
        open.audits.iter().find_map(|audit| match audit {
            Audit::Nothing => None,
            Audit::Connection(name) => Some(Arc::clone(name)),
            Audit::Requests(name, rules) => {
                let allowed = rules.iter().any(|rule| rule.allows_asked(asked));
                (!allowed).then(|| Arc::clone(name))
            }
        })
    }

    /// Those of the policies in audit mode that would deny the connection.
    pub(crate) fn audits_connection(&self) -> Option<Arc<str>> {
        let (Self::Open(open) | Self::Requests(_, open)) = self else { return None };
        open.audits.iter().find_map(|audit| match audit {
            Audit::Connection(name) => Some(Arc::clone(name)),
            Audit::Nothing | Audit::Requests(..) => None,
        })
    }

    /// The HTTP policies, each of which must allow a request.
    pub(crate) fn policies(&self) -> &[Arc<EndpointPolicy>] {
        if let Self::Requests(policies, _) = self { policies } else { &[] }
    }

    /// By which policy the kernel half may decide: the outer `None` where it must not.
    pub(crate) fn for_kernel(&self) -> Option<Option<&Arc<EndpointPolicy>>> {
        match self {
            Self::Closed { .. } => None,
            // What would be denied is counted by the agent.
            Self::Open(open) => open.audits.is_empty().then_some(None),
            Self::Requests(policies, open) => match policies.as_slice() {
                [one] if open.audits.is_empty() && !matches!(one.eligibility, Eligibility::No(_)) => {
                    Some(Some(one))
                }
                // Two policies would have to allow it: the kernel half knows one.
                _ => None,
            },
        }
    }
}

fn policy(set: &PolicySet, rules: &[Arc<Rule>], access: &Access) -> Arc<EndpointPolicy> {
    set.policy(rules, access.register())
}

//! Why policies decide as they do, and what would have to be otherwise.

use super::{
    Passage, Rule,
    access::{Access, Direction, Party, PolicySet, Transport, Verdict},
    question::{Answer, Fate, Ports, Question, Request, There, Told},
};
use crate::snapshot::Snapshot;
use serde::Serialize;
use std::{fmt, sync::Arc};

/// What is decided at one endpoint, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Explanation {
    /// The decision.
    #[serde(flatten)]
    pub(crate) answer: Answer,
    /// The policies of who connects that are about its connections, `namespace/name`, by commas.
    pub(crate) egress: Option<String>,
    /// Those of who is connected to.
    pub(crate) ingress: Option<String>,
    /// Which rule comes nearest to allowing it, if it is denied.
    pub(crate) nearest: Option<Nearest>,
    /// Who decides.
    pub(crate) lane: String,
    /// The policies in audit mode that would deny it.
    pub(crate) audit: Option<String>,
}

/// A rule that does not allow it, and why not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Nearest {
    /// The rule.
    pub(crate) rule: String,
    /// What is not as the rule wants it.
    pub(crate) differs: Vec<String>,
}

/// Explains what becomes of it at each endpoint. `Err` where the question cannot be understood.
pub(crate) fn explain(
    question: &Question,
    snapshot: &Snapshot,
    ports: &Ports,
) -> anyhow::Result<Vec<Explanation>> {
    let (client, told) = question.told(snapshot, ports)?;
    let asking = Asking { access: &snapshot.access, client: &client, transport: question.transport };
    let explained = told.into_iter().map(|Told { answer, there, request, by_rule }| match there {
        Some(there) if by_rule => Explanation {
            lane: "relay: a rule sends each request where it belongs".to_owned(),
            ..asking.explain(answer, &there, request.as_ref())
        },
        Some(there) => asking.explain(answer, &there, request.as_ref()),
        None => Explanation {
            lane: match answer.fate {
                Fate::Drop => "nobody: there is nowhere to connect to".to_owned(),
                _ => "the agent, which answers by itself".to_owned(),
            },
            answer,
            egress: None,
            ingress: None,
            nearest: None,
            audit: None,
        },
    });
    Ok(explained.collect())
}

struct Asking<'a> {
    access: &'a Access,
    client: &'a Party,
    transport: Transport,
}

impl Asking<'_> {
    fn explain(&self, answer: Answer, there: &There, request: Option<&Request>) -> Explanation {
        let name = |party: &Party, direction| {
            party.pod.as_ref().and_then(|pod| pod.set(direction)).map(|set| set.name.to_string())
        };
        let passage = Passage::of(self.access, self.client, &there.party, there.port);
        let nearest = match (answer.fate, request) {
            (Fate::Drop, _) => self.nearest_rule(there),
            (Fate::Forbidden, Some(request)) => nearest_http(&passage, request),
            _ => None,
        };
        Explanation {
            egress: name(self.client, Direction::Egress),
            ingress: name(&there.party, Direction::Ingress),
            nearest,
            lane: lane(answer.fate, &passage, request.is_some()),
            audit: request
                .and_then(|request| passage.audited(&request.asked()))
                .or_else(|| passage.audits_connection())
                .map(|name| name.to_string()),
            answer,
        }
    }

    fn nearest_rule(&self, there: &There) -> Option<Nearest> {
        let Verdict::Deny { direction, rule: None, .. } =
            self.access.decide(self.client, &there.party, self.transport, there.port)
        else {
            return None;
        };
        let (own, peer) = match direction {
            Direction::Egress => (self.client, &there.party),
            Direction::Ingress => (&there.party, self.client),
        };
        let set: &Arc<PolicySet> = own.pod.as_ref()?.set(direction)?;
        let (rule, differs) = set.nearest(&peer.class, self.transport, there.port)?;
        Some(Nearest { rule: rule.to_string(), differs })
    }
}

/// The rule that asks for the fewest things that the request has not.
fn nearest_http(passage: &Passage, request: &Request) -> Option<Nearest> {
    let asked = request.asked();
    let denying = passage.policies().iter().filter(|policy| !policy.allows(&asked));
    let rules = denying.flat_map(|policy| &policy.rules);
    let differing = rules.filter_map(|rule: &Arc<Rule>| Some((rule, rule.differs(&asked)?)));
    let (rule, differs) = differing.min_by_key(|(_, differs)| differs.len())?;
    Some(Nearest { rule: rule.name.to_string(), differs })
}

fn lane(fate: Fate, passage: &Passage, is_request: bool) -> String {
    match (fate, passage) {
        (Fate::Drop, _) => "the kernel half, at connect".to_owned(),
        (_, _) if !is_request => "the kernel half, at connect".to_owned(),
        (_, Passage::Closed { .. } | Passage::Open(_)) => {
            "no HTTP rule is asked; any lane carries it".to_owned()
        }
        (_, Passage::Requests(policies, _)) => match (policies.as_slice(), passage.for_kernel()) {
            ([one], Some(_)) => format!("splice: {}; relay otherwise", one.eligibility),
            ([one], None) => format!("relay; splice: {}", one.eligibility),
            _ => "relay: rules of both ends must allow it".to_owned(),
        },
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answer, egress, ingress, nearest, lane, audit } = self;
        let none = "none: everything is allowed";
        writeln!(f, "{} at {}", answer.fate, answer.at)?;
        writeln!(f, "  because   {}", answer.because)?;
        writeln!(f, "  egress    {}", egress.as_deref().unwrap_or(none))?;
        writeln!(f, "  ingress   {}", ingress.as_deref().unwrap_or(none))?;
        if let Some(Nearest { rule, differs }) = nearest {
            writeln!(f, "  nearest   {rule}: {}", differs.join("; "))?;
        }
        if let Some(audit) = audit {
            writeln!(f, "  audit     {audit} would deny it")?;
        }
        writeln!(f, "  decides   {lane}")
    }
}

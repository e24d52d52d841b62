//! All policies of one direction that select a pod, as rows.

use super::{
    Direction, Transport,
    class::Class,
    peer::{Entity, Peer},
    rules::{AccessPolicy, AccessRule, Action, DirectionRules, Span, Transports},
    selector::Selector,
};
use crate::policy::{EndpointPolicy, Register, Rule};
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// What policies say about one direction of a pod. Pods that the same policies select share it; what its id
/// means never changes, and an id is never used again.
#[derive(Debug)]
pub struct PolicySet {
    /// Its id; never 0.
    pub id: u32,
    /// Which direction.
    pub direction: Direction,
    /// The policies, `namespace/name`, by commas: who denies what no rule allows.
    pub name: Arc<str>,
    /// What no row allows is denied.
    default_deny: bool,
    /// The policies that would deny what no row allows if they were not in audit mode; empty where there is
    /// none.
    audit_deny: Arc<str>,
    rows: Vec<Row>,
    /// HTTP rules that it may answer, by their ids, as an endpoint's policy.
    variants: Mutex<HashMap<Vec<u32>, Arc<EndpointPolicy>>>,
}

/// A peer under its id.
#[derive(Debug)]
pub(super) struct KnownPeer {
    pub(super) id: u32,
    pub(super) peer: Peer,
}

/// One rule for one peer and one span of ports.
#[derive(Clone, Debug)]
struct Row {
    peer: Arc<KnownPeer>,
    transports: Transports,
    span: Span,
    rule: Arc<AccessRule>,
    audit: bool,
}

/// What a set says about a connection.
#[derive(Clone, Debug)]
#[must_use]
pub enum Side {
    /// It is allowed, by this rule, or because nothing denies it.
    Allow {
        /// The rule's name.
        rule: Option<Arc<str>>,
        /// What would be denied, if no policy were in audit mode.
        audit: Audit,
    },
    /// Its requests are, where any of these allows them.
    Http(Vec<Arc<Rule>>),
    /// It is denied.
    Deny {
        /// The rule that denies it; `None` where no rule allows it.
        rule: Option<Arc<str>>,
    },
}

/// What policies in audit mode would deny.
#[derive(Clone, Debug, Default)]
pub enum Audit {
    /// Nothing.
    #[default]
    Nothing,
    /// The connection: the names of the policies, or of the rule.
    Connection(Arc<str>),
    /// Requests that none of these rules allows: the names of the policies, and the rules.
    Requests(Arc<str>, Vec<Arc<Rule>>),
}

/// What a set says about some ports, for a class of peers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortRow {
    /// The protocol.
    pub transport: Transport,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
    /// What is done there.
    pub verdict: PortVerdict,
}

/// See [`PortRow`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PortVerdict {
    /// The connection is refused.
    Deny,
    /// The connection is nobody's business.
    Allow,
    /// The connection is the agent's, which decides about each request.
    AllowHttp,
}

/// What [`PolicySet::new`] is made of.
pub(super) struct Selecting<'a> {
    /// The policies, by name.
    pub(super) policies: &'a [Arc<AccessPolicy>],
    /// Ports of the pod itself, which rules of ingress name.
    pub(super) own_ports: &'a [NamedPort],
}

/// A container's port with a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NamedPort {
    /// Its name.
    pub name: Arc<str>,
    /// Its protocol.
    pub transport: Transport,
    /// Its number.
    pub number: u16,
}

impl PolicySet {
    pub(super) fn new(
        id: u32,
        direction: Direction,
        selecting: &Selecting<'_>,
        know: &mut impl FnMut(Peer) -> Arc<KnownPeer>,
    ) -> Self {
        let said = || {
            let all = selecting.policies.iter();
            all.filter_map(|policy| Some((policy, policy.of(direction)?)))
        };
        let all_of = |requires: fn(&DirectionRules) -> &Vec<Selector>| {
            said().flat_map(|(_, rules)| requires(rules)).fold(Selector::default(), |all, one| all.and(one))
        };
        let (requires, requires_deny) =
            (all_of(|rules| &rules.requires), all_of(|rules| &rules.requires_deny));
        let names = |audit: bool| -> Arc<str> {
            let denying = said().filter(|(policy, rules)| rules.default_deny && policy.audit == audit);
            joined(denying.map(|(policy, _)| &*policy.name)).into()
        };
        let mut rows = Vec::new();
        for (policy, rules) in said() {
            for rule in &rules.rules {
                let requires = if rule.action == Action::Deny { &requires_deny } else { &requires };
                for peer in &rule.peers {
                    let peer = match peer {
                        Peer::Pods(selector) => know(Peer::Pods(selector.clone().and(requires))),
                        other => know(other.clone()),
                    };
                    push_rows(&mut rows, direction, selecting, (rule, policy.audit), &peer);
                }
            }
        }
        Self {
            id,
            direction,
            name: joined(said().map(|(policy, _)| &*policy.name)).into(),
            default_deny: said().any(|(policy, rules)| rules.default_deny && !policy.audit),
            audit_deny: names(true),
            rows,
            variants: Mutex::default(),
        }
    }

    /// Decides about a connection with a peer of this class; `port` is that of the pod which is reached.
    pub fn side(&self, peer: &Class, transport: Transport, port: u16) -> Side {
        let (mut open, mut http, mut audit) = (None, Vec::new(), None);
        for row in self.rows.iter().filter(|row| row.holds(peer, transport, port)) {
            match &row.rule.action {
                Action::Deny if row.audit => audit = Some(Arc::clone(&row.rule.name)),
                Action::Deny => return Side::Deny { rule: Some(Arc::clone(&row.rule.name)) },
                Action::Allow => open = open.or(Some(&row.rule)),
                Action::AllowHttp(rules) => http.extend(rules.iter().cloned()),
            }
        }
        if !http.is_empty() && open.is_none() && self.default_deny {
            return Side::Http(http);
        }
        let audit = match audit {
            Some(rule) => Audit::Connection(rule),
            None if open.is_some() || self.audit_deny.is_empty() => Audit::Nothing,
            None if http.is_empty() => Audit::Connection(Arc::clone(&self.audit_deny)),
            None => Audit::Requests(Arc::clone(&self.audit_deny), http),
        };
        match open {
            Some(rule) => Side::Allow { rule: Some(Arc::clone(&rule.name)), audit },
            None if self.default_deny => Side::Deny { rule: None },
            None => Side::Allow { rule: None, audit },
        }
    }

    /// What it says where no row says anything.
    #[must_use]
    pub fn fallback(&self) -> PortVerdict {
        if self.default_deny { PortVerdict::Deny } else { PortVerdict::Allow }
    }

    /// Whether a row is about this class: for all other classes, [`PolicySet::rows`] is empty.
    #[must_use]
    pub fn names(&self, peer: &Class) -> bool {
        self.rows.iter().any(|row| peer.is_meant_by(row.peer.id))
    }

    /// What it says about all ports, for peers of a class: sorted, without overlap, and only where it is
    /// not [`PolicySet::fallback`].
    #[must_use]
    pub fn rows(&self, peer: &Class) -> Vec<PortRow> {
        let mut rows: Vec<PortRow> = Vec::new();
        for transport in Transport::ALL {
            let mut starts = BTreeSet::new();
            for row in self.rows.iter().filter(|row| peer.is_meant_by(row.peer.id)) {
                for (first, last) in row.numbers(peer, transport) {
                    starts.extend([Some(first), last.checked_add(1)]);
                }
            }
            let mut starts = starts.into_iter().flatten().peekable();
            while let Some(first) = starts.next() {
                let last = starts.peek().map_or(u16::MAX, |next| next - 1);
                let verdict = self.side(peer, transport, first).verdict();
                match rows.last_mut() {
                    Some(row)
                        if (row.transport, row.verdict) == (transport, verdict)
                            && row.last.checked_add(1) == Some(first) =>
                    {
                        row.last = last;
                    }
                    _ => rows.push(PortRow { transport, first, last, verdict }),
                }
            }
        }
        rows.retain(|row| row.verdict != self.fallback());
        rows
    }

    /// The peers that its rows are about, each once.
    pub(super) fn peers(&self) -> Vec<Arc<KnownPeer>> {
        let mut peers: Vec<_> = self.rows.iter().map(|row| Arc::clone(&row.peer)).collect();
        peers.sort_by_key(|peer| peer.id);
        peers.dedup_by_key(|peer| peer.id);
        peers
    }

    /// HTTP rules that [`Side::Http`] had, as a policy: made once.
    pub(crate) fn policy(&self, rules: &[Arc<Rule>], register: &Register) -> Arc<EndpointPolicy> {
        let key: Vec<u32> = rules.iter().map(|rule| rule.id).collect();
        let mut variants = self.variants.lock();
        let made = variants.entry(key).or_insert_with(|| {
            Arc::new(EndpointPolicy::new(Arc::clone(&self.name), rules.to_vec(), register))
        });
        Arc::clone(made)
    }

    /// The policies that were made of it.
    pub(super) fn policies(&self) -> Vec<Arc<EndpointPolicy>> {
        self.variants.lock().values().cloned().collect()
    }

    /// Makes every policy that peers of a class may be answered.
    pub(super) fn make_policies(&self, peer: &Class, register: &Register) {
        let mut starts = BTreeSet::new();
        for row in self.rows.iter().filter(|row| row.is_http() && peer.is_meant_by(row.peer.id)) {
            starts.extend(row.numbers(peer, Transport::Tcp).into_iter().map(|(first, _)| first));
        }
        for port in starts {
            if let Side::Http(rules) = self.side(peer, Transport::Tcp, port) {
                self.policy(&rules, register);
            }
        }
    }

    /// The rule that comes nearest to allowing a connection that none allows: its name, and what of the
    /// connection is not as it asks.
    pub(crate) fn nearest(
        &self,
        peer: &Class,
        transport: Transport,
        port: u16,
    ) -> Option<(&Arc<str>, Vec<String>)> {
        let allowing = self.rows.iter().filter(|row| row.rule.action != Action::Deny);
        let differing = allowing.map(|row| {
            let mut differs = Vec::new();
            let alike = self.rows.iter().filter(|other| Arc::ptr_eq(&other.rule, &row.rule));
            if !alike.clone().any(|one| peer.is_meant_by(one.peer.id)) {
                let peers: Vec<_> = row.rule.peers.iter().map(ToString::to_string).collect();
                differs.push(format!("the other side is not {}", peers.join(", nor ")));
            }
            if !alike.clone().any(|one| one.has_port(peer, transport, port)) {
                let ports: Vec<_> = row.rule.ports.iter().map(ToString::to_string).collect();
                differs.push(format!("port {port} is not {}", ports.join(", nor ")));
            }
            (&row.rule.name, differs)
        });
        differing.min_by_key(|(_, differs)| differs.len())
    }

    /// HTTP rules that another rule makes mean nothing, and that one: it allows the same peers every byte of
    /// some of the same ports.
    pub(crate) fn voided(&self) -> Vec<(&AccessRule, &AccessRule)> {
        let mut found: Vec<(&AccessRule, &AccessRule)> = Vec::new();
        for voided in self.rows.iter().filter(|row| row.is_http()) {
            for open in self.rows.iter().filter(|row| row.rule.action == Action::Allow) {
                let pair: (&AccessRule, &AccessRule) = (&voided.rule, &open.rule);
                if open.covers(voided) && !found.iter().any(|(one, other)| (*one, *other) == pair) {
                    found.push(pair);
                }
            }
        }
        found
    }

    /// Rules about HTTP.
    pub(crate) fn http_rules(&self) -> impl Iterator<Item = &Arc<AccessRule>> {
        self.rows.iter().filter(|row| row.is_http()).map(|row| &row.rule)
    }

    /// Whether any of it is about HTTP.
    pub(crate) fn has_http(&self) -> bool {
        self.rows.iter().any(Row::is_http)
    }

    /// Rules that are about a TCP port of the pod, whoever the peer is.
    pub(crate) fn at_port(&self, port: u16) -> impl Iterator<Item = &Arc<AccessRule>> {
        let mut seen: Vec<&Arc<AccessRule>> = Vec::new();
        for row in &self.rows {
            let covers = matches!(row.span, Span::Numbers(first, last) if (first..=last).contains(&port));
            if covers
                && row.transports.contains(Transport::Tcp)
                && !seen.iter().any(|one| Arc::ptr_eq(one, &row.rule))
            {
                seen.push(&row.rule);
            }
        }
        seen.into_iter()
    }
}

impl Side {
    fn verdict(&self) -> PortVerdict {
        match self {
            Self::Allow { .. } => PortVerdict::Allow,
            Self::Http(_) => PortVerdict::AllowHttp,
            Self::Deny { .. } => PortVerdict::Deny,
        }
    }
}

impl Row {
    /// Whether it is about every peer of another row, and some of its ports.
    fn covers(&self, other: &Self) -> bool {
        let same = self.peer.id == other.peer.id
            || matches!(self.peer.peer, Peer::Anyone | Peer::Entity(Entity::All));
        let meet = match (&self.span, &other.span) {
            (Span::Numbers(first, last), Span::Numbers(other_first, other_last)) => {
                first <= other_last && other_first <= last
            }
            (one, other) => one == other || *one == Span::ALL,
        };
        same && meet && self.transports.contains(Transport::Tcp)
    }

    fn is_http(&self) -> bool {
        matches!(self.rule.action, Action::AllowHttp(_))
    }

    fn has_port(&self, peer: &Class, transport: Transport, port: u16) -> bool {
        self.transports.contains(transport)
            && match &self.span {
                Span::Numbers(first, last) => (*first..=*last).contains(&port),
                Span::Named(name) => peer.has_port(name, transport, port),
            }
    }

    fn holds(&self, peer: &Class, transport: Transport, port: u16) -> bool {
        self.has_port(peer, transport, port) && peer.is_meant_by(self.peer.id)
    }

    fn numbers(&self, peer: &Class, transport: Transport) -> Vec<(u16, u16)> {
        if !self.transports.contains(transport) {
            return Vec::new();
        }
        match &self.span {
            Span::Numbers(first, last) => vec![(*first, *last)],
            Span::Named(name) => peer.ports(name, transport).map(|number| (number, number)).collect(),
        }
    }
}

/// Names of ports mean those of the pod that is reached: of ingress, the pod's own.
fn push_rows(
    rows: &mut Vec<Row>,
    direction: Direction,
    selecting: &Selecting<'_>,
    (rule, audit): (&Arc<AccessRule>, bool),
    peer: &Arc<KnownPeer>,
) {
    let mut push = |transports, span| {
        rows.push(Row { peer: Arc::clone(peer), transports, span, rule: Arc::clone(rule), audit });
    };
    for ports in &rule.ports {
        match (&ports.span, direction) {
            (Span::Named(name), Direction::Ingress) => {
                let own = selecting.own_ports.iter().filter(|own| own.name == *name);
                for own in own.filter(|own| ports.transports.contains(own.transport)) {
                    push(Transports::only(own.transport), Span::Numbers(own.number, own.number));
                }
            }
            (span, _) => push(ports.transports, span.clone()),
        }
    }
}

/// By commas, each once.
fn joined<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut all: Vec<&str> = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all.join(",")
}

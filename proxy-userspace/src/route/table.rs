//! Which rule a request is for: by listener, by host, by path, by the rest, each the most special first.
//! The cost of a look-up grows with the length of host and path, not with the number of routes.

use crate::tls::{Clients, Held, Offer, Proof, Secured, Terms};

use super::{
    choices::Choices,
    host::{HostPattern, Hosts},
    rule::{Conditions, PathPattern, Rule},
    target::Target,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// All that is routed by host and path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routes {
    /// Where requests come in, and what is there.
    pub(crate) sites: BTreeMap<Place, Arc<Site>>,
    /// What endpoints have to prove that are spoken to in TLS.
    pub(crate) proofs: Proofs,
    /// What endpoints get to see of Gateways that have certificates for them, by `Gateway namespace/name`.
    pub(crate) shown: Vec<(Arc<str>, Held)>,
}

/// By cluster.
pub(crate) type Proofs = BTreeMap<Arc<str>, Arc<Proof>>;

/// A port of some addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Place {
    /// The addresses.
    pub(crate) at: Where,
    /// The port.
    pub(crate) port: u16,
}

/// Addresses where requests come in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Where {
    /// Those of every node.
    Nodes,
    /// This one.
    Address(IpAddr),
}

/// What a listener speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) enum Scheme {
    /// Plain HTTP.
    #[default]
    Http,
    /// HTTP in TLS, which ends here.
    Https,
}

impl Scheme {
    /// As in a URL.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL does not name.
    #[must_use]
    pub(crate) const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// All listeners of one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    pub(crate) scheme: Scheme,
    pub(crate) port: u16,
    /// Each Gateway of this place, and all Ingresses together.
    pub(crate) doors: Vec<Door>,
    /// Where it speaks TLS: what clients get, by the name that they ask for.
    pub(crate) offers: Hosts<Offer>,
    /// What any of its rules admits.
    pub(crate) choices: Choices,
}

/// The listeners of one Gateway at one place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Door {
    /// `Gateway namespace/name`, or `Ingress`.
    pub(crate) name: Arc<str>,
    /// A request belongs to the most special listener alone, whether that has a rule for it or not.
    pub(crate) listeners: Hosts<Listener>,
    /// Where it has a certificate to show to endpoints: what these have to prove before they get to see it.
    pub(crate) proofs: Proofs,
}

/// One listener.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Listener {
    /// Its name within the Gateway.
    pub(crate) name: Arc<str>,
    /// What is attached to it.
    pub(crate) hosts: Hosts<Paths>,
    /// What its clients have to prove: whatever terms their session was made by, those of a neighbour included.
    pub(crate) clients: Option<Arc<Clients>>,
}

impl Listener {
    /// Whether requests may come to it by this session.
    pub(crate) fn admits(&self, session: Option<&Secured>) -> bool {
        self.clients.as_ref().is_none_or(|clients| clients.admit(session))
    }
}

/// All rules for one host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Paths {
    exact: HashMap<Box<str>, Vec<Candidate>>,
    /// Longest first.
    regex: Vec<Candidate>,
    /// The empty path's rules are for every path.
    prefixes: Segment,
    default: Vec<Candidate>,
}

/// A segment of prefixes, and what goes on behind it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Segment {
    rules: Vec<Candidate>,
    children: HashMap<Box<str>, Segment>,
}

/// One match of one rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Candidate {
    pub(crate) host: HostPattern,
    pub(crate) path: PathPattern,
    pub(crate) conditions: Conditions,
    pub(crate) rule: Arc<Rule>,
    /// Which route is older, which of its rules comes first, and which match.
    pub(crate) order: (u32, u32, u32),
}

/// The more special is the smaller.
type Rank = (
    Reverse<(usize, usize)>,
    Reverse<(u8, usize)>,
    Reverse<bool>,
    Reverse<usize>,
    Reverse<usize>,
    (u32, u32, u32),
);

impl Candidate {
    /// What it admits: bytes that are no text only where it is for all paths.
    pub(crate) fn choices(&self) -> Choices {
        let choices = self.rule.choices;
        Choices { keeps_non_utf8: choices.keeps_non_utf8 && self.path.is_for_all(), ..choices }
    }

    /// The API's precedence.
    pub(crate) fn rank(&self) -> Rank {
        let Conditions { method, headers, query } = &self.conditions;
        (
            Reverse(self.host.speciality()),
            Reverse(self.path.speciality()),
            Reverse(method.is_some()),
            Reverse(headers.len()),
            Reverse(query.len()),
            self.order,
        )
    }
}

impl Paths {
    pub(crate) fn add(&mut self, candidate: Candidate) {
        match &candidate.path {
            PathPattern::Exact(path) => self.exact.entry(path.clone()).or_default().push(candidate),
            PathPattern::Regex(_) => self.regex.push(candidate),
            PathPattern::Default => self.default.push(candidate),
            PathPattern::Prefix(path) => {
                let mut segment = &mut self.prefixes;
                for step in path.split('/').skip(1) {
                    segment = segment.children.entry(step.into()).or_default();
                }
                segment.rules.push(candidate);
            }
        }
    }

    /// Puts every list in order; once all have been added.
    pub(crate) fn settle(&mut self) {
        let lists = self.exact.values_mut().chain([&mut self.regex, &mut self.default]);
        lists.for_each(|list| list.sort_by_cached_key(Candidate::rank));
        self.prefixes.settle();
    }

    /// The first rule that the request is for.
    fn find(&self, target: &Target<'_>) -> Option<&Candidate> {
        let met = |candidate: &&Candidate| candidate.conditions.met(target);
        let exact = self.exact.get(&*target.path).and_then(|list| list.iter().find(met));
        exact
            .or_else(|| self.regex.iter().find(|one| one.path.matches(&target.path) && met(one)))
            .or_else(|| {
                let way = self.prefixes.way(&target.path);
                way.iter().rev().find_map(|segment| segment.rules.iter().find(met))
            })
            .or_else(|| self.default.iter().find(met))
    }

    /// All of them, in no particular order.
    pub(crate) fn iter(&self) -> Box<dyn Iterator<Item = &Candidate> + '_> {
        let plain = self.exact.values().flatten().chain(&self.regex).chain(&self.default);
        Box::new(plain.chain(self.prefixes.iter()))
    }
}

impl Segment {
    fn settle(&mut self) {
        self.rules.sort_by_cached_key(Candidate::rank);
        self.children.values_mut().for_each(Self::settle);
    }

    /// The segments that have rules for this path, the longest last.
    fn way<'a>(&'a self, path: &str) -> Vec<&'a Self> {
        let mut way = vec![self];
        let mut segment = self;
        for step in path.split('/').skip(1) {
            let Some(next) = segment.children.get(step) else { break };
            segment = next;
            if !segment.rules.is_empty() {
                way.push(segment);
            }
        }
        way
    }

    fn iter(&self) -> Box<dyn Iterator<Item = &Candidate> + '_> {
        Box::new(self.rules.iter().chain(self.children.values().flat_map(Self::iter)))
    }
}

/// Where a request's rule was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) door: &'a Door,
    pub(crate) listener: &'a Listener,
    pub(crate) candidate: &'a Candidate,
}

impl Door {
    /// The clusters that its rules lead to, some of them more than once.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        let paths = self.listeners.iter().flat_map(|(_, listener)| listener.hosts.iter());
        let rules = paths.flat_map(|(_, paths)| paths.iter()).map(|candidate| &*candidate.rule);
        rules.flat_map(Rule::clusters)
    }

    /// The listener that the request belongs to.
    pub(crate) fn listener(&self, target: &Target<'_>) -> Option<&Listener> {
        self.listeners.matching(target.host.as_deref()).next()
    }

    fn find(&self, target: &Target<'_>) -> Option<Found<'_>> {
        let listener = self.listener(target)?;
        let mut hosts = listener.hosts.matching(target.host.as_deref());
        let candidate = hosts.find_map(|paths| paths.find(target))?;
        Some(Found { door: self, listener, candidate })
    }
}

impl Site {
    /// Whether anything can come in there.
    fn is_served(&self) -> bool {
        self.scheme == Scheme::Http || self.offers.iter().any(|(_, offer)| offer.0.is_some())
    }

    /// The most special rule for a request.
    pub(crate) fn find(&self, target: &Target<'_>) -> Option<Found<'_>> {
        let found = self.doors.iter().filter_map(|door| door.find(target));
        found.min_by_key(|found| found.candidate.rank())
    }

    /// What a client gets that asks for this name, or for none.
    pub(crate) fn terms(&self, name: Option<&str>) -> Option<&Arc<Terms>> {
        self.offers.matching(name).next()?.0.as_ref()
    }

    /// Whether a request for this host came by the terms of another one (`wire.md` P17): the same address
    /// serves both, but perhaps not with the same certificate, or to the same clients.
    pub(crate) fn misdirects(&self, secured: Option<&Secured>, host: Option<&str>) -> bool {
        match (self.scheme, secured) {
            (Scheme::Http, None) => false,
            (Scheme::Https, Some(secured)) => {
                let name = host.map(super::host::name);
                self.terms(name.as_deref()).is_some_and(|terms| terms.scope != secured.scope)
            }
            // The configuration has changed meanwhile: what was told to one is not for the other.
            (Scheme::Http, Some(_)) | (Scheme::Https, None) => true,
        }
    }

    /// How many matches all its rules have.
    pub(crate) fn matches(&self) -> usize {
        self.candidates().count()
    }

    /// The matches of all its rules.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        let listeners = self.doors.iter().flat_map(|door| door.listeners.iter());
        let paths = listeners.flat_map(|(_, listener)| listener.hosts.iter());
        paths.flat_map(|(_, paths)| paths.iter())
    }

    /// What of it belongs to one Gateway.
    pub(crate) fn of_door(&self, name: &str) -> Option<Self> {
        let door = self.doors.iter().find(|door| *door.name == *name)?;
        Some(Self { doors: vec![door.clone()], offers: self.offers.clone(), ..*self })
    }
}

impl Routes {
    /// By the addresses of a node; not where TLS is to be spoken without any certificate.
    pub(crate) fn served_at(&self, node: &[IpAddr]) -> HashMap<SocketAddr, Arc<Site>> {
        let mut sites = HashMap::new();
        for (place, site) in self.sites.iter().filter(|(_, site)| site.is_served()) {
            let ips = match &place.at {
                Where::Nodes => node,
                Where::Address(ip) => std::slice::from_ref(ip),
            };
            sites.extend(ips.iter().map(|ip| (SocketAddr::new(*ip, place.port), Arc::clone(site))));
        }
        sites
    }

    /// What endpoints of a cluster have to prove to requests that came by a door; `None` where they are spoken to in
    /// clear text.
    pub(crate) fn proof<'a>(&'a self, door: &'a Door, cluster: &str) -> Option<&'a Arc<Proof>> {
        door.proofs.get(cluster).or_else(|| self.proofs.get(cluster))
    }

    /// Certificates, each once, with what it is for: those of listeners, and those for endpoints.
    pub(crate) fn terms(&self) -> impl Iterator<Item = (Arc<str>, Held)> {
        let offers = self.sites.values().flat_map(|site| site.offers.iter());
        let terms: BTreeMap<_, _> = offers
            .filter_map(|(_, offer)| offer.0.clone())
            .flat_map(|terms| {
                terms.held.clone().into_iter().map(move |held| (Arc::clone(&terms.scope), held))
            })
            .filter_map(|(scope, held)| {
                let secret = Arc::clone(&held.credentials.as_ref()?.secret);
                Some(((scope, secret), held))
            })
            .collect();
        terms.into_iter().map(|((scope, _), held)| (scope, held)).chain(self.shown.iter().cloned())
    }

    /// The names of all rules.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let candidates = self.sites.values().flat_map(|site| site.candidates());
        candidates.map(|candidate| &*candidate.rule.name)
    }
}

//! The rules of one endpoint's port as nodes of the kernel half's path trie (`proxy_common::policy`).
//!
//! A node holds all that is allowed to the targets whose longest pattern it is: every rule with a
//! pattern that the node's own begins with. What the kernel half cannot match makes nodes unsure, so
//! that whatever it allows, some rule allows (invariant I1).

use super::{
    Allows, Rule,
    form::{Direction, Form, Reader, Rest},
    pattern::Pattern,
};
use proxy_common::policy::{CANDIDATES, Candidate, HOST_MAX, PathNode, TARGET_MAX, TargetKey, method};
use std::collections::{BTreeSet, HashMap};

/// Nodes of one policy; one that needs more is the agent's.
pub(super) const MAX_NODES: usize = 8192;

/// Methods that the kernel half carries.
const METHODS: [(&str, u32); 7] = [
    ("GET", method::GET),
    ("HEAD", method::HEAD),
    ("POST", method::POST),
    ("PUT", method::PUT),
    ("DELETE", method::DELETE),
    ("OPTIONS", method::OPTIONS),
    ("PATCH", method::PATCH),
];

/// Bytes of targets that are not ambiguous.
const TARGETS: Reader = Reader {
    occurs: |byte| matches!(byte, b'!'..=b'~') && byte != b'#' && byte != b'\\',
    direction: Direction::Forwards,
};
/// Bytes of hosts, in lower case.
const HOSTS: Reader = Reader {
    occurs: |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9') || b"-._~:[]".contains(&byte),
    direction: Direction::Backwards,
};

/// A rule as far as the kernel half can match it.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub(super) struct Shape {
    methods: u32,
    targets: Vec<Form>,
    hosts: Hosts,
    asks_fields: bool,
}

/// Which hosts a rule asks for.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
enum Hosts {
    Any,
    /// Any of these, and perhaps others that the kernel half cannot match; why not. Without any of
    /// either, no key is long enough for such a host, and the kernel half leaves it to the agent.
    Of(Vec<HostPattern>, Option<&'static str>),
}

/// A host, or the end of one, backwards.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct HostPattern {
    /// What a key of the table begins with: a whole host with its zero byte.
    pub(crate) key: Vec<u8>,
}

impl HostPattern {
    /// Whether every host with this key matches it.
    pub(super) fn covers(&self, key: &[u8]) -> bool {
        if self.key.last() == Some(&0) { self.key == key } else { key.starts_with(&self.key) }
    }
}

impl Shape {
    /// What the kernel half can match of a rule.
    pub(super) fn of(allows: &Allows) -> Self {
        let Allows::Http { method, path, host, fields } = allows else {
            let (targets, hosts) = (anything(), Hosts::Any);
            return Self { methods: method::ALL, targets, hosts, asks_fields: false };
        };
        let matched = |name: &str| method.as_ref().is_none_or(|pattern| pattern.matches(name.as_bytes()));
        let bits = METHODS.iter().filter(|(name, _)| matched(name)).map(|(_, bit)| bit);
        Self {
            methods: bits.fold(0, |all, bit| all | bit),
            targets: path.as_ref().map_or_else(anything, |path| TARGETS.read(path.hir())),
            hosts: host.as_ref().map_or(Hosts::Any, |host| hosts(host)),
            asks_fields: !fields.is_empty(),
        }
    }
}

impl Shape {
    /// Together these hold every target that the rule matches.
    pub(super) fn targets(&self) -> &[Form] {
        &self.targets
    }
}

fn anything() -> Vec<Form> {
    vec![Form { start: Vec::new(), rest: Rest::Anything }]
}

fn hosts(pattern: &Pattern) -> Hosts {
    let (mut known, mut why) = (Vec::new(), None);
    for Form { start: mut key, rest } in HOSTS.read(pattern.hir()) {
        // The kernel half looks at hosts without their ports; rules match them with it, too.
        if key.contains(&b':') {
            why = Some("host has a port");
            continue;
        }
        match rest {
            Rest::Unknown => {
                why = Some("host is a regular expression");
                continue;
            }
            Rest::Anything if key.is_empty() => return Hosts::Any,
            Rest::Anything if key.iter().all(u8::is_ascii_digit) => why = Some("host may match a port"),
            Rest::Anything => {}
            Rest::Nothing => key.push(0),
        }
        if key.len() <= HOST_MAX {
            known.push(HostPattern { key });
        }
    }
    Hosts::Of(known, why)
}

/// One node of a policy.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Entry {
    /// What targets begin with: a whole one with its zero byte. Empty: the policy's root.
    prefix: Vec<u8>,
    unsure: bool,
    /// Hosts, methods and rule of each, as in [`Candidate`].
    candidates: Vec<(u64, u32, u32)>,
}

impl Entry {
    /// Its key in the table: bits that count, and the bytes.
    pub(crate) fn key(&self, policy: u32) -> (u32, TargetKey) {
        let mut key = TargetKey { policy, target: [0; TARGET_MAX] };
        key.target.iter_mut().zip(&self.prefix).for_each(|(to, from)| *to = *from);
        let bytes = u32::try_from(self.prefix.len()).unwrap_or(u32::MAX);
        (u32::BITS.saturating_add(bytes.saturating_mul(u8::BITS)), key)
    }

    /// The node itself.
    pub(crate) fn node(&self) -> PathNode {
        let mut node = PathNode { unsure: self.unsure.into(), ..PathNode::default() };
        for (slot, (hosts, methods, rule)) in node.candidates.iter_mut().zip(&self.candidates) {
            *slot = Candidate { hosts: *hosts, methods: *methods, rule: *rule };
            node.count += 1;
        }
        node
    }

    /// Whether some requests are left to the agent.
    pub(super) fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// Whether some requests are allowed.
    pub(super) fn allows_some(&self) -> bool {
        !self.candidates.is_empty()
    }
}

/// What a rule does to targets that begin alike: hosts, methods and rule of a [`Candidate`]; `None`: the
/// agent must decide.
type Choice = Option<(u64, u32, u32)>;

/// A choice, and how its targets begin.
struct Offer {
    prefix: Vec<u8>,
    candidate: Choice,
}

/// Offers, in the order of their rules, by what targets begin with.
struct Offers(HashMap<Vec<u8>, Vec<(usize, Choice)>>);

impl Offers {
    fn new(offers: Vec<Offer>) -> Self {
        let mut by_prefix: HashMap<_, Vec<_>> = HashMap::new();
        for (index, offer) in offers.into_iter().enumerate() {
            by_prefix.entry(offer.prefix).or_default().push((index, offer.candidate));
        }
        Self(by_prefix)
    }

    /// Those that are about all targets of a node. A whole target's zero byte is in no other's prefix.
    fn covering(&self, node: &[u8]) -> Vec<Choice> {
        let prefixes = (0..=node.len()).filter_map(|length| node.get(..length));
        let mut found: Vec<_> = prefixes.filter_map(|prefix| self.0.get(prefix)).flatten().collect();
        found.sort_by_key(|(index, _)| *index);
        found.into_iter().map(|(_, candidate)| *candidate).collect()
    }
}

/// The nodes of a policy, root first, and why some are unsure, if any is. `bit` gives a host pattern
/// its bit; `None` where all are taken.
pub(super) fn compile(
    rules: &[(&Rule, &Shape)],
    bit: &mut impl FnMut(&HostPattern) -> Option<u64>,
) -> (Vec<Entry>, Option<String>) {
    let (mut offers, mut why) = (Vec::new(), None);
    for (rule, shape) in rules {
        if let Some(doubt) = offer(rule, shape, bit, &mut offers) {
            why.get_or_insert_with(|| format!("rule {}: {doubt}", rule.name));
        }
    }
    let offers = Offers::new(offers);
    let prefixes: BTreeSet<&[u8]> = offers.0.keys().map(Vec::as_slice).chain([&[][..]]).collect();
    if prefixes.len() > MAX_NODES {
        let root = Entry { prefix: Vec::new(), unsure: true, candidates: Vec::new() };
        return (vec![root], Some(format!("it takes more than {MAX_NODES} nodes")));
    }
    let entries: Vec<_> = prefixes.into_iter().map(|prefix| node(prefix, &offers)).collect();
    if why.is_none() && entries.iter().any(Entry::is_unsure) {
        why = Some(format!("more than {CANDIDATES} rules hold for some paths"));
    }
    (entries, why)
}

/// Adds what one rule offers; says why the kernel half cannot match some of it.
fn offer(
    rule: &Rule,
    shape: &Shape,
    bit: &mut impl FnMut(&HostPattern) -> Option<u64>,
    offers: &mut Vec<Offer>,
) -> Option<&'static str> {
    if shape.methods == 0 {
        return None;
    }
    // No bits would mean any host: then there is no candidate.
    let (hosts, mut why) = match &shape.hosts {
        _ if shape.asks_fields => (None, Some("it asks for headers")),
        Hosts::Any => (Some(0), None),
        Hosts::Of(patterns, why) => {
            let bits: Vec<_> = patterns.iter().map(bit).collect();
            let all_taken = bits.contains(&None).then_some("all bits for host patterns are taken");
            (bits.into_iter().flatten().reduce(|all, bit| all | bit), why.or(all_taken))
        }
    };
    let all_hosts_known = why.is_none();
    let candidate = hosts.map(|hosts| (hosts, shape.methods, rule.id));
    for form in &shape.targets {
        let mut prefix = form.start.clone();
        if form.rest == Rest::Nothing {
            prefix.push(0);
        }
        // A target as long as that is the agent's in any case.
        if prefix.len() > TARGET_MAX {
            continue;
        }
        let known = form.rest != Rest::Unknown;
        if !known {
            why = why.or(Some("path is a regular expression"));
        }
        if !known || !all_hosts_known {
            offers.push(Offer { prefix: prefix.clone(), candidate: None });
        }
        if known && candidate.is_some() {
            offers.push(Offer { prefix, candidate });
        }
    }
    why
}

/// The node with this prefix.
fn node(prefix: &[u8], offers: &Offers) -> Entry {
    let covering = offers.covering(prefix);
    let mut unsure = covering.contains(&None);
    let mut candidates: Vec<_> = covering.into_iter().flatten().collect();
    candidates.dedup();
    if candidates.len() > CANDIDATES {
        candidates = merged(candidates);
        unsure |= candidates.len() > CANDIDATES;
        candidates.truncate(CANDIDATES);
    }
    // Nothing is left to be unsure about where everything is allowed.
    unsure &= !candidates.iter().any(|(hosts, methods, _)| *hosts == 0 && *methods == method::ALL);
    Entry { prefix: prefix.to_vec(), unsure, candidates }
}

/// The same union in fewer candidates: those of the same hosts, then those of the same methods, as one
/// under the first one's rule.
fn merged(candidates: Vec<(u64, u32, u32)>) -> Vec<(u64, u32, u32)> {
    let mut by_hosts: Vec<(u64, u32, u32)> = Vec::new();
    for (hosts, methods, rule) in candidates {
        match by_hosts.iter_mut().find(|other| other.0 == hosts) {
            Some(other) => other.1 |= methods,
            None => by_hosts.push((hosts, methods, rule)),
        }
    }
    let any_host = by_hosts.iter().find(|one| one.0 == 0).map_or(0, |one| one.1);
    let mut by_methods: Vec<(u64, u32, u32)> = Vec::new();
    for (hosts, methods, rule) in by_hosts {
        let methods = if hosts == 0 { methods } else { methods & !any_host };
        if methods == 0 {
            continue;
        }
        match by_methods.iter_mut().find(|other| other.1 == methods && other.0 != 0 && hosts != 0) {
            Some(other) => other.0 |= hosts,
            None => by_methods.push((hosts, methods, rule)),
        }
    }
    by_methods
}

#[cfg(test)]
mod tests;

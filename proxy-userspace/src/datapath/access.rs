//! Who may connect to whom, in the kernel half's tables: only what changed is written.
//!
//! What a set or a class means never changes, and no id is used again. So verdicts of new ones are written
//! before anybody is of that class or under that set, and those of old ones removed when nobody is any
//! more: in between, a connection is decided about by what held before or what holds now. Who has an
//! address and what holds for connections to it is one row, which goes with its pod: an address that is
//! used again inherits nothing.

use super::{DatapathError, Kernel, policies::Trie};
use crate::{
    identity::PodCgroup,
    policy::access::{Access, Class, Direction, Net, Place, PodState, PolicySet, PortVerdict, Transport},
    snapshot::Snapshot,
};
use anyhow::Context as _;
use proxy_common::{
    access::{
        ADDR_BITS, ALLOW, ALLOW_HTTP, DENY, IS_HOST, IS_LOCAL_POD, PORT_AT, Peer, SET_BITS, Subject,
        VerdictKey, port_prefixes,
    },
    addr::{AddrWords, words_of},
};
use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

/// Bits before an IPv4 address in its mapped form.
const MAPPED_BITS: u32 = 96;

/// The three tables.
pub(super) trait Tries {
    type Peers: Trie<AddrWords, Peer>;
    type Verdicts: Trie<VerdictKey, u32>;
    fn peers(&self) -> &Self::Peers;
    fn verdicts(&self) -> &Self::Verdicts;
    fn set_subject(&self, cgroup_id: u64, subject: &Subject) -> Result<(), DatapathError>;
    /// What is not there is removed.
    fn remove_subject(&self, cgroup_id: u64) -> Result<(), DatapathError>;
}

/// Where a verdict is: its key, and how many of its bits count.
type Row = (u32, VerdictKey);

/// What the tables hold.
#[derive(Debug, Default)]
pub(super) struct AccessTables {
    /// What they are made of, or are being made of.
    access: Access,
    /// They are like that to the last row.
    complete: bool,
    cgroups: Vec<PodCgroup>,
    subjects: HashMap<u64, Subject>,
    peers: HashMap<Net, Peer>,
    /// Rows of a set about a class; the set's own is under class 0.
    verdicts: HashMap<u32, HashMap<u32, Vec<Row>>>,
    /// Sets and classes whose verdicts about each other are all written.
    written: (HashSet<u32>, HashSet<u32>),
    pods: PodNumbers,
}

/// Classes by their id.
type Classes = HashMap<u32, Arc<Class>>;

/// Numbers for pods: the same as long as a pod lives, and never used again.
#[derive(Debug, Default)]
struct PodNumbers {
    by_name: HashMap<(Arc<str>, Option<Arc<str>>), u32>,
    last: u32,
}

impl PodNumbers {
    fn of(&mut self, pod: &PodState) -> u32 {
        let key = (Arc::clone(&pod.facts.name), pod.facts.uid.clone());
        *self.by_name.entry(key).or_insert_with(|| {
            self.last = self.last.wrapping_add(1).max(1);
            self.last
        })
    }

    fn forget(&mut self, access: &Access) {
        self.by_name.retain(|(name, uid), _| access.pod(name).is_some_and(|pod| pod.facts.uid == *uid));
    }
}

impl AccessTables {
    /// Whether any policy is in force.
    pub(super) fn any(&self) -> bool {
        !self.verdicts.is_empty()
    }

    /// How many rows each table has: subjects, peers, verdicts.
    pub(super) fn len(&self) -> [usize; 3] {
        let verdicts = self.verdicts.values().flat_map(HashMap::values).map(Vec::len).sum();
        [self.subjects.len(), self.peers.len(), verdicts]
    }

    /// Makes the tables like `access`. On an error what was in force stays.
    pub(super) fn apply(&mut self, access: &Access, tables: &impl Tries) -> Result<(), DatapathError> {
        if self.complete && self.access == *access {
            return Ok(());
        }
        self.complete = false;
        let sets: HashMap<u32, &Arc<PolicySet>> = access.sets().map(|set| (set.id, set)).collect();
        // While no policy is in force nothing is looked up, and nothing needs to be there.
        let nothing = Access::default();
        let wanted_access = if sets.is_empty() { &nothing } else { access };
        if !sets.is_empty() || self.any() {
            let classes = classes_of(wanted_access);
            self.add_verdicts(&sets, &classes, tables)?;
            let wanted = self.wanted_peers(wanted_access);
            self.set_peers(&wanted, tables)?;
            self.access = wanted_access.clone();
            self.apply_subjects(tables)?;
            self.remove_peers(&wanted, tables)?;
            self.remove_verdicts(&sets, &classes, tables)?;
            self.pods.forget(wanted_access);
        }
        self.access = access.clone();
        self.complete = true;
        Ok(())
    }

    fn set_peers(&mut self, wanted: &HashMap<Net, Peer>, tables: &impl Tries) -> Result<(), DatapathError> {
        for (net, peer) in wanted {
            if self.peers.get(net) != Some(peer) {
                let (bits, words) = prefix(*net);
                tables.peers().insert(bits, &words, peer)?;
                self.peers.insert(*net, *peer);
            }
        }
        Ok(())
    }

    fn remove_peers(
        &mut self,
        wanted: &HashMap<Net, Peer>,
        tables: &impl Tries,
    ) -> Result<(), DatapathError> {
        let gone: Vec<Net> = self.peers.keys().filter(|net| !wanted.contains_key(net)).copied().collect();
        for net in gone {
            let (bits, words) = prefix(net);
            tables.peers().remove(bits, &words)?;
            self.peers.remove(&net);
        }
        Ok(())
    }

    /// Makes the table of subjects like these cgroups: call when a pod's came or went.
    pub(super) fn cgroups(
        &mut self,
        cgroups: Vec<PodCgroup>,
        tables: &impl Tries,
    ) -> Result<(), DatapathError> {
        self.cgroups = cgroups;
        if self.any() { self.apply_subjects(tables) } else { Ok(()) }
    }

    fn apply_subjects(&mut self, tables: &impl Tries) -> Result<(), DatapathError> {
        let mut wanted = HashMap::new();
        for cgroup in self.cgroups.iter().filter(|cgroup| cgroup.is_pod) {
            if let Some(pod) = self.access.pod_by_uid(&cgroup.uid) {
                wanted.insert(cgroup.id, subject(&self.access, pod, self.pods.of(pod)));
            }
        }
        for (id, subject) in &wanted {
            if self.subjects.get(id) != Some(subject) {
                tables.set_subject(*id, subject)?;
                self.subjects.insert(*id, *subject);
            }
        }
        let gone: Vec<u64> = self.subjects.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in gone {
            tables.remove_subject(id)?;
            self.subjects.remove(&id);
        }
        Ok(())
    }

    fn wanted_peers(&mut self, access: &Access) -> HashMap<Net, Peer> {
        // Without its own, all of IPv4 would be part of what IPv6 has for all.
        let mut wanted = HashMap::from(Net::ALL.map(|net| (net, Peer::default())));
        for (net, class) in access.prefixes() {
            let mut peer = Peer { class: class.id, ..Peer::default() };
            if net == Net::host(net.address()) {
                let party = access.party_at(net.address());
                if let Some(pod) = &party.pod {
                    peer.pod = self.pods.of(pod);
                    peer.ingress = pod.set(Direction::Ingress).map_or(0, |set| set.id);
                    if access.is_local(pod) {
                        peer.egress = pod.set(Direction::Egress).map_or(0, |set| set.id);
                        peer.flags = IS_LOCAL_POD;
                    }
                }
                if party.place == Place::Host {
                    peer.flags |= IS_HOST;
                }
            }
            wanted.insert(net, peer);
        }
        wanted
    }

    /// Writes what sets say about classes, where either is new.
    fn add_verdicts(
        &mut self,
        sets: &HashMap<u32, &Arc<PolicySet>>,
        classes: &Classes,
        tables: &impl Tries,
    ) -> Result<(), DatapathError> {
        let new_classes: Vec<_> =
            classes.iter().filter(|(id, _)| !self.written.1.contains(id)).map(|(_, class)| class).collect();
        for (id, set) in sets {
            let held = self.verdicts.entry(*id).or_default();
            if let Entry::Vacant(slot) = held.entry(0) {
                // Its default comes first: without it the set is not known.
                let row = (SET_BITS, VerdictKey { set: *id, ..VerdictKey::default() });
                tables.verdicts().insert(row.0, &row.1, &number(set.fallback()))?;
                slot.insert(vec![row]);
            }
            if self.written.0.contains(id) {
                write_about(set, new_classes.iter().copied(), held, tables)?;
            } else {
                write_about(set, classes.values(), held, tables)?;
            }
        }
        self.written = (sets.keys().copied().collect(), classes.keys().copied().collect());
        Ok(())
    }

    /// Removes what sets say that are no more, or about classes that are no more.
    fn remove_verdicts(
        &mut self,
        sets: &HashMap<u32, &Arc<PolicySet>>,
        classes: &Classes,
        tables: &impl Tries,
    ) -> Result<(), DatapathError> {
        for (set, held) in &mut self.verdicts {
            let keep_set = sets.contains_key(set);
            let gone: Vec<u32> = held
                .keys()
                .filter(|class| !(keep_set && (**class == 0 || classes.contains_key(class))))
                .copied()
                .collect();
            for class in gone {
                for (bits, key) in held.get(&class).into_iter().flatten() {
                    tables.verdicts().remove(*bits, key)?;
                }
                held.remove(&class);
            }
        }
        self.verdicts.retain(|_, held| !held.is_empty());
        Ok(())
    }
}

impl Kernel {
    /// Writes who may connect to whom.
    pub(super) fn apply_access(&self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let mut access = self.access.lock();
        let written = access.apply(&snapshot.access, &self.tables);
        let mut settings = self.settings.lock();
        if settings.access != u32::from(access.any()) {
            settings.access = u32::from(access.any());
            self.tables.write_settings(&settings)?;
        }
        written.context("who may connect to whom does not fit into the kernel's tables: the last state stays")
    }

    /// Pods' cgroups came or went.
    pub(super) fn pods_changed(&self, cgroups: Vec<PodCgroup>) {
        if let Err(error) = self.access.lock().cgroups(cgroups, &self.tables) {
            tracing::error!(%error, "a pod that has started or ended is not in the kernel's tables");
        }
    }
}

/// Writes what a set says about those of these classes that have no rows yet.
fn write_about<'a>(
    set: &PolicySet,
    classes: impl Iterator<Item = &'a Arc<Class>>,
    held: &mut HashMap<u32, Vec<Row>>,
    tables: &impl Tries,
) -> Result<(), DatapathError> {
    for class in classes {
        if held.contains_key(&class.id) || !set.names(class) {
            continue;
        }
        let rows = verdict_rows(set, class);
        for ((bits, key), verdict) in &rows {
            tables.verdicts().insert(*bits, key, verdict)?;
        }
        held.insert(class.id, rows.into_iter().map(|(row, _)| row).collect());
    }
    Ok(())
}

/// Every class that somebody is of. A pod keeps its own where another one has its address.
fn classes_of(access: &Access) -> Classes {
    let by_address = access.prefixes().map(|(_, class)| Arc::clone(class));
    let at_addresses = access.pods().flat_map(|pod| pod.classes.iter().map(|(_, class)| Arc::clone(class)));
    let without_address = access.pods().filter(|pod| pod.classes.is_empty());
    let others = without_address.map(|pod| access.party_of(pod, None).class);
    let nodes = [true, false].map(|own| access.node(own).class);
    by_address.chain(at_addresses).chain(others).chain(nodes).map(|class| (class.id, class)).collect()
}

/// What a set says about a class, as rows.
fn verdict_rows(set: &PolicySet, class: &Class) -> Vec<(Row, u32)> {
    let rows = set.rows(class).into_iter().flat_map(|row| {
        let protocol = protocol(row.transport);
        port_prefixes(row.first, row.last).map(move |(port, bits)| {
            let key = VerdictKey::new(set.id, class.id, protocol, port);
            ((PORT_AT + bits, key), number(row.verdict))
        })
    });
    rows.collect()
}

/// A pod as who connects.
fn subject(access: &Access, pod: &Arc<PodState>, number: u32) -> Subject {
    if pod.facts.on_host {
        let host = access.party_of(pod, None).class.id;
        return Subject { pod: number, egress: 0, class4: host, class6: host, flags: IS_HOST, ingress: 0 };
    }
    let any =
        || pod.classes.first().map_or_else(|| access.party_of(pod, None).class.id, |(_, class)| class.id);
    let at = |v6: bool| {
        let found = pod.classes.iter().find(|(address, _)| address.is_ipv6() == v6);
        found.map_or_else(any, |(_, class)| class.id)
    };
    Subject {
        pod: number,
        egress: pod.set(Direction::Egress).map_or(0, |set| set.id),
        class4: at(false),
        class6: at(true),
        flags: 0,
        ingress: pod.set(Direction::Ingress).map_or(0, |set| set.id),
    }
}

fn prefix(net: Net) -> (u32, AddrWords) {
    let before = if net.address().is_ipv4() { MAPPED_BITS } else { 0 };
    ((before + u32::from(net.bits())).min(ADDR_BITS), words_of(net.address()))
}

const fn number(verdict: PortVerdict) -> u32 {
    match verdict {
        PortVerdict::Allow => ALLOW,
        PortVerdict::Deny => DENY,
        PortVerdict::AllowHttp => ALLOW_HTTP,
    }
}

/// IP protocol numbers.
pub(super) const fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
        Transport::Sctp => 132,
    }
}

#[cfg(test)]
mod tests;

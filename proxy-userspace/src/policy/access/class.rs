//! Who is alike: those that no peer of any policy in force tells apart.

use super::{
    Transport,
    peer::{Peer, Subject, Surroundings},
    selector::Anchor,
    set::{KnownPeer, NamedPort},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Somebody, as policies see them. What its id means never changes, and an id is never used again.
#[derive(Debug, Default)]
pub struct Class {
    /// Its id; never 0.
    pub id: u32,
    key: ClassKey,
}

/// What a class is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct ClassKey {
    /// Ids of the peers that mean it, ascending.
    peers: Vec<u32>,
    /// Its ports that rules of egress name.
    ports: Vec<NamedPort>,
}

impl Class {
    pub(super) fn new(id: u32, key: ClassKey) -> Self {
        Self { id, key }
    }

    pub(super) fn is_meant_by(&self, peer: u32) -> bool {
        self.key.peers.binary_search(&peer).is_ok()
    }

    pub(super) fn has_port(&self, name: &str, transport: Transport, number: u16) -> bool {
        self.ports(name, transport).any(|one| one == number)
    }

    pub(super) fn ports(&self, name: &str, transport: Transport) -> impl Iterator<Item = u16> {
        let ports = self.key.ports.iter();
        ports.filter(move |one| *one.name == *name && one.transport == transport).map(|one| one.number)
    }
}

/// The peers of all policies in force, found by what somebody is.
#[derive(Debug, Default)]
pub(super) struct PeerIndex {
    pods: HashMap<Anchor, Vec<Arc<KnownPeer>>>,
    /// Those that are not found by labels.
    others: Vec<Arc<KnownPeer>>,
}

impl PeerIndex {
    pub(super) fn add(&mut self, peer: &Arc<KnownPeer>) {
        match &peer.peer {
            Peer::Pods(selector) => {
                for anchor in selector.anchors() {
                    self.pods.entry(anchor).or_default().push(Arc::clone(peer));
                }
            }
            _ => self.others.push(Arc::clone(peer)),
        }
    }

    pub(super) fn remove(&mut self, peer: &KnownPeer) {
        let Peer::Pods(selector) = &peer.peer else {
            return self.others.retain(|other| other.id != peer.id);
        };
        for anchor in selector.anchors() {
            if let Some(all) = self.pods.get_mut(&anchor) {
                all.retain(|other| other.id != peer.id);
                if all.is_empty() {
                    self.pods.remove(&anchor);
                }
            }
        }
    }

    /// Peers that are not found by labels.
    pub(super) fn others(&self) -> &[Arc<KnownPeer>] {
        &self.others
    }

    /// The class of somebody.
    pub(super) fn class_of(
        &self,
        who: &Subject<'_>,
        ports: Vec<NamedPort>,
        around: &Surroundings,
    ) -> ClassKey {
        let mut peers = BTreeSet::new();
        if let Some((labels, _)) = who.labels {
            for anchor in Anchor::of(labels) {
                let found = self.pods.get(&anchor).into_iter().flatten();
                peers.extend(found.filter(|one| one.peer.means(who, around)).map(|one| one.id));
            }
        }
        peers.extend(self.others.iter().filter(|one| one.peer.means(who, around)).map(|one| one.id));
        ClassKey { peers: peers.into_iter().collect(), ports }
    }
}

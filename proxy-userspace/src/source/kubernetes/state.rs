//! What the API server has, as far as it is known: the objects, and how well each kind is followed.

use super::{
    document::Document,
    follow::{Seen, Sighting},
    kind::{KINDS, Kind},
};
use crate::source::{
    Objects,
    finding::{Finding, Severity},
    manifest, namespace_of,
    store::Key,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};
use tokio::time::Instant;

/// Everything.
pub(super) struct State {
    /// Where findings say that objects are from.
    file: Arc<str>,
    objects: Objects,
    kinds: [Following; KINDS.len()],
}

/// One kind.
#[derive(Default)]
struct Following {
    /// Versions of the objects that there are, faulty ones included.
    known: HashMap<Key, String>,
    findings: BTreeMap<Key, Vec<Finding>>,
    sync: Sync,
}

/// How well a kind is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Sync {
    /// Not at all yet.
    #[default]
    Unknown,
    /// Not at all yet, for this reason.
    Unreachable(String),
    /// As it is.
    Current,
    /// As it was at some time.
    Stale {
        /// Since when.
        since: Instant,
        /// Why.
        why: String,
    },
}

/// What a sighting changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Objects.
    Objects,
    /// How well they are known.
    Sync,
    /// Nothing.
    None,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            file: "kubernetes".into(),
            objects: Objects::default(),
            kinds: std::array::from_fn(|_| Following::default()),
        }
    }

    /// Whether every kind was listed once.
    pub(super) fn is_complete(&self) -> bool {
        self.kinds.iter().all(|kind| matches!(kind.sync, Sync::Current | Sync::Stale { .. }))
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What is wrong with single objects.
    pub(super) fn findings(&self) -> Vec<Finding> {
        self.kinds.iter().flat_map(|kind| kind.findings.values().flatten()).cloned().collect()
    }

    /// The kinds that were never listed, and why.
    pub(super) fn missing(&self) -> String {
        let missing = self.sync().filter_map(|(kind, sync)| match sync {
            Sync::Unknown => Some(kind.plural.to_owned()),
            Sync::Unreachable(why) => Some(format!("{} ({why})", kind.plural)),
            Sync::Current | Sync::Stale { .. } => None,
        });
        missing.collect::<Vec<_>>().join(", ")
    }

    /// Each kind, and how well it is known.
    pub(super) fn sync(&self) -> impl Iterator<Item = (&'static Kind, &Sync)> {
        KINDS.iter().zip(self.kinds.iter().map(|kind| &kind.sync))
    }

    /// Takes in what a follower saw.
    pub(super) fn take(&mut self, (index, seen): Sighting) -> Change {
        let Some((kind, following)) = KINDS.get(index).zip(self.kinds.get_mut(index)) else {
            return Change::None;
        };
        let objects = &mut self.objects;
        match seen {
            Seen::All(documents) => {
                following.replace(documents, kind, &self.file, objects);
                following.synced(kind);
                Change::Objects
            }
            Seen::Set(document) => {
                following.set(document, kind, &self.file, objects);
                Change::Objects
            }
            Seen::Gone(document) => {
                let key = key(&document, kind);
                if following.forget(&key, kind, objects) { Change::Objects } else { Change::None }
            }
            Seen::Absent | Seen::InSync => following.synced(kind),
            Seen::Away(why) => following.away(why, kind),
        }
    }
}

impl Following {
    /// It is known as it is; says so where it was not.
    fn synced(&mut self, kind: &Kind) -> Change {
        if self.sync == Sync::Current {
            return Change::None;
        }
        if self.sync != Sync::Unknown {
            tracing::info!("{} are followed again", kind.plural);
        }
        self.sync = Sync::Current;
        Change::Sync
    }

    fn away(&mut self, why: String, kind: &Kind) -> Change {
        let (now, known) = match &self.sync {
            Sync::Unknown => (Sync::Unreachable(why.clone()), ""),
            Sync::Unreachable(known) => (Sync::Unreachable(why.clone()), &**known),
            Sync::Current => (Sync::Stale { since: Instant::now(), why: why.clone() }, ""),
            Sync::Stale { since, why: known } => (Sync::Stale { since: *since, why: why.clone() }, &**known),
        };
        if known == why {
            return Change::None;
        }
        tracing::warn!("{} cannot be followed: {why}", kind.plural);
        self.sync = now;
        Change::Sync
    }

    /// From now on there are these and no others.
    fn replace(&mut self, documents: Vec<Document>, kind: &Kind, file: &Arc<str>, objects: &mut Objects) {
        let mut gone: HashSet<_> = self.known.keys().cloned().collect();
        for document in documents {
            gone.remove(&key(&document, kind));
            self.set(document, kind, file, objects);
        }
        for key in gone {
            self.forget(&key, kind, objects);
        }
    }

    fn set(&mut self, document: Document, kind: &Kind, file: &Arc<str>, objects: &mut Objects) {
        let key = key(&document, kind);
        let version = document.version;
        if !version.is_empty() && self.known.get(&key).is_some_and(|known| *known == version) {
            return;
        }
        let (mut read, mut findings) = (Objects::default(), Vec::new());
        let api_version = kind.api_version();
        manifest::add_json(file, document.json, (&api_version, kind.kind), &mut read, &mut findings);
        if findings.iter().any(|finding| finding.severity == Severity::Error) {
            // A faulty object is left out, whatever it was before: the same as in a directory.
            objects.forget(kind.kind, &key);
        }
        objects.replace(&read);
        self.findings.remove(&key);
        if !findings.is_empty() {
            self.findings.insert(key.clone(), findings);
        }
        self.known.insert(key, version);
    }

    /// False if it was not known.
    fn forget(&mut self, key: &Key, kind: &Kind, objects: &mut Objects) -> bool {
        objects.forget(kind.kind, key);
        self.findings.remove(key);
        self.known.remove(key).is_some()
    }
}

fn key(document: &Document, kind: &Kind) -> Key {
    let namespace = namespace_of(kind.kind, document.namespace.as_deref());
    Key::new(namespace, &document.name)
}

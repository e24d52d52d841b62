//! What the API server has, as far as it is known: the objects, and how well each kind is followed.

use super::{
    cache::{Kept, Pending},
    document::{Document, Raw},
    follow::{Seen, Sighting},
    kind::{KINDS, Kind},
};
use crate::source::{
    Objects,
    finding::{Finding, Severity},
    freshness::Freshness,
    manifest, namespace_of,
    store::Key,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

/// Everything.
pub(super) struct State {
    /// Where findings say that objects are from.
    file: Arc<str>,
    objects: Objects,
    kinds: [Following; KINDS.len()],
    /// What the file does not have yet.
    pending: Pending,
    freshness: Arc<Freshness>,
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
enum Sync {
    /// Not at all yet.
    #[default]
    Unknown,
    /// Not at all yet, for this reason.
    Unreachable(String),
    /// As it is.
    Current,
    /// As it was at some time, for this reason.
    Stale(String),
}

impl Sync {
    fn is_known(&self) -> bool {
        matches!(self, Self::Current | Self::Stale(_))
    }
}

impl State {
    pub(super) fn new(freshness: Arc<Freshness>) -> Self {
        Self {
            file: "kubernetes".into(),
            objects: Objects::default(),
            kinds: std::array::from_fn(|_| Following::default()),
            pending: Pending::everything(),
            freshness,
        }
    }

    /// Whether something is known of every kind.
    pub(super) fn is_complete(&self) -> bool {
        self.kinds.iter().all(|kind| kind.sync.is_known())
    }

    /// Whether a list has failed that never succeeded.
    pub(super) fn is_unreachable(&self) -> bool {
        self.kinds.iter().any(|kind| matches!(kind.sync, Sync::Unreachable(_)))
    }

    /// Takes what was kept of the kinds that were not listed yet.
    pub(super) fn restore(&mut self, kept: Vec<Kept>, from: SystemTime) -> anyhow::Result<()> {
        let mut documents: HashMap<&str, Vec<Document>> = HashMap::new();
        for one in kept {
            let raw: Raw = serde_json::from_str(&one.json)?;
            let Some(kind) = KINDS.iter().find(|kind| kind.plural == one.plural) else { continue };
            documents.entry(kind.plural).or_default().push(raw.strip(kind.kind));
        }
        for (kind, following) in KINDS.iter().zip(&mut self.kinds) {
            if following.sync.is_known() {
                continue;
            }
            let why = match &following.sync {
                Sync::Unreachable(why) => why.clone(),
                _ => "no answer yet".to_owned(),
            };
            self.freshness.kept(kind.plural, from, &why);
            // It is in the file already.
            let mut known = Pending::nothing();
            let documents = documents.remove(kind.plural).unwrap_or_default();
            following.replace(
                documents,
                &mut Reading { kind, file: &self.file, objects: &mut self.objects, pending: &mut known },
            );
            following.sync = Sync::Stale(why);
            self.pending.build_upon(kind.plural);
        }
        Ok(())
    }

    /// What the file does not have yet; from now on it has.
    pub(super) fn take_pending(&mut self) -> Pending {
        std::mem::replace(&mut self.pending, Pending::nothing())
    }

    /// It was not written.
    pub(super) fn put_back(&mut self, pending: Pending) {
        self.pending.put_back(pending);
    }

    /// There is no file to build upon: every object is read again when it is listed.
    pub(super) fn start_over(&mut self) {
        self.pending = Pending::everything();
        for known in self.kinds.iter_mut().flat_map(|kind| kind.known.values_mut()) {
            known.clear();
        }
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// For what is followed apart from the kinds.
    pub(super) fn objects_mut(&mut self) -> &mut Objects {
        &mut self.objects
    }

    /// What is wrong with single objects.
    pub(super) fn findings(&self) -> Vec<Finding> {
        self.kinds.iter().flat_map(|kind| kind.findings.values().flatten()).cloned().collect()
    }

    /// The kinds that were never listed, and why.
    pub(super) fn missing(&self) -> String {
        let missing = KINDS.iter().zip(&self.kinds).filter_map(|(kind, following)| match &following.sync {
            Sync::Unknown => Some(kind.plural.to_owned()),
            Sync::Unreachable(why) => Some(format!("{} ({why})", kind.plural)),
            Sync::Current | Sync::Stale(_) => None,
        });
        missing.collect::<Vec<_>>().join(", ")
    }

    /// Takes in what a follower saw; whether that changed objects.
    pub(super) fn take(&mut self, (index, seen): Sighting) -> bool {
        let Some((kind, following)) = KINDS.get(index).zip(self.kinds.get_mut(index)) else { return false };
        match &seen {
            Seen::Away(why) => self.freshness.stale(kind.plural, why),
            _ => self.freshness.current(kind.plural),
        }
        let reading =
            &mut Reading { kind, file: &self.file, objects: &mut self.objects, pending: &mut self.pending };
        match seen {
            Seen::All(documents) => {
                following.synced(kind);
                following.replace(documents, reading)
            }
            Seen::Set(document) => following.set(document, reading),
            Seen::Gone(document) => following.forget(&key(&document, kind), reading),
            Seen::Absent | Seen::InSync | Seen::Heard => {
                following.synced(kind);
                false
            }
            Seen::Away(why) => {
                following.away(why, kind);
                false
            }
        }
    }
}

/// Where the objects of a kind go.
struct Reading<'a> {
    kind: &'static Kind,
    file: &'a Arc<str>,
    objects: &'a mut Objects,
    pending: &'a mut Pending,
}

impl Following {
    /// It is known as it is; says so where it was not.
    fn synced(&mut self, kind: &Kind) {
        if !matches!(self.sync, Sync::Current | Sync::Unknown) {
            tracing::info!("{} are followed again", kind.plural);
        }
        self.sync = Sync::Current;
    }

    fn away(&mut self, why: String, kind: &Kind) {
        if let Sync::Unreachable(known) | Sync::Stale(known) = &self.sync
            && *known == why
        {
            return;
        }
        tracing::warn!("{} cannot be followed: {why}", kind.plural);
        self.sync = if self.sync.is_known() { Sync::Stale(why) } else { Sync::Unreachable(why) };
    }

    /// From now on there are these and no others; whether that is something else than before.
    fn replace(&mut self, documents: Vec<Document>, reading: &mut Reading<'_>) -> bool {
        let mut gone: HashSet<_> = self.known.keys().cloned().collect();
        let mut changed = false;
        for document in documents {
            gone.remove(&key(&document, reading.kind));
            changed |= self.set(document, reading);
        }
        for key in gone {
            changed |= self.forget(&key, reading);
        }
        changed
    }

    /// False if it was known in this version.
    fn set(&mut self, document: Document, reading: &mut Reading<'_>) -> bool {
        let Reading { kind, file, objects, pending } = reading;
        let key = key(&document, kind);
        let version = document.version;
        if !version.is_empty() && self.known.get(&key).is_some_and(|known| *known == version) {
            return false;
        }
        let (mut read, mut findings) = (Objects::default(), Vec::new());
        let api_version = kind.api_version();
        manifest::add_json(file, &document.json, (&api_version, kind.kind), &mut read, &mut findings);
        pending.set(kind.plural, key.as_str(), document.json);
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
        true
    }

    /// False if it was not known.
    fn forget(&mut self, key: &Key, reading: &mut Reading<'_>) -> bool {
        reading.pending.forget(reading.kind.plural, key.as_str());
        reading.objects.forget(reading.kind.kind, key);
        self.findings.remove(key);
        self.known.remove(key).is_some()
    }
}

fn key(document: &Document, kind: &Kind) -> Key {
    let namespace = namespace_of(kind.kind, document.namespace.as_deref());
    Key::new(namespace, &document.name)
}

//! The Secrets and ConfigMaps that are referred to, each followed by its name: the agent is to be allowed
//! those, and never a list of all. They are not kept on disk.

use super::{
    document::Document,
    follow::{Follower, Seen, Sighting},
    kind::Kind,
};
use crate::source::{
    Objects,
    finding::{Finding, Severity},
    manifest,
    store::Key,
};
use kube::Client;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroize as _;

/// Objects of one kind that are followed at once, each with a watch of its own.
const MAX: usize = 1000;
/// Sightings that may wait.
const QUEUE: usize = 64;

/// See the module; those of one kind.
pub(super) struct Singles {
    kind: &'static Kind,
    client: Client,
    relist: watch::Sender<u64>,
    file: Arc<str>,
    followed: BTreeMap<Key, Followed>,
    /// How many were ever followed: the next one's number.
    count: usize,
    sender: mpsc::Sender<Sighting>,
    sightings: mpsc::Receiver<Sighting>,
}

struct Followed {
    /// What its sightings say.
    number: usize,
    /// What is wrong with what was read.
    findings: Vec<Finding>,
    /// Why it cannot be read now.
    away: Option<Finding>,
    _task: AbortOnDropHandle<()>,
}

impl Singles {
    /// None yet.
    pub(super) fn new(kind: &'static Kind, client: Client, relist: watch::Sender<u64>) -> Self {
        let (sender, sightings) = mpsc::channel(QUEUE);
        let (file, followed) = ("kubernetes".into(), BTreeMap::new());
        Self { kind, client, relist, file, followed, count: 0, sender, sightings }
    }

    /// Follows these and no others. Call within a runtime.
    pub(super) fn want(&mut self, wanted: &BTreeSet<Key>, objects: &mut Objects) {
        let gone = self.followed.keys().filter(|key| !wanted.contains(*key)).cloned().collect::<Vec<_>>();
        for key in gone {
            self.followed.remove(&key);
            objects.forget(self.kind.kind, &key);
        }
        for key in wanted {
            if self.followed.contains_key(key) {
                continue;
            }
            if self.followed.len() >= MAX {
                tracing::warn!("{} {key} is not followed: {MAX} are the most", self.kind.kind);
                continue;
            }
            self.count += 1;
            let follower = Follower {
                client: self.client.clone(),
                kind: self.kind,
                object: Some(key.clone()),
                is_older: false,
                index: self.count,
                sightings: self.sender.clone(),
                relist: self.relist.subscribe(),
            };
            let task = AbortOnDropHandle::new(tokio::spawn(follower.follow()));
            let followed = Followed { number: self.count, findings: Vec::new(), away: None, _task: task };
            self.followed.insert(key.clone(), followed);
        }
    }

    /// The next sighting of one of them.
    pub(super) async fn next(&mut self) -> Option<Sighting> {
        self.sightings.recv().await
    }

    /// What is wrong with them.
    pub(super) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.followed.values().flat_map(|followed| followed.findings.iter().chain(&followed.away))
    }

    /// Takes in what was seen; whether that may change anything.
    pub(super) fn take(&mut self, (number, seen): Sighting, objects: &mut Objects) -> bool {
        let Some((key, followed)) = self.followed.iter_mut().find(|(_, one)| one.number == number) else {
            // It is not followed any more.
            return false;
        };
        let is_it = |document: &Document| document.name == key.name();
        match seen {
            Seen::All(documents) => {
                let found = documents.into_iter().find(is_it);
                followed.findings.clear();
                match found {
                    Some(document) => followed.read(&self.file, document, (self.kind, key), objects),
                    None => objects.forget(self.kind.kind, key),
                }
            }
            Seen::Set(document) if is_it(&document) => {
                followed.read(&self.file, document, (self.kind, key), objects)
            }
            Seen::Gone(document) if is_it(&document) => {
                followed.findings.clear();
                objects.forget(self.kind.kind, key);
            }
            Seen::Away(why) => return followed.is_away(&self.file, (self.kind, key), &why),
            Seen::InSync => return followed.away.take().is_some(),
            Seen::Set(_) | Seen::Gone(_) | Seen::Absent | Seen::Heard => return false,
        }
        followed.away = None;
        true
    }
}

impl Followed {
    fn read(
        &mut self,
        file: &Arc<str>,
        mut document: Document,
        (kind, key): (&Kind, &Key),
        objects: &mut Objects,
    ) {
        let (mut read, mut findings) = (Objects::default(), Vec::new());
        let meta = (&*kind.api_version(), kind.kind);
        manifest::add_json(file, &document.json, meta, &mut read, &mut findings);
        document.json.zeroize();
        if findings.iter().any(|finding| finding.severity == Severity::Error) {
            objects.forget(kind.kind, key);
        }
        objects.replace(&read);
        self.findings = findings;
    }

    /// What was read stays; false if this was said already.
    fn is_away(&mut self, file: &Arc<str>, (kind, key): (&Kind, &Key), why: &str) -> bool {
        let finding = Finding {
            severity: Severity::Error,
            file: file.to_string(),
            line: 0,
            object: format!("{} {key}", kind.kind),
            text: format!("cannot be followed: {why}"),
            fix: "let Weir's service account get, list and watch it".to_owned(),
        };
        if self.away.as_ref() == Some(&finding) {
            return false;
        }
        tracing::warn!("{finding}");
        self.away = Some(finding);
        true
    }
}

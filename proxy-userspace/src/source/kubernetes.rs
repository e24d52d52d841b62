//! The Kubernetes API as a source: each kind is listed and watched in all namespaces; what comes is read
//! like a manifest's document, and put in force together.
//!
//! On a runtime of its own, of one thread: reading ten thousand objects must not hold up a request.

mod cache;
mod client;
mod document;
mod event;
mod follow;
mod kind;
mod lease;
mod report;
mod retry;
mod singles;
mod state;
mod status;
mod write;

use super::{finding::Severity, publisher::Publisher};
use crate::status::Degraded;
use anyhow::Context as _;
use cache::{Cache, Pending, Unwritten};
pub use client::Access;
use follow::{Follower, Sighting};
use futures_util::future::OptionFuture;
use kind::{CONFIG_MAPS, KINDS, SECRETS};
use report::{Reporter, Sayings};
use singles::Singles;
use state::State;
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle},
    time::{Instant, MissedTickBehavior, interval, timeout, timeout_at},
};

/// A change comes into force once nothing else changed for so long,
const QUIET: Duration = Duration::from_millis(10);
/// but no later than this after it.
const AT_MOST: Duration = Duration::from_millis(100);
/// Sightings that may wait; a follower that sees more stops reading until there is room.
const QUEUE: usize = 1024;
/// How often what changed is written to disk.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// How long the API server may take at the start before what was kept on disk is served.
const PATIENCE: Duration = Duration::from_secs(5);
/// What cannot be written, as the status names it.
const KEPT: &str = "copy of the Kubernetes objects on disk";
/// Findings that become Events.
const MAX_EVENTS: usize = 200;
/// For the deepest object that is read, as in a directory.
const STACK_BYTES: usize = 8 << 20;

/// An API server that is followed.
pub struct Cluster {
    runtime: Background,
    publisher: Publisher,
    sightings: mpsc::Receiver<Sighting>,
    state: State,
    relist: watch::Sender<u64>,
    cache: Cache,
    sayings: watch::Sender<Sayings>,
    secrets: Singles,
    config_maps: Singles,
}

/// What a [`Cluster`] needs to know about its node.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where what was read is kept.
    pub run_dir: &'a Path,
}

impl Cluster {
    /// Begins to follow the API server. Nothing is in force before [`Cluster::synced`].
    pub async fn open(access: &Access, publisher: Publisher, node: Node<'_>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("weir-kube")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .context("a runtime for the Kubernetes API")?;
        let runtime = Background(Some(runtime));
        let (client, address) = runtime.run(client::connect(access.clone())).await??;
        let (relist, wishes) = watch::channel(0);
        let (sender, sightings) = mpsc::channel(QUEUE);
        for (index, kind) in KINDS.iter().enumerate() {
            let (client, sightings, relist) = (client.clone(), sender.clone(), wishes.clone());
            runtime.spawn(
                Follower { client, kind, object: None, is_older: false, index, sightings, relist }.follow(),
            );
        }
        let state = State::new(publisher.freshness());
        let cache = Cache::new(node.run_dir, &address);
        let (sayings, heard) = watch::channel(Sayings::default());
        let reporter = Reporter::new(&client, node.name, heard, Arc::clone(publisher.board()));
        runtime.spawn(reporter.run());
        let secrets = Singles::new(&SECRETS, client.clone(), relist.clone());
        let config_maps = Singles::new(&CONFIG_MAPS, client, relist.clone());
        Ok(Self { runtime, publisher, sightings, state, relist, cache, sayings, secrets, config_maps })
    }

    /// Waits until every kind was listed, then puts that in force. Where the API server does not answer,
    /// or not in time, what was kept on disk takes the place of what was not listed. `waiting` is called
    /// with what is still waited for.
    pub async fn synced(&mut self, waiting: impl Fn(String)) -> anyhow::Result<()> {
        let mut patience = Some(Instant::now() + PATIENCE);
        while !self.state.is_complete() {
            waiting(self.state.missing());
            let next = match patience {
                Some(_) if self.state.is_unreachable() => None,
                Some(until) => timeout_at(until, self.sightings.recv()).await.ok(),
                None => Some(self.sightings.recv().await),
            };
            match next {
                Some(sighting) => {
                    self.state.take(sighting.context("nobody follows the Kubernetes API any more")?);
                }
                None => {
                    patience = None;
                    self.restore();
                }
            }
        }
        self.publish();
        Ok(())
    }

    fn restore(&mut self) {
        let outcome = self.cache.read().and_then(|(kept, from)| {
            self.state.restore(kept, from)?;
            Ok(humantime::format_rfc3339_seconds(from))
        });
        match outcome {
            Ok(from) => tracing::warn!("the Kubernetes API does not answer: what it had at {from} is served"),
            Err(error) => {
                tracing::warn!("the Kubernetes API does not answer, and nothing was kept: {error:#}")
            }
        }
    }

    /// Where its snapshots come into force.
    pub fn publisher(&mut self) -> &mut Publisher {
        &mut self.publisher
    }

    /// Follows until the answer is dropped.
    #[must_use]
    pub fn spawn(mut self) -> Following {
        let relist = self.relist.clone();
        let runtime = std::mem::take(&mut self.runtime);
        runtime.spawn(self.run());
        Following { relist, _runtime: runtime }
    }

    async fn run(mut self) {
        let mut keep = interval(KEEP_EVERY);
        keep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Beside everything else: a disk may take its time, and changes wait for nobody.
        let mut keeping = None;
        self.follow_singles();
        loop {
            let sighting = tokio::select! {
                sighting = self.sightings.recv() => sighting,
                Some(secret) = self.secrets.next() => {
                    if self.secrets.take(secret, self.state.objects_mut()) {
                        self.publish();
                    }
                    continue;
                }
                Some(map) = self.config_maps.next() => {
                    if self.config_maps.take(map, self.state.objects_mut()) {
                        self.publish();
                    }
                    continue;
                }
                _ = keep.tick(), if keeping.is_none() => {
                    keeping = Some(self.keep());
                    continue;
                }
                written = OptionFuture::from(keeping.as_mut()), if keeping.is_some() => {
                    keeping = None;
                    if let Some(written) = written {
                        self.kept(written);
                    }
                    continue;
                }
            };
            let Some(sighting) = sighting else { return };
            if self.state.take(sighting) {
                self.settle().await;
                self.publish();
                self.follow_singles();
            }
        }
    }

    /// Objects may refer to others by now.
    fn follow_singles(&mut self) {
        let wanted = self.publisher.wanted_secrets();
        self.secrets.want(&wanted, self.state.objects_mut());
        let wanted = self.publisher.wanted_config_maps();
        self.config_maps.want(&wanted, self.state.objects_mut());
    }

    /// Takes in what comes until nothing does, but not for ever.
    async fn settle(&mut self) {
        let end = Instant::now() + AT_MOST;
        while let Some(left) = end.checked_duration_since(Instant::now())
            && let Ok(Some(sighting)) = timeout(QUIET.min(left), self.sightings.recv()).await
        {
            self.state.take(sighting);
        }
    }

    /// Writes what changed to disk.
    fn keep(&mut self) -> JoinHandle<Written> {
        let pending = self.state.take_pending();
        let (cache, time) = (self.cache.clone(), SystemTime::now() - self.publisher.freshness().staleness());
        tokio::task::spawn_blocking(move || {
            let written = if pending.is_empty() { Ok(()) } else { cache.write(&pending) };
            let marked =
                written.and_then(|()| cache.mark(time).map_err(|error| Unwritten::Base(error.into())));
            marked.map_err(|unwritten| (unwritten, pending))
        })
    }

    /// What became of it.
    fn kept(&mut self, written: Result<Written, JoinError>) {
        let error = match written {
            Ok(Ok(())) => return self.publisher.board().recovered(KEPT),
            Ok(Err((Unwritten::Failed(error), pending))) => {
                self.state.put_back(pending);
                error
            }
            // Without a whole file, or without knowing what became of it: all of it again.
            Ok(Err((Unwritten::Base(error), _))) => {
                self.start_over();
                error
            }
            Err(error) => {
                self.start_over();
                error.into()
            }
        };
        self.publisher.board().degraded(Degraded {
            what: KEPT.to_owned(),
            why: format!("{error:#}"),
            fix: "make room and writable --run-dir; without it a start needs the API server".to_owned(),
        });
    }

    fn start_over(&mut self) {
        self.state.start_over();
        self.relist.send_modify(|wishes| *wishes = wishes.wrapping_add(1));
    }

    fn publish(&mut self) {
        let mut findings = self.state.findings();
        findings.extend(self.secrets.findings().chain(self.config_maps.findings()).cloned());
        self.publisher.publish(self.state.objects(), findings.clone());
        // The publisher's are sorted: those that are left out are the last ones.
        let found = findings.iter().chain(self.publisher.findings().take(MAX_EVENTS));
        let mut findings: Vec<_> = found.filter(|one| one.severity < Severity::Info).cloned().collect();
        findings.sort();
        findings.truncate(MAX_EVENTS);
        let statuses = Arc::clone(&self.publisher.snapshot().load().statuses);
        self.sayings.send_replace(Sayings { objects: self.state.objects().clone(), statuses, findings });
    }
}

/// What was to be written, where it was not.
type Written = Result<(), (Unwritten, Pending)>;

/// A cluster that is followed; ends when dropped.
#[derive(Debug)]
pub struct Following {
    relist: watch::Sender<u64>,
    _runtime: Background,
}

impl Following {
    /// Lists every kind again.
    pub fn reload(&self) {
        self.relist.send_modify(|wishes| *wishes = wishes.wrapping_add(1));
    }
}

/// A runtime that may be dropped within another one.
#[derive(Debug, Default)]
struct Background(Option<Runtime>);

impl Background {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(task);
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let runtime = self.0.as_ref().context("the runtime has ended")?;
        runtime.spawn(task).await.context("a task of the Kubernetes API's")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

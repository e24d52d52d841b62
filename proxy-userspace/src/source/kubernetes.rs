//! The Kubernetes API as a source: each kind is listed and watched in all namespaces; what comes is read
//! like a manifest's document, and put in force together.
//!
//! On a runtime of its own, of one thread: reading ten thousand objects must not hold up a request.

mod client;
mod document;
mod follow;
mod kind;
mod retry;
mod state;

use super::publisher::Publisher;
use anyhow::Context as _;
pub use client::Access;
use follow::{Follower, Sighting};
use kind::KINDS;
use state::{Change, State};
use std::time::Duration;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
    time::Instant,
};

/// A change comes into force once nothing else changed for so long,
const QUIET: Duration = Duration::from_millis(10);
/// but no later than this after it.
const AT_MOST: Duration = Duration::from_millis(100);
/// Sightings that may wait; a follower that sees more stops reading until there is room.
const QUEUE: usize = 1024;
/// For the deepest object that is read, as in a directory.
const STACK_BYTES: usize = 8 << 20;

/// An API server that is followed.
pub struct Cluster {
    runtime: Background,
    publisher: Publisher,
    sightings: mpsc::Receiver<Sighting>,
    state: State,
    relist: watch::Sender<u64>,
}

impl Cluster {
    /// Begins to follow the API server. Nothing is in force before [`Cluster::synced`].
    pub async fn open(access: &Access, publisher: Publisher) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("weir-kube")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .context("a runtime for the Kubernetes API")?;
        let runtime = Background(Some(runtime));
        let client = runtime.run(client::connect(access.clone())).await??;
        let (relist, wishes) = watch::channel(0);
        let (sender, sightings) = mpsc::channel(QUEUE);
        for (index, kind) in KINDS.iter().enumerate() {
            let (client, sightings, relist) = (client.clone(), sender.clone(), wishes.clone());
            runtime.spawn(Follower { client, kind, index, sightings, relist }.follow());
        }
        Ok(Self { runtime, publisher, sightings, state: State::new(), relist })
    }

    /// Waits until every kind was listed, then puts that in force. `waiting` is called with what is
    /// still waited for, whenever that changes.
    pub async fn synced(&mut self, waiting: impl Fn(String)) -> anyhow::Result<()> {
        while !self.state.is_complete() {
            waiting(self.state.missing());
            let sighting =
                self.sightings.recv().await.context("nobody follows the Kubernetes API any more")?;
            self.state.take(sighting);
        }
        self.publish();
        Ok(())
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
        while let Some(sighting) = self.sightings.recv().await {
            if self.take(sighting) {
                self.settle().await;
                self.publish();
            }
        }
    }

    /// Takes in what comes until nothing does, but not for ever.
    async fn settle(&mut self) {
        let end = Instant::now() + AT_MOST;
        while let Some(left) = end.checked_duration_since(Instant::now())
            && let Ok(Some(sighting)) = tokio::time::timeout(QUIET.min(left), self.sightings.recv()).await
        {
            self.take(sighting);
        }
    }

    /// Whether objects changed.
    fn take(&mut self, sighting: Sighting) -> bool {
        self.state.take(sighting) == Change::Objects
    }

    fn publish(&mut self) {
        self.publisher.publish(self.state.objects(), self.state.findings());
    }
}

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

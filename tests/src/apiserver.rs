//! A Kubernetes API server of one process: lists in pages, watches with bookmarks, status patches, leases
//! and Events over real HTTP, and every fault of a real one, when it is told to.

mod answer;
mod world;

use answer::{Frame, Stream};
use anyhow::{Context, Result};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{mpsc, watch},
};
use world::{Happened, Resource, World, resource_of};

/// What the next request for a resource gets instead of its answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, with Kubernetes' word for the reason.
    Status(u16, &'static str),
    /// Its answer, but this much later.
    Slow(Duration),
}

/// Which requests a fault is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// A page of a list, from the first.
    List,
    /// A later page.
    Page,
    /// A watch.
    Watch,
    /// Something that changes an object.
    Write,
}

/// A request that was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// `GET`
    pub method: String,
    /// `services`
    pub plural: String,
    /// What kind of request, with the version that a watch begins at.
    pub path: String,
}

/// The server; ends when dropped.
#[derive(Debug)]
pub struct ApiServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

/// What requests and tests share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    down: watch::Sender<bool>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

#[derive(Default)]
struct State {
    world: World,
    watches: Vec<Watching>,
    faults: VecDeque<(String, Ask, Fault)>,
    asked: Vec<Asked>,
    /// The rest of lists that were begun, by token.
    pages: Vec<(String, VecDeque<Value>)>,
}

/// An open watch.
struct Watching {
    resource: Resource,
    frames: mpsc::UnboundedSender<Frame>,
}

impl ApiServer {
    /// Listens on a port of its own of 127.0.0.1.
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("apiserver")
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let (addr, shared) = (listener.local_addr()?, Arc::<Shared>::default());
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { addr, shared, runtime: Some(runtime) })
    }

    /// Writes a kubeconfig that leads here into a directory.
    pub fn kubeconfig(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("kubeconfig.json");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.addr)}}],
            "users": [{"name": "test", "user": {"token": "test"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        fs::write(&path, config.to_string()).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Creates or replaces an object.
    pub fn put(&self, object: Value) -> Result<Value> {
        let mut state = self.shared.state();
        let version = state.world.version();
        let object = state.world.put(object)?;
        state.announce(version, &resource_of(&object)?);
        Ok(object)
    }

    /// [`Self::put`] for every document of a manifest.
    pub fn put_manifest(&self, text: &str) -> Result<()> {
        for object in serde_saphyr::from_multiple::<Value>(text)?.into_iter().filter(|one| !one.is_null()) {
            self.put(object)?;
        }
        Ok(())
    }

    /// Deletes what has the kind, namespace and name of this object.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let mut state = self.shared.state();
        let (resource, version) = (resource_of(object)?, state.world.version());
        let text = |key: &str| object.pointer(key).and_then(Value::as_str).unwrap_or_default();
        let there = state.world.delete(&resource, text("/metadata/namespace"), text("/metadata/name"));
        anyhow::ensure!(there, "there is no {object}");
        state.announce(version, &resource);
        Ok(())
    }

    /// One object as it is now.
    #[must_use]
    pub fn get(&self, like: &Value) -> Option<Value> {
        let text = |key: &str| like.pointer(key).and_then(Value::as_str).unwrap_or_default();
        let resource = resource_of(like).ok()?;
        let state = self.shared.state();
        state.world.get(&resource, text("/metadata/namespace"), text("/metadata/name")).cloned()
    }

    /// All objects of a kind.
    pub fn list(&self, api_version: &str, plural: &str) -> Vec<Value> {
        let resource = Resource { api_version: api_version.to_owned(), plural: plural.to_owned() };
        self.shared.state().world.list(&resource, None)
    }

    /// Makes a CRD's resource known, without objects.
    pub fn define(&self, api_version: &str, plural: &str) {
        let resource = Resource { api_version: api_version.to_owned(), plural: plural.to_owned() };
        self.shared.state().world.define(resource);
    }

    /// From now on no watch can begin at an earlier version: 410.
    pub fn forget_history(&self) {
        self.shared.state().world.forget();
    }

    /// The next such request for this resource fares like that.
    pub fn fail(&self, plural: &str, ask: Ask, fault: Fault) {
        self.shared.state().faults.push_back((plural.to_owned(), ask, fault));
    }

    /// How many faults were not met yet.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.shared.state().faults.len()
    }

    /// Sends a line to every open watch of a resource, whatever it says.
    pub fn send(&self, plural: &str, event: &Value) {
        self.to_watches(plural, || Frame::Line(event.to_string()));
    }

    /// Sends a bookmark of the current version to every open watch of a resource.
    pub fn bookmark(&self, plural: &str) {
        let version = self.shared.state().world.version().to_string();
        self.send(
            plural,
            &json!({"type": "BOOKMARK", "object": {
            "apiVersion": "v1", "kind": "Any", "metadata": {"resourceVersion": version}}}),
        );
    }

    /// Ends every open watch of a resource with an ERROR event.
    pub fn error(&self, plural: &str, code: u16, reason: &str) {
        self.send(plural, &json!({"type": "ERROR", "object": status(code, reason)}));
        self.to_watches(plural, || Frame::End);
        self.shared.state().watches.retain(|watch| watch.resource.plural != plural);
    }

    /// Drops the connection of every open watch of a resource, in the middle of a line.
    pub fn cut(&self, plural: &str) {
        self.to_watches(plural, || {
            Frame::Cut("{\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"na".to_owned())
        });
        self.shared.state().watches.retain(|watch| watch.resource.plural != plural);
    }

    fn to_watches(&self, plural: &str, frame: impl Fn() -> Frame) {
        let state = self.shared.state();
        for watch in state.watches.iter().filter(|watch| watch.resource.plural == plural) {
            // A watch whose client is gone hears nothing.
            let _ = watch.frames.send(frame());
        }
    }

    /// How many watches of a resource are open.
    #[must_use]
    pub fn watches(&self, plural: &str) -> usize {
        let mut state = self.shared.state();
        state.watches.retain(|watch| !watch.frames.is_closed());
        state.watches.iter().filter(|watch| watch.resource.plural == plural).count()
    }

    /// Down: every connection is dropped, and so is every new one. Up again: as before.
    pub fn set_down(&self, down: bool) {
        self.shared.down.send_replace(down);
        if down {
            self.shared.state().watches.clear();
        }
    }

    /// The requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state().asked.clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells watches what happened after a version.
    fn announce(&mut self, after: u64, resource: &Resource) {
        let happened = self.world.since(resource, after).unwrap_or_default();
        for watch in self.watches.iter().filter(|watch| watch.resource == *resource) {
            for one in &happened {
                let _ = watch.frames.send(Frame::Line(event(one)));
            }
        }
    }

    fn watch(&mut self, resource: Resource, version: u64) -> Option<Stream> {
        let missed = self.world.since(&resource, version)?;
        let (frames, stream) = mpsc::unbounded_channel();
        for one in &missed {
            let _ = frames.send(Frame::Line(event(one)));
        }
        self.watches.push(Watching { resource, frames });
        Some(Stream(stream))
    }

    fn fault(&mut self, plural: &str, ask: Ask) -> Option<Fault> {
        let place = self.faults.iter().position(|(of, at, _)| of == plural && *at == ask)?;
        self.faults.remove(place).map(|(_, _, fault)| fault)
    }
}

fn event(happened: &Happened) -> String {
    json!({"type": happened.what, "object": happened.object}).to_string()
}

/// A `Status` object.
fn status(code: u16, reason: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason,
           "message": format!("the test wants {code}"), "metadata": {}})
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, mut down) = (Arc::clone(&shared), shared.down.subscribe());
        if *down.borrow() {
            continue;
        }
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer::answer(Arc::clone(&shared), request));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            // Either ends the connection; why does not matter.
            tokio::select! {
                biased;
                _ = down.wait_for(|down| *down) => {}
                _ = connection => {}
            }
        });
    }
}

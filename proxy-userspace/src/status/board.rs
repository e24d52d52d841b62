//! Where the parts of the agent write down what they know about themselves.

use super::{
    ClusterStatus, ConfigStatus, Degraded, GatewayStatus, KernelView, Mode, Readiness, SourceStatus, Status,
};
use crate::{metrics::Metrics, snapshot::Snapshot};
use parking_lot::Mutex;
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

/// A map this full, in percent, is worth a word.
const FULL_PERCENT: u64 = 90;

/// The agent's own state, shared by all parts; the admin listener reads it.
#[derive(Debug)]
pub struct Board {
    metrics: Arc<Metrics>,
    started: Instant,
    noted: Mutex<Noted>,
}

#[derive(Debug)]
struct Noted {
    readiness: Readiness,
    listeners: Vec<SocketAddr>,
    mode: Mode,
    config: ConfigStatus,
    degraded: Vec<Degraded>,
}

impl Board {
    /// The state of an agent that has just started.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let noted = Noted {
            readiness: Readiness::Starting { reason: "the agent is starting".to_owned() },
            listeners: Vec::new(),
            mode: Mode::default(),
            config: ConfigStatus::default(),
            degraded: Vec::new(),
        };
        Self { metrics, started: Instant::now(), noted: Mutex::new(noted) }
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Not ready yet: `reason` says what is waited for.
    pub fn starting(&self, reason: impl Into<String>) {
        self.noted.lock().readiness = Readiness::Starting { reason: reason.into() };
    }

    /// New connections are served.
    pub fn ready(&self) {
        self.noted.lock().readiness = Readiness::Ready;
    }

    /// No new connections from now on.
    pub fn draining(&self) {
        self.noted.lock().readiness = Readiness::Draining;
    }

    /// Whether new connections are served.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.noted.lock().readiness.clone()
    }

    /// The agent listens here for steered connections.
    pub fn listening(&self, addr: SocketAddr) {
        self.noted.lock().listeners.push(addr);
    }

    /// How connections and bytes travel.
    pub fn mode(&self, mode: Mode) {
        self.noted.lock().mode = mode;
    }

    /// From now on there is a kernel half to ask. Only the first call counts.
    pub fn kernel(&self, view: Arc<dyn KernelView>) {
        self.metrics.attach_kernel(view);
    }

    /// A reading of the configuration was accepted and is in force. `error` names the objects of it
    /// that were not.
    pub fn config_applied(&self, snapshot: Arc<Snapshot>, error: Option<String>) {
        self.metrics.config_read(error.is_none());
        self.noted.lock().config = ConfigStatus {
            generation: snapshot.generation,
            last_reload: Some(now()),
            error,
            source: Vec::new(),
        };
        self.metrics.config_in_force(snapshot);
    }

    /// A reading of the configuration was rejected; what was in force still is.
    pub fn config_rejected(&self, error: String) {
        self.metrics.config_read(false);
        let config = &mut self.noted.lock().config;
        config.last_reload = Some(now());
        config.error = Some(error);
    }

    /// Something works less well than it should; replaces an earlier word about the same `what`.
    pub fn degraded(&self, degraded: Degraded) {
        let mut noted = self.noted.lock();
        noted.degraded.retain(|known| known.what != degraded.what);
        noted.degraded.push(degraded);
    }

    /// It works again.
    pub fn recovered(&self, what: &str) {
        self.noted.lock().degraded.retain(|known| known.what != what);
    }

    fn source(&self) -> Vec<SourceStatus> {
        let parts = self.metrics.freshness().parts().into_iter();
        let status = parts.map(|(part, known)| SourceStatus {
            part: part.to_owned(),
            last_sync: humantime::format_rfc3339_seconds(known.last_sync).to_string(),
            stale_seconds: known.stale.as_ref().map_or(0, |stale| stale.age().as_secs()),
            stale: known.stale.map(|stale| stale.why),
        });
        status.collect()
    }

    /// Everything at this moment.
    #[must_use]
    pub fn status(&self) -> Status {
        let kernel = self.metrics.kernel().status();
        let snapshot = self.metrics.snapshot();
        let clusters = snapshot.clusters.iter().map(|one| ClusterStatus::from(&**one)).collect();
        let noted = self.noted.lock();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            readiness: noted.readiness.clone(),
            listeners: noted.listeners.clone(),
            mode: noted.mode.clone(),
            lanes: self.metrics.lanes(),
            connections: self.metrics.connections(),
            kernel: None,
            config: ConfigStatus { source: self.source(), ..noted.config.clone() },
            clusters,
            gateways: GatewayStatus::all(&snapshot),
            degraded: noted.degraded.clone(),
        };
        drop(noted);
        match kernel {
            Some(Ok(kernel)) => status.kernel = Some((*kernel).clone()),
            Some(Err(error)) => status.degraded.push(Degraded {
                what: "the state of the kernel half".to_owned(),
                why: error.to_string(),
                fix: "see the agent's log; it needs CAP_BPF and CAP_NET_ADMIN while it runs".to_owned(),
            }),
            None => {}
        }
        let found = found_degraded(&status);
        status.degraded.extend(found);
        status
    }
}

/// What the state itself shows.
fn found_degraded(status: &Status) -> Vec<Degraded> {
    let config = status.config.error.iter().map(|error| Degraded {
        what: "configuration".to_owned(),
        why: error.clone(),
        fix: "correct the object; `weir check` shows all findings; the last good state is in force"
            .to_owned(),
    });
    let stale = status.config.source.iter().max_by_key(|part| (part.stale.is_some(), part.stale_seconds));
    let away = stale.filter(|part| part.stale.is_some()).map(|part| Degraded {
        what: "source of the configuration".to_owned(),
        why: format!(
            "for {} s nothing is known of {}: {}",
            part.stale_seconds,
            part.part,
            part.stale.as_deref().unwrap_or_default()
        ),
        fix: "what was known then is in force; see whether the API server is up and reachable from this node"
            .to_owned(),
    });
    let maps = status.kernel.iter().flat_map(|kernel| &kernel.maps);
    let full = maps.filter(|map| map.fill_percent() >= FULL_PERCENT).map(|map| Degraded {
        what: format!("map {}", map.name),
        why: format!("{} of {} entries are in use", map.entries, map.capacity),
        fix: cure_of_full(&map.name).to_owned(),
    });
    config.chain(away).chain(full).collect()
}

fn cure_of_full(map: &str) -> &'static str {
    match map {
        "SERVICES" | "ENDPOINTS" => "raise --max-services",
        "PATHS" => "nothing breaks: policies beyond it are decided by the agent alone",
        "WORKLOADS" | "ADMITTED" => "nothing breaks: workloads beyond it stay on plain TCP",
        _ => "raise --max-flows",
    }
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests;

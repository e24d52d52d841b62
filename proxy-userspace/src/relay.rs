//! What all connections share.

use crate::{
    admission::Rules,
    balance::Affinity,
    config::{Acceleration, Config, Steering},
    datapath::Datapath,
    fields::Telling,
    flow::Observer,
    identity::Identity,
    listener::KeepAlive,
    netns::Namespaces,
    orig_dst::OrigDstSource,
    policy::access::Net,
    snapshot::{Snapshot, Timeouts},
    splice::{Watched, Worth},
    upstream::{Birthplace, Connector, Pool},
    via::Via,
};
use arc_swap::ArcSwap;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{Notify, Semaphore};

/// The relay: everything that a connection needs to be served.
pub struct Relay {
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) datapath: Datapath,
    pub(crate) observer: Observer,
    pub(crate) settings: Settings,
    /// What is admitted.
    pub(crate) rules: Arc<Rules>,
    pub(crate) orig_dst: OrigDstSource,
    pub(crate) pool: Pool,
    pub(crate) connector: Connector,
    pub(crate) namespaces: Namespaces,
    /// Which endpoints clients of Services with affinity had.
    pub(crate) affinity: Affinity,
    /// Which pod a client is.
    pub(crate) identity: Identity,
    pub(crate) unknown_workload: Arc<str>,
    pub(crate) drain: Drain,
    /// TLS handshakes that may be under way at once.
    pub(crate) handshakes: Semaphore,
    /// Connections that have a pair.
    pub(crate) watched: Watched,
    /// Whether the splice lane pays.
    pub(crate) worth: Worth,
    /// Every record, in the order of its end.
    #[cfg(test)]
    pub(crate) records: parking_lot::Mutex<Vec<crate::flow::RequestRecord>>,
}

/// What the relay needs of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// For connections whose cluster is not known.
    pub(crate) timeouts: Timeouts,
    pub(crate) detect_timeout: Duration,
    /// How long a client may be silent that must speak first.
    pub(crate) protocol_detect: Option<Duration>,
    /// Who begins its connections to Gateways and Ingresses with a PROXY header.
    pub(crate) proxies: Vec<Net>,
    pub(crate) handshake_timeout: Duration,
    pub(crate) request_cap: u64,
    pub(crate) answer_cap: u64,
    /// Clients and endpoints may redirect into the agent's sockets.
    pub(crate) redirects: bool,
    /// The part of fit connections that stays in relay, 0 to 1.
    pub(crate) splice_control: f64,
    /// What endpoints behind Gateways and Ingresses are told of clients.
    pub(crate) telling: Telling,
    /// How a request's body must come, in bytes a second; 0: anyhow.
    pub(crate) min_body_rate: u64,
    /// How an answer's body of known length must come; 0: anyhow.
    pub(crate) min_answer_rate: u64,
    /// How requests that are brought in from outside say that they passed here; `None`: not at all.
    pub(crate) via: Option<Via>,
    /// How long a client may take nothing of its answer.
    pub(crate) write_idle: Option<Duration>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            timeouts: Timeouts::from(config.timeouts),
            detect_timeout: config.detect_timeout,
            protocol_detect: Some(config.timeouts.timeout_protocol_detect)
                .filter(|timeout| !timeout.is_zero()),
            proxies: config.proxy_protocol_from.clone(),
            handshake_timeout: config.timeout_tls_handshake,
            request_cap: u64::from(config.redirect_request_cap),
            answer_cap: u64::from(config.redirect_answer_cap),
            redirects: config.steering == Steering::Ebpf && config.acceleration != Acceleration::Off,
            splice_control: config.splice_control,
            telling: Telling { trusted: config.trusted_hops.into(), forwarded: config.forwarded },
            min_body_rate: u64::from(config.min_body_rate),
            min_answer_rate: u64::from(config.min_response_body_rate),
            via: Via::named(&config.via),
            write_idle: Some(config.timeouts.timeout_write_idle).filter(|timeout| !timeout.is_zero()),
        }
    }
}

impl Relay {
    /// A relay that serves nobody yet. Fails where the agent's own network namespace cannot be
    /// found out.
    pub fn new(
        config: &Config,
        snapshot: Arc<ArcSwap<Snapshot>>,
        datapath: Datapath,
        observer: Observer,
    ) -> anyhow::Result<Arc<Self>> {
        let settings = Settings::from(config);
        let rules = Arc::new(Rules::from(config));
        let connector = Connector {
            datapath: datapath.clone(),
            metrics: Arc::clone(&observer.metrics),
            keep_alive: KeepAlive::from(config.tcp_keepalive),
            redirects: settings.redirects,
            rules: Arc::clone(&rules),
        };
        Ok(Arc::new(Self {
            namespaces: Namespaces::start()?,
            affinity: Affinity::default(),
            identity: Identity::new(Arc::clone(&snapshot), datapath.pod_parent()),
            orig_dst: config.steering.into(),
            snapshot,
            datapath,
            observer,
            settings,
            rules,
            pool: Pool::new(),
            connector,
            unknown_workload: Arc::from("unknown"),
            drain: Drain::default(),
            handshakes: Semaphore::new(
                usize::try_from(config.max_handshakes).unwrap_or(Semaphore::MAX_PERMITS).max(1),
            ),
            watched: Watched::default(),
            worth: Worth::default(),
            #[cfg(test)]
            records: Default::default(),
        }))
    }

    /// Closes idle upstream connections, and lets go of network namespaces without a client. Runs
    /// for ever.
    pub async fn sweep(self: Arc<Self>) {
        let linger = self.settings.timeouts.upstream_idle.unwrap_or(NAMESPACE_LINGER).min(NAMESPACE_LINGER);
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.namespaces.forget_unused(linger);
            self.pool.sweep(|born| match born {
                Birthplace::Namespace(cookie) => self.namespaces.is_known(cookie),
                Birthplace::NodeInstead => true,
            });
        }
    }
}

/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_millis(250);
/// How long a namespace without a client is kept, however long connections may idle: an open one keeps a
/// deleted pod's network alive.
const NAMESPACE_LINGER: Duration = Duration::from_secs(3);

/// The way out: connections that are open, and whether they should end.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    leaving: AtomicBool,
    aborting: AtomicBool,
    changed: Notify,
    open: AtomicUsize,
    closed: Notify,
}

impl Drain {
    /// Requests in flight are the last ones of their connections.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Relaxed);
        self.changed.notify_waiters();
    }

    /// No connection may stay.
    pub(crate) fn abort(&self) {
        self.aborting.store(true, Relaxed);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    pub(crate) fn is_aborting(&self) -> bool {
        self.aborting.load(Relaxed)
    }

    /// Completes with the next change.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Completes when the agent leaves.
    pub(crate) async fn left(&self) {
        self.until(Self::is_leaving).await;
    }

    /// Completes when the agent waits no longer.
    pub(crate) async fn aborted(&self) {
        self.until(Self::is_aborting).await;
    }

    async fn until(&self, so: impl Fn(&Self) -> bool) {
        let mut changed = std::pin::pin!(self.changed());
        loop {
            changed.as_mut().enable();
            if so(self) {
                return;
            }
            changed.as_mut().await;
            changed.set(self.changed());
        }
    }

    pub(crate) fn connection_opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    pub(crate) fn connection_closed(&self) {
        if self.open.fetch_sub(1, Relaxed) == 1 {
            self.closed.notify_waiters();
        }
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Completes when no connection is open.
    pub(crate) async fn empty(&self) {
        loop {
            let closed = self.closed.notified();
            if self.open() == 0 {
                return;
            }
            closed.await;
        }
    }
}

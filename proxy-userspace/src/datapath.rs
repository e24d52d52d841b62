//! The kernel half as the rest of the agent sees it. Only this module knows aya (invariant I4).

mod access;
mod attach;
mod btf;
mod cgroups;
mod datagrams;
mod drained;
mod events;
mod load;
mod pairs;
mod pins;
mod podwatch;
mod policies;
mod refusals;
mod selftest;
mod services;
mod stats;
mod tables;
mod tallies;
mod tracepoints;
mod undisturbed;
mod uplinks;
mod workloads;

pub use events::KernelEvent;
pub use load::LoadOptions;
pub(crate) use pairs::{Slot, Terms, now_ns};
pub(crate) use pins::unpin;
pub(crate) use refusals::Refusals;
pub use selftest::SelfTest;
pub(crate) use uplinks::node_addresses;

use crate::{
    config::Acceleration,
    snapshot::{AccelerationChoice, Cluster, Clusters, Snapshot},
    status::{Board, Degraded},
};
use anyhow::{Context as _, ensure};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use proxy_common::{
    abi::{ACCELERATION_OFF, Settings, Upstream},
    addr::ip_of,
    flow::FlowKey,
    pair::{GROUP_CONTROL, GROUP_SPLICED, Waits},
};
use std::{collections::HashMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

/// Workloads that the kernel half can watch; `maps.rs` sizes its tables alike.
const MAX_WORKLOADS: u32 = 16_384;
/// What policies say of who may connect, likewise.
const MAX_VERDICTS: u32 = 1 << 20;
/// Nodes of policies that the kernel half holds, likewise.
const MAX_PATHS: u32 = 65_536;

/// What the kernel recorded about a steered connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steered {
    /// What the client called connect with.
    pub orig_dst: SocketAddr,
    /// The client's identity.
    pub cgroup_id: u64,
    /// The client's process, in the initial pid namespace.
    pub pid: u32,
    /// The client's network namespace.
    pub netns_cookie: u64,
    /// How long the TCP handshake took.
    pub handshake: Option<Duration>,
    /// The client's socket is in the socket map: answers to it are redirected.
    pub mapped: bool,
}

/// How bytes to an endpoint travel on one upstream connection, for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamLane {
    /// Both ends are in the socket map: only for requests of known length under the cap.
    Mapped,
    /// Ordinary TCP: for everything.
    Plain,
}

/// What became of an upstream connection after its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The lane it got.
    pub lane: UpstreamLane,
    /// The endpoint's workload, where its socket is on this node and not mapped.
    pub watched: Option<u64>,
}

/// Why a kernel table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The kernel refused.
    #[error("map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// The error.
        source: aya::maps::MapError,
    },
}

/// A handle on the loaded kernel half; clones share it. Without a kernel half (steering by
/// iptables) every call answers "plain".
#[derive(Clone, Debug)]
pub struct Datapath {
    kernel: Option<Arc<Kernel>>,
}

/// How many entries each table has room for.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    services: u32,
    flows: u32,
    flow_records: u32,
    sockets: u32,
    pairs: u32,
    /// Bytes.
    carried: u32,
}

/// The loaded kernel half.
struct Kernel {
    ebpf: Mutex<aya::Ebpf>,
    tables: tables::Tables,
    /// `None` where the splice lane is off.
    pairs: Option<Arc<pairs::Pairs>>,
    tallies: tallies::Tallies,
    sizes: Sizes,
    settings: Mutex<Settings>,
    written: Mutex<services::Written>,
    /// The clusters that `choices` are of.
    chosen: Mutex<Clusters>,
    policies: Mutex<policies::Policies>,
    access: Mutex<access::AccessTables>,
    datagrams: Mutex<datagrams::Datagrams>,
    /// Sees pods come and go; `None` until the hooks are attached.
    pod_watch: Mutex<Option<podwatch::PodWatch>>,
    choices: ArcSwap<HashMap<SocketAddr, AccelerationChoice>>,
    workloads: Arc<workloads::Workloads>,
    wanted: Acceleration,
    self_test: Option<SelfTest>,
    degraded: Vec<Degraded>,
    cgroup_root: PathBuf,
    /// What the connect hooks are attached to: `pods`, or all.
    pod_parent: PathBuf,
    /// The cgroup that all pods are below.
    pods: PathBuf,
    events: Mutex<Option<events::EventReader>>,
    /// As configured.
    uplinks: Vec<String>,
    attached: Mutex<uplinks::Attached>,
    /// `None`: everything goes with the agent.
    pins: Mutex<Option<pins::Pins>>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("sizes", &self.sizes).finish_non_exhaustive()
    }
}

impl Datapath {
    /// No kernel half: every connection is plain.
    #[must_use]
    pub fn plain() -> Self {
        Self { kernel: None }
    }

    /// The cgroup that all pods are below.
    pub(crate) fn pod_parent(&self) -> Option<PathBuf> {
        self.kernel.as_ref().map(|kernel| kernel.pods.clone())
    }

    /// What the client of an accepted connection asked for; `None` when the kernel half did not
    /// steer it. `peer` and `local` are the accepted socket's addresses. One map lookup.
    pub fn steered(&self, peer: SocketAddr, local: SocketAddr) -> Result<Option<Steered>, DatapathError> {
        let Some(kernel) = &self.kernel else { return Ok(None) };
        let Some(flow) = kernel.tables.flows.get(&FlowKey::new(peer, local))? else { return Ok(None) };
        let handshake = flow.established_ns.checked_sub(flow.connect_ns).filter(|_| flow.established_ns != 0);
        Ok(Some(Steered {
            orig_dst: SocketAddr::new(ip_of(&flow.addr), flow.port),
            cgroup_id: flow.cgroup_id,
            pid: flow.pid,
            netns_cookie: flow.netns_cookie,
            handshake: handshake.map(Duration::from_nanos),
            mapped: flow.mapped != 0,
        }))
    }

    /// What the client of an accepted connection from outside sent to, where the kernel half brought it
    /// here. One map lookup.
    pub fn inbound(&self, peer: SocketAddr, local: SocketAddr) -> Result<Option<SocketAddr>, DatapathError> {
        let Some(kernel) = &self.kernel else { return Ok(None) };
        let inbound = kernel.tables.inbound.get(&FlowKey::new(peer, local))?;
        Ok(inbound.map(|inbound| SocketAddr::new(ip_of(&inbound.addr), inbound.port)))
    }

    /// Call before the first byte of an answer that is larger than the cap or of unknown length:
    /// takes the client's socket out of the socket map where nothing can be lost by it. `client`
    /// is the key of the *client's* socket (local = client). True when the socket is plain now.
    ///
    /// A client with redirected data unread (it pipelines) stays mapped: leaving the map would drop
    /// what it has not read. The kernel half's cap then moves the answer to TCP. Its queue is asked, not
    /// `SocketState::unread`: what is on its way there does not count as unread when the client speaks.
    pub fn before_large_answer(&self, client: &FlowKey) -> bool {
        let Some(kernel) = &self.kernel else { return true };
        let left = match kernel.has_drained(client) {
            Ok(true) => kernel.tables.unmap(client).map(|_| true).map_err(Into::into),
            Ok(false) => Ok(false),
            Err(error) => Err(error),
        };
        left.unwrap_or_else(|error| {
            let error = format!("{error:#}");
            tracing::warn!(?client, error, "cannot take a client's socket out of the socket map");
            false
        })
    }

    /// Call with a new upstream socket's cookie before it connects: the kernel half never steers
    /// it, times it, and maps it if `wanted` says so and the endpoint's workload allows.
    pub fn announce_upstream(&self, cookie: u64, wanted: UpstreamLane) -> Result<(), DatapathError> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        let upstream = Upstream { mappable: u32::from(wanted == UpstreamLane::Mapped), pad: 0 };
        kernel.tables.upstreams.insert(&cookie, &upstream)
    }

    /// Call after the handshake and before the first byte: what the connection became. `own` is
    /// the key of the agent's own socket (local = the agent's end), `cookie` its cookie.
    pub fn settle_upstream(&self, own: &FlowKey, cookie: u64) -> Settled {
        let plain = Settled { lane: UpstreamLane::Plain, watched: None };
        let Some(kernel) = &self.kernel else { return plain };
        // Whoever removes the entry decides: gone means that the endpoint's socket is in the map.
        match kernel.tables.upstreams.remove(&cookie) {
            Ok(false) => Settled { lane: UpstreamLane::Mapped, watched: None },
            Ok(true) => {
                for gone in [kernel.tables.unmap(own), kernel.tables.states.remove(own)] {
                    if let Err(error) = gone {
                        tracing::warn!(?own, %error, "cannot take an upstream socket out of the socket map");
                    }
                }
                Settled { watched: kernel.endpoint_workload(own), ..plain }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot settle an upstream connection");
                plain
            }
        }
    }

    /// Call when an upstream socket's connect failed.
    pub fn forget_upstream(&self, cookie: u64) {
        let Some(kernel) = &self.kernel else { return };
        if let Err(error) = kernel.tables.upstreams.remove(&cookie) {
            tracing::warn!(%error, "cannot forget an upstream socket");
        }
    }

    /// An entry for a pair; `None` where the splice lane is off, or every entry is in use.
    pub(crate) fn pair(&self) -> Option<Slot> {
        Slot::new(self.kernel.as_ref()?)
    }

    /// How long clients waited whose requests the kernel half carried, and those of the control group.
    pub(crate) fn waits(&self) -> Result<Option<(Waits, Waits)>, DatapathError> {
        let Some(kernel) = self.kernel.as_ref().filter(|kernel| kernel.pairs.is_some()) else {
            return Ok(None);
        };
        Ok(Some((kernel.tables.waits(GROUP_SPLICED)?, kernel.tables.waits(GROUP_CONTROL)?)))
    }

    /// Takes every armed pair back with its next request; nothing is carried until the next call of
    /// [`Datapath::supersede`].
    pub(crate) fn disarm(&self) -> Result<(), DatapathError> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        let mut settings = kernel.settings.lock();
        settings.generation = settings.generation.wrapping_sub(1);
        kernel.tables.write_settings(&settings)
    }

    /// Whether the kernel half may carry requests.
    pub(crate) fn splices(&self) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| kernel.pairs.is_some())
    }

    /// Counts one complete, relayed exchange of a workload that may be on probation.
    pub fn watched_exchange(&self, cgroup_id: u64) {
        if let Some(kernel) = &self.kernel {
            kernel.workloads.watched_exchange(cgroup_id, &kernel.tables);
        }
    }

    /// Call before a snapshot is in force: from here on the kernel half carries nothing by an older one.
    /// What pairs carry must be armed anew, by the snapshot in force then.
    pub fn supersede(&self, snapshot: &Snapshot) {
        let Some(kernel) = &self.kernel else { return };
        // What does not fit is tried again, and told, when the snapshot is applied.
        let published = kernel.policies.lock().publish(snapshot, &kernel.tables.paths, &kernel.tables.hosts);
        if let Err(error) = published {
            tracing::debug!(%error, "policies for the kernel half");
        }
        let mut settings = kernel.settings.lock();
        settings.generation = kernel_generation(snapshot.generation);
        if let Err(error) = kernel.tables.write_settings(&settings) {
            tracing::error!(%error, "the splice lane keeps to a configuration that is not in force any more");
        }
    }

    /// Writes a snapshot into the kernel's service tables: only what changed.
    pub fn apply(&self, snapshot: &Snapshot) -> anyhow::Result<()> {
        self.kernel.as_ref().map_or(Ok(()), |kernel| kernel.apply(snapshot))
    }

    /// Forgets workloads whose cgroup is gone, and looks for uplinks that are new; call about once a
    /// minute, off the data path.
    pub fn sweep(&self, board: &Board) {
        let Some(kernel) = &self.kernel else { return };
        kernel.workloads.sweep(&kernel.cgroup_root, &kernel.tables);
        if let Err(error) = kernel.attach_uplinks(board) {
            tracing::warn!(error = format!("{error:#}"), "look for new uplinks");
        }
    }
}

/// A snapshot's generation as the kernel half compares it: for equality.
#[expect(clippy::cast_possible_truncation, reason = "counted modulo 2^32")]
pub(crate) fn kernel_generation(generation: u64) -> u32 {
    generation as u32
}

impl Kernel {
    fn accelerates(&self) -> bool {
        self.settings.lock().acceleration != ACCELERATION_OFF
    }

    /// The workload of the endpoint behind an upstream connection, if the kernel half saw it accept.
    fn endpoint_workload(&self, own: &FlowKey) -> Option<u64> {
        let flow = self.tables.flows.get(own).ok().flatten()?;
        let cgroup_id = Some(flow.cgroup_id).filter(|id| *id != 0)?;
        let endpoint = SocketAddr::new(ip_of(&own.remote), own.remote_port);
        if let Some(choice) = self.choices.load().get(&endpoint) {
            self.workloads.choose(cgroup_id, *choice, &self.tables);
        }
        Some(cgroup_id)
    }

    /// Notes what endpoints' annotations say, where any of a changed cluster does.
    fn choose(&self, snapshot: &Snapshot) {
        let has_choice = |c: &&Arc<Cluster>| c.acceleration != AccelerationChoice::Default;
        let mut chosen = self.chosen.lock();
        let changed = {
            let changes = snapshot.clusters.changes(&chosen);
            changes.flat_map(|(old, new)| old.into_iter().chain(new)).any(|cluster| has_choice(&cluster))
        };
        if changed {
            let choices = snapshot.clusters.unsorted().filter(has_choice);
            let choices =
                choices.flat_map(|c| c.endpoints.iter().map(|e| (e.addr, c.acceleration))).collect();
            self.choices.store(Arc::new(choices));
        }
        *chosen = snapshot.clusters.clone();
    }

    fn apply(&self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let access = self.apply_access(snapshot).and(self.follow_datagrams());
        self.choose(snapshot);
        let mut policies = self.policies.lock();
        let published = policies.publish(snapshot, &self.tables.paths, &self.tables.hosts);

        let mut written = self.written.lock();
        let plan = written.plan(snapshot);
        let room = self.sizes.services as usize;
        let services = plan.services + snapshot.datagram_services.len();
        for (what, wanted) in [("service", services), ("endpoint", plan.endpoints)] {
            ensure!(
                wanted <= room,
                "the configuration has {wanted} {what} addresses and the kernel table holds {room}: \
                 raise --max-services; the last good state stays"
            );
        }
        written.write(plan, &self.tables)?;
        self.datagrams.lock().services(&snapshot.datagram_services, &self.tables)?;
        policies.retire(snapshot, &self.tables.paths, &self.tables.hosts)?;
        published.context("policies that do not fit are decided by the agent alone")?;
        access
    }
}

//! What the agent knows about itself, as `/status` and `weir status -o json` print it.

mod board;
pub use board::Board;

use crate::{
    policy::Eligibility,
    snapshot::{AccelerationChoice, Cluster, Endpoint, Lane, Protocol, Snapshot},
};
use proxy_common::tally::{Tally, TallyKey};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Debug, net::SocketAddr};

/// Everything; the answer of `/status`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Whether it takes new connections, and why not.
    pub readiness: Readiness,
    /// Where it listens for steered connections.
    pub listeners: Vec<SocketAddr>,
    /// How connections and bytes travel.
    pub mode: Mode,
    /// Requests (and opaque connections) by the lane that carried them.
    pub lanes: BTreeMap<String, u64>,
    /// Open connections of the relay.
    pub connections: Connections,
    /// The kernel half; absent when steering is not by eBPF.
    pub kernel: Option<KernelStatus>,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// Every Service port.
    pub clusters: Vec<ClusterStatus>,
    /// Addresses where requests go by host and path.
    #[serde(default)]
    pub gateways: Vec<GatewayStatus>,
    /// What works less well than it should.
    pub degraded: Vec<Degraded>,
}

/// An address of the node, or of a Gateway, where requests go by host and path.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct GatewayStatus {
    /// The address.
    pub address: SocketAddr,
    /// Gateways, and `Ingress` for all Ingresses together.
    pub of: Vec<String>,
    /// Matches of all rules there.
    pub matches: usize,
    /// Whether the kernel half may carry requests there, and why not.
    pub kernel_eligible: String,
}

impl GatewayStatus {
    /// Everything that a snapshot has, by address.
    pub(crate) fn all(snapshot: &Snapshot) -> Vec<Self> {
        let mut all: Vec<_> = snapshot
            .by_gateway
            .iter()
            .map(|(address, site)| Self {
                address: *address,
                of: site.doors.iter().map(|door| door.name.to_string()).collect(),
                matches: site.matches(),
                kernel_eligible: "no, because each request may go to another cluster".to_owned(),
            })
            .collect();
        all.sort_by_key(|one| one.address);
        all
    }
}

/// Whether new connections are served.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Readiness {
    /// They are.
    Ready,
    /// Not yet.
    Starting {
        /// What it waits for.
        reason: String,
    },
    /// Not any more.
    Draining,
}

/// How connections reach the agent and how bytes travel.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Mode {
    /// `ebpf` or `iptables`.
    pub steering: String,
    /// `off`, `agent-only`, `auto` or `on`: what was asked for.
    pub acceleration: String,
    /// Bytes may be redirected into the agent's own sockets.
    pub redirect_to_agent: bool,
    /// Bytes may be redirected into applications' sockets, workload by workload.
    pub redirect_to_applications: bool,
    /// What the boot self-test found, check by check.
    pub self_test: Vec<SelfTest>,
}

/// One check of the boot self-test.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct SelfTest {
    /// What was tried.
    pub check: String,
    /// Whether this kernel gets it right.
    pub passed: bool,
    /// What was seen.
    pub detail: String,
}

/// Open connections of the relay.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connections {
    /// From clients.
    pub downstream: i64,
    /// To endpoints, pooled ones included.
    pub upstream: i64,
}

/// The kernel half at one moment.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct KernelStatus {
    /// Loaded programs.
    pub programs: Vec<ProgramStatus>,
    /// Maps and their fill.
    pub maps: Vec<MapStatus>,
    /// Counters by name ([`proxy_common::abi::counter::NAMES`]).
    pub counters: BTreeMap<String, u64>,
    /// Known workloads by what probation decided.
    pub workloads: WorkloadCounts,
    /// Connections that the kernel half follows.
    pub open_flows: OpenFlows,
    /// The splice lane; absent where it is off.
    pub pairs: Option<PairCounts>,
}

impl KernelStatus {
    /// Counter values, summed over CPUs, under their names.
    #[must_use]
    pub fn named_counters(values: &[u64]) -> BTreeMap<String, u64> {
        let names = proxy_common::abi::counter::NAMES.into_iter().map(String::from);
        names.zip(values.iter().copied()).collect()
    }
}

/// A loaded program.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ProgramStatus {
    /// `weir_...`
    pub name: String,
    /// The kernel's id.
    pub id: u32,
    /// Instructions that the verifier walked through, where the kernel says.
    pub verified_instructions: Option<u32>,
    /// Nanoseconds spent in it, while `kernel.bpf_stats_enabled` is 1.
    pub run_time_ns: Option<u64>,
    /// Runs, likewise.
    pub run_count: Option<u64>,
}

/// A map and its fill.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct MapStatus {
    /// Its name.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

impl MapStatus {
    /// Fill in percent, 0 for a map without capacity.
    #[must_use]
    pub fn fill_percent(&self) -> u64 {
        self.entries.saturating_mul(100).checked_div(self.capacity).unwrap_or(0)
    }
}

/// Workloads by acceleration state.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WorkloadCounts {
    /// Watched, plain TCP.
    pub probation: u64,
    /// Their sockets may be redirected into.
    pub accelerated: u64,
    /// Left alone.
    pub barred: u64,
}

/// Open connections by hop.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlows {
    /// Application to agent.
    pub downstream: u64,
    /// Agent to endpoint.
    pub upstream: u64,
}

/// Connections of the splice lane.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PairCounts {
    /// The kernel half may carry what comes next on them.
    pub armed: u64,
    /// They have a pair, armed or not.
    pub joined: u64,
    /// How many may have one.
    pub capacity: u64,
}

/// The configuration in force and the fate of the latest one.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfigStatus {
    /// Counts up with every change; 0 before the first.
    pub generation: u64,
    /// When the last reading ended, RFC 3339.
    pub last_reload: Option<String>,
    /// Why the latest reading was rejected, wholly or in part; the last good state of what it
    /// names is in force.
    pub error: Option<String>,
    /// What the source said, and when.
    #[serde(default)]
    pub source: Vec<SourceStatus>,
}

/// A part of the source: a resource of the Kubernetes API, or `directory`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct SourceStatus {
    /// Its name.
    pub part: String,
    /// When the source last said something about it, RFC 3339.
    pub last_sync: String,
    /// Why what it says now is not known; absent while it is.
    pub stale: Option<String>,
    /// For how long it has not been known, in seconds.
    pub stale_seconds: u64,
}

/// A Service port.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ClusterStatus {
    /// `namespace/service:port`
    pub name: String,
    /// `steer` or `pass`.
    pub lane: String,
    /// Addresses that clients connect to.
    pub frontends: Vec<SocketAddr>,
    /// Its endpoints, ready or not.
    pub endpoints: Vec<EndpointStatus>,
}

impl From<&Cluster> for ClusterStatus {
    fn from(cluster: &Cluster) -> Self {
        let lane = match cluster.lane {
            Lane::Steer => "steer",
            Lane::Pass => "pass",
        };
        let endpoints = cluster.endpoints.iter().map(|endpoint| EndpointStatus {
            addr: endpoint.addr,
            workload: endpoint.workload.as_deref().map(String::from),
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
            policy: endpoint.policy.as_ref().map(|policy| policy.name.to_string()),
            kernel_eligible: kernel_eligible(cluster, endpoint).to_string(),
        });
        Self {
            name: cluster.name.to_string(),
            lane: lane.to_owned(),
            frontends: cluster.frontends.clone(),
            endpoints: endpoints.collect(),
        }
    }
}

/// Whether the kernel half may carry requests to an endpoint, as far as the configuration says.
#[must_use]
pub fn kernel_eligible(cluster: &Cluster, endpoint: &Endpoint) -> Eligibility {
    let no = |why: &str| Eligibility::No(why.to_owned());
    match (cluster.lane, cluster.protocol, cluster.acceleration) {
        (Lane::Pass, ..) => no("its port is not steered"),
        (_, Protocol::Http2 | Protocol::Opaque, _) => no("its appProtocol is not HTTP/1"),
        (.., AccelerationChoice::Off) => no("weir.dev/acceleration is off"),
        _ => endpoint.policy.as_ref().map_or(Eligibility::Yes, |policy| policy.eligibility.clone()),
    }
}

/// An endpoint with its EndpointSlice conditions.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct EndpointStatus {
    /// Address and port.
    pub addr: SocketAddr,
    /// `namespace/pod`, where known.
    pub workload: Option<String>,
    /// Takes new requests.
    pub ready: bool,
    /// Still answers.
    pub serving: bool,
    /// Is going away.
    pub terminating: bool,
    /// The policies that restrict it, `namespace/name`, by commas; absent where none does.
    pub policy: Option<String>,
    /// `yes`, or `partly, because ...`, or `no, because ...`: whether the kernel half may decide about
    /// its requests.
    pub kernel_eligible: String,
}

/// Something that works less well than it should.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Degraded {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
    /// What an operator can do about it.
    pub fix: String,
}

/// The loaded kernel half, as far as observation needs it.
pub trait KernelView: Debug + Send + Sync {
    /// Reads programs, maps and counters. May take milliseconds; called at most once a second.
    fn kernel_status(&self) -> anyhow::Result<KernelStatus>;

    /// What the kernel half has counted of the requests it carried, since it was loaded.
    fn tallies(&self) -> anyhow::Result<Vec<(TallyKey, Tally)>> {
        Ok(Vec::new())
    }

    /// Nothing is counted under this key any more.
    fn forget_tally(&self, _: &TallyKey) -> anyhow::Result<()> {
        Ok(())
    }
}

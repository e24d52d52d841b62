//! Every table of the kernel half. The user half sets the sizes before it loads; "full" says what
//! happens when one is.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SockHash, SockMap},
};
use proxy_common::{
    abi::{
        AffinityKey, Endpoint, EndpointKey, Flow, Inbound, Kept, OrigDst, Service, ServiceKey, Settings,
        SocketState, Upstream, Workload, counter,
    },
    access::{Peer, Subject, VerdictKey},
    addr::AddrWords,
    flow::FlowKey,
    pair::{Pair, Waits},
    policy::{HostKey, PathNode, TargetKey},
    tally::{Tally, TallyKey},
};

use crate::scratch::Scratch;

/// Settings; index 0.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// The agent's listening sockets, at `LISTENER4` and `LISTENER6`; they leave when they are closed.
#[map]
pub static LISTENERS: SockMap = SockMap::with_max_entries(2, 0);

/// Service and endpoint addresses. Full: the user half refuses the snapshot and says so.
#[map]
pub static SERVICES: HashMap<ServiceKey, Service> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Ready endpoints by service and index. Full: as [`SERVICES`].
#[map]
pub static ENDPOINTS: HashMap<EndpointKey, Endpoint> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Endpoints that clients of Services with affinity had. Full: who was silent the longest is forgotten.
#[map]
pub static AFFINITY: LruHashMap<AffinityKey, Kept> = LruHashMap::with_max_entries(32_768, 0);

/// Original destinations by socket cookie, from connect to close. Full: the connect goes to an
/// endpoint unsteered, or is refused (`Settings::fail_closed`).
#[map]
pub static ORIG_DST: HashMap<u64, OrigDst> = HashMap::with_max_entries(1, 0);

/// Open steered and upstream flows by the opener's key. Twice as large as [`ORIG_DST`], because a
/// flow outlives its socket while TCP finishes. Full: counted; the agent closes the connection.
#[map]
pub static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(1, 0);

/// Connections from outside that were brought to the listener. Full: the one that was silent longest is
/// forgotten, and times out.
#[map]
pub static INBOUND: LruHashMap<FlowKey, Inbound> = LruHashMap::with_max_entries(1, 0);

/// Datagrams that pods of this node sent off it, by the sender's four-tuple, and when: answers to them are
/// no new flows. Full: the one that was silent longest is forgotten.
#[map]
pub static DATAGRAMS: LruHashMap<FlowKey, u64> = LruHashMap::with_max_entries(65_536, 0);

/// Agent sockets that are about to connect to an endpoint, by cookie: never steered. Whoever
/// removes the entry decides the connection's lane: the endpoint's side when it joined the socket
/// map, the agent when it will not wait.
#[map]
pub static UPSTREAMS: HashMap<u64, Upstream> = HashMap::with_max_entries(1, 0);

/// Sockets whose messages the sk_msg program sees and may redirect into. Full: the socket stays
/// plain.
#[map]
pub static SOCKETS: SockHash<FlowKey> = SockHash::with_max_entries(1, 0);

/// State of each socket in [`SOCKETS`], by the same key.
#[map]
pub static STATES: HashMap<FlowKey, SocketState> = HashMap::with_max_entries(1, 0);

/// Pairs that the agent arms and the kernel half carries; both map it, so that arming takes no system
/// call. The user half hands entries out; none left: the connection stays in relay.
#[map]
pub static PAIRS: Array<Pair> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The pair of a client's or an endpoint's socket: its index plus one. Full: as [`PAIRS`].
#[map]
pub static PAIRED: HashMap<FlowKey, u32> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// How long clients waited, by group (`GROUP_SPLICED`, `GROUP_CONTROL`).
#[map]
pub static WAITS: PerCpuArray<Waits> = PerCpuArray::with_max_entries(2, 0);

/// What workloads were seen to do, by cgroup id. Full: the workload is never admitted.
#[map]
pub static WORKLOADS: HashMap<u64, Workload> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Workloads that passed probation, or are refused by annotation. Written by the user half.
#[map]
pub static ADMITTED: HashMap<u64, u32> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Pods of this node, by the id of their own cgroup. Full: the user half says so; the pod is unknown.
#[map]
pub static SUBJECTS: HashMap<u64, Subject> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Who has an address, by prefixes. Full: the user half refuses the change, and the last state stays.
#[map]
pub static PEERS: LpmTrie<AddrWords, Peer> = LpmTrie::with_max_entries(1, BPF_F_NO_PREALLOC);

/// What policy sets say. Full: as [`PEERS`].
#[map]
pub static VERDICTS: LpmTrie<VerdictKey, u32> = LpmTrie::with_max_entries(1 << 20, BPF_F_NO_PREALLOC);

/// What policies allow, by target. Full: the user half leaves policies out, whose requests are its own.
#[map]
pub static PATHS: LpmTrie<TargetKey, PathNode> = LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Host patterns, as the bits of those that a host matches. At most `policy::HOST_PATTERNS` of them.
#[map]
pub static HOSTS: LpmTrie<HostKey, u64> = LpmTrie::with_max_entries(128, BPF_F_NO_PREALLOC);

/// What does not fit on a program's stack; index 0. In use: the request is the agent's.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Records for the user half. Full: the record is lost and counted.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Exchanges carried, for the access log: the pair up to its head's end. One page where nobody reads it.
/// Full: the line is lost and counted.
#[map]
pub static CARRIED: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Exchanges carried, by series, method and status. Full: they are counted under `tally::OVERFLOW`, which
/// the user half makes.
#[map]
pub static SPLICED: PerCpuHashMap<TallyKey, Tally> = PerCpuHashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Counters; the names are in [`counter::NAMES`].
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

/// The settings, once the user half has written them.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// Adds to a counter of this CPU.
#[inline(always)]
pub fn count(index: u32, by: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a per-CPU slot, and programs do not migrate while they run.
        unsafe { *counter = (*counter).wrapping_add(by) };
    }
}

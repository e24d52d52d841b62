//! Typed handles on the kernel half's maps. Every read and write of a map is here.

use super::{DatapathError, access::Tries, events::Rings, policies::Trie};
use anyhow::{Context, bail};
use aya::{
    Ebpf, Pod,
    maps::{
        Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf, SockHash, SockMap,
        lpm_trie::{Key, LpmTrie},
    },
};
use parking_lot::Mutex;
use proxy_common::{
    abi::{
        Endpoint, EndpointKey, Flow, Inbound, OrigDst, Service, ServiceKey, Settings, SocketState, Upstream,
        Workload, counter,
    },
    access::{Peer, Subject, VerdictKey},
    addr::AddrWords,
    flow::FlowKey,
    pair::Waits,
    policy::{HostKey, PathNode, TargetKey},
};
use std::{
    fmt::Debug,
    os::fd::{AsFd, AsRawFd},
};

/// A kernel hash map with its name for errors. Reading needs no lock: it has a handle of its own.
pub(super) struct Table<K: Pod, V: Pod> {
    name: &'static str,
    reader: HashMap<MapData, K, V>,
    writer: Mutex<HashMap<MapData, K, V>>,
}

impl<K: Pod, V: Pod> Debug for Table<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<K: Pod, V: Pod> Table<K, V> {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> anyhow::Result<Self> {
        let (data, wrap): (_, fn(MapData) -> Map) = match take(ebpf, name)? {
            Map::HashMap(data) => (data, Map::HashMap),
            Map::LruHashMap(data) => (data, Map::LruHashMap),
            _ => bail!("map {name} is no hash map"),
        };
        let again = MapData::from_fd(data.fd().as_fd().try_clone_to_owned()?)?;
        Ok(Self {
            name,
            reader: HashMap::try_from(wrap(again)).with_context(|| format!("map {name}"))?,
            writer: Mutex::new(HashMap::try_from(wrap(data)).with_context(|| format!("map {name}"))?),
        })
    }

    /// The value under a key.
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, DatapathError> {
        absent_is_none(self.reader.get(key, 0)).map_err(|source| self.error(source))
    }

    /// Writes a value.
    pub(super) fn insert(&self, key: &K, value: &V) -> Result<(), DatapathError> {
        self.writer.lock().insert(key, value, 0).map_err(|source| self.error(source))
    }

    /// Removes a key; whether it was there.
    pub(super) fn remove(&self, key: &K) -> Result<bool, DatapathError> {
        let removed = self.writer.lock().remove(key);
        absent_is_none(removed).map(|removed| removed.is_some()).map_err(|source| self.error(source))
    }

    /// All keys now; a concurrent change may repeat or miss one.
    pub(super) fn keys(&self) -> Vec<K> {
        self.reader.keys().filter_map(Result::ok).collect()
    }

    /// All values now; a concurrent change may repeat or miss one.
    pub(super) fn values(&self) -> impl Iterator<Item = V> {
        self.reader.iter().filter_map(Result::ok).map(|(_, value)| value)
    }

    /// Its name in the kernel half.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// How many entries there are: walks the keys, about 0.3 us each.
    pub(super) fn len(&self) -> usize {
        self.reader.keys().filter(Result::is_ok).count()
    }

    fn error(&self, source: MapError) -> DatapathError {
        DatapathError::Map { map: self.name, source }
    }
}

/// A kernel LPM trie with its name for errors.
pub(super) struct Prefixes<K: Pod, V: Pod> {
    name: &'static str,
    trie: Mutex<LpmTrie<MapData, K, V>>,
}

impl<K: Pod, V: Pod> Prefixes<K, V> {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> anyhow::Result<Self> {
        let trie = LpmTrie::try_from(take(ebpf, name)?).with_context(|| format!("map {name}"))?;
        Ok(Self { name, trie: Mutex::new(trie) })
    }
}

impl<K: Pod, V: Pod> Trie<K, V> for Prefixes<K, V> {
    fn insert(&self, bits: u32, key: &K, value: &V) -> Result<(), DatapathError> {
        let written = self.trie.lock().insert(&Key::new(bits, *key), value, 0);
        written.map_err(|source| DatapathError::Map { map: self.name, source })
    }

    fn remove(&self, bits: u32, key: &K) -> Result<(), DatapathError> {
        let removed = absent_is_none(self.trie.lock().remove(&Key::new(bits, *key)));
        removed.map(|_| ()).map_err(|source| DatapathError::Map { map: self.name, source })
    }
}

fn absent_is_none<T>(outcome: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
    ebpf.take_map(name).with_context(|| format!("the kernel half has no map {name}"))
}

/// All tables of a loaded kernel half.
pub(super) struct Tables {
    pub(super) services: Table<ServiceKey, Service>,
    pub(super) endpoints: Table<EndpointKey, Endpoint>,
    pub(super) orig_dst: Table<u64, OrigDst>,
    pub(super) flows: Table<FlowKey, Flow>,
    pub(super) inbound: Table<FlowKey, Inbound>,
    pub(super) upstreams: Table<u64, Upstream>,
    pub(super) states: Table<FlowKey, SocketState>,
    pub(super) paired: Table<FlowKey, u32>,
    pub(super) paths: Prefixes<TargetKey, PathNode>,
    pub(super) hosts: Prefixes<HostKey, u64>,
    pub(super) subjects: Table<u64, Subject>,
    pub(super) peers: Prefixes<AddrWords, Peer>,
    pub(super) verdicts: Prefixes<VerdictKey, u32>,
    pub(super) workloads: Table<u64, Workload>,
    pub(super) admitted: Table<u64, u32>,
    pub(super) sockets: Mutex<SockHash<MapData, FlowKey>>,
    pub(super) listeners: Mutex<SockMap<MapData>>,
    pub(super) settings: Mutex<Array<MapData, Settings>>,
    pub(super) counters: Mutex<PerCpuArray<MapData, u64>>,
    pub(super) waits: Mutex<PerCpuArray<MapData, Waits>>,
}

impl Tries for Tables {
    type Peers = Prefixes<AddrWords, Peer>;
    type Verdicts = Prefixes<VerdictKey, u32>;

    fn peers(&self) -> &Self::Peers {
        &self.peers
    }

    fn verdicts(&self) -> &Self::Verdicts {
        &self.verdicts
    }

    fn set_subject(&self, cgroup_id: u64, subject: &Subject) -> Result<(), DatapathError> {
        self.subjects.insert(&cgroup_id, subject)
    }

    fn remove_subject(&self, cgroup_id: u64) -> Result<(), DatapathError> {
        self.subjects.remove(&cgroup_id).map(|_| ())
    }
}

impl Tables {
    /// Takes every map out of `ebpf`; the ring buffers come apart, for their reader.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<(Self, Rings)> {
        let mut ring = |name: &'static str| RingBuf::try_from(take(ebpf, name)?).context(name);
        let rings = Rings { events: ring("EVENTS")?, carried: ring("CARRIED")? };
        let tables = Self {
            services: Table::take(ebpf, "SERVICES")?,
            endpoints: Table::take(ebpf, "ENDPOINTS")?,
            orig_dst: Table::take(ebpf, "ORIG_DST")?,
            flows: Table::take(ebpf, "FLOWS")?,
            inbound: Table::take(ebpf, "INBOUND")?,
            upstreams: Table::take(ebpf, "UPSTREAMS")?,
            states: Table::take(ebpf, "STATES")?,
            paired: Table::take(ebpf, "PAIRED")?,
            paths: Prefixes::take(ebpf, "PATHS")?,
            hosts: Prefixes::take(ebpf, "HOSTS")?,
            subjects: Table::take(ebpf, "SUBJECTS")?,
            peers: Prefixes::take(ebpf, "PEERS")?,
            verdicts: Prefixes::take(ebpf, "VERDICTS")?,
            workloads: Table::take(ebpf, "WORKLOADS")?,
            admitted: Table::take(ebpf, "ADMITTED")?,
            sockets: Mutex::new(SockHash::try_from(take(ebpf, "SOCKETS")?).context("map SOCKETS")?),
            listeners: Mutex::new(SockMap::try_from(take(ebpf, "LISTENERS")?).context("map LISTENERS")?),
            settings: Mutex::new(Array::try_from(take(ebpf, "SETTINGS")?).context("map SETTINGS")?),
            counters: Mutex::new(PerCpuArray::try_from(take(ebpf, "COUNTERS")?).context("map COUNTERS")?),
            waits: Mutex::new(PerCpuArray::try_from(take(ebpf, "WAITS")?).context("map WAITS")?),
        };
        Ok((tables, rings))
    }

    /// The array of pairs; it is mapped, not read by calls.
    pub(super) fn take_pairs(ebpf: &mut Ebpf) -> anyhow::Result<MapData> {
        let Map::Array(data) = take(ebpf, "PAIRS")? else { bail!("map PAIRS is no array") };
        Ok(data)
    }

    /// Where the kernel half finds a listening socket (`LISTENER4`, `LISTENER6`) until it is closed.
    pub(super) fn listen(&self, index: u32, socket: &impl AsRawFd) -> Result<(), DatapathError> {
        let written = self.listeners.lock().set(index, socket, 0);
        written.map_err(|source| DatapathError::Map { map: "LISTENERS", source })
    }

    /// Writes the settings.
    pub(super) fn write_settings(&self, settings: &Settings) -> Result<(), DatapathError> {
        let written = self.settings.lock().set(0, settings, 0);
        written.map_err(|source| DatapathError::Map { map: "SETTINGS", source })
    }

    /// Takes a socket out of the socket map; whether it was there.
    pub(super) fn unmap(&self, key: &FlowKey) -> Result<bool, DatapathError> {
        let removed = self.sockets.lock().remove(key);
        absent_is_none(removed)
            .map(|removed| removed.is_some())
            .map_err(|source| DatapathError::Map { map: "SOCKETS", source })
    }

    /// Sets every counter to zero.
    pub(super) fn reset_counters(&self) -> anyhow::Result<()> {
        let mut counters = self.counters.lock();
        for index in 0..counter::COUNT {
            let zeros = PerCpuValues::try_from(vec![0; aya::util::nr_cpus().map_err(|(_, error)| error)?])?;
            counters.set(index, zeros, 0)?;
        }
        Ok(())
    }

    /// How long the clients of a group waited, over all CPUs.
    pub(super) fn waits(&self, group: u32) -> Result<Waits, DatapathError> {
        let per_cpu = self.waits.lock().get(&group, 0);
        let per_cpu = per_cpu.map_err(|source| DatapathError::Map { map: "WAITS", source })?;
        Ok(per_cpu.iter().fold(Waits::default(), |sum, one| Waits {
            count: sum.count.wrapping_add(one.count),
            sum_ns: sum.sum_ns.wrapping_add(one.sum_ns),
            squares_us: sum.squares_us.wrapping_add(one.squares_us),
        }))
    }

    /// A counter over all CPUs; see [`proxy_common::abi::counter`].
    pub(super) fn counter(&self, index: u32) -> u64 {
        // The index comes from the same ABI as the map's size: only a torn-down map fails.
        self.counters.lock().get(&index, 0).map(|per_cpu| per_cpu.iter().sum()).unwrap_or(0)
    }
}

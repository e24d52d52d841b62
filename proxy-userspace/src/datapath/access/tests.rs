//! That the kernel half decides by the tables as the user half does, whatever has changed, in what order.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use super::*;
use crate::policy::access::{
    Side, Verdict,
    tests::{addresses, histories},
};
use parking_lot::Mutex;
use proptest::prelude::*;
use proxy_common::access::{Connection, Decision, Denied};
use std::net::IpAddr;

/// A longest-prefix table as the kernel has it, bit by bit, with room for so many.
struct Lpm<K, V> {
    rows: Mutex<HashMap<(u32, Vec<bool>), V>>,
    room: Mutex<usize>,
    bits: fn(&K) -> Vec<bool>,
}

impl<K, V: Copy> Lpm<K, V> {
    fn new(bits: fn(&K) -> Vec<bool>) -> Self {
        Self { rows: Mutex::default(), room: Mutex::new(usize::MAX), bits }
    }

    fn get(&self, key: &K) -> Option<V> {
        let (all, rows) = ((self.bits)(key), self.rows.lock());
        (0..=all.len()).rev().find_map(|len| rows.get(&(len as u32, all[..len].to_vec())).copied())
    }
}

impl<K, V: Copy> Trie<K, V> for Lpm<K, V> {
    fn insert(&self, bits: u32, key: &K, value: &V) -> Result<(), DatapathError> {
        let mut rows = self.rows.lock();
        if rows.len() >= *self.room.lock() {
            let source = aya::maps::MapError::KeyNotFound;
            return Err(DatapathError::Map { map: "full", source });
        }
        rows.insert((bits, (self.bits)(key)[..bits as usize].to_vec()), *value);
        Ok(())
    }

    fn remove(&self, bits: u32, key: &K) -> Result<(), DatapathError> {
        self.rows.lock().remove(&(bits, (self.bits)(key)[..bits as usize].to_vec()));
        Ok(())
    }
}

fn bits_of(bytes: impl IntoIterator<Item = u8>) -> Vec<bool> {
    bytes.into_iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect()
}

struct Memory {
    peers: Lpm<AddrWords, Peer>,
    verdicts: Lpm<VerdictKey, u32>,
    subjects: Mutex<HashMap<u64, Subject>>,
}

impl Memory {
    fn new() -> Self {
        let verdict = |key: &VerdictKey| {
            let ids = [key.set, key.class].into_iter().flat_map(u32::to_ne_bytes);
            bits_of(ids.chain([key.protocol, key.port[0], key.port[1]]))
        };
        let address = |words: &AddrWords| bits_of(words.iter().flat_map(|word| word.to_ne_bytes()));
        Self { peers: Lpm::new(address), verdicts: Lpm::new(verdict), subjects: Mutex::default() }
    }
}

impl Tries for Memory {
    type Peers = Lpm<AddrWords, Peer>;
    type Verdicts = Lpm<VerdictKey, u32>;
    fn peers(&self) -> &Self::Peers {
        &self.peers
    }
    fn verdicts(&self) -> &Self::Verdicts {
        &self.verdicts
    }
    fn set_subject(&self, cgroup_id: u64, subject: &Subject) -> Result<(), DatapathError> {
        self.subjects.lock().insert(cgroup_id, *subject);
        Ok(())
    }
    fn remove_subject(&self, cgroup_id: u64) -> Result<(), DatapathError> {
        self.subjects.lock().remove(&cgroup_id);
        Ok(())
    }
}

/// Every pod's cgroup; those that end leave it behind for a while.
fn cgroups(access: &Access, ids: &mut HashMap<Arc<str>, u64>) -> Vec<PodCgroup> {
    for pod in access.pods() {
        let next = ids.len() as u64 + 1;
        ids.entry(Arc::clone(pod.facts.uid.as_ref().unwrap())).or_insert(next);
    }
    ids.iter().map(|(uid, id)| PodCgroup { id: *id, uid: Arc::clone(uid), is_pod: true }).collect()
}

fn expected(access: &Access, pod: &Arc<PodState>, to: IpAddr, transport: Transport, port: u16) -> Decision {
    // As the agent has it: by the pod, at its first address of the family.
    let own = pod.facts.addresses.iter().find(|own| own.is_ipv4() == to.is_ipv4()).copied();
    let from = access.party_of(pod, own.filter(|_| !pod.facts.on_host));
    match access.decide(&from, &access.party_at(to), transport, port) {
        Verdict::Deny { direction: Direction::Egress, .. } => Decision::Deny(Denied::Egress),
        Verdict::Deny { direction: Direction::Ingress, .. } => Decision::Deny(Denied::Ingress),
        Verdict::Allow { egress, ingress } => {
            let http = |side: Option<(Arc<PolicySet>, Side)>| matches!(side, Some((_, Side::Http(_))));
            if http(egress) || http(ingress) { Decision::AllowHttp } else { Decision::Allow }
        }
    }
}

fn check(access: &Access, memory: &Memory, ids: &HashMap<Arc<str>, u64>) {
    let subjects = memory.subjects.lock();
    for pod in access.pods() {
        let from = subjects[&ids[pod.facts.uid.as_ref().unwrap()]];
        for to in addresses() {
            let addr = words_of(to);
            let peer = memory.peers.get(&addr);
            for (transport, port) in [80, 81, 443, 8080, 65535]
                .map(|port| (Transport::Tcp, port))
                .into_iter()
                .chain([(Transport::Udp, 80), (Transport::Sctp, 81)])
            {
                let (protocol, to_peer) = (protocol(transport), peer.as_ref());
                let connection = Connection { from: &from, addr: &addr, to: to_peer, protocol, port };
                let decided = connection.decide(true, |key| memory.verdicts.get(key));
                let expected = expected(access, pod, to, transport, port);
                assert_eq!(decided, expected, "{:?} to {to}:{port} {transport:?}", pod.facts);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn i1_the_kernel_half_decides_as_the_user_half_after_every_change(history in histories()) {
        let (memory, mut tables, mut ids) = (Memory::new(), AccessTables::default(), HashMap::new());
        for access in &history {
            tables.cgroups(cgroups(access, &mut ids), &memory).unwrap();
            tables.apply(access, &memory).unwrap();
            prop_assert_eq!(tables.any(), access.sets().next().is_some());
            if tables.any() {
                check(access, &memory, &ids);
            }
            let rows = [memory.subjects.lock().len(), memory.peers.rows.lock().len(), memory.verdicts.rows.lock().len()];
            prop_assert_eq!(tables.len(), rows);
        }
        // Nothing of what is gone stays.
        tables.apply(&Access::default(), &memory).unwrap();
        prop_assert_eq!(memory.verdicts.rows.lock().len(), 0);
        prop_assert_eq!(memory.subjects.lock().len(), 0);
    }

    #[test]
    fn what_does_not_fit_leaves_in_force_what_was_and_is_written_when_there_is_room(
        history in histories(),
        room in 0..12_usize,
    ) {
        let (memory, mut tables, mut ids) = (Memory::new(), AccessTables::default(), HashMap::new());
        let mut in_force: Option<&Access> = None;
        for access in &history {
            tables.cgroups(cgroups(access, &mut ids), &memory).unwrap();
            *memory.verdicts.room.lock() = room;
            if tables.apply(access, &memory).is_ok() {
                in_force = Some(access);
            } else if let Some(before) = in_force.filter(|before| before.sets().next().is_some()) {
                check(before, &memory, &ids);
            }
        }
        *memory.verdicts.room.lock() = usize::MAX;
        if let Some(last) = history.last() {
            tables.apply(last, &memory).unwrap();
            if tables.any() {
                check(last, &memory, &ids);
            }
        }
    }
}

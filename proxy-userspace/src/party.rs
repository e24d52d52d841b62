//! Which party a client is, and what holds for it at endpoints: looked up once a connection and snapshot.

use crate::{
    downstream::Downstream,
    policy::{Passage, access::Party},
    snapshot::{Endpoint, Snapshot},
};
use parking_lot::Mutex;
use std::{collections::HashMap, net::SocketAddr, sync::Arc};

/// Endpoints of one connection that are remembered.
const MAX_ENDPOINTS: usize = 1024;

/// What is known of one connection.
#[derive(Debug, Default)]
pub(crate) struct Passages(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    generation: u64,
    client: Option<Party>,
    by_endpoint: HashMap<SocketAddr, Arc<Passage>>,
}

impl Downstream {
    /// What holds for this client at an endpoint, by the snapshot in force.
    pub(crate) fn passage(&self, endpoint: &Endpoint) -> Arc<Passage> {
        let snapshot = self.relay.snapshot.load();
        let mut known = self.passages.0.lock();
        if known.generation != snapshot.generation {
            *known = Known { generation: snapshot.generation, ..Known::default() };
        }
        if let Some(passage) = known.by_endpoint.get(&endpoint.addr) {
            return Arc::clone(passage);
        }
        if known.by_endpoint.len() >= MAX_ENDPOINTS {
            known.by_endpoint.clear();
        }
        let client = known.client.get_or_insert_with(|| self.party(&snapshot));
        let (ip, port) = (endpoint.addr.ip(), endpoint.addr.port());
        let access = &snapshot.access;
        let there = match access.pod_at(ip, endpoint.workload.as_deref()) {
            Some(pod) => access.party_of(&pod, Some(ip)),
            None => access.party_at(ip),
        };
        let passage = Arc::new(Passage::of(access, client, &there, port));
        known.by_endpoint.insert(endpoint.addr, Arc::clone(&passage));
        passage
    }

    /// Who the client is: by its cgroup where the kernel half saw one (invariant I7).
    fn party(&self, snapshot: &Snapshot) -> Party {
        let (ip, access) = (self.client.0.ip(), &snapshot.access);
        let cgroup = self.identity.as_ref().map_or(0, |steered| steered.cgroup_id);
        match self.relay.identity.pod_of(cgroup, ip) {
            Some(pod) => match access.pod(&pod.key) {
                Some(pod) => access.party_of(pod, Some(ip)),
                None => access.stranger_at(ip),
            },
            None => {
                let party = access.party_at(ip);
                // A pod that is known by its cgroup to be another one has no part in it.
                if party.pod.is_some() { access.stranger_at(ip) } else { party }
            }
        }
    }
}

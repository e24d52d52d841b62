//! Idle connections to endpoints, the last used first.

use super::{Upstream, trunk::Trunks};
use crate::{datapath::UpstreamLane, tls::ProofId};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    time::Duration,
};
use tokio::time::Instant;

/// Connections that may be used for each other's requests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    /// Whose address the endpoint sees.
    pub(crate) born: Birthplace,
    /// Where it leads.
    pub(crate) endpoint: SocketAddr,
    /// What the endpoint has proved; nothing on connections without TLS.
    pub(crate) proof: Option<ProofId>,
}

/// Where an upstream socket was born.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Birthplace {
    /// In the client's network namespace, by its cookie.
    Namespace(u64),
    /// On the node, because the client's namespace could not be had: the client is hidden.
    NodeInstead,
}

/// Idle connections that a key may keep in each lane; more are closed at once.
const MAX_IDLE: usize = 1024;
const SHARDS: usize = 16;
/// A key that was refused the mapped lane asks again so often while its workload is watched...
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// ...and so often otherwise (it is on another node, or barred).
const ASK_AGAIN_UNWATCHED: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Pool {
    hasher: RandomState,
    shards: [Mutex<HashMap<Key, Slot>>; SHARDS],
    /// Connections that carry many requests at once.
    pub(crate) trunks: Trunks,
}

#[derive(Default)]
#[expect(clippy::vec_box, reason = "handed over, not copied")]
struct Slot {
    mapped: Vec<Box<Upstream>>,
    plain: Vec<Box<Upstream>>,
    /// The endpoint's socket did not join the socket map: do not ask before this.
    refused_until: Option<Instant>,
}

impl Slot {
    #[expect(clippy::vec_box, reason = "handed over, not copied")]
    fn lane(&mut self, lane: UpstreamLane) -> &mut Vec<Box<Upstream>> {
        match lane {
            UpstreamLane::Mapped => &mut self.mapped,
            UpstreamLane::Plain => &mut self.plain,
        }
    }
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            trunks: Trunks::default(),
        }
    }

    /// An idle connection for a request that could go by `wanted`; its own lane may be plain where
    /// the mapped one was refused lately.
    pub(crate) fn take(&self, key: &Key, wanted: UpstreamLane) -> Option<Box<Upstream>> {
        loop {
            let mut idle = self.pop(key, wanted)?;
            if !idle.is_overdue(Instant::now()) && idle.is_fresh() {
                return Some(idle);
            }
        }
    }

    fn pop(&self, key: &Key, wanted: UpstreamLane) -> Option<Box<Upstream>> {
        let mut shard = self.shard(key).lock();
        let slot = shard.get_mut(key)?;
        if wanted == UpstreamLane::Plain {
            return slot.plain.pop();
        }
        let mapped = slot.mapped.pop();
        let refused = slot.refused_until;
        mapped.or_else(|| {
            refused?;
            if refused.is_some_and(|until| Instant::now() >= until) {
                // This one opens a connection and asks; others need not.
                slot.refused_until = Some(Instant::now() + ASK_AGAIN);
                return None;
            }
            slot.plain.pop()
        })
    }

    /// What became of a connection that wanted the mapped lane.
    pub(crate) fn settled(&self, key: &Key, lane: UpstreamLane, watched: bool) {
        let ask_again = if watched { ASK_AGAIN } else { ASK_AGAIN_UNWATCHED };
        let refused_until = (lane == UpstreamLane::Plain).then(|| Instant::now() + ask_again);
        self.shard(key).lock().entry(*key).or_default().refused_until = refused_until;
    }

    /// Keeps a connection for the next request.
    pub(crate) fn put(&self, mut upstream: Box<Upstream>) {
        upstream.reused = true;
        upstream.idle_since = Instant::now();
        let key = upstream.key;
        let mut shard = self.shard(&key).lock();
        let lane = shard.entry(key).or_default().lane(upstream.lane);
        if lane.len() < MAX_IDLE {
            lane.push(upstream);
        }
    }

    /// Closes what has been idle for longer than its cluster allows, and all of birthplaces that are
    /// not `wanted` any more.
    pub(crate) fn sweep(&self, wanted: impl Fn(Birthplace) -> bool) {
        let now = Instant::now();
        self.trunks.sweep(&wanted);
        for shard in &self.shards {
            let mut closed = Vec::new();
            shard.lock().retain(|key, slot| {
                let wanted = wanted(key.born);
                let Slot { mapped, plain, refused_until } = slot;
                for lane in [&mut *mapped, &mut *plain] {
                    closed
                        .extend(lane.extract_if(.., |one| !wanted || one.is_overdue(now) || !one.is_fresh()));
                }
                let remembers = refused_until.is_some_and(|until| now < until);
                !mapped.is_empty() || !plain.is_empty() || (wanted && remembers)
            });
            // Closing takes system calls: not under the lock.
            drop(closed);
        }
    }

    /// Idle connections.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> usize {
        let in_shard = |shard: &Mutex<HashMap<Key, Slot>>| -> usize {
            shard.lock().values().map(|slot| slot.mapped.len() + slot.plain.len()).sum()
        };
        self.shards.iter().map(in_shard).sum()
    }

    fn shard(&self, key: &Key) -> &Mutex<HashMap<Key, Slot>> {
        let hash = self.hasher.hash_one(key);
        let [first, ..] = &self.shards;
        usize::try_from(hash).ok().and_then(|hash| self.shards.get(hash % SHARDS)).unwrap_or(first)
    }
}

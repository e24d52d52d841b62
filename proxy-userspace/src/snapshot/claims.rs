//! Who has which address. Several Services may want the same: the one whose claim is first has it, and
//! gets it back when an earlier claim is withdrawn.

use crate::source::{Sourced, store::Key};
use k8s_openapi::{api::core::v1, apimachinery::pkg::apis::meta::v1::Time};
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
    sync::Arc,
};

/// What is claimed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Claimed {
    /// An address and port.
    Address(SocketAddr),
    /// A port on the nodes.
    NodePort(u16),
}

impl fmt::Display for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(addr) => addr.fmt(f),
            Self::NodePort(port) => port.fmt(f),
        }
    }
}

/// How strong a claim is. Whoever may write a Service may write any external address into it: such a
/// claim must not take another Service's own address away, however old it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Strength {
    /// The cluster gave it the address or node port.
    Own,
    /// It is in `externalIPs` or a load balancer's.
    External,
}

/// A Service as claims know it; orders by age, as [`Sourced::seniority`] does.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Claimant {
    /// Unknown age last.
    age: (bool, Option<Time>),
    namespace: Box<str>,
    name: Box<str>,
    key: Key,
}

impl Claimant {
    pub(super) fn new(service: &Sourced<v1::Service>) -> Self {
        let created = service.object.metadata.creation_timestamp.clone();
        let (namespace, name) = (service.namespace.as_str().into(), service.name.as_str().into());
        Self { age: (created.is_none(), created), namespace, name, key: service.key() }
    }
}

/// One claim; the first in order has what it claims.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Claim {
    strength: Strength,
    claimant: Arc<Claimant>,
    /// Of ports of one Service the first.
    place: usize,
    cluster: Arc<str>,
}

impl Claim {
    pub(super) fn new(
        strength: Strength,
        claimant: &Arc<Claimant>,
        place: usize,
        cluster: &Arc<str>,
    ) -> Self {
        Self { strength, claimant: Arc::clone(claimant), place, cluster: Arc::clone(cluster) }
    }
}

/// All claims. A change tells whose outcome it may change.
#[derive(Default, Debug)]
pub(super) struct Claims(HashMap<Claimed, Vec<Claim>>);

impl Claims {
    /// Adds a claim.
    pub(super) fn add(&mut self, what: Claimed, claim: Claim, touched: &mut BTreeSet<Key>) {
        let claims = self.0.entry(what).or_default();
        let place = claims.partition_point(|other| *other < claim);
        claims.insert(place, claim);
        touch(claims, touched);
    }

    /// Withdraws every claim of a Service to something.
    pub(super) fn withdraw(&mut self, what: Claimed, claimant: &Key, touched: &mut BTreeSet<Key>) {
        let Some(claims) = self.0.get_mut(&what) else { return };
        touch(claims, touched);
        claims.retain(|claim| claim.claimant.key != *claimant);
        if claims.is_empty() {
            self.0.remove(&what);
        }
    }

    /// The cluster that has it.
    pub(super) fn holder(&self, what: Claimed) -> Option<&Arc<str>> {
        self.0.get(&what)?.first().map(|claim| &claim.cluster)
    }
}

#[cfg(test)]
impl Claims {
    pub(super) fn claimed(&self) -> impl Iterator<Item = &Claimed> {
        self.0.keys()
    }
}

/// Each of several is told who has it.
fn touch(claims: &[Claim], touched: &mut BTreeSet<Key>) {
    if claims.len() > 1 {
        touched.extend(claims.iter().map(|claim| claim.claimant.key.clone()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const PORT: Claimed = Claimed::NodePort(30_001);

    fn claim(strength: Strength, name: &str) -> (Key, Claim) {
        let (namespace, key) = ("default".into(), Key::new("default", name));
        let claimant = Arc::new(Claimant { age: (true, None), namespace, name: name.into(), key });
        (claimant.key.clone(), Claim::new(strength, &claimant, 0, &name.into()))
    }

    #[test]
    fn a_withdrawn_claim_leaves_the_address_to_the_next_and_tells_all() {
        let mut claims = Claims::default();
        let ((a, first), (b, second)) = (claim(Strength::Own, "a"), claim(Strength::Own, "b"));
        let mut touched = BTreeSet::new();
        claims.add(PORT, second, &mut touched);
        assert!(touched.is_empty(), "nobody else is concerned");
        claims.add(PORT, first, &mut touched);
        assert_eq!(touched, [a.clone(), b.clone()].into());
        assert_eq!(&**claims.holder(PORT).unwrap(), "a");
        touched.clear();
        claims.withdraw(PORT, &a, &mut touched);
        assert_eq!(touched, [a, b.clone()].into());
        assert_eq!(&**claims.holder(PORT).unwrap(), "b");
        claims.withdraw(PORT, &b, &mut touched);
        assert_eq!(claims.holder(PORT), None);
        assert!(claims.0.is_empty());
    }

    #[test]
    fn an_external_address_takes_no_clusters_own_address_away() {
        let mut claims = Claims::default();
        claims.add(PORT, claim(Strength::External, "a").1, &mut BTreeSet::new());
        claims.add(PORT, claim(Strength::Own, "b").1, &mut BTreeSet::new());
        assert_eq!(&**claims.holder(PORT).unwrap(), "b");
    }
}

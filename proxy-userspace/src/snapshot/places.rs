//! What is at an address: which Services have endpoints there, and which pod it is.

use super::{Endpoint, slice::Slice};
use crate::{sharded::Sharded, source::store::Key};
use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

/// An address in slices.
#[derive(Debug)]
enum Place {
    /// Nearly all are in one slice, once.
    One(Seen),
    /// What each slice's endpoint here says.
    Many(Vec<Seen>),
}

/// What one endpoint of a slice says.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    service: Key,
    /// `namespace/name`
    pod: Option<Arc<str>>,
    terminating: bool,
}

/// Every address in slices.
#[derive(Default, Debug)]
pub(super) struct Places(HashMap<IpAddr, Place>);

impl Places {
    /// Adds what a slice says.
    pub(super) fn add(&mut self, slice: &Slice<'_>, workloads: &mut Sharded<IpAddr, Arc<str>>) {
        let service = slice.service_key();
        for endpoint in &slice.endpoints {
            let ip = endpoint.addr.ip();
            let seen = Seen::of(&service, endpoint);
            let place = match self.0.entry(ip) {
                Entry::Vacant(slot) => slot.insert(Place::One(seen)),
                Entry::Occupied(slot) => {
                    let place = slot.into_mut();
                    let mut all = place.seen().to_vec();
                    all.push(seen);
                    *place = Place::Many(all);
                    place
                }
            };
            name(ip, place.pod(), workloads);
        }
    }

    /// Takes away what a slice said.
    pub(super) fn remove(&mut self, slice: &Slice<'_>, workloads: &mut Sharded<IpAddr, Arc<str>>) {
        let service = slice.service_key();
        for endpoint in &slice.endpoints {
            let ip = endpoint.addr.ip();
            let Some(place) = self.0.get_mut(&ip) else { continue };
            let seen = Seen::of(&service, endpoint);
            let mut left = place.seen().to_vec();
            if let Some(at) = left.iter().position(|one| *one == seen) {
                left.swap_remove(at);
            }
            if left.is_empty() {
                self.0.remove(&ip);
                name(ip, None, workloads);
                continue;
            }
            *place = match <[Seen; 1]>::try_from(left) {
                Ok([one]) => Place::One(one),
                Err(many) => Place::Many(many),
            };
            name(ip, place.pod(), workloads);
        }
    }

    /// The Services that have endpoints at an address; one may be there several times.
    pub(super) fn services(&self, ip: IpAddr) -> impl Iterator<Item = &Key> {
        self.0.get(&ip).map_or(&[][..], Place::seen).iter().map(|one| &one.service)
    }

    /// Whether some Service has an endpoint at an address.
    pub(super) fn is_served(&self, ip: IpAddr) -> bool {
        self.0.contains_key(&ip)
    }
}

impl Seen {
    fn of(service: &Key, endpoint: &Endpoint) -> Self {
        let Endpoint { workload, terminating, .. } = endpoint;
        Self { service: service.clone(), pod: workload.clone(), terminating: *terminating }
    }
}

/// Writes a pod's name only where it is another one: a map that nobody changed is shared.
fn name(ip: IpAddr, pod: Option<&Arc<str>>, workloads: &mut Sharded<IpAddr, Arc<str>>) {
    match pod {
        Some(pod) if workloads.get(&ip) != Some(pod) => {
            workloads.insert(ip, Arc::clone(pod));
        }
        Some(_) => {}
        None => {
            workloads.remove(&ip);
        }
    }
}

impl Place {
    fn seen(&self) -> &[Seen] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(all) => all,
        }
    }

    /// Of two pods that share the address (host network; an address used again) the one that is not
    /// terminating has it; between two of those nobody does.
    fn pod(&self) -> Option<&Arc<str>> {
        let pods = || self.seen().iter().filter_map(|one| Some((one.pod.as_ref()?, one.terminating)));
        let terminating = pods().all(|(_, terminating)| terminating);
        let mut of_rank = pods().filter(|(_, its)| *its == terminating).map(|(pod, _)| pod);
        let first = of_rank.next()?;
        of_rank.all(|other| other == first).then_some(first)
    }
}

//! What is at an address: which Services have endpoints there, and which pod it is.

use super::slice::Slice;
use crate::{sharded::Sharded, source::store::Key};
use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// An address in slices.
#[derive(Default, Debug)]
struct Place {
    /// Services, once for each slice's endpoint here.
    services: Vec<Key>,
    /// Pods by `namespace/name` and whether the endpoint is terminating, likewise.
    pods: Vec<(Arc<str>, bool)>,
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
            let place = self.0.entry(ip).or_default();
            // Most have one: room for one is what a hundred thousand endpoints need.
            place.services.reserve_exact(1);
            place.services.push(service.clone());
            if let Some(pod) = &endpoint.workload {
                place.pods.reserve_exact(1);
                place.pods.push((Arc::clone(pod), endpoint.terminating));
                name(ip, place.pod(), workloads);
            }
        }
    }

    /// Takes away what a slice said.
    pub(super) fn remove(&mut self, slice: &Slice<'_>, workloads: &mut Sharded<IpAddr, Arc<str>>) {
        let service = slice.service_key();
        for endpoint in &slice.endpoints {
            let ip = endpoint.addr.ip();
            let Some(place) = self.0.get_mut(&ip) else { continue };
            take(&mut place.services, |one| *one == service);
            if let Some(pod) = &endpoint.workload {
                take(&mut place.pods, |(one, terminating)| {
                    one == pod && *terminating == endpoint.terminating
                });
                name(ip, place.pod(), workloads);
            }
            if place.services.is_empty() {
                self.0.remove(&ip);
            }
        }
    }

    /// The Services that have endpoints at an address; one may be there several times.
    pub(super) fn services(&self, ip: IpAddr) -> &[Key] {
        self.0.get(&ip).map_or(&[], |place| &place.services)
    }
}

fn take<T>(from: &mut Vec<T>, is_it: impl Fn(&T) -> bool) {
    if let Some(at) = from.iter().position(is_it) {
        from.swap_remove(at);
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
    /// Of two pods that share the address (host network; an address used again) the one that is not
    /// terminating has it; between two of those nobody does.
    fn pod(&self) -> Option<&Arc<str>> {
        let terminating = self.pods.iter().all(|(_, terminating)| *terminating);
        let mut of_rank = self.pods.iter().filter(|(_, its)| *its == terminating).map(|(pod, _)| pod);
        let first = of_rank.next()?;
        of_rank.all(|other| other == first).then_some(first)
    }
}

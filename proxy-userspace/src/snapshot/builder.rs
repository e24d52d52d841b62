//! Objects to a [`Snapshot`], change by change: what is made of the objects is a pure function of them,
//! whatever their order, and what a change costs is what depends on it.
//!
//! A Service depends on itself, on its slices, and, where several Services claim an address, on who has
//! it. An endpoint's own address leads to the first cluster that has it.

use super::{
    BuildOptions, Cluster, Lane, Snapshot,
    claims::{Claim, Claimant, Claimed, Claims, Strength},
    cluster,
    datagrams::Datagrams,
    lint,
    places::Places,
    pods,
    policies::{News, Policies, Reached},
    routes,
    service::{self, Service},
    slice::{self, Slice},
    told::{About, Told},
};
use crate::source::{
    Changes, Object, Objects, Sourced,
    finding::{Finding, Severity},
    lean::EndpointSlice,
    store::{Key, Store},
};
use k8s_openapi::api::core::v1;
use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Turns objects into a snapshot. A faulty object, or the faulty part of one, is left out and
/// named in the findings, which come sorted. Where two objects claim the same, the older one wins
/// (creationTimestamp, then namespace and name).
#[must_use]
pub fn build(objects: &Objects, options: &BuildOptions, generation: u64) -> (Snapshot, Vec<Finding>) {
    let mut builder = Builder::new(options.clone());
    builder.apply(objects);
    let snapshot = Snapshot { generation, ..builder.snapshot().clone() };
    (snapshot, builder.findings().cloned().collect())
}

/// See the module.
#[derive(Debug)]
pub struct Builder {
    options: BuildOptions,
    objects: Objects,
    services: HashMap<Key, Served>,
    slices: HashMap<Key, BTreeSet<Key>>,
    claims: Claims,
    places: Places,
    datagrams: Datagrams,
    holders: pods::Holders,
    policies: Policies,
    told: Told,
    snapshot: Snapshot,
}

/// What a Service has, or wants to have, in the tables that all Services share.
#[derive(Default, Debug)]
struct Served {
    claimed: Vec<Claimed>,
    clusters: Vec<Arc<Cluster>>,
}

impl Builder {
    /// Without an object.
    #[must_use]
    pub fn new(options: BuildOptions) -> Self {
        Self {
            options,
            objects: Objects::default(),
            services: HashMap::new(),
            slices: HashMap::new(),
            claims: Claims::default(),
            places: Places::default(),
            datagrams: Datagrams::default(),
            holders: pods::Holders::default(),
            policies: Policies::default(),
            told: Told::default(),
            snapshot: Snapshot::default(),
        }
    }

    /// What the objects make; its generation is 0.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What is wrong with them, sorted.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.told.iter()
    }

    /// The Secrets that the objects refer to, whether they are among them or not.
    #[must_use]
    pub(crate) fn wanted_secrets(&self) -> BTreeSet<Key> {
        self.options.keyring.wanted()
    }

    /// The same of ConfigMaps.
    #[must_use]
    pub(crate) fn wanted_config_maps(&self) -> BTreeSet<Key> {
        self.options.keyring.wanted_authorities()
    }

    /// How many findings there are, and how many of them are errors.
    #[must_use]
    pub fn finding_counts(&self) -> (usize, usize) {
        self.told.counts()
    }

    /// Takes these objects for those that were there; how many differ.
    pub fn apply(&mut self, objects: &Objects) -> usize {
        let changes = objects.changes(&self.objects);
        let old = std::mem::replace(&mut self.objects, objects.clone());
        let (mut dirty, mut moved) = (BTreeSet::new(), BTreeSet::new());
        for key in &changes.slices {
            self.change_slice(key, &old.slices, &mut dirty, &mut moved);
        }
        dirty.extend(changes.services.iter().cloned());
        for key in &changes.services {
            // What is wrong with it is told where it is served.
            let service = objects.services.get(key).and_then(|one| one.opened(&mut Vec::new()));
            self.datagrams.change(key, service.as_ref(), &mut self.snapshot.datagram_services);
        }
        let mut affected = dirty.clone();
        for key in &dirty {
            self.claim(key, &mut affected);
        }
        self.tell_duplicates(&changes);
        for key in &changes.pods {
            let pod = objects.pods.get(key).map(|pod| &**pod);
            affected.extend(self.services_of_pod(key));
            self.holders.change(key, pod, &mut self.snapshot.pods);
            affected.extend(self.services_of_pod(key));
        }
        let reached = self.apply_policies(&changes, &dirty);
        match reached {
            Reached::All => affected.extend(self.services.keys().cloned()),
            Reached::Addresses(addresses) => {
                affected.extend(addresses.iter().flat_map(|ip| self.places.services(*ip)).cloned());
            }
        }
        let mut touched = BTreeSet::new();
        for key in &affected {
            self.serve(key, &mut touched);
        }
        touched.into_iter().for_each(|endpoint| self.lead(endpoint));
        self.route(objects, &changes);
        if !changes.is_empty() {
            let findings = self.policies.lint(&self.snapshot.access, &self.objects, &self.places, &moved);
            findings.into_iter().for_each(|(about, findings)| self.told.set(about, findings));
        }
        changes.len()
    }

    /// The Services that have endpoints at a pod's addresses: one may be the pod that its slice names, or
    /// not be it any more, whoever else has the address.
    fn services_of_pod(&self, key: &Key) -> Vec<Key> {
        let Some(pod) = self.snapshot.pods.by_key(key.as_str()) else { return Vec::new() };
        if pod.addresses.is_empty() {
            // It counts as wherever a slice of its namespace says that it is.
            let near = self.services.keys().filter(|service| service.namespace() == key.namespace());
            return near.cloned().collect();
        }
        pod.addresses.iter().flat_map(|ip| self.places.services(*ip)).cloned().collect()
    }

    /// Makes the tables of routes again, where anything that they are made of has changed. Of Services they
    /// know names and ports: without a route nothing depends on those.
    fn route(&mut self, objects: &Objects, changes: &Changes) {
        let own = [
            &changes.ingresses,
            &changes.ingress_classes,
            &changes.gateway_classes,
            &changes.gateways,
            &changes.http_routes,
            &changes.reference_grants,
            &changes.backend_tls_policies,
            &changes.config_maps,
            &changes.secrets,
        ];
        let any = !objects.ingresses.is_empty() || !objects.http_routes.is_empty();
        let others = any && !(changes.services.is_empty() && changes.namespaces.is_empty());
        if !others && own.iter().all(|changes| changes.is_empty()) {
            return;
        }
        let mut findings = Vec::new();
        let (routes, statuses) = routes::build(objects, &self.options, &mut findings);
        self.told.set(About::Whole("routes"), findings);
        self.snapshot.by_gateway = Arc::new(routes.served_at(&self.options.node_addresses));
        self.snapshot.routes = Arc::new(routes);
        self.snapshot.statuses = Arc::new(statuses);
    }

    /// Tells the policies what has changed; returns whose endpoints have others now. `services` are those
    /// that changed, or whose slices did.
    fn apply_policies(&mut self, changes: &Changes, services: &BTreeSet<Key>) -> Reached {
        let (mut policies, mut snapshot) = (std::mem::take(&mut self.policies), self.snapshot.clone());
        let addresses = |key: &Key| {
            let slices = self.slices_of(key);
            slices.iter().flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.addr.ip()).collect()
        };
        let news = News { objects: &self.objects, changes, services, addresses: &addresses };
        let (reached, findings) = policies.apply(&news, &self.options, &mut snapshot);
        (self.policies, self.snapshot) = (policies, snapshot);
        findings.into_iter().for_each(|(about, findings)| self.told.set(about, findings));
        reached
    }

    /// A slice is new, different or gone. `moved` are addresses that only one of the two has.
    fn change_slice(
        &mut self,
        key: &Key,
        old: &Store<EndpointSlice>,
        dirty: &mut BTreeSet<Key>,
        moved: &mut BTreeSet<IpAddr>,
    ) {
        let ips = |slice: &Slice<'_>| slice.endpoints.iter().map(|one| one.addr.ip()).collect();
        let (mut before, mut after) = (BTreeSet::new(), BTreeSet::new());
        if let Some(old) = old.get(key) {
            if let Some(service) = slice::service_of(old) {
                let left = self.slices.get_mut(&service).map(|slices| {
                    slices.remove(key);
                    slices.len()
                });
                if left == Some(0) {
                    self.slices.remove(&service);
                }
                dirty.insert(service);
            }
            if let Some(slice) = slice::read(old, &self.options, &mut Vec::new()) {
                before = ips(&slice);
                self.places.remove(&slice, &mut self.snapshot.workload_by_ip);
            }
        }
        let mut findings = Vec::new();
        if let Some(new) = self.objects.slices.get(key) {
            if let Some(service) = slice::service_of(new) {
                self.slices.entry(service.clone()).or_default().insert(key.clone());
                dirty.insert(service);
            }
            if let Some(slice) = slice::read(new, &self.options, &mut findings) {
                after = ips(&slice);
                self.places.add(&slice, &mut self.snapshot.workload_by_ip);
            }
        }
        moved.extend(before.symmetric_difference(&after));
        self.told.set(About::Slice(key.clone()), findings);
    }

    /// Withdraws what a Service claimed, and claims what it wants now. Others that want the same are
    /// affected.
    fn claim(&mut self, key: &Key, affected: &mut BTreeSet<Key>) {
        let old = self.services.get_mut(key).map(|served| std::mem::take(&mut served.claimed));
        for what in old.into_iter().flatten() {
            self.claims.withdraw(what, key, affected);
        }
        let Some(source) = self.objects.services.get(key) else { return };
        // What is wrong with it is told where it is served.
        let Some(source) = &source.opened(&mut Vec::new()) else { return };
        let Some(service) = service::read(source, &self.options, &mut Vec::new()) else { return };
        let claimant = Arc::new(Claimant::new(source));
        let mut claimed = Vec::new();
        for (place, port) in service.ports.iter().enumerate() {
            let name = cluster::name(&service, port);
            let own = cluster::own_addresses(&service, port).into_iter().map(Claimed::Address);
            let node_port = port.node_port.into_iter().flat_map(|port| {
                let on_nodes = self.options.node_addresses.iter().map(move |ip| SocketAddr::new(*ip, port));
                std::iter::once(Claimed::NodePort(port)).chain(on_nodes.map(Claimed::Address))
            });
            let external = cluster::external_addresses(&service, port).into_iter().map(Claimed::Address);
            let wanted = own
                .chain(node_port)
                .map(|what| (what, Strength::Own))
                .chain(external.map(|what| (what, Strength::External)));
            for (what, strength) in wanted {
                self.claims.add(what, Claim::new(strength, &claimant, place, &name), affected);
                claimed.push(what);
            }
        }
        self.services.entry(key.clone()).or_default().claimed = claimed;
    }

    /// Makes a Service's clusters anew; `touched` are the endpoints of the old ones and the new ones.
    fn serve(&mut self, key: &Key, touched: &mut BTreeSet<SocketAddr>) {
        let mut findings = Vec::new();
        let clusters = self.clusters(key, &mut findings);
        self.told.set(About::Service(key.clone()), findings);
        self.told.set(About::Orphans(key.clone()), self.orphans(key));
        let served = self.services.entry(key.clone()).or_default();
        let old = std::mem::replace(&mut served.clusters, clusters.clone());
        for cluster in &old {
            self.snapshot.clusters.remove(&cluster.name);
            for frontend in cluster.frontends.iter().chain(&cluster.external) {
                let held = self.snapshot.by_frontend.get(frontend);
                if held.is_some_and(|held| held.name == cluster.name) {
                    self.snapshot.by_frontend.remove(frontend);
                }
            }
        }
        for cluster in &clusters {
            self.snapshot.clusters.insert(Arc::clone(cluster));
            for frontend in cluster.frontends.iter().chain(&cluster.external) {
                self.snapshot.by_frontend.insert(*frontend, Arc::clone(cluster));
            }
        }
        touched.extend(old.iter().chain(&clusters).flat_map(|one| &one.endpoints).map(|one| one.addr));
        if self.objects.services.get(key).is_none() {
            self.services.remove(key);
        }
    }

    /// The clusters of a Service. One that is the same as before is the old one.
    fn clusters(&self, key: &Key, findings: &mut Vec<Finding>) -> Vec<Arc<Cluster>> {
        let Some(source) = self.objects.services.get(key) else { return Vec::new() };
        let Some(source) = &source.opened(findings) else { return Vec::new() };
        let Some(service) = service::read(source, &self.options, findings) else { return Vec::new() };
        let slices = self.slices_of(key);
        let mut clusters = Vec::with_capacity(service.ports.len());
        for port in &service.ports {
            let name = cluster::name(&service, port);
            let has = |what| has(&self.claims, what, &name, &service, port.line, findings);
            let mut cluster = cluster::make(&service, port, &slices, &self.options.node_addresses, has);
            self.policies.restrict(&mut cluster, &self.snapshot.access, &self.options.policies);
            clusters.push(cluster);
        }
        lint::service(&service, &slices, &clusters, findings);
        let old = self.services.get(key).map_or(&[][..], |served| &served.clusters);
        let keep =
            |new: Cluster| old.iter().find(|old| ***old == new).map_or_else(|| Arc::new(new), Arc::clone);
        clusters.into_iter().map(keep).collect()
    }

    fn slices_of(&self, key: &Key) -> Vec<Slice<'_>> {
        let slices = self.slices.get(key).into_iter().flatten();
        let sources = slices.filter_map(|slice| self.objects.slices.get(slice));
        // What is wrong with them is told where they are.
        sources.filter_map(|source| slice::read(source, &self.options, &mut Vec::new())).collect()
    }

    fn orphans(&self, key: &Key) -> Vec<Finding> {
        if self.objects.services.get(key).is_some() {
            return Vec::new();
        }
        self.slices_of(key).iter().map(lint::orphan).collect()
    }

    /// Leads an endpoint's own address to the first cluster, by name, that is steered there.
    fn lead(&mut self, endpoint: SocketAddr) {
        let http = self.options.http_ports.contains(&endpoint.port());
        let services = self.places.services(endpoint.ip());
        let clusters = services.filter_map(|key| self.services.get(key)).flat_map(|served| &served.clusters);
        let first = clusters
            .filter(|cluster| (http || cluster.lane == Lane::Steer) && cluster.has(&endpoint))
            .min_by(|a, b| a.name.cmp(&b.name))
            .cloned();
        let led = self.snapshot.by_endpoint.get(&endpoint);
        match first {
            Some(first) if led.is_some_and(|led| Arc::ptr_eq(led, &first)) => {}
            Some(first) => {
                self.snapshot.by_endpoint.insert(endpoint, first);
            }
            None => {
                self.snapshot.by_endpoint.remove(&endpoint);
            }
        }
    }

    fn tell_duplicates(&mut self, changes: &Changes) {
        for key in &changes.services {
            let about = About::Twice(v1::Service::KIND_NAME, key.clone());
            self.told.set(about, duplicates(&self.objects.services, key));
        }
        for key in &changes.slices {
            let about = About::Twice(EndpointSlice::KIND_NAME, key.clone());
            self.told.set(about, duplicates(&self.objects.slices, key));
        }
    }
}

#[cfg(test)]
impl Builder {
    /// Nothing is left of what is gone.
    pub(super) fn assert_lean(&self) {
        assert!(self.services.keys().all(|key| self.objects.services.get(key).is_some()));
        assert!(self.slices.values().all(|slices| !slices.is_empty()));
        let claimed: BTreeSet<_> =
            self.services.values().flat_map(|served| &served.claimed).map(ToString::to_string).collect();
        assert_eq!(self.claims.claimed().map(ToString::to_string).collect::<BTreeSet<_>>(), claimed);
    }
}

/// Whether a cluster has what it wants; what another has is an error.
fn has(
    claims: &Claims,
    what: Claimed,
    cluster: &Arc<str>,
    service: &Service<'_>,
    line: u32,
    findings: &mut Vec<Finding>,
) -> bool {
    let Some(holder) = claims.holder(what).filter(|holder| *holder != cluster) else { return true };
    let text = format!("{what} belongs to the older Service {holder}");
    let fix = "give it another; this one is left out";
    findings.push(service.source.finding(Severity::Error, line, text, fix));
    false
}

/// Oldest first. Younger ones of the same namespace and name are errors.
pub(super) fn distinct<'a, T>(objects: &'a Store<T>, findings: &mut Vec<Finding>) -> Vec<&'a Sourced<T>>
where
    T: Object,
{
    let mut sorted: Vec<_> = objects.iter().collect();
    sorted.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
    findings.extend(objects.all_others().map(|object| twice(objects, object)));
    sorted
}

/// Younger objects of this name are errors.
pub(super) fn duplicates<T>(objects: &Store<T>, key: &Key) -> Vec<Finding>
where
    T: Object,
{
    objects.others(key).iter().map(|object| twice(objects, object)).collect()
}

/// That an object of this name is there already.
fn twice<T: Object>(objects: &Store<T>, object: &Sourced<T>) -> Finding {
    let place = objects.get(&object.key()).map(|used| format!("{}:{}", used.file, used.lines.object));
    let text = format!("is there twice; the one at {} is used", place.unwrap_or_default());
    object.finding(Severity::Error, object.lines.object, text, "remove one")
}

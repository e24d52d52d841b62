//! Ingresses, Gateways and HTTPRoutes to tables of rules, and what is to be said about them. Pure, and the
//! same whatever the objects' order.

mod authorities;
mod backend;
mod certificates;
mod check;
mod clients;
mod filters;
mod gateways;
mod http;
mod ingress;
mod trust;

use super::{
    BuildOptions,
    admission::{self, ADMISSION},
    builder::distinct,
    conditions::ObjectStatus,
};
use crate::{
    route::{
        choices::Choices,
        host::{HostPattern, Hosts},
        rule::{Conditions, PathPattern, Rule},
        table::{Candidate, Door, Listener, Paths, Place, Proofs, Routes, Scheme, Site, Where},
    },
    source::{
        Objects, Sourced,
        finding::{Finding, Severity},
    },
    tls::{Credentials, Terms},
};
use backend::World;
use k8s_openapi::{
    Metadata, Resource,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use trust::Trusts;

/// The door of all Ingresses.
const INGRESS: &str = "Ingress";

/// What is wrong with one field, by its way from `spec`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Fault {
    path: String,
    text: String,
}

impl Fault {
    /// A finding at the field's line, or at that of what it is in.
    fn about<T: Resource + Metadata<Ty = ObjectMeta>>(&self, source: &Sourced<T>, fix: &str) -> Finding {
        let mut path = self.path.as_str();
        let known = |path: &str| source.lines.fields.iter().any(|(name, _)| **name == *path);
        while !path.is_empty() && !known(path) {
            path = path.rfind(['.', '[']).and_then(|end| path.get(..end)).unwrap_or_default();
        }
        source.finding(Severity::Error, source.lines.field(path), self.to_string(), fix)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() { f.write_str(&self.text) } else { write!(f, "{}: {}", self.path, self.text) }
    }
}

/// What an HTTPRoute or an Ingress says that its requests may be like.
fn choices<T: Resource + Metadata<Ty = ObjectMeta>>(
    source: &Sourced<T>,
    findings: &mut Vec<Finding>,
) -> Choices {
    let (choices, mistakes) = admission::of_route(source.object.metadata().annotations.as_ref());
    findings.extend(mistakes.into_iter().map(|mistake| {
        let line = source.lines.field(&mistake.key);
        source.finding(Severity::Error, line, mistake.text, mistake.fix)
    }));
    choices
}

/// Says where the choice to keep bytes that are no text does not hold.
fn lint_choices<T: Resource + Metadata<Ty = ObjectMeta>>(
    source: &Sourced<T>,
    attachments: &[Attachment],
    findings: &mut Vec<Finding>,
) {
    let in_vain = |one: &&Attachment| one.rule.choices.keeps_non_utf8 && !one.path.is_for_all();
    let mut in_vain = attachments.iter().filter(in_vain);
    let Some(first) = in_vain.next() else { return };
    let others = match in_vain.count() {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    let text = format!("{ADMISSION}: non-utf8=keep does not hold for {}{others}", first.path);
    let line = source.lines.field(ADMISSION);
    findings.push(source.finding(Severity::Warning, line, text, "it holds for the prefix / alone"));
}

/// A match of a rule, for a host.
struct Attachment {
    host: HostPattern,
    path: PathPattern,
    conditions: Conditions,
    rule: Arc<Rule>,
    order: (u32, u32, u32),
}

impl Attachment {
    fn add_to(&self, listener: &mut Listener, host: &HostPattern) {
        listener.hosts.entry(host).add(Candidate {
            host: host.clone(),
            path: self.path.clone(),
            conditions: self.conditions.clone(),
            rule: Arc::clone(&self.rule),
            order: self.order,
        });
    }
}

/// Builds the tables.
pub(super) fn build(
    objects: &Objects,
    options: &BuildOptions,
    findings: &mut Vec<Finding>,
) -> (Routes, Vec<ObjectStatus>) {
    options.keyring.begin();
    let world = World::of(objects, Trusts::read(objects, options, findings));
    let mut statuses = Vec::new();
    let mut places = Places::default();
    let ages = ages(objects);
    let classes = ingress::Classes::of(objects);
    for source in distinct(&objects.ingresses, findings) {
        let age = age_of(&ages, source);
        let Some((attachments, status)) = ingress::read(source, (&classes, &world, age), findings) else {
            continue;
        };
        certificates::ingress(source, (&world, options), &attachments, &mut places, findings);
        let place = Place { at: Where::Nodes, port: options.ingress_http_port };
        let listener = places.listener((place, Scheme::Http), INGRESS, (&HostPattern::Any, "http"));
        for attachment in &attachments {
            attachment.add_to(listener, &attachment.host);
        }
        statuses.push(status);
    }
    for grant in distinct(&objects.reference_grants, findings) {
        let faults = check::reference_grant(&grant.object.spec);
        findings.extend(faults.iter().map(|fault| fault.about(grant, "the API server would refuse it")));
    }
    let mut gateways = gateways::Gateways::read(objects, (&world, options), &mut places, findings);
    for source in distinct(&objects.http_routes, findings) {
        let age = age_of(&ages, source);
        let status = http::attach(source, (&world, age), &mut gateways, &mut places, findings);
        statuses.extend(status);
    }
    let proofs = world.proofs();
    let mut shown = Vec::new();
    for (door, held) in gateways.shown() {
        let Some(credentials) = &held.credentials else { continue };
        places.show((&door, credentials), (&proofs, options));
        shown.push((door.into(), held.clone()));
    }
    shown.sort_by(|(a, _): &(Arc<str>, _), (b, _)| a.cmp(b));
    options.keyring.settle();
    statuses.extend(world.trusts.statuses(&gateways, findings));
    statuses.extend(gateways.statuses());
    statuses.sort_by(|a, b| (a.kind, &a.namespace, &a.name).cmp(&(b.kind, &b.namespace, &b.name)));
    (Routes { proofs, shown, ..places.settled() }, statuses)
}

type Key<'a> = (&'static str, &'a str, &'a str);

/// Which of all routes is how old: known age first, then namespace and name.
fn ages(objects: &Objects) -> HashMap<Key<'_>, u32> {
    type Seniority<'a> = (bool, Option<&'a Time>, &'a str, &'a str, &'static str);
    fn seniority<T: Resource + Metadata<Ty = ObjectMeta>>(one: &Sourced<T>) -> Seniority<'_> {
        let created = one.object.metadata().creation_timestamp.as_ref();
        (created.is_none(), created, &one.namespace, &one.name, T::KIND)
    }
    let ingresses = objects.ingresses.iter().map(seniority);
    let mut all: Vec<Seniority<'_>> = ingresses.chain(objects.http_routes.iter().map(seniority)).collect();
    all.sort();
    let ordered = all.into_iter().zip(0_u32..);
    ordered.map(|((_, _, namespace, name, kind), age)| ((kind, namespace, name), age)).collect()
}

fn age_of<T: Resource + Metadata<Ty = ObjectMeta>>(ages: &HashMap<Key<'_>, u32>, source: &Sourced<T>) -> u32 {
    ages.get(&(T::KIND, source.namespace.as_str(), source.name.as_str())).copied().unwrap_or(u32::MAX)
}

/// Where requests come in, while it is being filled.
#[derive(Default)]
struct Places(HashMap<Place, Site>);

impl Places {
    /// The listener of a Gateway at one place, made where there is none.
    fn listener(
        &mut self,
        (place, scheme): (Place, Scheme),
        door: &str,
        (host, name): (&HostPattern, &str),
    ) -> &mut Listener {
        let site = self.0.entry(place).or_insert_with(|| Site {
            scheme,
            port: place.port,
            doors: Vec::new(),
            offers: Hosts::default(),
            choices: Choices::default(),
        });
        let index = site.doors.iter().position(|one| *one.name == *door).unwrap_or_else(|| {
            site.doors.push(Door {
                name: door.into(),
                listeners: Default::default(),
                proofs: BTreeMap::new(),
            });
            site.doors.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed just now")]
        let listener = site.doors[index].listeners.entry(host);
        listener.name = name.into();
        listener
    }

    /// What clients get at a place that ask for these hosts; of several, the first counts.
    fn offer(&mut self, place: Place, host: &HostPattern, terms: Option<&Arc<Terms>>) {
        let Some(site) = self.0.get_mut(&place) else { return };
        let offer = site.offers.entry(host);
        if offer.0.is_none() {
            offer.0 = terms.cloned();
        }
    }

    /// The same: hosts, and what clients get that ask for them.
    fn offers(&self, place: Place) -> impl Iterator<Item = (HostPattern, &Arc<Terms>)> {
        let offers = self.0.get(&place).into_iter().flat_map(|site| site.offers.iter());
        offers.filter_map(|(host, offer)| Some((host, offer.0.as_ref()?)))
    }

    /// Has a door's requests reach endpoints that speak TLS with this certificate.
    fn show(
        &mut self,
        (door, credentials): (&str, &Arc<Credentials>),
        (proofs, options): (&Proofs, &BuildOptions),
    ) {
        let doors = self.0.values_mut().flat_map(|site| &mut site.doors);
        for door in doors.filter(|one| *one.name == *door) {
            let own = door.clusters().filter_map(|cluster| {
                let proof = proofs.get(cluster)?;
                Some((Arc::clone(cluster), options.keyring.showing(proof, credentials)))
            });
            door.proofs = own.collect();
        }
    }

    /// What a place speaks, where it is in use.
    fn scheme(&self, place: Place) -> Option<Scheme> {
        self.0.get(&place).map(|site| site.scheme)
    }

    fn settled(mut self) -> Routes {
        for site in self.0.values_mut() {
            site.doors.sort_by(|a, b| a.name.cmp(&b.name));
            let listeners = site.doors.iter_mut().flat_map(|door| door.listeners.values_mut());
            listeners.flat_map(|listener| listener.hosts.values_mut()).for_each(Paths::settle);
            let choices = site.candidates().map(Candidate::choices);
            site.choices = choices.fold(Choices::default(), Choices::or);
        }
        let sites = self.0.into_iter().map(|(place, site)| (place, Arc::new(site))).collect();
        Routes { sites, ..Routes::default() }
    }
}

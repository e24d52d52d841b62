//! Addresses of Services by any protocol, for questions: the agent's own tables have TCP alone.

use crate::{
    policy::access::Transport,
    snapshot::Family,
    source::{Objects, Sourced, lean::EndpointSlice, packed::Packed, store::Key},
};
use anyhow::Context;
use k8s_openapi::api::core::v1::Service;
use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

/// A port of a Service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct ServicePort {
    service: Key,
    /// As its slices call it; empty for none.
    name: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    by_address: HashMap<(SocketAddr, Transport), ServicePort>,
    addresses: HashMap<Key, Vec<IpAddr>>,
    numbers: HashMap<Key, Vec<(u16, Transport)>>,
    endpoints: HashMap<(Key, String, Transport), BTreeSet<SocketAddr>>,
}

impl Ports {
    /// Of all Services and slices.
    pub(crate) fn new(objects: &Objects) -> Self {
        let mut this = Self::default();
        objects.services.iter().for_each(|source| this.add_service(source));
        objects.slices.iter().for_each(|source| this.add_slice(source));
        this
    }

    fn add_service(&mut self, source: &Sourced<Packed<Service>>) {
        // What is wrong with it is among the findings of the reading.
        let Some(source) = &source.opened(&mut Vec::new()) else { return };
        let Some(spec) = &source.object.spec else { return };
        let balancer = source.object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let texts = spec
            .cluster_ips
            .iter()
            .flatten()
            .chain(&spec.cluster_ip)
            .chain(spec.external_ips.iter().flatten())
            .chain(
                balancer
                    .into_iter()
                    .flat_map(|one| one.ingress.iter().flatten())
                    .filter_map(|one| one.ip.as_ref()),
            );
        let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
        addresses.dedup();
        for port in spec.ports.iter().flatten() {
            let Some(transport) = transport(port.protocol.as_deref()) else { continue };
            let Ok(number) = u16::try_from(port.port) else { continue };
            let of = ServicePort { service: source.key(), name: port.name.clone().unwrap_or_default() };
            for address in &addresses {
                self.by_address
                    .insert((SocketAddr::new(address.to_canonical(), number), transport), of.clone());
            }
            self.numbers.entry(source.key()).or_default().push((number, transport));
        }
        self.addresses.insert(source.key(), addresses);
    }

    fn add_slice(&mut self, source: &Sourced<EndpointSlice>) {
        let Some(service) = &source.object.service else { return };
        let service = Key::new(&source.namespace, service);
        for port in &source.object.ports {
            let number = port.number.and_then(|number| u16::try_from(number).ok());
            let (Some(number), Some(transport)) = (number, transport(port.protocol.as_deref())) else {
                continue;
            };
            let key = (service.clone(), port.name.to_string(), transport);
            let ready = source.object.endpoints.iter().filter(|one| one.ready.unwrap_or(true));
            let addresses = ready.flat_map(|one| one.addresses.iter());
            let all = addresses.map(|ip| SocketAddr::new(ip.to_canonical(), number));
            self.endpoints.entry(key).or_default().extend(all);
        }
    }

    /// The endpoints of a Service's address; `None` where it is none.
    pub(super) fn endpoints(&self, address: SocketAddr, transport: Transport) -> Option<Vec<SocketAddr>> {
        let ServicePort { service, name } = self.by_address.get(&(address, transport))?;
        let all = self.endpoints.get(&(service.clone(), name.clone(), transport)).into_iter().flatten();
        Some(all.filter(|addr| addr.is_ipv4() == address.is_ipv4()).copied().collect())
    }

    /// An address of a Service, `namespace/name`, where it has this port.
    pub(super) fn address(
        &self,
        name: &str,
        port: u16,
        transport: Transport,
        family: Option<Family>,
    ) -> anyhow::Result<SocketAddr> {
        let (namespace, service) = name.split_once('/').unwrap_or(("default", name));
        let key = Key::new(namespace, service);
        let addresses = self.addresses.get(&key).with_context(|| format!("there is no Service {name}"))?;
        let has = self.numbers.get(&key).is_some_and(|ports| ports.contains(&(port, transport)));
        anyhow::ensure!(has, "Service {name} has no port {port}");
        let mut fit = addresses.iter().filter(|ip| family.is_none_or(|family| Family::of(**ip) == family));
        let address = fit.next().with_context(|| format!("Service {name} has no address of that kind"))?;
        Ok(SocketAddr::new(address.to_canonical(), port))
    }
}

fn transport(protocol: Option<&str>) -> Option<Transport> {
    match protocol {
        None | Some("" | "TCP") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some("SCTP") => Some(Transport::Sctp),
        Some(_) => None,
    }
}

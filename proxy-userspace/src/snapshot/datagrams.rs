//! Service addresses of UDP and SCTP: not ours to serve, but for whoever decides about datagrams to know, for
//! the cluster's own proxy replaces them.
//!
//! Those of the cluster only. What goes to an external address, or to a node port, may get the node's own for
//! its source, and then nobody behind can tell whose it was: it is decided about by the address that it has.

use crate::{
    policy::access::Transport,
    sharded::Sharded,
    source::{Sourced, store::Key},
};
use k8s_openapi::api::core::v1;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

/// Such addresses, and how many Services have each: of faulty ones several may.
pub type DatagramServices = Sharded<(SocketAddr, Transport), u32>;

/// Which Service has which.
#[derive(Default, Debug)]
pub(super) struct Datagrams(HashMap<Key, Vec<(SocketAddr, Transport)>>);

impl Datagrams {
    /// A Service is new, different, or gone (`None`).
    pub(super) fn change(
        &mut self,
        key: &Key,
        new: Option<&Sourced<v1::Service>>,
        all: &mut DatagramServices,
    ) {
        let new = new.map(addresses).unwrap_or_default();
        if self.0.get(key).map_or(&[][..], Vec::as_slice) == new {
            return;
        }
        for one in &new {
            if let Some(count) = all.entry_or_default(*one) {
                *count += 1;
            }
        }
        let old = if new.is_empty() { self.0.remove(key) } else { self.0.insert(key.clone(), new) };
        for one in old.into_iter().flatten() {
            match all.get(&one) {
                Some(1) | None => drop(all.remove(&one)),
                Some(_) => {
                    if let Some(count) = all.entry_or_default(one) {
                        *count -= 1;
                    }
                }
            }
        }
    }
}

/// What cannot be read is left out: it is told of where the Service is read.
fn addresses(source: &Sourced<v1::Service>) -> Vec<(SocketAddr, Transport)> {
    let Some(spec) = &source.object.spec else { return Vec::new() };
    let texts = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut ips: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let transport = match port.protocol.as_deref() {
            Some("UDP") => Transport::Udp,
            Some("SCTP") => Transport::Sctp,
            _ => return None,
        };
        Some((u16::try_from(port.port).ok()?, transport))
    });
    ports
        .flat_map(|(port, transport)| {
            ips.iter().map(move |ip| (SocketAddr::new(ip.to_canonical(), port), transport))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{
        snapshot::{BuildOptions, Builder},
        source::objects,
    };

    fn service(name: &str, ip: &str, ports: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{clusterIP: {ip}, ports: [{ports}]}}\n"
        )
    }

    #[test]
    fn an_address_is_known_as_long_as_a_service_has_it() {
        let mut builder = Builder::new(BuildOptions::default());
        let dns = service("dns", "10.96.0.53", "{port: 53, protocol: UDP, name: a}, {port: 53, name: b}");
        let twin = service("twin", "10.96.0.53", "{port: 53, protocol: UDP}");
        let steps: [(String, &[Transport]); 5] = [
            (dns.clone(), &[Transport::Udp]),
            (dns + &twin, &[Transport::Udp]),
            (twin, &[Transport::Udp]),
            (service("twin", "10.96.0.53", "{port: 53, protocol: SCTP}"), &[Transport::Sctp]),
            (service("twin", "None", "{port: 53, protocol: UDP}"), &[]),
        ];
        let at = "10.96.0.53:53".parse().unwrap();
        for (text, wanted) in steps {
            builder.apply(&objects(&text));
            let known = &builder.snapshot().datagram_services;
            assert_eq!(known.len(), wanted.len(), "{text}");
            assert!(wanted.iter().all(|transport| known.contains_key(&(at, *transport))), "{text}");
        }
    }
}

//! The Services of a node: the one that is measured, among others that nobody asks.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use weir_tests::manifest;

/// First ClusterIP and first endpoint address of the Services that nobody asks.
const OTHERS: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 97, 0, 1), Ipv4Addr::new(10, 128, 0, 1));

/// One Service with one port.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// Its name in Kubernetes.
    pub(super) name: String,
    /// ClusterIP and port.
    pub(super) frontend: SocketAddrV4,
    /// Where it goes.
    pub(super) endpoints: Vec<SocketAddrV4>,
}

/// `count` Services with two endpoints each, `measured` in their middle: where rules are a list, it costs
/// what a Service costs on average.
pub(super) fn among(count: u32, measured: Service) -> Vec<Service> {
    let mut services: Vec<_> = (0..count.saturating_sub(1)).map(other).collect();
    services.insert(services.len() / 2, measured);
    services
}

fn other(index: u32) -> Service {
    let (frontends, endpoints) = OTHERS;
    let at =
        |first: Ipv4Addr, index: u32| SocketAddrV4::new(Ipv4Addr::from_bits(first.to_bits() + index), 8080);
    Service {
        name: format!("other-{index}"),
        frontend: at(frontends, index),
        endpoints: vec![at(endpoints, 2 * index), at(endpoints, 2 * index + 1)],
    }
}

impl Service {
    /// The same as a Kubernetes manifest.
    pub(super) fn manifest(&self) -> manifest::Service {
        manifest::Service::new(&self.name, self.frontend.port())
            .cluster_ip(*self.frontend.ip())
            .endpoints(self.endpoints.iter().copied().map(SocketAddr::V4))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_measured_service_stands_in_the_middle_of_services_that_are_all_different() {
        let frontend = "10.96.0.10:8080".parse().unwrap();
        let measured = Service { name: "web".to_owned(), frontend, endpoints: Vec::new() };
        assert_eq!(among(1, measured.clone()).len(), 1);
        let services = among(10_000, measured);
        assert_eq!(services.len(), 10_000);
        assert_eq!(services[4999].name, "web");
        let frontends: HashSet<_> = services.iter().map(|service| service.frontend).collect();
        let endpoints: HashSet<_> = services.iter().flat_map(|service| &service.endpoints).collect();
        assert_eq!((frontends.len(), endpoints.len()), (10_000, 2 * 9_999));
    }
}

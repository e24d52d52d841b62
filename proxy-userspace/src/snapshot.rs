//! The immutable result of one reading of the objects: what route, balance and the kernel maps use.

mod admission;
mod annotations;
mod builder;
mod claims;
mod cluster;
mod clusters;
pub mod conditions;
mod datagrams;
mod lint;
mod network_policy;
mod party;
mod places;
mod pods;
mod policies;
mod policy;
mod routes;
mod service;
mod slice;
mod told;

pub use builder::{Builder, build};
pub use clusters::Clusters;
pub use datagrams::DatagramServices;

use crate::{
    identity::PodIndex,
    policy::{EndpointPolicy, Register, access::Access},
    route::{
        choices::Choices,
        table::{Routes, Site},
    },
    sharded::Sharded,
    tls::Keyring,
};
use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Everything that decides where a connection goes. Consumers swap to a new one atomically.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Counts up with every change.
    pub generation: u64,
    /// Every Service port, by name.
    pub clusters: Clusters,
    /// Service addresses (those of the cluster and external ones, each with the port; node addresses with
    /// the node port) to their cluster.
    pub by_frontend: Sharded<SocketAddr, Arc<Cluster>>,
    /// Addresses of UDP and SCTP, which the cluster's own proxy serves.
    pub datagram_services: DatagramServices,
    /// Endpoints' own addresses to the first cluster (by name) that holds them; only those that are
    /// steered: the address has an HTTP port, or the cluster's lane is [`Lane::Steer`].
    pub by_endpoint: Sharded<SocketAddr, Arc<Cluster>>,
    /// Pod addresses to `namespace/pod` (targetRef), the workload label in metrics and logs.
    pub workload_by_ip: Sharded<IpAddr, Arc<str>>,
    /// The pods that live, by name, UID and address.
    pub pods: PodIndex,
    /// Who may connect to whom.
    pub access: Access,
    /// Names of the rules in force, by the ids that the kernel half knows.
    pub rule_names: Sharded<u32, Arc<str>>,
    /// What Ingresses and HTTPRoutes say.
    pub routes: Arc<Routes>,
    /// The same by the addresses of this node where it is served.
    pub by_gateway: Arc<HashMap<SocketAddr, Arc<Site>>>,
    /// What is to be said about Gateways and routes.
    pub statuses: Arc<Vec<conditions::ObjectStatus>>,
}

impl Snapshot {
    /// The cluster of this name, `namespace/service:port`.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }
}

/// What [`build`] needs to know beside the objects.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Ports that carry HTTP.
    pub http_ports: BTreeSet<u16>,
    /// Timeouts of Services that set none.
    pub timeouts: Timeouts,
    /// This node's addresses, where node ports are reached; may be empty.
    pub node_addresses: Vec<IpAddr>,
    /// This node's zone, for which endpoints may be meant.
    pub zone: Option<String>,
    /// Ids of policies, which stay the same from one reading to the next.
    pub policies: Arc<Register>,
    /// This node's name, where it is known: endpoints on it carry it.
    pub node_name: Option<String>,
    /// The port of the nodes' addresses where Ingresses are served.
    pub ingress_http_port: u16,
    /// The same with TLS.
    pub ingress_https_port: u16,
    /// Certificates in use, which stay when what they were read from breaks.
    pub keyring: Arc<Keyring>,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            http_ports: BTreeSet::new(),
            timeouts: Timeouts::default(),
            node_addresses: Vec::new(),
            policies: Arc::default(),
            node_name: None,
            zone: None,
            ingress_http_port: 80,
            ingress_https_port: 443,
            keyring: Arc::default(),
        }
    }
}

/// One port of one Service with its endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// `namespace/service:port`, the label value in metrics and logs.
    pub name: Arc<str>,
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// The Service port's name, if it has one.
    pub port_name: Option<String>,
    /// The Service port.
    pub port: u16,
    /// The node port, if there is one.
    pub node_port: Option<u16>,
    /// Where connects go.
    pub lane: Lane,
    /// What the port carries.
    pub protocol: Protocol,
    /// ClusterIPs with the Service port.
    pub frontends: Vec<SocketAddr>,
    /// External and load balancers' addresses with the Service port, and this node's with the node port.
    pub external: Vec<SocketAddr>,
    /// How its endpoints are chosen.
    pub traffic: Traffic,
    /// All endpoints, ready or not, by address.
    pub endpoints: Vec<Endpoint>,
    /// This Service's timeouts.
    pub timeouts: Timeouts,
    /// `weir.dev/acceleration`.
    pub acceleration: AccelerationChoice,
    /// `weir.dev/admission`: for requests to its own addresses.
    pub(crate) choices: Choices,
}

impl Cluster {
    /// Endpoints of one family that are ready.
    pub fn ready_endpoints(&self, family: Family) -> impl Iterator<Item = &Endpoint> {
        self.endpoints_of(family).filter(|endpoint| endpoint.ready)
    }

    /// Endpoints that new connections of one family may go to: the ready ones or, where none is,
    /// those that still serve while they terminate (as kube-proxy does).
    pub fn usable_endpoints(&self, family: Family) -> impl Iterator<Item = &Endpoint> {
        self.usable_within(family, Scope::Cluster)
    }

    /// The same of one part of the cluster.
    pub fn usable_within(&self, family: Family, scope: Scope) -> impl Iterator<Item = &Endpoint> {
        let within = move |endpoint: &&Endpoint| scope.holds(endpoint);
        let any_ready = self.ready_endpoints(family).find(within).is_some();
        self.endpoints_of(family).filter(within).filter(move |endpoint| {
            if any_ready { endpoint.ready } else { endpoint.serving && endpoint.terminating }
        })
    }

    /// Which endpoints connections from pods of this node go to, by the address that they asked for. An
    /// external address is short for the Service there, wherever its endpoints are: `externalTrafficPolicy`
    /// is for what comes from outside.
    #[must_use]
    pub fn scope_within(&self, frontend: &SocketAddr) -> Scope {
        if self.traffic.internal_local && self.frontends.contains(frontend) {
            Scope::Node
        } else {
            Scope::Cluster
        }
    }

    /// Which endpoints connections from outside the cluster go to.
    #[must_use]
    pub fn scope_from_outside(&self, frontend: &SocketAddr) -> Scope {
        if self.traffic.external_local && self.external.contains(frontend) {
            return Scope::Node;
        }
        self.scope_within(frontend)
    }

    /// Whether an endpoint has this address.
    #[must_use]
    pub fn has(&self, endpoint: &SocketAddr) -> bool {
        self.endpoints.binary_search_by(|one| one.addr.cmp(endpoint)).is_ok()
    }

    fn endpoints_of(&self, family: Family) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(move |endpoint| Family::of(endpoint.addr.ip()) == family)
    }
}

/// How a Service wants its endpoints to be chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// `sessionAffinity: ClientIP`: a client keeps its endpoint until it was silent for so long.
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`: connections to the cluster's own addresses stay on the node.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`: those that come from outside do.
    pub external_local: bool,
}

/// The part of a cluster that a connection may go to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Scope {
    /// All endpoints, of those that are meant for zones those for this node's.
    #[default]
    Cluster,
    /// Endpoints on this node.
    Node,
}

impl Scope {
    /// Whether an endpoint is in it.
    #[must_use]
    pub fn holds(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Cluster => endpoint.near,
            Self::Node => endpoint.local,
        }
    }
}

/// An address family; endpoints are chosen within the frontend's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address; an IPv4-mapped one is IPv4.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.to_canonical().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The one that it is not.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Whether connects to a cluster go through the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Steered to the agent: the Service's port is an HTTP port, or its appProtocol says HTTP.
    Steer,
    /// Rewritten to an endpoint.
    Pass,
}

/// What the agent does with a steered connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Looks at the first bytes: HTTP is relayed as the client speaks it, the rest is tunnelled.
    Detect,
    /// `appProtocol` says HTTP, which the client speaks first, in either version, or is refused; the endpoints
    /// speak HTTP/1.
    Http1,
    /// The same, but the endpoints speak HTTP/2.
    Http2,
    /// `appProtocol` names something that is not HTTP: tunnelled without a look.
    Opaque,
}

/// One address of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Address and resolved target port.
    pub addr: SocketAddr,
    /// EndpointSlice condition; absent means true.
    pub ready: bool,
    /// EndpointSlice condition; absent means `ready`.
    pub serving: bool,
    /// EndpointSlice condition; absent means false.
    pub terminating: bool,
    /// `namespace/name` of the pod behind it (targetRef), the label value in metrics and logs.
    pub workload: Option<Arc<str>>,
    /// The node it runs on, if the slice says.
    pub node: Option<Arc<str>>,
    /// That is this node.
    pub local: bool,
    /// It is meant for this node's zone, or nobody cares for zones.
    pub near: bool,
    /// What the policies of its pod say about its port, whoever the client is; `None` where none selects it.
    /// For people: what holds for a client is in [`Snapshot::access`].
    pub policy: Option<Arc<EndpointPolicy>>,
}

/// Per-workload choice by annotation; stands above `--acceleration` except `off`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AccelerationChoice {
    /// As `--acceleration` says.
    #[default]
    Default,
    /// Never mapped.
    Off,
    /// Mapped without probation.
    On,
}

/// Timeouts of one cluster; `None` disables one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP handshake with an endpoint.
    pub connect: Option<Duration>,
    /// A request's head, from its first byte.
    pub request_head: Option<Duration>,
    /// Silence within a request's body.
    pub request_body_idle: Option<Duration>,
    /// From the request's end to the answer's head, per try.
    pub response_head: Option<Duration>,
    /// The whole request, all tries.
    pub request: Option<Duration>,
    /// Silence within an answer's body.
    pub response_body_idle: Option<Duration>,
    /// Silence on a connection that is not HTTP, or not any more.
    pub tunnel_idle: Option<Duration>,
    /// A client's connection without a request.
    pub downstream_idle: Option<Duration>,
    /// A pooled connection to an endpoint without a request.
    pub upstream_idle: Option<Duration>,
}

impl Default for Timeouts {
    /// As `weir run` without arguments.
    fn default() -> Self {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        Self {
            connect: seconds(5),
            request_head: seconds(10),
            request_body_idle: seconds(30),
            response_head: seconds(15),
            request: seconds(15),
            response_body_idle: seconds(300),
            tunnel_idle: seconds(300),
            downstream_idle: seconds(60),
            upstream_idle: seconds(3),
        }
    }
}

impl From<crate::config::TimeoutArgs> for Timeouts {
    fn from(args: crate::config::TimeoutArgs) -> Self {
        let on = |timeout: Duration| (!timeout.is_zero()).then_some(timeout);
        Self {
            connect: on(args.timeout_connect),
            request_head: on(args.timeout_request_head),
            request_body_idle: on(args.timeout_request_body_idle),
            response_head: on(args.timeout_response_head),
            request: on(args.timeout_request),
            response_body_idle: on(args.timeout_response_body_idle),
            tunnel_idle: on(args.timeout_tunnel_idle),
            downstream_idle: on(args.timeout_downstream_idle),
            upstream_idle: on(args.timeout_upstream_idle),
        }
    }
}

#[cfg(test)]
mod tests;

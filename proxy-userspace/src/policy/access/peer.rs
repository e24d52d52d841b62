//! Whom a rule is about.

use super::{
    net::Net,
    selector::{Labels, NamespaceLabels, Selector},
};
use crate::source::finding::quoted;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

/// One kind of other side that a rule names.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Peer {
    /// Everybody.
    Anyone,
    /// Pods, and nobody else.
    Pods(Selector),
    /// Addresses of a prefix, but for some.
    Block {
        /// The prefix.
        net: Net,
        /// Parts of it that are not meant.
        except: Vec<Net>,
        /// Whose addresses.
        whose: Whose,
    },
    /// What has a name in every cluster.
    Entity(Entity),
    /// Endpoints of a Service.
    Service {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// Endpoints of Services with these labels of their own.
    Services {
        /// Their namespace; `None` is every one.
        namespace: Option<Arc<str>>,
        /// Of their labels.
        selector: Selector,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anybody"),
            Self::Pods(selector) => write!(f, "a pod with {selector}"),
            Self::Block { net, except, .. } => {
                write!(f, "in {net}")?;
                except.iter().try_for_each(|one| write!(f, " without {one}"))
            }
            Self::Entity(entity) => write!(f, "{entity:?}"),
            Self::Service { namespace, name } => write!(f, "an endpoint of Service {namespace}/{name}"),
            Self::Services { selector, .. } => write!(f, "an endpoint of a Service with {selector}"),
        }
    }
}

/// Whose addresses a [`Peer::Block`] means.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Whose {
    /// Anybody's: `ipBlock` of a NetworkPolicy.
    Anybodys,
    /// Those that are neither a pod's nor a node's: Cilium's.
    Outsiders,
}

/// See [`Peer::Entity`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Entity {
    /// Everybody.
    All,
    /// Who is neither a pod nor a node.
    World,
    /// The same, by IPv4.
    WorldV4,
    /// The same, by IPv6.
    WorldV6,
    /// Pods and nodes.
    Cluster,
    /// This node.
    Host,
    /// Other nodes.
    RemoteNode,
    /// Addresses of Service `default/kubernetes`.
    ApiServer,
}

impl Entity {
    /// By Cilium's name; `None` is one that there is never anybody of here.
    pub fn named(name: &str) -> Result<Option<Self>, String> {
        Ok(Some(match name {
            "all" => Self::All,
            "world" => Self::World,
            "world-ipv4" => Self::WorldV4,
            "world-ipv6" => Self::WorldV6,
            "cluster" => Self::Cluster,
            "host" => Self::Host,
            "remote-node" => Self::RemoteNode,
            "kube-apiserver" => Self::ApiServer,
            // Endpoints of Cilium's own, or that it does not know yet: Weir has none.
            "health" | "init" | "ingress" | "unmanaged" | "none" => return Ok(None),
            _ => return Err(format!("entity {} is unknown", quoted(name))),
        }))
    }
}

/// What somebody is, before any policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// A pod with addresses of its own.
    Pod,
    /// This node, and pods in its network.
    Host,
    /// Another node, and pods in its network.
    RemoteNode,
    /// Somebody else.
    World,
}

/// What of somebody decides which peers mean them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) place: Place,
    /// A pod's labels, and its namespace's.
    pub(super) labels: Option<(&'a Labels, &'a NamespaceLabels)>,
    /// `None` where none is known, or all are meant; then only a prefix of every address holds it.
    pub(super) net: Option<Net>,
}

/// A Service's namespace and name.
pub(super) type ServiceName = (Arc<str>, Arc<str>);

/// What is known of the cluster beside pods and namespaces.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Surroundings {
    /// By namespace and name.
    pub(super) services: BTreeMap<ServiceName, Reached>,
}

/// A Service's own labels, and its endpoints' addresses.
pub(super) type Reached = (Labels, BTreeSet<IpAddr>);

impl Surroundings {
    /// Endpoints' addresses of the Services that a peer means; empty where it means none.
    pub(super) fn endpoints<'a>(&'a self, peer: &'a Peer) -> Box<dyn Iterator<Item = &'a IpAddr> + 'a> {
        let one = |namespace: &str, name: &str| {
            let found = self.services.get(&(Arc::from(namespace), Arc::from(name)));
            Box::new(found.into_iter().flat_map(|(_, addresses)| addresses))
        };
        match peer {
            Peer::Service { namespace, name } => one(namespace, name),
            Peer::Entity(Entity::ApiServer) => one("default", "kubernetes"),
            Peer::Services { namespace, selector } => Box::new(
                self.services
                    .iter()
                    .filter(move |((its, _), (labels, _))| {
                        namespace.as_ref().is_none_or(|wanted| wanted == its)
                            && selector.selects(labels, &NamespaceLabels::new())
                    })
                    .flat_map(|(_, (_, addresses))| addresses),
            ),
            _ => Box::new(std::iter::empty()),
        }
    }
}

impl Peer {
    /// The prefix that it is about, and what is not meant of it.
    pub(super) fn nets(&self) -> Option<(Net, &[Net])> {
        if let Self::Block { net, except, .. } = self { Some((*net, except)) } else { None }
    }

    /// Whether somebody is meant.
    pub(super) fn means(&self, who: &Subject<'_>, around: &Surroundings) -> bool {
        let one = who.net.filter(|net| *net == Net::host(net.address())).map(Net::address);
        let is_endpoint = || one.is_some_and(|one| around.endpoints(self).any(|address| *address == one));
        match self {
            Self::Anyone => true,
            Self::Pods(selector) => {
                who.labels.is_some_and(|(labels, namespace)| selector.selects(labels, namespace))
            }
            Self::Block { net, except, whose } => {
                (*whose == Whose::Anybodys || who.place == Place::World)
                    && match who.net {
                        Some(held) => net.covers(held) && !except.iter().any(|one| one.covers(held)),
                        None => net.bits() == 0 && except.is_empty(),
                    }
            }
            Self::Entity(entity) => match entity {
                Entity::All => true,
                Entity::World => who.place == Place::World,
                Entity::WorldV4 => {
                    who.place == Place::World && who.net.is_some_and(|net| net.address().is_ipv4())
                }
                Entity::WorldV6 => {
                    who.place == Place::World && who.net.is_some_and(|net| net.address().is_ipv6())
                }
                Entity::Cluster => who.place != Place::World,
                Entity::Host => who.place == Place::Host,
                Entity::RemoteNode => who.place == Place::RemoteNode,
                Entity::ApiServer => is_endpoint(),
            },
            Self::Service { .. } | Self::Services { .. } => is_endpoint(),
        }
    }
}

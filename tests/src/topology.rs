//! A node with pods on a bridge, and, where asked for, a second network behind it.

use crate::{cgroup::Cgroup, netns::Netns, pod::Pod, run::Run, sweep};
use anyhow::{Context, Result, ensure};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
};

/// Third octet of the node's pod network, 10.244.1.0/24 and fd00:244:1::/64.
const LOCAL: u8 = 1;
/// Third octet of the other node's pod network.
const REMOTE: u8 = 2;

/// One node: a namespace with a bridge that pods hang on. Everything goes when it and its pods
/// are dropped, in any order.
#[derive(Debug)]
pub struct Topology {
    node: Arc<Pod>,
    agent: Arc<Pod>,
    remote: Option<Pod>,
    pods: Arc<Cgroup>,
    outside: Arc<Cgroup>,
    parents: Arc<Vec<Cgroup>>,
    run: Arc<Run>,
}

/// In which part of the cgroup tree a pod lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Below the pods' parent cgroup: the agent's business.
    Pods,
    /// Elsewhere.
    Outside,
}

impl Topology {
    /// The node's namespace with bridge `br0` (10.244.1.1, fd00:244:1::1) and the cgroups `pods`,
    /// `outside`, `agent` and `host`. Removes what dead runs left behind first.
    pub fn new() -> Result<Self> {
        sweep::dead_runs()?;
        let run = Arc::new(Run::new()?);
        let root = Cgroup::new(run.name())?;
        let group = |name: &str| root.child(name).map(Arc::new);
        let (pods, outside, agent, host) =
            (group("pods")?, group("outside")?, group("agent")?, group("host")?);
        let parents = Arc::new(vec![root]);
        let netns = Arc::new(Netns::new(&format!("{}-node", run.name()))?);
        bridge(&netns, LOCAL)?;
        let place = |name: &str, cgroup: Arc<Cgroup>| {
            Arc::new(Pod {
                name: name.to_owned(),
                v4: v4(LOCAL, 1),
                v6: v6(LOCAL, 1),
                cgroup,
                netns: Arc::clone(&netns),
                run: Arc::clone(&run),
                _parents: Arc::clone(&parents),
            })
        };
        let (node, agent) = (place("node", host), place("agent", agent));
        Ok(Self { node, agent, remote: None, pods, outside, parents, run })
    }

    /// The node's namespace as a host process sees it (its cgroup is no pod's).
    #[must_use]
    pub const fn node(&self) -> &Arc<Pod> {
        &self.node
    }

    /// The node's namespace with the cgroup that the agent runs in.
    #[must_use]
    pub const fn agent(&self) -> &Arc<Pod> {
        &self.agent
    }

    /// The parent cgroup of all pods, for `--pod-cgroup`.
    #[must_use]
    pub fn pod_cgroup(&self) -> &Path {
        self.pods.path()
    }

    /// The run's scratch directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.run.dir()
    }

    /// The run's name, which every namespace and cgroup of it begins with.
    #[must_use]
    pub fn name(&self) -> &str {
        self.run.name()
    }

    /// A pod 10.244.1.`host` / fd00:244:1::`host` on the node. By custom the client is 10 and
    /// servers count from 11.
    pub fn pod(&self, name: &str, host: u8) -> Result<Pod> {
        self.pod_in(name, host, Placement::Pods)
    }

    /// A pod in a chosen part of the cgroup tree.
    pub fn pod_in(&self, name: &str, host: u8, placement: Placement) -> Result<Pod> {
        let parent = match placement {
            Placement::Pods => &self.pods,
            Placement::Outside => &self.outside,
        };
        self.attach(&self.node, name, LOCAL, host, parent)
    }

    /// A pod 10.244.2.`host` / fd00:244:2::`host` on another node: behind a router, and outside
    /// of this node's pod cgroup.
    pub fn remote_pod(&mut self, name: &str, host: u8) -> Result<Pod> {
        if self.remote.is_none() {
            self.remote = Some(self.other_node()?);
        }
        let router = self.remote.as_ref().unwrap_or(self.node.as_ref());
        self.attach(router, name, REMOTE, host, &self.outside)
    }

    /// Gives a pod of the other node more addresses, outside of every pod network, by which this node reaches
    /// it.
    pub fn also_at(&self, pod: &Pod, addresses: &[Ipv4Addr]) -> Result<()> {
        let other = self.remote.as_ref().context("there is no other node")?;
        for address in addresses {
            pod.netns.links(&format!("addr add {address}/32 dev eth0\n"))?;
            other.netns.links(&format!("route add {address}/32 via {}\n", pod.v4))?;
            self.node.netns.links(&format!("route add {address}/32 via 10.244.100.2\n"))?;
        }
        Ok(())
    }

    fn attach(&self, to: &Pod, name: &str, network: u8, host: u8, parent: &Cgroup) -> Result<Pod> {
        ensure!(host > 1, "10.244.{network}.{host} is taken");
        // As kubelet names it: `pod` and the UID, which is the name in the harness's manifests.
        let cgroup = Arc::new(parent.child(&format!("pod{name}"))?);
        let netns = Arc::new(Netns::new(&format!("{}-{name}", self.run.name()))?);
        let (v4, v6) = (v4(network, host), v6(network, host));
        to.netns.links(&format!(
            "link add p{host} type veth peer name eth0 netns {}\nlink set p{host} master br0 up\n",
            netns.name()
        ))?;
        netns.links(&format!(
            "link set eth0 up\naddr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n\
             route add default via 10.244.{network}.1\nroute add ::/0 via fd00:244:{network}::1\n"
        ))?;
        Ok(Pod {
            name: name.to_owned(),
            v4,
            v6,
            cgroup,
            netns,
            run: Arc::clone(&self.run),
            _parents: Arc::clone(&self.parents),
        })
    }

    fn other_node(&self) -> Result<Pod> {
        let cgroup = Arc::new(self.outside.child("other-node")?);
        let netns = Arc::new(Netns::new(&format!("{}-other", self.run.name()))?);
        bridge(&netns, REMOTE)?;
        self.node.netns.links(&format!(
            "link add uplink type veth peer name uplink netns {}\nlink set uplink up\n\
             addr add 10.244.100.1/24 dev uplink\naddr add fd00:244:100::1/64 dev uplink nodad\n\
             route add 10.244.{REMOTE}.0/24 via 10.244.100.2\n\
             route add fd00:244:{REMOTE}::/64 via fd00:244:100::2\n",
            netns.name()
        ))?;
        netns.links(&format!(
            "link set uplink up\naddr add 10.244.100.2/24 dev uplink\n\
             addr add fd00:244:100::2/64 dev uplink nodad\n\
             route add 10.244.{LOCAL}.0/24 via 10.244.100.1\n\
             route add fd00:244:{LOCAL}::/64 via fd00:244:100::1\n"
        ))?;
        Ok(Pod {
            name: "other-node".to_owned(),
            v4: v4(REMOTE, 1),
            v6: v6(REMOTE, 1),
            cgroup,
            netns,
            run: Arc::clone(&self.run),
            _parents: Arc::clone(&self.parents),
        })
    }
}

fn bridge(netns: &Netns, network: u8) -> Result<()> {
    netns.links(&format!(
        "link add br0 type bridge\nlink set br0 up\naddr add 10.244.{network}.1/24 dev br0\n\
         addr add fd00:244:{network}::1/64 dev br0 nodad\n"
    ))
}

fn v4(network: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, network, host)
}

fn v6(network: u8, host: u8) -> Ipv6Addr {
    // The same digits as the IPv4 address, read as hexadecimal: fd00:244:1::11 goes with 10.244.1.11.
    let digits = u16::from(host);
    let as_written = digits % 10 + (digits / 10 % 10) * 16 + (digits / 100) * 256;
    Ipv6Addr::new(0xfd00, 0x244, u16::from(network), 0, 0, 0, 0, as_written)
}

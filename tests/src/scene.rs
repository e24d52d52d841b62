//! The scene that most tests play in: a client pod, server pods, one Service, the agent.

use crate::{
    agent::{Agent, Builder},
    manifest::{Endpoint, Service},
    peer::{self, Server},
    pod::Pod,
    topology::Topology,
};
use anyhow::{Context, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The HTTP port, of Services and servers.
pub const PORT: u16 = 8080;
/// The ClusterIP of `demo/web`.
pub const WEB: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), PORT);
/// Its IPv6 ClusterIP.
pub const WEB_V6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10)), PORT);
/// Its IPv4 ClusterIP in the mapped form, which makes applications use an IPv6 socket.
pub const WEB_MAPPED: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x0a60, 0x000a)), PORT);

/// A client pod 10.244.1.10 and server pods from 10.244.1.11 with scripted HTTP servers that are
/// the endpoints of Service `demo/web`. Fields drop in order: the agent first.
#[derive(Debug)]
pub struct Scene {
    /// The agent.
    pub agent: Agent,
    /// The scripted servers.
    pub serving: Vec<Server>,
    /// The client pod.
    pub client: Pod,
    /// The server pods.
    pub servers: Vec<Pod>,
    /// The node.
    pub topology: Topology,
}

/// Everything of a [`Scene`] but the agent.
#[derive(Debug)]
pub struct Stage {
    /// The scripted servers.
    pub serving: Vec<Server>,
    /// The client pod.
    pub client: Pod,
    /// The server pods.
    pub servers: Vec<Pod>,
    /// The node.
    pub topology: Topology,
}

impl Stage {
    /// A stage with so many server pods.
    pub fn new(servers: u8) -> Result<Self> {
        let topology = Topology::new()?;
        let client = topology.pod("client", 10)?;
        let servers = (0..servers).map(|n| topology.pod(&format!("server{}", n + 1), 11 + n));
        let servers = servers.collect::<Result<Vec<_>>>()?;
        let serving = servers.iter().map(|pod| Server::http(pod, PORT)).collect::<Result<_>>()?;
        Ok(Self { serving, client, servers, topology })
    }

    /// Service `demo/web` with every server pod, over both IP families.
    #[must_use]
    pub fn web(&self) -> Service {
        let service = Service::new("web", PORT).cluster_ip(WEB.ip()).cluster_ip(WEB_V6.ip());
        self.servers.iter().fold(service, |service, pod| {
            let member = |addr| Endpoint::new(addr).pod(pod.name());
            service.endpoint(member(pod.at(PORT))).endpoint(member(pod.at_v6(PORT)))
        })
    }

    /// Starts the agent with these Services and arguments.
    pub fn play(self, services: &[Service], arguments: &[&str]) -> Result<Scene> {
        let builder = Builder::new(&self.topology, services)?;
        let agent = builder.args(arguments.iter().map(|&argument| argument.to_owned())).start()?;
        let Self { serving, client, servers, topology } = self;
        Ok(Scene { agent, serving, client, servers, topology })
    }
}

impl Scene {
    /// Service `demo/web` with one server, and the agent with these arguments.
    pub fn web(arguments: &[&str]) -> Result<Self> {
        Self::web_with(1, arguments)
    }

    /// Service `demo/web` with so many servers.
    pub fn web_with(servers: u8, arguments: &[&str]) -> Result<Self> {
        let stage = Stage::new(servers)?;
        let web = stage.web();
        stage.play(&[web], arguments)
    }

    /// The first server pod.
    pub fn server(&self) -> Result<&Pod> {
        self.servers.first().context("a scene without servers")
    }

    /// curl from the client pod to a path of `demo/web`; standard output.
    pub fn ask(&self, path: &str) -> Result<String> {
        Ok(self.client.curl([format!("http://{WEB}{path}")])?.success()?.text())
    }

    /// The status that curl sees from the client pod for a path of `demo/web`; 0 where it sees none.
    pub fn status_of(&self, path: &str) -> Result<u16> {
        let url = format!("http://{WEB}{path}");
        let asked = self.client.curl(["--output", "/dev/null", "--write-out", "%{http_code}", &url])?;
        Ok(asked.text().parse()?)
    }

    /// `weir-peer load` in the client pod; its JSON.
    pub fn load(&self, to: &str, arguments: &[&str]) -> Result<serde_json::Value> {
        let arguments = ["load", "--to", to].into_iter().chain(arguments.iter().copied());
        peer::run(&self.client, arguments)?.json()
    }

    /// `weir-peer transfer` in the client pod to `demo/web`; the digests of the bodies it checked.
    pub fn transfer(&self, sizes: &[u64], arguments: &[&str]) -> Result<Vec<String>> {
        let sizes = sizes.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let to = WEB.to_string();
        let fixed = ["transfer", "--to", &to, "--sizes", &sizes];
        let told = peer::run(&self.client, fixed.into_iter().chain(arguments.iter().copied()))?.json()?;
        let digests = told.get("digests").and_then(serde_json::Value::as_array).context("no digests")?;
        Ok(digests.iter().map(ToString::to_string).collect())
    }

    /// Sends raw bytes to `demo/web` from the client pod; what came back, and how it ended.
    pub fn raw(&self, bytes: &[u8], arguments: &[&str]) -> Result<(String, String)> {
        let outcome = peer::raw(&self.client, WEB, bytes, arguments)?.success()?;
        Ok((outcome.text(), outcome.stderr.trim().to_owned()))
    }
}

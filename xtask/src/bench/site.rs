//! The three namespaces: a client pod, the node, a server pod. Each set of iptables rules has a node of
//! its own, so that changing between paths changes nothing in the kernel but what is measured.

use super::{
    kubeproxy,
    load::client::{self, Measured},
    plan::{Path, Variant},
    policy,
    services::{self, Service},
};
use anyhow::{Context, Result};
use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};
use weir_tests::{manifest::ConfigDir, pod::Pod, process::Process, topology::Topology, wait};

/// The HTTP Service, steered to the agent or translated by kube-proxy's rules.
const WEB: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 8080);
/// The same endpoints behind a port that is not HTTP to the agent: the pass lane.
const RAW: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 11), 9090);
/// Where the server listens.
const PORT: u16 = 8080;
/// The server pod's second address: the second endpoint.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 12);

/// What iptables does on a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Rules {
    /// Nothing; its tables do not exist.
    None,
    /// kube-proxy's rules for so many Services.
    KubeProxy(u32),
    /// One rule that redirects the HTTP Service to the agent.
    Redirect,
}

impl Rules {
    /// What a variant needs.
    pub(super) const fn of(variant: Variant) -> Self {
        match variant.path {
            Path::IptablesDnat => Self::KubeProxy(variant.services),
            Path::IptablesRelay => Self::Redirect,
            Path::Direct | Path::EbpfLb | Path::EbpfSteer | Path::EbpfRedirect | Path::EbpfSplice => {
                Self::None
            }
        }
    }

    fn text(self) -> Option<String> {
        match self {
            Self::None => None,
            Self::KubeProxy(count) => Some(kubeproxy::rules(&services::among(count, web()))),
            Self::Redirect => Some(format!(
                "*nat\n-A PREROUTING -d {}/32 -p tcp -m tcp --dport {} -j REDIRECT --to-ports 15001\nCOMMIT\n",
                WEB.ip(),
                WEB.port()
            )),
        }
    }
}

/// A node with its two pods and a running server. Fields drop in order: processes, pods, the node.
#[derive(Debug)]
pub(super) struct Site {
    _server: Process,
    client: Pod,
    _server_pod: Pod,
    /// The node, for agents.
    pub(super) topology: Topology,
    program: PathBuf,
}

impl Site {
    /// A node with these rules; `threads` is the server's.
    pub(super) fn new(rules: Rules, threads: usize) -> Result<Self> {
        let topology = Topology::new()?;
        let client = topology.pod("client", 10)?;
        let server_pod = topology.pod("server", 11)?;
        server_pod.netns().links(&format!("addr add {SECOND}/24 dev eth0\n"))?;
        for pod in [&client, topology.node()] {
            // A connection per request uses up a port for as long as the last one's end is remembered.
            pod.netns().sysctls(&[("net/ipv4/ip_local_port_range", "1024 65535")])?;
        }
        let program = std::env::current_exe().context("our own program")?;
        let mut command = server_pod.command(&program);
        command.args(["bench-server", &format!("--ports={PORT}"), &format!("--threads={threads}")]);
        let mut server = server_pod.spawn("server", command)?;
        server.says("ready", Duration::from_secs(10))?;
        if let Some(text) = rules.text() {
            restore(topology.node(), &text).with_context(|| format!("rules {rules:?}"))?;
        }
        let site = Self { _server: server, client, _server_pod: server_pod, topology, program };
        site.reach_endpoints()?;
        Ok(site)
    }

    /// Waits until the pods find each other: on a new bridge the first packets may be lost.
    fn reach_endpoints(&self) -> Result<()> {
        let connect =
            |endpoint| TcpStream::connect_timeout(&SocketAddr::V4(endpoint), Duration::from_secs(1));
        endpoints().into_iter().try_for_each(|endpoint| {
            wait::until(Duration::from_secs(10), &format!("the client reaches {endpoint}"), || {
                self.client.netns().run(|| connect(endpoint))??;
                Ok(true)
            })
        })
    }

    /// The cgroup above everything that a path consists of: pods and agent.
    pub(super) fn cgroup(&self) -> &std::path::Path {
        let pods = self.topology.pod_cgroup();
        pods.parent().unwrap_or(pods)
    }

    /// What an agent is told: Services, and the policy if there is one.
    pub(super) fn config(&self, variant: Variant) -> Result<ConfigDir> {
        let path = self.topology.dir().join(format!("config-{variant}"));
        let config = ConfigDir::new(path, &known_to_agent(variant))?;
        if variant.rules > 0 {
            let pods: Vec<_> = endpoints().iter().map(|endpoint| *endpoint.ip()).collect();
            let file = config.path().join("policy.yaml");
            fs::write(&file, policy::manifests(variant.rules, WEB, &pods, PORT))
                .with_context(|| format!("write {}", file.display()))?;
        }
        Ok(config)
    }

    /// Where the client asks on a path.
    pub(super) fn target(&self, path: Path) -> SocketAddrV4 {
        match path {
            Path::Direct => endpoints().swap_remove(0),
            Path::EbpfLb => RAW,
            Path::IptablesDnat
            | Path::IptablesRelay
            | Path::EbpfSteer
            | Path::EbpfRedirect
            | Path::EbpfSplice => WEB,
        }
    }

    /// Runs the load generator in the client pod.
    pub(super) fn load(&self, args: &client::Args) -> Result<Measured> {
        let mut command = self.client.command(&self.program);
        command.arg("bench-client").args(args.words());
        let span = Duration::from_millis(args.warmup_ms + args.window_ms);
        let outcome = self.client.spawn("load", command)?.outcome(span + Duration::from_secs(20))?;
        let measured = outcome.success()?.json()?;
        serde_json::from_value(measured).context("the load generator's answer")
    }
}

/// The Services that an agent is told of: both that are measured, among others.
fn known_to_agent(variant: Variant) -> Vec<weir_tests::manifest::Service> {
    let raw = Service { name: "raw".to_owned(), frontend: RAW, endpoints: endpoints() };
    let measured = if variant.path == Path::EbpfLb { raw } else { web() };
    services::among(variant.services, measured).iter().map(Service::manifest).collect()
}

fn web() -> Service {
    Service { name: "web".to_owned(), frontend: WEB, endpoints: endpoints() }
}

fn endpoints() -> Vec<SocketAddrV4> {
    [Ipv4Addr::new(10, 244, 1, 11), SECOND].map(|ip| SocketAddrV4::new(ip, PORT)).to_vec()
}

/// Loads rules into a node, all at once.
fn restore(node: &Pod, rules: &str) -> Result<()> {
    let mut command = node.command("iptables-restore");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    anyhow::ensure!(
        output.status.success(),
        "iptables-restore: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

//! An agent in charge of a generated cluster, and a client that sees what it does.

use super::{cluster, connect};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    process::{Child, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};
use weir_tests::{
    agent::{Agent, Builder},
    apiserver::ApiServer,
    manifest::ConfigDir,
    pod::Pod,
    process::Process,
    topology::Topology,
};

/// The Service that is watched: no HTTP, so the kernel half alone decides.
const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 11), 9090);
/// Where the server listens.
const PORT: u16 = 8080;
/// How long a change may take, and a batch of connects.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a label's change may take before policies count as not enforced.
const ENFORCED: Duration = Duration::from_secs(3);

/// Where the agent has its objects from.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// Files.
    Directory,
    /// An API server.
    Kubernetes,
}

/// How objects get to the agent.
enum Objects {
    Directory(PathBuf),
    Kubernetes(ApiServer),
}

/// See the module. Fields drop in order: processes, pods, the node.
pub(super) struct Stand {
    agent: Agent,
    started_in: Duration,
    objects: Objects,
    _server: Process,
    server_ip: Ipv4Addr,
    client: Pod,
    _server_pod: Pod,
    _topology: Topology,
}

impl Stand {
    /// An agent that is ready, with a cluster of so many Services.
    pub(super) fn raise(source: Source, services: u32) -> Result<Self> {
        let topology = Topology::new()?;
        let (client, server_pod) = (topology.pod("client", 10)?, topology.pod("server", 11)?);
        client.netns().sysctls(&[("net/ipv4/ip_local_port_range", "1024 65535")])?;
        let mut command = server_pod.command(std::env::current_exe().context("our own program")?);
        command.args(["bench-server", &format!("--ports={PORT}"), "--threads=1"]);
        let mut server = server_pod.spawn("server", command)?;
        server.says("ready", Duration::from_secs(10))?;
        let server_ip = server_pod.v4();
        let own = own_objects(client.v4(), server_ip);
        let config = ConfigDir::new(topology.dir().join("config"), &[])?;
        let builder = Builder::new(&topology, &[])?.arg("--access-log=off").arg("--node-name=here");
        let (objects, builder) = match source {
            Source::Directory => {
                cluster::write(services, config.path())?;
                for (name, object) in own {
                    cluster::put(&config.path().join(name), &object.to_string())?;
                }
                (Objects::Directory(config.path().to_owned()), builder.config(config))
            }
            Source::Kubernetes => {
                let server = topology.node().netns().run(ApiServer::start)??;
                for object in cluster::objects(services).chain(own.map(|(_, object)| object)) {
                    server.put(object)?;
                }
                let file = server.kubeconfig(topology.dir())?;
                let arg = format!("--kubeconfig={}", file.display());
                (Objects::Kubernetes(server), builder.arg(arg))
            }
        };
        let begun = Instant::now();
        let agent = builder.start()?;
        let started_in = begun.elapsed();
        Ok(Self {
            agent,
            started_in,
            objects,
            _server: server,
            server_ip,
            client,
            _server_pod: server_pod,
            _topology: topology,
        })
    }

    /// From its start until it was ready.
    pub(super) fn started_in(&self) -> Duration {
        self.started_in
    }

    /// Resident memory now.
    pub(super) fn rss_mib(&self) -> Result<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let rss = self.agent.rss()? as f64;
        Ok(rss / f64::from(1 << 20))
    }

    /// What of it is its own, and what are pages of files.
    pub(super) fn rss_parts_mib(&self) -> Result<(f64, f64)> {
        let path = format!("/proc/{}/status", self.agent.pid());
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let part = |name: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next());
            let kib: f64 = kib.with_context(|| format!("{path} has no {name}"))?.parse()?;
            Ok(kib / 1024.0)
        };
        Ok((part("RssAnon:")?, part("RssFile:")?))
    }

    /// The most there was.
    pub(super) fn peak_mib(&self) -> Result<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let peak = super::super::machine::peak_rss_kib(self.agent.pid())? as f64;
        Ok(peak / 1024.0)
    }

    /// Takes the Service's only endpoint away and gives it back.
    pub(super) fn endpoint_changes(&mut self, count: usize) -> Result<Vec<Duration>> {
        let watcher = Watcher::start(&self.client)?;
        watcher.awaits("open", PATIENCE)?.context("the Service is never there")?;
        let mut all = Vec::with_capacity(count);
        for n in 0..count {
            let gone = n % 2 == 0;
            let begun = self.put("endpoint.yaml", &slice(self.server_ip, !gone))?;
            let said = watcher.awaits(if gone { "refused" } else { "open" }, PATIENCE)?;
            all.push(since(begun, said.context("an endpoint's change is never seen")?));
        }
        if count % 2 == 1 {
            self.put("endpoint.yaml", &slice(self.server_ip, true))?;
            watcher.awaits("open", PATIENCE)?;
        }
        Ok(all)
    }

    /// Takes the label from the client by which it may connect, and gives it back. Nothing where that
    /// changes nothing.
    pub(super) fn label_changes(&mut self, count: usize) -> Result<Vec<Duration>> {
        let watcher = Watcher::start(&self.client)?;
        watcher.awaits("open", PATIENCE)?.context("the Service is never there")?;
        let mut all = Vec::with_capacity(count);
        for n in 0..count {
            let may = n % 2 == 1;
            let begun = self.put("client.yaml", &client(self.client.v4(), may))?;
            let said = watcher.awaits(if may { "open" } else { "refused" }, ENFORCED)?;
            match said {
                Some(said) => all.push(since(begun, said)),
                None if n == 0 => return Ok(Vec::new()),
                None => bail!("a label's change is not seen"),
            }
        }
        Ok(all)
    }

    /// What a connect costs, nanoseconds; the median of so many.
    pub(super) fn connect_cost(&self, count: usize) -> Result<f64> {
        let program = std::env::current_exe().context("our own program")?;
        let words = ["bench-connect".to_owned(), SERVICE.to_string(), format!("--count={count}")];
        let outcome = self.client.run(&program.to_string_lossy(), words, PATIENCE)?;
        Ok(outcome.success()?.text().trim().parse()?)
    }

    /// Puts an object in its place; the time right before.
    fn put(&self, name: &str, object: &Value) -> Result<u128> {
        match &self.objects {
            Objects::Directory(directory) => {
                let begun = connect::now();
                cluster::put(&directory.join(name), &object.to_string())?;
                Ok(begun)
            }
            Objects::Kubernetes(server) => {
                let begun = connect::now();
                server.put(object.clone())?;
                Ok(begun)
            }
        }
    }
}

fn since(begun: u128, said: u128) -> Duration {
    Duration::from_nanos(u64::try_from(said.saturating_sub(begun)).unwrap_or(u64::MAX))
}

/// The Service that is watched, both pods, and who may connect.
fn own_objects(client_ip: Ipv4Addr, server_ip: Ipv4Addr) -> [(&'static str, Value); 5] {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "watched", "namespace": "demo" },
        "spec": {
            "selector": { "app": "server" }, "clusterIP": SERVICE.ip().to_string(),
            "ports": [{ "name": "main", "port": SERVICE.port(), "targetPort": PORT }],
        },
    });
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "only-clients", "namespace": "demo" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "server" } }, "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "client" } } }] }],
        },
    });
    [
        ("service.yaml", service),
        ("endpoint.yaml", slice(server_ip, true)),
        ("server.yaml", pod("server", "server", server_ip)),
        ("client.yaml", client(client_ip, true)),
        ("only-clients.yaml", policy),
    ]
}

fn slice(server_ip: Ipv4Addr, ready: bool) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "watched-1", "namespace": "demo", "labels": { "kubernetes.io/service-name": "watched" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "main", "port": PORT, "protocol": "TCP" }],
        "endpoints": [{ "addresses": [server_ip.to_string()], "conditions": { "ready": ready } }],
    })
}

fn client(ip: Ipv4Addr, may_connect: bool) -> Value {
    pod("client", if may_connect { "client" } else { "stranger" }, ip)
}

fn pod(name: &str, app: &str, ip: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "demo", "uid": name, "labels": { "app": app } },
        "spec": { "nodeName": "here", "containers": [{ "name": "main" }] },
        "status": { "phase": "Running", "podIP": ip.to_string(), "podIPs": [{ "ip": ip.to_string() }] },
    })
}

/// A client that connects again and again, and says when the outcome changes.
struct Watcher {
    child: Child,
    said: Receiver<(String, u128)>,
}

impl Watcher {
    fn start(client: &Pod) -> Result<Self> {
        let mut command = client.command(std::env::current_exe().context("our own program")?);
        command.args(["bench-connect", &SERVICE.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (tell, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Some((what, at)) = line.split_once(' ') else { continue };
                let Ok(at) = at.parse() else { continue };
                if tell.send((what.to_owned(), at)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, said })
    }

    /// When it said this; `None` where it does not in time.
    fn awaits(&self, what: &str, patience: Duration) -> Result<Option<u128>> {
        let deadline = Instant::now() + patience;
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((said, at)) if said == what => return Ok(Some(at)),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => bail!("the client that connects has ended"),
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("bench: the client that connects does not end: {error}");
        }
    }
}

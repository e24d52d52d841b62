//! A client's pod, the node with a proxy, a pod with an HTTP/1.1 server; and runs through them.

use super::{
    Protocol, Shape,
    h2load::{self, Found},
    proxy::{Proxy, Running},
};
use crate::bench::machine;
use anyhow::{Context, Result, ensure};
use rcgen::{CertificateParams, KeyPair};
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};
use weir_tests::{cgroup, pod::Pod, process::Process, topology::Topology, wait};

/// The name that clients ask for.
pub(super) const HOST: &str = "bench.example.com";
const PORT: u16 = 8080;
/// Bytes of the two answers.
pub(super) const SMALL: usize = 100;
pub(super) const LARGE: usize = 64 * 1024;
/// How long a proxy may take to start, and its connections to be opened.
const PATIENCE: Duration = Duration::from_secs(120);

/// The server's configuration: nginx, with one worker.
const SERVER: &str = "
user root;
worker_processes 1;
pid DIR/nginx.pid;
error_log stderr;
events { worker_connections 4096; }
http {
    access_log off;
    sendfile on;
    keepalive_requests 100000000;
    client_body_temp_path DIR/body;
    proxy_temp_path DIR/proxy;
    fastcgi_temp_path DIR/fastcgi;
    uwsgi_temp_path DIR/uwsgi;
    scgi_temp_path DIR/scgi;
    server { listen ADDR; root DIR/files; }
}
";

/// A certificate and its key.
pub(super) struct Pair {
    pub(super) chain: String,
    pub(super) key: String,
    dir: PathBuf,
}

impl Pair {
    fn new(dir: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let chain = CertificateParams::new([HOST.to_owned()])?.self_signed(&key)?.pem();
        let pair = Self { chain, key: key.serialize_pem(), dir: dir.to_owned() };
        fs::write(pair.chain_file(), &pair.chain)?;
        fs::write(pair.key_file(), &pair.key)?;
        fs::write(pair.bundle(), [pair.chain.as_str(), &pair.key].concat())?;
        Ok(pair)
    }

    pub(super) fn chain_file(&self) -> PathBuf {
        self.dir.join("chain.pem")
    }

    pub(super) fn key_file(&self) -> PathBuf {
        self.dir.join("key.pem")
    }

    /// Both in one file.
    pub(super) fn bundle(&self) -> PathBuf {
        self.dir.join("bundle.pem")
    }
}

/// See the module. Fields drop in order: processes, pods, the node.
pub(super) struct Site {
    _server: Process,
    client: Pod,
    server_pod: Pod,
    pub(super) pair: Pair,
    pub(super) topology: Topology,
}

impl Site {
    pub(super) fn new() -> Result<Self> {
        let topology = Topology::new()?;
        let (client, server_pod) = (topology.pod("client", 10)?, topology.pod("server", 11)?);
        client.netns().sysctls(&[("net/ipv4/ip_local_port_range", "1024 65535")])?;
        let pair = Pair::new(topology.dir())?;
        let server = server(&server_pod, &topology.dir().join("server"))?;
        Ok(Self { _server: server, client, server_pod, pair, topology })
    }

    pub(super) fn endpoint(&self) -> SocketAddr {
        self.server_pod.at(PORT)
    }

    /// Starts a proxy and waits until it answers.
    pub(super) fn raise(&self, proxy: Proxy) -> Result<Stand<'_>> {
        let running = proxy.start(self).with_context(|| format!("start {proxy}"))?;
        let mut stand = Stand { site: self, proxy, running };
        stand.answers()?;
        Ok(stand)
    }

    fn url(&self, protocol: Protocol, body: usize) -> String {
        let scheme = if protocol.is_secure() { "https" } else { "http" };
        let file = if body == SMALL { "small" } else { "large" };
        format!("{scheme}://{HOST}:{}/{file}", protocol.port())
    }
}

/// A proxy that runs, ready for load.
pub(super) struct Stand<'a> {
    site: &'a Site,
    proxy: Proxy,
    running: Running,
}

/// What a run cost.
pub(super) struct Cost {
    pub(super) found: Found,
    /// CPU time of the proxy's processes a request, microseconds.
    pub(super) proxy_us: f64,
    /// That of client, proxy and server.
    pub(super) all_us: f64,
}

impl Drop for Stand<'_> {
    /// nginx's workers outlive their master when it is killed.
    fn drop(&mut self) {
        let place = self.site.topology.agent().cgroup();
        let ended = place.kill().and_then(|()| {
            wait::until(PATIENCE, "the proxy ends", || Ok(fs::read_to_string(place.procs())?.is_empty()))
        });
        if let Err(error) = ended {
            eprintln!("{}: {error:#}", self.proxy);
        }
    }
}

impl Stand<'_> {
    fn answers(&mut self) -> Result<()> {
        let node = self.site.topology.node().v4();
        let resolve = format!("{HOST}:{}:{node}", Protocol::Http1.port());
        let url = self.site.url(Protocol::Http1, LARGE);
        let arguments = ["--fail", "--resolve", &resolve, "--output", "/dev/null", &url];
        let waited = wait::until(PATIENCE, "the proxy answers", || {
            Ok(self.site.client.curl(arguments)?.status.success())
        });
        let said = match &mut self.running {
            Running::Agent(agent) => agent.process().stderr_tail(),
            Running::Process(process) => process.stderr_tail(),
        };
        waited.with_context(|| format!("{} said: {said}", self.proxy))
    }

    /// One run of h2load.
    pub(super) fn run(&self, shape: &Shape, window: Duration) -> Result<Cost> {
        let (site, protocol) = (self.site, shape.protocol);
        let log = site.topology.dir().join("h2load.log");
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let mut command = site.client.command("h2load");
        command.args(["-t1", &format!("-c{}", shape.conns), &format!("-m{}", shape.streams)]);
        match shape.once {
            true => command.arg(format!("-n{}", shape.conns)),
            false => command.arg(format!("-D{}ms", window.as_millis())),
        };
        command.args(protocol.is_http1().then_some("--h1"));
        command.arg(format!("--connect-to={}:{}", site.topology.node().v4(), protocol.port()));
        command.arg(format!("--log-file={}", log.display())).arg(site.url(protocol, shape.body));
        let (proxy, all) = (site.topology.agent().cgroup().path(), self.everything());
        let before = (cgroup::cpu_time(proxy)?, cgroup::cpu_time(all)?);
        let outcome = site.client.spawn("h2load", command)?.outcome(window + PATIENCE)?.success()?;
        let after = (cgroup::cpu_time(proxy)?, cgroup::cpu_time(all)?);
        let found = h2load::read(&outcome.text(), &log, protocol.spoken())?;
        let each = |from: Duration, to: Duration| {
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            let answered = found.answered as f64;
            to.saturating_sub(from).as_secs_f64() * 1e6 / answered
        };
        Ok(Cost { found, proxy_us: each(before.0, after.0), all_us: each(before.1, after.1) })
    }

    /// The cgroup above pods and proxy.
    fn everything(&self) -> &Path {
        let pods = self.site.topology.pod_cgroup();
        pods.parent().unwrap_or(pods)
    }

    /// Memory of the proxy's processes that a connection takes which has had one request and is idle: the
    /// mean over `count`, in KiB.
    pub(super) fn idle_kib(&self, protocol: Protocol, count: u32) -> Result<f64> {
        let site = self.site;
        let before = self.memory_kib()?;
        let mut command = site.client.command("python3");
        command.args(["-c", include_str!("idle.py"), &site.topology.node().v4().to_string()]);
        command.args([&protocol.port().to_string(), HOST, protocol.name(), &count.to_string()]);
        let mut client = site.client.spawn("idle", command)?;
        client.says("ready", PATIENCE)?;
        let after = self.memory_kib()?;
        client.close_stdin();
        ensure!(client.wait(PATIENCE)?.success(), "idle connections: {}", client.stderr_tail());
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        Ok(after.saturating_sub(before) as f64 / f64::from(count))
    }

    /// The proportional set sizes of the proxy's processes.
    fn memory_kib(&self) -> Result<u64> {
        let procs = self.site.topology.agent().cgroup().procs();
        let pids = fs::read_to_string(&procs).with_context(|| procs.display().to_string())?;
        let each = pids.lines().map(|pid| {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).with_context(|| path.clone())?;
            machine::kib(&text, "Pss:").with_context(|| format!("{path} has no Pss"))
        });
        each.sum()
    }
}

fn server(pod: &Pod, dir: &Path) -> Result<Process> {
    fs::create_dir_all(dir.join("files"))?;
    for (name, size) in [("small", SMALL), ("large", LARGE)] {
        fs::write(dir.join("files").join(name), vec![b'.'; size])?;
    }
    let addr = pod.at(PORT);
    let config = SERVER.replace("DIR", &dir.display().to_string()).replace("ADDR", &addr.to_string());
    fs::write(dir.join("nginx.conf"), config)?;
    let mut command = pod.command("nginx");
    command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).args(["-g", "daemon off;"]);
    let process = pod.spawn("server", command)?;
    wait::until(PATIENCE, "the server listens", || {
        pod.netns().run(|| TcpStream::connect(addr).map(|_| true))?.map_err(Into::into)
    })?;
    Ok(process)
}

//! The real agent, `weir run`, on a topology's node.

use crate::{
    binary, http,
    kernel::Counters,
    manifest::{ConfigDir, Service},
    metrics::Samples,
    pod::Pod,
    process::Process,
    topology::Topology,
    wait,
};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// Where the agent's admin listener is, in the node's namespace.
pub const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15020);

/// How long the agent may take to be ready; generous, the machine may be busy.
const READY: Duration = Duration::from_secs(30);

static AGENTS: AtomicU32 = AtomicU32::new(0);

/// How an agent is started.
#[derive(Debug)]
pub struct Builder<'a> {
    topology: &'a Topology,
    config: ConfigDir,
    dir: PathBuf,
    arguments: Vec<String>,
    pod_cgroup: PathBuf,
}

/// A running agent, killed on drop.
#[derive(Debug)]
pub struct Agent {
    node: Arc<Pod>,
    process: Process,
    config: ConfigDir,
    access_log: PathBuf,
}

impl<'a> Builder<'a> {
    /// An agent with these Services in a configuration directory of its own.
    pub fn new(topology: &'a Topology, services: &[Service]) -> Result<Self> {
        let dir = topology.dir().join(format!("agent{}", AGENTS.fetch_add(1, Ordering::Relaxed)));
        let config = ConfigDir::new(dir.join("config"), services)?;
        let pod_cgroup = topology.pod_cgroup().to_owned();
        Ok(Self { topology, config, dir, arguments: Vec::new(), pod_cgroup })
    }

    /// Reads another configuration directory.
    #[must_use]
    pub fn config(mut self, config: ConfigDir) -> Self {
        self.config = config;
        self
    }

    /// Adds an argument of `weir run`, `--name=value`; it replaces the harness's own of that name.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = String>) -> Self {
        self.arguments.extend(arguments);
        self
    }

    /// The command, as it would be started.
    pub fn command(&self) -> Result<Command> {
        fs::create_dir_all(&self.dir)?;
        let mut command = self.topology.agent().command(binary::weir()?);
        command.arg("run");
        let own = [
            ("--config", self.config.path().display().to_string()),
            ("--pod-cgroup", self.pod_cgroup.display().to_string()),
            ("--listen-addr", format!("{},{}", self.topology.node().v4(), self.topology.node().v6())),
            ("--run-dir", self.dir.join("run").display().to_string()),
            ("--admin-addr", ADMIN.to_string()),
            ("--access-log", self.access_log().display().to_string()),
        ];
        for (name, value) in own {
            let replaced = |argument: &String| {
                let given = argument.split('=').next();
                given == Some(name) || (name == "--config" && given == Some("--kubeconfig"))
            };
            if !self.arguments.iter().any(replaced) {
                command.arg(format!("{name}={value}"));
            }
        }
        command.args(&self.arguments);
        Ok(command)
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Result<Agent> {
        let mut agent = self.launch()?;
        agent.ready()?;
        Ok(agent)
    }

    /// Starts it without waiting.
    pub fn launch(self) -> Result<Agent> {
        let process = self.topology.agent().spawn("weir", self.command()?)?;
        let access_log = self.access_log();
        Ok(Agent { node: Arc::clone(self.topology.node()), process, config: self.config, access_log })
    }

    fn access_log(&self) -> PathBuf {
        self.dir.join("access.log")
    }
}

impl Agent {
    /// Waits for `/readyz`; fails at once, with what it said, when the agent ends instead.
    pub fn ready(&mut self) -> Result<()> {
        let mut ended = None;
        let waited = wait::until(READY, "the agent is ready", || {
            ended = self.process.ended()?;
            Ok(ended.is_some() || self.get("/readyz")?.status == 200)
        });
        if let Some(status) = ended {
            bail!("the agent ended: {status}; stderr: {}", self.process.stderr_tail());
        }
        waited.with_context(|| format!("agent's stderr: {}", self.process.stderr_tail()))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process.
    #[must_use]
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its configuration directory.
    #[must_use]
    pub const fn config(&self) -> &ConfigDir {
        &self.config
    }

    /// What it has written to standard error.
    pub fn stderr(&self) -> Result<String> {
        self.process.stderr_text()
    }

    /// Replaces its Services and waits until the new ones are in force.
    pub fn reconfigure(&self, services: &[Service]) -> Result<()> {
        self.reconfigured_by(|config| config.write(services))
    }

    /// Replaces its manifests and waits until the new ones are in force.
    pub fn reconfigure_text(&self, text: &str) -> Result<()> {
        self.reconfigured_by(|config| config.write_text(text))
    }

    /// [`Self::reconfigure_text`], without the wait until the directory is quiet.
    pub fn reload_text(&self, text: &str) -> Result<()> {
        self.reconfigured_by(|config| {
            config.write_text(text)?;
            self.hang_up()
        })
    }

    /// Sends SIGHUP: the agent is to read its configuration at once.
    pub fn hang_up(&self) -> Result<()> {
        self.process.signal(Signal::HUP)
    }

    fn reconfigured_by(&self, change: impl FnOnce(&ConfigDir) -> Result<()>) -> Result<()> {
        let before = self.generation()?;
        change(&self.config)?;
        wait::until(Duration::from_secs(10), "the configuration is in force", || {
            Ok(self.generation()? > before)
        })
    }

    /// Counts the configurations that have been in force.
    pub fn generation(&self) -> Result<u64> {
        let status: serde_json::Value = serde_json::from_str(&self.get("/status")?.body)?;
        let generation = status.pointer("/config/generation").and_then(serde_json::Value::as_u64);
        generation.context("no generation in /status")
    }

    /// Asks its admin listener.
    pub fn get(&self, path: &str) -> Result<http::Answer> {
        self.node.netns().run(|| http::get(ADMIN, path))?
    }

    /// The kernel half's counters.
    pub fn counters(&self) -> Result<Counters> {
        Counters::of(self.pid())
    }

    /// Scrapes it.
    pub fn metrics(&self) -> Result<Samples> {
        Samples::parse(&self.get("/metrics")?.body)
    }

    /// Scrapes until the samples satisfy `holds`; the scrape that did.
    pub fn metrics_until(&self, what: &str, holds: impl Fn(&Samples) -> bool) -> Result<Samples> {
        let found = wait::eventually(Duration::from_secs(10), what, || {
            let samples = self.metrics()?;
            Ok(holds(&samples).then_some(samples))
        });
        found.with_context(|| format!("agent's stderr: {}", self.process.stderr_tail()))
    }

    /// `weir status -o json`.
    pub fn status(&self) -> Result<serde_json::Value> {
        let weir = binary::weir()?;
        let arguments =
            ["status".to_owned(), "-o".to_owned(), "json".to_owned(), format!("--admin-addr={ADMIN}")];
        let told = self.node.run(&weir.to_string_lossy(), arguments, Duration::from_secs(20))?;
        // Its exit code is 2 where something is degraded.
        serde_json::from_slice(&told.stdout).with_context(|| format!("weir status: {}", told.stderr))
    }

    /// The access log's lines so far, parsed.
    pub fn access_log(&self) -> Result<Vec<serde_json::Value>> {
        let text = match fs::read_to_string(&self.access_log) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| serde_json::from_str(line).with_context(|| format!("log line {line:?}"))).collect()
    }

    /// Waits for `count` access-log lines, and returns all that are there.
    pub fn logged(&self, count: usize) -> Result<Vec<serde_json::Value>> {
        let found = wait::eventually(Duration::from_secs(10), &format!("{count} access-log lines"), || {
            let lines = self.access_log()?;
            Ok((lines.len() >= count).then_some(lines))
        });
        found.with_context(|| format!("agent's stderr: {}", self.process.stderr_tail()))
    }

    /// The access log's file.
    #[must_use]
    pub fn access_log_path(&self) -> &Path {
        &self.access_log
    }

    /// SIGKILL.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Does something while the agent is stopped: it accepts, reads and answers nothing.
    pub fn stopped<T>(&self, meanwhile: impl FnOnce() -> Result<T>) -> Result<T> {
        self.process.signal(Signal::STOP)?;
        let done = meanwhile();
        self.process.signal(Signal::CONT)?;
        done
    }

    /// SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Resident memory, bytes.
    pub fn rss(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most that was resident since the last [`Agent::forget_peak`].
    pub fn peak(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    /// From now on [`Agent::peak`] begins with what is resident (proc(5), `clear_refs`).
    pub fn forget_peak(&self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").context("clear_refs")
    }

    fn memory(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Open file descriptors.
    pub fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.process.wait(deadline)
    }
}

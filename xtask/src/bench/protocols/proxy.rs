//! The proxies that are compared: how each is told the same, and started.

use super::site::{HOST, Site};
use crate::{exec, setup};
use anyhow::{Context, Result};
use serde::Serialize;
use std::{fmt, fs, net::SocketAddr, path::PathBuf, process::Command};
use weir_tests::{
    agent::{Agent, Builder},
    manifest::{ConfigDir, Service},
    process::Process,
};

/// Threads or processes of each.
const WORKERS: usize = 2;
/// Both hold for everyone; the agent's defaults are lower, for one client.
const ROOM: [&str; 3] = ["--access-log=off", "--max-connections=19000", "--max-connections-per-client=19000"];

/// A proxy.
#[derive(Serialize, clap::ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Proxy {
    #[value(skip)]
    Weir,
    Nginx,
    Haproxy,
    Envoy,
}

/// One that runs.
pub(super) enum Running {
    Agent(Agent),
    Process(Process),
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Proxy {
    /// What the agent is compared with.
    pub(super) const OTHERS: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Envoy];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Weir => "weir",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
        }
    }

    /// The agent, and those of the others that are on this machine.
    pub(super) fn installed(others: &[Self]) -> Vec<Self> {
        let others = others.iter().copied().filter(|proxy| proxy.program().is_some());
        std::iter::once(Self::Weir).chain(others).collect()
    }

    fn program(self) -> Option<PathBuf> {
        match self {
            Self::Weir => None,
            Self::Envoy => exec::which("envoy").or_else(setup::envoy),
            Self::Nginx | Self::Haproxy => exec::which(self.name()),
        }
    }

    /// What it calls its version; the agent's is the commit.
    pub(super) fn version(self) -> Result<String> {
        let Some(program) = self.program() else { return crate::bench::commit() };
        let word = if self == Self::Envoy { "--version" } else { "-v" };
        let said = Command::new(program).arg(word).output().with_context(|| format!("{self} {word}"))?;
        let text = [said.stdout, said.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        Ok(text
            .lines()
            .map(|line| line.rsplit("version: ").next().unwrap_or(line).trim())
            .find(|line| !line.is_empty())
            .unwrap_or_default()
            .to_owned())
    }

    /// Starts it on the node, where the agent would be.
    pub(super) fn start(self, site: &Site) -> Result<Running> {
        let dir = site.topology.dir().join(format!("proxy-{self}"));
        fs::create_dir_all(&dir)?;
        let SocketAddr::V4(endpoint) = site.endpoint() else {
            anyhow::bail!("the endpoint has no IPv4 address")
        };
        let fill = |template: &str| {
            let values = [
                ("ENDPOINT_IP", endpoint.ip().to_string()),
                ("ENDPOINT_PORT", endpoint.port().to_string()),
                ("ENDPOINT", endpoint.to_string()),
                ("NODE", site.topology.node().v4().to_string()),
                ("WORKERS", WORKERS.to_string()),
                ("HOST", HOST.to_owned()),
                ("CHAIN_LINES", indented(&site.pair.chain)),
                ("KEY_LINES", indented(&site.pair.key)),
                ("BUNDLE", site.pair.bundle().display().to_string()),
                ("CHAIN", site.pair.chain_file().display().to_string()),
                ("KEY", site.pair.key_file().display().to_string()),
                ("DIR", dir.display().to_string()),
            ];
            values
                .iter()
                .fold(template.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value))
        };
        let (name, text) = match self {
            Self::Weir => {
                return Ok(Running::Agent(agent(
                    site,
                    dir.join("config"),
                    &fill(include_str!("weir.yaml")),
                )?));
            }
            Self::Nginx => ("nginx.conf", fill(include_str!("nginx.conf"))),
            Self::Haproxy => ("haproxy.cfg", fill(include_str!("haproxy.cfg"))),
            Self::Envoy => ("envoy.yaml", fill(include_str!("envoy.yaml"))),
        };
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        let place = site.topology.agent();
        let mut command = place.command(self.program().with_context(|| format!("{self} is not installed"))?);
        match self {
            Self::Haproxy => command.arg("-db").arg("-f").arg(&file),
            Self::Envoy => command
                .args([
                    "--concurrency",
                    &WORKERS.to_string(),
                    "--log-level",
                    "error",
                    "--disable-hot-restart",
                ])
                .arg("-c")
                .arg(&file),
            Self::Nginx | Self::Weir => {
                command.arg("-p").arg(&dir).arg("-c").arg(&file).args(["-g", "daemon off;"])
            }
        };
        Ok(Running::Process(place.spawn(name, command)?))
    }
}

fn agent(site: &Site, config: PathBuf, objects: &str) -> Result<Agent> {
    let web = Service::new("web", 80).cluster_ip([10, 96, 0, 10]).endpoints([site.endpoint()]);
    let config = ConfigDir::new(config, &[web])?;
    fs::write(config.path().join("gateway.yaml"), objects)?;
    let arguments = ROOM.iter().map(ToString::to_string);
    Builder::new(&site.topology, &[])?.config(config).args(arguments).start()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

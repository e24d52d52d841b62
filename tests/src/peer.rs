//! The scripted peer as tests and verbs use it.

use crate::{
    binary,
    pod::Pod,
    process::{Outcome, Process},
};
use anyhow::{Context, Result};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// A server that runs in a pod.
#[derive(Debug)]
pub struct Server {
    /// Its process.
    pub process: Process,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Server {
    /// The scripted HTTP server on both of the pod's addresses; it calls itself as the pod.
    pub fn http(pod: &Pod, port: u16) -> Result<Self> {
        let listen = format!("{},{}", pod.at(port), pod.at_v6(port));
        Self::start(pod, port, ["http-server", "--listen", &listen, "--name", pod.name()])
    }

    /// The server that tells what it was asked.
    pub fn recorder(pod: &Pod, port: u16) -> Result<Self> {
        Self::start(pod, port, ["recorder", "--listen", &pod.at(port).to_string()])
    }

    /// A server that sends back every byte.
    pub fn echo(pod: &Pod, port: u16) -> Result<Self> {
        Self::start(pod, port, ["echo", "--listen", &format!("{},{}", pod.at(port), pod.at_v6(port))])
    }

    /// A server that writes a banner first.
    pub fn speaks_first(pod: &Pod, port: u16, banner: &str) -> Result<Self> {
        Self::start(pod, port, ["speaks-first", "--listen", &pod.at(port).to_string(), "--banner", banner])
    }

    /// A server that answers everybody on these ports of TCP and UDP, at all of the pod's addresses.
    pub fn answer(pod: &Pod, ports: &[u16]) -> Result<Self> {
        let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        Self::start(pod, ports.first().copied().unwrap_or_default(), ["answer", "--ports", &list])
    }

    fn start<'a>(pod: &Pod, port: u16, arguments: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut process = start(pod, arguments)?;
        process.says("listening", Duration::from_secs(20))?;
        Ok(Self { process, addr: pod.at(port) })
    }
}

/// Starts a verb of the peer in a pod.
pub fn start<'a>(pod: &Pod, arguments: impl IntoIterator<Item = &'a str>) -> Result<Process> {
    let mut command = pod.command(binary::weir_peer()?);
    command.args(arguments);
    pod.spawn("peer", command)
}

/// Runs a verb of the peer in a pod to its end.
pub fn run<'a>(pod: &Pod, arguments: impl IntoIterator<Item = &'a str>) -> Result<Outcome> {
    start(pod, arguments)?.outcome(Duration::from_secs(120))
}

/// `raw`: sends these bytes with more arguments of the verb, and collects what comes back.
pub fn raw(pod: &Pod, to: SocketAddr, bytes: &[u8], arguments: &[&str]) -> Result<Outcome> {
    let to = to.to_string();
    let mut process = start(pod, ["raw", "--to", &to].into_iter().chain(arguments.iter().copied()))?;
    process.send(bytes)?;
    process.outcome(Duration::from_secs(120))
}

/// What `to` (`tcp:ADDRESS:PORT`, `udp:...`) meets from a pod, all at once: `open`, `refused`, `forbidden`,
/// `silent` or `reset`, and after how many milliseconds.
pub fn probe(pod: &Pod, to: &[String]) -> Result<Vec<(String, u64)>> {
    probe_from(pod, None, to)
}

/// [`probe`], from one of the pod's addresses.
pub fn probe_from(pod: &Pod, from: Option<IpAddr>, to: &[String]) -> Result<Vec<(String, u64)>> {
    let targets = to.join(",");
    let from = from.map(|from| from.to_string());
    let from = from.iter().flat_map(|from| ["--from", from.as_str()]);
    let told = run(pod, ["probe", "--to", &targets].into_iter().chain(from))?.json()?;
    let read = |to: &String| {
        let told = told.get(to).with_context(|| format!("nothing told of {to}"))?;
        let word = told.get("met").and_then(serde_json::Value::as_str).context("no word")?;
        Ok((word.to_owned(), told.get("ms").and_then(serde_json::Value::as_u64).context("no time")?))
    };
    to.iter().map(read).collect()
}

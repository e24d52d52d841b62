//! Named network namespaces.

use crate::shell;
use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
};

/// Where named namespaces are mounted.
pub const DIRECTORY: &str = "/run/netns";

/// A named network namespace, deleted on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
}

impl Netns {
    /// A new one with loopback up, forwarding on, and IPv6 addresses usable at once.
    pub fn new(name: &str) -> Result<Self> {
        shell::run(Command::new("ip").args(["netns", "add", name]))?;
        let netns = Self { name: name.to_owned(), path: Path::new(DIRECTORY).join(name) };
        netns.links("link set lo up\n")?;
        netns.sysctls(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
        ])?;
        Ok(netns)
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that setns and `nsenter --net=` take.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs lines of `ip -batch` inside.
    pub fn links(&self, batch: &str) -> Result<()> {
        shell::feed(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), batch)
            .with_context(|| format!("in namespace {}:\n{batch}", self.name))
    }

    /// Sets sysctls below `/proc/sys` inside, given as path and value.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(path, value)| {
                std::fs::write(format!("/proc/sys/{path}"), value).with_context(|| format!("sysctl {path}"))
            })
        })?
    }

    /// Runs a closure on a thread of its own inside; sockets that it makes belong to the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(&self.path).with_context(|| format!("open {}", self.path.display()))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("setns")?;
                Ok(work())
            });
            inside.join().map_err(|_| anyhow!("a thread in namespace {} panicked", self.name))?
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            eprintln!("harness: namespace {} stays: {error:#}", self.name);
        }
    }
}

/// Deletes a named namespace.
pub fn delete(name: &str) -> Result<()> {
    shell::run(Command::new("ip").args(["netns", "del", name])).map(drop)
}

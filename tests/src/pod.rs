//! A pod: a network namespace and a cgroup.

use crate::{
    cgroup::Cgroup,
    netns::Netns,
    process::{Outcome, Process},
    run::Run,
};
use anyhow::Result;
use std::{
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
    sync::Arc,
    time::Duration,
};

/// Joins the cgroup named first, then becomes the rest: sockets are born inside.
const ENTER: &str = r#"echo 0 >"$0" && exec "$@""#;

/// Where processes run as one pod, the node itself or a host process. Fields drop in order: the
/// cgroup kills what still runs, then the namespace goes.
#[derive(Debug)]
pub struct Pod {
    pub(crate) name: String,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    pub(crate) cgroup: Arc<Cgroup>,
    pub(crate) netns: Arc<Netns>,
    pub(crate) run: Arc<Run>,
    /// Keeps the parent cgroups until the last pod is gone.
    pub(crate) _parents: Arc<Vec<Cgroup>>,
}

impl Pod {
    /// Its name within the topology.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    #[must_use]
    pub const fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// Its IPv6 address.
    #[must_use]
    pub const fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// A port of its IPv4 address.
    #[must_use]
    pub const fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.v4), port)
    }

    /// A port of its IPv6 address.
    #[must_use]
    pub const fn at_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.v6), port)
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// A command that runs inside; arguments and environment can be added to it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", ENTER]).arg(self.cgroup.procs());
        command.arg("nsenter").arg(format!("--net={}", self.netns.path().display())).arg("--").arg(program);
        command
    }

    /// Starts a command made by [`Self::command`].
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(&format!("{}-{name}", self.name), command, self.run.dir())
    }

    /// Runs a program inside to its end.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
        deadline: Duration,
    ) -> Result<Outcome> {
        let mut command = self.command(program);
        command.args(arguments);
        self.spawn("run", command)?.outcome(deadline)
    }

    /// curl with `--silent --show-error` and a time limit.
    pub fn curl<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Outcome> {
        let mut command = self.command("curl");
        command.args(["--silent", "--show-error", "--max-time", "60"]).args(arguments);
        self.spawn("curl", command)?.outcome(Duration::from_secs(70))
    }
}

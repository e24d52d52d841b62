//! Attaches the kernel half, connect last, and takes it away again.

use super::{Datapath, Kernel, cgroups, load::ADDRESS_HOOKS, load::program, podwatch::PodWatch, uplinks};
use crate::status::{Board, Degraded};
use anyhow::Context;
use aya::programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, SockOps};
use std::{path::Path, sync::Arc};

impl Datapath {
    /// Attaches every hook, connect last: from here on new connections are steered.
    pub fn attach(&self, board: &Board) -> anyhow::Result<()> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        let scope_path = cgroups::flow_scope(&kernel.pod_parent, &kernel.cgroup_root);
        let scope = cgroups::open(&scope_path)?;
        let pods = cgroups::open(&kernel.pod_parent)?;
        *kernel.pod_watch.lock() = Some(PodWatch::start(&kernel.pods, {
            let kernel = Arc::downgrade(kernel);
            move |pods| {
                if let Some(kernel) = kernel.upgrade() {
                    kernel.pods_changed(pods);
                }
            }
        })?);
        let mut ebpf = kernel.ebpf.lock();
        let sockops: &mut SockOps = program(&mut ebpf, "weir_sockops")?;
        sockops
            .attach(&scope, CgroupAttachMode::Single)
            .with_context(|| attach_failed("weir_sockops", &scope_path))?;
        let release: &mut CgroupSock = program(&mut ebpf, "weir_release")?;
        release
            .attach(&pods, CgroupAttachMode::Single)
            .with_context(|| attach_failed("weir_release", &kernel.pod_parent))?;
        for name in ADDRESS_HOOKS.iter().rev() {
            let hook: &mut CgroupSockAddr = program(&mut ebpf, name)?;
            hook.attach(&pods, CgroupAttachMode::Single)
                .with_context(|| attach_failed(name, &kernel.pod_parent))?;
        }
        drop(ebpf);
        kernel.datagrams.lock().pods_are_known();
        kernel.follow_datagrams()?;
        kernel.attach_uplinks(board)?;
        kernel.steer(true)
    }

    /// New connections go past the agent from here on; open ones stay.
    pub fn stop_steering(&self) -> anyhow::Result<()> {
        self.kernel.as_ref().map_or(Ok(()), |kernel| kernel.steer(false))
    }

    /// Stops reading events after those that are there. The programs go with the last handle.
    pub fn finish(&self) {
        if let Some(kernel) = &self.kernel {
            kernel.pod_watch.lock().take();
            kernel.events.lock().take();
        }
    }
}

impl Kernel {
    /// Attaches the tc programs where they are missing.
    pub(super) fn attach_uplinks(&self, board: &Board) -> anyhow::Result<()> {
        const WHAT: &str = "uplinks";
        let wanted = uplinks::find(&self.uplinks)?;
        let failed = uplinks::attach(&mut self.ebpf.lock(), &wanted, &mut self.attached.lock());
        if failed.is_empty() {
            board.recovered(WHAT);
            return Ok(());
        }
        let why: Vec<_> = failed.iter().map(|error| format!("{error:#}")).collect();
        board.degraded(Degraded {
            what: WHAT.to_owned(),
            why: why.join("; "),
            fix: "connections from outside go past the agent there; name the interfaces with --uplink"
                .to_owned(),
        });
        Ok(())
    }

    fn steer(&self, on: bool) -> anyhow::Result<()> {
        let mut settings = self.settings.lock();
        settings.steering = u32::from(on);
        Ok(self.tables.write_settings(&settings)?)
    }
}

pub(super) fn attach_failed(name: &str, cgroup: &Path) -> String {
    format!("cannot attach {name} to cgroup {}", cgroup.display())
}

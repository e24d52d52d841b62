//! Attaches the kernel half, connect last, and takes it away again.

use super::{
    Datapath, Kernel, cgroups,
    load::{ADDRESS_HOOKS, program},
    pins::Pins,
    podwatch::PodWatch,
    uplinks,
};
use crate::status::{Board, Degraded};
use anyhow::Context;
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSock, CgroupSockAddr, ProgramError, ProgramFd, SchedClassifier,
    SockOps, cgroup_skb::CgroupSkbLinkId, cgroup_sock::CgroupSockLinkId,
    cgroup_sock_addr::CgroupSockAddrLinkId, links::FdLink, tc::SchedClassifierLinkId,
};
use proxy_common::abi::{LISTENER4, LISTENER6};
use std::{fs::File, os::unix::fs::MetadataExt, path::Path, sync::Arc};
use tokio::net::TcpListener;

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
        // What is pinned is attached already: from the moment that it is ours, it may steer.
        kernel.steer(true)?;
        let mut pins = kernel.pins.lock();
        let release: &mut CgroupSock = program(&mut ebpf, "weir_release")?;
        let id = cgroup_id(&pods)?;
        hold(pins.as_mut(), "weir_release", id, release, |hook| {
            hook.attach(&pods, CgroupAttachMode::Single)
                .with_context(|| attach_failed("weir_release", &kernel.pod_parent))
        })?;
        for name in ADDRESS_HOOKS.iter().rev() {
            let hook: &mut CgroupSockAddr = program(&mut ebpf, name)?;
            hold(pins.as_mut(), name, id, hook, |hook| {
                hook.attach(&pods, CgroupAttachMode::Single)
                    .with_context(|| attach_failed(name, &kernel.pod_parent))
            })?;
        }
        drop((ebpf, pins));
        kernel.datagrams.lock().pods_are_known();
        kernel.follow_datagrams()?;
        kernel.attach_uplinks(board)?;
        kernel.pins.lock().as_ref().map_or(Ok(()), Pins::remove_others)
    }

    /// Tells the kernel half where connections are accepted; call before [`Datapath::attach`].
    pub fn listening(&self, listeners: &[TcpListener]) -> anyhow::Result<()> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        for (index, is_v6) in [(LISTENER4, false), (LISTENER6, true)] {
            let mut fit = listeners
                .iter()
                .filter(|listener| listener.local_addr().is_ok_and(|addr| addr.is_ipv6() == is_v6));
            if let Some(listener) = fit.next() {
                kernel.tables.listen(index, listener)?;
            }
        }
        Ok(())
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
        let failed = uplinks::attach(
            &mut self.ebpf.lock(),
            &wanted,
            &mut self.attached.lock(),
            self.pins.lock().as_mut(),
        );
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

/// Kinds of programs that can be attached by a link.
pub(super) trait Linkable {
    type Id;
    fn handle(&self) -> Result<&ProgramFd, ProgramError>;
    /// Takes a link out of the program's keeping.
    fn link(&mut self, id: Self::Id) -> anyhow::Result<FdLink>;
}

macro_rules! linkable {
    ($($kind:ty: $id:ty,)*) => {$(
        impl Linkable for $kind {
            type Id = $id;
            fn handle(&self) -> Result<&ProgramFd, ProgramError> {
                self.fd()
            }
            fn link(&mut self, id: Self::Id) -> anyhow::Result<FdLink> {
                Ok(self.take_link(id)?.try_into()?)
            }
        }
    )*};
}
linkable! {
    CgroupSock: CgroupSockLinkId,
    CgroupSockAddr: CgroupSockAddrLinkId,
    CgroupSkb: CgroupSkbLinkId,
    SchedClassifier: SchedClassifierLinkId,
}

/// Attaches a program, and pins its link where links are pinned; `place` tells the places of one program apart.
/// `None`: the link is not the program's to keep.
pub(super) fn hold<P: Linkable>(
    pins: Option<&mut Pins>,
    name: &str,
    place: u64,
    program: &mut P,
    attach: impl FnOnce(&mut P) -> anyhow::Result<P::Id>,
) -> anyhow::Result<Option<P::Id>> {
    let Some(pins) = pins else { return attach(program).map(Some) };
    let handle = program.handle()?.try_clone()?;
    pins.hold(format!("{name}-{place}"), &handle, || {
        let id = attach(program)?;
        program.link(id).with_context(|| format!("{name} has no link that could be pinned"))
    })?;
    Ok(None)
}

/// As programs see it, and never used again.
pub(super) fn cgroup_id(cgroup: &File) -> anyhow::Result<u64> {
    Ok(cgroup.metadata().context("the pods' cgroup")?.ino())
}

pub(super) fn attach_failed(name: &str, cgroup: &Path) -> String {
    format!("cannot attach {name} to cgroup {}", cgroup.display())
}

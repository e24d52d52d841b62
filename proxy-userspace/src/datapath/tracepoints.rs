//! Attaches the witnesses of probation, `watch.rs` in the kernel half; mounts tracefs for it where it is
//! missing.

use super::load::{load_failed, program};
use crate::status::Degraded;
use anyhow::Context as _;
use aya::{Ebpf, programs::TracePoint};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::path::Path;

const TRACEPOINTS: [(&str, &str); 2] =
    [("weir_splice", "sys_enter_splice"), ("weir_ioctl", "sys_enter_ioctl")];
const TRACEFS: &str = "/sys/kernel/tracing";

/// Loads them.
pub(super) fn load(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    for (name, _) in TRACEPOINTS {
        program::<TracePoint>(ebpf, name)?.load().with_context(|| load_failed(name))?;
    }
    Ok(())
}

/// Without them no workload can be admitted.
pub(super) fn attach(ebpf: &mut Ebpf, degraded: &mut Vec<Degraded>) -> Option<()> {
    let attached = with_tracefs(|| {
        for (name, tracepoint) in TRACEPOINTS {
            let witness: &mut TracePoint = program(ebpf, name)?;
            witness
                .attach("syscalls", tracepoint)
                .with_context(|| format!("tracepoint syscalls:{tracepoint}"))?;
        }
        Ok(())
    });
    attached
        .inspect_err(|error| {
            degraded.push(Degraded {
                what: "acceleration".into(),
                why: format!("probation has no witness: {error:#}"),
                fix: format!("mount tracefs on {TRACEFS}, or --acceleration off"),
            });
        })
        .ok()
}

/// Tracepoints are found by files of tracefs. Where it is not mounted, `attach` runs on a thread with a
/// mount namespace of its own and tracefs mounted there: nobody else sees it, and it goes with the
/// thread.
fn with_tracefs(attach: impl FnOnce() -> anyhow::Result<()> + Send) -> anyhow::Result<()> {
    if Path::new(TRACEFS).join("events").exists() {
        return attach();
    }
    std::thread::scope(|scope| {
        let attached = scope.spawn(|| {
            mount_tracefs_for_this_thread()?;
            attach()
        });
        attached.join().map_err(|_| anyhow::anyhow!("the thread that attaches tracepoints panicked"))?
    })
}

#[expect(unsafe_code, reason = "unshare is unsafe for file descriptor tables")]
fn mount_tracefs_for_this_thread() -> anyhow::Result<()> {
    // SAFETY: the file descriptor table stays shared: only mounts and the working directory part.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.context("a mount namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("keep mounts to this thread")?;
    mount("tracefs", TRACEFS, "tracefs", MountFlags::empty(), None)
        .with_context(|| format!("mount tracefs on {TRACEFS}"))
}

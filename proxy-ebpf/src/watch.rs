//! Tracepoints sys_enter_splice and sys_enter_ioctl: probation's witnesses and the trip-wire. A
//! workload that calls splice(2) or ioctl(FIONREAD) would see a mapped socket behave differently
//! (where the boot self-test found so), so its sockets must not be mapped.

use crate::{
    ctx, events,
    maps::{ADMITTED, WORKLOADS, settings},
};
use aya_ebpf::{
    bindings::sk_msg_md,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_cgroup_id},
    macros::tracepoint,
    programs::TracePointContext,
};
use proxy_common::abi::{
    BARRED_BY_BLOCKING, BARRED_BY_FIONREAD, BARRED_BY_SPLICE, Settings, WORKLOAD_ADMITTED,
};

/// `asm-generic/ioctls.h`
const FIONREAD: u64 = 0x541b;
/// Offset of the second argument in a `sys_enter_*` record: 8 bytes of common fields, 8 of syscall
/// number, 8 an argument.
const SECOND_ARGUMENT: usize = 24;

#[tracepoint]
fn weir_splice(_ctx: TracePointContext) -> u32 {
    if settings().is_some_and(|settings| settings.splice_bars != 0) {
        bar(BARRED_BY_SPLICE);
    }
    0
}

#[tracepoint]
fn weir_ioctl(ctx: TracePointContext) -> u32 {
    // SAFETY: within the record of this tracepoint.
    if unsafe { ctx.read_at::<u64>(SECOND_ARGUMENT) } == Ok(FIONREAD)
        && settings().is_some_and(|settings| settings.fionread_bars != 0)
    {
        bar(BARRED_BY_FIONREAD);
    }
    0
}

/// A mapped client's first message. On a mapped socket a recv(2) that blocks fails with EAGAIN when
/// anything but data wakes it, so a client that blocks is left alone from its next connection on.
#[inline(always)]
pub fn client_speaks(msg: *mut sk_msg_md, settings: &Settings) {
    if settings.blocking_bars != 0 && ctx::blocks(msg, settings) {
        bar(BARRED_BY_BLOCKING);
    }
}

#[inline(always)]
fn bar(by: u32) {
    // SAFETY: no arguments.
    let cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(workload) = WORKLOADS.get_ptr_mut(cgroup_id) else { return };
    if settings().is_some_and(|settings| settings.agent_pid == pid) {
        return;
    }
    // SAFETY: only this program and its sibling write; a lost increment is harmless.
    let workload = unsafe { &mut *workload };
    if by == BARRED_BY_SPLICE {
        workload.splices = workload.splices.wrapping_add(1);
    } else if by == BARRED_BY_FIONREAD {
        workload.fionreads = workload.fionreads.wrapping_add(1);
    }
    if workload.barred == 0 {
        workload.barred = 1;
        // SAFETY: not preallocated, so an entry stays whole while we read it.
        let admitted = unsafe { ADMITTED.get(cgroup_id) } == Some(&WORKLOAD_ADMITTED);
        events::workload_barred(by, cgroup_id, pid, admitted);
    }
}

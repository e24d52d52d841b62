//! Decides a request by the compiled policy: keys from the message, two lookups, and
//! `proxy_common::policy::decide`.

use crate::{
    maps::{HOSTS, PATHS},
    scan,
    scratch::Scratch,
};
use aya_ebpf::{bindings::sk_msg_md, maps::lpm_trie::Key};
use core::hint::black_box;
use proxy_common::{
    head::{RequestHead, Span},
    policy::{
        HOST_MAX, HostKey, POLICY_NONE, PathNode, TARGET_MAX, TargetKey, Verdict, decide as decide_by,
        fill_host, host_bits, target_bits,
    },
};

/// The verdict on the request that the message begins with, of which `head` is the head.
#[inline(always)]
pub fn decide(msg: *mut sk_msg_md, head: &RequestHead, policy: u32) -> Verdict {
    if policy == POLICY_NONE {
        return Verdict::Allow { rule: 0 };
    }
    Scratch::with(|scratch| {
        let Some(node) = node(scratch, msg, head.target, policy) else { return Verdict::Unsure };
        let hosts = if node.asks_for_host() { hosts(scratch, msg, head.host) } else { Some(0) };
        hosts.map_or(Verdict::Unsure, |hosts| decide_by(Some(node), head.method, hosts))
    })
    .unwrap_or(Verdict::Unsure)
}

/// The node with the longest pattern that the target begins with.
#[inline(always)]
fn node(scratch: &mut Scratch, msg: *mut sk_msg_md, target: Span, policy: u32) -> Option<&'static PathNode> {
    let len = target.len();
    if len as usize >= TARGET_MAX {
        return None;
    }
    scan::copy(&mut scratch.target.target, msg, target)?;
    *scratch.target.target.get_mut(len as usize)? = 0;
    scratch.target.policy = policy;
    scratch.target_bits = target_bits(len);
    // SAFETY: prefix length and data lie one behind the other, as in `Key`, which asks for no alignment.
    PATHS.get(unsafe { &*(&raw const scratch.target_bits).cast::<Key<TargetKey>>() })
}

/// The host patterns that match; `None` where the host is too long to say.
#[inline(always)]
fn hosts(scratch: &mut Scratch, msg: *mut sk_msg_md, host: Span) -> Option<u64> {
    let len = host.len();
    if len as usize >= HOST_MAX {
        return None;
    }
    scan::copy(&mut scratch.host, msg, host)?;
    // Opaque: LLVM, knowing its range, would drop the mask that the verifier needs.
    fill_host(&mut scratch.host_key, &scratch.host, black_box(len));
    scratch.host_bits = host_bits(len);
    // SAFETY: as in `node`.
    let found = HOSTS.get(unsafe { &*(&raw const scratch.host_bits).cast::<Key<HostKey>>() });
    Some(found.copied().unwrap_or(0))
}

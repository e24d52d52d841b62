//! The host patterns of all policies in force as one table of the kernel half.

use super::register::HostBit;
use proxy_common::policy::{HOST_MAX, HostKey};
use std::{collections::BTreeSet, sync::Arc};

/// Bits that count of each key, the key, and the bits of every pattern that hosts with it match.
pub(crate) fn host_table(hosts: &[Arc<HostBit>]) -> Vec<(u32, HostKey, u64)> {
    let patterns: BTreeSet<&[u8]> = hosts.iter().map(|host| host.pattern.key.as_slice()).collect();
    let entry = |pattern: &[u8]| {
        let mut key = HostKey { host: [0; HOST_MAX] };
        key.host.iter_mut().zip(pattern).for_each(|(to, from)| *to = *from);
        let covering = hosts.iter().filter(|other| other.pattern.covers(pattern));
        let bits = covering.fold(0, |all, other| all | other.bit());
        let bytes = u32::try_from(pattern.len()).unwrap_or(u32::MAX);
        (bytes.saturating_mul(u8::BITS), key, bits)
    };
    patterns.into_iter().map(entry).collect()
}

//! The agent's listeners, and whether somebody still accepts there: a socket leaves its map when it is closed,
//! also when the agent is killed. What is pinned outlives the agent, and must not lead to nobody.

use crate::maps::LISTENERS;
use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_sk_release};
use proxy_common::{
    abi::{LISTENER4, LISTENER6, Settings},
    addr::{AddrWords, unmapped},
};

/// The listener of an address's family; zero where there is none.
#[inline(always)]
pub fn address(settings: &Settings, addr: &AddrWords) -> AddrWords {
    if unmapped(addr).is_some() { settings.listener4 } else { settings.listener6 }
}

/// Whether it is there and takes new connections.
#[inline(always)]
pub fn accepts(settings: &Settings, addr: &AddrWords) -> bool {
    settings.steering != 0 && address(settings, addr) != [0; 4] && is_open(addr)
}

#[inline(always)]
fn is_open(addr: &AddrWords) -> bool {
    let index = if unmapped(addr).is_some() { LISTENER4 } else { LISTENER6 };
    let map = (&raw const LISTENERS).cast_mut().cast();
    // SAFETY: a map and a key of its type.
    let sock = unsafe { bpf_map_lookup_elem(map, (&raw const index).cast()) };
    if sock.is_null() {
        return false;
    }
    // SAFETY: the reference that the look-up took.
    unsafe { bpf_sk_release(sock) };
    true
}

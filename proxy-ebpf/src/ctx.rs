//! The only raw reads and writes of hook contexts and kernel structures. Byte orders end here:
//! addresses leave as network-order words, IPv4 mapped; ports in host order.
//!
//! Context fields must be accessed with their own width and at constant offsets; volatile accesses keep
//! LLVM from merging neighbours, and reading both families before choosing keeps it from computing an
//! offset.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock_addr, bpf_sock_ops, sk_msg_md},
    helpers::{bpf_probe_read_kernel, generated::bpf_msg_pull_data},
};
use core::ptr::{read_volatile, write_volatile};
use proxy_common::{
    abi::Settings,
    addr::{AddrWords, mapped},
    flow::FlowKey,
};

const AF_INET: u32 = 2;
/// `asm-generic/fcntl.h`
const O_NONBLOCK: u32 = 0o4000;

/// IP protocol number of TCP.
pub const TCP: u32 = 6;

macro_rules! words {
    ($field:expr) => {{
        // SAFETY: the field is four words of a context that the kernel handed to the program.
        unsafe {
            let base = (&raw const $field).cast::<u32>();
            [
                read_volatile(base),
                read_volatile(base.add(1)),
                read_volatile(base.add(2)),
                read_volatile(base.add(3)),
            ]
        }
    }};
}

macro_rules! word {
    ($field:expr) => {
        // SAFETY: the field is one word of a context that the kernel handed to the program.
        unsafe { read_volatile(&raw const $field) }
    };
}

/// The destination of a connect on an IPv4 socket.
#[inline(always)]
pub fn destination4(ctx: *mut bpf_sock_addr) -> (AddrWords, u16) {
    (mapped(word!((*ctx).user_ip4)), port_of_user(ctx))
}

/// The destination of a connect on an IPv6 socket.
#[inline(always)]
pub fn destination6(ctx: *mut bpf_sock_addr) -> (AddrWords, u16) {
    (words!((*ctx).user_ip6), port_of_user(ctx))
}

/// The protocol of the socket behind a `bpf_sock_addr`.
#[inline(always)]
pub fn protocol(ctx: *mut bpf_sock_addr) -> u32 {
    word!((*ctx).protocol)
}

/// Whether a packet that begins with its IP header is plainly TCP: what has headers between is read elsewhere.
#[inline(always)]
pub fn is_tcp(skb: *mut __sk_buff) -> bool {
    /// Where the protocol is, of IPv4 and of IPv6.
    const V4: usize = 9;
    const V6: usize = 6;
    let (data, end) = (word!((*skb).data) as usize, word!((*skb).data_end) as usize);
    if data + V4 + 1 > end {
        return false;
    }
    // SAFETY: three bytes between the packet's bounds.
    let (version, v4, v6) = unsafe {
        let at = data as *const u8;
        (read_volatile(at) >> 4, read_volatile(at.add(V4)), read_volatile(at.add(V6)))
    };
    (version == 4 && u32::from(v4) == TCP) || (version == 6 && u32::from(v6) == TCP)
}

/// `user_port`: network order in the low half of a word.
#[inline(always)]
fn port_of_user(ctx: *mut bpf_sock_addr) -> u16 {
    u16::from_be(word!((*ctx).user_port) as u16)
}

/// Replaces the address of an IPv4 context.
#[inline(always)]
pub fn rewrite4(ctx: *mut bpf_sock_addr, addr: &AddrWords, port: u16) {
    // SAFETY: both fields are writable words of this context in connect4 and getpeername4.
    unsafe {
        write_volatile(&raw mut (*ctx).user_ip4, addr[3]);
        write_volatile(&raw mut (*ctx).user_port, u32::from(port.to_be()));
    }
}

/// Replaces the address of an IPv6 context.
#[inline(always)]
pub fn rewrite6(ctx: *mut bpf_sock_addr, addr: &AddrWords, port: u16) {
    // SAFETY: the fields are writable words of this context in connect6 and getpeername6.
    unsafe {
        let base = (&raw mut (*ctx).user_ip6).cast::<u32>();
        write_volatile(base, addr[0]);
        write_volatile(base.add(1), addr[1]);
        write_volatile(base.add(2), addr[2]);
        write_volatile(base.add(3), addr[3]);
        write_volatile(&raw mut (*ctx).user_port, u32::from(port.to_be()));
    }
}

/// The socket of a sock_ops callback.
#[inline(always)]
pub fn flow_of_ops(ops: *mut bpf_sock_ops) -> FlowKey {
    let (local4, remote4) = (mapped(word!((*ops).local_ip4)), mapped(word!((*ops).remote_ip4)));
    let (local6, remote6) = (words!((*ops).local_ip6), words!((*ops).remote_ip6));
    let v4 = word!((*ops).family) == AF_INET;
    FlowKey {
        local: if v4 { local4 } else { local6 },
        remote: if v4 { remote4 } else { remote6 },
        local_port: word!((*ops).local_port) as u16,
        remote_port: upper_half_port(word!((*ops).remote_port)),
    }
}

/// The sender of a message.
#[inline(always)]
pub fn flow_of_msg(msg: *mut sk_msg_md) -> FlowKey {
    let (local4, remote4) = (mapped(word!((*msg).local_ip4)), mapped(word!((*msg).remote_ip4)));
    let (local6, remote6) = (words!((*msg).local_ip6), words!((*msg).remote_ip6));
    let v4 = word!((*msg).family) == AF_INET;
    FlowKey {
        local: if v4 { local4 } else { local6 },
        remote: if v4 { remote4 } else { remote6 },
        local_port: word!((*msg).local_port) as u16,
        remote_port: upper_half_port(word!((*msg).remote_port)),
    }
}

/// `remote_port` of sock_ops and sk_msg contexts: network order in the upper half of a word.
#[inline(always)]
fn upper_half_port(word: u32) -> u16 {
    u16::from_be((word >> 16) as u16)
}

/// Reads one word of kernel memory.
#[inline(always)]
fn peek<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address; a bad one is an error, not a fault.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// The address behind a context's `sk` pointer, as a number: the verifier allows no arithmetic on
/// the pointer itself, but it may be read back from the stack.
#[inline(always)]
fn address_of<T>(sk: *mut T) -> Option<u64> {
    peek((&raw const sk) as u64)
}

/// The cgroup v2 id of the socket of a sock_ops callback; 0 when it cannot be read.
#[inline(always)]
pub fn cgroup_of_ops(ops: *mut bpf_sock_ops, settings: &Settings) -> u64 {
    // SAFETY: `sk` is a pointer field of this context.
    let sk = unsafe { (*ops).__bindgen_anon_2.sk };
    cgroup_of(sk, settings).unwrap_or(0)
}

#[inline(always)]
fn cgroup_of<T>(sk: *mut T, settings: &Settings) -> Option<u64> {
    let sock = address_of(sk)?;
    let cgroup: u64 = peek(sock + u64::from(settings.sock_cgroup))?;
    let kn: u64 = peek(cgroup + u64::from(settings.cgroup_kn))?;
    peek(kn + u64::from(settings.kn_id))
}

/// The error that ended the socket of a sock_ops callback; 0 for none.
#[inline(always)]
pub fn error_of_ops(ops: *mut bpf_sock_ops, settings: &Settings) -> u32 {
    // SAFETY: `sk` is a pointer field of this context.
    let sk = unsafe { (*ops).__bindgen_anon_2.sk };
    address_of(sk).and_then(|sock| peek(sock + u64::from(settings.sock_err))).unwrap_or(0)
}

/// Whether the sender of a message has read everything that was redirected to it: its psock's
/// `ingress_msg` list is empty. Unreadable counts as not drained.
#[inline(always)]
pub fn drained(msg: *mut sk_msg_md, settings: &Settings) -> bool {
    // SAFETY: `sk` is a pointer field of this context.
    let sk = unsafe { (*msg).__bindgen_anon_3.sk };
    queue_is_empty(sk, settings).unwrap_or(false)
}

/// As [`drained`], for a socket that was looked up.
#[inline(always)]
pub fn drained_sock<T>(sk: *mut T, settings: &Settings) -> bool {
    queue_is_empty(sk, settings).unwrap_or(false)
}

/// Whether the sender of a message uses its socket without `O_NONBLOCK`. Unreadable counts as not.
#[inline(always)]
pub fn blocks(msg: *mut sk_msg_md, settings: &Settings) -> bool {
    // SAFETY: `sk` is a pointer field of this context.
    let sk = unsafe { (*msg).__bindgen_anon_3.sk };
    file_flags(sk, settings).is_some_and(|flags| flags & O_NONBLOCK == 0)
}

/// As [`blocks`], for the socket of a state change.
#[inline(always)]
pub fn blocks_ops(ops: *mut bpf_sock_ops, settings: &Settings) -> bool {
    // SAFETY: `sk` is a pointer field of this context.
    let sk = unsafe { (*ops).__bindgen_anon_2.sk };
    file_flags(sk, settings).is_some_and(|flags| flags & O_NONBLOCK == 0)
}

#[inline(always)]
fn file_flags<T>(sk: *mut T, settings: &Settings) -> Option<u32> {
    let sock = address_of(sk)?;
    let socket: u64 = peek(sock + u64::from(settings.sock_socket))?;
    let file: u64 = peek(socket + u64::from(settings.socket_file))?;
    peek(file + u64::from(settings.file_flags))
}

/// As [`drained`], for the socket of a state change.
#[inline(always)]
pub fn drained_ops(ops: *mut bpf_sock_ops, settings: &Settings) -> bool {
    // SAFETY: `sk` is a pointer field of this context.
    let sk = unsafe { (*ops).__bindgen_anon_2.sk };
    queue_is_empty(sk, settings).unwrap_or(false)
}

#[inline(always)]
fn queue_is_empty<T>(sk: *mut T, settings: &Settings) -> Option<bool> {
    /// Flag bits in the low end of `sk_user_data` (`SK_USER_DATA_PTRMASK`).
    const FLAGS: u64 = 7;
    let sock = address_of(sk)?;
    let user_data: u64 = peek(sock + u64::from(settings.sock_user_data))?;
    let head = (user_data & !FLAGS) + u64::from(settings.psock_ingress);
    let first: u64 = peek(head)?;
    Some(first == head)
}

/// The linear part of a message: its first byte's address, and the address behind its last.
#[inline(always)]
pub fn data(msg: *mut sk_msg_md) -> (usize, usize) {
    // SAFETY: both are pointer fields of this context.
    unsafe { ((*msg).__bindgen_anon_1.data as usize, (*msg).__bindgen_anon_2.data_end as usize) }
}

/// Makes the first `len` bytes of a message linear, or all that it has. Copied is what crosses the end of
/// the kernel's buffer, one small message in some hundred, and what the sender can still change
/// (sendfile, `MSG_ZEROCOPY`).
#[inline(always)]
pub fn pull(msg: *mut sk_msg_md, len: usize) {
    let (data, end) = self::data(msg);
    let wanted = len.min(word!((*msg).size) as usize);
    if end.saturating_sub(data) < wanted {
        // SAFETY: the kernel's own context. What cannot be pulled stays out of sight.
        unsafe { bpf_msg_pull_data(msg, 0, wanted as u32, 0) };
    }
}

//! Packets as the tc programs and those of datagrams see them: read by helper calls, so that it does not matter which part is
//! linear, and rewritten with their checksums.

use aya_ebpf::{
    bindings::BPF_F_PSEUDO_HDR,
    helpers::generated::bpf_skb_change_tail,
    programs::{TcContext, sk_buff::SkBuff},
};
use core::mem::offset_of;
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};
use proxy_common::{
    addr::{AddrWords, mapped, unmapped},
    flow::FlowKey,
};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Extension headers that are skipped; what has more is not read.
const MAX_EXTENSIONS: usize = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;

/// Bits of the TCP header's flags.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A packet with ports.
pub struct Packet {
    /// Its sender's view: local is the source.
    pub flow: FlowKey,
    /// [`TCP`], [`UDP`] or [`SCTP`].
    pub protocol: u8,
    /// Where its transport header begins.
    pub l4: usize,
    /// The TCP header's flags, else 0.
    flags: u8,
}

/// What was found.
pub enum Parsed {
    /// It has ports.
    Packet(Packet),
    /// Not IP, another protocol, or a later fragment, which goes the way of the first.
    Other,
    /// Cut short, or behind more headers than are read.
    Unreadable,
}

/// Which end of a packet is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

impl Packet {
    /// It may be the first of its flow.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.protocol != TCP || self.is_syn()
    }

    /// It opens a TCP connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }
}

/// Reads the headers of an Ethernet frame.
#[inline(always)]
pub fn parse(ctx: &TcContext) -> Parsed {
    let Ok(ether_type) = ctx.load::<u16>(offset_of!(EthHdr, ether_type)) else { return Parsed::Unreadable };
    match u16::from_be(ether_type) {
        ETHERTYPE_IPV4 => parse4(&ctx.skb, EthHdr::LEN),
        ETHERTYPE_IPV6 => parse6(&ctx.skb, EthHdr::LEN),
        _ => Parsed::Other,
    }
}

/// Reads the headers of a packet that begins with its IP header.
#[inline(always)]
pub fn parse_ip(skb: &SkBuff) -> Parsed {
    match skb.load::<u8>(0) {
        Ok(first) if first >> 4 == 4 => parse4(skb, 0),
        Ok(first) if first >> 4 == 6 => parse6(skb, 0),
        Ok(_) => Parsed::Other,
        Err(_) => Parsed::Unreadable,
    }
}

#[inline(always)]
fn parse4(skb: &SkBuff, at: usize) -> Parsed {
    let Ok(ip) = skb.load::<Ipv4Hdr>(at) else { return Parsed::Unreadable };
    if ip.frag_offset() != 0 {
        return Parsed::Other;
    }
    let ends = (mapped(u32::from_ne_bytes(ip.src_addr)), mapped(u32::from_ne_bytes(ip.dst_addr)));
    transport(skb, ip.proto, at + usize::from(ip.ihl()), ends)
}

#[inline(always)]
fn parse6(skb: &SkBuff, at: usize) -> Parsed {
    let Ok(ip) = skb.load::<Ipv6Hdr>(at) else { return Parsed::Unreadable };
    let (mut next, mut at) = (ip.next_hdr, at + Ipv6Hdr::LEN);
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
            break;
        }
        let Ok(head) = skb.load::<[u8; 4]>(at) else { return Parsed::Unreadable };
        let [following, length, offset_high, offset_low] = head;
        if next == FRAGMENT {
            if u16::from_be_bytes([offset_high, offset_low]) >> 3 != 0 {
                return Parsed::Other;
            }
            at += 8;
        } else {
            at += (usize::from(length) + 1) * 8;
        }
        next = following;
    }
    if matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
        return Parsed::Unreadable;
    }
    transport(skb, next, at, (words(ip.src_addr), words(ip.dst_addr)))
}

#[inline(always)]
fn words(octets: [u8; 16]) -> AddrWords {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

#[inline(always)]
fn transport(skb: &SkBuff, protocol: u8, l4: usize, (source, destination): (AddrWords, AddrWords)) -> Parsed {
    if !matches!(protocol, TCP | UDP | SCTP) {
        return Parsed::Other;
    }
    // All three begin with their ports.
    let Ok([a, b, c, d]) = skb.load::<[u8; 4]>(l4) else { return Parsed::Unreadable };
    let mut flags = 0;
    if protocol == TCP {
        let Ok(found) = skb.load::<u8>(l4 + TCP_FLAGS) else { return Parsed::Unreadable };
        flags = found;
    }
    let flow = FlowKey {
        local: source,
        remote: destination,
        local_port: u16::from_be_bytes([a, b]),
        remote_port: u16::from_be_bytes([c, d]),
    };
    Parsed::Packet(Packet { flow, protocol, l4, flags })
}

/// Where the flags are in a TCP header: behind data offset and reserved bits.
const TCP_FLAGS: usize = offset_of!(TcpHdr, ack_seq) + 5;

/// Replaces the address and port of one end of a TCP packet; the address must be of the same family.
#[inline(always)]
pub fn rewrite(
    ctx: &TcContext,
    packet: &Packet,
    end: End,
    (addr, port): (&AddrWords, u16),
) -> Result<(), i64> {
    let (old, old_port) = match end {
        End::Source => (packet.flow.local, packet.flow.local_port),
        End::Destination => (packet.flow.remote, packet.flow.remote_port),
    };
    let check = packet.l4 + offset_of!(TcpHdr, check);
    match (unmapped(&old), unmapped(addr)) {
        (Some(old), Some(new)) => rewrite_addr4(ctx, end, check, (old, new))?,
        (None, None) => rewrite_addr6(ctx, end, check, (&old, addr))?,
        _ => return Err(-1),
    }
    let at = match end {
        End::Source => offset_of!(TcpHdr, source),
        End::Destination => offset_of!(TcpHdr, dest),
    };
    ctx.l4_csum_replace(check, u64::from(old_port.to_be()), u64::from(port.to_be()), 2)?;
    ctx.store(packet.l4 + at, &port.to_be(), 0)
}

#[inline(always)]
fn rewrite_addr4(ctx: &TcContext, end: End, check: usize, (old, new): (u32, u32)) -> Result<(), i64> {
    let at = match end {
        End::Source => offset_of!(Ipv4Hdr, src_addr),
        End::Destination => offset_of!(Ipv4Hdr, dst_addr),
    };
    let pseudo = u64::from(BPF_F_PSEUDO_HDR) | 4;
    ctx.l4_csum_replace(check, u64::from(old), u64::from(new), pseudo)?;
    ctx.l3_csum_replace(EthHdr::LEN + offset_of!(Ipv4Hdr, check), u64::from(old), u64::from(new), 4)?;
    ctx.store(EthHdr::LEN + at, &new, 0)
}

#[inline(always)]
fn rewrite_addr6(
    ctx: &TcContext,
    end: End,
    check: usize,
    (old, new): (&AddrWords, &AddrWords),
) -> Result<(), i64> {
    let at = match end {
        End::Source => offset_of!(Ipv6Hdr, src_addr),
        End::Destination => offset_of!(Ipv6Hdr, dst_addr),
    };
    let pseudo = u64::from(BPF_F_PSEUDO_HDR) | 4;
    for (old, new) in old.iter().zip(new) {
        ctx.l4_csum_replace(check, u64::from(*old), u64::from(*new), pseudo)?;
    }
    ctx.store(EthHdr::LEN + at, new, 0)
}

/// The end of the TCP header without options, and where options are.
const TCP_LEN: usize = TcpHdr::LEN;
/// Words of options that a TCP header has room for.
const OPTION_WORDS: usize = 10;
/// Data offset 5, RST and ACK: the second half of the fourth word of a TCP header.
const RESET: u16 = 0x5000 | RST as u16 | ACK as u16;

/// Makes the reset that answers a SYN out of it: ends swapped, its sequence number acknowledged, nothing
/// behind the header. Checksums are changed, not made anew, so that a sum which the sender left to its
/// device stays right. `Err`: it is of no use any more.
#[inline(always)]
pub fn make_reset(ctx: &TcContext, packet: &Packet) -> Result<(), i64> {
    let tcp: TcpHdr = ctx.load(packet.l4)?;
    let end = packet.l4 + TCP_LEN + option_bytes(ctx, packet)?;
    if (ctx.len() as usize) > end {
        // Data with a SYN (TCP Fast Open): without its answer the client sends the SYN alone.
        return Err(-1);
    }
    let check = packet.l4 + offset_of!(TcpHdr, check);
    for word in 0..OPTION_WORDS {
        let at = packet.l4 + TCP_LEN + word * 4;
        if at >= end {
            break;
        }
        let option: u32 = ctx.load(at)?;
        ctx.l4_csum_replace(check, u64::from(option), 0, 4)?;
    }
    let (sequence, acknowledged) = (u32::from_ne_bytes(tcp.seq), u32::from_ne_bytes(tcp.ack_seq));
    let answer = u32::from_be(sequence).wrapping_add(1).to_be();
    let flags: u16 = ctx.load(packet.l4 + TCP_FLAGS - 1)?;
    let (window, urgent) = (u16::from_ne_bytes(tcp.window), u16::from_ne_bytes(tcp.urg_ptr));
    ctx.l4_csum_replace(check, u64::from(sequence), 0, 4)?;
    ctx.l4_csum_replace(check, u64::from(acknowledged), u64::from(answer), 4)?;
    ctx.l4_csum_replace(check, u64::from(flags), u64::from(RESET.to_be()), 2)?;
    ctx.l4_csum_replace(check, u64::from(window), 0, 2)?;
    ctx.l4_csum_replace(check, u64::from(urgent), 0, 2)?;
    ctx.store(packet.l4 + offset_of!(TcpHdr, seq), &0_u32, 0)?;
    ctx.store(packet.l4 + offset_of!(TcpHdr, ack_seq), &answer, 0)?;
    ctx.store(packet.l4 + TCP_FLAGS - 1, &RESET.to_be(), 0)?;
    ctx.store(packet.l4 + offset_of!(TcpHdr, window), &0_u16, 0)?;
    ctx.store(packet.l4 + offset_of!(TcpHdr, urg_ptr), &0_u16, 0)?;
    ctx.store(packet.l4, &[packet.flow.remote_port.to_be(), packet.flow.local_port.to_be()], 0)?;
    swap_ends(ctx, packet)?;
    shorten(ctx, packet, end - packet.l4 - TCP_LEN)
}

/// Bytes of TCP options.
#[inline(always)]
fn option_bytes(ctx: &TcContext, packet: &Packet) -> Result<usize, i64> {
    let offset: u8 = ctx.load(packet.l4 + TCP_FLAGS - 1)?;
    usize::from(offset >> 4).checked_mul(4).and_then(|bytes| bytes.checked_sub(TCP_LEN)).ok_or(-1)
}

/// Swaps the addresses of both layers: sums stay as they are.
#[inline(always)]
fn swap_ends(ctx: &TcContext, packet: &Packet) -> Result<(), i64> {
    let (to, from): ([u8; 6], [u8; 6]) =
        (ctx.load(offset_of!(EthHdr, dst_addr))?, ctx.load(offset_of!(EthHdr, src_addr))?);
    ctx.store(offset_of!(EthHdr, dst_addr), &from, 0)?;
    ctx.store(offset_of!(EthHdr, src_addr), &to, 0)?;
    let FlowKey { local, remote, .. } = &packet.flow;
    match (unmapped(local), unmapped(remote)) {
        (Some(local), Some(remote)) => {
            ctx.store(EthHdr::LEN + offset_of!(Ipv4Hdr, src_addr), &remote, 0)?;
            ctx.store(EthHdr::LEN + offset_of!(Ipv4Hdr, dst_addr), &local, 0)
        }
        _ => {
            ctx.store(EthHdr::LEN + offset_of!(Ipv6Hdr, src_addr), remote, 0)?;
            ctx.store(EthHdr::LEN + offset_of!(Ipv6Hdr, dst_addr), local, 0)
        }
    }
}

/// Takes bytes from the end of a TCP packet: those of which no sum knows any more.
#[inline(always)]
fn shorten(ctx: &TcContext, packet: &Packet, by: usize) -> Result<(), i64> {
    let check = packet.l4 + offset_of!(TcpHdr, check);
    let v4 = unmapped(&packet.flow.local).is_some();
    let field = if v4 { offset_of!(Ipv4Hdr, tot_len) } else { offset_of!(Ipv6Hdr, payload_len) };
    let old: u16 = ctx.load(EthHdr::LEN + field)?;
    let new = u16::from_be(old).wrapping_sub(by as u16).to_be();
    if v4 {
        ctx.l3_csum_replace(EthHdr::LEN + offset_of!(Ipv4Hdr, check), u64::from(old), u64::from(new), 2)?;
    }
    ctx.store(EthHdr::LEN + field, &new, 0)?;
    // The pseudo header has the length of the TCP packet alone.
    let (old, new) = (((TCP_LEN + by) as u16).to_be(), (TCP_LEN as u16).to_be());
    let pseudo = u64::from(BPF_F_PSEUDO_HDR) | 2;
    ctx.l4_csum_replace(check, u64::from(old), u64::from(new), pseudo)?;
    // SAFETY: the hook's own context.
    let cut = unsafe { bpf_skb_change_tail(ctx.skb.skb, (packet.l4 + TCP_LEN) as u32, 0) };
    if cut == 0 { Ok(()) } else { Err(cut) }
}

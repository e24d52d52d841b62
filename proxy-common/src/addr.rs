//! Addresses as both halves store them: 16 bytes in network order, IPv4 in its IPv6-mapped form
//! (RFC 4291 section 2.5.5.2), so that one table serves IPv4, IPv6 and mapped sockets alike.

/// Words of an address in network byte order, as the kernel's hook contexts present them.
pub type AddrWords = [u32; 4];

/// The third word of an IPv4-mapped address: `::ffff:0:0`.
pub const MAPPED_PREFIX: u32 = 0xffff_u32.to_be();

/// The mapped form of an IPv4 address, given as its four bytes read as one native word.
#[inline(always)]
#[must_use]
pub const fn mapped(v4_be: u32) -> AddrWords {
    [0, 0, MAPPED_PREFIX, v4_be]
}

/// The IPv4 address inside a mapped one, as a network-order word.
#[inline(always)]
#[must_use]
pub const fn unmapped(words: &AddrWords) -> Option<u32> {
    let [a, b, c, d] = *words;
    if a == 0 && b == 0 && c == MAPPED_PREFIX { Some(d) } else { None }
}

/// 127.0.0.0/8, mapped or not, and `::1`.
#[inline(always)]
#[must_use]
pub const fn is_loopback(words: &AddrWords) -> bool {
    match unmapped(words) {
        Some(v4) => v4.to_ne_bytes()[0] == 127,
        None => {
            let [a, b, c, d] = *words;
            a == 0 && b == 0 && c == 0 && d == 1_u32.to_be()
        }
    }
}

#[cfg(feature = "user")]
mod user {
    use super::{AddrWords, mapped, unmapped};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// An [`IpAddr`] as table words; IPv4 becomes mapped.
    #[must_use]
    pub fn words_of(ip: IpAddr) -> AddrWords {
        match ip {
            IpAddr::V4(v4) => mapped(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = v6.octets();
                [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
            }
        }
    }

    /// Table words as an [`IpAddr`]; a mapped address becomes IPv4.
    #[must_use]
    pub fn ip_of(words: &AddrWords) -> IpAddr {
        if let Some(v4) = unmapped(words) {
            return IpAddr::V4(Ipv4Addr::from(v4.to_ne_bytes()));
        }
        let mut octets = [0_u8; 16];
        for (to, word) in octets.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::V6(Ipv6Addr::from(octets))
    }
}
#[cfg(feature = "user")]
pub use user::{ip_of, words_of};

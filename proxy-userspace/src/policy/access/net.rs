//! Address prefixes, and finding the longest one that holds an address.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An address prefix. Bits behind it are zero, and an IPv4-mapped address is an IPv4 one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Net {
    address: IpAddr,
    bits: u8,
}

impl Net {
    /// Every address of a family.
    pub const ALL: [Self; 2] = [
        Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), bits: 0 },
        Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), bits: 0 },
    ];

    /// One address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// `address/bits`, or an address; `Err` says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let quoted = || crate::source::finding::quoted(text);
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr =
            address.parse().map_err(|_| format!("{} is not an address prefix", quoted()))?;
        let Some(bits) = bits else { return Ok(Self::host(address)) };
        let whole = if address.is_ipv4() { 32 } else { 128 };
        // "+8" and "08" are numbers to Rust.
        let bits = Some(bits).filter(|bits| bits.bytes().all(|b| b.is_ascii_digit()) && bits.len() < 4);
        let bits = bits.and_then(|bits| bits.parse().ok()).filter(|bits| *bits <= whole);
        let bits: u8 = bits.ok_or_else(|| format!("{} has no prefix length up to {whole}", quoted()))?;
        Ok(Self { address, bits }.masked(bits))
    }

    /// The first `bits` of its address.
    fn masked(self, bits: u8) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { address, bits }
    }

    /// Its first address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits of it count.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.covers(Self::host(address))
    }

    /// Whether all of another prefix is in it.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.bits <= other.bits
            && other.masked(self.bits).address == self.address
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Values by prefix.
#[derive(Clone, Debug)]
pub(super) struct NetTable<T> {
    values: HashMap<Net, T>,
    /// How many prefixes there are of each family and length: those without any are not looked up.
    lengths: [Vec<u32>; 2],
}

impl<T> Default for NetTable<T> {
    fn default() -> Self {
        Self { values: HashMap::new(), lengths: [vec![0; 33], vec![0; 129]] }
    }
}

impl<T> NetTable<T> {
    fn count(&mut self, net: Net) -> Option<&mut u32> {
        let family = usize::from(net.address.is_ipv6());
        self.lengths.get_mut(family)?.get_mut(usize::from(net.bits))
    }

    pub(super) fn insert(&mut self, net: Net, value: T) {
        if self.values.insert(net, value).is_none()
            && let Some(count) = self.count(net)
        {
            *count += 1;
        }
    }

    pub(super) fn remove(&mut self, net: Net) {
        if self.values.remove(&net).is_some()
            && let Some(count) = self.count(net)
        {
            *count -= 1;
        }
    }

    pub(super) fn get(&self, net: Net) -> Option<&T> {
        self.values.get(&net)
    }

    /// The value of the longest prefix that holds an address.
    pub(super) fn longest(&self, address: IpAddr) -> Option<&T> {
        let host = Net::host(address);
        let lengths = self.lengths.get(usize::from(host.address.is_ipv6()))?;
        (0..=host.bits)
            .rev()
            .filter(|bits| lengths.get(usize::from(*bits)).is_some_and(|count| *count > 0))
            .find_map(|bits| self.values.get(&host.masked(bits)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Net, &T)> {
        self.values.iter().map(|(net, value)| (*net, value))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_are_read_and_cut_to_their_length() {
        for (text, net) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00:1::ffff/64", "fd00:1::/64"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(Net::parse(text).unwrap().to_string(), net);
        }
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/a", "x"] {
            assert!(Net::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_prefix_covers_what_begins_with_it() {
        let net = |text: &str| Net::parse(text).unwrap();
        assert!(net("10.0.0.0/8").covers(net("10.1.0.0/16")) && net("10.0.0.0/8").covers(net("10.0.0.0/8")));
        assert!(!net("10.1.0.0/16").covers(net("10.0.0.0/8")) && !net("0.0.0.0/0").covers(net("::/0")));
        assert!(net("10.0.0.0/8").contains("::ffff:10.9.9.9".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn the_longest_prefix_is_found(
            prefixes in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..20), address: u32, gone in 0_usize..20
        ) {
            let mut nets: Vec<Net> = prefixes.iter().map(|(bits, length)| {
                // Close to the address, so that some hold it.
                let near = if length % 2 == 0 { address ^ (bits & 0xffff) } else { *bits };
                Net { address: Ipv4Addr::from_bits(near).into(), bits: *length }.masked(*length)
            }).collect();
            let mut table = NetTable::default();
            nets.iter().for_each(|net| table.insert(*net, net.to_string()));
            if gone < nets.len() {
                let net = nets.swap_remove(gone);
                table.remove(net);
                nets.retain(|other| *other != net);
            }
            let address = IpAddr::from(Ipv4Addr::from_bits(address));
            let longest = nets.iter().filter(|net| net.contains(address)).max_by_key(|net| net.bits());
            prop_assert_eq!(table.longest(address).cloned(), longest.map(ToString::to_string));
        }
    }
}

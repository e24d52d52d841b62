//! Who may connect to whom, as the kernel half decides it: pure, the same code in both halves.
//!
//! The user half compiles policies to three tables. A *subject* is a pod of this node, by its cgroup; a
//! *peer* is whoever has an address, by the longest prefix; a *verdict* is what a policy set says about a
//! class of peers, a protocol and a port, by one look-up of the longest prefix that is there: all of the
//! port, part of it (a range is a few prefixes), or the set alone, which is its default.

use crate::{
    abi::abi,
    addr::{AddrWords, is_loopback, unmapped},
};

/// Bits of a [`VerdictKey`] that name a set: the length of the key of its default.
pub const SET_BITS: u32 = 32;
/// Bits of a [`VerdictKey`] before the port.
pub const PORT_AT: u32 = 72;
/// Bits of a port.
pub const PORT_BITS: u32 = 16;
/// Bits of an address as the table of peers holds it: IPv4 mapped.
pub const ADDR_BITS: u32 = 128;

/// In the table of verdicts: allowed.
pub const ALLOW: u32 = 1;
/// In the table of verdicts: denied.
pub const DENY: u32 = 2;
/// In the table of verdicts: the agent decides about each request.
pub const ALLOW_HTTP: u32 = 3;

/// In [`Subject::flags`] and [`Peer::flags`]: this node itself, or a pod in its network.
pub const IS_HOST: u32 = 1;
/// In [`Peer::flags`]: a pod that runs on this node.
pub const IS_LOCAL_POD: u32 = 2;

abi! {
    /// A pod of this node, by its cgroup's id.
    Subject [24] {
        /// Tells pods apart; never 0.
        pod: u32,
        /// The policy set of connections that it makes; 0: all are allowed.
        egress: u32,
        /// Its class at its IPv4 address.
        class4: u32,
        /// Its class at its IPv6 address.
        class6: u32,
        /// `IS_*` bits.
        flags: u32,
        /// The policy set of connections to it; 0: all are allowed.
        ingress: u32,
    }

    /// Whoever has an address.
    Peer [20] {
        /// The class.
        class: u32,
        /// The pod; 0 for everybody else.
        pod: u32,
        /// The policy set of connections to it; 0: all are allowed.
        ingress: u32,
        /// The policy set of connections that it makes, where it is a pod of this node; 0: all are allowed.
        egress: u32,
        /// `IS_*` bits.
        flags: u32,
    }

    /// Data of an LPM key: prefix length in bits counts from the set on.
    VerdictKey [12] {
        /// The policy set.
        set: u32,
        /// The class of the other side.
        class: u32,
        /// IP protocol number.
        protocol: u8,
        /// The port in network order: a prefix is a range.
        port: [u8; 2],
        /// Explicit padding, behind every prefix.
        pad: u8,
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Decision {
    /// It is nobody's business.
    Allow,
    /// The agent decides about each request.
    AllowHttp,
    /// It is refused.
    Deny(Denied),
}

/// Who denies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Denied {
    /// The policies of who connects.
    Egress = 1,
    /// The policies of who is connected to.
    Ingress = 2,
    /// Nobody: who connects, or what holds for it, is not known, and the failure policy is closed.
    Unknown = 3,
}

/// One connection to be decided about.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Who connects.
    pub from: &'a Subject,
    /// Where to.
    pub addr: &'a AddrWords,
    /// Who has that address; `None`: nobody that any policy tells from nobody.
    pub to: Option<&'a Peer>,
    /// IP protocol number.
    pub protocol: u8,
    /// The port of the pod that is reached, host order.
    pub port: u16,
}

impl Subject {
    /// As somebody whose address is all that is known: on another node.
    #[inline(always)]
    #[must_use]
    pub const fn elsewhere(peer: &Peer) -> Self {
        Self { pod: peer.pod, egress: 0, class4: peer.class, class6: peer.class, flags: 0, ingress: 0 }
    }

    /// As somebody on this node whose address is all that is known: a pod, or the node itself.
    #[inline(always)]
    #[must_use]
    pub const fn at_address(peer: &Peer) -> Self {
        Self { egress: peer.egress, flags: peer.flags & IS_HOST, ..Self::elsewhere(peer) }
    }

    /// As who is reached at an address, IPv4 (`v4`) or IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn reached(&self, v4: bool) -> Peer {
        Peer {
            class: if v4 { self.class4 } else { self.class6 },
            pod: self.pod,
            ingress: self.ingress,
            egress: self.egress,
            flags: self.flags | IS_LOCAL_POD,
        }
    }
}

impl VerdictKey {
    /// The whole key.
    #[inline(always)]
    #[must_use]
    pub const fn new(set: u32, class: u32, protocol: u8, port: u16) -> Self {
        Self { set, class, protocol, port: port.to_be_bytes(), pad: 0 }
    }
}

impl Connection<'_> {
    /// Decides; `verdict` looks a key up with all its bits. `closed`: what should be there and is not
    /// denies.
    #[inline(always)]
    pub fn decide(&self, closed: bool, verdict: impl Fn(&VerdictKey) -> Option<u32>) -> Decision {
        let own_network = is_loopback(self.addr) || is_unspecified(self.addr);
        let Some(to) = self.to.filter(|_| !own_network) else {
            if own_network || self.from.egress == 0 {
                return Decision::Allow;
            }
            return self.side(self.from.egress, 0, Denied::Egress, closed, &verdict);
        };
        // A pod reaches itself, and a node its own pods: kubelet probes.
        let same = to.pod != 0 && to.pod == self.from.pod;
        let probe = self.from.flags & IS_HOST != 0 && to.flags & IS_LOCAL_POD != 0;
        if same || probe {
            return Decision::Allow;
        }
        let egress = self.side(self.from.egress, to.class, Denied::Egress, closed, &verdict);
        if let Decision::Deny(_) = egress {
            return egress;
        }
        let own = if unmapped(self.addr).is_some() { self.from.class4 } else { self.from.class6 };
        let ingress = self.side(to.ingress, own, Denied::Ingress, closed, &verdict);
        if ingress == Decision::Allow { egress } else { ingress }
    }

    /// What one end's policies say.
    #[inline(always)]
    fn side(
        &self,
        set: u32,
        class: u32,
        denied: Denied,
        closed: bool,
        verdict: &impl Fn(&VerdictKey) -> Option<u32>,
    ) -> Decision {
        if set == 0 {
            return Decision::Allow;
        }
        match verdict(&VerdictKey::new(set, class, self.protocol, self.port)) {
            Some(ALLOW) => Decision::Allow,
            Some(ALLOW_HTTP) => Decision::AllowHttp,
            Some(_) => Decision::Deny(denied),
            None if closed => Decision::Deny(Denied::Unknown),
            None => Decision::Allow,
        }
    }
}

/// `0.0.0.0` and `::`: a connect to them goes to the own loopback.
#[inline(always)]
const fn is_unspecified(words: &AddrWords) -> bool {
    match unmapped(words) {
        Some(v4) => v4 == 0,
        None => matches!(words, [0, 0, 0, 0]),
    }
}

/// The prefixes that make a range of ports: first port and how many of its bits count.
pub fn port_prefixes(first: u16, last: u16) -> impl Iterator<Item = (u16, u32)> {
    let mut next = (first <= last).then_some(u32::from(first));
    core::iter::from_fn(move || {
        let at = next?;
        let left = u32::from(last) + 1 - at;
        // As large as the first port's trailing zeros and the rest of the range allow.
        let size = at.trailing_zeros().min(PORT_BITS).min(left.ilog2());
        next = Some(at + (1 << size)).filter(|at| *at <= u32::from(last));
        u16::try_from(at).ok().map(|at| (at, PORT_BITS - size))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::addr::{MAPPED_PREFIX, mapped};
    use proptest::prelude::*;

    const TCP: u8 = 6;
    const ADDR: AddrWords = mapped(0x0a01_0001_u32.to_be());
    const OPEN: Subject = Subject { pod: 1, egress: 0, class4: 7, class6: 8, flags: 0, ingress: 0 };
    const BOUND: Subject = Subject { egress: 20, ..OPEN };
    const FREE: Peer = Peer { class: 9, pod: 2, ingress: 0, egress: 0, flags: IS_LOCAL_POD };
    const GUARDED: Peer = Peer { ingress: 30, ..FREE };

    fn decide(from: &Subject, to: Option<&Peer>, says: &[(u32, u32, u32)]) -> Decision {
        at(&ADDR, from, to, says)
    }

    /// `says`: set, class, verdict.
    fn at(addr: &AddrWords, from: &Subject, to: Option<&Peer>, says: &[(u32, u32, u32)]) -> Decision {
        let verdict = |key: &VerdictKey| {
            let found = says.iter().find(|(set, class, _)| (*set, *class) == (key.set, key.class));
            found.map(|(_, _, verdict)| *verdict)
        };
        Connection { from, addr, to, protocol: TCP, port: 80 }.decide(true, verdict)
    }

    #[test]
    fn where_no_set_is_about_an_end_it_allows() {
        assert_eq!(decide(&OPEN, Some(&FREE), &[]), Decision::Allow);
        assert_eq!(decide(&OPEN, None, &[]), Decision::Allow);
    }

    #[test]
    fn both_ends_must_allow_and_egress_denies_first() {
        let says = |egress, ingress| decide(&BOUND, Some(&GUARDED), &[(20, 9, egress), (30, 7, ingress)]);
        assert_eq!(says(ALLOW, ALLOW), Decision::Allow);
        assert_eq!(says(ALLOW, DENY), Decision::Deny(Denied::Ingress));
        assert_eq!(says(DENY, ALLOW), Decision::Deny(Denied::Egress));
        assert_eq!(says(DENY, DENY), Decision::Deny(Denied::Egress));
        assert_eq!(says(ALLOW_HTTP, ALLOW), Decision::AllowHttp);
        assert_eq!(says(ALLOW, ALLOW_HTTP), Decision::AllowHttp);
        assert_eq!(says(ALLOW_HTTP, DENY), Decision::Deny(Denied::Ingress));
        assert_eq!(says(99, ALLOW), Decision::Deny(Denied::Egress));
    }

    #[test]
    fn who_connects_is_the_class_of_the_family_used() {
        let v6 = [0xfd00_u32.to_be(), 0, 0, 1];
        let says = [(30, 7, ALLOW), (30, 8, DENY)];
        assert_eq!(at(&ADDR, &OPEN, Some(&GUARDED), &says), Decision::Allow);
        assert_eq!(at(&v6, &OPEN, Some(&GUARDED), &says), Decision::Deny(Denied::Ingress));
    }

    #[test]
    fn a_pod_reaches_itself_and_its_loopback_and_the_node_its_pods() {
        let own = Peer { pod: 1, ..GUARDED };
        assert_eq!(decide(&BOUND, Some(&own), &[]), Decision::Allow);
        for addr in [mapped(0x7f00_0001_u32.to_be()), mapped(0), [0, 0, 0, 1_u32.to_be()], [0; 4]] {
            assert_eq!(at(&addr, &BOUND, Some(&GUARDED), &[]), Decision::Allow, "{addr:?}");
            assert_eq!(at(&addr, &BOUND, None, &[]), Decision::Allow, "{addr:?}");
        }
        assert_eq!(unmapped(&[0, 0, MAPPED_PREFIX, 0]), Some(0));
        let host = Subject { flags: IS_HOST, pod: 0, ..OPEN };
        assert_eq!(decide(&host, Some(&GUARDED), &[]), Decision::Allow);
        let elsewhere = Peer { flags: 0, ..GUARDED };
        assert_eq!(decide(&host, Some(&elsewhere), &[(30, 7, DENY)]), Decision::Deny(Denied::Ingress));
        // Nobody's address: class 0.
        assert_eq!(decide(&BOUND, None, &[(20, 0, DENY)]), Decision::Deny(Denied::Egress));
    }

    #[test]
    fn what_should_be_there_and_is_not_follows_the_failure_policy() {
        let connection = Connection { from: &BOUND, addr: &ADDR, to: Some(&FREE), protocol: TCP, port: 80 };
        assert_eq!(connection.decide(true, |_| None), Decision::Deny(Denied::Unknown));
        assert_eq!(connection.decide(false, |_| None), Decision::Allow);
    }

    proptest! {
        #[test]
        fn a_range_of_ports_is_exactly_its_prefixes(one: u16, other: u16) {
            let (first, last) = (one.min(other), one.max(other));
            let mut next = u32::from(first);
            for (port, bits) in port_prefixes(first, last) {
                prop_assert_eq!(u32::from(port), next);
                let size = 1_u32 << (PORT_BITS - bits);
                prop_assert_eq!(u32::from(port) % size, 0);
                next += size;
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }

    #[test]
    fn every_port_is_one_prefix_and_one_port_too() {
        assert_eq!(port_prefixes(0, u16::MAX).collect::<Vec<_>>(), [(0, 0)]);
        assert_eq!(port_prefixes(8080, 8080).collect::<Vec<_>>(), [(8080, 16)]);
        assert_eq!(port_prefixes(1, u16::MAX).count(), 16);
        assert_eq!(port_prefixes(9, 8).count(), 0);
    }
}

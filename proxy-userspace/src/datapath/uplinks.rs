//! The node's uplinks: the interfaces that connections from outside come in by, where the tc programs are
//! attached.

use super::{
    attach::hold,
    load::{load_failed, program},
    pins::Pins,
};
use anyhow::{Context, bail};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsRawFd,
};

/// The programs, and what they see.
const HOOKS: [(&str, TcAttachType); 2] =
    [("weir_egress", TcAttachType::Egress), ("weir_ingress", TcAttachType::Ingress)];
/// Where routes are listed, of the calling thread's network namespace.
const ROUTES: &str = "/proc/thread-self/net";
/// `RTF_UP`.
const ROUTE_IS_UP: u32 = 1;
/// `RTF_REJECT`: the "unreachable" default that every namespace has for IPv6.
const ROUTE_REJECTS: u32 = 0x200;

/// Interfaces by index, with their name.
pub(super) type Attached = BTreeMap<u32, String>;

/// Loads the programs.
pub(super) fn load(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    HOOKS.iter().try_for_each(|(name, _)| {
        program::<SchedClassifier>(ebpf, name)?.load().with_context(|| load_failed(name))
    })
}

/// Attaches the programs to those of `wanted` that have none yet. An interface that went and came back has
/// another index. Names what could not be done.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    wanted: &Attached,
    attached: &mut Attached,
    mut pins: Option<&mut Pins>,
) -> Vec<anyhow::Error> {
    attached.retain(|index, name| wanted.get(index) == Some(name));
    let mut failed = Vec::new();
    for (index, name) in wanted {
        if attached.contains_key(index) {
            continue;
        }
        let mut one = |(hook, side): &(&str, TcAttachType)| {
            let classifier: &mut SchedClassifier = program(ebpf, hook)?;
            hold(pins.as_deref_mut(), hook, u64::from(*index), classifier, |classifier| {
                attach_one(classifier, hook, name, *side)
            })
            .map(drop)
        };
        match HOOKS.iter().try_for_each(&mut one) {
            Ok(()) => {
                attached.insert(*index, name.clone());
            }
            Err(error) => failed.push(error.context(format!("interface {name}"))),
        }
    }
    failed
}

/// First in line where the kernel has links for tc (6.6), so that nobody decides about a packet before its
/// destination is known; else behind a qdisc.
fn attach_one(
    classifier: &mut SchedClassifier,
    hook: &str,
    interface: &str,
    side: TcAttachType,
) -> anyhow::Result<SchedClassifierLinkId> {
    let as_link = TcAttachOptions::TcxOrder(LinkOrder::first());
    let error = match classifier.attach_with_options(interface, side, as_link) {
        Ok(link) => return Ok(link),
        Err(error) => error,
    };
    tracing::debug!(%error, hook, interface, "no link for tc; trying a qdisc");
    match tc::qdisc_add_clsact(interface) {
        Ok(()) | Err(tc::TcError::AlreadyAttached) => {}
        Err(error) => return Err(error).context("add the qdisc clsact"),
    }
    let by_netlink = TcAttachOptions::Netlink(NlOptions { priority: 1, ..NlOptions::default() });
    classifier
        .attach_with_options(interface, side, by_netlink)
        .with_context(|| format!("cannot attach {hook}"))
}

/// The interfaces named, or, where none is, those of Ethernet's kind that hold the default route or an
/// address of the node, but for bridges without the default route: pods hang on those.
pub(super) fn find(named: &[String]) -> anyhow::Result<Attached> {
    let interfaces = if_addrs::get_if_addrs().context("list network interfaces")?;
    let by_name: BTreeMap<&str, u32> =
        interfaces.iter().filter_map(|one| Some((one.name.as_str(), one.index?))).collect();
    if !named.is_empty() {
        return named
            .iter()
            .map(|name| match by_name.get(name.as_str()) {
                Some(index) => Ok((*index, name.clone())),
                None => bail!("there is no interface {name} with an address: correct --uplink"),
            })
            .collect();
    }
    let has_default = default_route_interfaces();
    let own = interfaces.iter().filter(|one| !one.is_loopback() && !one.is_link_local());
    let holding: BTreeSet<&str> = own.map(|one| one.name.as_str()).collect();
    let ask = Asking::new().context("a socket to ask about interfaces")?;
    let is_uplink = |name: &&str| {
        ask.is_ethernet(name)
            && (has_default.contains(*name) || ask.driver(name).is_none_or(|driver| driver != "bridge"))
    };
    let uplinks = holding.into_iter().filter(is_uplink);
    Ok(uplinks.filter_map(|name| Some((*by_name.get(name)?, name.to_owned()))).collect())
}

/// Every address of the node that others can reach it by.
pub(crate) fn node_addresses() -> anyhow::Result<HashSet<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs().context("list network interfaces")?;
    let reached = interfaces.iter().filter(|one| !one.is_loopback() && !one.is_link_local());
    Ok(reached.map(if_addrs::Interface::ip).collect())
}

fn default_route_interfaces() -> HashSet<String> {
    let read = |file: &str| fs::read_to_string(format!("{ROUTES}/{file}")).unwrap_or_default();
    let v4 = read("route");
    let v4 = v4.lines().filter_map(default4);
    let v6 = read("ipv6_route");
    v4.chain(v6.lines().filter_map(default6)).map(str::to_owned).collect()
}

/// The interface of a line of `/proc/net/route`, if it is a default route.
fn default4(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [interface, "00000000", _, flags, _, _, _, "00000000", ..] = fields.as_slice() else { return None };
    (u32::from_str_radix(flags, 16).ok()? & ROUTE_IS_UP != 0).then_some(interface)
}

/// The same of `/proc/net/ipv6_route`.
fn default6(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, "00", _, _, _, _, _, _, flags, interface] = fields.as_slice() else { return None };
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let any = u128::from_str_radix(destination, 16).ok()? == Ipv6Addr::UNSPECIFIED.to_bits();
    (any && flags & ROUTE_IS_UP != 0 && flags & ROUTE_REJECTS == 0).then_some(interface)
}

/// A socket for questions about interfaces.
struct Asking(socket2::Socket);

impl Asking {
    fn new() -> io::Result<Self> {
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).map(Self)
    }

    /// Its frames have Ethernet headers.
    fn is_ethernet(&self, interface: &str) -> bool {
        let Some(mut request) = named(interface) else { return false };
        self.ask(libc::SIOCGIFHWADDR, &mut request).is_ok_and(|()| hardware(&request) == libc::ARPHRD_ETHER)
    }

    /// The name of its driver: `bridge`, `veth`, `virtio_net`.
    fn driver(&self, interface: &str) -> Option<String> {
        /// `struct ethtool_drvinfo`: the command, then the name.
        const LEN: usize = 196;
        const NAME: std::ops::Range<usize> = 4..36;
        /// `ETHTOOL_GDRVINFO`
        const COMMAND: u32 = 3;
        let mut request = named(interface)?;
        let mut info = [0_u8; LEN];
        info.get_mut(..4)?.copy_from_slice(&COMMAND.to_ne_bytes());
        request.ifr_ifru.ifru_data = info.as_mut_ptr().cast();
        self.ask(libc::SIOCETHTOOL, &mut request).ok()?;
        let name = info.get(NAME)?.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    #[expect(unsafe_code, reason = "ioctl")]
    fn ask(&self, what: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: both requests read and write a `struct ifreq`, and the second what it points to, which the
        // caller keeps.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), what as _, std::ptr::from_mut(request)) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// A question about an interface; `None` if it cannot be a name.
fn named(interface: &str) -> Option<libc::ifreq> {
    let mut name = [0; libc::IFNAMSIZ];
    let room = name.get_mut(..interface.len()).filter(|room| room.len() < libc::IFNAMSIZ)?;
    for (to, from) in room.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    Some(libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 } })
}

#[expect(unsafe_code, reason = "a union")]
fn hardware(request: &libc::ifreq) -> u16 {
    // SAFETY: the kernel has answered SIOCGIFHWADDR: this is what it wrote.
    unsafe { request.ifr_ifru.ifru_hwaddr.sa_family }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_told_from_others() {
        let v4 = |line| default4(line);
        assert_eq!(v4("eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0"), Some("eth0"));
        assert_eq!(v4("eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0"), None);
        assert_eq!(
            v4("Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT"),
            None
        );
        let zeros = "0".repeat(32);
        let v6 = |prefix: &str, flags: &str| {
            format!("{zeros} {prefix} {zeros} 00 {zeros} 00000400 00000001 00000000 {flags} eth1")
        };
        assert_eq!(default6(&v6("00", "00000003")), Some("eth1"));
        assert_eq!(default6(&v6("00", "00200200")), None);
        assert_eq!(default6(&v6("40", "00000001")), None);
    }

    #[test]
    fn loopback_is_never_found_and_a_wrong_name_is_an_error() {
        assert!(find(&[]).is_ok_and(|found| found.values().all(|name| name != "lo")));
        assert!(find(&["no-such-interface".to_owned()]).is_err());
    }
}

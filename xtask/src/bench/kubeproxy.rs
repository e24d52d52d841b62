//! The rules that kube-proxy writes in its iptables mode, as text for `iptables-restore`.

use super::services::Service;
use std::{fmt::Write as _, net::SocketAddrV4};

/// Pods' addresses: what comes from elsewhere is masqueraded (`--cluster-cidr`).
const POD_NETWORK: &str = "10.244.0.0/16";

/// Chains and rules that do not depend on Services.
const NAT_CHAINS: &str = "\
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
";
const NAT_RULES: &str = r#"-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
"#;
const NODE_PORTS: &str = r#"-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
"#;
const FILTER: &str = r#"*filter
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"#;

/// Both tables for these Services.
pub(super) fn rules(services: &[Service]) -> String {
    let (mut chains, mut rules) = (String::new(), String::new());
    for (index, service) in services.iter().enumerate() {
        write_service(&mut chains, &mut rules, index, service);
    }
    format!("{NAT_CHAINS}{chains}{NAT_RULES}{rules}{NODE_PORTS}COMMIT\n{FILTER}")
}

/// One Service: its entry in KUBE-SERVICES, its KUBE-SVC chain and a KUBE-SEP chain per endpoint. The
/// chains' names are as long as kube-proxy's hashes.
fn write_service(chains: &mut String, rules: &mut String, index: usize, service: &Service) {
    let Service { name, frontend, endpoints } = service;
    let chain = format!("KUBE-SVC-{index:016X}");
    let portal = format!(
        "-d {}/32 -p tcp -m comment --comment \"default/{name}:http cluster IP\" -m tcp --dport {}",
        frontend.ip(),
        frontend.port()
    );
    // A String takes any number of bytes.
    let _infallible = writeln!(chains, ":{chain} - [0:0]");
    let _infallible = writeln!(rules, "-A KUBE-SERVICES {portal} -j {chain}");
    let _infallible = writeln!(rules, "-A {chain} ! -s {POD_NETWORK} {portal} -j KUBE-MARK-MASQ");
    for (place, endpoint) in endpoints.iter().enumerate() {
        let separate = format!("KUBE-SEP-{index:012X}{place:04X}");
        let left = endpoints.len() - place;
        let _infallible = writeln!(
            rules,
            "-A {chain} -m comment --comment \"default/{name}:http -> {endpoint}\"{} -j {separate}",
            chance(left)
        );
        write_endpoint(chains, rules, &separate, name, *endpoint);
    }
}

fn write_endpoint(chains: &mut String, rules: &mut String, chain: &str, name: &str, endpoint: SocketAddrV4) {
    let comment = format!("-m comment --comment \"default/{name}:http\"");
    let _infallible = writeln!(chains, ":{chain} - [0:0]");
    let _infallible = writeln!(rules, "-A {chain} -s {}/32 {comment} -j KUBE-MARK-MASQ", endpoint.ip());
    let _infallible =
        writeln!(rules, "-A {chain} -p tcp {comment} -m tcp -j DNAT --to-destination {endpoint}");
}

/// The match that takes one of `left` endpoints with equal probability; the last needs none.
fn chance(left: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a handful of endpoints")]
    match left {
        0 | 1 => String::new(),
        left => format!(" -m statistic --mode random --probability {:.11}", 1.0 / left as f64),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn web() -> Service {
        Service {
            name: "web".to_owned(),
            frontend: "10.96.0.10:8080".parse().unwrap(),
            endpoints: vec!["10.244.1.11:8080".parse().unwrap(), "10.244.1.12:8080".parse().unwrap()],
        }
    }

    #[test]
    fn a_service_is_written_as_kube_proxy_writes_it() {
        let text = rules(&[web()]);
        for line in [
            ":KUBE-SVC-0000000000000000 - [0:0]",
            r#"-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 8080 -j KUBE-SVC-0000000000000000"#,
            r#"-A KUBE-SVC-0000000000000000 ! -s 10.244.0.0/16 -d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 8080 -j KUBE-MARK-MASQ"#,
            r#"-A KUBE-SVC-0000000000000000 -m comment --comment "default/web:http -> 10.244.1.11:8080" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-0000000000000000"#,
            r#"-A KUBE-SVC-0000000000000000 -m comment --comment "default/web:http -> 10.244.1.12:8080" -j KUBE-SEP-0000000000000001"#,
            r#"-A KUBE-SEP-0000000000000001 -s 10.244.1.12/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ"#,
            r#"-A KUBE-SEP-0000000000000001 -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.244.1.12:8080"#,
        ] {
            assert!(text.lines().any(|found| found == line), "missing: {line}");
        }
    }

    #[test]
    fn node_ports_come_last_and_chain_names_fit() {
        let text = rules(&super::super::services::among(3, web()));
        let last = text.lines().rfind(|line| line.starts_with("-A KUBE-SERVICES")).unwrap();
        assert!(last.ends_with("-j KUBE-NODEPORTS"));
        let longest =
            text.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next()).map(str::len).max();
        assert!(longest.unwrap() <= 28, "XT_EXTENSION_MAXNAMELEN");
    }

    #[test]
    fn endpoints_are_taken_with_equal_probability() {
        assert_eq!(chance(3), " -m statistic --mode random --probability 0.33333333333");
        assert_eq!(chance(1), "");
    }
}

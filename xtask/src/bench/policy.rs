//! The policy of the paths that have one: as many HTTP rules as asked for, all of which the kernel half
//! can match. Those that allow the measured requests come last: deciding by a list costs its length.

use super::plan::{LARGE, SMALL};
use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
};

/// First number in the other rules' paths: longer than [`SMALL`], and its neighbours.
const FIRST: u32 = 101;
/// How many hosts the other rules name; the kernel half can tell 64 patterns apart.
const HOSTS: u32 = 8;

/// The manifests: a policy of `rules` rules on the pods at `pods`, which answer on `port`, for requests
/// to `host`.
pub(super) fn manifests(rules: u32, host: SocketAddrV4, pods: &[Ipv4Addr], port: u16) -> String {
    let mut text = String::from("apiVersion: v1\nkind: PodList\nitems:\n");
    // A String takes any number of bytes.
    for (index, ip) in pods.iter().enumerate() {
        let _infallible = write!(
            text,
            "- metadata: {{name: web-{index}, namespace: demo, labels: {{app: web}}}}\n  \
             status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n"
        );
    }
    let _infallible = write!(
        text,
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n\
         metadata: {{name: web, namespace: demo}}\nspec:\n  endpointSelector: {{matchLabels: {{app: web}}}}\n  \
         ingress:\n  - toPorts:\n    - ports: [{{port: \"{port}\", protocol: TCP}}]\n      rules:\n        \
         http:\n"
    );
    let measured = measured(host);
    let others = (0..rules).map(other).take((rules as usize).saturating_sub(measured.len()));
    for rule in others.chain(measured) {
        let _infallible = writeln!(text, "        - {rule}");
    }
    text
}

/// What the load generator asks for: [`SMALL`] and [`LARGE`] bodies of any nonce.
fn measured(host: SocketAddrV4) -> [String; 2] {
    let host = host.ip().to_string().replace('.', r"\.");
    [LARGE, SMALL].map(|body| format!("{{method: GET, path: '/{body}/.*', host: '{host}'}}"))
}

/// A rule for something else: exact paths and prefixes, one or more methods, any host, one or the end of
/// one. The paths begin like the measured ones, so that a look-up goes as deep there as anywhere.
fn other(index: u32) -> String {
    let (number, host) = (FIRST + index, index / 4 % HOSTS);
    match index % 4 {
        0 => format!("{{method: GET|HEAD, path: /{number}/profile}}"),
        1 => format!("{{method: GET, path: '/{number}/.*'}}"),
        2 => format!(r"{{method: POST|PUT, path: '/{number}(/.*)?', host: 'shop-{host}\.example\.com'}}"),
        _ => format!(r"{{path: '/{number}/items/.*', host: '.*\.region-{host}\.example\.com'}}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::bench::plan::VARIANTS;

    fn rules(count: u32) -> Vec<String> {
        let text =
            manifests(count, "10.96.0.10:8080".parse().unwrap(), &["10.244.1.11".parse().unwrap()], 8080);
        let rules = text.lines().skip_while(|line| line.trim() != "http:").skip(1);
        rules.map(|line| line.trim_start_matches("        - ").to_owned()).collect()
    }

    #[test]
    fn a_policy_has_as_many_rules_as_asked_for_and_those_that_allow_come_last() {
        for count in VARIANTS.iter().map(|variant| variant.rules).filter(|count| *count > 0) {
            let rules = rules(count);
            assert_eq!(rules.len(), count as usize);
            assert_eq!(rules.last().unwrap(), r"{method: GET, path: '/100/.*', host: '10\.96\.0\.10'}");
            let allowing =
                |rule: &&String| [SMALL, LARGE].iter().any(|body| rule.contains(&format!("/{body}/")));
            assert_eq!(rules.iter().filter(allowing).count(), 2);
        }
    }

    #[test]
    fn the_policy_selects_every_pod_of_the_service() {
        let pods = ["10.244.1.11".parse().unwrap(), "10.244.1.12".parse().unwrap()];
        let text = manifests(10, "10.96.0.10:8080".parse().unwrap(), &pods, 8080);
        assert_eq!(text.matches("labels: {app: web}").count(), pods.len());
        assert!(text.contains("podIPs: [{ip: 10.244.1.12}]") && text.contains("port: \"8080\""));
    }
}

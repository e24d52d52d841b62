//! How a Service's endpoints are chosen among.

use super::{BuildOptions, Traffic};
use crate::source::{
    Sourced,
    finding::{Finding, Severity, quoted},
};
use k8s_openapi::api::core::v1::{self, ServiceSpec};
use std::time::Duration;

/// Kubernetes: three hours where nothing is said,
const AFFINITY: i32 = 10_800;
/// and a day at most.
const LONGEST_AFFINITY: i32 = 86_400;

pub(super) fn read(
    source: &Sourced<v1::Service>,
    spec: &ServiceSpec,
    options: &BuildOptions,
    findings: &mut Vec<Finding>,
) -> Traffic {
    let mut wrong = |field: &str, text: String, fix: &str| {
        findings.push(source.finding(Severity::Error, source.lines.field(field), text, fix));
    };
    let affinity = match spec.session_affinity.as_deref() {
        None | Some("" | "None") => None,
        Some("ClientIP") => {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = config.and_then(|client_ip| client_ip.timeout_seconds).unwrap_or(AFFINITY);
            let timeout = u64::try_from(seconds).ok().filter(|_| (1..=LONGEST_AFFINITY).contains(&seconds));
            if timeout.is_none() {
                let text = format!("timeoutSeconds {seconds} is out of range");
                wrong("sessionAffinityConfig", text, "1 to 86400; there is no affinity until then");
            }
            timeout.map(Duration::from_secs)
        }
        Some(other) => {
            let text = format!("sessionAffinity {} is unknown", quoted(other));
            wrong("sessionAffinity", text, "None or ClientIP; any endpoint is chosen until then");
            None
        }
    };
    let mut local = |field: &str, policy: Option<&str>| match policy {
        None | Some("" | "Cluster") => false,
        Some("Local") => true,
        Some(other) => {
            let text = format!("{field} {} is unknown", quoted(other));
            wrong(field, text, "Cluster or Local; endpoints of all nodes are chosen until then");
            false
        }
    };
    let external = !matches!(spec.type_.as_deref(), None | Some("ClusterIP"))
        || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    let traffic = Traffic {
        affinity,
        internal_local: local("internalTrafficPolicy", spec.internal_traffic_policy.as_deref()),
        external_local: external && local("externalTrafficPolicy", spec.external_traffic_policy.as_deref()),
    };
    without_a_node(source, traffic, options, findings)
}

/// Without this node's name none of its endpoints is known.
fn without_a_node(
    source: &Sourced<v1::Service>,
    traffic: Traffic,
    options: &BuildOptions,
    findings: &mut Vec<Finding>,
) -> Traffic {
    if options.node_name.is_some() {
        return traffic;
    }
    let policies = [
        ("internalTrafficPolicy", traffic.internal_local),
        ("externalTrafficPolicy", traffic.external_local),
    ];
    for (field, _) in policies.into_iter().filter(|(_, local)| *local) {
        let text =
            format!("{field} Local is not kept without this node's name: endpoints of all nodes are chosen");
        let fix = "give the agent --node-name";
        findings.push(source.finding(Severity::Warning, source.lines.field(field), text, fix));
    }
    Traffic { internal_local: false, external_local: false, ..traffic }
}

//! The pods of one reading, as [`crate::identity`] finds them.

use super::party::addresses;
use crate::{
    identity::{PodIdentity, PodIndex},
    source::{Sourced, lean::Pod, store::Key},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// Who has which address. Of two pods that claim one it is the newer one's, unless that one is being
/// deleted: an address that is used again belongs to whom it was given last.
#[derive(Default, Debug)]
pub(super) struct Holders(HashMap<IpAddr, Vec<Holder>>);

/// A pod with an address; the last in order has it.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Holder {
    stays: bool,
    /// Unknown age last.
    age: (bool, Option<Time>),
    namespace: String,
    key: Arc<str>,
}

impl Holders {
    /// A pod is new, different or gone.
    pub(super) fn change(&mut self, key: &Key, new: Option<&Sourced<Pod>>, index: &mut PodIndex) {
        let mut touched = Vec::new();
        if let Some(old) = index.by_key(key.as_str()).cloned() {
            for ip in old.addresses.iter().filter(|_| !old.host_network) {
                let ip = ip.to_canonical();
                if let Some(holders) = self.0.get_mut(&ip) {
                    holders.retain(|holder| holder.key != old.key);
                }
                touched.push(ip);
            }
            index.remove(&old.key);
        }
        if let Some(source) = new.filter(|source| !source.object.ended) {
            let pod = Arc::new(identity(source));
            index.set(&pod);
            for ip in pod.addresses.iter().filter(|_| !pod.host_network) {
                let ip = ip.to_canonical();
                let holders = self.0.entry(ip).or_default();
                let holder = Holder::of(source, &pod.key);
                holders.insert(holders.partition_point(|other| *other < holder), holder);
                touched.push(ip);
            }
        }
        for ip in touched {
            let holder = self.0.get(&ip).and_then(|holders| holders.last());
            index.give(ip, holder.map(|holder| &*holder.key));
            if holder.is_none() {
                self.0.remove(&ip);
            }
        }
    }
}

impl Holder {
    fn of(source: &Sourced<Pod>, key: &Arc<str>) -> Self {
        let created = source.object.created.clone();
        Self {
            stays: !source.object.leaving,
            age: (created.is_none(), created),
            namespace: source.namespace.clone(),
            key: Arc::clone(key),
        }
    }
}

fn identity(source: &Sourced<Pod>) -> PodIdentity {
    let pod = &source.object;
    PodIdentity {
        key: format!("{}/{}", source.namespace, source.name).into(),
        uid: pod.uid.clone(),
        // What is wrong with an address is told where policies read it.
        addresses: addresses(source, &mut Vec::new()),
        node: pod.node.clone(),
        host_network: pod.on_host,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use crate::{snapshot, source};

    fn holder(pods: &str) -> Option<String> {
        let (objects, _) = source::objects_and_findings(pods);
        let (snapshot, _) = snapshot::build(&objects, &snapshot::BuildOptions::default(), 0);
        snapshot.pods.by_ip("10.1.0.1".parse().unwrap()).map(|pod| pod.key.to_string())
    }

    fn pod(name: &str, metadata: &str, phase: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: demo, {metadata}}}\n\
             spec: {{containers: [{{name: main}}]}}\nstatus: {{phase: {phase}, podIP: 10.1.0.1}}\n---\n"
        )
    }

    #[test]
    fn c12_an_address_used_again_is_the_newer_pods_that_lives() {
        let old = pod("old", r#"creationTimestamp: "2026-01-01T00:00:00Z""#, "Running");
        let new = pod("new", r#"creationTimestamp: "2026-01-02T00:00:00Z""#, "Running");
        let going = pod(
            "going",
            r#"creationTimestamp: "2026-01-03T00:00:00Z", deletionTimestamp: "2026-01-04T00:00:00Z""#,
            "Running",
        );
        let ended = pod("ended", r#"creationTimestamp: "2026-01-05T00:00:00Z""#, "Failed");
        assert_eq!(holder(&(old.clone() + &new)).as_deref(), Some("demo/new"));
        assert_eq!(holder(&(new.clone() + &old)).as_deref(), Some("demo/new"));
        assert_eq!(holder(&(going.clone() + &ended + &old)).as_deref(), Some("demo/old"));
        assert_eq!(holder(&going).as_deref(), Some("demo/going"));
        assert_eq!(holder(&ended), None);
    }
}

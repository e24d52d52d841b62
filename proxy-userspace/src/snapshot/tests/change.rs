//! What is built change by change is what is built of the same objects at once.

use super::*;
use crate::source::{Sourced, store::Store};
use proptest::prelude::*;
use std::sync::LazyLock;

/// Objects that quarrel about names, addresses, node ports and pods, each once a variant.
static CAST: LazyLock<Vec<Objects>> = LazyLock::new(|| {
    let mut cast = Vec::new();
    for n in 0..5_u32 {
        for variant in 0..4_u32 {
            let created = format!(
                "{{name: s{n}, creationTimestamp: \"2024-0{}-01T00:00:00Z\"}}",
                1 + (n + variant) % 4
            );
            let spec = format!(
                "type: NodePort, clusterIP: 10.96.0.{}, externalIPs: [10.96.0.{}]",
                1 + (n + variant) % 3,
                1 + n % 2,
            );
            let http = if variant == 3 { 9090 } else { 8080 };
            let ports =
                format!("{{name: h, port: {http}, nodePort: {}}}, {{name: r, port: 81}}", 30_000 + n % 2);
            cast.push(service(&format!("s{n}"), &spec, &ports).replacen(
                &format!("{{name: s{n}}}"),
                &created,
                1,
            ));
            let endpoint = |m: u32| {
                format!(
                    "{{addresses: [10.244.1.{}], conditions: {{ready: {}, terminating: {}}}, \
                     targetRef: {{kind: Pod, name: p{}}}}}",
                    1 + (n + m) % 4,
                    (n + variant) % 3 != 0,
                    variant == 2,
                    (n + m * variant) % 3,
                )
            };
            // It moves from one Service to the other.
            let (of, more) = ((n + variant % 2) % 5, format!("{}, {}", endpoint(0), endpoint(variant)));
            let ports = format!("{{name: h, port: 8080}}, {{name: r, port: {}}}", 8080 + variant % 2);
            cast.push(slice(&format!("sl{n}"), &format!("s{of}"), &ports, &more));
            cast.push(format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, labels: {{app: a{}}}}}\n\
                 spec: {{containers: [{{name: main}}]}}\nstatus: {{podIP: 10.244.1.{}}}\n",
                variant % 2,
                1 + n % 4,
            ));
            cast.push(format!(
                "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: c{n}}}\n\
                 spec: {{endpointSelector: {{matchLabels: {{app: a{}}}}}, ingress: [{{toPorts: \
                 [{{ports: [{{port: \"8080\"}}], rules: {{http: [{{method: GET, path: /v{variant}}}]}}}}]}}]}}\n",
                n % 2,
            ));
        }
    }
    cast.iter().map(|text| crate::source::objects_and_findings(text).0).collect()
});

/// Adds an object of the cast, or removes it, or puts it beside what has its name.
fn step(objects: &mut Objects, index: usize, kind: u8) {
    let one = &CAST[index % CAST.len()];
    change(&mut objects.services, &one.services, kind);
    change(&mut objects.slices, &one.slices, kind);
    change(&mut objects.pods, &one.pods, kind);
    change(&mut objects.policies, &one.policies, kind);
}

fn change<T>(objects: &mut Store<T>, one: &Store<T>, kind: u8)
where
    T: crate::source::Object + Clone + PartialEq,
{
    for object in one.iter().map(Sourced::clone).map(Arc::new) {
        match kind {
            0 => {
                objects.forget(&object.key());
            }
            1 => objects.add(object),
            2 => objects.remove(&object),
            _ => objects.replace(object),
        }
    }
}

fn quarrel_options() -> BuildOptions {
    BuildOptions { node_addresses: vec!["192.0.2.1".parse().unwrap()], ..options() }
}

/// All of a snapshot but the ids of rules and policies, which depend on what was there before.
fn comparable(snapshot: &Snapshot) -> Vec<String> {
    let cluster = |cluster: &Arc<Cluster>| {
        let mut cluster = (**cluster).clone();
        let policies: Vec<_> = cluster
            .endpoints
            .iter_mut()
            .filter_map(|one| one.policy.take())
            .map(|policy| {
                (policy.name.clone(), policy.rules.iter().map(|rule| rule.name.clone()).collect::<Vec<_>>())
            })
            .collect();
        format!("{cluster:?} {policies:?}")
    };
    let led = |what: &str, map: &crate::sharded::Sharded<SocketAddr, Arc<Cluster>>| {
        let same = |one: &Arc<Cluster>| {
            snapshot.clusters.get(&one.name).is_some_and(|other| Arc::ptr_eq(one, other))
        };
        map.iter().map(|(addr, one)| format!("{what} {addr} {} {}", one.name, same(one))).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = snapshot.clusters.unsorted().map(cluster).collect();
    all.extend(led("frontend", &snapshot.by_frontend));
    all.extend(led("endpoint", &snapshot.by_endpoint));
    all.extend(snapshot.workload_by_ip.iter().map(|(ip, pod)| format!("{ip} is {pod}")));
    all.extend(snapshot.rule_names.values().map(|name| format!("rule {name}")));
    all.extend(snapshot.pods.iter().map(|pod| format!("{pod:?}")));
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn changes_lead_where_a_build_from_scratch_leads(
        steps in proptest::collection::vec((any::<usize>(), 0..6_u8, any::<bool>()), 1..40)
    ) {
        let mut builder = Builder::new(quarrel_options());
        let mut objects = Objects::default();
        for (index, kind, apply) in steps {
            step(&mut objects, index, kind);
            if apply {
                builder.apply(&objects);
                let (snapshot, findings) = build(&objects, &quarrel_options(), 0);
                prop_assert_eq!(comparable(builder.snapshot()), comparable(&snapshot));
                prop_assert_eq!(builder.findings().cloned().collect::<Vec<_>>(), findings);
                builder.assert_lean();
            }
        }
    }
}

#[test]
fn a_change_of_one_service_leaves_the_others_clusters_alone() {
    let text = |ip: &str| hello() + &service("other", &format!("clusterIP: {ip}"), HTTP);
    let (before, after) = (text("10.96.0.11"), text("10.96.0.12"));
    let mut builder = Builder::new(options());
    builder.apply(&objects_of(&before));
    let old = builder.snapshot().clone();
    builder.apply(&objects_of(&after));
    let changed: Vec<_> = builder
        .snapshot()
        .clusters
        .changes(&old.clusters)
        .map(|(_, new)| new.unwrap().name.to_string())
        .collect();
    assert_eq!(changed, ["default/other:8080"]);
    assert!(Arc::ptr_eq(&old.clusters[0], &builder.snapshot().clusters[0]));
}

fn objects_of(text: &str) -> Objects {
    crate::source::objects_and_findings(text).0
}

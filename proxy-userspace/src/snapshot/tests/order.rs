//! Who wins, whatever the order; and how long it takes.

use super::*;
use crate::source::{Sourced, store::Store};
use proptest::prelude::*;
use std::sync::LazyLock;

#[test]
fn of_two_services_with_one_address_the_older_has_it() {
    let service = |name: &str, created: &str| {
        service(name, "clusterIP: 10.96.0.1", HTTP)
            .replace(&format!("{{name: {name}}}"), &format!("{{name: {name}, creationTimestamp: {created}}}"))
            + &slice(&format!("{name}-1"), name, HTTP, ONE)
    };
    let frontend = addrs(&["10.96.0.1:8080"])[0];
    let cases = [
        (service("a", "2024-02-01T00:00:00Z") + &service("b", "2024-01-01T00:00:00Z"), "b"),
        (service("a", "2024-01-01T00:00:00Z") + &service("b", "2024-01-01T00:00:00Z"), "a"),
        (service("a", "null") + &service("b", "2024-01-01T00:00:00Z"), "b"),
    ];
    for (text, winner) in cases {
        let snapshot = only_finding(&text, "error 10.96.0.1:8080 belongs to the older Service");
        assert_eq!(&*snapshot.by_frontend[&frontend].service, winner);
        let with_frontend = snapshot.clusters.iter().filter(|cluster| !cluster.frontends.is_empty());
        assert_eq!(with_frontend.count(), 1);
    }
}

#[test]
fn an_object_that_is_there_twice_counts_once() {
    let twice = hello() + &service("hello", "clusterIP: 10.96.0.11", HTTP);
    let snapshot = only_finding(&twice, "error is there twice; the one at f.yaml:2 is used");
    assert!(snapshot.by_frontend.contains_key(&addrs(&["10.96.0.10:8080"])[0]));
}

/// Services that quarrel about addresses, names and node ports, and slices that overlap.
fn quarrel() -> Objects {
    let mut text = String::new();
    for n in 0..6 {
        let ports =
            format!("{{name: h, port: 8080, nodePort: {}}}, {{name: r, port: {}}}", 30000 + n % 3, 80 + n);
        text += &service(&format!("s{n}"), &format!("type: NodePort, clusterIP: 10.96.0.{}", n % 2), &ports);
        text += &service("same", &format!("clusterIP: 10.96.1.{n}"), HTTP);
        for m in 0..2 {
            let endpoint = format!(
                "{{addresses: [10.244.1.{}], conditions: {{ready: {}, terminating: {}}}, \
                 targetRef: {{kind: Pod, name: p{n}}}}}",
                n % 3,
                m == 0,
                n == 2
            );
            text += &slice(&format!("s{n}-{m}"), &format!("s{n}"), "{name: h, port: 8080}", &endpoint);
        }
    }
    objects(&text.replace("10.96.0.0", "10.96.0.9").replace("10.244.1.0", "10.244.1.9"))
}

static QUARREL: LazyLock<Objects> = LazyLock::new(quarrel);

fn quarrel_options() -> BuildOptions {
    BuildOptions { node_addresses: vec!["192.0.2.1".parse().unwrap()], ..options() }
}

/// Every object that was read, also where an older one has its name.
fn all<T: Clone>(store: &Store<T>) -> Vec<Sourced<T>> {
    store.iter().chain(store.all_others()).cloned().collect()
}

static SETTLED: LazyLock<(Snapshot, Vec<Finding>)> = LazyLock::new(|| build(&QUARREL, &quarrel_options(), 1));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn c4_the_order_of_objects_does_not_matter(
        services in Just(all(&QUARREL.services)).prop_shuffle(),
        slices in Just(all(&QUARREL.slices)).prop_shuffle(),
    ) {
        let (services, slices) = (services.into_iter().collect(), slices.into_iter().collect());
        let objects = Objects { services, slices, ..QUARREL.clone() };
        prop_assert_eq!(&build(&objects, &quarrel_options(), 1), &*SETTLED);
    }
}

/// With `--nocapture` it prints what a large cluster costs.
#[test]
fn ten_thousand_services_build_without_a_finding_and_equal_themselves() {
    let mut objects = Objects::default();
    let one = crate::source::objects(
        &hello().replace("endpoints: [", &format!("endpoints: [{}", format!("{ONE}, ").repeat(9))),
    );
    for n in 0..10_000_u32 {
        let mut service = one.services[0].clone();
        service.name = format!("s{n}");
        let ip = std::net::Ipv4Addr::from(0x0a60_0000 + n);
        let mut object = service.object.open().unwrap();
        object.spec.as_mut().unwrap().cluster_ip = Some(ip.to_string());
        service.object = crate::source::packed::Packed::new(&object).unwrap();
        let mut slice = one.slices[0].clone();
        slice.name = format!("s{n}-1");
        slice.object.service = Some(format!("s{n}").into());
        for (m, endpoint) in (0..).zip(&mut slice.object.endpoints) {
            let ip = std::net::Ipv4Addr::from(0x0af4_0000 + n * 10 + m);
            endpoint.addresses = crate::source::lean::Addresses::One(ip.into());
            endpoint.workload = Some(format!("default/p{n}-{m}").into());
        }
        objects.services.extend([service]);
        objects.slices.extend([slice]);
    }
    let begun = std::time::Instant::now();
    let (snapshot, findings) = build(&objects, &options(), 1);
    let took = begun.elapsed();
    assert!(findings.is_empty(), "{:?}", findings[0]);
    assert_eq!((snapshot.by_frontend.len(), snapshot.by_endpoint.len()), (10_000, 100_000));
    eprintln!("10 000 Services, 100 000 endpoints: {took:?}");
    let begun = std::time::Instant::now();
    assert_eq!(snapshot, build(&objects, &options(), 1).0);
    eprintln!("again, and compared: {:?}", begun.elapsed());
}

//! The Kubernetes API as a source: after every fault its state is what the API server lists, and no
//! snapshot on the way there lacks what was there all the time.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use weir::{
    metrics::Format,
    policy::access::Direction,
    snapshot::{BuildOptions, Snapshot},
    source::{
        directory::Watch,
        kubernetes::{Access, Cluster, Following, Node},
        publisher::Publisher,
    },
    status::Board,
};
use weir_tests::{
    apiserver::{ApiServer, Ask, Fault},
    metrics::Samples,
    shell, wait,
};

const SOON: Duration = Duration::from_secs(60);

/// Every kind that is followed and that a snapshot shows.
const KINDS: [(&str, &str); 4] = [
    ("v1", "services"),
    ("discovery.k8s.io/v1", "endpointslices"),
    ("v1", "pods"),
    ("cilium.io/v2", "ciliumnetworkpolicies"),
];

fn service(name: &str, ip: u16) -> Value {
    let ip = format!("10.96.{}.{}", ip >> 8, ip & 255);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "demo"},
           "spec": {"clusterIP": ip, "ports": [{"port": 8080}]}})
}

fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses.iter().map(|ip| json!({"addresses": [ip]})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
           "metadata": {"name": name, "namespace": "demo", "labels": {"kubernetes.io/service-name": name}},
           "endpoints": endpoints, "ports": [{"port": 8080}]})
}

/// Two Services with an endpoint each, which no test takes away.
fn furnished() -> Result<ApiServer> {
    let server = ApiServer::start()?;
    for (name, ip, endpoint) in [("a", 1, "10.244.0.1"), ("b", 2, "10.244.0.2")] {
        server.put(service(name, ip))?;
        server.put(slice(name, &[endpoint]))?;
    }
    Ok(server)
}

/// What is followed of a cluster, to an end of its own.
struct Opened {
    current: Arc<ArcSwap<Snapshot>>,
    published: Arc<Mutex<Vec<Snapshot>>>,
    board: Arc<Board>,
    following: Following,
    _runtime: tokio::runtime::Runtime,
}

fn open(access: &Access, run_dir: &Path, options: &BuildOptions) -> Result<Opened> {
    let board = Arc::new(Board::new(Arc::default()));
    let publisher = Publisher::new(options.clone(), Arc::clone(&board));
    let (current, published) = (publisher.snapshot(), Arc::<Mutex<Vec<Snapshot>>>::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let following = runtime.block_on(async {
        let mut cluster = Cluster::open(access, publisher, Node { name: "node1", run_dir }).await?;
        let all = Arc::clone(&published);
        cluster.publisher().announce_to(move |snapshot| all.lock().unwrap().push(snapshot.clone()));
        let synced = cluster.synced(|missing| eprintln!("no list yet of {missing}"));
        tokio::time::timeout(SOON, synced).await.context("not synced in time")??;
        anyhow::Ok(cluster.spawn())
    })?;
    Ok(Opened { current, published, board, following, _runtime: runtime })
}

/// A cluster that is followed, and every snapshot that was published.
struct Followed {
    server: ApiServer,
    dir: TempDir,
    options: BuildOptions,
    current: Arc<ArcSwap<Snapshot>>,
    published: Arc<Mutex<Vec<Snapshot>>>,
    board: Arc<Board>,
    following: Following,
    _runtime: tokio::runtime::Runtime,
}

fn follow(server: ApiServer) -> Result<Followed> {
    let followed = follow_from(server, tempfile::tempdir()?)?;
    // Faults are for watches that are open.
    ["services", "endpointslices", "pods"].iter().try_for_each(|plural| followed.watched_again(plural))?;
    Ok(followed)
}

/// The same with a directory in which objects may have been kept, and without waiting for watches.
fn follow_from(server: ApiServer, dir: TempDir) -> Result<Followed> {
    let options = BuildOptions::default();
    let opened = open(&Access::File(server.kubeconfig(dir.path())?), dir.path(), &options)?;
    let Opened { current, published, board, following, _runtime } = opened;
    Ok(Followed { server, dir, options, current, published, board, following, _runtime })
}

/// What a directory with these objects gives, and what it says of them.
fn read(dir: &Path, options: &BuildOptions, objects: &[Value]) -> Result<(Snapshot, Option<String>)> {
    fs::create_dir_all(dir)?;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    fs::write(dir.join("all.json"), list.to_string())?;
    let board = Arc::new(Board::new(Arc::default()));
    let publisher = Publisher::new(options.clone(), Arc::clone(&board));
    let current = publisher.snapshot();
    Watch::open(dir, publisher)?;
    Ok(((**current.load()).clone(), board.status().config.error))
}

/// Who is who, and which policies restrict whom; rules know the line they came from, which differs.
fn access(snapshot: &Snapshot) -> BTreeSet<String> {
    let pods = snapshot.access.pods().map(|pod| {
        let sets =
            [Direction::Ingress, Direction::Egress].map(|direction| pod.set(direction).map(|set| &set.name));
        format!("{:?} {sets:?}", pod.facts)
    });
    pods.collect()
}

impl Followed {
    /// Everything that the API server has.
    fn listed(&self) -> Vec<Value> {
        KINDS.iter().flat_map(|(api_version, plural)| self.server.list(api_version, plural)).collect()
    }

    /// Waits until what is in force is what a directory with the API server's objects gives.
    fn equals_list(&self) -> Result<()> {
        let dir = self.dir.path().join("expected");
        let (expected, _) = read(&dir, &self.options, &self.listed())?;
        wait::until(SOON, "the state equals the list", || {
            let current = self.current.load();
            let same_access = access(&current) == access(&expected);
            let but_access = Snapshot {
                generation: current.generation,
                access: current.access.clone(),
                ..expected.clone()
            };
            Ok(same_access && **current == but_access)
        })
    }

    /// Every published snapshot had the two Services and their endpoints.
    fn never_flapped(&self) {
        let published = self.published.lock().unwrap();
        assert!(!published.is_empty());
        for snapshot in published.iter() {
            for name in ["demo/a:8080", "demo/b:8080"] {
                let cluster = snapshot.clusters.iter().find(|cluster| &*cluster.name == name);
                let endpoints = cluster.map(|cluster| cluster.endpoints.len());
                assert_eq!(endpoints, Some(1), "{name} in generation {}", snapshot.generation);
            }
        }
    }

    fn names(&self) -> BTreeSet<String> {
        self.current.load().clusters.iter().map(|cluster| cluster.service.clone()).collect()
    }

    fn sees(&self, service: &str) -> Result<()> {
        wait::until(SOON, &format!("{service} is in force"), || Ok(self.names().contains(service)))
    }

    fn watched_again(&self, plural: &str) -> Result<()> {
        wait::until(SOON, &format!("{plural} are watched again"), || Ok(self.server.watches(plural) == 1))
    }

    /// Versions that watches of a resource began at.
    fn watched_from(&self, plural: &str) -> Vec<u64> {
        let asked = self.server.asked().into_iter().filter(|one| one.plural == plural);
        let version = |path: String| path.split("resourceVersion=").nth(1)?.split('&').next()?.parse().ok();
        asked.filter(|one| one.path.contains("watch=true")).filter_map(|one| version(one.path)).collect()
    }

    fn lists(&self, plural: &str) -> usize {
        let is_list = |path: &str| !path.contains("watch=true") && !path.contains("/namespaces/");
        self.server.asked().iter().filter(|one| one.plural == plural && is_list(&one.path)).count()
    }
}

#[test]
fn both_sources_give_the_same_store_and_find_the_same_faults() -> Result<()> {
    let server = furnished()?;
    server.put_manifest(
        "{apiVersion: v1, kind: Service, metadata: {name: odd, namespace: demo}, spec: {clusterIP: nonsense, ports: [{port: 1}]}}\n\
         ---\n{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: demo, labels: {app: x}}, \
         spec: {nodeName: n, containers: [{name: c, image: i}]}, \
         status: {phase: Running, podIP: 10.244.0.1, podIPs: [{ip: 10.244.0.1}]}}\n\
         ---\n{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: good, namespace: demo}, \
         spec: {endpointSelector: {matchLabels: {app: x}}, ingress: [{toPorts: [{ports: [{port: \"8080\"}], \
         rules: {http: [{method: GET, path: /public}]}}]}]}}\n\
         ---\n{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: unknown, namespace: demo}, \
         spec: {endpointSelector: {}, nonsense: 1}}\n",
    )?;
    let followed = follow(server)?;
    followed.equals_list()?;
    let (_, expected) = read(&followed.dir.path().join("expected"), &followed.options, &followed.listed())?;
    let said = |error: &str| -> Vec<String> {
        let text = |one: &str| {
            one.split_once(" Service").or(one.split_once(" Cilium")).map(|(_, text)| text.to_owned())
        };
        error.split("; ").filter_map(text).collect()
    };
    let expected = said(&expected.context("the directory's faults")?);
    let found = said(&followed.board.status().config.error.context("the API's faults")?);
    assert_eq!(found, expected);
    assert!(found.iter().any(|one| one.contains("nonsense")), "{found:?}");
    Ok(())
}

#[test]
fn a_change_is_in_force_within_a_quarter_of_a_second() -> Result<()> {
    let followed = follow(furnished()?)?;
    let mut took = Vec::new();
    for round in 0..10 {
        let begun = Instant::now();
        followed.server.put(service(&format!("new{round}"), 10 + round))?;
        followed.sees(&format!("new{round}"))?;
        took.push(begun.elapsed());
    }
    took.sort();
    assert!(took[took.len() / 2] < Duration::from_millis(250), "{took:?}");
    followed.equals_list()
}

#[test]
fn a_burst_of_changes_is_a_few_snapshots() -> Result<()> {
    let followed = follow(furnished()?)?;
    let before = followed.published.lock().unwrap().len();
    for round in 0..500 {
        followed.server.put(service(&format!("s{round}"), 100 + round))?;
    }
    followed.equals_list()?;
    let published = followed.published.lock().unwrap().len() - before;
    assert!((1..100).contains(&published), "{published} snapshots of 500 changes");
    Ok(())
}

#[test]
fn c11_a_connection_that_drops_within_a_line_costs_no_event() -> Result<()> {
    let followed = follow(furnished()?)?;
    followed.server.put(service("before", 3))?;
    followed.sees("before")?;
    followed.server.cut("services");
    followed.server.delete(&service("before", 3))?;
    followed.server.put(service("after", 4))?;
    followed.sees("after")?;
    followed.equals_list()?;
    followed.never_flapped();
    assert_eq!(followed.lists("services"), 1, "it went on where it was");
    Ok(())
}

#[test]
fn c11_an_object_deleted_while_disconnected_is_gone_after_410() -> Result<()> {
    let followed = follow(furnished()?)?;
    followed.server.put(service("doomed", 3))?;
    followed.sees("doomed")?;
    followed.server.cut("services");
    followed.server.delete(&service("doomed", 3))?;
    followed.server.put(service("late", 4))?;
    followed.server.forget_history();
    followed.sees("late")?;
    followed.equals_list()?;
    followed.never_flapped();
    assert_eq!(followed.lists("services"), 2);
    Ok(())
}

#[test]
fn c11_410_as_an_event_lists_anew() -> Result<()> {
    let followed = follow(furnished()?)?;
    followed.server.error("services", 410, "Expired");
    followed.server.put(service("late", 4))?;
    followed.sees("late")?;
    followed.equals_list()?;
    followed.never_flapped();
    assert_eq!(followed.lists("services"), 2);
    Ok(())
}

#[test]
fn c11_duplicate_and_late_events_change_nothing() -> Result<()> {
    let followed = follow(furnished()?)?;
    let old = followed.server.put(service("moving", 3))?;
    let new = followed.server.put(service("moving", 4))?;
    followed.server.put(service("gone", 5))?;
    let gone = followed.server.get(&service("gone", 5)).context("no such Service")?;
    followed.server.delete(&gone)?;
    followed.sees("moving")?;
    for (what, object) in
        [("MODIFIED", &new), ("MODIFIED", &old), ("DELETED", &old), ("ADDED", &gone), ("MODIFIED", &gone)]
    {
        followed.server.send("services", &json!({"type": what, "object": object}));
    }
    followed.server.put(service("last", 6))?;
    followed.sees("last")?;
    followed.equals_list()?;
    assert_eq!(followed.lists("services"), 1);
    followed.never_flapped();
    let published = followed.published.lock().unwrap();
    let first =
        published.iter().position(|one| one.clusters.iter().any(|cluster| cluster.service == "moving"));
    for snapshot in &published[first.unwrap()..] {
        let moving = snapshot.clusters.iter().find(|cluster| cluster.service == "moving");
        assert!(moving.is_some(), "generation {}", snapshot.generation);
    }
    Ok(())
}

#[test]
fn a_bookmark_moves_where_a_watch_goes_on() -> Result<()> {
    let followed = follow(furnished()?)?;
    // History that is of no interest to EndpointSlices.
    for round in 0..5 {
        followed.server.put(service(&format!("s{round}"), 10 + round))?;
    }
    followed.server.bookmark("endpointslices");
    followed.server.put(slice("b", &["10.244.0.2"]))?;
    followed.sees("s4")?;
    followed.equals_list()?;
    followed.server.bookmark("endpointslices");
    followed.server.put(slice("a", &["10.244.0.9"]))?;
    followed.equals_list()?;
    followed.server.forget_history();
    followed.server.bookmark("endpointslices");
    followed.server.cut("endpointslices");
    followed.watched_again("endpointslices")?;
    assert_eq!(followed.lists("endpointslices"), 1, "{:?}", followed.watched_from("endpointslices"));
    Ok(())
}

#[test]
fn f5_answers_of_500_and_429_only_delay_the_start() -> Result<()> {
    let server = furnished()?;
    server.fail("services", Ask::List, Fault::Status(500, "InternalError"));
    server.fail("pods", Ask::List, Fault::Status(429, "TooManyRequests"));
    server.fail("endpointslices", Ask::Watch, Fault::Status(503, "ServiceUnavailable"));
    let followed = follow(server)?;
    assert_eq!(followed.published.lock().unwrap().len(), 1);
    wait::until(SOON, "every fault was met", || Ok(followed.server.faults_left() == 0))?;
    followed.watched_again("endpointslices")?;
    followed.server.put(slice("a", &["10.244.0.9"]))?;
    followed.equals_list()?;
    followed.never_flapped();
    assert_eq!(followed.lists("endpointslices"), 1, "a watch that cannot begin now begins where it was");
    Ok(())
}

#[test]
fn c11_nothing_is_in_force_before_the_slowest_list_is_complete() -> Result<()> {
    let server = furnished()?;
    server.fail("endpointslices", Ask::List, Fault::Slow(Duration::from_millis(1500)));
    let begun = Instant::now();
    let followed = follow(server)?;
    assert!(begun.elapsed() >= Duration::from_millis(1500));
    followed.equals_list()?;
    followed.never_flapped();
    assert_eq!(followed.published.lock().unwrap().len(), 1);
    Ok(())
}

#[test]
fn a_kind_that_the_cluster_lacks_is_empty_until_it_comes() -> Result<()> {
    let followed = follow(furnished()?)?;
    assert!(followed.board.status().config.error.is_none());
    followed.server.put_manifest(
        "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: demo, labels: {app: x}}, \
         status: {phase: Running, podIP: 10.244.0.1, podIPs: [{ip: 10.244.0.1}]}}\n\
         ---\n{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: good, namespace: demo}, \
         spec: {endpointSelector: {matchLabels: {app: x}}, ingress: [{toPorts: [{ports: [{port: \"8080\"}], \
         rules: {http: [{method: GET, path: /public}]}}]}]}}\n",
    )?;
    followed.following.reload();
    followed.equals_list()?;
    followed.never_flapped();
    Ok(())
}

#[test]
fn f5_the_state_stays_while_the_api_server_is_away() -> Result<()> {
    let followed = follow(furnished()?)?;
    let before = followed.current.load().generation;
    followed.server.set_down(true);
    followed.server.put(service("meanwhile", 3))?;
    wait::throughout(Duration::from_secs(2), "what was in force is", || {
        Ok(followed.current.load().generation == before)
    })?;
    followed.server.set_down(false);
    followed.sees("meanwhile")?;
    followed.equals_list()?;
    followed.never_flapped();
    Ok(())
}

impl Followed {
    /// Waits until what is there is kept on disk, and ends.
    fn end(self) -> Result<(ApiServer, TempDir)> {
        let file = self.dir.path().join("objects.json");
        wait::until(SOON, "the objects are kept", || Ok(file.exists()))?;
        Ok((self.server, self.dir))
    }

    /// `weir_config_staleness_seconds`
    fn staleness(&self) -> Result<f64> {
        let text = self.board.metrics().text(Format::Prometheus)?;
        let samples = Samples::parse(&text)?;
        Ok(samples.sum("weir_config_staleness_seconds", &[]))
    }
}

#[test]
fn f5_a_start_without_the_api_server_serves_what_was_kept_until_it_is_back() -> Result<()> {
    let server = furnished()?;
    server.put(service("doomed", 3))?;
    let followed = follow(server)?;
    assert!(followed.staleness()? < f64::EPSILON);
    let (server, dir) = followed.end()?;
    server.set_down(true);
    let followed = follow_from(server, dir)?;
    assert_eq!(followed.names(), ["a", "b", "doomed"].map(String::from).into());
    wait::until(SOON, "the state grows old", || Ok(followed.staleness()? > 0.2))?;
    let status = followed.board.status();
    assert!(status.config.source.iter().all(|part| part.stale.is_some()), "{:?}", status.config.source);
    assert!(status.degraded.iter().any(|one| one.what.contains("source")), "{:?}", status.degraded);
    followed.server.delete(&service("doomed", 3))?;
    followed.server.put(service("new", 4))?;
    followed.server.forget_history();
    followed.server.set_down(false);
    followed.sees("new")?;
    followed.equals_list()?;
    followed.never_flapped();
    wait::until(SOON, "the state is known again", || Ok(followed.staleness()? < f64::EPSILON))?;
    let degraded = followed.board.status().degraded;
    assert!(!degraded.iter().any(|one| one.what.contains("source")), "{degraded:?}");
    Ok(())
}

#[test]
fn f28_a_start_does_not_serve_what_was_kept_in_part() -> Result<()> {
    let (server, dir) = follow(furnished()?)?.end()?;
    let file = dir.path().join("objects.json");
    let text = fs::read(&file)?;
    fs::write(&file, &text[..text.len() / 2])?;
    server.fail("services", Ask::List, Fault::Status(500, "InternalError"));
    let followed = follow_from(server, dir)?;
    assert!(followed.lists("services") >= 2, "it waited for the API server");
    followed.equals_list()?;
    followed.never_flapped();
    wait::until(SOON, "a whole file takes its place", || Ok(fs::read(&file)?.len() >= text.len()))
}

#[test]
fn what_was_kept_is_not_served_when_the_api_server_answers() -> Result<()> {
    let server = furnished()?;
    server.put(service("doomed", 3))?;
    let (server, dir) = follow(server)?.end()?;
    server.delete(&service("doomed", 3))?;
    let followed = follow_from(server, dir)?;
    followed.equals_list()?;
    let published = followed.published.lock().unwrap();
    assert!(published.iter().all(|one| one.clusters.iter().all(|cluster| cluster.service != "doomed")));
    Ok(())
}

#[test]
fn c11_a_resync_of_ten_thousand_objects_is_one_change() -> Result<()> {
    const MANY: u16 = 10_000;
    let server = furnished()?;
    for number in 0..MANY {
        server.put(service(&format!("s{number}"), 1000 + number))?;
    }
    server.fail("services", Ask::Page, Fault::Status(410, "Expired"));
    let followed = follow(server)?;
    followed.equals_list()?;
    assert_eq!(followed.names().len(), usize::from(MANY) + 2);
    followed.server.fail("services", Ask::Watch, Fault::Status(410, "Expired"));
    followed.server.cut("services");
    followed.server.delete(&service("s7", 1007))?;
    followed.server.put(service("one-more", 900))?;
    followed.server.forget_history();
    followed.sees("one-more")?;
    followed.equals_list()?;
    followed.never_flapped();
    let published = followed.published.lock().unwrap();
    for snapshot in published.iter() {
        let known = snapshot.clusters.len();
        assert!(known == usize::from(MANY) + 2, "{known} Services in generation {}", snapshot.generation);
    }
    Ok(())
}

#[test]
fn a_real_api_server_gives_what_kubectl_lists() -> Result<()> {
    if std::env::var_os("KUBECONFIG").is_none() {
        eprintln!("skipped: KUBECONFIG names no API server");
        return Ok(());
    }
    let (dir, options) = (tempfile::tempdir()?, BuildOptions::default());
    let opened = open(&Access::Kubectl, dir.path(), &options)?;
    wait::until(SOON, "the state equals what kubectl lists", || {
        let mut objects = Vec::new();
        for kind in ["services", "endpointslices", "pods"] {
            let text =
                shell::run(Command::new("kubectl").args(["get", kind, "--all-namespaces", "-o", "json"]))?;
            let list: Value = serde_json::from_str(&text)?;
            objects.extend(list["items"].as_array().cloned().unwrap_or_default());
        }
        let (mut expected, _) = read(&dir.path().join("expected"), &options, &objects)?;
        let current = opened.current.load();
        expected.generation = current.generation;
        Ok(current.clusters == expected.clusters)
    })
}

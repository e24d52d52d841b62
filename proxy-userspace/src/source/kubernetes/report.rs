//! Writes back what is to be said about objects: conditions and addresses into their status, findings as
//! Events. One agent of the cluster does, see `lease.rs`; each word is written when it changed only.

use super::{
    event,
    kind::Kind,
    lease::Leadership,
    status,
    write::{Failure, Writer},
};
use crate::{
    snapshot::conditions::ObjectStatus,
    source::{
        Objects,
        finding::Finding,
        lean::Address,
        store::{Key, Store},
    },
    status::{Board, Degraded},
};
use k8s_openapi::{Metadata, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Client;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// At least so long between two looks at what is to be written.
const BETWEEN: Duration = Duration::from_secs(1);
/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(15);
/// How long Events are kept by an API server: after that they are said again.
const EVENT_LIFE: Duration = Duration::from_secs(3600);
/// Node addresses that an Ingress or a Gateway is said to have.
const MAX_ADDRESSES: usize = 16;
/// What is broken, as the status names it.
const WHAT: &str = "reports to the Kubernetes API";

/// What there is to say.
#[derive(Clone, Default)]
pub(super) struct Sayings {
    pub(super) objects: Objects,
    pub(super) statuses: Arc<Vec<ObjectStatus>>,
    /// Errors and warnings, worst first, as many as are reported at all.
    pub(super) findings: Vec<Finding>,
}

/// Who says it.
pub(super) struct Reporter {
    writer: Writer,
    leadership: Leadership,
    sayings: watch::Receiver<Sayings>,
    board: Arc<Board>,
    /// This node's name.
    node: String,
    /// The agents' own namespace, by whose Pods it is known where nodes are.
    namespace: String,
    /// What statuses were last found to say, and in which version of the object.
    said: HashMap<(&'static str, Key), (ObjectStatus, Vec<IpAddr>, String)>,
    /// Findings that are Events, and since when.
    told: BTreeMap<Finding, Instant>,
    /// The failure that was logged last.
    logged: String,
}

impl Reporter {
    pub(super) fn new(
        client: &Client,
        node: &str,
        sayings: watch::Receiver<Sayings>,
        board: Arc<Board>,
    ) -> Self {
        let (writer, namespace) = (Writer(client.clone()), client.default_namespace().to_owned());
        Self {
            leadership: Leadership::new(writer.clone(), &namespace, node),
            writer,
            sayings,
            board,
            node: node.to_owned(),
            namespace,
            said: HashMap::new(),
            told: BTreeMap::new(),
            logged: String::new(),
        }
    }

    /// Returns when nobody has anything to say any more.
    pub(super) async fn run(mut self) {
        let mut look = Instant::now();
        let mut retry = None;
        loop {
            if look <= Instant::now() {
                let held = self.leadership.holds();
                let (again, outcome) = self.leadership.step().await;
                look = Instant::now() + again;
                self.note(outcome.map_err(|refusal| refusal.to_string()));
                if !held && self.leadership.holds() {
                    tracing::info!("this agent reports to the Kubernetes API");
                    self.sayings.mark_changed();
                }
            }
            let wake = retry.map_or(look, |retry: Instant| retry.min(look));
            tokio::select! {
                changed = self.sayings.changed(), if self.leadership.holds() => {
                    if changed.is_err() {
                        return;
                    }
                    retry = self.report().await;
                    sleep_until(Instant::now() + BETWEEN).await;
                }
                () = sleep_until(wake) => {
                    if retry.is_some_and(|retry| retry <= Instant::now()) {
                        retry = self.report().await;
                    }
                }
            }
            if self.sayings.has_changed().is_err() {
                return;
            }
        }
    }

    /// Writes what is new; when to try again, if not all of it was.
    async fn report(&mut self) -> Option<Instant> {
        let sayings = self.sayings.borrow_and_update().clone();
        let nodes = nodes(&sayings.objects, &self.namespace);
        let mut outcome = Ok(());
        let named: HashSet<_> =
            sayings.statuses.iter().map(|one| (one.kind, Key::new(&one.namespace, &one.name))).collect();
        self.said.retain(|place, _| named.contains(place));
        for status in sayings.statuses.iter() {
            if let Err(why) = self.say(status, &sayings.objects, &nodes).await {
                outcome =
                    Err(format!("status of {} {}/{}: {why}", status.kind, status.namespace, status.name));
            }
        }
        let wanted: BTreeSet<_> = sayings.findings.iter().collect();
        self.told.retain(|finding, since| wanted.contains(finding) && since.elapsed() < EVENT_LIFE);
        for finding in &sayings.findings {
            if let Err(why) = self.tell(finding).await {
                outcome = Err(format!("Event about {}: {why}", finding.object));
            }
        }
        let failed = outcome.is_err();
        self.note(outcome);
        failed.then(|| Instant::now() + RETRY)
    }

    fn note(&mut self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.board.recovered(WHAT),
            Err(why) => {
                if self.logged != why {
                    tracing::warn!("{WHAT}: {why}");
                    self.logged.clone_from(&why);
                }
                let fix = "traffic is served all the same; see the roles of deploy/daemonset.yaml".to_owned();
                self.board.degraded(Degraded { what: WHAT.to_owned(), why, fix });
            }
        }
    }

    async fn say(
        &mut self,
        status: &ObjectStatus,
        objects: &Objects,
        nodes: &[IpAddr],
    ) -> Result<(), String> {
        if !self.leadership.holds() {
            return Ok(());
        }
        let Some(kind) = Kind::named(status.kind) else { return Ok(()) };
        let key = Key::new(&status.namespace, &status.name);
        let version = version(objects, status.kind, &key).unwrap_or_default();
        let place = (kind.kind, key);
        let known = self.said.get(&place);
        if known.is_some_and(|(said, at, of)| said == status && at == nodes && *of == version) {
            return Ok(());
        }
        let object = match self.writer.get(kind, &status.namespace, &status.name).await {
            Ok(object) => object,
            Err(Failure::Missing | Failure::Conflict) => return Ok(()),
            Err(Failure::Other(refusal)) => return Err(refusal.to_string()),
        };
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let object = match status::patch(status, &object, nodes, &now) {
            None => object,
            Some(patch) => {
                match self.writer.patch_status(kind, &status.namespace, &status.name, &patch).await {
                    Ok(object) => object,
                    Err(Failure::Missing) => return Ok(()),
                    Err(Failure::Conflict) => return Err("somebody else changed it meanwhile".to_owned()),
                    Err(Failure::Other(refusal)) => return Err(refusal.to_string()),
                }
            }
        };
        let version = object.pointer("/metadata/resourceVersion").and_then(serde_json::Value::as_str);
        self.said.insert(place, (status.clone(), nodes.to_vec(), version.unwrap_or_default().to_owned()));
        Ok(())
    }

    async fn tell(&mut self, finding: &Finding) -> Result<(), String> {
        if self.told.contains_key(finding) || !self.leadership.holds() {
            return Ok(());
        }
        let Some(about) = event::about(finding) else { return Ok(()) };
        let object = match self.writer.get(about.kind, &about.namespace, &about.name).await {
            Ok(object) => object,
            Err(Failure::Missing | Failure::Conflict) => return Ok(()),
            Err(Failure::Other(refusal)) => return Err(refusal.to_string()),
        };
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let event = event::event(finding, &about, &object, &self.node, &now);
        let namespace = event.pointer("/metadata/namespace").and_then(serde_json::Value::as_str);
        let collection = format!("/api/v1/namespaces/{}/events", namespace.unwrap_or("default"));
        match self.writer.create(&collection, &event).await {
            // A conflict: an earlier holder of the Lease told it.
            Ok(_) | Err(Failure::Conflict | Failure::Missing) => {
                self.told.insert(finding.clone(), Instant::now());
                Ok(())
            }
            Err(Failure::Other(refusal)) => Err(refusal.to_string()),
        }
    }
}

/// The addresses of the nodes that have an agent, by its Pods.
fn nodes(objects: &Objects, namespace: &str) -> Vec<IpAddr> {
    let of_agent = objects
        .pods
        .iter()
        .filter(|pod| pod.namespace == namespace)
        .filter(|pod| pod.object.labels.get("app.kubernetes.io/name") == Some("weir"));
    let addresses = of_agent
        .flat_map(|pod| &pod.object.host_addresses)
        .filter_map(|one| if let Address::Ip(ip) = one { Some(*ip) } else { None });
    addresses.collect::<BTreeSet<_>>().into_iter().take(MAX_ADDRESSES).collect()
}

/// The version of an object that has a status of ours.
fn version(objects: &Objects, kind: &str, key: &Key) -> Option<String> {
    fn of<T: Metadata<Ty = ObjectMeta>>(store: &Store<T>, key: &Key) -> Option<String> {
        store.get(key)?.object.metadata().resource_version.clone()
    }
    match kind {
        "Ingress" => of(&objects.ingresses, key),
        "Gateway" => of(&objects.gateways, key),
        "HTTPRoute" => of(&objects.http_routes, key),
        "BackendTLSPolicy" => of(&objects.backend_tls_policies, key),
        // In the store, classes are in the namespace of what names none.
        "GatewayClass" => of(&objects.gateway_classes, &Key::new("default", key.name())),
        _ => None,
    }
}

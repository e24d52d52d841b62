//! What the agents say about objects through the Kubernetes API: conditions, addresses and Events, each
//! once, by one of them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tempfile::TempDir;
use weir::{
    snapshot::BuildOptions,
    source::{
        kubernetes::{Access, Cluster, Following, Node},
        publisher::Publisher,
    },
    status::Board,
};
use weir_tests::{
    apiserver::{ApiServer, Ask, Fault},
    wait,
};

const SOON: Duration = Duration::from_secs(60);

/// One node's agent, as far as it deals with the API.
struct Agent {
    board: Arc<Board>,
    following: Following,
    _dir: TempDir,
    _runtime: tokio::runtime::Runtime,
}

fn agent(server: &ApiServer, node: &str) -> Result<Agent> {
    let dir = tempfile::tempdir()?;
    let board = Arc::new(Board::new(Arc::default()));
    let publisher = Publisher::new(BuildOptions::default(), Arc::clone(&board));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let following = runtime.block_on(async {
        let access = Access::File(server.kubeconfig(dir.path())?);
        let node = Node { name: node, run_dir: dir.path() };
        let mut cluster = Cluster::open(&access, publisher, node).await?;
        tokio::time::timeout(SOON, cluster.synced(|_| ())).await.context("not synced in time")??;
        anyhow::Ok(cluster.spawn())
    })?;
    Ok(Agent { board, following, _dir: dir, _runtime: runtime })
}

/// Requests that changed something, but for the Lease.
fn writes(server: &ApiServer) -> Vec<String> {
    let asked = server.asked().into_iter();
    let writes = asked.filter(|one| one.method != "GET" && one.plural != "leases");
    writes.map(|one| format!("{} {}", one.method, one.path.trim_end_matches('?'))).collect()
}

fn events(server: &ApiServer) -> Vec<Value> {
    server.list("v1", "events")
}

/// Nothing is written any more, whatever is looked at again.
fn is_silent(server: &ApiServer, agent: &Agent) -> Result<()> {
    let mut before = writes(server);
    wait::until(SOON, "all is said", || {
        let said = std::mem::replace(&mut before, writes(server));
        wait::throughout(Duration::from_secs(3), "nothing more is said", || Ok(writes(server) == before))?;
        Ok(said == before)
    })?;
    agent.following.reload();
    wait::throughout(Duration::from_secs(4), "nothing is said twice", || Ok(writes(server) == before))
        .with_context(|| format!("{:?}", writes(server)))
}

#[test]
fn a_finding_is_one_event_whatever_number_of_agents_find_it() -> Result<()> {
    let server = ApiServer::start()?;
    server.put_manifest(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: odd, namespace: demo}, \
         spec: {endpointSelector: {}, nonsense: 1}}\n",
    )?;
    let agents = [agent(&server, "node1")?, agent(&server, "node2")?];
    wait::until(SOON, "an Event", || Ok(!events(&server).is_empty()))?;
    is_silent(&server, &agents[0])?;
    is_silent(&server, &agents[1])?;
    let all = events(&server);
    assert_eq!(all.len(), 1, "{all:?}");
    let policy = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
                        "metadata": {"name": "odd", "namespace": "demo"}});
    let policy = server.get(&policy).context("no policy")?;
    assert_eq!(all[0]["involvedObject"]["uid"], policy["metadata"]["uid"]);
    assert_eq!(all[0]["type"], "Warning");
    assert!(all[0]["message"].as_str().unwrap().contains("nonsense"), "{}", all[0]);
    let leases = server.list("coordination.k8s.io/v1", "leases");
    assert_eq!(leases.len(), 1);
    let holder = leases[0]["spec"]["holderIdentity"].as_str().unwrap();
    assert_eq!(all[0]["source"]["host"], holder, "the one that holds the Lease told it");
    Ok(())
}

#[test]
fn a_finding_that_an_earlier_agent_told_is_not_told_again() -> Result<()> {
    let server = ApiServer::start()?;
    server.put_manifest(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: odd, namespace: demo}, \
         spec: {endpointSelector: {}, nonsense: 1}}\n",
    )?;
    let first = agent(&server, "node1")?;
    wait::until(SOON, "an Event", || Ok(!events(&server).is_empty()))?;
    drop(first);
    // The same node's next agent holds the Lease at once.
    let second = agent(&server, "node1")?;
    wait::until(SOON, "it tries", || Ok(writes(&server).len() == 2))?;
    is_silent(&server, &second)?;
    assert_eq!(events(&server).len(), 1);
    Ok(())
}

#[test]
fn an_agent_that_may_not_report_says_so_and_serves() -> Result<()> {
    let server = ApiServer::start()?;
    server.put_manifest(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: odd, namespace: demo}, \
         spec: {endpointSelector: {}, nonsense: 1}}\n",
    )?;
    server.fail("events", Ask::Write, Fault::Status(403, "Forbidden"));
    let agent = agent(&server, "node1")?;
    wait::until(SOON, "it is degraded", || {
        let degraded = agent.board.status().degraded;
        Ok(degraded.iter().any(|one| one.what.contains("reports") && one.why.contains("403")))
    })?;
    wait::until(SOON, "it is tried again", || Ok(!events(&server).is_empty()))?;
    wait::until(SOON, "it is well", || {
        Ok(!agent.board.status().degraded.iter().any(|one| one.what.contains("reports")))
    })
}

const ROUTING: &str = "\
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: ours, generation: 1}, \
 spec: {controllerName: weir.dev/gateway}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: theirs}, \
 spec: {controllerName: example.com/gateway}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: demo, generation: 3}, \
 spec: {gatewayClassName: ours, listeners: [{name: http, port: 80, protocol: HTTP}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: good, namespace: demo, generation: 1}, \
 spec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: web, port: 80}]}]}, \
 status: {parents: [{parentRef: {name: x}, controllerName: example.com/gateway, conditions: []}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: dangling, namespace: demo}, \
 spec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: nobody, port: 80}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: ours, namespace: demo}, \
 spec: {ingressClassName: weir, defaultBackend: {service: {name: web, port: {number: 80}}}}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: theirs, namespace: demo}, \
 spec: {ingressClassName: other, defaultBackend: {service: {name: web, port: {number: 80}}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: demo}, \
 spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: weir-1, namespace: default, labels: {app.kubernetes.io/name: weir}}, \
 spec: {hostNetwork: true}, status: {phase: Running, hostIP: 192.0.2.1, hostIPs: [{ip: 192.0.2.1}, {ip: 2001:db8::1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: weir-2, namespace: default, labels: {app.kubernetes.io/name: weir}}, \
 spec: {hostNetwork: true}, status: {phase: Running, hostIP: 192.0.2.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: other, namespace: default}, \
 spec: {}, status: {phase: Running, hostIP: 192.0.2.3}}
";

/// The status of an object; null where it has none.
fn status(server: &ApiServer, api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Value {
    let mut like = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    if let Some(namespace) = namespace {
        like["metadata"]["namespace"] = json!(namespace);
    }
    server.get(&like).map_or(Value::Null, |object| object["status"].clone())
}

/// `True` or `False` of a condition; null where there is none.
fn condition(conditions: &Value, kind: &str) -> Value {
    let all = conditions.as_array().into_iter().flatten();
    all.filter(|one| one["type"] == kind).map(|one| one["status"].clone()).next().unwrap_or(Value::Null)
}

#[test]
fn objects_of_ours_say_what_became_of_them_and_others_are_left_alone() -> Result<()> {
    const GATEWAYS: &str = "gateway.networking.k8s.io/v1";
    let server = ApiServer::start()?;
    server.put_manifest(ROUTING)?;
    let agent = agent(&server, "node1")?;
    let of = |kind: &str, name: &str| status(&server, GATEWAYS, kind, Some("demo"), name);
    let ingress = |name: &str| status(&server, "networking.k8s.io/v1", "Ingress", Some("demo"), name);
    wait::until(SOON, "everything of ours has a status", || {
        let all = [of("Gateway", "gw"), of("HTTPRoute", "dangling"), ingress("ours")];
        Ok(all.iter().all(|status| !status.is_null()) && of("HTTPRoute", "good")["parents"][1].is_object())
    })?;
    is_silent(&server, &agent)?;

    let class = status(&server, GATEWAYS, "GatewayClass", None, "ours");
    assert_eq!(condition(&class["conditions"], "Accepted"), "True", "{class}");
    assert!(status(&server, GATEWAYS, "GatewayClass", None, "theirs").is_null());

    let gateway = of("Gateway", "gw");
    assert_eq!(condition(&gateway["conditions"], "Accepted"), "True", "{gateway}");
    assert_eq!(gateway["conditions"][0]["observedGeneration"], 3, "{gateway}");
    assert!(gateway["conditions"][0]["lastTransitionTime"].is_string(), "{gateway}");
    assert_eq!(gateway["listeners"][0]["attachedRoutes"], 2, "{gateway}");
    let nodes = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];
    let values: Vec<_> = gateway["addresses"].as_array().unwrap().iter().map(|one| &one["value"]).collect();
    assert_eq!(values, nodes);

    let good = of("HTTPRoute", "good");
    assert_eq!(good["parents"][0]["controllerName"], "example.com/gateway", "{good}");
    assert_eq!(good["parents"][1]["parentRef"], json!({"name": "gw"}), "{good}");
    assert_eq!(condition(&good["parents"][1]["conditions"], "Accepted"), "True", "{good}");
    let dangling = of("HTTPRoute", "dangling");
    assert_eq!(condition(&dangling["parents"][0]["conditions"], "ResolvedRefs"), "False", "{dangling}");

    let expected: Vec<_> = nodes.iter().map(|ip| json!({"ip": ip})).collect();
    assert_eq!(ingress("ours")["loadBalancer"]["ingress"], json!(expected));
    assert!(ingress("theirs").is_null());
    Ok(())
}

#[test]
fn a_status_that_somebody_overwrites_is_written_again() -> Result<()> {
    const GATEWAYS: &str = "gateway.networking.k8s.io/v1";
    let server = ApiServer::start()?;
    server.put_manifest(ROUTING)?;
    let _agent = agent(&server, "node1")?;
    let accepted = || {
        let class = status(&server, GATEWAYS, "GatewayClass", None, "ours");
        Ok(condition(&class["conditions"], "Accepted") == "True")
    };
    wait::until(SOON, "the class is accepted", accepted)?;
    server.put(
        json!({"apiVersion": GATEWAYS, "kind": "GatewayClass", "metadata": {"name": "ours", "generation": 2},
                      "spec": {"controllerName": "weir.dev/gateway"}}),
    )?;
    wait::until(SOON, "the class is accepted again", accepted)
}

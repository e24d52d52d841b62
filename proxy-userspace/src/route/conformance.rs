//! The projects' own conformance cases, by tables alone. Their data is beside the repository, where it is there
//! at all; it is not part of it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use super::{
    decision::{Act, Forward, acts},
    explain::{Hypothetical, best},
    rule::Mirror,
};
use crate::{
    snapshot::{BuildOptions, Snapshot, build},
    source::objects_and_findings,
};
use http::{HeaderMap, HeaderName, header};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const INFRA: &str = "gateway-conformance-infra";

/// The data; `None`, with a word, where it is not there.
fn data() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    if !dir.is_dir() {
        eprintln!("SKIP: {} is not there", dir.display());
        return None;
    }
    Some(dir)
}

fn snapshot_of(text: &str) -> Snapshot {
    let (objects, _) = objects_and_findings(text);
    build(&objects, &BuildOptions::default(), 1).0
}

fn json(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A Service with these ports, so that an Ingress may refer to it.
fn service(name: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: None, ports: {ports}}}\n"
    )
}

#[test]
fn every_ingress_case_comes_out_as_the_project_says() {
    let Some(dir) = data() else { return };
    let lines = fs::read_to_string(dir.join("ingress/ingress-cases.jsonl")).unwrap();
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let case: Value = serde_json::from_str(line).unwrap();
        let mut text = String::new();
        let mut names = BTreeSet::new();
        for manifest in case["manifests"].as_array().unwrap() {
            text += &format!("---\n{manifest}\n");
            services(manifest, &mut names);
        }
        text += &names.iter().map(|name| service(name, "[{name: http, port: 8080}]")).collect::<String>();
        let uri: http::Uri = case["url"].as_str().unwrap().parse().unwrap();
        let asked = Hypothetical {
            host: uri.host().map(str::to_owned),
            path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            method: case["method"].as_str().unwrap_or("GET").to_owned(),
            headers: Vec::new(),
            // Where TLS ends is another matter: the rules are the same.
            scheme: None,
            port: None,
            gateway: None,
        };
        let outcomes = asked.outcomes(&snapshot_of(&text)).unwrap();
        let right = match case["service"].as_str() {
            Some(service) => outcomes[0].backend == Some(format!("default/{service}:8080")),
            None => outcomes[0].status.map(u64::from) == case["status"].as_u64(),
        };
        count += 1;
        if !right {
            wrong.push(format!("{}: {} gave {outcomes:?}", case["scenario"], case["url"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 20, "only {count} cases");
}

/// Names of Services that a manifest refers to.
fn services(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(name) = fields.get("service").and_then(|service| service["name"].as_str()) {
                names.insert(name.to_owned());
            }
            fields.values().for_each(|one| services(one, names));
        }
        Value::Array(items) => items.iter().for_each(|one| services(one, names)),
        _ => {}
    }
}

/// Cases whose outcome is not the tables' to say: time, TLS, other protocols.
const NOT_OURS: [&str; 6] = [
    "HTTPRouteTimeoutRequest",
    "HTTPRouteTimeoutBackendRequest",
    "HTTPRouteHTTPSListener",
    "HTTPRouteHTTPSListenerDetectMisdirectedRequests",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteServiceTypes",
];

#[test]
fn every_httproute_case_comes_out_as_the_project_says() {
    let Some(dir) = data() else { return };
    let dir = dir.join("gateway-api");
    let base = fs::read_to_string(dir.join("base-manifests.yaml")).unwrap();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for test in json(&dir.join("conformance-cases.json")) {
        let name = test["ShortName"].as_str().unwrap();
        let ours = name.starts_with("HTTPRoute") || name == "GatewayHTTPListenerIsolation";
        if !ours || NOT_OURS.contains(&name) {
            continue;
        }
        let mut text = base.clone();
        for file in test["Manifests"].as_array().unwrap() {
            let file = file.as_str().unwrap().replace("tests/", "conformance-yaml/");
            text += &format!("\n---\n{}", fs::read_to_string(dir.join(file)).unwrap());
        }
        let text = text.replace("{GATEWAY_CLASS_NAME}", "weir");
        let snapshot = snapshot_of(&text);
        for (index, case) in test["cases"].as_array().into_iter().flatten().enumerate() {
            let ungranted = name == "HTTPRouteReferenceGrant" && index == 1;
            let other =
                ungranted.then(|| snapshot_of(&text.replace("kind: ReferenceGrant", "kind: Nothing")));
            count += 1;
            if let Err(why) = check(name, (index, case), &test, other.as_ref().unwrap_or(&snapshot)) {
                wrong.push(format!("{name} line {}: {why}: {case}", case["_line"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count}\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 200, "only {count} cases");
}

/// The Gateway that a case's requests come to.
fn gateway(name: &str, index: usize, test: &Value) -> String {
    let gateway = match (name, index) {
        ("HTTPRouteMultipleGateways", 0 | 1) => "same-namespace",
        ("GatewayHTTPListenerIsolation", _) => "http-listener-isolation",
        ("HTTPRouteHostnameIntersection", ..27) => "httproute-hostname-intersection",
        ("HTTPRouteRedirectPortAndScheme", ..6) => "same-namespace",
        ("HTTPRouteRedirectPortAndScheme", 6..9) => "same-namespace-with-http-listener-on-8080",
        _ => test["gateways_routes"]["gwNN"]["Name"].as_str().unwrap_or("same-namespace"),
    };
    format!("{INFRA}/{gateway}")
}

fn check(
    name: &str,
    (index, case): (usize, &Value),
    test: &Value,
    snapshot: &Snapshot,
) -> Result<(), String> {
    let request = &case["Request"];
    let host = request["Host"].as_str();
    let port = match name {
        "HTTPRouteListenerPortMatching" => host.and_then(|host| host.split_once(':')?.1.parse().ok()),
        _ => None,
    };
    let fields = request["Headers"].as_object();
    let gateway = gateway(name, index, test);
    let asked = Hypothetical {
        // Who names none calls the Gateway by its address.
        host: Some(host.filter(|host| !host.is_empty()).unwrap_or("gateway.test").to_owned()),
        path: request["Path"].as_str().unwrap_or("/").to_owned(),
        method: request["Method"].as_str().filter(|method| !method.is_empty()).unwrap_or("GET").to_owned(),
        headers: fields
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect(),
        scheme: gateway.contains("https").then(|| "https".to_owned()),
        port,
        gateway: Some(gateway),
    };
    let sites = asked.sites(&snapshot.routes)?;
    let head = asked.head()?.ok_or("no target")?;
    let target = head.target()?;
    let act = match best(&sites, &target) {
        None => Act::NoMatch,
        Some(site) => {
            let all = acts(site, &target).1;
            // The case names the backend of one request; of weights, any.
            let wanted = case["Backend"].as_str().unwrap_or_default();
            let fits = |act: &Act<'_>| matches!(act, Act::Forward(forward) if forward.cluster.contains(&format!("/{wanted}:")));
            all.iter().find(|act| fits(act)).or(all.first()).cloned().ok_or("no act")?
        }
    };
    compare(case, &act, &head.fields, &target)
}

fn compare(
    case: &Value,
    act: &Act<'_>,
    sent: &HeaderMap,
    target: &super::target::Target<'_>,
) -> Result<(), String> {
    let response = &case["Response"];
    let one = response["StatusCode"].as_u64().filter(|code| *code != 0);
    let statuses: Vec<u64> = response["StatusCodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .chain(one)
        .collect();
    let (status, head) = match act {
        Act::NoMatch => (404, HeaderMap::new()),
        Act::NotAdmitted(_) => (400, HeaderMap::new()),
        Act::Broken(_) => (500, HeaderMap::new()),
        Act::Unavailable(_) => (503, HeaderMap::new()),
        Act::Preflight(head) => (204, head.clone()),
        Act::Redirect { status, location } => {
            redirected(&case["RedirectRequest"], location)?;
            (u64::from(status.as_u16()), HeaderMap::new())
        }
        Act::Forward(forward) => (200, forwarded(case, forward, sent, target)?),
    };
    let right = if statuses.is_empty() { status == 200 } else { statuses.contains(&status) };
    if !right {
        return Err(format!("{status} by {act:?}"));
    }
    answer(response, &head)
}

/// A request that is forwarded; the answer's head.
fn forwarded(
    case: &Value,
    forward: &Forward<'_>,
    sent: &HeaderMap,
    target: &super::target::Target<'_>,
) -> Result<HeaderMap, String> {
    let namespace = case["Namespace"].as_str().unwrap_or(INFRA);
    if let Some(backend) = case["Backend"].as_str().filter(|backend| !backend.is_empty())
        && !forward.cluster.starts_with(&format!("{namespace}/{backend}:"))
    {
        return Err(format!("it went to {}", forward.cluster));
    }
    let expected = &case["ExpectedRequest"];
    let path = forward.path_and_query(target);
    if let Some(wanted) = expected["Request"]["Path"].as_str().filter(|path| !path.is_empty())
        && wanted != path
        && wanted != path_of(&path)
    {
        return Err(format!("forwarded as {path}"));
    }
    let mut head = sent.clone();
    forward.change_request(&mut head);
    let wanted = expected["Request"]["Headers"].as_object().into_iter().flatten();
    for (name, value) in wanted {
        let got = joined(&head, name);
        if got.as_deref() != value.as_str() {
            return Err(format!("field {name} is {got:?}"));
        }
    }
    for name in expected["AbsentHeaders"].as_array().into_iter().flatten() {
        if joined(&head, name.as_str().unwrap()).is_some() {
            return Err(format!("field {name} is there"));
        }
    }
    if let Some(host) = expected["Request"]["Host"].as_str().filter(|host| !host.is_empty())
        && joined(&head, "host").as_deref() != Some(host)
    {
        return Err(format!("host is {:?}", joined(&head, "host")));
    }
    mirrored(case, forward)?;
    let mut answer = HeaderMap::new();
    for (name, value) in case["BackendSetResponseHeaders"].as_object().into_iter().flatten() {
        let name: HeaderName = name.parse().unwrap();
        answer.insert(name, value.as_str().unwrap().parse().unwrap());
    }
    forward.change_answer(sent.get(header::ORIGIN), &mut answer);
    Ok(answer)
}

/// Without a query.
fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

fn mirrored(case: &Value, forward: &Forward<'_>) -> Result<(), String> {
    let mirrors: Vec<&Mirror> = forward.filters().into_iter().flat_map(|filters| &filters.mirrors).collect();
    let wanted = case["MirroredTo"].as_array();
    for one in wanted.into_iter().flatten() {
        let name = |key: &str| one["BackendRef"][key].as_str().unwrap();
        let cluster = format!("{}/{}:", name("Namespace"), name("Name"));
        if !mirrors.iter().any(|mirror| mirror.cluster.starts_with(&cluster)) {
            return Err(format!("no copy to {cluster}"));
        }
    }
    if mirrors.len() == wanted.map_or(0, Vec::len) { Ok(()) } else { Err(format!("copies: {mirrors:?}")) }
}

fn joined(head: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<&str> = head.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn answer(response: &Value, head: &HeaderMap) -> Result<(), String> {
    for (name, value) in response["Headers"].as_object().into_iter().flatten() {
        let got = joined(head, name);
        if got.as_deref() != value.as_str() {
            return Err(format!("answer's {name} is {got:?}"));
        }
    }
    for name in response["AbsentHeaders"].as_array().into_iter().flatten() {
        if joined(head, name.as_str().unwrap()).is_some() {
            return Err(format!("answer's {name} is there"));
        }
    }
    for (name, values) in response["ValidHeaderValues"].as_object().into_iter().flatten() {
        let got = joined(head, name).unwrap_or_default();
        if !values.as_array().unwrap().iter().any(|value| value.as_str() == Some(&got)) {
            return Err(format!("answer's {name} is {got:?}"));
        }
    }
    Ok(())
}

fn redirected(wanted: &Value, location: &str) -> Result<(), String> {
    let uri: http::Uri = location.parse().map_err(|_| format!("location {location}"))?;
    let wrong = |what: &str| Err(format!("{what} of {location}"));
    if wanted["Path"].as_str().is_some_and(|path| !path.is_empty() && path != uri.path()) {
        return wrong("path");
    }
    if wanted["Host"].as_str().is_some_and(|host| !host.is_empty() && Some(host) != uri.host()) {
        return wrong("host");
    }
    if wanted["Scheme"].as_str().is_some_and(|scheme| !scheme.is_empty() && Some(scheme) != uri.scheme_str())
    {
        return wrong("scheme");
    }
    let port = uri.port_u16().map(|port| port.to_string()).unwrap_or_default();
    if wanted["Port"].as_str().is_some_and(|wanted| wanted != port) {
        return wrong("port");
    }
    Ok(())
}

//! The truth table of HTTP rules, `truth/http-policy.jsonl`, with real requests: in relay, and where the kernel
//! half may decide. `weir policy test` reads the same file.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result};
use serde_json::Value;
use std::{collections::HashMap, fs, path::Path, process::Command};
use weir_tests::{
    agent::{Agent, Builder},
    binary,
    metrics::Samples,
    needs_kernel,
    peer::Server,
    pod::Pod,
    topology::Topology,
};

/// Requests before the one in question: from the third on the kernel half may decide.
const BEFORE: usize = 3;

fn truth(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("truth").join(name)
}

fn rows() -> Result<Vec<Value>> {
    let text = fs::read_to_string(truth("http-policy.jsonl"))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The table's pods, each in its namespace, and servers in those that a Service leads to.
struct Cast {
    agent: Agent,
    pods: HashMap<String, Pod>,
    _serving: Vec<Server>,
    _topology: Topology,
}

impl Cast {
    fn new(arguments: &[&str]) -> Result<Self> {
        let manifests = fs::read_to_string(truth("http-policy/cluster.yaml"))?;
        let topology = Topology::new()?;
        let (mut pods, mut serving) = (HashMap::new(), Vec::new());
        let documents: Vec<Value> = serde_saphyr::from_multiple(&manifests)?;
        for pod in documents.iter().filter(|one| one["kind"] == "Pod") {
            let name = pod["metadata"]["name"].as_str().context("a pod's name")?;
            let address = pod["status"]["podIP"].as_str().context("a pod's address")?;
            let host = address.rsplit('.').next().unwrap().parse()?;
            // Kubelet calls a pod's cgroup after its UID, as the topology does after a pod's name.
            assert_eq!(pod["metadata"]["uid"], name, "its UID");
            let place = topology.pod(name, host)?;
            if documents.iter().any(|one| one["kind"] == "Service" && one["metadata"]["name"] == name) {
                serving.push(Server::http(&place, 8080)?);
            }
            pods.insert(format!("demo/{name}"), place);
        }
        let builder = Builder::new(&topology, &[])?;
        let agent = builder.args(arguments.iter().map(|&one| one.to_owned())).start()?;
        agent.reconfigure_text(&manifests)?;
        Ok(Self { agent, pods, _serving: serving, _topology: topology })
    }

    /// What becomes of a request behind so many others on its connection.
    fn fate(&self, row: &Value, before: &[&Value]) -> Result<&'static str> {
        let mut arguments = Vec::new();
        for (n, request) in before.iter().chain([&row]).enumerate() {
            if n > 0 {
                arguments.push("--next".to_owned());
            }
            arguments.extend(asks(request));
        }
        let client = &self.pods[row["from"].as_str().unwrap()];
        let codes = client.curl(&arguments)?.text();
        Ok(match codes.split_whitespace().last() {
            Some("200") => "allow",
            Some("403") => "forbidden",
            Some("400") => "bad-request",
            Some("000") => "drop",
            other => panic!("{}: {other:?} of {codes:?}", row["name"]),
        })
    }
}

/// curl's arguments for one request.
fn asks(row: &Value) -> Vec<String> {
    let (http, text) = (&row["http"], |value: &Value| value.as_str().unwrap_or_default().to_owned());
    let mut arguments: Vec<String> = [
        "--silent",
        "--path-as-is",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code} ",
        "--max-time",
        "10",
    ]
    .map(String::from)
    .into();
    match text(&http["method"]).as_str() {
        "HEAD" => arguments.push("--head".to_owned()),
        method => arguments.extend(["--request".to_owned(), method.to_owned()]),
    }
    arguments.extend(["--header".to_owned(), format!("Host: {}", text(&http["host"]))]);
    for field in http["headers"].as_array().into_iter().flatten() {
        arguments.extend(["--header".to_owned(), format!("{}: {}", text(&field[0]), text(&field[1]))]);
    }
    arguments.push(format!("http://{}:{}{}", text(&row["to"]), row["port"], text(&http["path"])));
    arguments
}

fn expected(row: &Value, fate: &str) -> bool {
    row["expect"].as_array().unwrap().iter().any(|one| one == fate)
}

/// Every row's fate that is not as expected.
fn wrong(cast: &Cast, rows: &[Value], before: impl Fn(&Value) -> Option<Vec<Value>>) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for row in rows {
        let Some(before) = before(row) else { continue };
        let fate = cast.fate(row, &before.iter().collect::<Vec<_>>())?;
        if !expected(row, fate) {
            wrong.push(format!("{}: expected {}, got {fate}", row["name"], row["expect"]));
        }
    }
    Ok(wrong)
}

#[test]
fn every_row_of_the_http_table_is_so_in_relay() -> Result<()> {
    needs_kernel!();
    let cast = Cast::new(&["--splice-pairs=0"])?;
    assert_eq!(wrong(&cast, &rows()?, |_| Some(Vec::new()))?, [""; 0]);
    Ok(())
}

#[test]
fn every_row_of_the_http_table_is_so_where_the_kernel_half_may_decide() -> Result<()> {
    needs_kernel!();
    let rows = rows()?;
    let cast = Cast::new(&["--acceleration=on", "--splice-control=0%"])?;
    let allowed = |row: &Value| {
        let alike = |other: &&Value| other["from"] == row["from"] && other["to"] == row["to"];
        let get = |other: &&Value| other["http"]["method"] == "GET" && expected(other, "allow");
        let one = rows.iter().filter(alike).find(get)?;
        Some(vec![one.clone(); BEFORE])
    };
    assert_eq!(wrong(&cast, &rows, allowed)?, [""; 0]);
    let carried = |all: &Samples| all.sum("weir_kernel_events_total", &[("event", "spliced")]);
    cast.agent.metrics_until("the kernel half has carried some", |all| carried(all) > 50.0)?;
    Ok(())
}

#[test]
fn both_truth_tables_are_what_weir_policy_test_says() -> Result<()> {
    for (table, directory) in
        [("http-policy.jsonl", "http-policy"), ("network-policy.jsonl", "network-policy")]
    {
        let mut command = Command::new(binary::weir()?);
        command.args(["policy", "test", "--config"]).arg(truth(directory)).arg(truth(table));
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("0 mismatches"));
    }
    Ok(())
}

//! The truth table of NetworkPolicies, `truth/network-policy.jsonl`, with real connections in namespaces, and
//! datagrams of UDP and SCTP (made by hand: the kernel need not know SCTP to carry it).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};
use weir_tests::{
    agent::Builder,
    manifest::ConfigDir,
    needs_kernel,
    peer::{self, Server},
    pod::Pod,
    topology::Topology,
};

/// Refused at once: far less than a SYN's first retransmission, on a busy machine.
const AT_ONCE: u64 = 900;

/// A row: `from` and `to` are `namespace/pod`, `host`, or an address.
#[derive(Deserialize, Debug)]
struct Row {
    name: String,
    from: String,
    to: String,
    port: u16,
    #[serde(default = "tcp")]
    protocol: String,
    expect: Vec<String>,
}

fn tcp() -> String {
    "TCP".to_owned()
}

fn truth(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("truth").join(name)
}

fn rows() -> Result<Vec<Row>> {
    let text = fs::read_to_string(truth("network-policy.jsonl"))?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// `namespace/pod` and the last byte of its address, of every pod in the manifests.
fn manifests_pods() -> Result<Vec<(String, u8)>> {
    let text = fs::read_to_string(truth("network-policy/cluster.yaml"))?;
    let field = |document: &str, name: &str| {
        let line = document.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(|value| value.trim().to_owned()).with_context(|| format!("no {name} in {document}"))
    };
    let pods = text.split("\n---\n").filter(|document| document.lines().any(|line| line == "kind: Pod"));
    pods.map(|pod| {
        let address: Ipv4Addr = field(pod, "podIP:")?.parse()?;
        assert_eq!(address.octets()[..3], [10, 244, 1], "a pod of this node");
        Ok((format!("{}/{}", field(pod, "namespace:")?, field(pod, "name:")?), address.octets()[3]))
    })
    .collect()
}

/// Everybody in the table.
struct World {
    pods: BTreeMap<String, Pod>,
    /// Whose addresses are nobody's in the cluster.
    outside: Pod,
    _serving: Vec<Server>,
    topology: Topology,
}

impl World {
    fn new(rows: &[Row]) -> Result<Self> {
        let mut topology = Topology::new()?;
        let outside = topology.remote_pod("outside", 10)?;
        let addresses = rows.iter().flat_map(|row| [&row.from, &row.to]).filter_map(|who| who.parse().ok());
        let addresses: BTreeSet<Ipv4Addr> = addresses.collect();
        topology.also_at(&outside, &addresses.into_iter().collect::<Vec<_>>())?;
        let ports: Vec<u16> = rows.iter().map(|row| row.port).collect::<BTreeSet<_>>().into_iter().collect();
        let mut pods = BTreeMap::new();
        for (name, host) in manifests_pods()? {
            pods.insert(name.clone(), topology.pod(&name.replace('/', "-"), host)?);
        }
        let named: BTreeSet<&String> = rows.iter().map(|row| &row.to).collect();
        let reached = pods.iter().filter(|(name, _)| named.contains(name)).map(|(_, pod)| pod);
        let serving =
            reached.chain([&outside]).map(|pod| Server::answer(pod, &ports)).collect::<Result<_>>()?;
        Ok(Self { pods, outside, _serving: serving, topology })
    }

    fn who(&self, name: &str) -> Result<(&Pod, IpAddr)> {
        if let Ok(address) = name.parse() {
            return Ok((&self.outside, address));
        }
        let pod = match name {
            "host" => self.topology.node(),
            _ => self.pods.get(name).with_context(|| format!("who is {name}?"))?,
        };
        Ok((pod, pod.v4().into()))
    }

    /// What every row of one sender meets, all at once.
    fn probe(&self, from: &str, rows: &[&Row]) -> Result<Vec<(String, u64)>> {
        let target = |row: &&Row| {
            let to = SocketAddr::new(self.who(&row.to)?.1, row.port);
            Ok(format!("{}:{to}", row.protocol.to_lowercase()))
        };
        let targets = rows.iter().map(target).collect::<Result<Vec<_>>>()?;
        let (pod, own) = self.who(from)?;
        peer::probe_from(pod, Some(own), &targets)
    }
}

#[test]
fn every_row_of_the_truth_table_is_what_a_real_connection_meets() -> Result<()> {
    needs_kernel!();
    let rows = rows()?;
    let world = World::new(&rows)?;
    let builder = Builder::new(&world.topology, &[])?.config(ConfigDir::existing(truth("network-policy")));
    let agent = builder.start()?;
    let mut by_sender: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    rows.iter().for_each(|row| by_sender.entry(&row.from).or_default().push(row));
    let (mut tried, mut wrong) = (0, Vec::new());
    for (from, rows) in by_sender {
        for (row, (met, took)) in rows.iter().zip(world.probe(from, &rows)?) {
            tried += 1;
            let right = match met.as_str() {
                "open" => row.expect.iter().any(|one| one == "allow"),
                // Datagrams: an error of the send.
                "forbidden" if row.protocol != "TCP" => row.expect.iter().any(|one| one == "drop"),
                "silent" if row.protocol != "TCP" && row.from.parse::<IpAddr>().is_ok() => {
                    row.expect.iter().any(|one| one == "drop")
                }
                "refused" => row.expect.iter().any(|one| one == "drop") && took < AT_ONCE,
                _ => false,
            };
            if !right {
                wrong.push(format!("{}: {met} after {took} ms, expected {:?}", row.name, row.expect));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} rows:\n{}\n{}", wrong.len(), wrong.join("\n"), agent.stderr()?);
    assert!(tried == rows.len() && tried >= 120, "{tried} of {} rows", rows.len());
    Ok(())
}

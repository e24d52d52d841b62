//! The harness itself, without an agent: what the other tests stand on.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use std::path::Path;
use weir_tests::{needs_kernel, netns, peer, topology::Topology};

#[test]
fn pods_reach_each_other_over_both_families_and_the_other_node_too() -> Result<()> {
    needs_kernel!();
    let mut topology = Topology::new()?;
    let (client, server) = (topology.pod("client", 10)?, topology.pod("server", 11)?);
    let remote = topology.remote_pod("remote", 11)?;
    let _near = peer::Server::http(&server, 8080)?;
    let _far = peer::Server::http(&remote, 8080)?;
    for to in [server.at(8080), server.at_v6(8080), remote.at(8080), remote.at_v6(8080)] {
        let answer = client.curl([format!("http://{to}/")])?.json()?;
        let own = if to.is_ipv6() { client.v6().to_string() } else { client.v4().to_string() };
        assert!(answer["peer"].as_str().unwrap().contains(&own), "{answer}");
    }
    Ok(())
}

#[test]
fn the_scripted_peers_agree_on_every_byte() -> Result<()> {
    needs_kernel!();
    let topology = Topology::new()?;
    let (client, server) = (topology.pod("client", 10)?, topology.pod("server", 11)?);
    let served = peer::Server::http(&server, 8080)?;
    let to = served.addr.to_string();
    for extra in ["--half-close", "--pipeline", "--chunked", "--download"] {
        let told =
            peer::run(&client, ["transfer", "--to", &to, "--sizes", "1,100,70000,1000000", extra])?.json()?;
        assert_eq!(told["digests"].as_array().unwrap().len(), 4);
    }
    let load = ["load", "--to", &to, "--connections", "8", "--requests", "50", "--reconnect", "10"];
    let told = peer::run(&client, load)?.json()?;
    assert_eq!(told["statuses"]["200"], 400, "{told}");
    Ok(())
}

#[test]
fn nothing_is_left_of_a_topology() -> Result<()> {
    needs_kernel!();
    let topology = Topology::new()?;
    let (name, group) = (topology.name().to_owned(), topology.pod_cgroup().parent().unwrap().to_owned());
    let dir = topology.dir().to_owned();
    let client = topology.pod("client", 10)?;
    let mut sleeper = client.command("sleep");
    sleeper.arg("1000");
    let mut sleeper = client.spawn("sleep", sleeper)?;
    drop(topology);
    drop(client);
    assert!(!group.exists() && !dir.exists());
    let left = std::fs::read_dir(netns::DIRECTORY)?.flatten().map(|entry| entry.file_name());
    assert_eq!(left.filter(|entry| entry.to_string_lossy().starts_with(&name)).count(), 0);
    assert!(!Path::new(&format!("/proc/{}/exe", sleeper.pid())).exists() || sleeper.ended()?.is_some());
    Ok(())
}

//! Connections from outside of the node: to node ports, from a pod of another node.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use proxy_common::abi::counter;
use serde_json::Value;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};
use weir_tests::{
    needs_kernel, peer,
    peer::Server,
    pod::Pod,
    scene::{PORT, Scene, Stage, WEB, WEB_V6},
};

const NODE_PORT: u16 = 30_001;
/// The node's address on its uplink.
const UPLINK: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 100, 1));

/// `demo/web` with a node port, and a client behind another node.
fn outside(arguments: &[&str]) -> Result<(Scene, Pod)> {
    let mut stage = Stage::new(1)?;
    let client = stage.topology.remote_pod("outside", 10)?;
    let web = stage.web().node_port(NODE_PORT);
    Ok((stage.play(&[web], arguments)?, client))
}

fn ask(from: &Pod, to: SocketAddr) -> Result<Value> {
    from.curl([format!("http://{to}/")])?.json()
}

#[test]
fn a_node_port_leads_from_outside_through_the_agent_to_the_endpoint() -> Result<()> {
    needs_kernel!();
    let (scene, client) = outside(&[])?;
    let node = scene.topology.node();
    for to in [node.at(NODE_PORT), node.at_v6(NODE_PORT), SocketAddr::new(UPLINK, NODE_PORT)] {
        assert_eq!(ask(&client, to)?["server"], "server1", "{to}");
    }
    let lines = scene.agent.logged(3)?;
    for line in &lines {
        assert_eq!(line["upstream_cluster"], "demo/web:8080", "{line}");
        let from = line["downstream_remote_address"].as_str().unwrap().parse::<SocketAddr>()?.ip();
        assert!([IpAddr::from(client.v4()), client.v6().into()].contains(&from), "{line}");
    }
    assert_eq!(scene.agent.counters()?.get(counter::INBOUND)?, 3);
    Ok(())
}

/// RFC 9110 section 7.6.3: who brings a request in says so, and a pod's own request stays as it was.
#[test]
fn b11_a_request_to_a_node_port_says_via_and_one_of_a_pod_does_not() -> Result<()> {
    needs_kernel!();
    let (scene, client) = outside(&["--via=edge"])?;
    let to = scene.topology.node().at(NODE_PORT);
    let url = format!("http://{to}/");
    let fields = |said: &Value| -> Vec<String> {
        let all = said["fields"].as_array().unwrap().iter();
        let via = all.filter(|field| field[0].as_str().unwrap().eq_ignore_ascii_case("via"));
        via.map(|field| field[1].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(fields(&ask(&client, to)?), ["1.1 edge"]);
    assert_eq!(fields(&ask(&scene.client, WEB)?), [""; 0]);
    let loops = ["--include", "--header", "Via: 1.1 edge, 1.1 edge, 1.1 edge, 1.1 edge", "--header"];
    let rest = ["Via: 1.0 edge, 1.1 edge, 2 edge, 1.1 edge", &url];
    let answer = client.curl(loops.into_iter().chain(rest))?.success()?.text();
    assert!(answer.starts_with("HTTP/1.1 508 "), "{answer}");
    let lines = scene.agent.logged(3)?;
    let line = lines.iter().find(|line| line["response_code"] == 508).unwrap();
    assert_eq!(
        (&line["response_code_details"], &line["response_flags"]),
        (&"loop_detected".into(), &"NR".into())
    );
    Ok(())
}

#[test]
fn the_client_sees_the_address_that_it_asked_for_and_every_byte_arrives() -> Result<()> {
    needs_kernel!();
    let (scene, client) = outside(&[])?;
    let to = scene.topology.node().at(NODE_PORT).to_string();
    let seen = peer::run(&client, ["getpeername", "--to", &to])?.json()?;
    assert_eq!(seen["peer"], to);
    for to in [to, scene.topology.node().at_v6(NODE_PORT).to_string()] {
        let sizes = "0,1,1400,1500,65536,1048576";
        let told = peer::run(&client, ["transfer", "--to", &to, "--sizes", sizes])?.json()?;
        assert_eq!(told["digests"].as_array().unwrap().len(), 6, "{told}");
    }
    Ok(())
}

#[test]
fn many_connections_from_outside_are_told_apart() -> Result<()> {
    needs_kernel!();
    let (scene, client) = outside(&[])?;
    let to = scene.topology.node().at(NODE_PORT).to_string();
    let arguments = ["load", "--to", &to, "--connections", "32", "--requests", "50", "--reconnect", "1"];
    let told = peer::run(&client, arguments)?.json()?;
    assert_eq!(told["errors"], serde_json::json!({}), "{told}");
    assert_eq!(told["statuses"]["200"], 1600);
    Ok(())
}

#[test]
fn what_is_not_steered_is_left_alone_and_connections_from_inside_go_on() -> Result<()> {
    needs_kernel!();
    let (scene, client) = outside(&[])?;
    // A server on the node itself, at a port of no Service.
    let own = Server::http(scene.topology.node(), 9000)?;
    assert_eq!(ask(&client, own.addr)?["server"], "node");
    // The endpoint's own address: the client's node has decided already.
    assert_eq!(ask(&client, scene.server()?.at(PORT))?["server"], "server1");
    assert_eq!(scene.agent.counters()?.get(counter::INBOUND)?, 0);
    for to in [WEB, WEB_V6, scene.topology.node().at(NODE_PORT)] {
        assert_eq!(ask(&scene.client, to)?["server"], "server1", "{to}");
    }
    Ok(())
}

#[test]
fn i5_after_the_agents_death_nothing_of_it_stays_on_the_uplink() -> Result<()> {
    needs_kernel!();
    let (mut scene, client) = outside(&[])?;
    assert_eq!(ask(&client, scene.topology.node().at(NODE_PORT))?["server"], "server1");
    scene.agent.kill9()?;
    scene.agent.wait(Duration::from_secs(10))?;
    // Whoever serves the port now has it.
    let instead = Server::http(scene.topology.node(), NODE_PORT)?;
    assert_eq!(ask(&client, instead.addr)?["server"], "node");
    Ok(())
}

#[test]
fn an_uplink_that_is_named_is_the_only_one() -> Result<()> {
    needs_kernel!();
    let (scene, client) = outside(&["--uplink=br0"])?;
    let refused = client.curl([format!("http://{}/", scene.topology.node().at(NODE_PORT))])?;
    assert!(refused.success().is_err());
    Ok(())
}

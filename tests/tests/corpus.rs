//! The corpus: generated request streams, each whole, cut in two and in single bytes, give the same
//! requests at the endpoint, the same answers at the client, the same policy outcome and the same counts,
//! whether the kernel half carries them, the agent relays them or acceleration is off.
//!
//! Each stream is cut at [`SOME`] positions, which its number chooses: 30 000 runs and half a minute in
//! each mode, on two busy cores. `WEIR_CORPUS=0..5000` cuts all of them at every one: 635 000 runs, a quarter
//! of an hour in each mode, with `cargo test` rather than under nextest's time limit; fewer streams take less.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result};
use serde_json::Value;
use std::{collections::BTreeMap, ops::Range, time::Duration};
use weir_tests::{
    http,
    manifest::{HttpPolicy, Pod, Service},
    needs_kernel,
    peer::{self, Server},
    pod,
    scene::{Stage, WEB},
    streams::Stream,
    wait,
};

const STREAMS: u64 = 5000;
/// Cuts in two of each stream.
const SOME: u64 = 4;
/// The endpoint's port: the scripted server of the scene has 8080.
const PORT: u16 = 8081;

/// What one way of carrying made of the corpus.
#[derive(Debug)]
struct Outcome {
    streams: BTreeMap<u64, Value>,
    /// Whole requests at the endpoint, and the sum of their digests.
    tally: Value,
    /// Requests by method, status and error, over all lanes.
    counts: BTreeMap<String, u64>,
    /// Requests that the kernel half carried, and that it should have.
    spliced: u64,
    carriable: u64,
}

fn policy() -> HttpPolicy {
    HttpPolicy::new("corpus", "web", PORT)
        .allow(&[("path", "/api(/.*)?")])
        .allow(&[("path", "/exact")])
        .allow(&[("method", "GET|HEAD"), ("path", "/ro/.*")])
}

/// Which streams, and at how many positions each is cut; 0: at all.
#[derive(Clone)]
struct Extent {
    streams: Range<u64>,
    cuts: u64,
}

impl Extent {
    fn wanted() -> Result<Self> {
        let Ok(text) = std::env::var("WEIR_CORPUS") else {
            return Ok(Self { streams: 0..STREAMS, cuts: SOME });
        };
        let (first, end) = text.split_once("..").context("WEIR_CORPUS is a range like 0..5000")?;
        Ok(Self { streams: first.parse()?..end.parse()?, cuts: 0 })
    }
}

fn play(arguments: &[&str], extent: &Extent) -> Result<Outcome> {
    let stage = Stage::new(1)?;
    let web = Service::new("web", WEB.port()).cluster_ip(WEB.ip()).endpoints([stage.servers[0].at(PORT)]);
    let all: Vec<_> = ["--splice-control=0%"].into_iter().chain(arguments.iter().copied()).collect();
    let scene = stage.play(std::slice::from_ref(&web), &all)?;
    // Half of the runs end their connection, and its port is not free again for a minute.
    scene.client.netns().sysctls(&[("net/ipv4/ip_local_port_range", "1024 65535")])?;
    let _recorder = Server::recorder(scene.server()?, PORT)?;
    let server = scene.server()?;
    let manifests =
        web.yaml() + &Pod::new(server.name(), "web").address(server.v4()).yaml() + &policy().yaml();
    scene.agent.reconfigure_text(&manifests)?;
    let Extent { streams, cuts } = extent.clone();
    let [first, streams, cuts] = [streams.start, streams.end - streams.start, cuts].map(|n| n.to_string());
    let to = WEB.to_string();
    let verb = ["corpus", "--to", &to, "--first", &first, "--streams", &streams, "--cuts", &cuts];
    let told = peer::start(&scene.client, verb)?.outcome(Duration::from_secs(3000))?.json()?;
    eprintln!("{arguments:?}: {} runs in {} ms", told["runs"], told["elapsed_ms"]);
    let streams = told["streams"].as_object().context("no streams")?;
    let streams = streams.iter().map(|(number, one)| Ok((number.parse()?, one.clone())));
    Ok(Outcome {
        streams: streams.collect::<Result<_>>()?,
        tally: tally(server)?,
        counts: settled(&scene.agent)?,
        carriable: told["carriable"].as_u64().context("no carriable")?,
        spliced: scene.agent.counters()?.spliced()?,
    })
}

/// Asks the endpoint, past the agent.
fn tally(server: &pod::Pod) -> Result<Value> {
    let told = server.netns().run(|| http::get(server.at(PORT), "/tally"))??;
    Ok(serde_json::from_str(&told.body)?)
}

/// The counts of requests, when they do not change any more.
fn settled(agent: &weir_tests::agent::Agent) -> Result<BTreeMap<String, u64>> {
    let read = || -> Result<BTreeMap<String, u64>> {
        let mut counts = BTreeMap::new();
        for sample in agent.metrics()?.with("http_server_request_duration_seconds_count", &[]) {
            let label = |name| sample.labels.get(name).map_or("-", String::as_str);
            let [method, status, error] =
                ["http_request_method", "http_response_status_code", "error_type"].map(label);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
            let value = sample.value as u64;
            *counts.entry(format!("{method} {status} {error}")).or_default() += value;
        }
        Ok(counts)
    };
    let mut last = read()?;
    // The reading of the kernel half may be a second old.
    wait::throughout(Duration::from_millis(1500), "metrics can be read", || {
        last = read()?;
        Ok(true)
    })?;
    Ok(last)
}

/// The streams of which these tell differently, and how.
fn differences(one: &Outcome, other: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    for (number, told) in &one.streams {
        let second = &other.streams[number];
        if told["whole"] != second["whole"] {
            let bytes = String::from_utf8_lossy(&Stream::generate(*number).bytes).into_owned();
            found.push(format!("{number} {bytes:?}\n   {}\n   {}", told["whole"], second["whole"]));
        }
    }
    found
}

/// The streams of which an outcome depends on the cut.
fn cut_differently(outcome: &Outcome) -> Vec<String> {
    let odd = outcome.streams.iter().filter(|(_, told)| told["others"] != Value::Array(Vec::new()));
    odd.map(|(number, told)| {
        let bytes = String::from_utf8_lossy(&Stream::generate(*number).bytes).into_owned();
        let others = told["others"].as_array().map_or(0, Vec::len);
        format!("{number} {bytes:?}\n   {}\n   {others} others: {}", told["whole"], told["others"][0])
    })
    .collect()
}

fn shown(found: &[String]) -> String {
    format!("{}:\n{}", found.len(), found[..found.len().min(20)].join("\n"))
}

#[test]
fn i2_the_corpus_has_one_outcome_in_the_kernel_in_relay_and_without_acceleration() -> Result<()> {
    needs_kernel!();
    let extent = Extent::wanted()?;
    let off = play(&["--acceleration=off"], &extent)?;
    assert_eq!(cut_differently(&off), Vec::<String>::new(), "off {}", shown(&cut_differently(&off)));
    for lane in [vec!["--acceleration=on", "--splice-pairs=0"], vec!["--acceleration=on"]] {
        let outcome = play(&lane, &extent)?;
        let found = [cut_differently(&outcome), differences(&off, &outcome)].concat();
        assert!(found.is_empty(), "{lane:?} {}", shown(&found));
        assert_eq!(outcome.tally, off.tally, "{lane:?}");
        assert_eq!(outcome.counts, off.counts, "{lane:?}");
        if lane.len() == 1 {
            let told = format!("{} carried, {} to carry", outcome.spliced, outcome.carriable);
            eprintln!("{told}");
            // Where the client is faster than the arming, its next request is relayed.
            assert!(outcome.spliced * 100 > outcome.carriable * 70, "{told}");
        }
    }
    Ok(())
}

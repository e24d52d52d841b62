//! The splice lane: requests that the kernel half carries, and those that it hands back within an
//! exchange. Each test begins with an armed pair and ends with the connection in use, where it lives on.
#![allow(clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result};
use serde_json::Value;
use std::{net::SocketAddr, time::Duration};
use weir_tests::{
    conversation::{Answer, Conversation, get, post},
    metrics::Samples,
    needs_kernel,
    pattern::digest_of,
    scene::{Scene, WEB, WEB_MAPPED, WEB_V6},
    wait,
};

/// Every client without probation, and in the lane.
const ALWAYS: [&str; 2] = ["--acceleration=on", "--splice-control=0%"];

/// A scene without probation, and a connection of it that is armed.
fn armed_with(arguments: &[&str]) -> Result<(Scene, Conversation)> {
    armed_at(WEB, arguments)
}

fn armed_at(to: SocketAddr, arguments: &[&str]) -> Result<(Scene, Conversation)> {
    let all: Vec<_> = ALWAYS.into_iter().chain(arguments.iter().copied()).collect();
    let scene = Scene::web(&all)?;
    let mut client = Conversation::start(&scene.client, to)?;
    client.arm(&scene)?;
    Ok((scene, client))
}

fn armed() -> Result<(Scene, Conversation)> {
    armed_with(&[])
}

fn spliced(scene: &Scene) -> Result<u64> {
    scene.agent.counters()?.spliced()
}

fn turned(scene: &Scene) -> Result<u64> {
    scene.agent.counters()?.turned()
}

/// Waits until the kernel half has begun to carry more requests than `before`.
fn carries(scene: &Scene, before: u64) -> Result<()> {
    wait::until(Duration::from_secs(10), "the kernel half has it", || Ok(spliced(scene)? > before))
}

/// The access-log line of the request for this path.
fn line_of(scene: &Scene, path: &str) -> Result<Value> {
    let found = wait::eventually(Duration::from_secs(10), &format!("a record of {path}"), || {
        Ok(scene.agent.access_log()?.into_iter().find(|line| line["path"] == path))
    });
    found.with_context(|| format!("{:?}", scene.agent.access_log()))
}

#[test]
fn requests_of_a_kept_alive_connection_are_carried_in_the_kernel() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&ALWAYS)?;
    let told = scene.load(&WEB.to_string(), &["--requests", "1000"])?;
    assert_eq!(told["statuses"]["200"], 1000, "{told}");
    assert!(spliced(&scene)? > 500);
    Ok(())
}

#[test]
fn a_large_answer_is_the_agents_and_the_connection_goes_on() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    let before = turned(&scene)?;
    let answer = client.get("/bytes/300000")?;
    assert_eq!(answer.digest, digest_of(300_000, 300_000));
    assert_eq!(turned(&scene)?, before + 1);
    for size in [10, 500_000, 200] {
        assert_eq!(client.get(&format!("/bytes/{size}"))?.digest, digest_of(size, size));
    }
    Ok(())
}

#[test]
fn a_request_that_the_agent_goes_on_with_is_sent_once() -> Result<()> {
    needs_kernel!();
    for request in [get("/bytes/300000"), post("/bytes/10?chunked", "abc"), post("/interim/103", "abc")] {
        let (scene, mut client) = armed()?;
        let count =
            |answer: &Answer| Ok::<u64, anyhow::Error>(answer.field("x-count").context("no count")?.parse()?);
        let before = (count(&client.get("/")?)?, turned(&scene)?);
        // The same connection to the endpoint, and one request on it.
        assert_eq!(count(&client.ask(&request)?)?, before.0 + 1, "{request}");
        assert_eq!(turned(&scene)?, before.1 + 1, "{request}");
    }
    Ok(())
}

#[test]
fn an_answer_just_under_the_cap_is_carried() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    let before = turned(&scene)?;
    for size in [1, 1000, 65_536, 260_000] {
        assert_eq!(client.get(&format!("/bytes/{size}"))?.digest, digest_of(size, size));
    }
    client.arm(&scene)?;
    assert_eq!(turned(&scene)?, before);
    Ok(())
}

#[test]
fn a_chunked_answer_comes_whole_and_the_connection_goes_on() -> Result<()> {
    needs_kernel!();
    let (_scene, mut client) = armed()?;
    for size in [0, 10, 100_000] {
        let answer = client.get(&format!("/bytes/{size}?chunked"))?;
        assert_eq!(answer.digest, digest_of(size, size));
        assert_eq!(client.get("/")?.status, 200);
    }
    Ok(())
}

#[test]
fn a_long_request_whose_answer_is_the_agents_leaves_the_connection_usable() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    for _ in 0..20 {
        let before = turned(&scene)?;
        client.send(&post("/status/204", &"x".repeat(40_000)))?;
        assert_eq!(client.answer()?.status, 204);
        assert_eq!(turned(&scene)?, before + 1);
        client.arm(&scene)?;
    }
    Ok(())
}

/// Its head may look larger to the agent than it was, and then a plain connection would be chosen.
#[test]
fn a_request_just_under_the_cap_goes_on_where_its_endpoint_has_it() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    for spare in [0, 5, 10] {
        let head = post("/status/204", &"x".repeat(60_000)).len() - 60_000;
        let before = turned(&scene)?;
        client.send(&post("/status/204", &"x".repeat(65_536 - spare - head)))?;
        let answer = client.answer()?;
        assert_eq!((answer.status, turned(&scene)?), (204, before + 1));
        let count = answer.field("X-Count").context("no X-Count")?;
        assert!(count.parse::<u32>()? > 3, "a new connection: request {count}");
        client.arm(&scene)?;
    }
    Ok(())
}

#[test]
fn an_answer_that_ends_with_the_connection_comes_whole() -> Result<()> {
    needs_kernel!();
    let (_scene, mut client) = armed()?;
    let answer = client.get("/until-close/1000")?;
    assert_eq!(answer.digest, digest_of(1000, 1000));
    Ok(())
}

#[test]
fn answers_without_a_body_are_carried() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    let before = (spliced(&scene)?, turned(&scene)?);
    for _ in 0..3 {
        client.send("HEAD /bytes-of-nothing HTTP/1.1\r\nHost: demo\r\n\r\n")?;
        assert_eq!(client.answer_to_head()?.status, 200);
        assert_eq!(client.get("/empty/204")?.status, 204);
        assert_eq!(client.get("/status/304")?.status, 304);
        assert_eq!(client.get("/empty/304")?.status, 304);
    }
    assert_eq!((spliced(&scene)?, turned(&scene)?), (before.0 + 12, before.1));
    Ok(())
}

#[test]
fn a_204_that_names_a_length_is_the_agents() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    assert_eq!(client.get("/status/204")?.status, 204);
    client.arm(&scene)
}

#[test]
fn a_1xx_answer_before_the_answer_does_no_harm() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    for status in [100, 102, 103] {
        let answer = client.get(&format!("/interim/{status}"))?;
        assert_eq!((answer.status, answer.json()?["body"].clone()), (200, Value::from(0)));
        client.arm(&scene)?;
    }
    Ok(())
}

#[test]
fn an_early_answer_to_a_half_sent_body_arrives_and_the_rest_is_carried_on() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    let request = post("/early", "0123456789");
    let (first, rest) = request.split_at(request.len() - 5);
    client.send(first)?;
    assert_eq!(client.answer()?.json()?["early"], true);
    client.send(rest)?;
    assert_eq!(client.get("/")?.status, 200);
    client.arm(&scene)
}

#[test]
fn bodies_are_carried_in_one_write_and_in_many() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    let before = spliced(&scene)?;
    for size in [1_usize, 10, 1000, 60_000] {
        let request = post("/echo", &"x".repeat(size));
        let head = request.len() - size;
        let by_fives: Vec<_> = (1..=size.min(20)).map(|part| head + part * size / 20.max(part)).collect();
        for cuts in [vec![], vec![head], vec![head + size / 2], by_fives] {
            client.send_cut(&request, &cuts)?;
            assert_eq!(client.answer()?.length, size as u64, "{size} cut at {cuts:?}");
        }
    }
    assert_eq!(spliced(&scene)?, before + 16);
    Ok(())
}

#[test]
fn the_end_of_a_body_and_the_next_head_in_one_write_are_told_apart() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    for _ in 0..5 {
        let both = post("/sink", "0123456789") + &get("/second");
        let within_body = both.find("56789").context("body")?;
        client.send_cut(&both, &[within_body])?;
        let answers = client.answers(2)?;
        assert_eq!(answers[0].json()?["length"], 10);
        assert_eq!(answers[1].json()?["line"], "GET /second HTTP/1.1");
    }
    assert_eq!(client.get("/")?.status, 200);
    drop(scene);
    Ok(())
}

#[test]
fn pipelined_requests_are_answered_in_order() -> Result<()> {
    needs_kernel!();
    for (count, cut) in [(2, false), (10, false), (2, true), (10, true)] {
        let (_scene, mut client) = armed()?;
        let requests: Vec<_> = (0..count).map(|number| get(&format!("/number/{number}"))).collect();
        let mut ends = requests.iter().scan(0, |end, one| {
            *end += one.len();
            Some(*end)
        });
        let cuts: Vec<_> = if cut { ends.by_ref().take(count - 1).collect() } else { Vec::new() };
        client.send_cut(&requests.concat(), &cuts)?;
        for (number, answer) in client.answers(count)?.iter().enumerate() {
            assert_eq!(answer.json()?["line"], format!("GET /number/{number} HTTP/1.1"), "cuts {cuts:?}");
        }
        assert_eq!(client.get("/")?.status, 200);
    }
    Ok(())
}

#[test]
fn a_body_that_was_to_wait_for_100_continue_arrives_whether_it_waited_or_not() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    let head = "POST /sink HTTP/1.1\r\nHost: demo\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    assert_eq!(client.ask(&format!("{head}abcd"))?.json()?["length"], 4);
    client.arm(&scene)?;
    // It may cross the 100 on its way: then the client has sent ahead, and its connection is plain.
    client.send(head)?;
    assert_eq!(client.ask("abcd")?.json()?["length"], 4);
    assert_eq!(client.get("/")?.status, 200);
    Ok(())
}

#[test]
fn odd_requests_take_the_way_of_the_agent_and_the_pair_is_armed_again() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    let upgrade =
        "GET / HTTP/1.1\r\nHost: demo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned();
    let chunked = "POST /sink HTTP/1.1\r\nHost: demo\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n0\r\n\r\n";
    for request in [upgrade, get("/a%62c"), get("/a;b"), chunked.to_owned()] {
        let before = spliced(&scene)?;
        assert_eq!(client.ask(&request)?.status, 200, "{request}");
        assert_eq!(spliced(&scene)?, before, "{request}");
        client.arm(&scene)?;
    }
    Ok(())
}

#[test]
fn a_split_head_is_the_agents() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    let request = get("/split");
    for at in [1, 5, request.len() - 1] {
        let before = spliced(&scene)?;
        client.send_cut(&request, &[at])?;
        assert_eq!(client.answer()?.json()?["line"], "GET /split HTTP/1.1");
        assert_eq!(spliced(&scene)?, before, "cut at {at}");
        client.arm(&scene)?;
    }
    Ok(())
}

#[test]
fn an_endpoint_that_closes_after_its_answer_is_replaced() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    for path in ["/leave", "/bye", "/leave"] {
        assert_eq!(client.get(path)?.status, 200);
        client.arm(&scene)?;
    }
    Ok(())
}

#[test]
fn a_get_whose_endpoint_closes_instead_of_answering_is_sent_again() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    assert_eq!(client.get("/stale")?.json()?["count"], 1);
    client.arm(&scene)
}

#[test]
fn a_post_whose_endpoint_closes_instead_of_answering_gets_502_uc() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    assert_eq!(client.ask(&post("/close", "abc"))?.status, 502);
    let line = line_of(&scene, "/close")?;
    assert_eq!(line["response_flags"], "UC", "{line}");
    client.arm(&scene)
}

#[test]
fn a_post_whose_endpoint_resets_gets_502_uc() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    assert_eq!(client.ask(&post("/reset", "abc"))?.status, 502);
    let line = line_of(&scene, "/reset")?;
    assert_eq!(line["response_flags"], "UC", "{line}");
    client.arm(&scene)
}

#[test]
fn an_answer_that_breaks_off_is_never_taken_for_whole() -> Result<()> {
    needs_kernel!();
    for path in ["/close-mid/1000", "/reset-mid/1000", "/close-mid/200000", "/reset-mid/200000"] {
        let (_scene, mut client) = armed()?;
        client.send(&get(path))?;
        let reply = client.read(1)?;
        assert!(reply.answers.iter().all(|answer| !answer.whole), "{path}: {reply:?}");
        assert!(reply.ended.is_some_and(|how| how != "timeout"), "{path}");
    }
    Ok(())
}

#[test]
fn a_client_that_goes_away_within_an_exchange_is_recorded_and_its_upstream_closed() -> Result<()> {
    needs_kernel!();
    for resets in [false, true] {
        let (scene, mut client) = armed()?;
        let before = spliced(&scene)?;
        client.send(&get("/hang"))?;
        carries(&scene, before)?;
        if resets {
            client.reset()?
        } else {
            client.close()?
        }
        let line = line_of(&scene, "/hang")?;
        assert_eq!(line["response_flags"], "DC", "{line}");
        let open = |all: &Samples| all.sum("weir_upstream_connections", &[]);
        scene.agent.metrics_until("the upstream connection is closed", |all| open(all) < 0.5)?;
    }
    Ok(())
}

#[test]
fn an_endpoint_that_never_answers_gives_504_ut_and_the_connection_lives_on() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed_with(&["--timeout-response-head=300ms"])?;
    for _ in 0..2 {
        assert_eq!(client.get("/hang")?.status, 504);
        client.arm(&scene)?;
    }
    let line = line_of(&scene, "/hang")?;
    assert_eq!(line["response_flags"], "UT", "{line}");
    assert_eq!(line["response_code_details"], "response_head_timeout", "{line}");
    Ok(())
}

#[test]
fn s20_a_body_that_never_ends_is_late_as_a_relayed_one_is_and_the_connection_ends() -> Result<()> {
    needs_kernel!();
    for (limit, status, reason) in [
        // The endpoint's time does not run before it has the request.
        ("--timeout-request-body-idle=400ms", 408, "request_body_idle"),
        ("--timeout-request=400ms", 504, "request_timeout"),
    ] {
        let (scene, mut carried) = armed_with(&[limit])?;
        let mut relayed = Conversation::start(&scene.client, WEB)?;
        let before = spliced(&scene)?;
        for client in [&mut relayed, &mut carried] {
            client.send("POST /sink HTTP/1.1\r\nHost: demo\r\nContent-Length: 10\r\n\r\nabc")?;
            assert_eq!(client.answer()?.status, status, "{limit}");
            assert_eq!(client.end()?, "eof", "{limit}");
        }
        assert_eq!(spliced(&scene)?, before + 1);
        let is_late = |line: &Value| line["path"] == "/sink" && line["response_code_details"] == reason;
        wait::until(Duration::from_secs(10), "both are recorded", || {
            Ok(scene.agent.access_log()?.iter().filter(|line| is_late(line)).count() == 2)
        })?;
    }
    Ok(())
}

#[test]
fn the_endpoints_time_runs_when_it_has_the_whole_request() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed_with(&["--timeout-response-head=3s"])?;
    let before = spliced(&scene)?;
    client.send("POST /sink HTTP/1.1\r\nHost: demo\r\nContent-Length: 7\r\n\r\nabc")?;
    carries(&scene, before)?;
    // Longer than the endpoint may take, and no piece is late.
    for piece in ["d", "e", "f", "g"] {
        let answered = || Ok(scene.agent.access_log()?.iter().any(|line| line["path"] == "/sink"));
        wait::throughout(Duration::from_millis(900), "no answer yet", || answered().map(|so: bool| !so))?;
        client.send(piece)?;
    }
    assert_eq!(client.answer()?.status, 200);
    Ok(())
}

#[test]
fn a_request_that_takes_too_long_within_its_answer_is_aborted() -> Result<()> {
    needs_kernel!();
    let (_scene, mut client) = armed_with(&["--timeout-request=500ms"])?;
    client.send(&get("/stall/1000"))?;
    let reply = client.read(1)?;
    assert!(reply.answers.iter().all(|answer| !answer.whole), "{reply:?}");
    assert_eq!(reply.ended.as_deref(), Some("reset"));
    Ok(())
}

#[test]
fn the_idle_timeout_counts_from_the_last_carried_request() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed_with(&["--timeout-downstream-idle=1500ms"])?;
    let before = spliced(&scene)?;
    // Three times the timeout in all, and never a third of it without a request.
    for _ in 0..15 {
        assert_eq!(client.get("/delay/300")?.status, 200);
    }
    assert_eq!(spliced(&scene)?, before + 15);
    assert_eq!(client.end()?, "eof");
    Ok(())
}

#[test]
fn a_drain_lets_the_exchange_under_way_complete() -> Result<()> {
    needs_kernel!();
    let (mut scene, mut client) = armed()?;
    let before = spliced(&scene)?;
    client.send(&get("/delay/1000"))?;
    carries(&scene, before)?;
    scene.agent.terminate()?;
    assert_eq!(client.answer()?.status, 200);
    assert_eq!(client.end()?, "eof");
    assert!(scene.agent.wait(Duration::from_secs(10))?.success());
    Ok(())
}

#[test]
fn a_drain_ends_an_idle_armed_connection() -> Result<()> {
    needs_kernel!();
    let (mut scene, mut client) = armed()?;
    scene.agent.terminate()?;
    assert_eq!(client.end()?, "eof");
    assert!(scene.agent.wait(Duration::from_secs(10))?.success());
    Ok(())
}

#[test]
fn a_client_that_reads_late_gets_every_answer_in_order() -> Result<()> {
    needs_kernel!();
    let (_scene, mut client) = armed()?;
    for number in 0..40 {
        client.send(&get(&format!("/bytes/{}", 1000 + number)))?;
    }
    for (number, answer) in (1000..).zip(client.answers(40)?) {
        assert_eq!(answer.digest, digest_of(number, number));
    }
    assert_eq!(client.get("/")?.status, 200);
    Ok(())
}

#[test]
fn an_endpoint_that_leaves_the_configuration_gets_no_further_request() -> Result<()> {
    needs_kernel!();
    let (scene, mut client) = armed()?;
    let empty = weir_tests::manifest::Service::new("web", WEB.port()).cluster_ip(WEB.ip());
    scene.agent.reconfigure(&[empty])?;
    let before = spliced(&scene)?;
    assert_eq!(client.get("/")?.status, 503);
    assert_eq!(spliced(&scene)?, before);
    Ok(())
}

#[test]
fn after_a_configuration_change_the_next_request_is_the_agents_and_the_pair_is_armed_again() -> Result<()> {
    needs_kernel!();
    let stage = weir_tests::scene::Stage::new(1)?;
    let web = stage.web();
    let scene = stage.play(std::slice::from_ref(&web), &ALWAYS)?;
    let mut client = Conversation::start(&scene.client, WEB)?;
    client.arm(&scene)?;
    for round in 0..3 {
        let changed = web.clone().annotation("weir.dev/timeouts", &format!("connect={}s", round + 1));
        scene.agent.reconfigure(&[changed])?;
        let before = spliced(&scene)?;
        assert_eq!(client.get("/")?.status, 200);
        assert_eq!(spliced(&scene)?, before, "an old generation decided");
        client.arm(&scene)?;
    }
    Ok(())
}

#[test]
fn clients_that_share_an_endpoint_have_a_pair_each() -> Result<()> {
    needs_kernel!();
    let (scene, mut one) = armed()?;
    let mut two = Conversation::start(&scene.client, WEB)?;
    two.arm(&scene)?;
    for number in 0..20 {
        let paths = [format!("/one/{number}"), format!("/two/{number}")];
        one.send(&get(&paths[0]))?;
        two.send(&get(&paths[1]))?;
        for (client, path) in [&mut one, &mut two].into_iter().zip(&paths) {
            assert_eq!(client.answer()?.json()?["line"], format!("GET {path} HTTP/1.1"));
        }
    }
    Ok(())
}

#[test]
fn both_address_families_are_carried_and_the_mapped_form_too() -> Result<()> {
    needs_kernel!();
    for to in [WEB_V6, WEB_MAPPED] {
        let (scene, mut client) = armed_at(to, &[])?;
        let before = spliced(&scene)?;
        for size in [0, 1, 1000, 100_000] {
            assert_eq!(client.get(&format!("/bytes/{size}"))?.digest, digest_of(size, size));
        }
        assert_eq!(spliced(&scene)?, before + 4, "{to}");
    }
    Ok(())
}

#[test]
fn connections_beyond_the_limit_of_pairs_are_relayed() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[ALWAYS[0], ALWAYS[1], "--splice-pairs=2"])?;
    let told = scene.load(&WEB.to_string(), &["--connections", "8", "--requests", "200"])?;
    assert_eq!(told["statuses"]["200"], 1600, "{told}");
    assert_eq!(told["errors"], serde_json::json!({}), "{told}");
    assert!(spliced(&scene)? > 100);
    Ok(())
}

#[test]
fn without_pairs_everything_is_relayed() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[ALWAYS[0], ALWAYS[1], "--splice-pairs=0"])?;
    let told = scene.load(&WEB.to_string(), &["--requests", "100"])?;
    assert_eq!(told["statuses"]["200"], 100, "{told}");
    assert_eq!(spliced(&scene)?, 0);
    Ok(())
}

#[test]
fn a_control_group_stays_in_relay_and_the_speedup_is_exported() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=on", "--splice-control=50%"])?;
    let comparison = wait::eventually(Duration::from_secs(60), "the lane is compared", || {
        scene.load(&WEB.to_string(), &["--connections", "16", "--requests", "200"])?;
        let all = scene.agent.metrics()?;
        let bound = |bound| all.sum("weir_splice_speedup_ratio", &[("bound", bound)]);
        Ok((bound("estimate") > 0.0).then(|| (bound("lower"), bound("estimate"), bound("upper"))))
    })?;
    let (lower, estimate, upper) = comparison;
    assert!(lower <= estimate && estimate <= upper, "{comparison:?}");
    let relayed =
        scene.agent.metrics()?.sum("http_server_request_duration_seconds_count", &[("lane", "relay")]);
    assert!(relayed > 500.0 && spliced(&scene)? > 500, "{relayed} relayed, {} carried", spliced(&scene)?);
    Ok(())
}

const SERVER: &str = "http_server_request_duration_seconds";

/// A family of histograms on the splice lane.
fn carried(all: &Samples, family: &str, part: &str) -> f64 {
    all.sum(&format!("{family}_{part}"), &[("lane", "splice")])
}

#[test]
fn i2_a_client_that_half_closes_and_reads_late_gets_its_answer() -> Result<()> {
    needs_kernel!();
    for is_armed in [false, true] {
        let scene = Scene::web(&ALWAYS)?;
        let mut client = Conversation::start(&scene.client, WEB)?;
        if is_armed {
            client.arm(&scene)?;
        }
        let count = |all: &Samples| all.sum(&format!("{SERVER}_count"), &[]);
        let before = count(&scene.agent.metrics()?);
        client.send(&get("/bytes/100"))?;
        client.half_close()?;
        scene.agent.metrics_until("it is answered", |all| count(all) > before + 0.5)?;
        wait::throughout(Duration::from_millis(300), "the client does not read", || Ok(true))?;
        let answer = client.answer().with_context(|| format!("armed: {is_armed}"))?;
        assert_eq!((answer.status, answer.length), (200, 100));
        assert_eq!(client.end()?, "eof");
    }
    Ok(())
}

#[test]
fn both_flows_of_carried_requests_tell_all_their_bytes() -> Result<()> {
    needs_kernel!();
    const REQUESTS: usize = 40;
    let scene = Scene::web(&ALWAYS)?;
    let mut client = Conversation::start(&scene.client, WEB)?;
    for _ in 0..REQUESTS {
        assert_eq!(client.get("/")?.status, 200);
    }
    client.close()?;
    let carried = spliced(&scene)?;
    assert!(carried > 30, "{carried} of {REQUESTS} were carried");
    let hops = ["downstream", "upstream"];
    let samples = scene.agent.metrics_until("both flows have ended", |all| {
        hops.iter().all(|hop| all.sum("weir_tcp_closed_total", &[("hop", hop)]) > 0.5)
    })?;
    let bytes = |name, hop| samples.sum(name, &[("hop", hop)]);
    let asked = (REQUESTS * get("/").len()) as f64;
    let answered = bytes("weir_tcp_received_bytes_total", "downstream");
    for hop in hops {
        let (sent, received) =
            (bytes("weir_tcp_sent_bytes_total", hop), bytes("weir_tcp_received_bytes_total", hop));
        // TCP counts a FIN as a byte.
        assert!((sent - asked).abs() < 1.5, "{hop}: {sent} of {asked} sent");
        assert!(received > asked && (received - answered).abs() < 1.5, "{hop}: {received} of {answered}");
    }
    Ok(())
}

#[test]
fn every_carried_request_is_counted_once_and_stays_counted_when_its_connection_is_gone() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&ALWAYS)?;
    let load = ["--connections", "4", "--requests", "250", "--reconnect", "50"];
    let told = scene.load(&WEB.to_string(), &load)?;
    assert_eq!(told["statuses"]["200"], 1000, "{told}");
    let count = format!("{SERVER}_count");
    let samples = scene.agent.metrics_until("all are counted", |all| all.sum(&count, &[]) > 999.5)?;
    assert!((samples.sum(&count, &[]) - 1000.0).abs() < 0.5, "{samples:?}");
    let told = carried(&samples, SERVER, "count");
    // A client that asks again before its pair is armed is relayed once more: how often is a matter of time.
    assert!(told > 500.0, "{told} were carried");
    let begun = samples.sum("weir_kernel_events_total", &[("event", "spliced")]);
    assert!((told - begun).abs() < 0.5, "{told} of {begun}");
    let labels = [
        ("lane", "splice"),
        ("http_request_method", "GET"),
        ("http_response_status_code", "200"),
        ("http_route", "demo/web:8080"),
    ];
    assert!((samples.sum(&count, &labels) - told).abs() < 0.5, "{samples:?}");
    for family in [
        "http_client_request_duration_seconds",
        "weir_time_to_first_byte_seconds",
        "weir_answer_body_duration_seconds",
    ] {
        assert!((carried(&samples, family, "count") - told).abs() < 0.5, "{family}");
    }
    let again = scene.agent.metrics()?;
    assert!((again.sum(&count, &[]) - 1000.0).abs() < 0.5, "a second look counts nothing twice");
    Ok(())
}

#[test]
fn time_to_first_byte_and_the_bodys_time_are_told_apart_on_both_lanes() -> Result<()> {
    needs_kernel!();
    for (mode, lane) in [("on", "splice"), ("off", "plain")] {
        // Ten bytes, 10 ms between two of them; and 100 ms before the first.
        for (path, first_byte, body) in [("/trickle/10/10", 0.0, 0.09), ("/delay/100", 0.1, 0.0)] {
            let scene = Scene::web(&[&format!("--acceleration={mode}"), "--splice-control=0%"])?;
            // One connection: short requests make it a spliced one.
            let paths = ["/"].repeat(30).into_iter().chain([path; 3]);
            scene.client.curl(paths.map(|path| format!("http://{WEB}{path}")))?.success()?;
            let count = format!("{SERVER}_count");
            let samples = scene.agent.metrics_until("all are counted", |all| all.sum(&count, &[]) > 32.5)?;
            let sum = |family: &str| samples.sum(&format!("{family}_sum"), &[("lane", lane)]);
            let waited = sum("weir_time_to_first_byte_seconds");
            let flowed = sum("weir_answer_body_duration_seconds");
            let whole = sum(SERVER);
            let told = format!("{path} on {lane}: {waited} s and {flowed} s of {whole} s");
            assert!(waited >= 3.0 * first_byte && flowed >= 3.0 * body, "{told}");
            // Each has its own part of the time, however busy the machine is.
            assert_eq!(flowed > waited, body > first_byte, "{told}");
            assert!((waited + flowed - whole).abs() < 0.001, "{told}");
        }
    }
    Ok(())
}

#[test]
fn a_carried_requests_line_says_what_a_relayed_ones_does() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=on", "--splice-control=0%"])?;
    let fields = ["X-Request-Id: id-1", "traceparent: 00-1", "X-Forwarded-For: 192.0.2.1", "User-Agent: me"];
    let fields = fields.iter().flat_map(|field| ["--header", field]);
    let url = format!("http://{WEB}/bytes/100?a=b");
    let arguments = fields.chain(["--data", "12345"]).chain([url.as_str(); 30]);
    scene.client.curl(arguments)?.success()?;
    let lines = scene.agent.logged(30)?;
    assert_eq!(lines.len(), 30, "one line each");
    let carried: Vec<_> = lines.iter().filter(|line| line["lane"] == "splice").collect();
    assert!(carried.len() > 10, "{} were carried", carried.len());
    let relayed = lines.iter().find(|line| line["lane"] == "relay").context("none was relayed")?;
    assert_eq!((&relayed["path"], &relayed["response_code"]), (&"/bytes/100?a=b".into(), &200.into()));
    let times = ["start_time", "duration", "request_duration", "response_duration", "lane"];
    let same = |line: &serde_json::Value| {
        let fields = line.as_object().into_iter().flatten();
        fields
            .filter(|(key, _)| !times.contains(&key.as_str()))
            .map(|(key, value)| format!("{key} {value}"))
            .collect::<Vec<_>>()
    };
    for line in carried {
        assert_eq!(same(line), same(relayed), "{line}");
        let (whole, head) = (line["duration"].as_f64(), line["response_duration"].as_f64());
        assert!(whole > Some(0.0) && head > Some(0.0) && head <= whole, "{line}");
        let asked = line["request_duration"].as_f64();
        assert!(asked >= Some(0.0) && asked <= whole, "{line}");
    }
    Ok(())
}

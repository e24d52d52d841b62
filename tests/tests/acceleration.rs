//! Turning acceleration off changes speed only (I2): every exchange gives the same bytes in every
//! mode. The client knows what each body must be and checks every byte.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result};
use std::time::Duration;
use weir_tests::{
    metrics::Samples,
    needs_kernel, peer,
    process::Process,
    scene::{Scene, WEB},
    wait,
};

const MODES: [&str; 4] =
    ["--acceleration=off", "--acceleration=agent-only", "--acceleration=auto", "--acceleration=on"];

/// Around the caps of redirection (64 KiB requests, 256 KiB answers), and far above.
const SIZES: [u64; 13] =
    [1, 2, 100, 1000, 4096, 16_384, 65_535, 65_536, 65_537, 262_143, 262_145, 1 << 20, 64 << 20];

const MIB: u64 = 1 << 20;

/// What a stalled exchange would send if nothing held it back: more than [`queued_cap`] anywhere.
const STALLED: u64 = 128 * MIB;

/// What the kernel may hold of one stalled exchange: send and receive buffers of both hops, as large as
/// it lets them grow.
fn queued_cap() -> Result<u64> {
    let mut hop = 0;
    for limits in ["tcp_rmem", "tcp_wmem"] {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{limits}"))?;
        hop += text.split_whitespace().last().context("no maximum")?.parse::<u64>()?;
    }
    assert!(2 * hop < STALLED, "buffers of {hop} bytes: nothing would be seen");
    Ok(2 * hop)
}

/// Plays the same exchanges in every mode; all must give what `off` gives.
fn in_every_mode(play: impl Fn(&Scene) -> Result<Vec<String>>) -> Result<()> {
    let mut expected = None;
    for mode in MODES {
        let scene = Scene::web(&[mode, "--probation-requests=3"])?;
        scene.load(&WEB.to_string(), &["--requests", "5"])?;
        let got = play(&scene).with_context(|| format!("{mode}; agent: {:?}", scene.agent.stderr()))?;
        match &expected {
            None => expected = Some(got),
            Some(expected) => assert_eq!(&got, expected, "{mode}"),
        }
    }
    Ok(())
}

#[test]
fn i2_k10_bodies_of_1_byte_to_64_mib_are_identical_both_ways_with_random_write_sizes() -> Result<()> {
    needs_kernel!();
    in_every_mode(|scene| scene.transfer(&SIZES, &[]))
}

#[test]
fn i2_bodies_in_tiny_writes_are_identical() -> Result<()> {
    needs_kernel!();
    in_every_mode(|scene| {
        scene.transfer(&[1, 10, 1000, 70_000, 5, 300_000], &["--write", "64", "--seed", "3"])
    })
}

#[test]
fn i2_chunked_bodies_are_identical_both_ways() -> Result<()> {
    needs_kernel!();
    in_every_mode(|scene| scene.transfer(&SIZES, &["--chunked", "--seed", "5"]))
}

#[test]
fn i2_downloads_are_identical_with_known_and_unknown_length() -> Result<()> {
    needs_kernel!();
    in_every_mode(|scene| {
        let mut digests = scene.transfer(&SIZES, &["--download"])?;
        digests.extend(scene.transfer(&SIZES, &["--download", "--chunked"])?);
        Ok(digests)
    })
}

#[test]
fn i2_small_and_large_answers_in_turn_on_one_connection_are_identical() -> Result<()> {
    needs_kernel!();
    let turns: Vec<u64> = (0..60).map(|turn| [10, 2 * MIB, 300, 300_000, 60_000][turn % 5]).collect();
    in_every_mode(|scene| scene.transfer(&turns, &["--download"]))
}

#[test]
fn i2_small_and_large_requests_in_turn_on_one_connection_are_identical() -> Result<()> {
    needs_kernel!();
    let turns: Vec<u64> = (0..40).map(|turn| [10, MIB, 300, 100_000, 60_000][turn % 5]).collect();
    in_every_mode(|scene| scene.transfer(&turns, &["--seed", "2"]))
}

#[test]
fn i2_k10_a_client_that_closes_its_sending_side_gets_the_whole_answer() -> Result<()> {
    needs_kernel!();
    in_every_mode(|scene| {
        let mut digests = Vec::new();
        for size in [1, 1000, 100_000, 5 * MIB] {
            digests.extend(scene.transfer(&[size], &["--half-close"])?);
            digests.extend(scene.transfer(&[size], &["--half-close", "--download"])?);
        }
        Ok(digests)
    })
}

#[test]
fn i2_a_client_that_blocks_in_recv_after_it_closed_its_sending_side_is_not_woken_with_an_error() -> Result<()>
{
    needs_kernel!();
    let code = "import socket\nfor n in range(20):\n  s = socket.create_connection(('10.96.0.10', 8080))\n  \
                s.send(b'GET /delay/20 HTTP/1.1\\r\\nHost: demo\\r\\n\\r\\n')\n  s.shutdown(socket.SHUT_WR)\n  \
                assert s.recv(65536).startswith(b'HTTP/1.1 200')";
    in_every_mode(|scene| {
        scene.client.run("python3", ["-c", code], Duration::from_secs(30))?.success()?;
        Ok(Vec::new())
    })
}

#[test]
fn i2_s31_pipelined_requests_are_answered_whole_and_in_order() -> Result<()> {
    needs_kernel!();
    let sizes: Vec<u64> = (0..50).map(|n| [1, 900, 40_000, 300_000][n % 4]).collect();
    in_every_mode(|scene| {
        let mut digests = scene.transfer(&sizes, &["--pipeline"])?;
        digests.extend(scene.transfer(&sizes, &["--pipeline", "--download"])?);
        Ok(digests)
    })
}

#[test]
fn i2_u4_a_reset_within_an_answers_body_reaches_the_client_as_an_abort() -> Result<()> {
    needs_kernel!();
    in_every_mode(|scene| {
        for (verb, size) in
            [("reset-mid", 1000), ("reset-mid", 500_000), ("close-mid", 1000), ("close-mid", 500_000)]
        {
            let asked =
                scene.client.curl(["--output", "/dev/null", &format!("http://{WEB}/{verb}/{size}")])?;
            // 18: partial; 56: reset; 52: nothing came. Never 0, a complete answer.
            assert!(matches!(asked.status.code(), Some(18 | 56 | 52)), "{verb} {size}: {asked:?}");
        }
        scene.transfer(&[1000], &[])
    })
}

#[test]
fn i2_a_client_that_resets_within_its_body_harms_nobody_else() -> Result<()> {
    needs_kernel!();
    in_every_mode(|scene| {
        let head = b"POST /sink HTTP/1.1\r\nHost: demo\r\nContent-Length: 60000\r\n\r\n".to_vec();
        for sent in [10, 30_000] {
            let bytes = [head.clone(), vec![b'x'; sent]].concat();
            peer::raw(&scene.client, WEB, &bytes, &["--reset"])?.success()?;
        }
        scene.transfer(&[1000, 100_000], &[])
    })
}

#[test]
fn i2_many_connections_with_mixed_bodies_do_not_mix() -> Result<()> {
    needs_kernel!();
    in_every_mode(|scene| {
        let sizes = "1,70000,300,400000,20000,5";
        let start = |seed: u32| {
            let (to, seed) = (WEB.to_string(), seed.to_string());
            peer::start(&scene.client, ["transfer", "--to", &to, "--sizes", sizes, "--seed", &seed])
        };
        let running: Vec<Process> = (0..16).map(start).collect::<Result<_>>()?;
        let done =
            running.into_iter().map(|one| Ok(one.outcome(Duration::from_secs(60))?.json()?.to_string()));
        done.collect()
    })
}

/// Waits until `sent` stands still for a second, and returns it.
fn standstill(mut sent: impl FnMut() -> Result<u64>) -> Result<u64> {
    wait::eventually(Duration::from_secs(30), "the sender is held back", || {
        let before = sent()?;
        let still = wait::throughout(Duration::from_secs(1), "it stands still", || Ok(sent()? == before));
        Ok((before > 0 && still.is_ok()).then_some(before))
    })
}

/// The agent may not grow by more than this for one stalled exchange.
fn bounded(scene: &Scene, before: u64, sent: u64, mode: &str) -> Result<()> {
    assert!(sent <= queued_cap()?, "{mode}: {sent} bytes are queued for a reader that does not read");
    let grown = scene.agent.rss()?.saturating_sub(before);
    assert!(grown < 16 * MIB, "{mode}: the agent grew by {grown} bytes");
    Ok(())
}

#[test]
fn d5_a_client_that_does_not_read_holds_the_endpoint_back_in_bounded_memory() -> Result<()> {
    needs_kernel!();
    for mode in MODES {
        for framing in [&[][..], &["--chunked"]] {
            let scene = Scene::web(&[mode, "--probation-requests=3"])?;
            scene.load(&WEB.to_string(), &["--requests", "5"])?;
            let before = scene.agent.rss()?;
            let (to, size) = (WEB.to_string(), STALLED.to_string());
            let fixed = ["slow-read", "--to", &to, "--size", &size];
            let mut client = peer::start(&scene.client, fixed.into_iter().chain(framing.iter().copied()))?;
            client.says("waiting", Duration::from_secs(20))?;
            let progress = format!("http://{}/progress", scene.server()?.at(8080));
            let sent = standstill(|| {
                let told = scene.topology.node().curl([&progress])?.json()?;
                Ok(told["sent"].as_u64().unwrap())
            })?;
            bounded(&scene, before, sent, mode)?;
            client.tell("read")?;
            client.outcome(Duration::from_secs(60))?.success().context(mode)?;
        }
    }
    Ok(())
}

#[test]
fn d5_an_endpoint_that_does_not_read_holds_the_client_back_in_bounded_memory() -> Result<()> {
    needs_kernel!();
    for mode in MODES {
        for framing in [&[][..], &["--chunked"]] {
            let scene = Scene::web(&[mode, "--probation-requests=3"])?;
            scene.load(&WEB.to_string(), &["--requests", "5"])?;
            let before = scene.agent.rss()?;
            let go = scene.topology.dir().join("go");
            let sink =
                format!("/hold/{}", go.display().to_string().trim_start_matches('/').replace('/', "+"));
            let (to, size) = (WEB.to_string(), STALLED.to_string());
            let fixed = ["transfer", "--to", &to, "--sizes", &size, "--sink", &sink, "--progress"];
            let client = peer::start(&scene.client, fixed.into_iter().chain(framing.iter().copied()))?;
            let sent = standstill(|| {
                let text = client.stderr_text()?;
                let last = text.lines().rev().find_map(|line| line.strip_prefix("sent "));
                Ok(last.map(str::parse).transpose()?.unwrap_or(0))
            })?;
            bounded(&scene, before, sent, mode)?;
            std::fs::write(&go, "")?;
            client.outcome(Duration::from_secs(60))?.success().context(mode)?;
        }
    }
    Ok(())
}

#[test]
fn acceleration_redirects_bytes_and_off_redirects_none() -> Result<()> {
    needs_kernel!();
    for (mode, redirects) in MODES.iter().zip([false, true, true, true]) {
        let scene = Scene::web(&[mode, "--probation-requests=3"])?;
        // The boot self-test has redirected some; a connection joins the map when it is made.
        let total = |all: &Samples| all.sum("weir_redirected_bytes_total", &[]);
        let before = total(&scene.agent.metrics()?);
        scene.load(&WEB.to_string(), &["--requests", "200", "--reconnect", "10"])?;
        if redirects {
            scene.agent.metrics_until(mode, |all| total(all) > before)?;
        } else {
            // The kernel is read once a second at most.
            let still = || Ok(total(&scene.agent.metrics()?) <= before);
            wait::throughout(Duration::from_secs(2), "nothing is redirected", still)?;
        }
    }
    Ok(())
}

#[test]
fn i2_a_client_that_blocks_is_found_and_left_alone() -> Result<()> {
    needs_kernel!();
    // Redirected on one hop an answer counts once, on both it counts twice.
    const ANSWER: f64 = 20_000.0;
    let scene = Scene::web(&["--acceleration=on"])?;
    // Not the last of its connection: that goes by TCP.
    let ask = || scene.raw(b"GET /bytes/20000 HTTP/1.1\r\nHost: demo\r\n\r\n", &["--patience", "500"]);
    let redirected = |all: &weir_tests::metrics::Samples| all.sum("weir_redirected_bytes_total", &[]);
    ask()?;
    let barred = [("by", "blocking")];
    scene.agent.metrics_until("it is found", |all| all.sum("weir_workload_barred_total", &barred) > 0.5)?;
    let on_both = |all: &weir_tests::metrics::Samples| redirected(all) >= 2.0 * ANSWER;
    let before = redirected(&scene.agent.metrics_until("its first answer took both hops", on_both)?);
    ask()?;
    let downstream = [("hop", "downstream")];
    let closed = |all: &weir_tests::metrics::Samples| all.sum("weir_tcp_closed_total", &downstream) > 1.5;
    scene.agent.metrics_until("the second flow has ended", closed)?;
    // The agent reads the kernel's counters once a second: wait for a reading that has this answer.
    let counted = |all: &weir_tests::metrics::Samples| redirected(all) - before >= ANSWER;
    let after = redirected(&scene.agent.metrics_until("its second answer is counted", counted)?);
    assert!(after - before < 1.5 * ANSWER, "the client's hop was redirected: {before} -> {after}");
    Ok(())
}

//! Hostile requests, row by row: the same status in relay, on a connection that the kernel half has carried
//! requests of, and at an Ingress; whole and cut in two; and none of it at an endpoint.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result, ensure};
use std::{net::SocketAddr, time::Duration};
use weir_tests::{
    conversation::{Conversation, get, post},
    needs_kernel,
    scene::{Scene, Stage, WEB},
    wait,
};

/// A request that is not admitted, and what its client is told.
struct Row {
    id: &'static str,
    sent: String,
    status: u16,
}

fn row(id: &'static str, status: u16, sent: impl Into<String>) -> Row {
    Row { id, sent: sent.into(), status }
}

/// A POST with these fields.
fn with(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: demo\r\n{fields}\r\n\r\n")
}

fn framing() -> Vec<Row> {
    let behind = "0\r\n\r\nGET /admin HTTP/1.1\r\nHost: demo\r\n\r\n";
    vec![
        row("S1", 400, with("Content-Length: 6\r\nTransfer-Encoding: chunked") + behind),
        row("S2", 400, with("Transfer-Encoding: chunked\r\nContent-Length: 4") + behind),
        row("S3", 400, with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked") + behind),
        row("S3", 400, with("Transfer-Encoding: identity") + behind),
        row("S3", 501, with("Transfer-Encoding: gzip, chunked") + behind),
        row("S4", 400, with("Transfer-Encoding : chunked") + behind),
        row("S4", 400, with(" Transfer-Encoding: chunked") + behind),
        row("S4", 400, with("Transfer-Encoding: \u{b}chunked") + behind),
        row("S4", 400, with("Transfer-Encoding:\r\n chunked") + behind),
        row("S6", 400, "POST / HTTP/1.0\r\nHost: demo\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        row("S7", 400, with("Transfer_Encoding: chunked\r\nContent-Length: 5")),
        row("S8", 400, with("Content-Length: +3") + "abc"),
        row("S9", 400, with("Content-Length: 18446744073709551615")),
        row("S10", 400, with("Content-Length: 3\r\nContent-Length: 3") + "abc"),
        row("S11", 400, with("Content-Length: 003") + "abc"),
        row("S12", 400, with("Content-Length: 3, 3") + "abc"),
        row("S15", 400, with("Transfer-Encoding: chunked") + "0x3\r\nabc\r\n0\r\n\r\n"),
        row("S16", 400, with("Transfer-Encoding: chunked") + "3 \r\nabc\r\n0\r\n\r\n"),
        row("S17", 400, with("Transfer-Encoding: chunked") + "3\nabc\r\n0\r\n\r\n"),
        row("S18", 400, with("Transfer-Encoding: chunked") + "3;\nxx\r\nabc\r\n0\r\n\r\n"),
        row("S19", 400, with("Transfer-Encoding: chunked") + "0\r\nX : y\r\n\r\n"),
        row("S23", 405, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
        row("S25", 417, with("Expect: 200-ok\r\nContent-Length: 0")),
        row("S26", 400, "GET /a HTTP/1.1\nHost: demo\n\n"),
        row("S26", 400, "GET /a HTTP/1.1\r\nHost: demo\nX: y\r\n\r\n"),
        row("S27", 400, with("X: a\0b")),
        row("S27", 400, with("X: a\rb")),
        row("S28", 400, with("X: y\r\n z")),
        row("S28", 400, with("X")),
        row("S30", 400, "\r\n\r\nGET / HTTP/1.1\r\nHost: demo\r\n\r\n"),
        row("S32", 400, with("Connection: close, Host")),
    ]
}

fn targets() -> Vec<Row> {
    let host = |host: &str| format!("GET / HTTP/1.1\r\n{host}\r\n\r\n");
    let line = |line: &str| format!("{line}\r\nHost: demo\r\n\r\n");
    vec![
        row("P1", 400, "GET / HTTP/1.1\r\n\r\n"),
        row("P2", 400, host("Host: demo\r\nHost: demo")),
        row("P3", 400, host("Host: a/b@c")),
        row("P3", 400, host("Host: a:99999")),
        row("P4", 400, get("http://evil/a")),
        row("P5", 400, get("http://u:p@demo/a")),
        row("P6", 400, get("*")),
        row("P8", 400, get("/a#/../admin")),
        row("P9", 400, get("/a/..;/admin")),
        row("P9", 400, get("/a/../..")),
        row("P10", 400, get("/a%2fadmin")),
        row("P10", 400, get("/a\\admin")),
        row("P12", 400, get("/a%00b")),
        row("P12", 400, get("/%c0%ae")),
        row("P12", 400, get("/\u{c0}\u{ae}")),
        row("P14", 400, line("GET  / HTTP/1.1")),
        row("P14", 400, line("GET / http/1.1")),
        row("P14", 505, line("GET / HTTP/1.2")),
        row("P14", 501, line("get / HTTP/1.1")),
        row("P14", 405, line("TRACE / HTTP/1.1")),
        row("P15", 414, get(&format!("/{}", "a".repeat(9000)))),
        row("P15", 431, with(&vec!["X: y"; 101].join("\r\n"))),
        row("P15", 431, with(&vec![format!("X: {}", "y".repeat(15_000)); 5].join("\r\n"))),
        row("K7", 400, "\u{16}\u{3}\u{1}\u{2}\n"),
    ]
}

/// Sends a row behind what has been asked, whole or cut; its client is told, and its connection ends.
fn is_refused(client: &mut Conversation, row: &Row, cuts: &[usize]) -> Result<()> {
    client.send_cut(&row.sent, cuts)?;
    let reply = client.read(1)?;
    let statuses: Vec<_> = reply.answers.iter().map(|answer| answer.status).collect();
    ensure!(statuses == [row.status], "{statuses:?} and not {}", row.status);
    ensure!(reply.answers[0].field("connection") == Some("close"), "{reply:?}");
    let ended = client.end()?;
    ensure!(ended == "eof", "it ended with {ended}");
    Ok(())
}

/// All rows: each on a connection of its own that `connect` gives.
fn all_are_refused(scene: &Scene, connect: impl Fn(&Scene) -> Result<Conversation>) -> Result<()> {
    let rows: Vec<_> = framing().into_iter().chain(targets()).collect();
    let mut sent = 0_u32;
    for row in &rows {
        let length = row.sent.chars().count();
        for cuts in [&[][..], &[1], &[length / 2], &[length - 1]] {
            let mut client = connect(scene)?;
            is_refused(&mut client, row, cuts)
                .with_context(|| format!("{} {:?} cut at {cuts:?}", row.id, row.sent))?;
            sent += 1;
        }
    }
    let counted = format!("{sent} bad requests are counted");
    let expected = f64::from(sent) - 0.5;
    scene.agent.metrics_until(&counted, |all| all.sum("weir_bad_requests_total", &[]) > expected)?;
    // Those with a body that went wrong had reached an endpoint; of the others no byte did.
    let lines = wait::eventually(Duration::from_secs(20), "all are in the log", || {
        let lines = scene.agent.access_log()?;
        let refused: Vec<_> =
            lines.into_iter().filter(|line| line["response_code_details"] == "bad_request").collect();
        Ok((refused.len() >= sent as usize).then_some(refused))
    })?;
    for line in lines.iter().filter(|line| line["method"] == "-") {
        assert!(line["upstream_host"].is_null(), "{line}");
    }
    Ok(())
}

#[test]
fn s1_to_s32_p1_to_p15_k7_hostile_requests_are_refused_in_relay() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=off"])?;
    all_are_refused(&scene, |scene| {
        let mut client = Conversation::start(&scene.client, WEB)?;
        client.get("/")?;
        Ok(client)
    })
}

#[test]
fn s1_to_s32_p1_to_p15_k7_hostile_requests_are_refused_where_the_kernel_carries() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=on", "--splice-control=0%"])?;
    all_are_refused(&scene, |scene| {
        let mut client = Conversation::start(&scene.client, WEB)?;
        client.arm(scene)?;
        Ok(client)
    })
}

#[test]
fn s1_to_s32_p1_to_p15_k7_hostile_requests_are_refused_at_an_ingress() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let web = stage.web();
    let scene = stage.play(std::slice::from_ref(&web), &[])?;
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: all, namespace: demo}\n\
                   spec:\n  defaultBackend: {service: {name: web, port: {number: 8080}}}\n---\n";
    scene.agent.reconfigure_text(&format!("{}{ingress}", web.yaml()))?;
    let node: SocketAddr = scene.topology.node().at(80);
    all_are_refused(&scene, |scene| {
        let mut client = Conversation::start(&scene.client, node)?;
        client.get("/")?;
        Ok(client)
    })
}

#[test]
fn s13_s31_k4_what_a_body_holds_is_no_request_and_behind_a_bad_one_none_is_read() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=on", "--splice-control=0%"])?;
    let mut client = Conversation::start(&scene.client, WEB)?;
    client.arm(&scene)?;
    let count = |answer: &weir_tests::conversation::Answer| -> Result<u64> {
        Ok(answer.field("x-count").context("no count")?.parse()?)
    };
    let before = count(&client.get("/")?)?;
    let smuggled = get("/admin");
    let sent =
        format!("GET / HTTP/1.1\r\nHost: demo\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    assert_eq!(count(&client.ask(&sent)?)?, before + 1);
    assert_eq!(count(&client.get("/")?)?, before + 2);
    // Three in one write, the second of them bad.
    client.send(&[get("/first"), get("/%00"), get("/third")].concat())?;
    let reply = client.read(2)?;
    assert_eq!(reply.answers.iter().map(|one| one.status).collect::<Vec<_>>(), [200, 400], "{reply:?}");
    assert_eq!(client.end()?, "eof");
    let lines = scene.agent.access_log()?;
    assert!(!lines.iter().any(|line| line["path"] == "/third" || line["path"] == "/admin"), "{lines:?}");
    Ok(())
}

#[test]
fn p7_p9_what_is_matched_is_what_is_forwarded_in_every_lane() -> Result<()> {
    needs_kernel!();
    for acceleration in ["--acceleration=off", "--acceleration=on"] {
        let scene = Scene::web(&[acceleration, "--splice-control=0%"])?;
        let mut client = Conversation::start(&scene.client, WEB)?;
        for _ in 0..5 {
            for (sent, seen) in [
                ("/a", "/a"),
                ("//evil/x", "/evil/x"),
                ("/a/../b?c=//d/..", "/b?c=//d/.."),
                ("/%61/./b", "/a/b"),
                ("http://demo/a//b", "/a/b"),
            ] {
                let answer = client.get(sent)?;
                assert_eq!(answer.json()?["line"], format!("GET {seen} HTTP/1.1"), "{sent}");
            }
        }
    }
    Ok(())
}

/// RFC 9110 section 7.6.2.
#[test]
fn a_request_that_may_go_no_further_is_answered_here_in_every_lane() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=on", "--splice-control=0%"])?;
    let mut relayed = Conversation::start(&scene.client, WEB)?;
    let mut carried = Conversation::start(&scene.client, WEB)?;
    carried.arm(&scene)?;
    for client in [&mut relayed, &mut carried] {
        let mut with = |hops: &str| -> Result<u16> {
            let request = format!("OPTIONS / HTTP/1.1\r\nHost: demo\r\nMax-Forwards: {hops}\r\n\r\n");
            Ok(client.ask(&request)?.status)
        };
        assert_eq!((with("0")?, with("1")?, with("0")?), (204, 200, 204));
        assert_eq!(with("x")?, 400);
    }
    Ok(())
}

#[test]
fn s20_a_body_that_is_cut_off_is_no_complete_request_in_any_lane() -> Result<()> {
    needs_kernel!();
    let scene =
        Scene::web(&["--acceleration=on", "--splice-control=0%", "--timeout-request-body-idle=300ms"])?;
    for request in [
        post("/sink", "abc").replace("Content-Length: 3", "Content-Length: 10"),
        with("Transfer-Encoding: chunked").replace("POST /", "POST /sink") + "3\r\nabc\r\n",
    ] {
        let mut client = Conversation::start(&scene.client, WEB)?;
        client.arm(&scene)?;
        client.send(&request)?;
        let reply = client.read(1)?;
        assert_eq!(
            reply.answers.iter().map(|one| one.status).collect::<Vec<_>>(),
            [408],
            "{request}: {reply:?}"
        );
    }
    Ok(())
}

/// What its Service chooses is so in relay and on a connection that the kernel half carries requests of: that one
/// leaves to the agent whatever is in doubt.
#[test]
fn i1_p10_p15_what_a_service_chooses_holds_in_every_lane() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let choices = "head=128KiB,field=100KiB,escaped-slashes=keep,underscores=keep,empty-segments=reject";
    let web = stage.web().annotation("weir.dev/admission", choices);
    let scene = stage.play(&[web], &["--acceleration=on", "--splice-control=0%"])?;
    let asking = |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nHost: demo\r\n{fields}\r\n");
    let large = format!("X: {}\r\n", "x".repeat(80_000));
    let rows = [
        (asking("/a%2Fb", ""), 200),
        (asking("/..%2Fb", ""), 400),
        (asking("/a", "user_id: 7\r\n"), 200),
        (asking("/a", "Content_Length: 7\r\n"), 400),
        (asking("//a", ""), 400),
        (asking("/large", &large), 200),
        (asking("/large", &format!("{large}{large}")), 431),
        (asking("/a%ff", ""), 400),
    ];
    for (request, status) in &rows {
        let relayed = Conversation::start(&scene.client, WEB)?;
        let mut carried = Conversation::start(&scene.client, WEB)?;
        carried.arm(&scene)?;
        for mut client in [relayed, carried] {
            let answer = client.ask(request)?;
            assert_eq!(answer.status, *status, "{}", request.lines().next().unwrap_or_default());
        }
    }
    let lines = scene.agent.access_log()?;
    let answered = |status: u16, path: &str| {
        lines.iter().filter(|line| line["response_code"] == status && line["path"] == path).count()
    };
    assert_eq!((answered(200, "/a%2Fb"), answered(200, "/large"), answered(200, "/a")), (2, 2, 2));
    Ok(())
}

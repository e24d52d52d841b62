//! HTTP policy from manifests: what a client and an operator see of it, with acceleration and without.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::Value;
use std::{net::SocketAddr, time::Duration};
use weir_tests::{
    binary,
    manifest::{HttpPolicy, Pod, Service},
    metrics::Samples,
    needs_kernel,
    scene::{PORT, Scene, WEB},
    wait,
};

const SOON: Duration = Duration::from_secs(5);
/// Requests carry it, and rules may ask for it.
const HOST: &str = "demo";

/// Every server pod's manifest and `demo/web`, with these policies.
fn manifests(scene: &Scene, policies: &[HttpPolicy]) -> String {
    let pods = scene
        .servers
        .iter()
        .map(|pod| Pod::new(pod.name(), "web").address(pod.v4()).address(pod.v6()).yaml());
    let web = Service::new("web", PORT).cluster_ip(WEB.ip());
    let web = scene.servers.iter().fold(web, |web, pod| web.endpoints([pod.at(PORT)]));
    let policies = policies.iter().map(HttpPolicy::yaml);
    std::iter::once(web.yaml()).chain(pods).chain(policies).collect()
}

/// Reads of `/public` and below.
fn reads() -> HttpPolicy {
    HttpPolicy::new("reads", "web", PORT).allow(&[("method", "GET|HEAD"), ("path", "/public(/.*)?")])
}

fn restricted(arguments: &[&str], policies: &[HttpPolicy]) -> Result<Scene> {
    let scene = Scene::web(arguments)?;
    scene.agent.reconfigure_text(&manifests(&scene, policies))?;
    Ok(scene)
}

fn request(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

/// The status lines that requests on one connection get, in order.
fn statuses(scene: &Scene, requests: &[(&str, &str)]) -> Result<Vec<u16>> {
    let bytes: String = requests.iter().map(|(method, target)| request(method, target)).collect();
    let (answers, _) = scene.raw(bytes.as_bytes(), &["--half-close"])?;
    let lines = answers.split("HTTP/1.1 ").skip(1);
    Ok(lines.map(|answer| answer[..3].parse().unwrap()).collect())
}

/// The statuses of three requests that are allowed and of this one, on one connection: from the third on
/// the kernel half may decide.
fn on_one_connection(scene: &Scene, method: &str, target: &str) -> Result<String> {
    let url = |target: &str| format!("http://{WEB}{target}");
    let common =
        ["--header", "Host: demo", "--path-as-is", "--write-out", "%{http_code} ", "--output", "/dev/null"];
    let mut arguments: Vec<String> = common.map(String::from).into();
    for _ in 0..2 {
        arguments.extend([url("/public"), "--output".to_owned(), "/dev/null".to_owned()]);
    }
    arguments.extend([url("/public"), "--next".to_owned()]);
    arguments.extend(common.map(String::from));
    arguments.extend(match method {
        "HEAD" => vec!["--head".to_owned()],
        other => vec!["--request".to_owned(), other.to_owned()],
    });
    arguments.push(url(target));
    Ok(scene.client.curl(&arguments)?.success()?.text().trim().to_owned())
}

#[test]
fn a_denied_request_gets_403_with_its_policy_in_the_log_and_the_connection_goes_on() -> Result<()> {
    needs_kernel!();
    let scene = restricted(&[], &[reads()])?;
    let requests = [("GET", "/public/a"), ("GET", "/private"), ("POST", "/public/a"), ("GET", "/public")];
    assert_eq!(statuses(&scene, &requests)?, [200, 403, 403, 200]);
    let answer = scene.client.curl(["--include", &format!("http://{WEB}/private")])?.text();
    assert!(
        answer.starts_with("HTTP/1.1 403 Forbidden\r\n") && answer.ends_with("\r\n\r\nAccess denied\r\n"),
        "{answer}"
    );

    let lines = scene.agent.logged(5)?;
    let told: Vec<_> = lines
        .iter()
        .map(|line| (line["response_code"].as_u64().unwrap(), line["policy_rule"].as_str().unwrap()))
        .collect();
    let allowed = (200, "demo/reads#ingress0.ports0.http0");
    assert_eq!(told, [allowed, (403, "demo/reads"), (403, "demo/reads"), allowed, (403, "demo/reads")]);
    assert_eq!(
        (&lines[1]["response_flags"], &lines[1]["response_code_details"]),
        (&"UAEX".into(), &"policy_denied".into())
    );
    let denied = |all: &Samples| {
        all.sum("http_server_request_duration_seconds_count", &[("error_type", "policy_denied")])
    };
    scene.agent.metrics_until("three denials are counted", |all| (denied(all) - 3.0).abs() < 0.5)?;
    Ok(())
}

#[test]
fn i2_the_outcome_of_every_request_is_the_same_with_acceleration_off_and_on() -> Result<()> {
    needs_kernel!();
    let policies = [
        reads(),
        HttpPolicy::new("forms", "web", PORT)
            .allow(&[("method", "POST"), ("path", "/form/[0-9]+")])
            .allow(&[("path", "/host"), ("host", HOST)])
            .allow(&[("path", "/other"), ("host", r".*\.example")]),
    ];
    let targets = [
        "/public",
        "/public/",
        "/public/a",
        "/publica",
        "/public?a",
        "/form/1",
        "/form/x",
        "/host",
        "/other",
        "/",
        "/public/../form/1",
        "/public//a",
        "/public/%2e%2e/x",
        "/public/%20",
        "/public/a;b",
        "/public/a?b=%2F..",
    ];
    let outcomes = |acceleration: &str| -> Result<Vec<String>> {
        let scene = restricted(&[acceleration], &policies)?;
        let each = targets.iter().flat_map(|target| ["GET", "HEAD", "POST"].map(|method| (method, target)));
        each.map(|(method, target)| on_one_connection(&scene, method, target)).collect()
    };
    let off = outcomes("--acceleration=off")?;
    assert_eq!(outcomes("--acceleration=on")?, off);
    let of = |status: &str| off.iter().filter(|all| all.ends_with(status)).count();
    assert_eq!((of("200"), of("403"), of("400")), (19, 29, 0), "{off:?}");
    Ok(())
}

#[test]
fn a_kept_alive_connection_is_decided_request_by_request_with_acceleration() -> Result<()> {
    needs_kernel!();
    let scene = restricted(&["--acceleration=on"], &[reads()])?;
    let url = |path: &str| format!("http://{WEB}{path}");
    // One curl is one connection.
    let mut arguments =
        vec!["--silent".to_owned(), "--write-out".to_owned(), "%{http_code} %{num_connects}\n".to_owned()];
    for _ in 0..10 {
        for path in ["/public", "/public/x", "/private", "/public"] {
            arguments.extend(["--output".to_owned(), "/dev/null".to_owned(), url(path)]);
        }
    }
    let carried = |all: &Samples| all.sum("weir_kernel_events_total", &[("event", "spliced")]);
    // Whether a connection may be redirected at all is decided when it is made.
    wait::until(SOON, "the kernel half carried some of them", || {
        let told = scene.client.curl(&arguments)?.success()?.text();
        let codes: Vec<_> = told.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(codes, ["200", "200", "403", "200"].repeat(10));
        let connects = told.lines().map(|line| line.split(' ').nth(1).unwrap().parse::<u32>().unwrap());
        assert_eq!(connects.sum::<u32>(), 1, "{told}");
        Ok(carried(&scene.agent.metrics()?) > 5.0)
    })
}

#[test]
fn a_changed_policy_takes_effect_and_one_that_goes_opens_the_port() -> Result<()> {
    needs_kernel!();
    let scene = restricted(&[], &[reads()])?;
    assert_eq!((scene.status_of("/public")?, scene.status_of("/private")?), (200, 403));
    let private = HttpPolicy::new("reads", "web", PORT).allow(&[("path", "/private")]);
    scene.agent.reconfigure_text(&manifests(&scene, &[private]))?;
    assert_eq!((scene.status_of("/public")?, scene.status_of("/private")?), (403, 200));
    let elsewhere = HttpPolicy::new("reads", "web", 9090).allow(&[("path", "/private")]);
    scene.agent.reconfigure_text(&manifests(&scene, &[elsewhere]))?;
    assert_eq!(scene.status_of("/public")?, 0, "what no rule allows is closed");
    scene.agent.reconfigure_text(&manifests(&scene, &[]))?;
    assert_eq!((scene.status_of("/public")?, scene.status_of("/private")?), (200, 200));
    Ok(())
}

#[test]
fn a_policy_changes_for_requests_on_a_connection_that_is_open() -> Result<()> {
    needs_kernel!();
    let scene = restricted(&["--acceleration=on"], &[reads()])?;
    let to = WEB.to_string();
    let arguments = ["load", "--to", &to, "--path", "/public", "--requests", "2000", "--pause", "2"];
    let load = weir_tests::peer::start(&scene.client, arguments)?;
    scene.agent.metrics_until("it has begun", |all| all.sum("weir_downstream_opened_total", &[]) > 0.5)?;
    let other = HttpPolicy::new("reads", "web", PORT).allow(&[("path", "/other")]);
    scene.agent.reconfigure_text(&manifests(&scene, &[other]))?;
    let told = load.outcome(Duration::from_secs(60))?.json()?;
    assert!(told["statuses"]["403"].as_u64().unwrap() > 100, "{told}");
    assert_eq!(told["errors"], serde_json::json!({}), "{told}");
    let opened = scene.agent.metrics()?.sum("weir_downstream_opened_total", &[]);
    assert!((opened - 1.0).abs() < 0.5, "on one connection: {opened}");
    Ok(())
}

#[test]
fn an_unknown_field_is_an_error_that_names_the_object_and_leaves_out_that_policy_alone() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let bad = HttpPolicy::new("bad", "web", PORT).allow(&[("path", "/bad")]).with("ingressDenied: [{}]");
    scene.agent.config().write_text(&manifests(&scene, &[bad, reads()]))?;
    wait::until(SOON, "the good policy holds", || Ok(scene.status_of("/private")? == 403))?;
    assert_eq!((scene.status_of("/bad")?, scene.status_of("/public")?), (403, 200));
    let error = scene.agent.status()?["config"]["error"].to_string();
    let named = "CiliumNetworkPolicy demo/bad: field";
    assert!(error.contains(named) && error.contains("ingressDenied"), "{error}");

    let mut check = std::process::Command::new(binary::weir()?);
    let told = check.args(["check", "--config"]).arg(scene.agent.config().path()).output()?;
    let (findings, rest) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(findings.starts_with("error ") && findings.contains(named), "{findings}");
    assert!(rest.contains("demo/reads, 1 rule, kernel-eligible: yes"), "{rest}");
    assert_eq!(told.status.code(), Some(1));
    Ok(())
}

#[test]
fn bytes_that_are_not_http_do_not_reach_an_endpoint_with_http_rules() -> Result<()> {
    needs_kernel!();
    let scene = restricted(&[], &[reads()])?;
    let (answer, end) = scene.raw(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", &[])?;
    assert_eq!(answer, "", "{end}");
    let line = &scene.agent.logged(1)?[0];
    assert_eq!((&line["protocol"], &line["response_code_details"]), (&"TCP".into(), &"policy_denied".into()));
    Ok(())
}

#[test]
fn a_pods_own_address_is_no_way_around_its_policy() -> Result<()> {
    needs_kernel!();
    let scene = restricted(&[], &[reads()])?;
    let own: SocketAddr = scene.server()?.at(PORT);
    let code = |path: &str| {
        let url = format!("http://{own}{path}");
        Ok::<_, anyhow::Error>(
            scene.client.curl(["--output", "/dev/null", "--write-out", "%{http_code}", &url])?.text(),
        )
    };
    assert_eq!((code("/public")?, code("/private")?), ("200".to_owned(), "403".to_owned()));
    Ok(())
}

#[test]
fn c10_what_opens_one_endpoint_opens_nothing_at_the_other_of_its_service() -> Result<()> {
    needs_kernel!();
    let open = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: open, namespace: demo}\n\
                spec:\n  endpointSelector: {matchLabels: {app: open}}\n  \
                ingress: [{toPorts: [{ports: [{port: '8080', protocol: TCP}]}]}]\n---\n";
    for acceleration in ["--acceleration=on", "--acceleration=off"] {
        let scene = Scene::web_with(2, &[acceleration])?;
        let text = manifests(&scene, &[reads()]);
        let open_pod = Pod::new("server2", "web").yaml().lines().nth(2).unwrap().to_owned();
        let text = text.replace(&open_pod, &open_pod.replace("\"app\": \"web\"", "\"app\": \"open\""));
        scene.agent.reconfigure_text(&(text + open))?;
        // One connection, whose requests go to both, and as many of its own each.
        let url = format!("http://{WEB}/private");
        let told = |urls: &[&str]| {
            let each = ["--write-out", "%{http_code} %header{x-server}\n", "--output", "/dev/null"];
            let urls = urls.iter().flat_map(|url| each.iter().chain([url]).copied());
            Ok::<_, anyhow::Error>(scene.client.curl(urls)?.success()?.text())
        };
        let mut met = std::collections::BTreeSet::new();
        for round in 0..40 {
            let urls = vec![url.as_str(); if round == 0 { 40 } else { 1 }];
            met.extend(told(&urls)?.lines().map(|line| line.trim().to_owned()));
        }
        let expected = ["200 server2".to_owned(), "403".to_owned()].into();
        assert_eq!(met, expected, "{acceleration}");
    }
    Ok(())
}

#[test]
fn status_says_which_policy_holds_and_whether_the_kernel_half_can_decide() -> Result<()> {
    needs_kernel!();
    let scene = restricted(&[], &[reads()])?;
    let endpoint = |status: &Value| status["clusters"][0]["endpoints"][0].clone();
    let shown = endpoint(&scene.agent.status()?);
    assert_eq!((&shown["policy"], &shown["kernel_eligible"]), (&"demo/reads".into(), &"yes".into()));
    let nodes = |status: &Value| {
        let maps = status["kernel"]["maps"].as_array().unwrap();
        maps.iter().find(|map| map["name"] == "PATHS").unwrap()["entries"].as_u64().unwrap()
    };
    let three = "root, `/public` and `/public/` are in the kernel's table";
    wait::until(SOON, three, || Ok(nodes(&scene.agent.status()?) == 3))?;
    let odd = HttpPolicy::new("odd", "web", PORT).allow(&[("path", "/[0-9]+x")]);
    scene.agent.reconfigure_text(&manifests(&scene, &[odd]))?;
    let shown = endpoint(&scene.agent.status()?)["kernel_eligible"].to_string();
    assert!(
        shown.contains("no, because rule demo/odd#ingress0.ports0.http0: path is a regular expression"),
        "{shown}"
    );
    scene.agent.reconfigure_text(&manifests(&scene, &[]))?;
    wait::until(SOON, "its nodes are gone", || Ok(nodes(&scene.agent.status()?) == 0))
}

#[test]
fn the_line_of_a_carried_request_names_the_rule_that_allowed_it() -> Result<()> {
    needs_kernel!();
    let second = HttpPolicy::new("second", "web", PORT).allow(&[("path", "/other")]);
    let scene = restricted(&["--acceleration=on", "--splice-control=0%"], &[reads(), second])?;
    let urls = ["/public", "/other"].map(|path| format!("http://{WEB}{path}"));
    let urls = urls.iter().cycle().map(String::as_str).take(40);
    scene.client.curl(["--header", "Host: demo"].into_iter().chain(urls))?.success()?;
    let lines = scene.agent.logged(40)?;
    assert_eq!(lines.len(), 40);
    let carried: Vec<_> = lines.iter().filter(|line| line["lane"] == "splice").collect();
    assert!(carried.len() > 10, "{} were carried", carried.len());
    for line in carried {
        let policy = if line["path"] == "/other" { "second" } else { "reads" };
        assert_eq!(line["policy_rule"], format!("demo/{policy}#ingress0.ports0.http0"), "{line}");
    }
    Ok(())
}

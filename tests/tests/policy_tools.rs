//! What `weir policy` and `weir route` say of a running agent, and of the log that it wrote; policies that only
//! tell what they would deny.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::Value;
use std::time::Duration;
use weir_tests::{
    agent::ADMIN,
    binary,
    manifest::{HttpPolicy, Pod, Service},
    metrics::Samples,
    needs_kernel,
    process::Outcome,
    scene::{PORT, Scene, WEB},
};

/// A namespace's pods may be asked by `app=client` alone.
const ONLY_CLIENTS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-clients, namespace: demo}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 8080, protocol: TCP}]
---
";

/// Reads of `/public` and below.
fn reads() -> HttpPolicy {
    HttpPolicy::new("reads", "web", PORT).allow(&[("method", "GET|HEAD"), ("path", "/public(/.*)?")])
}

/// The manifests of `demo/web`, its server and the client, which is `app=APP`, with these policies.
fn manifests(scene: &Scene, app: &str, policies: &str) -> String {
    let server = &scene.servers[0];
    let client = Pod::new(scene.client.name(), app).address(scene.client.v4()).address(scene.client.v6());
    let serving = Pod::new(server.name(), "web").address(server.v4()).address(server.v6());
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([server.at(PORT)]);
    format!("{}{}{}{policies}", web.yaml(), client.yaml(), serving.yaml())
}

fn with_policies(arguments: &[&str], policies: &str) -> Result<Scene> {
    let scene = Scene::web(arguments)?;
    scene.agent.reconfigure_text(&manifests(&scene, "client", policies))?;
    Ok(scene)
}

/// `weir` on the node, where the agent's admin listener is.
fn weir(scene: &Scene, arguments: &[&str]) -> Result<Outcome> {
    let program = binary::weir()?.display().to_string();
    scene.topology.agent().run(&program, arguments, Duration::from_secs(20))
}

/// `weir policy explain` about the client and `demo/web`.
fn explain(scene: &Scene, more: &[&str]) -> Result<Outcome> {
    let port = PORT.to_string();
    let fixed = ["policy", "explain", "--from", "pod/demo/client", "--to", "svc/demo/web", "--port", &port];
    weir(scene, &fixed.iter().chain(more).copied().collect::<Vec<_>>())
}

fn explained(scene: &Scene, more: &[&str]) -> Result<Value> {
    let told = explain(scene, &[more, &["-o", "json"]].concat())?.json()?;
    assert_eq!(told.as_array().unwrap().len(), 1, "one endpoint: {told}");
    Ok(told[0].clone())
}

/// The statuses that the client gets for these paths, one connection each, in turn.
fn statuses(scene: &Scene, paths: &[&str]) -> Result<Vec<u16>> {
    paths.iter().map(|path| scene.status_of(path)).collect()
}

#[test]
fn the_running_agent_explains_a_request_as_it_decides_about_it() -> Result<()> {
    needs_kernel!();
    let scene = with_policies(&[], &reads().yaml())?;
    assert_eq!(statuses(&scene, &["/public/a", "/private"])?, [200, 403]);

    let allowed = explained(&scene, &["--path", "/public/a"])?;
    let because = "demo/reads#ingress0.ports0.http0 allows it";
    assert_eq!((&allowed["fate"], &allowed["because"]), (&"allow".into(), &because.into()));
    assert_eq!((&allowed["ingress"], &allowed["egress"]), (&"demo/reads".into(), &Value::Null));
    assert!(allowed["lane"].as_str().unwrap().starts_with("splice: yes"), "{allowed}");
    assert_eq!(allowed["nearest"], Value::Null);
    let at = format!("demo/server1 {}", scene.server()?.at(PORT));
    assert_eq!(allowed["at"], at);

    let denied = explained(&scene, &["--path", "/private", "--method", "GET"])?;
    let because = "no HTTP rule of demo/reads allows it";
    assert_eq!((&denied["fate"], &denied["because"]), (&"forbidden".into(), &because.into()));
    assert_eq!(denied["nearest"]["rule"], "demo/reads#ingress0.ports0.http0");
    let differs = denied["nearest"]["differs"].as_array().unwrap();
    assert_eq!(differs, &[Value::from("path \"/private\" is not \"/public(/.*)?\"")]);
    Ok(())
}

#[test]
fn the_running_agent_explains_a_connect_as_the_kernel_decides_about_it() -> Result<()> {
    needs_kernel!();
    let scene = with_policies(&[], ONLY_CLIENTS)?;
    assert_eq!(scene.status_of("/")?, 200);
    let text = explain(&scene, &[])?.success()?.text();
    let at = format!("allow at demo/server1 {}\n", scene.server()?.at(PORT));
    assert!(text.starts_with(&at), "{text}");
    for line in [
        "  because   egress: no policy is about it; ingress: demo/only-clients#ingress0 allows it\n",
        "  egress    none: everything is allowed\n",
        "  ingress   demo/only-clients\n",
        "  decides   the kernel half, at connect\n",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }

    scene.agent.reconfigure_text(&manifests(&scene, "stranger", ONLY_CLIENTS))?;
    assert_eq!(scene.status_of("/")?, 0, "the connect is refused");
    let denied = explained(&scene, &[])?;
    assert_eq!(denied["fate"], "drop");
    assert_eq!(denied["because"], "ingress: no rule of demo/only-clients allows it");
    assert_eq!(denied["nearest"]["rule"], "demo/only-clients#ingress0");
    let differs = denied["nearest"]["differs"][0].as_str().unwrap();
    assert!(differs.contains("app=client"), "{differs}");
    assert_eq!(denied["lane"], "the kernel half, at connect");
    Ok(())
}

#[test]
fn a_question_that_the_running_agent_cannot_understand_is_an_error_that_says_why() -> Result<()> {
    needs_kernel!();
    let scene = with_policies(&[], "")?;
    let port = PORT.to_string();
    for (arguments, why) in [
        (
            vec!["policy", "explain", "--from", "demo/nobody", "--to", "svc/demo/web", "--port", &port],
            "nobody",
        ),
        (
            vec!["policy", "explain", "--from", "demo/client", "--to", "svc/demo/none", "--port", &port],
            "none",
        ),
        (vec!["policy", "explain", "--from", "a/b/c", "--to", "host"], "a/b/c"),
        (vec!["route", "explain", "--gateway", "demo/none", "--path", "/"], "demo/none"),
        (
            vec!["policy", "explain", "--from", "host", "--to", "host", "--admin-addr", "127.0.0.1:1"],
            "is it running",
        ),
    ] {
        let told = weir(&scene, &arguments)?;
        assert_eq!((told.status.code(), told.text().as_str()), (Some(2), ""), "{arguments:?}");
        assert!(told.stderr.starts_with("weir: ") && told.stderr.contains(why), "{why}: {}", told.stderr);
    }
    assert_eq!(scene.agent.get("/policy/explain?from=host")?.status, 400);
    assert_eq!(ADMIN.port(), 15020, "the default of --admin-addr");
    Ok(())
}

#[test]
fn the_log_of_an_agent_replayed_tells_what_other_policies_would_change() -> Result<()> {
    needs_kernel!();
    let scene = with_policies(&[], &reads().yaml())?;
    assert_eq!(statuses(&scene, &["/public/a", "/private", "/public"])?, [200, 403, 200]);
    scene.agent.logged(3)?;
    let log = scene.agent.access_log_path().display().to_string();
    let against = scene.topology.dir().join("against");
    std::fs::create_dir_all(&against)?;
    let replay = |policies: &str, more: &[&str]| -> Result<Outcome> {
        std::fs::write(against.join("all.yaml"), manifests(&scene, "client", policies))?;
        let against = against.display().to_string();
        let fixed = ["policy", "replay", &log, "--against", &against];
        weir(&scene, &fixed.iter().chain(more).copied().collect::<Vec<_>>())
    };

    let same = replay(&reads().yaml(), &[])?;
    assert_eq!((same.status.code(), same.text().as_str()), (Some(0), ""), "{}", same.stderr);
    assert!(same.stderr.ends_with("3 requests, 0 lines left out, 0 would change\n"), "{}", same.stderr);

    let other = HttpPolicy::new("other", "web", PORT).allow(&[("path", "/private|/public")]).yaml();
    let changed = replay(&other, &["-o", "json"])?;
    assert_eq!(changed.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&changed.stdout)?;
    assert_eq!((&report["requests"], &report["skipped"]), (&3.into(), &0.into()));
    let changes: Vec<_> = report["changes"].as_array().unwrap().iter().collect();
    let fates = |change: &Value| {
        [&change["line"], &change["path"], &change["was"], &change["would_be"]]
            .map(Value::to_string)
            .join(" ")
    };
    let told: Vec<_> = changes.iter().map(|change| fates(change)).collect();
    assert_eq!(told, [r#"1 "/public/a" "allow" "forbidden""#, r#"2 "/private" "forbidden" "allow""#]);
    assert_eq!(
        (&changes[0]["from"], &changes[0]["because"]),
        (&"demo/client".into(), &"no HTTP rule of demo/other allows it".into())
    );

    let text = replay(&other, &[])?.text();
    let first = format!(
        "line 1: GET \"/public/a\" from demo/client to {}: was allow, would be forbidden (",
        scene.server()?.at(PORT)
    );
    assert!(text.starts_with(&first) && text.lines().count() == 2, "{text}");

    // Where no connection would be open, no request is.
    let closed = ONLY_CLIENTS.replace("app: client", "app: nobody");
    let text = replay(&closed, &[])?.text();
    let drops = text.lines().filter(|line| line.contains("was allow, would be drop")).count();
    assert_eq!((drops, text.lines().count()), (2, 2), "{text}");
    Ok(())
}

/// The same policy in audit mode.
fn audit(policy: &str) -> String {
    policy.replace("namespace: demo}", "namespace: demo, annotations: {weir.dev/policy-mode: audit}}")
}

fn audited(all: &Samples) -> f64 {
    all.sum("weir_policy_audit_denials_total", &[])
}

#[test]
fn a_policy_in_audit_mode_lets_requests_through_counts_and_names_what_it_would_deny() -> Result<()> {
    needs_kernel!();
    for acceleration in ["--acceleration=on", "--acceleration=off"] {
        let scene = with_policies(&[acceleration], &audit(&reads().yaml()))?;
        // One connection, on which the kernel half may carry none of them: it would count none.
        let urls = ["/public", "/private", "/public", "/private", "/private"]
            .map(|path| format!("http://{WEB}{path}"));
        scene.client.curl(["--fail"].into_iter().chain(urls.iter().map(String::as_str)))?.success()?;
        let lines = scene.agent.logged(5)?;
        let told: Vec<_> = lines
            .iter()
            .map(|line| (line["response_code"].as_u64().unwrap(), line["policy_audit"].as_str()))
            .collect();
        let denied = (200, Some("demo/reads"));
        assert_eq!(told, [(200, None), denied, (200, None), denied, denied], "{acceleration}");
        scene.agent.metrics_until("three are counted", |all| (audited(all) - 3.0).abs() < 0.5)?;
        let explained = explained(&scene, &["--path", "/private"])?;
        assert_eq!((&explained["fate"], &explained["audit"]), (&"allow".into(), &"demo/reads".into()));

        scene.agent.reconfigure_text(&manifests(&scene, "client", &reads().yaml()))?;
        assert_eq!(statuses(&scene, &["/public", "/private"])?, [200, 403], "enforced");
        assert!((audited(&scene.agent.metrics()?) - 3.0).abs() < 0.5);
    }
    Ok(())
}

#[test]
fn a_policy_in_audit_mode_lets_connections_through_counts_and_names_what_it_would_deny() -> Result<()> {
    needs_kernel!();
    let scene = with_policies(&[], "")?;
    scene.agent.reconfigure_text(&manifests(&scene, "stranger", &audit(ONLY_CLIENTS)))?;
    assert_eq!(scene.status_of("/")?, 200);
    let (answer, _) = scene.raw(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", &["--half-close"])?;
    let lines = scene.agent.logged(2)?;
    let told: Vec<_> = lines
        .iter()
        .map(|line| (line["protocol"].as_str().unwrap(), line["policy_audit"].as_str()))
        .collect();
    assert_eq!(
        told,
        [("HTTP/1.1", Some("demo/only-clients")), ("TCP", Some("demo/only-clients"))],
        "{answer}"
    );
    scene.agent.metrics_until("both are counted", |all| (audited(all) - 2.0).abs() < 0.5)?;
    let explained = explained(&scene, &[])?;
    assert_eq!((&explained["fate"], &explained["audit"]), (&"allow".into(), &"demo/only-clients".into()));

    scene.agent.reconfigure_text(&manifests(&scene, "stranger", ONLY_CLIENTS))?;
    assert_eq!(scene.status_of("/")?, 0, "enforced");
    scene.agent.reconfigure_text(&manifests(&scene, "client", &audit(ONLY_CLIENTS)))?;
    assert_eq!(scene.status_of("/")?, 200);
    assert!((audited(&scene.agent.metrics()?) - 2.0).abs() < 0.5, "what it allows is not counted");
    Ok(())
}

//! The configuration directory: what is read, when, and what a mistake costs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::Value;
use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};
use weir_tests::{
    agent::Builder,
    binary,
    manifest::{ConfigDir, Endpoint, Service},
    metrics::Samples,
    needs_kernel, peer,
    scene::{PORT, Scene, Stage, WEB},
    shell, wait,
};

const SOON: Duration = Duration::from_secs(5);

fn web_of(scene: &Scene, server: usize) -> Service {
    Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([scene.servers[server].at(PORT)])
}

fn answering(scene: &Scene) -> Result<String> {
    let told: Value = serde_json::from_str(&scene.ask("/")?)?;
    Ok(told["server"].as_str().unwrap().to_owned())
}

fn moves_to(scene: &Scene, server: &str) -> Result<()> {
    wait::until(SOON, &format!("{server} answers"), || Ok(answering(scene)? == server))
}

#[test]
fn f17_a_changed_file_moves_traffic_within_seconds() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web_with(2, &[])?;
    for (server, name) in [(0, "server1"), (1, "server2"), (0, "server1")] {
        scene.agent.reconfigure(&[web_of(&scene, server)])?;
        for _ in 0..10 {
            assert_eq!(answering(&scene)?, name);
        }
    }
    Ok(())
}

#[test]
fn a_hangup_reloads_the_configuration_and_ends_nothing() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web_with(2, &[])?;
    for (server, name) in [(1, "server2"), (0, "server1")] {
        scene.agent.reload_text(&web_of(&scene, server).yaml())?;
        assert_eq!(answering(&scene)?, name);
    }
    let reloads = || Ok::<_, anyhow::Error>(scene.agent.metrics()?.sum("weir_config_reloads_total", &[]));
    let before = reloads()?;
    scene.agent.hang_up()?;
    wait::until(SOON, "an unchanged configuration is read again", || Ok(reloads()? > before))?;
    assert_eq!(answering(&scene)?, "server1");
    Ok(())
}

/// A directory as kubelet mounts a ConfigMap: files are links through `..data`, which is swapped.
fn publish(root: &Path, version: u32, services: &[Service]) -> Result<()> {
    let data = root.join(format!("..version{version}"));
    ConfigDir::new(data.clone(), services)?;
    let next = root.join("..data_tmp");
    symlink(&data, &next)?;
    fs::rename(&next, root.join("..data"))?;
    let link = root.join("services.yaml");
    if !link.exists() {
        symlink("..data/services.yaml", link)?;
    }
    Ok(())
}

#[test]
fn c1_an_atomic_symlink_swap_moves_traffic() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(2)?;
    let root = stage.topology.dir().join("mounted");
    fs::create_dir(&root)?;
    let to = |pod: usize| {
        let member = stage.servers[pod].at(PORT);
        Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([member])
    };
    publish(&root, 1, &[to(0)])?;
    let second = to(1);
    let agent = Builder::new(&stage.topology, &[])?.config(ConfigDir::existing(root.clone())).start()?;
    let Stage { serving, client, servers, topology } = stage;
    let scene = Scene { agent, serving, client, servers, topology };
    assert_eq!(answering(&scene)?, "server1");
    publish(&root, 2, &[second])?;
    moves_to(&scene, "server2")
}

#[test]
fn c1_a_bad_file_keeps_the_last_good_state_and_is_named_with_its_line() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web_with(2, &[])?;
    let gauge = |all: &Samples| all.sum("weir_config_last_reload_success", &[]);
    assert!((gauge(&scene.agent.metrics()?) - 1.0).abs() < f64::EPSILON);
    scene.agent.config().write_text("apiVersion: v1\nkind: Service\nmetadata:\n  name: [broken\n")?;
    scene.agent.metrics_until("the reload has failed", |all| gauge(all) < 0.5)?;
    assert!(scene.ask("/").is_ok());
    let said = scene.agent.stderr()?;
    let named = said.lines().any(|line| line.contains("services.yaml") && line.contains('4'));
    assert!(named, "{said}");
    assert!(
        scene.agent.status()?["config"]["error"]
            .as_str()
            .is_some_and(|error| error.contains("services.yaml"))
    );
    scene.agent.config().write(&[web_of(&scene, 1)])?;
    scene.agent.metrics_until("the reload has succeeded", |all| gauge(all) > 0.5)?;
    moves_to(&scene, "server2")
}

#[test]
fn c1_an_empty_file_keeps_the_last_good_state() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let gauge = |all: &Samples| all.sum("weir_config_last_reload_success", &[]);
    scene.agent.config().write_text("")?;
    scene.agent.metrics_until("the reload has failed", |all| gauge(all) < 0.5)?;
    assert_eq!(answering(&scene)?, "server1");
    Ok(())
}

#[test]
fn c2_an_invalid_object_affects_itself_alone() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web_with(2, &[])?;
    let bad = "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: demo}\nspec:\n  clusterIP: nonsense\n  \
               ports: [{port: 99999}]\n---\n";
    scene.agent.config().write_text(&format!("{bad}{}", web_of(&scene, 1).yaml()))?;
    moves_to(&scene, "server2")
}

#[test]
fn c8_an_endpoint_that_becomes_unready_gets_no_new_requests() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web_with(2, &[])?;
    let service = Service::new("web", PORT)
        .cluster_ip(WEB.ip())
        .endpoint(Endpoint::new(scene.servers[0].at(PORT)).unready())
        .endpoint(Endpoint::new(scene.servers[1].at(PORT)));
    scene.agent.reconfigure(&[service])?;
    let told = scene.load(&WEB.to_string(), &["--requests", "40", "--reconnect", "1"])?;
    assert_eq!(told["servers"], serde_json::json!({"server2": 40}), "{told}");
    Ok(())
}

#[test]
fn a_service_that_goes_is_not_steered_any_more() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    scene.ask("/")?;
    scene.agent.config().write(&[])?;
    let url = format!("http://{}/", scene.server()?.at(PORT));
    wait::until(SOON, "the endpoint's address is untouched", || {
        let before = scene.agent.access_log()?.len();
        scene.client.curl([&url])?.success()?;
        let logged =
            wait::until(
                Duration::from_millis(300),
                "a line",
                || Ok(scene.agent.access_log()?.len() > before),
            );
        Ok(logged.is_err())
    })
}

#[test]
fn f26_a_configuration_that_flaps_loses_no_request() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web_with(2, &[])?;
    let to = WEB.to_string();
    let fixed =
        ["load", "--to", &to, "--connections", "4", "--requests", "300", "--pause", "5", "--reconnect", "20"];
    let load = peer::start(&scene.client, fixed)?;
    for turn in 0..100 {
        scene.agent.config().write(&[web_of(&scene, turn % 2)])?;
    }
    let told = load.outcome(Duration::from_secs(60))?.json()?;
    assert_eq!(told["statuses"]["200"], 1200, "{told}");
    assert_eq!(told["errors"], serde_json::json!({}));
    moves_to(&scene, "server2")
}

#[test]
fn check_passes_good_manifests_and_names_file_line_and_object_of_bad_ones() -> Result<()> {
    let run = weir_tests::run::Run::new()?;
    let check = |dir: &Path| {
        let mut command = std::process::Command::new(binary::weir()?);
        Ok::<_, anyhow::Error>(command.arg("check").arg("--config").arg(dir).output()?)
    };
    let good = ConfigDir::new(run.dir().join("good"), &[Service::new("web", PORT).cluster_ip(WEB.ip())])?;
    let output = check(good.path())?;
    assert!(output.status.success(), "{output:?}");

    let bad = ConfigDir::new(run.dir().join("bad"), &[])?;
    bad.write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: wrong, namespace: demo}\nspec:\n  clusterIP: nonsense\n  \
         ports: [{port: 8080}]\n",
    )?;
    let output = check(bad.path())?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("services.yaml:") && said.contains("demo/wrong") && said.contains("nonsense"),
        "{said}"
    );

    let missing = run.dir().join("no-such-dir");
    let output = check(&missing)?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&missing.display().to_string()), "{said}");
    Ok(())
}

#[test]
fn check_reads_the_examples_without_a_finding() -> Result<()> {
    for name in ["hello", "policy"] {
        let example = binary::workspace().join("deploy/examples").join(name);
        let mut command = std::process::Command::new(binary::weir()?);
        let said = shell::run(command.arg("check").arg("--config").arg(example))?;
        assert!(!said.contains("error"), "{said}");
    }
    Ok(())
}

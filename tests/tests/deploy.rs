//! What is deployed: valid for Kubernetes, understood by the agent, and no more than it needs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use weir_tests::{binary, requirements, shell};

fn deploy(path: &str) -> PathBuf {
    binary::workspace().join("deploy").join(path)
}

/// Every document of a manifest.
fn objects(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_saphyr::from_multiple(&text).with_context(|| path.display().to_string())
}

fn daemonset() -> Result<Value> {
    let objects = objects(&deploy("daemonset.yaml"))?;
    objects.into_iter().find(|object| object["kind"] == "DaemonSet").context("no DaemonSet")
}

/// What `weir run --help` prints, as one line.
fn help() -> Result<String> {
    let text = shell::run(Command::new(binary::weir()?).args(["run", "--help"]))?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn every_manifest_satisfies_kubernetes_own_schemas() -> Result<()> {
    let validate = binary::workspace().join("target/venv/bin/kubernetes-validate");
    if !validate.exists() {
        let reason = "kubernetes-validate is not installed: `cargo xtask setup schemas`";
        assert!(!requirements::required(), "{reason}");
        eprintln!("skipped: {reason}");
        return Ok(());
    }
    let mut manifests = vec![deploy("daemonset.yaml")];
    for entry in fs::read_dir(deploy("examples/hello"))? {
        manifests.push(entry?.path());
    }
    assert!(manifests.len() > 1, "no example");
    shell::run(Command::new(validate).arg("--strict").args(manifests)).map(drop)
}

#[test]
fn the_example_passes_the_agents_own_check() -> Result<()> {
    let weir = binary::weir()?;
    shell::run(Command::new(weir).arg("check").arg("--config").arg(deploy("examples/hello"))).map(drop)
}

/// What a role allows: its kind, a verb, and the resource.
fn permissions() -> Result<Vec<[String; 3]>> {
    let mut all = Vec::new();
    for role in objects(&deploy("daemonset.yaml"))? {
        let kind = role["kind"].as_str().unwrap_or_default();
        for rule in role["rules"].as_array().into_iter().flatten() {
            let words =
                |key: &str| rule[key].as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned());
            for resource in words("resources") {
                all.extend(words("verbs").map(|verb| [kind.to_owned(), verb, resource.clone()]));
            }
        }
    }
    Ok(all)
}

/// Which resources it reads is tested beside the table that it reads by.
#[test]
fn the_agent_may_write_reports_and_its_lease_and_nothing_else() -> Result<()> {
    let permissions = permissions()?;
    let mut writes: Vec<_> = permissions
        .iter()
        .filter(|[_, verb, _]| !["get", "list", "watch"].contains(&&**verb))
        .map(|words| words.join(" "))
        .collect();
    writes.sort();
    let expected = [
        "ClusterRole create events",
        "ClusterRole patch backendtlspolicies/status",
        "ClusterRole patch gatewayclasses/status",
        "ClusterRole patch gateways/status",
        "ClusterRole patch httproutes/status",
        "ClusterRole patch ingresses/status",
        "Role create leases",
        "Role update leases",
    ];
    assert_eq!(writes, expected);
    let is_wide = |resource: &str| resource.contains('*') || resource.starts_with("secrets");
    assert!(
        permissions.iter().all(|[_, verb, resource]| verb != "*" && !is_wide(resource)),
        "{permissions:?}"
    );
    Ok(())
}

#[test]
fn the_agent_knows_every_argument_and_variable_of_the_daemonset() -> Result<()> {
    let container = &daemonset()?["spec"]["template"]["spec"]["containers"][0];
    let help = help()?;
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        assert!(help.contains(&format!("[env: {name}=")), "{name}");
    }
    let arguments: Vec<_> =
        container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(arguments[0], "run");
    for argument in &arguments[1..] {
        let name = argument.split('=').next().unwrap();
        let shape = if argument.contains('=') { format!("{name} <") } else { format!("{name} ") };
        assert!(help.contains(&shape), "{name}");
    }
    Ok(())
}

#[test]
fn probes_ask_the_admin_listener() -> Result<()> {
    let container = &daemonset()?["spec"]["template"]["spec"]["containers"][0];
    let admin = container["env"]
        .as_array()
        .and_then(|variables| variables.iter().find(|variable| variable["name"] == "WEIR_ADMIN_ADDR"))
        .and_then(|variable| variable["value"].as_str())
        .context("no WEIR_ADMIN_ADDR")?;
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        assert_eq!(format!("{}:{}", get["host"].as_str().unwrap(), get["port"]), admin, "{probe}");
    }
    Ok(())
}

#[test]
fn the_grace_period_outlasts_the_drain() -> Result<()> {
    let grace = daemonset()?["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64();
    let help = help()?;
    let (_, drain) = help.split_once("--drain-timeout <").context("no --drain-timeout")?;
    let (_, default) = drain.split_once("[default: ").context("no default")?;
    let (seconds, _) = default.split_once("s]").context("not in seconds")?;
    assert!(grace.context("no grace period")? > seconds.parse()?, "the drain takes {seconds} s");
    Ok(())
}

//! Every way in which a Service is reached, and how its endpoints are chosen, with real connections.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeSet;
use weir_tests::{
    needs_kernel,
    pod::Pod,
    scene::{PORT, Scene, Stage},
};

/// Asks so many times, with a new connection each; who answered.
fn answers(from: &Pod, url: &str, times: usize) -> Result<BTreeSet<String>> {
    (0..times)
        .map(|_| {
            let answer: Value = from.curl(["--globoff", url])?.success()?.json()?;
            Ok(answer["server"].as_str().unwrap_or_default().to_owned())
        })
        .collect()
}

fn refused(from: &Pod, url: &str) -> Result<bool> {
    // curl's exit code for a connect that failed.
    Ok(from.curl(["--connect-timeout", "2", url])?.status.code() == Some(7))
}

/// Service `demo/web` of `port` with more in its spec, and both servers' endpoints with more in each.
fn web(stage: &Stage, spec: &str, port: &str, slice_ports: &str, more: [&str; 2]) -> String {
    let endpoint = |(pod, more): (&Pod, &str)| format!("  - {{addresses: [{}]{more}}}\n", pod.v4());
    let endpoints: String = stage.servers.iter().zip(more).map(endpoint).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: demo}}\n\
         spec: {{selector: {{app: web}}, clusterIP: 10.96.0.10, ports: [{{name: main, {port}}}]{spec}}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: web-1, namespace: demo, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{name: main, {slice_ports}}}]\nendpoints:\n{endpoints}---\n"
    )
}

/// A scene with two servers whose only manifest is this text.
fn scene(text: impl FnOnce(&Stage) -> String) -> Result<Scene> {
    let stage = Stage::new(2)?;
    let text = text(&stage);
    let scene = stage.play(&[], &["--node-name=here", "--zone=a"])?;
    scene.agent.reconfigure_text(&text)?;
    Ok(scene)
}

#[test]
fn a_service_is_reached_by_its_external_and_its_load_balancers_addresses() -> Result<()> {
    needs_kernel!();
    let spec = ", type: LoadBalancer, externalIPs: [192.0.2.9], loadBalancerIP: 203.0.113.7";
    for (port, scheme) in [("port: 8080", 8080), ("port: 9090, targetPort: 8080", 9090)] {
        let scene = scene(|stage| web(stage, spec, port, "port: 8080", ["", ""]))?;
        for ip in ["10.96.0.10", "192.0.2.9", "203.0.113.7"] {
            let answered = answers(&scene.client, &format!("http://{ip}:{scheme}/"), 10)?;
            assert!(!answered.is_empty() && answered.iter().all(|one| one.starts_with("server")), "{ip}");
        }
    }
    Ok(())
}

#[test]
fn a_client_of_a_service_with_affinity_stays_at_one_endpoint_in_relay_and_in_the_pass_lane() -> Result<()> {
    needs_kernel!();
    for (port, number) in [("port: 8080", 8080), ("port: 9090, targetPort: 8080", 9090)] {
        let url = format!("http://10.96.0.10:{number}/");
        let affinity = ", sessionAffinity: ClientIP";
        let scene = scene(|stage| web(stage, affinity, port, "port: 8080", ["", ""]))?;
        assert_eq!(answers(&scene.client, &url, 20)?.len(), 1, "with affinity, port {number}");
    }
    Ok(())
}

#[test]
fn without_affinity_both_endpoints_answer() -> Result<()> {
    needs_kernel!();
    for (port, number) in [("port: 8080", 8080), ("port: 9090, targetPort: 8080", 9090)] {
        let scene = scene(|stage| web(stage, "", port, "port: 8080", ["", ""]))?;
        let answered = answers(&scene.client, &format!("http://10.96.0.10:{number}/"), 40)?;
        assert_eq!(answered.len(), 2, "port {number}");
    }
    Ok(())
}

#[test]
fn a_local_policy_keeps_to_this_node_and_refuses_where_nobody_is() -> Result<()> {
    needs_kernel!();
    let local = ", internalTrafficPolicy: Local";
    for (port, number) in [("port: 8080", 8080), ("port: 9090, targetPort: 8080", 9090)] {
        let url = format!("http://10.96.0.10:{number}/");
        let here =
            |stage: &Stage| web(stage, local, port, "port: 8080", [", nodeName: there", ", nodeName: here"]);
        let scene = scene(here)?;
        assert_eq!(answers(&scene.client, &url, 20)?, ["server2".to_owned()].into(), "port {number}");
    }
    let nobody = |stage: &Stage| {
        web(stage, local, "port: 9090, targetPort: 8080", "port: 8080", [", nodeName: there"; 2])
    };
    let scene = scene(nobody)?;
    assert!(refused(&scene.client, "http://10.96.0.10:9090/")?);
    Ok(())
}

#[test]
fn endpoints_that_are_meant_for_another_zone_are_left_alone() -> Result<()> {
    needs_kernel!();
    let hint = |zone: &str| format!(", hints: {{forZones: [{{name: {zone}}}]}}");
    let (a, b) = (hint("a"), hint("b"));
    for (port, number) in [("port: 8080", 8080), ("port: 9090, targetPort: 8080", 9090)] {
        let scene = scene(|stage| web(stage, "", port, "port: 8080", [&a, &b]))?;
        let answered = answers(&scene.client, &format!("http://10.96.0.10:{number}/"), 20)?;
        assert_eq!(answered, ["server1".to_owned()].into(), "port {number}");
    }
    Ok(())
}

#[test]
fn a_named_target_port_is_the_slices_and_each_family_has_its_own_endpoints() -> Result<()> {
    needs_kernel!();
    let scene = scene(|stage| {
        let named = web(stage, "", "port: 80, targetPort: web, appProtocol: http", "port: 8080", ["", ""]);
        let v6 = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: dual, namespace: demo}}\n\
             spec: {{selector: {{app: dual}}, clusterIP: 10.96.0.20, clusterIPs: [10.96.0.20, \"fd00:10:96::20\"], \
             ports: [{{name: main, port: 8080}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: dual-4, namespace: demo, labels: {{kubernetes.io/service-name: dual}}}}\n\
             addressType: IPv4\nports: [{{name: main, port: {PORT}}}]\n\
             endpoints: [{{addresses: [{}]}}]\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: dual-6, namespace: demo, labels: {{kubernetes.io/service-name: dual}}}}\n\
             addressType: IPv6\nports: [{{name: main, port: {PORT}}}]\n\
             endpoints: [{{addresses: [\"{}\"]}}]\n",
            stage.servers[0].v4(),
            stage.servers[1].v6(),
        );
        named + &v6
    })?;
    assert_eq!(answers(&scene.client, "http://10.96.0.10:80/", 40)?.len(), 2);
    assert_eq!(answers(&scene.client, "http://10.96.0.20:8080/", 10)?, ["server1".to_owned()].into());
    assert_eq!(answers(&scene.client, "http://[fd00:10:96::20]:8080/", 10)?, ["server2".to_owned()].into());
    Ok(())
}

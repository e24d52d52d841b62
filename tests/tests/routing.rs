//! Requests to the node's own port go by host and path: Ingress, Gateways and HTTPRoutes with real connections.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use serde_json::Value;
use std::{fmt::Write as _, time::Duration};
use weir_tests::{
    binary,
    manifest::Service,
    needs_kernel,
    peer::Server,
    pod::Pod,
    scene::{PORT, Scene, Stage},
    wait,
};

/// Services `demo/a`, `demo/b` and `demo/c`, a server pod each.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// The article's Ingress: `/user` of `api.example.com`.
const INGRESS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: api, namespace: demo}
spec:
  rules:
  - host: api.example.com
    http:
      paths:
      - {path: /user, pathType: Prefix, backend: {service: {name: a, port: {number: 80}}}}
      - {path: /gone, pathType: Prefix, backend: {service: {name: nobody, port: {number: 80}}}}
      - {path: /empty, pathType: Prefix, backend: {service: {name: empty, port: {name: main}}}}
  - host: "*.example.com"
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: b, port: {name: main}}}}
---
"#;

const GATEWAY: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: demo}
spec:
  gatewayClassName: weir
  listeners: [{name: http, port: 8000, protocol: HTTP}]
---
"#;

/// An HTTPRoute of the Gateway with these rules.
fn route(name: &str, rules: &str) -> String {
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: demo}}\n\
         spec:\n  parentRefs: [{{name: edge}}]\n  rules:\n"
    );
    rules.trim_matches('\n').lines().for_each(|line| writeln!(text, "  {line}").unwrap());
    text + "---\n"
}

/// Three servers and a client behind another node, and the agent with these manifests.
fn scene(manifests: &str) -> Result<(Scene, Pod)> {
    let mut stage = Stage::new(3)?;
    let outside = stage.topology.remote_pod("outside", 10)?;
    let services = stage.servers.iter().zip(NAMES).map(|(pod, name)| {
        Service::new(name, 80)
            .cluster_ip([10, 96, 0, 20 + name.as_bytes()[0] - b'a'])
            .endpoints([pod.at(PORT)])
    });
    let empty = Service::new("empty", 80).cluster_ip([10, 96, 0, 30]);
    let text: String = services.chain([empty]).map(|service| service.yaml()).collect();
    let scene = stage.play(&[], &[])?;
    scene.agent.reconfigure_text(&format!("{text}{manifests}"))?;
    Ok((scene, outside))
}

/// curl to a port of the node: the status, the answer's head and its body.
fn ask(from: &Pod, scene: &Scene, port: u16, (host, path): (&str, &str), more: &[&str]) -> Result<Answer> {
    let url = format!("http://{}{path}", scene.topology.node().at(port));
    let host = format!("Host: {host}");
    let common = ["--include", "--path-as-is", "--max-time", "10", "--header", &host];
    let text = from
        .curl(common.iter().copied().chain(more.iter().copied()).chain([url.as_str()]))?
        .success()?
        .text();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Ok(Answer { status: head[9..12].parse()?, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The server that answered; empty where it was the agent.
    fn server(&self) -> &str {
        self.field("x-server").unwrap_or_default()
    }

    /// What the server saw.
    fn seen(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// A field as the server saw it; several by commas.
    fn seen_field(&self, name: &str) -> String {
        let seen = self.seen();
        let fields = seen["fields"].as_array().unwrap().iter();
        let named = fields.filter(|field| field[0].as_str().unwrap().eq_ignore_ascii_case(name));
        named.map(|field| field[1].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(",")
    }
}

#[test]
fn user_of_api_example_com_is_where_the_articles_ingress_says() -> Result<()> {
    needs_kernel!();
    let (scene, outside) = scene(INGRESS)?;
    for from in [&scene.client, &outside] {
        let to = |host, path| ask(from, &scene, 80, (host, path), &[]);
        for (host, path, server) in [
            ("api.example.com", "/user", "server1"),
            ("API.example.com:80", "/user/7?x=1", "server1"),
            ("api.example.com", "/x/../user", "server1"),
            ("api.example.com", "/users", "server2"),
            ("www.example.com", "/", "server2"),
        ] {
            let answer = to(host, path)?;
            assert_eq!((answer.status, answer.server()), (200, server), "{host} {path} {answer:?}");
        }
        for (host, path, status) in [
            ("example.com", "/user", 404),
            ("a.b.example.com", "/", 404),
            ("api.example.com", "/gone", 503),
            ("api.example.com", "/empty", 503),
            ("api.example.com", "/user%2f", 400),
            ("api.example.com", "/..", 400),
            ("a b", "/user", 400),
        ] {
            let answer = to(host, path)?;
            assert_eq!((answer.status, answer.server()), (status, ""), "{host} {path} {answer:?}");
        }
    }
    let options = ["-X", "OPTIONS", "--request-target", "*"];
    assert_eq!(ask(&outside, &scene, 80, ("api.example.com", "/"), &options)?.status, 204);
    let status = scene.agent.status()?;
    let served = status["gateways"].as_array().unwrap().iter();
    let node = scene.topology.node().at(80).to_string();
    let served = served.filter(|one| one["address"] == *node).collect::<Vec<_>>();
    assert_eq!(served.len(), 1, "{}", status["gateways"]);
    assert_eq!((&served[0]["of"][0], &served[0]["matches"]), (&"Ingress".into(), &4.into()));
    let lines = scene.agent.logged(25)?;
    let first = &lines[0];
    assert_eq!(first["route_name"], "Ingress demo/api#rule0.path0", "{first}");
    assert_eq!(first["upstream_cluster"], "demo/a:80", "{first}");
    assert_eq!(lines[5]["response_flags"], "NR", "{}", lines[5]);
    Ok(())
}

#[test]
fn an_endpoint_behind_an_ingress_is_told_who_asks_and_sees_the_path_that_was_matched() -> Result<()> {
    needs_kernel!();
    let (scene, outside) = scene(INGRESS)?;
    for from in [&scene.client, &outside] {
        let spoofed = ["--header", "X-Forwarded-Proto: https", "--header", "X-Forwarded-For: 192.0.2.1"];
        let answer = ask(from, &scene, 80, ("api.example.com", "//user/./%61?q=%2F"), &spoofed)?;
        assert_eq!(answer.seen()["line"], "GET /user/a?q=%2F HTTP/1.1", "{answer:?}");
        assert_eq!(answer.seen_field("host"), "api.example.com");
        assert_eq!(answer.seen_field("x-forwarded-for"), from.v4().to_string());
        assert_eq!(answer.seen_field("x-forwarded-proto"), "http");
        assert_eq!(answer.seen_field("x-forwarded-host"), "api.example.com");
        assert_eq!(answer.seen_field("via"), "1.1 weir");
    }
    Ok(())
}

#[test]
fn requests_of_one_connection_go_where_each_belongs() -> Result<()> {
    needs_kernel!();
    let (scene, _outside) = scene(INGRESS)?;
    let node = scene.topology.node().at(80);
    let mut arguments: Vec<String> =
        ["--silent", "--header", "Host: api.example.com"].map(String::from).into();
    for round in 0..40 {
        arguments.push(format!("http://{node}/{}", if round % 2 == 0 { "user" } else { "other" }));
    }
    let text = scene.client.curl(&arguments)?.success()?.text();
    let seen: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let servers: Vec<_> = seen.iter().map(|seen| seen["server"].as_str().unwrap()).collect();
    assert_eq!(servers, ["server1", "server2"].repeat(20));
    let lines = scene.agent.logged(40)?;
    assert!(lines.iter().all(|line| line["lane"] != "splice" && line["path_kind"] != "spliced"));
    Ok(())
}

#[test]
fn filters_of_an_httproute_change_requests_and_answers() -> Result<()> {
    needs_kernel!();
    let rules = r"
- matches: [{path: {value: /fields}}]
  filters:
  - type: RequestHeaderModifier
    requestHeaderModifier:
      set: [{name: X-Set, value: new}]
      add: [{name: X-Add, value: two}]
      remove: [X-Remove]
  - type: ResponseHeaderModifier
    responseHeaderModifier:
      set: [{name: X-Answer, value: changed}]
      remove: [X-Peer]
  backendRefs: [{name: a, port: 80}]
- matches: [{path: {value: /old}}]
  filters:
  - type: URLRewrite
    urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
  backendRefs: [{name: b, port: 80}]
- matches: [{path: {value: /moved}}]
  filters:
  - type: RequestRedirect
    requestRedirect: {scheme: https, hostname: example.org, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /here}}
- matches: [{path: {value: /cors}}]
  filters:
  - type: CORS
    cors: {allowOrigins: ['https://*.example.org'], allowMethods: [PUT], maxAge: 60}
  backendRefs: [{name: c, port: 80}]
";
    let (scene, outside) = scene(&format!("{GATEWAY}{}", route("filters", rules)))?;
    let to = |path, more: &[&str]| ask(&outside, &scene, 8000, ("web.example", path), more);

    let sent = ["--header", "X-Set: old", "--header", "X-Add: one", "--header", "X-Remove: gone"];
    let answer = to("/fields", &sent)?;
    assert_eq!(answer.seen_field("x-set"), "new");
    assert_eq!(answer.seen_field("x-add"), "one,two");
    assert_eq!(answer.seen_field("x-remove"), "");
    assert_eq!((answer.field("x-answer"), answer.field("x-peer")), (Some("changed"), None));

    let answer = to("/old/page?q", &[])?;
    assert_eq!(answer.seen()["line"], "GET /new/page?q HTTP/1.1");
    assert_eq!(answer.seen_field("host"), "inner.example");
    assert_eq!(answer.seen_field("x-forwarded-host"), "web.example");

    let answer = to("/moved/page?q", &[])?;
    assert_eq!((answer.status, answer.field("location")), (301, Some("https://example.org/here/page?q")));
    let posted = to("/moved", &["--data", "body"])?;
    assert_eq!(posted.status, 301);
    let (weir, node) = (binary::weir()?.display().to_string(), scene.topology.node().v4().to_string());
    let question = ["policy", "explain", "--from", "192.0.2.1", "--to", &node, "--port", "8000"];
    let question = question.iter().chain(&["--host", "web.example", "--path", "/moved/page?q"]);
    let told = scene.topology.agent().run(&weir, question, Duration::from_secs(10))?.success()?.text();
    let redirect = "301 with location https://example.org/here/page?q\n";
    assert!(told.starts_with("redirect at ") && told.contains(redirect), "{told}");

    let preflight = ["-X", "OPTIONS", "--header", "Access-Control-Request-Method: PUT"];
    let origin = ["--header", "Origin: https://a.example.org"];
    let answer = to("/cors", &[&preflight[..], &origin[..]].concat())?;
    assert_eq!((answer.status, answer.server()), (204, ""), "{answer:?}");
    assert_eq!(answer.field("access-control-allow-methods"), Some("put"));
    let answer = to("/cors", &origin)?;
    assert_eq!(answer.field("access-control-allow-origin"), Some("https://a.example.org"));
    assert_eq!(answer.server(), "server3");
    Ok(())
}

#[test]
fn weights_spread_requests_and_a_copy_goes_to_the_mirror() -> Result<()> {
    needs_kernel!();
    let rules = r"
- matches: [{path: {value: /spread}}]
  backendRefs: [{name: a, port: 80, weight: 3}, {name: b, port: 80, weight: 1}, {name: c, port: 80, weight: 0}]
- matches: [{path: {value: /copied}}]
  filters:
  - type: RequestMirror
    requestMirror: {backendRef: {name: c, port: 80}}
  backendRefs: [{name: a, port: 80}]
- matches: [{path: {value: /none}}]
  backendRefs: [{name: a, port: 80, weight: 0}]
- matches: [{path: {value: /nowhere}}]
- matches: [{path: {value: /foreign}}]
  backendRefs: [{name: a, namespace: other, port: 80}]
";
    let (mut scene, outside) = scene(&format!("{GATEWAY}{}", route("spread", rules)))?;
    let node = scene.topology.node().at(8000);
    let urls: Vec<String> = (0..400).map(|_| format!("http://{node}/spread")).collect();
    let text = outside.curl(&urls)?.success()?.text();
    let of =
        |server: &str| text.lines().filter(|line| line.contains(&format!("\"server\":\"{server}\""))).count();
    let (a, b, c) = (of("server1"), of("server2"), of("server3"));
    assert_eq!((a + b, c), (400, 0));
    assert!((240..=360).contains(&a), "{a} of 400");

    // The third server makes room for one that counts.
    scene.serving.pop();
    let _recorder = Server::recorder(&scene.servers[2], PORT)?;
    let tally =
        || scene.topology.node().curl([format!("http://{}/tally", scene.servers[2].at(PORT))])?.json();
    assert_eq!(tally()?["count"], 0);
    let answer = ask(&outside, &scene, 8000, ("x", "/copied?one"), &["--data", "a body"])?;
    assert_eq!((answer.server(), answer.seen()["body"].as_u64()), ("server1", Some(6)));
    wait::until(Duration::from_secs(5), "the copy arrives", || Ok(tally()?["count"] == 1))?;
    for (path, status) in [("/none", 503), ("/nowhere", 500), ("/foreign", 500), ("/else", 404)] {
        assert_eq!(ask(&outside, &scene, 8000, ("x", path), &[])?.status, status, "{path}");
    }
    Ok(())
}

#[test]
fn a_rules_timeouts_stand_above_those_of_the_service() -> Result<()> {
    needs_kernel!();
    let rules = r"
- matches: [{path: {value: /delay/700}}]
  timeouts: {request: 200ms}
  backendRefs: [{name: a, port: 80}]
- matches: [{path: {value: /delay/701}}]
  timeouts: {backendRequest: 200ms}
  backendRefs: [{name: a, port: 80}]
- matches: [{path: {value: /delay/702}}]
  timeouts: {request: 0s}
  backendRefs: [{name: a, port: 80}]
";
    let (scene, outside) = scene(&format!("{GATEWAY}{}", route("slow", rules)))?;
    for (path, status) in [("/delay/700", 504), ("/delay/701", 504), ("/delay/702", 200)] {
        assert_eq!(ask(&outside, &scene, 8000, ("x", path), &[])?.status, status, "{path}");
    }
    Ok(())
}

#[test]
fn c6_a_grant_that_goes_takes_its_rule_with_it_at_once() -> Result<()> {
    needs_kernel!();
    let route = route("web", "- backendRefs: [{name: a, namespace: demo, port: 80}]").replace(
        "namespace: demo}\nspec:\n  parentRefs: [{name: edge}]",
        "namespace: other}\nspec:\n  parentRefs: [{name: edge, namespace: demo}]",
    );
    let gateway =
        GATEWAY.replace("protocol: HTTP}", "protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}");
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
        metadata: {name: g, namespace: demo}\nspec:\n  \
        from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}]\n  \
        to: [{group: '', kind: Service}]\n---\n";
    let (scene, outside) = scene("")?;
    let services: String = scene
        .servers
        .iter()
        .zip(NAMES)
        .map(|(pod, name)| Service::new(name, 80).endpoints([pod.at(PORT)]).yaml())
        .collect();
    for (with, status) in [(grant, 200), ("", 500), (grant, 200)] {
        scene.agent.reconfigure_text(&format!("{services}{gateway}{route}{with}"))?;
        assert_eq!(ask(&outside, &scene, 8000, ("x", "/"), &[])?.status, status);
    }
    Ok(())
}

#[test]
fn the_running_agent_explains_where_requests_go() -> Result<()> {
    needs_kernel!();
    let (scene, _outside) = scene(INGRESS)?;
    let arguments =
        ["route", "explain", "--host", "api.example.com", "--path", "/user/7", "--header", "X-A: b"];
    let weir = binary::weir()?;
    let outcome =
        scene.topology.agent().run(&weir.display().to_string(), arguments, Duration::from_secs(10))?;
    let outcome = outcome.success()?.text();
    assert!(outcome.contains("rule      Ingress demo/api#rule0.path0\n"), "{outcome}");
    assert!(outcome.contains("outcome   demo/a:80 (1 of 1 endpoints can be used)\n"), "{outcome}");
    assert!(outcome.contains("not       Ingress demo/api#rule1.path0"), "{outcome}");
    Ok(())
}

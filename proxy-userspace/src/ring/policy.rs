//! Which requests a policy lets through, and what is said of the others.

use super::*;
use crate::flow::Reason;

fn restricted(cluster: &mut Cluster) {
    for endpoint in &mut cluster.endpoints {
        endpoint.policy =
            Some(testing::policy(&[["GET", "/public(/.*)?", ""], ["POST", "/form", r"web\.demo"]]));
    }
}

async fn ring_to(endpoint: &Endpoint) -> Ring {
    Setup { cluster: restricted, ..Setup::new(&[endpoint.addr]) }.start().await
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: web.demo\r\n\r\n")
}

#[tokio::test]
async fn a_denied_request_gets_403_access_denied_and_the_connection_goes_on() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(get("/private")).await;
    let (head, body) = client.answer(15).await;
    assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n") && !head.contains("close"), "{head}");
    assert_eq!(body, b"Access denied\r\n");
    client.send(get("/public/a?b")).await;
    let mut server = endpoint.accept().await;
    assert!(server.head().await.starts_with("GET /public/a?b HTTP/1.1\r\n"));
    server.send(OK).await;
    client.until("ok").await;
    let [denied, allowed] = &ring.records(2).await[..] else { panic!("two records") };
    assert_eq!((denied.status, denied.reason), (403, Some(Reason::PolicyDenied)));
    assert_eq!((denied.policy_rule.as_deref(), denied.attempts), (Some("demo/p"), 0));
    assert_eq!((denied.upstream_host, denied.upstream_duration), (Some(endpoint.addr), None));
    assert_eq!(&*denied.destination_workload, "default/web-0");
    assert_eq!((allowed.status, allowed.reason, allowed.attempts), (200, None, 1));
    assert_eq!(allowed.policy_rule.as_deref(), Some("demo/p#ingress0.ports0.http0"));
}

#[tokio::test]
async fn a_denied_request_with_a_body_never_reaches_the_endpoint() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(&endpoint).await;
    let mut client = ring.client().await;
    client.send("POST /form HTTP/1.1\r\nHost: web.other\r\nContent-Length: 5\r\n\r\nhello").await;
    assert!(client.head().await.starts_with("HTTP/1.1 403 "));
    endpoint.stays_alone().await;
    assert_eq!(ring.record().await.reason, Some(Reason::PolicyDenied));
}

#[tokio::test]
async fn the_rest_of_a_body_that_comes_when_its_request_is_answered_is_no_request() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(&endpoint).await;
    let mut client = ring.client().await;
    let head = "POST /form HTTP/1.1\r\nHost: web.other\r\nContent-Length: 100000\r\n\r\n";
    client.send(head.to_owned() + &"x".repeat(100_000)).await;
    assert!(client.all().await.starts_with("HTTP/1.1 403 "));
    drop(client);
    eventually(|| async { ring.relay.drain.open() == 0 }).await;
    let [denied] = &ring.records(1).await[..] else { panic!("one record") };
    assert_eq!(denied.reason, Some(Reason::PolicyDenied));
}

#[tokio::test]
async fn p8_p10_p12_targets_without_one_meaning_are_answered_400() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(&endpoint).await;
    let targets = [
        "/public/..;/private",
        "/public/../..",
        "/public%2fa",
        "/public/%5ca",
        "/public/%zz",
        "/public/%00",
        "/public#/../private",
    ];
    for target in targets {
        let mut client = ring.client().await;
        client.send(get(target)).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{target}: {head}");
    }
    endpoint.stays_alone().await;
    for record in ring.records(targets.len()).await {
        assert_eq!((record.status, record.reason), (400, Some(Reason::BadRequest)), "{record:?}");
        assert!(record.error.is_some_and(|error| error.contains("the ")));
    }
}

#[tokio::test]
async fn i10_p7_p9_what_is_matched_is_what_is_forwarded() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(&endpoint).await;
    for target in ["/public/../private", "//private", "/public/%2e%2e/private", "/%70rivate"] {
        let mut client = ring.client().await;
        client.send(get(target)).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{target}: {head}");
    }
    endpoint.stays_alone().await;
    let mut client = ring.client().await;
    let mut server = None;
    for target in ["//public", "/private/../public", "/publi%63", "/./public", "http://web.demo/x/../public"]
    {
        client.send(get(target)).await;
        let server = match &mut server {
            Some(server) => server,
            none => none.insert(endpoint.accept().await),
        };
        let head = server.head().await;
        assert!(head.starts_with("GET /public HTTP/1.1\r\n"), "{target}: {head}");
        server.send(OK).await;
        client.until("ok").await;
    }
}

#[tokio::test]
async fn p2_p4_a_second_host_or_another_authority_is_answered_400() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(&endpoint).await;
    for request in [
        "POST /form HTTP/1.1\r\nHost: web.demo\r\nHost: web.other\r\n\r\n",
        "POST http://web.other/form HTTP/1.1\r\nHost: web.demo\r\n\r\n",
        "GET /public HTTP/1.1\r\n\r\n",
    ] {
        let mut client = ring.client().await;
        client.send(request).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{request}: {head}");
    }
    endpoint.stays_alone().await;
}

#[tokio::test]
async fn i10_without_a_policy_an_odd_target_is_treated_in_the_same_way() {
    let endpoint = Endpoint::new().await;
    let ring = Ring::to(&endpoint).await;
    let mut client = ring.client().await;
    client.send(get("/a/b/%2e%2e//c%3f?x=//%5c")).await;
    assert!(endpoint.accept().await.head().await.starts_with("GET /a/c%3F?x=//%5c HTTP/1.1\r\n"));
    let mut client = ring.client().await;
    client.send(get("/a/..;/b")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn bytes_that_are_not_http_do_not_pass_http_rules() {
    let endpoint = Endpoint::new().await;
    let ring = ring_to(&endpoint).await;
    let mut client = ring.client().await;
    client.send([0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await;
    assert!(client.rest().await.is_err(), "reset");
    endpoint.stays_alone().await;
    let record = ring.record().await;
    assert_eq!((record.protocol, record.reason), ("TCP", Some(Reason::PolicyDenied)));
    assert_eq!(record.policy_rule.as_deref(), Some("demo/p"));
}

#[tokio::test]
async fn a_silent_client_learns_nothing_from_an_endpoint_with_http_rules() {
    let endpoint = Endpoint::new().await;
    let args = vec!["--detect-timeout", "10ms"];
    let ring = Setup { cluster: restricted, args, ..Setup::new(&[endpoint.addr]) }.start().await;
    let mut client = ring.client().await;
    endpoint.stays_alone().await;
    client.send(get("/private")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 403 "));
}

#[tokio::test]
async fn each_endpoint_decides_by_its_own_policy() {
    fn first_is_closed(cluster: &mut Cluster) {
        cluster.endpoints[0].policy = Some(testing::policy(&[["PUT", "/other", ""]]));
    }
    let endpoints = [Endpoint::new().await, Endpoint::new().await];
    let addrs = [endpoints[0].addr, endpoints[1].addr];
    let ring = Setup { cluster: first_is_closed, ..Setup::new(&addrs) }.start().await;
    let mut seen = [0, 0];
    for number in 1..=40 {
        let mut client = ring.client().await;
        client.send(get("/x")).await;
        let denied = tokio::select! {
            head = client.head() => { assert!(head.starts_with("HTTP/1.1 403 ")); true }
            mut server = endpoints[1].accept() => { server.head().await; server.send(OK).await; false }
        };
        seen[usize::from(denied)] += 1;
        if !denied {
            client.until("ok").await;
        }
        ring.records(number).await;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    endpoints[0].stays_alone().await;
}

//! TLS with endpoints: what they have to prove by a BackendTLSPolicy, and what happens where they cannot.

use super::{
    GET, OK, Ring,
    edge::{Edge, PLAIN, Shape, ring},
    eventually,
    http2::peer::{Echo, Speaks},
};
use crate::{
    flow::Reason,
    metrics::Format,
    testing::certificates::{Authority, Pair, config_map},
};
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// A policy for Service `web` with these further fields of `validation`.
fn policy(validation: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: p}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], validation: {{{validation}}}}}\n"
    )
}

/// One that trusts the ConfigMap `ca`.
fn trusting(more: &str) -> String {
    policy(&format!("caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}], {more}"))
}

const INNER: &str = "hostname: inner.test";

/// An endpoint that has this certificate.
async fn secure(authority: &Authority, pair: &Pair, speaks: Speaks, alpn: &[&str]) -> Echo {
    Echo::start_with(speaks, Some(authority.serving(pair, alpn))).await
}

/// A request on a connection of its own: its answer.
async fn ask(ring: &Ring) -> String {
    let mut client = ring.client().await;
    client.send(GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
    client.all().await
}

fn has(ring: &Ring, line: &str) -> bool {
    ring.relay.observer.metrics.text(Format::Prometheus).unwrap().contains(line)
}

#[tokio::test]
async fn an_endpoint_is_asked_for_the_policys_name_and_gets_the_clients_request() {
    let authority = Authority::new();
    let pair = authority.pair(&["inner.test"]);
    let echo = secure(&authority, &pair, Speaks::Http1, &["http/1.1"]).await;
    let more = config_map("ca", authority.pem()) + &trusting(INNER);
    let ring = ring(Edge::new(&[echo.addr]).with(PLAIN, &more), &[]).await;
    let answer = ask(&ring).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-host: web\r\n"), "{answer}");
    assert!(answer.contains("x-server-name: inner.test\r\n"), "{answer}");
    let record = ring.record().await;
    let tls = record.upstream_tls.unwrap();
    assert_eq!((tls.version, tls.server_name.as_deref()), ("TLSv1.3", Some("inner.test")));
    assert_eq!((&*tls.scope, record.tls.is_none()), ("BackendTLSPolicy default/p", true));
    let counted = r#"weir_upstream_tls_handshakes_total{version="TLSv1.3",alpn="http/1.1",outcome="full"} 1"#;
    assert!(has(&ring, counted) && has(&ring, "weir_upstream_tls_handshake_duration_seconds_count 1"));
    // The connection is kept for the next request.
    ask(&ring).await;
    assert_eq!(echo.connections.load(Relaxed), 1);
}

#[tokio::test]
async fn what_an_endpoint_cannot_prove_is_a_503_and_it_gets_no_request() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let good = config_map("ca", authority.pem());
    for (pair, error) in [
        (authority.pair(&["other.test"]), "not valid for name"),
        (authority.expired(&["inner.test"]), "expired"),
        // Of the same name as the one that is trusted.
        (stranger.pair(&["inner.test"]), "BadSignature"),
    ] {
        let echo = secure(&authority, &pair, Speaks::Http1, &[]).await;
        let ring = ring(Edge::new(&[echo.addr]).with(PLAIN, &(good.clone() + &trusting(INNER))), &[]).await;
        let answer = ask(&ring).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("no TLS session with the upstream: default/web:80\n"), "{answer}");
        let record = ring.record().await;
        assert_eq!((record.reason, record.status), (Some(Reason::UpstreamTls), 503));
        let said = record.error.unwrap();
        assert!(said.starts_with("TLS with the endpoint: ") && said.contains(error), "{said}");
        assert!(has(&ring, r#"outcome="untrusted"} 1"#));
        assert_eq!(echo.requests.load(Relaxed), 0, "{error}");
    }
}

#[tokio::test]
async fn an_endpoint_without_tls_gets_a_greeting_and_never_the_request() {
    let endpoint = super::Endpoint::new().await;
    let authority = Authority::new();
    let more = config_map("ca", authority.pem()) + &trusting(INNER);
    let ring = ring(Edge::new(&[endpoint.addr]).with(PLAIN, &more), &[]).await;
    let answered = async {
        let mut peer = endpoint.accept().await;
        assert_eq!(peer.exactly(1).await, [22], "a handshake's record");
        peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        String::from_utf8_lossy(&peer.rest().await.unwrap_or_default()).into_owned()
    };
    let (answer, heard) = tokio::join!(ask(&ring), answered);
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(!heard.contains("GET"), "{heard}");
    assert_eq!(ring.record().await.reason, Some(Reason::UpstreamTls));
}

#[tokio::test]
async fn a_handshake_that_stalls_ends_with_the_connect_timeout() {
    let endpoint = super::Endpoint::new().await;
    let authority = Authority::new();
    let more = config_map("ca", authority.pem()) + &trusting(INNER);
    let mut snapshot = Edge::new(&[endpoint.addr]).with(PLAIN, &more);
    let mut cluster = crate::snapshot::Cluster::clone(snapshot.cluster("default/web:80").unwrap());
    cluster.timeouts.connect = Some(super::SHORT);
    snapshot.clusters.insert(Arc::new(cluster));
    let ring = ring(snapshot, &[]).await;
    let (answer, _peer) = tokio::join!(ask(&ring), endpoint.accept());
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(ring.record().await.reason, Some(Reason::ConnectTimeout));
}

#[tokio::test]
async fn where_one_endpoint_cannot_prove_it_another_one_may() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let good = secure(&authority, &authority.pair(&["inner.test"]), Speaks::Http1, &[]).await;
    let bad = secure(&authority, &stranger.pair(&["inner.test"]), Speaks::Http1, &[]).await;
    let more = config_map("ca", authority.pem()) + &trusting(INNER);
    let ring = ring(Edge::new(&[good.addr, bad.addr]).with(PLAIN, &more), &[]).await;
    for _ in 0..20 {
        assert!(ask(&ring).await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(bad.requests.load(Relaxed), 0);
}

#[tokio::test]
async fn endpoints_choose_what_is_spoken_unless_their_service_does() {
    let authority = Authority::new();
    let pair = authority.pair(&["inner.test"]);
    let more = config_map("ca", authority.pem()) + &trusting(INNER);
    for (speaks, alpn, app_protocol, expected) in [
        (Speaks::Http2, &["h2", "http/1.1"][..], None, Some("HTTP/2.0")),
        (Speaks::Http2, &["h2"], Some("https"), Some("HTTP/2.0")),
        (Speaks::Http1, &["http/1.1"], Some("https"), Some("HTTP/1.1")),
        (Speaks::Http1, &[], None, Some("HTTP/1.1")),
        (Speaks::Http1, &["h2", "http/1.1"], Some("http"), Some("HTTP/1.1")),
        (Speaks::Http2, &["h2", "http/1.1"], Some("kubernetes.io/h2c"), Some("HTTP/2.0")),
        (Speaks::Http1, &["http/1.1"], Some("kubernetes.io/h2c"), None),
        (Speaks::Http1, &[], Some("kubernetes.io/h2c"), None),
    ] {
        let echo = secure(&authority, &pair, speaks, alpn).await;
        let shape = Shape { app_protocol, ..PLAIN };
        let ring = ring(Edge::new(&[echo.addr]).with(shape, &more), &[]).await;
        for _ in 0..3 {
            let answer = ask(&ring).await;
            match expected {
                Some(version) => {
                    assert!(answer.contains(&format!("x-version: {version}\r\n")), "{alpn:?} {answer}");
                }
                None => assert!(answer.starts_with("HTTP/1.1 503"), "{alpn:?} {answer}"),
            }
        }
        let requests = if expected.is_some() { 3 } else { 0 };
        assert_eq!(echo.requests.load(Relaxed), requests, "{alpn:?} {app_protocol:?}");
        if expected.is_some() {
            assert_eq!(echo.connections.load(Relaxed), 1, "{alpn:?} {app_protocol:?}");
        }
    }
}

#[tokio::test]
async fn subject_alternative_names_stand_for_the_hostname() {
    let authority = Authority::new();
    let pair = authority.pair_with(&["real.test", "*.wild.test"], |params| {
        let uri = "spiffe://cluster/web".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
    });
    for (names, status) in [
        ("{type: Hostname, hostname: real.test}", "200"),
        ("{type: Hostname, hostname: a.wild.test}", "200"),
        ("{type: Hostname, hostname: '*.wild.test'}", "200"),
        ("{type: URI, uri: 'spiffe://cluster/web'}", "200"),
        ("{type: Hostname, hostname: no.test}, {type: URI, uri: 'spiffe://cluster/web'}", "200"),
        ("{type: Hostname, hostname: inner.test}", "503"),
        ("{type: Hostname, hostname: '*.test'}", "503"),
        ("{type: URI, uri: 'spiffe://cluster/we'}", "503"),
        ("{type: URI, uri: 'spiffe://cluster/web/'}", "503"),
    ] {
        let echo = secure(&authority, &pair, Speaks::Http1, &[]).await;
        let more =
            config_map("ca", authority.pem()) + &trusting(&format!("{INNER}, subjectAltNames: [{names}]"));
        let mut edge = Edge::new(&[echo.addr]);
        let ring = ring(edge.with(PLAIN, &more), &[]).await;
        let answer = ask(&ring).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{names}: {answer} {}", edge.findings());
    }
}

#[tokio::test]
async fn other_authorities_are_for_the_next_request_and_idle_connections_end() {
    for (speaks, alpn) in [(Speaks::Http1, "http/1.1"), (Speaks::Http2, "h2")] {
        let (old, new) = (Authority::new(), Authority::new());
        let echo = secure(&old, &old.pair(&["inner.test"]), speaks, &[alpn]).await;
        let state = |authority: &Authority| config_map("ca", authority.pem()) + &trusting(INNER);
        let mut edge = Edge::new(&[echo.addr]);
        let ring = ring(edge.with(PLAIN, &state(&old)), &[]).await;
        assert!(ask(&ring).await.starts_with("HTTP/1.1 200"));
        // The same demands once more: the connection stays.
        ring.relay.snapshot.store(Arc::new(edge.with(PLAIN, &state(&old))));
        assert!(ask(&ring).await.starts_with("HTTP/1.1 200"));
        assert_eq!(echo.connections.load(Relaxed), 1);
        ring.relay.snapshot.store(Arc::new(edge.with(PLAIN, &state(&new))));
        assert!(ask(&ring).await.starts_with("HTTP/1.1 503"), "what was proved does not count any more");
        eventually(|| async { ring.relay.pool.idle() + ring.relay.pool.trunks.count() == 0 }).await;
        // Both: neither the old certificate nor the new one is refused.
        let both = config_map("ca", &(old.pem().to_owned() + new.pem())) + &trusting(INNER);
        ring.relay.snapshot.store(Arc::new(edge.with(PLAIN, &both)));
        assert!(ask(&ring).await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn with_a_policy_no_connection_from_before_it_is_used_nor_the_other_way_round() {
    let authority = Authority::new();
    let endpoint = super::Endpoint::new().await;
    let more = config_map("ca", authority.pem()) + &trusting(INNER);
    let mut edge = Edge::new(&[endpoint.addr]);
    let ring = ring(edge.with(PLAIN, ""), &[]).await;
    let plain = async {
        let mut peer = endpoint.accept().await;
        peer.head().await;
        peer.send(OK).await;
        peer
    };
    let (answer, mut plain) = tokio::join!(ask(&ring), plain);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    ring.relay.snapshot.store(Arc::new(edge.with(PLAIN, &more)));
    let greeted = async { endpoint.accept().await.exactly(1).await };
    let (answer, greeting) = tokio::join!(ask(&ring), greeted);
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(greeting, [22]);
    plain.quiet().await;
}

#[tokio::test]
async fn a_policy_that_cannot_be_obeyed_is_a_500_and_nobody_is_connected_to() {
    let authority = Authority::new();
    let good = config_map("ca", authority.pem());
    let endpoint = super::Endpoint::new().await;
    for (more, said) in [
        (trusting(INNER), "there is no ConfigMap default/ca"),
        (config_map("ca", "no certificate") + &trusting(INNER), "there is no certificate in it"),
        (
            config_map("ca", &authority.pem().replace("MII", "mii")) + &trusting(INNER),
            "ca.crt of ConfigMap default/ca cannot be read",
        ),
        (good.replace("ca.crt", "other") + &trusting(INNER), "has no ca.crt"),
        (
            good.clone() + &trusting(INNER).replace("kind: ConfigMap", "kind: Secret"),
            "\"Secret\" is no kind of certificates",
        ),
        (good.clone() + &trusting("hostname: 10.0.0.1"), "is an address"),
        (good.clone() + &trusting("hostname: '*.test'"), "is not a host"),
        (good.clone() + &policy(INNER), "needs caCertificateRefs or wellKnownCACertificates"),
        (good.clone() + &trusting(&format!("{INNER}, wellKnownCACertificates: System")), "and not both"),
        (policy(&format!("{INNER}, wellKnownCACertificates: Mine")), "is none of System"),
        (good.clone() + &trusting(&format!("{INNER}, subjectAltNames: [{{type: IP}}]")), "is none of"),
        (good.clone() + &trusting(&format!("{INNER}, subjectAltName: x")), "\"subjectAltName\" is unknown"),
        (good.clone() + &trusting("hostname: inner.test, hostname: b.test"), "it cannot be read"),
        (good.clone() + &trusting("hostname: [inner.test]"), "it cannot be read"),
        (
            good.clone() + &trusting(INNER).replace("io/v1\nkind: B", "io/v1alpha2\nkind: B"),
            "it cannot be read",
        ),
    ] {
        let mut edge = Edge::new(&[endpoint.addr]);
        let ring = ring(edge.with(PLAIN, &more), &[]).await;
        let answer = ask(&ring).await;
        let found = edge.findings();
        assert!(answer.starts_with("HTTP/1.1 500"), "{said}: {answer} {found}");
        assert!(found.contains(said) && found.contains("BackendTLSPolicy default/p"), "{said}: {found}");
        let record = ring.record().await;
        assert_eq!(record.reason, Some(Reason::RouteInvalid));
        assert!(record.error.unwrap().contains("BackendTLSPolicy default/p cannot be obeyed"));
    }
    endpoint.stays_alone().await;
}

#[tokio::test]
async fn one_authority_of_several_that_can_be_read_is_enough() {
    let authority = Authority::new();
    let echo = secure(&authority, &authority.pair(&["inner.test"]), Speaks::Http1, &[]).await;
    let two = "caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}, {group: '', kind: ConfigMap, name: ca}]";
    let more = config_map("ca", authority.pem()) + &policy(&format!("{two}, {INNER}"));
    let mut edge = Edge::new(&[echo.addr]);
    let ring = ring(edge.with(PLAIN, &more), &[]).await;
    assert!(ask(&ring).await.starts_with("HTTP/1.1 200"));
    let found = edge.findings();
    assert!(found.contains("caCertificateRefs[0]: there is no ConfigMap default/gone"), "{found}");
}

#[tokio::test]
async fn a_policy_for_a_port_stands_above_one_for_the_service_and_an_older_one_above_a_younger() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let echo = secure(&authority, &authority.pair(&["inner.test"]), Speaks::Http1, &[]).await;
    let maps = config_map("ca", authority.pem()) + &config_map("strange", stranger.pem());
    let named = |name: &str, year: u32, text: String| {
        let metadata = format!("{{name: {name}, creationTimestamp: '{year}-01-01T00:00:00Z'}}");
        text.replace("metadata: {name: p}", &format!("metadata: {metadata}"))
    };
    let bad = || trusting(INNER).replace("name: ca}", "name: strange}");
    let by_port = trusting(INNER).replace("name: web}]", "name: web, sectionName: web}]");
    for (policies, status) in [
        (named("a", 2020, bad()) + &named("b", 2021, by_port.clone()), "200"),
        (named("a", 2021, by_port) + &named("b", 2020, bad()), "200"),
        (named("a", 2020, trusting(INNER)) + &named("b", 2021, bad()), "200"),
        (named("a", 2021, trusting(INNER)) + &named("b", 2020, bad()), "503"),
    ] {
        let mut edge = Edge::new(&[echo.addr]);
        let ring = ring(edge.with(PLAIN, &(maps.clone() + &policies)), &[]).await;
        let answer = ask(&ring).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{policies}: {answer}");
        let loses = edge.findings().contains("the older policy default/");
        assert_eq!(loses, !policies.contains("sectionName"), "{}", edge.findings());
    }
}

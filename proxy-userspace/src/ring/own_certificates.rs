//! What endpoints get to see of a Gateway that has a certificate for them (`spec.tls.backend`).

use super::{
    Ring,
    http2::peer::{Echo, Speaks},
    within,
};
use crate::{
    snapshot::{BuildOptions, Builder, Cluster, Snapshot},
    source::objects,
    testing::{
        certificates::{Authority, Pair, config_map},
        endpoint,
    },
};
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const NODE: &str = "127.0.0.1";
const POLICY: &str = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: p}\n\
    spec: {targetRefs: [{group: '', kind: Service, name: web}], validation: {hostname: inner.test, \
    caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}}\n";

/// A Gateway of plain HTTP for a host, which shows the certificate of this Secret, if any.
fn gateway(name: &str, host: &str, secret: Option<&str>) -> String {
    let tls =
        secret.map(|secret| format!(", tls: {{backend: {{clientCertificateRef: {{name: {secret}}}}}}}"));
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\n\
         spec: {{gatewayClassName: weir, listeners: [{{name: h, port: 80, protocol: HTTP, hostname: {host}}}]{}}}\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{{name: {name}}}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}\n",
        tls.unwrap_or_default()
    )
}

struct Site {
    builder: Builder,
    endpoint: SocketAddr,
    ca: String,
}

impl Site {
    fn new(endpoint: SocketAddr, authority: &Authority) -> Self {
        let options = BuildOptions { node_addresses: vec![NODE.parse().unwrap()], ..BuildOptions::default() };
        Self { builder: Builder::new(options), endpoint, ca: config_map("ca", authority.pem()) }
    }

    fn with(&mut self, manifests: &str) -> Snapshot {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
             spec: {{clusterIP: 10.96.0.7, ports: [{{port: 80}}]}}\n{manifests}{POLICY}{}",
            self.ca
        );
        self.builder.apply(&objects(&text));
        let mut snapshot = self.builder.snapshot().clone();
        // A slice may not name a loopback address.
        let mut cluster = Cluster::clone(snapshot.cluster("default/web:80").unwrap());
        cluster.endpoints = vec![endpoint(self.endpoint)];
        snapshot.clusters.insert(Arc::new(cluster));
        snapshot
    }

    fn said(&self) -> String {
        self.builder.findings().map(|finding| format!("{finding}\n")).collect()
    }
}

async fn ring(snapshot: Snapshot) -> Ring {
    Ring::of(snapshot, (format!("{NODE}:80").parse().unwrap(), false), &[], (1000, 1000)).await
}

/// The status of a request's answer, and whose certificate the endpoint has seen.
async fn ask(ring: &Ring, host: &str) -> (String, Option<String>) {
    let mut client = TcpStream::connect(ring.addr).await.unwrap();
    let request = format!("GET /a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    within(client.write_all(request.as_bytes())).await.unwrap();
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    let seen = answer.split("x-client: ").nth(1).and_then(|rest| rest.split('\r').next());
    (answer.split(' ').nth(1).unwrap().to_owned(), seen.map(str::to_owned))
}

fn ok(name: &str) -> (String, Option<String>) {
    ("200".to_owned(), Some(name.to_owned()))
}

/// An endpoint whose clients have to have a certificate of this authority.
async fn demanding(authority: &Authority, speaks: Speaks, clients: &Authority) -> Echo {
    let pair = authority.pair(&["inner.test"]);
    let alpn: &[&str] = if speaks == Speaks::Http2 { &["h2"] } else { &["http/1.1"] };
    Echo::start_with(speaks, Some(authority.demanding(&pair, alpn, &[clients]))).await
}

#[tokio::test]
async fn each_gateway_shows_its_own_certificate_on_connections_of_its_own() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let (authority, clients) = (Authority::new(), Authority::new());
        let echo = demanding(&authority, speaks, &clients).await;
        let manifests = gateway("first", "one.test", Some("one"))
            + &gateway("second", "two.test", Some("two"))
            + &gateway("third", "none.test", None)
            + &clients.named("gateway-one").secret("one")
            + &clients.named("gateway-two").secret("two");
        let ring = ring(Site::new(echo.addr, &authority).with(&manifests)).await;
        for _ in 0..2 {
            assert_eq!(ask(&ring, "one.test").await, ok("gateway-one"), "{speaks:?}");
            assert_eq!(ask(&ring, "two.test").await, ok("gateway-two"));
        }
        assert_eq!(echo.connections.load(Relaxed), 2, "one for each, and kept");
        let (status, seen) = ask(&ring, "none.test").await;
        assert!(matches!(&*status, "502" | "503") && seen.is_none(), "{status} {seen:?}");
        assert_eq!(echo.requests.load(Relaxed), 4);
    }
}

#[tokio::test]
async fn an_endpoint_that_asks_for_none_gets_none() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let pair = authority.pair(&["inner.test"]);
    let echo = Echo::start_with(Speaks::Http1, Some(authority.serving(&pair, &[]))).await;
    let manifests = gateway("g", "one.test", Some("one")) + &clients.named("gateway-one").secret("one");
    let ring = ring(Site::new(echo.addr, &authority).with(&manifests)).await;
    assert_eq!(ask(&ring, "one.test").await, ("200".to_owned(), None));
}

#[tokio::test]
async fn a_new_certificate_is_for_the_next_request_and_a_broken_one_leaves_the_old_one_in_use() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let echo = demanding(&authority, Speaks::Http1, &clients).await;
    let mut site = Site::new(echo.addr, &authority);
    let with = |site: &mut Site, pair: Option<&Pair>| {
        site.with(
            &(gateway("g", "one.test", Some("one")) + &pair.map(|one| one.secret("one")).unwrap_or_default()),
        )
    };
    let ring = ring(with(&mut site, Some(&clients.named("old")))).await;
    assert_eq!(ask(&ring, "one.test").await, ok("old"));
    ring.relay.snapshot.store(Arc::new(with(&mut site, Some(&clients.named("new")))));
    assert_eq!(ask(&ring, "one.test").await, ok("new"), "the old connection is used no more");
    ring.relay.snapshot.store(Arc::new(with(&mut site, None)));
    assert_eq!(ask(&ring, "one.test").await, ok("new"));
    let said =
        "tls.backend.clientCertificateRef: there is no Secret default/one: the one from before stays in use";
    assert!(site.said().contains(said), "{}", site.said());
    assert_eq!(echo.connections.load(Relaxed), 2);
}

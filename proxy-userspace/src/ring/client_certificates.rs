//! Clients that have to prove who they are (GEP-91), at Gateways.

use super::{Endpoint, OK, Peer, Ring, within};
use crate::{
    flow::{Reason, RequestRecord},
    metrics::Format,
    snapshot::{BuildOptions, Builder, Cluster, Snapshot},
    source::objects,
    testing::{
        certificates::{Authority, Pair, config_map},
        endpoint,
    },
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, HandshakeKind, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use rustls_pki_types::ServerName;
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const NODE: &str = "127.0.0.1";
const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Gateways' configuration, change by change.
struct Site {
    builder: Builder,
    endpoint: SocketAddr,
    authority: Authority,
    server: Pair,
}

/// A Gateway with HTTPS listeners for these hosts at port 443, and this in `spec.tls`; with a route of these paths.
fn gateway(name: &str, hosts: &[&str], tls: &str, path: &str) -> String {
    let listeners: Vec<_> = hosts
        .iter()
        .enumerate()
        .map(|(at, host)| {
            format!(
                "{{name: l{at}, port: 443, protocol: HTTPS, hostname: '{host}', tls: {{certificateRefs: [{{name: s}}]}}}}"
            )
        })
        .collect();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\n\
         spec: {{gatewayClassName: weir, listeners: [{}]{tls}}}\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{{name: {name}}}], rules: [{{matches: [{{path: {{value: {path}}}}}], \
         backendRefs: [{{name: web, port: 80}}]}}]}}\n",
        listeners.join(", ")
    )
}

/// `spec.tls` of a Gateway whose clients have to have a certificate of these ConfigMaps' authorities.
fn validation(maps: &[&str], mode: &str) -> String {
    let refs: Vec<_> =
        maps.iter().map(|name| format!("{{group: '', kind: ConfigMap, name: {name}}}")).collect();
    let refs = refs.join(", ");
    format!(", tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [{refs}], mode: {mode}}}}}}}}}")
}

fn required(maps: &[&str]) -> String {
    validation(maps, "AllowValidOnly")
}

impl Site {
    fn new(endpoint: SocketAddr) -> Self {
        let options = BuildOptions { node_addresses: vec![NODE.parse().unwrap()], ..BuildOptions::default() };
        let authority = Authority::new();
        let server = authority.pair(&["a.test", "b.test", "*.wild.test"]);
        Self { builder: Builder::new(options), endpoint, authority, server }
    }

    fn with(&mut self, manifests: &str) -> Snapshot {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
             spec: {{clusterIP: 10.96.0.7, ports: [{{port: 80}}]}}\n{manifests}{}",
            self.server.secret("s")
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

    /// A client with this certificate, or none.
    fn client(&self, version: &'static SupportedProtocolVersion, pair: Option<&Pair>) -> Arc<ClientConfig> {
        Arc::new(self.authority.client_with(&[version], pair))
    }
}

async fn ring(snapshot: Snapshot) -> Ring {
    Ring::of(snapshot, (format!("{NODE}:443").parse().unwrap(), false), &[], (1000, 1000)).await
}

async fn shake(ring: &Ring, config: &Arc<ClientConfig>, name: &str) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(ring.addr).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within(TlsConnector::from(Arc::clone(config)).connect(name, stream)).await
}

/// The status of a request's answer. In TLS 1.3 a client hears only now that it was not let in.
async fn ask(client: &mut TlsStream<TcpStream>, (host, path): (&str, &str)) -> io::Result<String> {
    let fields = "X-Forwarded-Client-Cert: Subject=\"CN=admin\"";
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n\r\n");
    within(client.write_all(request.as_bytes())).await?;
    within(client.flush()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(client.read_u8()).await?);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    within(client.read_exact(&mut body)).await?;
    Ok(head.split(' ').nth(1).unwrap().to_owned())
}

/// One request on a connection of its own.
async fn once(ring: &Ring, config: &Arc<ClientConfig>) -> io::Result<String> {
    let mut client = shake(ring, config, "a.test").await?;
    ask(&mut client, ("a.test", "/a")).await
}

/// Answers every request of every connection, none of which may say who the client is.
fn answering(endpoint: Endpoint) {
    tokio::spawn(async move {
        loop {
            let mut peer: Peer = endpoint.accept_any().await;
            tokio::spawn(async move {
                while let Some(head) = peer.maybe_head().await {
                    let lied = head.to_ascii_lowercase().contains("x-forwarded-client-cert");
                    let told = "HTTP/1.1 599 Told\r\nContent-Length: 0\r\n\r\n";
                    peer.send(if lied { told } else { OK }).await;
                }
            });
        }
    });
}

fn counted(ring: &Ring, outcome: &str) -> u64 {
    let text = ring.relay.observer.metrics.text(Format::Prometheus).unwrap();
    let ours = |line: &&str| {
        line.starts_with("weir_tls_handshakes_total") && line.contains(&format!("outcome=\"{outcome}\""))
    };
    text.lines().filter(ours).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

fn peer_of(record: &RequestRecord) -> Option<(String, bool)> {
    let peer = record.tls.as_ref()?.peer.as_ref()?;
    Some((peer.subject.to_string(), peer.verified))
}

#[tokio::test]
async fn who_has_a_certificate_of_the_authority_is_served_and_who_has_none_gets_no_session() {
    for version in BOTH {
        let endpoint = Endpoint::new().await;
        let mut site = Site::new(endpoint.addr);
        answering(endpoint);
        let (ours, stranger) = (Authority::new(), Authority::new());
        let manifests = gateway("g", &["a.test"], &required(&["ca"]), "/") + &config_map("ca", ours.pem());
        let ring = ring(site.with(&manifests)).await;
        let good = ours.named("client-7");
        assert_eq!(once(&ring, &site.client(version, Some(&good))).await.unwrap(), "200");
        let record = ring.record().await;
        assert_eq!(peer_of(&record), Some(("CN=client-7".to_owned(), true)));
        let mut refused = Vec::new();
        for pair in [None, Some(stranger.named("client-7")), Some(ours.expired(&["client.test"]))] {
            let error = once(&ring, &site.client(version, pair.as_ref())).await.unwrap_err();
            refused.push(error.to_string());
        }
        assert!(refused[0].contains("CertificateRequired"), "{refused:?}");
        assert!(refused[1].contains("UnknownCA") || refused[1].contains("DecryptError"), "{refused:?}");
        assert!(refused[2].contains("CertificateExpired"), "{refused:?}");
        let records = ring.records(4).await;
        let failed = |one: &&RequestRecord| one.reason == Some(Reason::TlsHandshake) && one.protocol == "TLS";
        assert_eq!(records.iter().filter(failed).count(), 3, "{records:?}");
        assert!(records[1].error.as_ref().unwrap().contains("no certificates"), "{records:?}");
        assert_eq!((counted(&ring, "no_client_certificate"), counted(&ring, "untrusted")), (1, 2));
    }
}

#[tokio::test]
async fn in_the_mode_for_tests_every_client_is_served_and_told_apart() {
    for version in BOTH {
        let endpoint = Endpoint::new().await;
        let mut site = Site::new(endpoint.addr);
        answering(endpoint);
        let (ours, stranger) = (Authority::new(), Authority::new());
        let tls = validation(&["ca"], "AllowInsecureFallback");
        let ring =
            ring(site.with(&(gateway("g", &["a.test"], &tls, "/") + &config_map("ca", ours.pem())))).await;
        for pair in [None, Some(ours.named("ours")), Some(stranger.named("stranger"))] {
            assert_eq!(once(&ring, &site.client(version, pair.as_ref())).await.unwrap(), "200");
        }
        let seen: Vec<_> = ring.records(3).await.iter().map(peer_of).collect();
        let expected = [None, Some(("CN=ours".to_owned(), true)), Some(("CN=stranger".to_owned(), false))];
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn no_ticket_jumps_over_the_verification() {
    for version in BOTH {
        let endpoint = Endpoint::new().await;
        let mut site = Site::new(endpoint.addr);
        answering(endpoint);
        let (ours, theirs) = (Authority::new(), Authority::new());
        let maps = config_map("ours", ours.pem()) + &config_map("theirs", theirs.pem());
        let snapshot = |site: &mut Site, tls: &str| site.with(&(gateway("g", &["a.test"], tls, "/") + &maps));
        let ring = ring(snapshot(&mut site, "")).await;
        let ours = ours.named("ours");
        // Both keep the tickets that they get.
        let (anonymous, named) = (site.client(version, None), site.client(version, Some(&ours)));
        for config in [&anonymous, &named] {
            assert_eq!(once(&ring, config).await.unwrap(), "200");
        }
        assert_eq!(counted(&ring, "resumed"), 0);
        ring.relay.snapshot.store(Arc::new(snapshot(&mut site, &required(&["ours"]))));
        assert!(once(&ring, &anonymous).await.is_err(), "a session of before has proved nothing");
        for _ in 0..2 {
            let mut client = shake(&ring, &named, "a.test").await.unwrap();
            assert_eq!(ask(&mut client, ("a.test", "/a")).await.unwrap(), "200");
            assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        }
        ring.relay.snapshot.store(Arc::new(snapshot(&mut site, &required(&["theirs"]))));
        assert!(once(&ring, &named).await.is_err(), "that authority counts no more");
        assert_eq!(counted(&ring, "resumed"), 0);
    }
}

#[tokio::test]
async fn a_connection_that_is_open_proves_itself_anew_where_the_demands_change() {
    let endpoint = Endpoint::new().await;
    let mut site = Site::new(endpoint.addr);
    answering(endpoint);
    let (ours, theirs) = (Authority::new(), Authority::new());
    let maps = config_map("ours", ours.pem()) + &config_map("theirs", theirs.pem());
    let snapshot = |site: &mut Site, tls: &str| site.with(&(gateway("g", &["a.test"], tls, "/") + &maps));
    let ring = ring(snapshot(&mut site, "")).await;
    let named = site.client(&TLS13, Some(&ours.named("ours")));
    let mut early = shake(&ring, &named, "a.test").await.unwrap();
    assert_eq!(ask(&mut early, ("a.test", "/a")).await.unwrap(), "200");
    ring.relay.snapshot.store(Arc::new(snapshot(&mut site, &required(&["ours"]))));
    assert_eq!(ask(&mut early, ("a.test", "/a")).await.unwrap(), "421", "it was not asked who it is");
    let mut client = shake(&ring, &named, "a.test").await.unwrap();
    for (maps, status) in
        [(&["ours"][..], "200"), (&["theirs", "ours"], "200"), (&["theirs"], "421"), (&["ours"], "200")]
    {
        ring.relay.snapshot.store(Arc::new(snapshot(&mut site, &required(maps))));
        for _ in 0..2 {
            assert_eq!(ask(&mut client, ("a.test", "/a")).await.unwrap(), status, "{maps:?}");
        }
    }
}

#[tokio::test]
async fn p17_a_session_of_one_gateway_does_not_reach_what_another_one_guards() {
    let endpoint = Endpoint::new().await;
    let mut site = Site::new(endpoint.addr);
    answering(endpoint);
    let ours = Authority::new();
    // The guarded one's listener is the less special, and it has the more special rule.
    let rule = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: exact}\n\
                spec: {parentRefs: [{name: guarded}], hostnames: [x.wild.test], rules: [{matches: \
                [{path: {value: /guarded}}], backendRefs: [{name: web, port: 80}]}]}\n";
    let manifests = gateway("guarded", &["*.wild.test", "b.test"], &required(&["ca"]), "/guarded")
        + &gateway("open", &["a.test", "x.wild.test"], "", "/")
        + rule
        + &config_map("ca", ours.pem());
    let ring = ring(site.with(&manifests)).await;
    let anonymous = site.client(&TLS13, None);
    for (name, host, path, status) in [
        ("a.test", "a.test", "/guarded", "200"),
        ("a.test", "b.test", "/guarded", "421"),
        ("a.test", "y.wild.test", "/guarded", "421"),
        ("x.wild.test", "x.wild.test", "/", "200"),
        ("x.wild.test", "x.wild.test", "/guarded", "421"),
    ] {
        let mut client = shake(&ring, &anonymous, name).await.unwrap();
        assert_eq!(ask(&mut client, (host, path)).await.unwrap(), status, "{name} {host} {path}");
    }
    let said = site.said();
    let expected =
        "listener \"l0\": x.wild.test:443 is served by Gateway default/open#l1, which does not verify";
    assert!(said.contains(expected), "{said}");
    // The other way round a session that has proved more is none of that listener's either.
    let named = site.client(&TLS13, Some(&ours.named("ours")));
    let mut client = shake(&ring, &named, "b.test").await.unwrap();
    assert_eq!(ask(&mut client, ("b.test", "/guarded")).await.unwrap(), "200");
    assert_eq!(ask(&mut client, ("a.test", "/")).await.unwrap(), "421");
}

#[tokio::test]
async fn p17_http_2_requests_that_are_coalesced_are_misdirected() {
    let endpoint = Endpoint::new().await;
    let mut site = Site::new(endpoint.addr);
    answering(endpoint);
    let ours = Authority::new();
    let manifests = gateway("guarded", &["b.test"], &required(&["ca"]), "/")
        + &gateway("open", &["a.test"], "", "/")
        + &config_map("ca", ours.pem());
    let ring = ring(site.with(&manifests)).await;
    for (pair, name, host, status) in [
        (None, "a.test", "a.test", 200),
        (None, "a.test", "b.test", 421),
        (Some(ours.named("ours")), "b.test", "b.test", 200),
    ] {
        let mut config = site.authority.client_with(&[&TLS13], pair.as_ref());
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = shake(&ring, &Arc::new(config), name).await.unwrap();
        let io = TokioIo::new(stream);
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = shaken.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(format!("https://{host}/a"));
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        let answer = within(sender.send_request(request)).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{name} {host}");
    }
}

#[tokio::test]
async fn where_no_authority_can_be_had_no_handshake_succeeds_until_there_is_one() {
    let endpoint = Endpoint::new().await;
    let mut site = Site::new(endpoint.addr);
    answering(endpoint);
    let ours = Authority::new();
    let guarded =
        gateway("guarded", &["a.test"], &required(&["ca"]), "/") + &gateway("open", &["b.test"], "", "/");
    let ring = ring(site.with(&guarded)).await;
    let named = site.client(&TLS13, Some(&ours.named("ours")));
    let broken = config_map("ca", "nothing");
    let mut steps = Vec::new();
    for more in [config_map("ca", ours.pem()), broken, config_map("ca", ours.pem()), String::new()] {
        steps.push(once(&ring, &named).await.is_ok());
        ring.relay.snapshot.store(Arc::new(site.with(&(guarded.clone() + &more))));
    }
    steps.push(once(&ring, &named).await.is_ok());
    assert_eq!(steps, [false, true, false, true, false]);
    let mut neighbour = shake(&ring, &named, "b.test").await.unwrap();
    assert_eq!(ask(&mut neighbour, ("b.test", "/a")).await.unwrap(), "200");
    assert!(site.said().contains("there is no ConfigMap default/ca"), "{}", site.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_change_under_load_and_no_client_of_either_is_refused() {
    const ROTATIONS: usize = 200;
    let endpoint = Endpoint::new().await;
    let mut site = Site::new(endpoint.addr);
    answering(endpoint);
    let (old, new) = (Authority::new(), Authority::new());
    let maps = config_map("old", old.pem()) + &config_map("new", new.pem());
    // `old` is in every one of them.
    let states: [&[&str]; 3] = [&["old"], &["old", "new"], &["new", "old"]];
    let snapshots =
        states.map(|maps_| site.with(&(gateway("g", &["a.test"], &required(maps_), "/") + &maps)));
    let ring = Arc::new(ring(snapshots[0].clone()).await);
    let rotating = Arc::new(AtomicBool::new(true));
    let config = site.client(&TLS13, Some(&old.named("old")));
    let clients: Vec<_> = std::iter::repeat_with(|| {
        let (ring, config, rotating) = (Arc::clone(&ring), Arc::clone(&config), Arc::clone(&rotating));
        tokio::spawn(async move {
            let mut count = 0;
            while rotating.load(Relaxed) {
                let mut client = shake(&ring, &config, "a.test").await.unwrap();
                for _ in 0..3 {
                    assert_eq!(ask(&mut client, ("a.test", "/a")).await.unwrap(), "200");
                }
                count += 1;
            }
            count
        })
    })
    .take(2)
    .collect();
    for rotation in 0..ROTATIONS {
        ring.relay.snapshot.store(Arc::new(snapshots[rotation % 3].clone()));
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    rotating.store(false, Relaxed);
    let mut handshakes = 0;
    for client in clients {
        handshakes += client.await.expect("nobody was refused");
    }
    assert!(handshakes > 0);
}

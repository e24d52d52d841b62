//! TLS that ends here: `wire.md` D15 and P17, versions, protocols, resumption, and certificates that change
//! under way.

use super::{Endpoint, OK, PATIENCE, Peer, Ring, eventually, within};
use crate::{
    flow::Reason,
    metrics::Format,
    snapshot::{BuildOptions, Builder, Cluster, Snapshot},
    source::objects,
    testing::{
        certificates::{Authority, Pair},
        endpoint,
    },
};
use rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion,
    version::{TLS12, TLS13},
};
use rustls_pki_types::ServerName;
use std::{
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

/// Gateways' configuration, change by change, with what it remembers.
struct Site {
    builder: Builder,
    endpoint: SocketAddr,
}

impl Site {
    fn new(endpoint: SocketAddr) -> Self {
        let node_addresses = vec![NODE.parse().unwrap()];
        Self { builder: Builder::new(BuildOptions { node_addresses, ..BuildOptions::default() }), endpoint }
    }

    /// One listener for each host, with the Secret that has the host's first label for a name.
    fn with(&mut self, hosts: &[&str], secrets: &str) -> Snapshot {
        let secret = |host: &str| host.trim_start_matches("*.").split('.').next().unwrap().to_owned();
        let listener = |host: &&str| {
            format!(
                "  - {{name: {0}, port: 443, protocol: HTTPS, hostname: '{host}', tls: {{certificateRefs: [{{name: {0}}}]}}}}\n",
                secret(host)
            )
        };
        let listeners: String = hosts.iter().map(listener).collect();
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{clusterIP: 10.96.0.7, ports: [{{port: 80}}]}}\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\n\
             spec: {{parentRefs: [{{name: edge}}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\n\
             spec:\n  gatewayClassName: weir\n  listeners:\n{listeners}{secrets}",
        );
        self.builder.apply(&objects(&text));
        let mut snapshot = self.builder.snapshot().clone();
        // A slice may not name a loopback address.
        let mut cluster = Cluster::clone(snapshot.cluster("default/web:80").unwrap());
        cluster.endpoints = vec![endpoint(self.endpoint)];
        snapshot.clusters.insert(Arc::new(cluster));
        snapshot
    }
}

async fn ring(snapshot: Snapshot, args: &[&'static str]) -> Ring {
    Ring::of(snapshot, (format!("{NODE}:443").parse().unwrap(), false), args, (1000, 1000)).await
}

/// A ring with listeners for `a.test` and `*.wild.test`.
async fn both(authority: &Authority, endpoint: &Endpoint, args: &[&'static str]) -> Ring {
    let secrets = authority.pair(&["a.test"]).secret("a") + &authority.pair(&["*.wild.test"]).secret("wild");
    ring(Site::new(endpoint.addr).with(&["a.test", "*.wild.test"], &secrets), args).await
}

async fn shake(ring: &Ring, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(ring.addr).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within(TlsConnector::from(Arc::clone(config)).connect(name, stream)).await
}

/// One request and its answer's head; an endpoint answers meanwhile, where it is asked.
async fn ask(client: &mut TlsStream<TcpStream>, host: &str) -> String {
    let request = format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n");
    within(client.write_all(request.as_bytes())).await.unwrap();
    within(client.flush()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(client.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Answers every request of every connection.
fn answering(endpoint: Endpoint) {
    tokio::spawn(async move {
        loop {
            let mut peer: Peer = endpoint.accept_any().await;
            tokio::spawn(async move {
                loop {
                    let Some(_) = peer.maybe_head().await else { return };
                    peer.send(OK).await;
                }
            });
        }
    });
}

#[tokio::test]
async fn a_request_in_tls_of_either_version_is_served_and_its_record_says_so() {
    for (version, name, protocol) in
        [(&TLS12, "TLSv1.2", ProtocolVersion::TLSv1_2), (&TLS13, "TLSv1.3", ProtocolVersion::TLSv1_3)]
    {
        let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
        let ring = both(&authority, &endpoint, &[]).await;
        let config = Arc::new(authority.client_of(&[version]));
        let mut client = shake(&ring, &config, "x.wild.test").await.unwrap();
        assert_eq!(client.get_ref().1.protocol_version(), Some(protocol));
        assert_eq!(client.get_ref().1.alpn_protocol(), None, "which it did not ask for");
        let serve = async {
            let mut peer = endpoint.accept().await;
            let head = peer.head().await;
            peer.send(OK).await;
            (head, peer)
        };
        let (answer, (head, _peer)) = tokio::join!(ask(&mut client, "x.wild.test"), serve);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(head.to_ascii_lowercase().contains("x-forwarded-proto: https"), "{head}");
        drop(client);
        let record = ring.record().await;
        let tls = record.tls.unwrap();
        assert_eq!((tls.version, tls.server_name.as_deref()), (name, Some("x.wild.test")));
        assert!(tls.cipher.starts_with("TLS_"), "{}", tls.cipher);
    }
}

#[tokio::test]
async fn a_websocket_over_tls_is_a_tunnel_with_half_closes_and_all() {
    let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
    let ring = both(&authority, &endpoint, &[]).await;
    let mut client = shake(&ring, &Arc::new(authority.client()), "a.test").await.unwrap();
    let ask = "GET /a HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly";
    within(client.write_all(ask.as_bytes())).await.unwrap();
    let mut server = endpoint.accept().await;
    assert!(server.head().await.ends_with("Upgrade: websocket\r\n\r\n"));
    server.send("HTTP/1.1 101 Ok\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello").await;
    server.until("early").await;
    let large: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (mut from_agent, mut to_agent) = tokio::io::split(client);
    let (mut head, mut back) = (Vec::new(), vec![0; large.len()]);
    let through = async {
        while !head.ends_with(b"\r\n\r\nhello") {
            head.push(within(from_agent.read_u8()).await.unwrap());
        }
        within(from_agent.read_exact(&mut back)).await.unwrap();
    };
    let forth = async {
        within(to_agent.write_all(&large)).await.unwrap();
        within(to_agent.shutdown()).await.unwrap();
    };
    let echo = async {
        let all = server.rest().await.unwrap();
        server.send(&all).await;
        drop(server);
    };
    tokio::join!(through, forth, echo);
    assert!(head.starts_with(b"HTTP/1.1 101 ") && back == large);
    // An error where close_notify is missing.
    assert_eq!(within(from_agent.read(&mut [0])).await.unwrap(), 0);
    let record = ring.record().await;
    assert_eq!((record.protocol, record.status, record.reason), ("WebSocket", 101, None));
    assert_eq!((record.bytes_received, record.bytes_sent), (2_000_005, 2_000_005));
    assert!(record.tls.is_some());
}

#[tokio::test]
async fn d15_a_client_with_alpn_gets_what_both_speak_and_one_with_something_else_an_alert() {
    let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
    let ring = both(&authority, &endpoint, &[]).await;
    let with = |protocols: &[&str]| {
        let mut config = authority.client();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    };
    let client = shake(&ring, &with(&["http/1.0", "http/1.1"]), "a.test").await.unwrap();
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let client = shake(&ring, &with(&["http/1.1", "h2"]), "a.test").await.unwrap();
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "the server likes it better");
    let error = shake(&ring, &with(&["http/0.9"]), "a.test").await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    let record = ring.record().await;
    assert_eq!((record.protocol, record.reason), ("TLS", Some(Reason::TlsHandshake)));
}

#[tokio::test]
async fn d15_a_name_without_a_certificate_gets_an_alert_and_so_does_no_name() {
    let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
    let ring = both(&authority, &endpoint, &[]).await;
    let config = Arc::new(authority.client());
    // An address is no name (RFC 6066 section 3): the client sends none.
    for name in ["b.test", "wild.test", "127.0.0.1"] {
        let error = shake(&ring, &config, name).await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{name}: {error}");
    }
    let metrics = ring.relay.observer.metrics.text(Format::Prometheus).unwrap();
    let counted = r#"weir_tls_handshakes_total{version="none",alpn="none",outcome="no_certificate"} 3"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn d15_a_handshake_that_stalls_anywhere_ends_at_its_deadline() {
    let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
    let ring = both(&authority, &endpoint, &["--timeout-tls-handshake=300ms"]).await;
    let hello = hello(&authority, "a.test").await;
    for sent in [0, 1, 5, 42, hello.len()] {
        let mut client = ring.client().await;
        client.send(&hello[..sent]).await;
        // What the server has to say, if the greeting was whole; then it is over.
        let _ = client.all().await;
    }
    let records = ring.records(5).await;
    assert!(records.iter().all(|record| record.reason == Some(Reason::TlsTimeout)), "{records:?}");
}

#[tokio::test]
async fn d15_a_greeting_byte_by_byte_is_a_greeting_and_garbage_is_none() {
    let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
    let ring = both(&authority, &endpoint, &[]).await;
    let hello = hello(&authority, "a.test").await;
    let mut client = ring.client().await;
    for byte in &hello {
        client.send([*byte]).await;
    }
    // A handshake record: the server's part.
    assert_eq!(client.exactly(1).await, [22]);
    for garbage in [&b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..], &[22, 3, 1, 0xff, 0xff, 1], &[0; 64]] {
        let mut client = ring.client().await;
        client.send(garbage).await;
        let answer = client.rest().await.unwrap_or_default();
        assert!(!answer.starts_with(b"HTTP"), "{garbage:?}");
    }
}

#[tokio::test]
async fn d15_odd_names_in_a_greeting_break_nothing() {
    let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
    let ring = both(&authority, &endpoint, &["--timeout-tls-handshake=2s"]).await;
    let good = hello(&authority, "aaaaaaaa.test").await;
    let at = good.windows(13).position(|bytes| bytes == b"aaaaaaaa.test").unwrap();
    for name in [
        &b"aaaa\0aaa.test"[..],
        b"\xff\xff\xff\xff\xff\xff\xff\xff.test",
        b"10.99.100.200",
        b"..........tes",
        b"*.aaaaaa.test",
    ] {
        let mut hello = good.clone();
        hello[at..at + 13].copy_from_slice(name);
        let mut client = ring.client().await;
        client.send(&hello).await;
        let answer = client.all().await;
        assert!(!answer.is_empty(), "an alert tells {name:?}");
    }
    assert!(ring.records(5).await.iter().all(|record| record.reason == Some(Reason::TlsHandshake)));
}

/// What a client says first.
async fn hello(authority: &Authority, name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(authority.client()), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn p17_a_request_for_another_listeners_host_is_misdirected() {
    let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
    let ring = both(&authority, &endpoint, &[]).await;
    answering(endpoint);
    let config = Arc::new(authority.client());
    let mut client = shake(&ring, &config, "a.test").await.unwrap();
    for (host, expected) in
        [("x.wild.test", "421"), ("a.test", "200"), ("A.test:443", "200"), ("none.test", "404")]
    {
        let answer = ask(&mut client, host).await;
        let status = answer.split(' ').nth(1).unwrap();
        assert_eq!(status, expected, "{host}");
        let length = answer.to_ascii_lowercase();
        let length =
            length.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        within(client.read_exact(&mut body)).await.unwrap();
    }
}

#[tokio::test]
async fn a_session_is_resumed_by_a_ticket_also_after_the_certificate_has_changed() {
    for version in [&TLS12, &TLS13] {
        let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
        let mut site = Site::new(endpoint.addr);
        let ring = ring(site.with(&["a.test"], &authority.pair(&["a.test"]).secret("a")), &[]).await;
        answering(endpoint);
        let config = Arc::new(authority.client_of(&[version]));
        let kind = |client: &TlsStream<TcpStream>| client.get_ref().1.handshake_kind().unwrap();
        let mut first = shake(&ring, &config, "a.test").await.unwrap();
        assert_eq!(kind(&first), HandshakeKind::Full);
        // In TLS 1.3 tickets come behind the handshake.
        ask(&mut first, "a.test").await;
        let renewed = site.with(&["a.test"], &authority.pair(&["a.test"]).secret("a"));
        ring.relay.snapshot.store(Arc::new(renewed));
        let second = shake(&ring, &config, "a.test").await.unwrap();
        assert_eq!(kind(&second), HandshakeKind::Resumed);
        // Who has the last word is through a little later.
        let metrics = || ring.relay.observer.metrics.text(Format::Prometheus).unwrap();
        eventually(|| async { metrics().contains(r#"outcome="resumed"} 1"#) }).await;
    }
}

#[tokio::test]
async fn c13_the_next_handshake_has_the_new_certificate_and_old_connections_go_on() {
    let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
    let mut site = Site::new(endpoint.addr);
    let pairs: [Pair; 2] = std::array::from_fn(|_| authority.pair(&["a.test"]));
    let ring = ring(site.with(&["a.test"], &pairs[0].secret("a")), &[]).await;
    answering(endpoint);
    let mut config = authority.client();
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    let shown = |client: &TlsStream<TcpStream>| client.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let mut old = shake(&ring, &config, "a.test").await.unwrap();
    assert!(pairs[0].is(&shown(&old)));
    ring.relay.snapshot.store(Arc::new(site.with(&["a.test"], &pairs[1].secret("a"))));
    let new = shake(&ring, &config, "a.test").await.unwrap();
    assert!(pairs[1].is(&shown(&new)));
    assert!(ask(&mut old, "a.test").await.starts_with("HTTP/1.1 200"));
    let broken = pairs[1].secret("a").replace("PRIVATE", "PUBLIC");
    ring.relay.snapshot.store(Arc::new(site.with(&["a.test"], &broken)));
    let kept = shake(&ring, &config, "a.test").await.unwrap();
    assert!(pairs[1].is(&shown(&kept)), "a broken pair keeps the old one");
    let said: Vec<_> = site.builder.findings().map(ToString::to_string).collect();
    let expected = "listener \"a\": tls.key of Secret default/a cannot be read";
    assert!(said.iter().any(|one| one.contains(expected) && one.contains("stays in use")), "{said:?}");
}

#[tokio::test]
async fn c13_a_listener_without_any_certificate_leaves_the_others_alone() {
    let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
    let secrets = authority.pair(&["a.test"]).secret("a");
    let ring = ring(Site::new(endpoint.addr).with(&["a.test", "gone.test"], &secrets), &[]).await;
    let config = Arc::new(authority.client());
    shake(&ring, &config, "a.test").await.unwrap();
    let error = shake(&ring, &config, "gone.test").await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
}

#[tokio::test]
async fn many_handshakes_wait_for_their_turn() {
    let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
    let ring = both(&authority, &endpoint, &["--max-handshakes=2"]).await;
    answering(endpoint);
    let config = Arc::new(authority.client());
    let shakes = (0..32).map(|_| shake(&ring, &config, "a.test"));
    let all = tokio::time::timeout(PATIENCE, futures_util::future::join_all(shakes)).await.unwrap();
    assert!(all.iter().all(Result::is_ok));
    // One that greets and says no more has a turn; one that does not even greet has none.
    let hello = hello(&authority, "a.test").await;
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let mut client = ring.client().await;
        client.send(&hello[..hello.len() - 1]).await;
        stalled.push(client);
    }
    shake(&ring, &config, "a.test").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_thousand_rotations_under_load_fail_no_handshake() {
    const ROTATIONS: usize = 1000;
    let (authority, endpoint) = (Authority::new(), Endpoint::new().await);
    let mut site = Site::new(endpoint.addr);
    let ring = Arc::new(ring(site.with(&["a.test"], &authority.pair(&["a.test"]).secret("a")), &[]).await);
    let mut config = authority.client();
    config.resumption = rustls::client::Resumption::disabled();
    let (config, rotating) = (Arc::new(config), Arc::new(AtomicBool::new(true)));
    let clients: Vec<_> = std::iter::repeat_with(|| {
        let (ring, config, rotating) = (Arc::clone(&ring), Arc::clone(&config), Arc::clone(&rotating));
        tokio::spawn(async move {
            let mut count = 0;
            while rotating.load(Relaxed) {
                shake(&ring, &config, "a.test").await.unwrap();
                count += 1;
            }
            count
        })
    })
    .take(2)
    .collect();
    let mut last = authority.pair(&["a.test"]);
    for rotation in 0..ROTATIONS {
        let pair = authority.pair(&["a.test"]);
        let broken = rotation % 5 == 4;
        let secret = if broken { pair.secret("a").replace("PRIVATE", "PUBLIC") } else { pair.secret("a") };
        ring.relay.snapshot.store(Arc::new(site.with(&["a.test"], &secret)));
        if !broken {
            last = pair;
        }
        tokio::task::yield_now().await;
    }
    let client = shake(&ring, &config, "a.test").await.unwrap();
    assert!(last.is(&client.get_ref().1.peer_certificates().unwrap()[0]), "the last good one is in use");
    rotating.store(false, Relaxed);
    let mut handshakes = 0;
    for client in clients {
        handshakes += client.await.expect("no handshake failed");
    }
    assert!(handshakes > 0);
    let said: Vec<_> = site.builder.findings().map(ToString::to_string).collect();
    assert!(said.iter().any(|one| one.contains("stays in use")), "{said:?}");
}

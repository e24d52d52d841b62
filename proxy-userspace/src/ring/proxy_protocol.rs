//! The PROXY protocol in front of a Gateway: `wire.md` K7, and D1 where it is awaited.

use super::*;
use crate::{
    snapshot::{BuildOptions, Builder},
    source::objects,
    testing::endpoint,
};

const TRUSTED: &str = "--proxy-protocol-from=192.0.2.0/24,127.0.0.0/8";
const LINE: &str = "PROXY TCP4 203.0.113.9 10.0.0.1 56789 80\r\n";
const OBJECTS: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}\n\
     ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\n\
     spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 80}]}]}\n\
     ---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\n\
     spec: {gatewayClassName: weir, listeners: [{name: http, port: 80, protocol: HTTP}]}\n";

async fn gateway(to: &Endpoint, args: &[&'static str]) -> Ring {
    let options =
        BuildOptions { node_addresses: vec!["127.0.0.1".parse().unwrap()], ..BuildOptions::default() };
    let mut builder = Builder::new(options);
    builder.apply(&objects(OBJECTS));
    let mut snapshot = builder.snapshot().clone();
    // A slice may not name a loopback address.
    let mut cluster = Cluster::clone(snapshot.cluster("default/web:80").unwrap());
    cluster.endpoints = vec![endpoint(to.addr)];
    snapshot.clusters.insert(Arc::new(cluster));
    Ring::of(snapshot, ("127.0.0.1:80".parse().unwrap(), false), args, (1000, 1000)).await
}

fn refused(ring: &Ring, limit: &str) -> bool {
    let text = ring.relay.observer.metrics.text(crate::metrics::Format::Prometheus).unwrap();
    text.contains(&format!("weir_downstream_refused_total{{limit=\"{limit}\"}}"))
}

#[tokio::test]
async fn who_a_trusted_proxy_names_is_told_to_the_endpoint_and_the_log_however_it_is_cut() {
    let server = Endpoint::new().await;
    let ring = gateway(&server, &[TRUSTED]).await;
    let v2 =
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\x0a\x00\x00\x01\xdd\xd5\x00\x50".as_slice()];
    let headers = [LINE.as_bytes(), v2[0]];
    for header in headers {
        let whole = [header, GET.as_bytes()].concat();
        for cut in [0, 1, 5, 6, 13, 16, header.len() - 1, header.len(), header.len() + 4] {
            let mut client = ring.client().await;
            client.send(&whole[..cut]).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            client.send(&whole[cut..]).await;
            let mut peer = server.accept().await;
            let head = peer.head().await;
            assert!(head.contains("\r\nx-forwarded-for: 203.0.113.9\r\n"), "{cut} {head}");
            peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
            client.until("ok").await;
        }
    }
    for record in ring.records(18).await {
        assert_eq!(record.downstream, "203.0.113.9:56789".parse().unwrap());
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_for_itself_is_the_client() {
    let server = Endpoint::new().await;
    let ring = gateway(&server, &[TRUSTED]).await;
    for header in ["PROXY UNKNOWN\r\n", "\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"] {
        let mut client = ring.client().await;
        client.send(format!("{header}{GET}")).await;
        let mut peer = server.accept().await;
        assert!(peer.head().await.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"));
    }
}

#[tokio::test]
async fn k7_a_trusted_proxy_without_a_header_or_with_a_bad_one_is_cut_off_and_counted() {
    for bad in [
        GET,
        "PROXY TCP4 203.0.113.9 10.0.0.1 056789 80\r\n",
        "\r\n\r\n\0\r\nQUIT\n\x21\x12\x00\x00",
        "\x16\x03\x01",
    ] {
        let server = Endpoint::new().await;
        let ring = gateway(&server, &[TRUSTED]).await;
        let mut client = ring.client().await;
        client.send(format!("{bad}{GET}")).await;
        assert_eq!(client.all().await, "", "{bad:?}");
        assert!(ring.bad_requests("proxy_header"), "{bad:?}");
        server.stays_alone().await;
    }
}

#[tokio::test]
async fn k7_b12_whom_nobody_trusts_can_name_nobody() {
    let server = Endpoint::new().await;
    for args in [&["--proxy-protocol-from=192.0.2.0/24"][..], &[]] {
        let ring = gateway(&server, args).await;
        let mut client = ring.client().await;
        client.send(format!("{LINE}{GET}")).await;
        assert!(client.all().await.starts_with("HTTP/1.1 400 "));
        server.stays_alone().await;
        let mut client = ring.client().await;
        client.send(GET).await;
        assert!(server.accept().await.head().await.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"));
    }
}

#[tokio::test]
async fn d1_a_client_of_a_gateway_that_says_nothing_is_closed_and_counted() {
    let server = Endpoint::new().await;
    for (args, says) in [
        (&["--timeout-protocol-detect=150ms"][..], ""),
        (&["--timeout-protocol-detect=150ms", TRUSTED], ""),
        (&["--timeout-protocol-detect=150ms", TRUSTED], "PROXY TCP4 203.0.113.9"),
    ] {
        let ring = gateway(&server, args).await;
        let mut client = ring.client().await;
        client.send(says).await;
        assert_eq!(client.all().await, "");
        assert!(refused(&ring, "protocol_detect"), "{args:?} {says}");
        assert!(ring.relay.records.lock().is_empty());
    }
}

#[tokio::test]
async fn d1_a_client_of_a_service_that_is_http_is_closed_and_counted_and_no_endpoint_hears_of_it() {
    for protocol in [
        |cluster: &mut Cluster| cluster.protocol = crate::snapshot::Protocol::Http1,
        |cluster: &mut Cluster| {
            cluster.protocol = crate::snapshot::Protocol::Http2;
        },
    ] {
        let server = Endpoint::new().await;
        let args = vec!["--timeout-protocol-detect=150ms", "--detect-timeout=10ms"];
        let ring = Setup { cluster: protocol, args, ..Setup::new(&[server.addr]) }.start().await;
        let mut client = ring.client().await;
        assert_eq!(client.all().await, "");
        assert!(refused(&ring, "protocol_detect"));
        server.stays_alone().await;
    }
}

#[tokio::test]
async fn d1_a_server_that_speaks_first_may_take_its_time() {
    let server = Endpoint::new().await;
    let args = vec!["--timeout-protocol-detect=150ms"];
    let ring = Setup { args, ..Setup::new(&[server.addr]) }.start().await;
    let mut client = ring.client().await;
    let mut peer = server.accept().await;
    client.quiet().await;
    client.quiet().await;
    peer.send("220 ready\r\n").await;
    client.until("220 ready\r\n").await;
    assert!(!refused(&ring, "protocol_detect"));
}

#[tokio::test]
async fn d2_a_preface_that_is_never_whole_is_closed_and_counted() {
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for end in [4, 5, 8, 18, 20, preface.len() - 1] {
        let server = Endpoint::new().await;
        let args = vec!["--timeout-protocol-detect=150ms"];
        let ring = Setup { args, ..Setup::new(&[server.addr]) }.start().await;
        let mut client = ring.client().await;
        client.send(&preface[..end]).await;
        assert_eq!(client.all().await, "", "{end}");
        assert!(refused(&ring, "protocol_detect"), "{end}");
    }
}

#[tokio::test]
async fn d2_a_first_word_that_is_never_whole_is_a_408() {
    let server = Endpoint::new().await;
    let ring = Setup::new(&[server.addr]).timeouts(|t| t.request_head = Some(SHORT)).start().await;
    let mut client = ring.client().await;
    client.send("GE").await;
    assert!(client.all().await.starts_with("HTTP/1.1 408 "));
    assert_eq!(ring.record().await.status, 408);
}

//! The same bytes and trailers through every combination of what a client and an endpoint may speak: HTTP/1.1 or
//! HTTP/2, with TLS or without.

use super::{
    PATIENCE,
    edge::{Edge, Shape, ring},
    http2::peer::{Client, Echo, Speaks},
};
use crate::testing::certificates::{Authority, config_map};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::sync::Arc;

/// A prime: no power of two cuts the same bytes twice.
const PERIOD: usize = 65_521;

/// Bytes without end that only this exchange has.
struct Pattern {
    nonce: String,
    /// Two periods.
    bytes: Bytes,
}

impl Pattern {
    fn new(nonce: String) -> Self {
        let seed = nonce.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
        let mut state = seed | 1;
        let once: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .take(PERIOD)
        .collect();
        Self { nonce, bytes: [once.clone(), once].concat().into() }
    }

    /// So many of them, from a place on; no more than a period.
    fn slice(&self, at: usize, count: usize) -> Bytes {
        let from = at % PERIOD;
        self.bytes.slice(from..from + count)
    }

    /// A request with so many of them, made as they are sent, and the nonce behind them.
    fn request(self: &Arc<Self>, size: usize, scheme: &str) -> Request<super::http2::peer::Payload> {
        let pattern = Arc::clone(self);
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-nonce"),
            HeaderValue::try_from(&self.nonce).unwrap(),
        )]);
        let data =
            (0..size).step_by(PERIOD).map(move |at| Frame::data(pattern.slice(at, PERIOD.min(size - at))));
        let frames = data.chain([Frame::trailers(trailers)]).map(Ok);
        Request::post(format!("{scheme}://web/echo"))
            .header("te", "trailers")
            .header("trailer", "x-nonce")
            .body(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))))
            .unwrap()
    }
}

/// What is between a client and an endpoint.
#[derive(Clone, Copy, Debug)]
struct Combination {
    client: (Speaks, bool),
    endpoint: (Speaks, bool),
}

fn combinations() -> impl Iterator<Item = Combination> {
    let sides = || [Speaks::Http1, Speaks::Http2].into_iter().flat_map(|one| [(one, false), (one, true)]);
    sides().flat_map(move |client| sides().map(move |endpoint| Combination { client, endpoint }))
}

/// Exchanges bodies of these sizes on one connection of the client's.
async fn exchange(combination: Combination, sizes: &[usize], authority: &Authority) {
    let Combination { client: (speaks, secure), endpoint: (inner, inner_secure) } = combination;
    let protocol = |speaks| if speaks == Speaks::Http2 { "h2" } else { "http/1.1" };
    let pair = authority.pair(&["inner.test"]);
    let tls = inner_secure.then(|| authority.serving(&pair, &[protocol(inner)]));
    let echo = Echo::start_with(inner, tls).await;
    let policy = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: p}\n\
         spec: {targetRefs: [{group: '', kind: Service, name: web}], validation: {hostname: inner.test, \
         caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}}\n";
    let mut more = authority.pair(&["web"]).secret("edge") + &config_map("ca", authority.pem());
    more.push_str(if inner_secure { policy } else { "" });
    let app_protocol = Some(if inner == Speaks::Http2 { "kubernetes.io/h2c" } else { "http" });
    let snapshot = Edge::new(&[echo.addr]).with(Shape { secure, app_protocol }, &more);
    let ring = ring(snapshot, &[]).await;
    let client = if secure {
        let mut config = authority.client();
        config.alpn_protocols = vec![protocol(speaks).into()];
        Client::secure(speaks, ring.addr, config, "web").await
    } else {
        Client::connect(speaks, ring.addr).await
    };
    for size in sizes {
        let pattern = Arc::new(Pattern::new(format!("{combination:?} {size}")));
        let scheme = if secure { "https" } else { "http" };
        let answer = client.send(pattern.request(*size, scheme)).await.unwrap();
        assert_eq!(answer.status(), 200, "{combination:?} {size}");
        let expected = if inner == Speaks::Http2 { "HTTP/2.0" } else { "HTTP/1.1" };
        assert_eq!(answer.headers()["x-version"], expected, "{combination:?}");
        assert_eq!(answer.headers().contains_key("x-server-name"), inner_secure, "{combination:?}");
        let (mut body, mut at, mut trailers) = (answer.into_body(), 0, None);
        while let Some(frame) = body.frame().await {
            match frame.unwrap().into_data() {
                Ok(data) => {
                    for piece in data.chunks(PERIOD) {
                        let same = pattern.slice(at, piece.len()) == piece;
                        assert!(same, "{combination:?} {size}: other bytes from {at} on");
                        at += piece.len();
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        assert_eq!(at, *size, "{combination:?}");
        let nonce = trailers.as_ref().and_then(|trailers| trailers.get("x-nonce"));
        assert_eq!(nonce.unwrap(), &*pattern.nonce, "{combination:?} {size}");
    }
    let records = ring.records(sizes.len()).await;
    for (record, size) in records.iter().zip(sizes) {
        assert_eq!(
            (record.bytes_received, record.bytes_sent),
            (*size as u64, *size as u64),
            "{combination:?}"
        );
        assert_eq!((record.reason, record.tls.is_some()), (None, secure), "{combination:?}");
        assert_eq!(record.upstream_tls.is_some(), inner_secure, "{combination:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nonce_its_bytes_and_its_trailers_are_the_same_in_every_combination() {
    let authority = Authority::new();
    for combination in combinations() {
        let all = exchange(combination, &[0, 1, 16 << 10, 1 << 20], &authority);
        tokio::time::timeout(6 * PATIENCE, all).await.expect("within the patience of the test");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_are_the_same_in_every_combination() {
    let authority = Authority::new();
    for combination in combinations() {
        let all = exchange(combination, &[64 << 20], &authority);
        tokio::time::timeout(12 * PATIENCE, all).await.expect("within the patience of the test");
    }
}

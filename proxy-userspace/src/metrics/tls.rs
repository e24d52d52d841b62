//! Handshakes, and how long certificates are still good.

use super::histogram::{Bounds, Histogram};
use crate::{snapshot::Snapshot, tls::Secured};
use arc_swap::ArcSwap;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use rustls::HandshakeKind;
use std::{fmt, io, sync::Arc, time::Duration};
use tokio_rustls::client;

/// From two sockets of one node to the deadline.
const BOUNDS: Bounds = &[
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// How a handshake ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// With a new session.
    Full,
    /// With the session of an earlier one.
    Resumed,
    /// One side did not want, or could not.
    Failed,
    /// It took too long.
    TimedOut,
    /// There is no certificate for the name that was asked for.
    NoCertificate,
    /// The client has to have a certificate, and has shown none.
    NoClientCertificate,
    /// The other side's certificate is not what was to be proved.
    Untrusted,
}

impl Outcome {
    const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
            Self::NoCertificate => "no_certificate",
            Self::NoClientCertificate => "no_client_certificate",
            Self::Untrusted => "untrusted",
        }
    }
}

/// One handshake; its words are ours, not the other side's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handshake {
    pub(crate) version: &'static str,
    pub(crate) alpn: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) duration: Duration,
}

impl Handshake {
    /// One with an endpoint that came to this.
    pub(crate) fn with_endpoint<T>(
        outcome: &io::Result<(client::TlsStream<T>, Secured)>,
        duration: Duration,
    ) -> Self {
        let (version, alpn, outcome) = match outcome {
            Ok((stream, secured)) => {
                let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                let outcome = if resumed { Outcome::Resumed } else { Outcome::Full };
                (secured.version, secured.alpn.unwrap_or("none"), outcome)
            }
            Err(error) => {
                let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
                let untrusted = matches!(cause, Some(rustls::Error::InvalidCertificate(_)));
                ("none", "none", if untrusted { Outcome::Untrusted } else { Outcome::Failed })
            }
        };
        Self { version, alpn, outcome, duration }
    }
}

/// What is counted of them, on one side.
#[derive(Debug)]
pub(super) struct Handshakes {
    counts: Family<[(&'static str, &'static str); 3], Counter>,
    durations: Arc<Histogram>,
}

impl Handshakes {
    pub(super) fn new() -> Self {
        Self { counts: Family::default(), durations: Arc::new(Histogram::new(BOUNDS)) }
    }

    /// Those with clients.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "TLS handshakes with clients, by what was agreed upon and how they ended";
        registry.register("weir_tls_handshakes", help, self.counts.clone());
        registry.register_collector(Box::new(Durations {
            histogram: Arc::clone(&self.durations),
            name: "weir_tls_handshake_duration",
            help: "TLS handshakes that succeeded, from accept to the last message",
        }));
    }

    /// Those with endpoints.
    pub(super) fn register_upstream(&self, registry: &mut Registry) {
        let help = "TLS handshakes with endpoints, by what was agreed upon and how they ended";
        registry.register("weir_upstream_tls_handshakes", help, self.counts.clone());
        registry.register_collector(Box::new(Durations {
            histogram: Arc::clone(&self.durations),
            name: "weir_upstream_tls_handshake_duration",
            help: "TLS handshakes with endpoints that succeeded, after that of TCP",
        }));
    }

    pub(super) fn observe(&self, handshake: &Handshake) {
        let Handshake { version, alpn, outcome, duration } = *handshake;
        let labels = [("version", version), ("alpn", alpn), ("outcome", outcome.label())];
        self.counts.get_or_create(&labels).inc();
        if matches!(outcome, Outcome::Full | Outcome::Resumed) {
            self.durations.observe(duration);
        }
    }
}

#[derive(Debug)]
struct Durations {
    histogram: Arc<Histogram>,
    name: &'static str,
    help: &'static str,
}

impl Collector for Durations {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        if self.histogram.count() == 0 {
            return Ok(());
        }
        let (name, help) = (self.name, self.help);
        let family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        self.histogram.encode(family)
    }
}

/// Certificates in force, at scrape time: as many as the configuration has.
#[derive(Debug)]
pub(super) struct Certificates(pub(super) Arc<ArcSwap<Snapshot>>);

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let snapshot = self.0.load();
        let terms: Vec<_> = snapshot.routes.terms().collect();
        if terms.is_empty() {
            return Ok(());
        }
        let help = "When the certificate in force ends, Unix time";
        let name = "weir_tls_certificate_expiry_timestamp";
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (listener, held) in &terms {
            if let Some(credentials) = &held.credentials {
                let labels = [("listener", &**listener), ("secret", &*credentials.secret)];
                ConstGauge::new(credentials.not_after).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "1 where something is wrong with a certificate's Secret, and one from before is in force";
        let mut family =
            encoder.encode_descriptor("weir_tls_certificate_stale", help, None, MetricType::Gauge)?;
        for (listener, held) in &terms {
            if let Some(credentials) = &held.credentials {
                let labels = [("listener", &**listener), ("secret", &*credentials.secret)];
                ConstGauge::new(i64::from(held.is_old)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

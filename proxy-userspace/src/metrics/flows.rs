//! What the kernel measured of TCP connections, told once per connection when it ends.

use super::{
    SERIES_LIMIT,
    capped::{Capped, Labels, OTHER},
    histogram::{Histogram, TCP_BOUNDS},
};
use crate::snapshot::Snapshot;
use hashbrown::Equivalent;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabel, EncodeLabelSet, EncodeMetric, LabelSetEncoder},
    metrics::{MetricType, counter::Counter, family::Family},
    registry::Unit,
};
use proxy_common::{abi, addr};
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

/// `downstream` or `upstream`.
pub(super) const fn hop_label(hop: u16) -> &'static str {
    match hop {
        abi::HOP_DOWNSTREAM => "downstream",
        abi::HOP_UPSTREAM => "upstream",
        _ => "unknown",
    }
}

/// Who began to close: the agent opens upstream flows and accepts downstream ones.
const fn closer_label(hop: u16, closed_by: u32) -> &'static str {
    match (hop, closed_by) {
        (abi::HOP_DOWNSTREAM, abi::CLOSED_BY_OPENER) => "downstream",
        (abi::HOP_UPSTREAM, abi::CLOSED_BY_ACCEPTOR) => "upstream",
        (_, abi::CLOSED_BY_OPENER | abi::CLOSED_BY_ACCEPTOR) => "agent",
        _ => "nobody",
    }
}

const fn kind_label(kind: u32) -> &'static str {
    match kind {
        abi::CLOSE_FIN => "fin",
        abi::CLOSE_RESET => "reset",
        abi::CLOSE_TIMEOUT => "timeout",
        abi::CLOSE_UNCONNECTED => "unconnected",
        _ => "unknown",
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct FlowLabels<S> {
    hop: &'static str,
    source: S,
    /// Absent where the client asked for a Service: its connection ends at the agent, and each
    /// request may go to another endpoint.
    destination: Option<S>,
    cluster: Option<S>,
}

impl<'a> FlowLabels<&'a str> {
    /// Whose flow it is.
    fn of(event: &abi::FlowClosed, snapshot: &'a Snapshot) -> Self {
        let asked = SocketAddr::new(addr::ip_of(&event.flow.addr), event.flow.port);
        let workload = |ip| snapshot.workload_by_ip.get(&ip).map_or("unknown", |name| &**name);
        let service = snapshot.by_frontend.get(&asked);
        let cluster = service.or_else(|| snapshot.by_endpoint.get(&asked));
        Self {
            hop: hop_label(event.flow.hop),
            source: workload(addr::ip_of(&event.local)),
            destination: service.is_none().then(|| workload(asked.ip())),
            cluster: cluster.map(|cluster| &*cluster.name),
        }
    }
}

impl Equivalent<FlowLabels<Arc<str>>> for FlowLabels<&str> {
    fn equivalent(&self, key: &FlowLabels<Arc<str>>) -> bool {
        self.hop == key.hop
            && self.source == &*key.source
            && self.destination == key.destination.as_deref()
            && self.cluster == key.cluster.as_deref()
    }
}

impl From<&FlowLabels<&str>> for FlowLabels<Arc<str>> {
    fn from(borrowed: &FlowLabels<&str>) -> Self {
        Self {
            hop: borrowed.hop,
            source: borrowed.source.into(),
            destination: borrowed.destination.map(Arc::from),
            cluster: borrowed.cluster.map(Arc::from),
        }
    }
}

impl Labels for FlowLabels<Arc<str>> {
    fn coarser(&self) -> Self {
        let other: Arc<str> = OTHER.into();
        let named = self.cluster.as_deref() != Some(OTHER);
        Self {
            hop: if named { self.hop } else { OTHER },
            source: Arc::clone(&other),
            destination: Some(Arc::clone(&other)),
            cluster: Some(other),
        }
    }
}

impl EncodeLabelSet for FlowLabels<Arc<str>> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        ("hop", self.hop).encode(encoder.encode_label())?;
        ("source_workload", &*self.source).encode(encoder.encode_label())?;
        if let Some(destination) = &self.destination {
            ("destination_workload", &**destination).encode(encoder.encode_label())?;
        }
        if let Some(cluster) = &self.cluster {
            ("upstream_cluster", &**cluster).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Flow {
    handshake: Histogram,
    srtt: Histogram,
    sent: Counter,
    received: Counter,
    retransmitted: Counter,
}

impl Flow {
    fn new() -> Self {
        Self {
            handshake: Histogram::new(TCP_BOUNDS),
            srtt: Histogram::new(TCP_BOUNDS),
            sent: Counter::default(),
            received: Counter::default(),
            retransmitted: Counter::default(),
        }
    }
}

/// The labels of `weir_tcp_closed_total`.
type Closed = [(&'static str, &'static str); 3];

/// The `weir_tcp_*` families that closing flows feed.
#[derive(Debug)]
pub(super) struct Flows {
    flows: Capped<FlowLabels<Arc<str>>, Flow>,
    closed: Family<Closed, Counter>,
}

impl Flows {
    pub(super) fn new() -> Self {
        Self { flows: Capped::new(SERIES_LIMIT, Flow::new), closed: Family::default() }
    }

    /// Counts a flow that ended.
    pub(super) fn observe(&self, event: &abi::FlowClosed, snapshot: &Snapshot) {
        let recorded = &event.flow;
        let labels = [
            ("hop", hop_label(recorded.hop)),
            ("closed_by", closer_label(recorded.hop, recorded.closed_by)),
            ("kind", kind_label(recorded.close_kind)),
        ];
        self.closed.get_or_create(&labels).inc();
        self.flows.with(&FlowLabels::of(event, snapshot), |flow| {
            if recorded.established_ns != 0 {
                let took = recorded.established_ns.saturating_sub(recorded.connect_ns);
                flow.handshake.observe(Duration::from_nanos(took));
            }
            if event.srtt_us != 0 {
                flow.srtt.observe(Duration::from_micros(event.srtt_us.into()));
            }
            flow.sent.inc_by(event.bytes_sent);
            flow.received.inc_by(event.bytes_received);
            flow.retransmitted.inc_by(event.retransmits.into());
        });
    }

    /// See `Requests::prune`.
    pub(super) fn prune(&self, known: impl Fn(&str) -> bool) {
        self.flows.prune(|labels| {
            known(&labels.source)
                && labels.destination.as_deref().is_none_or(&known)
                && labels.cluster.as_deref().is_none_or(&known)
        });
    }
}

/// Name, unit, help and the metric of one flow family.
type FlowFamily = (&'static str, Option<Unit>, &'static str, fn(&Flow) -> &dyn EncodeMetric);

const fn families() -> [FlowFamily; 5] {
    [
        ("weir_tcp_handshake_duration", Some(Unit::Seconds), "TCP handshakes", |flow| &flow.handshake),
        ("weir_tcp_srtt", Some(Unit::Seconds), "Smoothed round-trip time when the flow ended", |flow| {
            &flow.srtt
        }),
        ("weir_tcp_sent", Some(Unit::Bytes), "Bytes from the flow's opener", |flow| &flow.sent),
        ("weir_tcp_received", Some(Unit::Bytes), "Bytes to the flow's opener", |flow| &flow.received),
        ("weir_tcp_retransmitted_segments", None, "Segments that the opener sent again", |flow| {
            &flow.retransmitted
        }),
    ]
}

impl Collector for Flows {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        if !self.closed.is_empty() {
            let help = "Flows that ended, by who began to close and how";
            self.closed.encode(encoder.encode_descriptor(
                "weir_tcp_closed",
                help,
                None,
                MetricType::Counter,
            )?)?;
        }
        let series = self.flows.snapshot();
        for (name, unit, help, metric) in families() {
            let mut used = series.iter().filter(|(_, flow)| !metric(flow).is_empty()).peekable();
            let Some((_, first)) = used.peek() else { continue };
            let mut family =
                encoder.encode_descriptor(name, help, unit.as_ref(), metric(first).metric_type())?;
            for (labels, flow) in used {
                metric(flow).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

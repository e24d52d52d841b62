//! Request durations, as the client sees them and as the endpoint takes them.

use super::{
    SERIES_LIMIT,
    capped::{Capped, Labels, OTHER},
    histogram::{Histogram, REQUEST_BOUNDS},
    spliced::Series,
};
use crate::{
    flow::{LaneLabel, Reason, RequestRecord},
    grpc,
};
use hashbrown::Equivalent;
use http::StatusCode;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabel, EncodeLabelSet, EncodeMetric, LabelSetEncoder},
    metrics::MetricType,
    registry::Unit,
};
use proxy_common::{
    policy::method,
    tally::{Tally, TallyKey},
};
use std::{fmt, sync::Arc};

/// Methods that OpenTelemetry knows; any other is `_OTHER`, or clients would make series.
const METHODS: [&str; 9] = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"];

/// What `http_response_status_code` says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Status {
    /// No answer: the label is left out.
    None,
    /// A registered status.
    Code(u16),
    /// An unregistered one, by its class (`5xx`), or endpoints would make series.
    Class(u16),
    /// No room for it.
    Other,
}

impl From<u16> for Status {
    fn from(code: u16) -> Self {
        match StatusCode::from_u16(code) {
            Ok(status) if status.canonical_reason().is_some() => Self::Code(code),
            Ok(_) => Self::Class(code / 100),
            Err(_) => Self::None,
        }
    }
}

/// The labels of the histograms, owned or borrowed from a record.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct RequestLabels<S> {
    method: &'static str,
    status: Status,
    version: &'static str,
    grpc: Option<grpc::Status>,
    route: Option<S>,
    source: S,
    destination: S,
    lane: &'static str,
    error: Option<&'static str>,
}

impl<'a> RequestLabels<&'a str> {
    fn of(record: &'a RequestRecord) -> Self {
        let method = METHODS.into_iter().find(|known| *known == record.method.as_str());
        Self {
            method: method.unwrap_or("_OTHER"),
            status: record.status.into(),
            version: match record.protocol {
                _ if record.is_tunnel() => "1.1",
                protocol => protocol.strip_prefix("HTTP/").unwrap_or(OTHER),
            },
            grpc: record.grpc_status,
            route: record.route.as_deref().or(record.cluster.as_deref()),
            source: &record.source_workload,
            destination: &record.destination_workload,
            lane: record.lane.label(),
            error: record.reason.map(Reason::label),
        }
    }
}

impl<'a> RequestLabels<&'a str> {
    /// Of requests that the kernel half carried.
    pub(super) fn of_spliced(key: &TallyKey, series: &'a Series) -> Self {
        Self {
            method: method_of(key.method),
            status: match u16::try_from(key.status) {
                Ok(0) | Err(_) => Status::Other,
                Ok(code) => code.into(),
            },
            version: "1.1",
            grpc: None,
            route: Some(&series.route),
            source: &series.source,
            destination: &series.destination,
            lane: LaneLabel::Splice.label(),
            error: None,
        }
    }
}

/// The name of a [`method`] bit.
const fn method_of(bit: u32) -> &'static str {
    match bit {
        method::GET => "GET",
        method::HEAD => "HEAD",
        method::POST => "POST",
        method::PUT => "PUT",
        method::DELETE => "DELETE",
        method::OPTIONS => "OPTIONS",
        method::PATCH => "PATCH",
        _ => "_OTHER",
    }
}

impl Equivalent<RequestLabels<Arc<str>>> for RequestLabels<&str> {
    fn equivalent(&self, key: &RequestLabels<Arc<str>>) -> bool {
        self.method == key.method
            && self.status == key.status
            && self.version == key.version
            && self.grpc == key.grpc
            && self.route == key.route.as_deref()
            && self.source == &*key.source
            && self.destination == &*key.destination
            && self.lane == key.lane
            && self.error == key.error
    }
}

impl From<&RequestLabels<&str>> for RequestLabels<Arc<str>> {
    fn from(borrowed: &RequestLabels<&str>) -> Self {
        Self {
            method: borrowed.method,
            status: borrowed.status,
            version: borrowed.version,
            grpc: borrowed.grpc,
            route: borrowed.route.map(Arc::from),
            source: borrowed.source.into(),
            destination: borrowed.destination.into(),
            lane: borrowed.lane,
            error: borrowed.error,
        }
    }
}

impl Labels for RequestLabels<Arc<str>> {
    /// First without the names that configuration brings, then without any.
    fn coarser(&self) -> Self {
        let other: Arc<str> = OTHER.into();
        let named = self.route.as_deref() != Some(OTHER);
        Self {
            method: if named { self.method } else { "_OTHER" },
            status: if named { self.status } else { Status::Other },
            version: if named { self.version } else { OTHER },
            grpc: if named { self.grpc } else { None },
            route: Some(Arc::clone(&other)),
            source: Arc::clone(&other),
            destination: other,
            lane: if named { self.lane } else { OTHER },
            error: if named { self.error } else { None },
        }
    }
}

impl EncodeLabelSet for RequestLabels<Arc<str>> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        ("http_request_method", self.method).encode(encoder.encode_label())?;
        let status = "http_response_status_code";
        match self.status {
            Status::None => {}
            Status::Code(code) => (status, code).encode(encoder.encode_label())?,
            Status::Class(class) => (status, format!("{class}xx")).encode(encoder.encode_label())?,
            Status::Other => (status, OTHER).encode(encoder.encode_label())?,
        }
        if let Some(route) = &self.route {
            ("http_route", &**route).encode(encoder.encode_label())?;
        }
        ("source_workload", &*self.source).encode(encoder.encode_label())?;
        ("destination_workload", &*self.destination).encode(encoder.encode_label())?;
        ("lane", self.lane).encode(encoder.encode_label())?;
        ("network_protocol_version", self.version).encode(encoder.encode_label())?;
        if let Some(status) = self.grpc {
            ("grpc_status", status.label()).encode(encoder.encode_label())?;
        }
        if let Some(error) = self.error {
            ("error_type", error).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// The histograms of one label set.
#[derive(Debug)]
pub(super) struct Exchange {
    server: Histogram,
    client: Histogram,
    first_byte: Histogram,
    body: Histogram,
}

impl Exchange {
    fn new() -> Self {
        let empty = || Histogram::new(REQUEST_BOUNDS);
        Self { server: empty(), client: empty(), first_byte: empty(), body: empty() }
    }
}

/// `http_server_request_duration_seconds` and what it consists of.
#[derive(Debug)]
pub(super) struct Requests(Capped<RequestLabels<Arc<str>>, Exchange>);

impl Requests {
    pub(super) fn new() -> Self {
        Self(Capped::new(SERIES_LIMIT, Exchange::new))
    }

    /// Counts a request that was answered with HTTP, by whomever, or by nobody any more.
    pub(super) fn observe(&self, record: &RequestRecord) {
        let mut labels = RequestLabels::of(record);
        let upstream = record.upstream_duration;
        let own_answer = record.is_own_answer();
        // What the request took; how long its tunnel lasted is up to its two ends.
        let whole = record.time_to_first_byte.filter(|_| record.is_tunnel()).unwrap_or(record.duration);
        self.0.with(&labels, |exchange| {
            exchange.server.observe(whole);
            if let Some(first_byte) = record.time_to_first_byte {
                exchange.first_byte.observe(first_byte);
                exchange.body.observe(whole.saturating_sub(first_byte));
            }
            if let (Some(duration), false) = (upstream, own_answer) {
                exchange.client.observe(duration);
            }
        });
        if let (Some(duration), true) = (upstream, own_answer) {
            // The status is ours: the endpoint gave none.
            labels.status = Status::None;
            self.0.with(&labels, |exchange| exchange.client.observe(duration));
        }
    }

    /// Counts requests that the kernel half carried: the endpoint takes all their time.
    pub(super) fn add(&self, labels: &RequestLabels<&str>, tally: &Tally) {
        let whole_ns = tally.first_byte_ns.saturating_add(tally.body_ns);
        self.0.with(labels, |exchange| {
            exchange.server.add(&tally.exchange, whole_ns);
            exchange.client.add(&tally.exchange, whole_ns);
            exchange.first_byte.add(&tally.first_byte, tally.first_byte_ns);
            exchange.body.add(&tally.body, tally.body_ns);
        });
    }

    /// Drops series of workloads and routes that `known` does not know any more, if room is short.
    pub(super) fn prune(&self, known: impl Fn(&str) -> bool) {
        self.0.prune(|labels| {
            known(&labels.source) && known(&labels.destination) && labels.route.as_deref().is_none_or(&known)
        });
    }

    /// How many requests a lane carried, of the series that are there.
    pub(super) fn carried_by(&self, lane: LaneLabel) -> u64 {
        let series = self.0.snapshot();
        let of_lane = series.iter().filter(|(labels, _)| labels.lane == lane.label());
        of_lane.map(|(_, exchange)| exchange.server.count()).sum()
    }
}

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let series = self.0.snapshot();
        type Side = fn(&Exchange) -> &Histogram;
        let families: [(&str, &str, Side); 4] = [
            (
                "http_server_request_duration",
                "From a request's first byte read to its answer's last byte written",
                |exchange| &exchange.server,
            ),
            ("http_client_request_duration", "How long the endpoint took", |exchange| &exchange.client),
            (
                "weir_time_to_first_byte",
                "From a request's first byte read to the first byte of the endpoint's answer",
                |exchange| &exchange.first_byte,
            ),
            (
                "weir_answer_body_duration",
                "From the first byte of the endpoint's answer to its last byte written",
                |exchange| &exchange.body,
            ),
        ];
        for (name, help, side) in families {
            let mut used = series.iter().filter(|(_, one)| !side(one).is_empty()).peekable();
            if used.peek().is_none() {
                continue;
            }
            let mut family =
                encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
            for (labels, exchange) in used {
                side(exchange).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

//! What the kernel half is asked at scrape time.

use crate::status::{KernelStatus, KernelView, MapStatus, ProgramStatus};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

/// How old a reading may be: a storm of scrapes reads the maps once.
const FRESH: Duration = Duration::from_secs(1);

/// The state of the kernel half, or why it could not be read.
pub(crate) type Reading = Result<Arc<KernelStatus>, Arc<str>>;

/// The kernel half, once there is one, and its latest reading.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    view: OnceLock<Arc<dyn KernelView>>,
    latest: Mutex<Option<(Instant, Reading)>>,
}

impl Kernel {
    /// From now on there is a kernel half. Only the first call counts.
    pub(crate) fn attach(&self, view: Arc<dyn KernelView>) {
        self.view.get_or_init(|| view);
    }

    /// The kernel half, if there is one.
    pub(super) fn view(&self) -> Option<&dyn KernelView> {
        self.view.get().map(|view| &**view)
    }

    /// A reading of the last second; `None` without a kernel half.
    pub(crate) fn status(&self) -> Option<Reading> {
        let view = self.view.get()?;
        let mut latest = self.latest.lock();
        if let Some((when, reading)) = &*latest
            && when.elapsed() < FRESH
        {
            return Some(reading.clone());
        }
        let reading = view.kernel_status().map(Arc::new).map_err(|error| {
            tracing::warn!(error = format!("{error:#}"), "cannot read the state of the kernel half");
            Arc::from(format!("{error:#}"))
        });
        *latest = Some((Instant::now(), reading.clone()));
        Some(reading)
    }
}

/// The kernel families at scrape time.
#[derive(Debug)]
pub(super) struct KernelCollector(pub(super) Arc<Kernel>);

impl Collector for KernelCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        match self.0.status() {
            Some(Ok(status)) => encode(&status, encoder),
            Some(Err(_)) | None => Ok(()),
        }
    }
}

/// Counters that have a family of their own instead of an `event` label.
const OWN_FAMILY: [&str; 3] = ["redirected_bytes", "events_lost", "access_log_lost"];

fn encode(status: &KernelStatus, mut encoder: DescriptorEncoder) -> fmt::Result {
    let encoder = &mut encoder;
    let maps = |read: fn(&MapStatus) -> u64| {
        status.maps.iter().map(move |map| ([("map", map.name.as_str())], read(map)))
    };
    gauges(encoder, "weir_bpf_map_entries", "Entries in use", maps(|map| map.entries))?;
    gauges(encoder, "weir_bpf_map_capacity", "Entries that fit", maps(|map| map.capacity))?;
    programs(status, encoder)?;

    let events = status.counters.iter().filter(|(name, _)| !OWN_FAMILY.contains(&name.as_str()));
    let events = events.map(|(name, value)| ([("event", name.as_str())], *value));
    counters(encoder, "weir_kernel_events", "What the kernel half did, by event", events)?;
    let [redirected, lost, lines] = OWN_FAMILY.map(|name| status.counters.get(name).copied());
    let help = "Bytes that went past the TCP stack";
    counter(encoder, "weir_redirected", help, Some(&Unit::Bytes), redirected)?;
    counter(encoder, "weir_ringbuf_lost_events", "Events that did not fit into the ring buffer", None, lost)?;
    let help = "Carried requests without a line, which did not fit into the ring buffer";
    counter(encoder, "weir_access_log_lost", help, None, lines)?;

    let states = status.workloads;
    let workloads =
        [("probation", states.probation), ("accelerated", states.accelerated), ("barred", states.barred)];
    let workloads = workloads.map(|(state, count)| ([("state", state)], count));
    gauges(encoder, "weir_workloads", "Workloads by acceleration state", workloads.into_iter())?;
    let open = [("downstream", status.open_flows.downstream), ("upstream", status.open_flows.upstream)];
    let open = open.map(|(hop, count)| ([("hop", hop)], count));
    gauges(encoder, "weir_tcp_open_flows", "Connections that the kernel half follows", open.into_iter())?;
    let Some(pairs) = status.pairs else { return Ok(()) };
    let states = [("armed", pairs.armed), ("joined", pairs.joined)].map(|(state, n)| ([("state", state)], n));
    gauges(encoder, "weir_splice_pairs", "Connections of the splice lane, by state", states.into_iter())?;
    let help = "Connections that the splice lane has room for";
    let capacity = ConstGauge::new(i64::try_from(pairs.capacity).unwrap_or(i64::MAX));
    capacity.encode(encoder.encode_descriptor("weir_splice_pairs_capacity", help, None, MetricType::Gauge)?)
}

fn programs(status: &KernelStatus, encoder: &mut DescriptorEncoder) -> fmt::Result {
    type Statistic = fn(&ProgramStatus) -> Option<u64>;
    let families: [(&str, &str, Statistic); 2] = [
        ("weir_bpf_prog_run_time_ns", "Nanoseconds spent in the program", |program| program.run_time_ns),
        ("weir_bpf_prog_run_count", "Runs of the program", |program| program.run_count),
    ];
    for (name, help, read) in families {
        // The kernel leaves them 0 while `kernel.bpf_stats_enabled` is 0.
        let measured = status.programs.iter().filter(|program| program.run_count != Some(0));
        let readings =
            measured.filter_map(|program| Some(([("program", program.name.as_str())], read(program)?)));
        counters(encoder, name, help, readings)?;
    }
    Ok(())
}

fn counter(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: Option<u64>,
) -> fmt::Result {
    let Some(value) = value else { return Ok(()) };
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, unit, MetricType::Counter)?)
}

fn counters<S: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    readings: impl Iterator<Item = (S, u64)>,
) -> fmt::Result {
    let readings = readings.map(|(labels, value)| (labels, ConstCounter::new(value)));
    family(encoder, name, help, MetricType::Counter, readings)
}

fn gauges<S: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    readings: impl Iterator<Item = (S, u64)>,
) -> fmt::Result {
    let readings =
        readings.map(|(labels, value)| (labels, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))));
    family(encoder, name, help, MetricType::Gauge, readings)
}

fn family<S: EncodeLabelSet, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    kind: MetricType,
    readings: impl Iterator<Item = (S, M)>,
) -> fmt::Result {
    let mut readings = readings.peekable();
    if readings.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, metric) in readings {
        metric.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

//! How old the state of the source is, at scrape time.

use crate::source::freshness::Freshness;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};
use std::{fmt, sync::Arc, time::UNIX_EPOCH};

#[derive(Debug)]
pub(super) struct SourceCollector(pub(super) Arc<Freshness>);

impl Collector for SourceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let parts = self.0.parts();
        if parts.is_empty() {
            return Ok(());
        }
        let seconds = Some(&Unit::Seconds);
        let staleness = ConstGauge::new(self.0.staleness().as_secs_f64());
        let help = "For how long the source has not said what there is; 0 while it does";
        let family =
            encoder.encode_descriptor("weir_config_staleness", help, seconds, staleness.metric_type())?;
        staleness.encode(family)?;
        let help = "When the source last said something, Unix time, by what it was about";
        let name = "weir_config_last_sync_timestamp";
        let mut family = encoder.encode_descriptor(name, help, seconds, MetricType::Gauge)?;
        for (what, part) in parts {
            let since = part.last_sync.duration_since(UNIX_EPOCH).unwrap_or_default();
            ConstGauge::new(since.as_secs_f64()).encode(family.encode_family(&[("part", what)])?)?;
        }
        Ok(())
    }
}

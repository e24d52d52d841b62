//! What the agent itself costs, under the names that every Prometheus client uses.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};
use std::{
    fmt, fs,
    time::{SystemTime, UNIX_EPOCH},
};

/// The `process_*` families, read at scrape time.
#[derive(Debug)]
pub(super) struct Process {
    start: f64,
}

impl Process {
    /// Call at the process's start.
    pub(super) fn starting() -> Self {
        Self { start: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()) }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut one = |name, help, unit: Option<&Unit>, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        let seconds = Some(&Unit::Seconds);
        one(
            "process_start_time",
            "When the agent started, Unix time",
            seconds,
            &ConstGauge::new(self.start),
        )?;
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        one("process_cpu", "Processor time of all threads", seconds, &ConstCounter::new(cpu))?;
        if let Some(bytes) = resident_bytes() {
            one("process_resident_memory", "Memory in use", Some(&Unit::Bytes), &ConstGauge::new(bytes))?;
        }
        if let Some(open) = open_fds() {
            one("process_open_fds", "Open file descriptors", None, &ConstGauge::new(open))?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current.and_then(|most| i64::try_from(most).ok()) {
            one("process_max_fds", "File descriptors that may be open", None, &ConstGauge::new(most))?;
        }
        Ok(())
    }
}

fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    resident.trim().strip_suffix(" kB")?.parse::<i64>().ok()?.checked_mul(1024)
}

/// Without the one that counts them.
fn open_fds() -> Option<i64> {
    let all = fs::read_dir("/proc/self/fd").ok()?.count();
    i64::try_from(all.checked_sub(1)?).ok()
}

//! What is counted, under the names that operators know (OpenTelemetry HTTP semantic conventions;
//! `weir_` where nobody has a name). Labels hold what configuration names, never what clients send.

mod capped;
mod flows;
mod histogram;
mod http2;
pub(crate) mod kernel;
mod process;
mod request;
mod source;
mod spliced;
mod text;
mod tls;
mod upgrades;

pub(crate) use spliced::Series;
pub use text::Format;
pub(crate) use tls::{Handshake, Outcome};
pub(crate) use upgrades::Upgraded;

use crate::{
    admission::Oddity,
    flow::{AddressFallback, LaneLabel, RequestRecord},
    snapshot::Snapshot,
    source::freshness::Freshness,
    status::{Connections, KernelView},
};
use arc_swap::ArcSwap;
use capped::OTHER;
use kernel::Kernel;
use prometheus_client::{
    encoding::text as open_metrics,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};
use proxy_common::abi;
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

/// Series that a family may have; see [`capped::Capped`].
const SERIES_LIMIT: usize = 2000;

/// A family with these labels, all of them words of ours.
type Words<const N: usize> = Family<[(&'static str, &'static str); N], Counter>;

/// Every metric family of the agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What the labels of kernel events are looked up in.
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// The configuration has changed since series of what is gone were looked for.
    unpruned: AtomicBool,
    requests: Arc<request::Requests>,
    spliced: spliced::Spliced,
    flows: Arc<flows::Flows>,
    kernel: Arc<Kernel>,
    http2: http2::Http2,
    upgrades: upgrades::Upgrades,
    opaque: Counter,
    handshakes: tls::Handshakes,
    upstream_handshakes: tls::Handshakes,
    downstream: Gauge,
    downstream_opened: Counter,
    downstream_refused: Words<1>,
    bad_requests: Words<1>,
    bad_answers: Words<1>,
    upstream: Gauge,
    upstream_opened: Counter,
    address_fallback: Words<1>,
    policy_audit: Counter,
    workload_barred: Words<2>,
    access_log_dropped: Counter,
    config_last_reload_success: Gauge,
    config_reloads: Words<1>,
    config_generation: Gauge<u64, AtomicU64>,
    freshness: Arc<Freshness>,
    splice_speedup: Family<[(&'static str, &'static str); 1], Gauge<f64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            snapshot: Arc::default(),
            unpruned: AtomicBool::new(false),
            requests: Arc::new(request::Requests::new()),
            spliced: spliced::Spliced::new(),
            flows: Arc::new(flows::Flows::new()),
            kernel: Arc::default(),
            http2: http2::Http2::default(),
            upgrades: upgrades::Upgrades::default(),
            opaque: Counter::default(),
            handshakes: tls::Handshakes::new(),
            upstream_handshakes: tls::Handshakes::new(),
            downstream: Gauge::default(),
            downstream_opened: Counter::default(),
            downstream_refused: Family::default(),
            bad_requests: Family::default(),
            bad_answers: Family::default(),
            upstream: Gauge::default(),
            upstream_opened: Counter::default(),
            address_fallback: Family::default(),
            policy_audit: Counter::default(),
            workload_barred: Family::default(),
            access_log_dropped: Counter::default(),
            config_last_reload_success: Gauge::default(),
            config_reloads: Family::default(),
            config_generation: Gauge::default(),
            freshness: Arc::default(),
            splice_speedup: Family::default(),
        };
        metrics.register_collectors();
        metrics.register_relay();
        metrics.register_agent();
        metrics
    }
}

/// Registration: names and help texts.
impl Metrics {
    fn register_collectors(&mut self) {
        self.registry.register_collector(Box::new(Arc::clone(&self.requests)));
        self.registry.register_collector(Box::new(Arc::clone(&self.flows)));
        self.handshakes.register(&mut self.registry);
        self.upstream_handshakes.register_upstream(&mut self.registry);
        self.registry.register_collector(Box::new(tls::Certificates(Arc::clone(&self.snapshot))));
        self.registry.register_collector(Box::new(source::SourceCollector(Arc::clone(&self.freshness))));
        self.registry.register_collector(Box::new(kernel::KernelCollector(Arc::clone(&self.kernel))));
    }

    fn register_relay(&mut self) {
        let all = &mut self.registry;
        self.http2.register(all);
        self.upgrades.register(all);
        all.register("weir_opaque_connections", "Connections tunnelled as TCP", self.opaque.clone());
        all.register("weir_downstream_connections", "Open connections from clients", self.downstream.clone());
        all.register(
            "weir_downstream_opened",
            "Accepted connections from clients",
            self.downstream_opened.clone(),
        );
        let help =
            "Connections from clients that were refused, by the limit that was reached or what was wrong";
        all.register("weir_downstream_refused", help, self.downstream_refused.clone());
        let help = "Requests that were not admitted, by what was odd about them";
        all.register("weir_bad_requests", help, self.bad_requests.clone());
        let help = "Answers of endpoints that were not admitted, by what was odd about them";
        all.register("weir_bad_answers", help, self.bad_answers.clone());
        all.register("weir_upstream_connections", "Open connections to endpoints", self.upstream.clone());
        all.register("weir_upstream_opened", "New connections to endpoints", self.upstream_opened.clone());
        let help = "Endpoint connections that show the node's address instead of the client's";
        all.register("weir_address_fallback", help, self.address_fallback.clone());
        let help = "Requests and opaque connections that a policy in audit mode would have denied";
        all.register("weir_policy_audit_denials", help, self.policy_audit.clone());
        let help = "Workloads found unfit for redirects, by the system call that showed it";
        all.register("weir_workload_barred", help, self.workload_barred.clone());
        let help = "Access-log lines lost to a full queue or a failing target";
        all.register("weir_access_log_dropped", help, self.access_log_dropped.clone());
    }

    fn register_agent(&mut self) {
        let all = &mut self.registry;
        let help = "1 when the latest reading of the configuration was accepted whole";
        all.register("weir_config_last_reload_success", help, self.config_last_reload_success.clone());
        all.register("weir_config_reloads", "Readings of the configuration", self.config_reloads.clone());
        for result in ["success", "failure"] {
            drop(self.config_reloads.get_or_create(&[("result", result)]));
        }
        let help = "Changes of the configuration in force";
        all.register("weir_config_generation", help, self.config_generation.clone());
        let help = "How many times longer clients of the control group wait than those of the splice lane";
        all.register("weir_splice_speedup_ratio", help, self.splice_speedup.clone());

        let mut build = vec![("version", env!("CARGO_PKG_VERSION"))];
        build.extend(option_env!("WEIR_COMMIT").map(|commit| ("commit", commit)));
        all.register("weir_build", "What is running", Info::new(build));
        all.register_collector(Box::new(process::Process::starting()));
    }
}

/// How many times longer clients wait in relay than in the splice lane.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Speedup {
    /// The estimate: above 1 the lane is faster.
    pub ratio: f64,
    /// Lower end of its 95 % confidence interval.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
}

/// What the parts of the agent report.
impl Metrics {
    /// A request, or an opaque connection, has ended.
    pub fn request(&self, record: &RequestRecord) {
        if record.policy_audit.is_some() {
            self.policy_audit.inc();
        }
        match record.lane {
            // Counted as a handshake.
            _ if record.protocol == "TLS" => {}
            LaneLabel::Opaque => {
                self.opaque.inc();
            }
            LaneLabel::Splice | LaneLabel::Relay | LaneLabel::Plain => self.requests.observe(record),
        }
    }

    /// The splice lane has been compared with its control group.
    pub fn splice_speedup(&self, speedup: Speedup) {
        let Speedup { ratio, lower, upper } = speedup;
        for (bound, value) in [("estimate", ratio), ("lower", lower), ("upper", upper)] {
            self.splice_speedup.get_or_create(&[("bound", bound)]).set(value);
        }
    }

    /// What the requests of a connection count for that the kernel half carries: route, source and
    /// destination.
    pub(crate) fn series(&self, route: &Arc<str>, source: &Arc<str>, destination: &Arc<str>) -> Arc<Series> {
        self.spliced.series([route, source, destination].map(Arc::clone))
    }

    /// The series that the kernel half calls by this number.
    pub(crate) fn series_of(&self, id: u32) -> Arc<Series> {
        self.spliced.series_of(id)
    }

    /// A TLS handshake with a client has ended.
    pub(crate) fn tls_handshake(&self, handshake: &Handshake) {
        self.handshakes.observe(handshake);
    }

    /// The same with an endpoint.
    pub(crate) fn tls_with_endpoint(&self, handshake: &Handshake) {
        self.upstream_handshakes.observe(handshake);
    }

    /// What HTTP/2 with clients reports.
    pub(crate) fn http2(&self) -> &http2::Http2 {
        &self.http2
    }

    /// A downstream connection was accepted.
    pub fn downstream_opened(&self) {
        self.downstream_opened.inc();
        self.downstream.inc();
    }

    /// A downstream connection ended.
    pub fn downstream_closed(&self) {
        self.downstream.dec();
    }

    /// A downstream connection was refused; `limit` names what was full or wrong.
    pub fn downstream_refused(&self, limit: &'static str) {
        self.downstream_refused.get_or_create(&[("limit", limit)]).inc();
    }

    /// A connection is upgraded until what this returns is dropped.
    pub(crate) fn upgraded(&self) -> Upgraded {
        self.upgrades.switched()
    }

    /// A connection stays HTTP though its client would have it upgraded.
    pub(crate) fn upgrade_declined(&self) {
        self.upgrades.declined();
    }

    /// A request was not admitted.
    pub(crate) fn bad_request(&self, oddity: Oddity) {
        self.bad_requests.get_or_create(&[("reason", oddity.label())]).inc();
    }

    /// An endpoint's answer was not admitted.
    pub(crate) fn bad_answer(&self, oddity: Oddity) {
        self.bad_answers.get_or_create(&[("reason", oddity.label())]).inc();
    }

    /// A new upstream connection was opened (not taken from the pool).
    pub fn upstream_opened(&self) {
        self.upstream_opened.inc();
        self.upstream.inc();
    }

    /// An upstream connection ended.
    pub fn upstream_closed(&self) {
        self.upstream.dec();
    }

    /// The endpoint sees the node's address instead of the client's.
    pub fn address_fallback(&self, why: AddressFallback) {
        self.address_fallback.get_or_create(&[("reason", why.label())]).inc();
    }

    /// The kernel half saw a flow end.
    pub fn flow_closed(&self, event: &abi::FlowClosed) {
        self.flows.observe(event, &self.snapshot.load());
    }

    /// The kernel half took a workload out of acceleration.
    pub fn workload_barred(&self, event: &abi::WorkloadBarred) {
        let by = abi::barred_by_label(event.by);
        let phase = if event.admitted == 0 { "probation" } else { "tripwire" };
        self.workload_barred.get_or_create(&[("by", by), ("phase", phase)]).inc();
    }

    /// The counter of lost access-log lines, for [`crate::accesslog::AccessLog::start`].
    #[must_use]
    pub fn access_log_dropped(&self) -> Counter {
        self.access_log_dropped.clone()
    }
}

/// What the agent's start and its configuration report, through [`crate::status::Board`].
impl Metrics {
    pub(crate) fn attach_kernel(&self, view: Arc<dyn KernelView>) {
        self.kernel.attach(view);
    }

    pub(crate) fn config_in_force(&self, snapshot: Arc<Snapshot>) {
        self.config_generation.set(snapshot.generation);
        self.snapshot.store(snapshot);
        self.unpruned.store(true, Ordering::Release);
    }

    /// How old the source's state is; sources write it.
    pub(crate) fn freshness(&self) -> &Arc<Freshness> {
        &self.freshness
    }

    pub(crate) fn config_read(&self, whole: bool) {
        self.config_last_reload_success.set(whole.into());
        let result = if whole { "success" } else { "failure" };
        self.config_reloads.get_or_create(&[("result", result)]).inc();
    }

    /// Makes room where series of objects that are gone take it: looks at all objects, so it is done when
    /// somebody reads, and not at every change.
    fn prune(&self) {
        if !self.unpruned.swap(false, Ordering::AcqRel) {
            return;
        }
        let snapshot = self.snapshot();
        let endpoints = snapshot.clusters.unsorted().flat_map(|cluster| &cluster.endpoints);
        let mut names: HashSet<&str> = HashSet::from(["unknown", OTHER]);
        names.extend(snapshot.clusters.unsorted().map(|cluster| &*cluster.name));
        names.extend(snapshot.routes.names());
        names.extend(snapshot.workload_by_ip.values().map(|name| &**name));
        names.extend(snapshot.pods.iter().map(|pod| &*pod.key));
        names.extend(endpoints.filter_map(|endpoint| endpoint.workload.as_deref()));
        self.collect();
        self.requests.prune(|name| names.contains(name));
        self.flows.prune(|name| names.contains(name));
    }
}

/// What is read.
impl Metrics {
    /// All families with at least one series, as text.
    pub fn text(&self, format: Format) -> Result<String, fmt::Error> {
        self.prune();
        self.collect();
        let mut text = String::new();
        open_metrics::encode(&mut text, &self.registry)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Prometheus => text::prometheus_of(&text),
        })
    }

    /// Adds what the kernel half has counted.
    fn collect(&self) {
        if let Some(view) = self.kernel.view() {
            self.spliced.collect(view, &self.requests, Instant::now());
        }
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(crate) fn connections(&self) -> Connections {
        Connections { downstream: self.downstream.get(), upstream: self.upstream.get() }
    }

    /// Requests and opaque connections by lane.
    pub(crate) fn lanes(&self) -> BTreeMap<String, u64> {
        self.collect();
        let http = [LaneLabel::Splice, LaneLabel::Relay, LaneLabel::Plain]
            .map(|lane| (lane, self.requests.carried_by(lane)));
        let all = http.into_iter().chain([(LaneLabel::Opaque, self.opaque.get())]);
        all.map(|(lane, count)| (lane.label().to_owned(), count)).collect()
    }
}

#[cfg(test)]
mod tests;

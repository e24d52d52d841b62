//! Loads, sizes, sets and tests the kernel half, in that order.

use super::{
    Datapath, Kernel, SelfTest, Sizes,
    btf::KernelLayout,
    cgroups,
    datagrams::{self, Datagrams},
    events::{EventReader, KernelEvent, Rings},
    pairs::Pairs,
    pins::Pins,
    selftest::LaneTables,
    tables::Tables,
    tallies::Tallies,
    tracepoints,
    undisturbed::undisturbed,
    uplinks,
    workloads::Workloads,
};
use crate::{
    config::{Acceleration, Config, FailurePolicy},
    status::Degraded,
};
use anyhow::{Context, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupSock, CgroupSockAddr, SchedClassifier, SkMsg, SockOps},
};
use parking_lot::Mutex;
use proxy_common::{
    abi::{ACCELERATION_AUTO, ACCELERATION_OFF, ACCELERATION_ON, Settings, barred_by_label},
    addr::{AddrWords, words_of},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The kernel half, as `cargo xtask build` made it; empty where it was not built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-ebpf"));

/// They change addresses that applications give and see.
pub(super) const ADDRESS_HOOKS: [&str; 4] = ["weir_connect4", "weir_connect6", "weir_peer4", "weir_peer6"];
/// The ring buffer of carried exchanges: about 25 000 small ones.
const CARRIED_BYTES: u32 = 8 << 20;

/// What loading needs to know.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    listeners: Vec<SocketAddr>,
    acceleration: Acceleration,
    probation_requests: u32,
    fail_closed: bool,
    request_cap: u32,
    answer_cap: u32,
    max_flows: u32,
    max_services: u32,
    splice_pairs: u32,
    access_log: bool,
    pod_cgroup: Option<PathBuf>,
    steer_host: bool,
    uplinks: Vec<String>,
    pin_dir: Option<PathBuf>,
}

impl LoadOptions {
    /// From the agent's configuration and the listeners it has bound.
    #[must_use]
    pub fn new(config: &Config, listeners: Vec<SocketAddr>) -> Self {
        Self {
            listeners,
            acceleration: config.acceleration,
            probation_requests: config.probation_requests,
            fail_closed: config.failure_policy == FailurePolicy::Closed,
            request_cap: config.redirect_request_cap,
            answer_cap: config.redirect_answer_cap,
            max_flows: config.max_flows,
            max_services: config.max_services,
            splice_pairs: config.splice_pairs,
            access_log: config.access_log != "off",
            pod_cgroup: config.pod_cgroup.clone(),
            steer_host: config.steer_host,
            uplinks: config.uplink.clone(),
            pin_dir: config.pin_dir.clone(),
        }
    }

    fn sizes(&self) -> Sizes {
        let flows = self.max_flows.max(1);
        Sizes {
            services: self.max_services.max(1),
            flows,
            flow_records: flows.saturating_mul(2),
            sockets: flows.saturating_mul(2),
            pairs: self.splice_pairs.min(flows),
            carried: if self.access_log { CARRIED_BYTES } else { 4096 },
        }
    }
}

impl Datapath {
    /// Loads the kernel half and runs its self-test. Nothing is steered yet. `sink` gets the kernel's
    /// events, on a thread of its own.
    pub fn load(
        options: &LoadOptions,
        sink: impl FnMut(KernelEvent<'_>) + Send + 'static,
    ) -> anyhow::Result<Self> {
        ensure_built()?;
        let cgroup_root = cgroups::mount_point()?;
        let pod_parent = steered(options, &cgroup_root)?;
        let (pins, sizes) = (pins(options)?, options.sizes());
        let mut ebpf = undisturbed(|| load_object(sizes))?;
        let (tables, rings) = Tables::take(&mut ebpf)?;
        let array = Tables::take_pairs(&mut ebpf)?;
        let tallies = Tallies::take(&mut ebpf)?;

        let mut degraded = Vec::new();
        let layout = layout(options, &mut degraded);
        let mut settings = settings(options, layout);
        let pods = place_pods(options, &cgroup_root, &mut settings)?;
        tables.write_settings(&settings)?;
        attach_msg(&mut ebpf, &tables)?;
        let pairs = may_splice(&settings, sizes).then(|| Pairs::map(array.fd(), sizes.pairs)).transpose()?;
        let lane = pairs.as_ref().map(|pairs| LaneTables { pairs, tallies: &tallies, settings });
        let self_test = layout.map(|_| SelfTest::run(&tables, lane.as_ref()));
        apply_findings(&mut settings, self_test.as_ref(), options.acceleration, &mut degraded);
        if settings.acceleration != ACCELERATION_OFF
            && tracepoints::attach(&mut ebpf, &mut degraded).is_none()
        {
            settings.acceleration = ACCELERATION_OFF;
        }
        let proven = self_test.as_ref().is_some_and(SelfTest::proves_the_lane);
        let pairs = pairs.filter(|_| proven && may_splice(&settings, sizes)).map(Arc::new);
        settings.splice = u32::from(pairs.is_some());
        tables.write_settings(&settings)?;
        tables.reset_counters().context("map COUNTERS")?;

        let mode =
            if settings.acceleration == ACCELERATION_OFF { Acceleration::Off } else { options.acceleration };
        let workloads = Arc::new(Workloads::new(mode, options.probation_requests));
        let events = start_events(rings, Arc::clone(&workloads), sink)?;
        Ok(Self {
            kernel: Some(Arc::new(Kernel {
                ebpf: Mutex::new(ebpf),
                tables,
                pairs,
                tallies,
                sizes,
                settings: Mutex::new(settings),
                written: Mutex::default(),
                chosen: Mutex::default(),
                policies: Mutex::default(),
                access: Mutex::default(),
                pod_watch: Mutex::default(),
                datagrams: Mutex::new(Datagrams::default()),
                choices: arc_swap::ArcSwap::default(),
                workloads,
                wanted: options.acceleration,
                self_test,
                degraded,
                cgroup_root,
                pod_parent,
                pods,
                events: Mutex::new(Some(events)),
                uplinks: options.uplinks.clone(),
                attached: Mutex::default(),
                pins: Mutex::new(pins),
            })),
        })
    }
}

fn ensure_built() -> anyhow::Result<()> {
    ensure!(
        !OBJECT.is_empty(),
        "this weir was built without its kernel half: build it with `cargo xtask build`, or run with \
         --steering iptables"
    );
    Ok(())
}

/// Where links are to outlive the agent.
fn pins(options: &LoadOptions) -> anyhow::Result<Option<Pins>> {
    options.pin_dir.as_deref().map(Pins::open).transpose().context("--pin-dir")
}

fn may_splice(settings: &Settings, sizes: Sizes) -> bool {
    settings.acceleration != ACCELERATION_OFF && settings.agent_only == 0 && sizes.pairs > 0
}

fn load_object(sizes: Sizes) -> anyhow::Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (map, size) in [
        ("SERVICES", sizes.services),
        ("ENDPOINTS", sizes.services),
        ("ORIG_DST", sizes.flows),
        ("FLOWS", sizes.flow_records),
        ("INBOUND", sizes.flows),
        ("PEERS", sizes.services),
        ("UPSTREAMS", sizes.flows),
        ("SOCKETS", sizes.sockets),
        ("STATES", sizes.sockets),
        ("PAIRS", sizes.pairs.max(1)),
        ("PAIRED", sizes.pairs.max(1).saturating_mul(2)),
        ("CARRIED", sizes.carried),
    ] {
        loader.map_max_entries(map, size);
    }
    let mut ebpf = loader.load(OBJECT).context(
        "the kernel half cannot be loaded: it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or root); \
         without them run with --steering iptables",
    )?;
    for name in ADDRESS_HOOKS {
        program::<CgroupSockAddr>(&mut ebpf, name)?.load().with_context(|| load_failed(name))?;
    }
    program::<CgroupSock>(&mut ebpf, "weir_release")?.load().with_context(|| load_failed("weir_release"))?;
    program::<SockOps>(&mut ebpf, "weir_sockops")?.load().with_context(|| load_failed("weir_sockops"))?;
    program::<SkMsg>(&mut ebpf, "weir_msg")?.load().with_context(|| load_failed("weir_msg"))?;
    program::<SchedClassifier>(&mut ebpf, "weir_drained")?
        .load()
        .with_context(|| load_failed("weir_drained"))?;
    datagrams::load(&mut ebpf)?;
    uplinks::load(&mut ebpf)?;
    tracepoints::load(&mut ebpf)?;
    Ok(ebpf)
}

pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).with_context(|| format!("the kernel half has no program {name}"))?;
    Ok(program.try_into()?)
}

pub(super) fn load_failed(name: &str) -> String {
    format!("the kernel refused program {name}")
}

fn layout(options: &LoadOptions, degraded: &mut Vec<Degraded>) -> Option<KernelLayout> {
    let read = KernelLayout::read();
    match read {
        Ok(layout) => Some(layout),
        Err(error) => {
            if options.acceleration != Acceleration::Off {
                degraded.push(Degraded {
                    what: "acceleration".into(),
                    why: format!("{error:#}"),
                    fix: "use a kernel with BTF, or --acceleration off".into(),
                });
            }
            None
        }
    }
}

fn settings(options: &LoadOptions, layout: Option<KernelLayout>) -> Settings {
    let listener = |v6: bool| -> AddrWords {
        options.listeners.iter().map(SocketAddr::ip).find(|ip| ip.is_ipv6() == v6).map_or([0; 4], words_of)
    };
    let acceleration = match (layout, options.acceleration) {
        (None, _) | (_, Acceleration::Off) => ACCELERATION_OFF,
        (_, Acceleration::On) => ACCELERATION_ON,
        (_, Acceleration::Auto | Acceleration::AgentOnly) => ACCELERATION_AUTO,
    };
    let layout = layout.unwrap_or_default();
    Settings {
        listener4: listener(false),
        listener6: listener(true),
        listener_port: options.listeners.first().map_or(0, SocketAddr::port),
        fail_closed: u16::from(options.fail_closed),
        acceleration,
        request_cap: options.request_cap,
        answer_cap: options.answer_cap,
        steering: 0,
        agent_only: u32::from(options.acceleration == Acceleration::AgentOnly),
        sock_cgroup: layout.sock_cgroup,
        cgroup_kn: layout.cgroup_kn,
        kn_id: layout.kn_id,
        sock_user_data: layout.sock_user_data,
        psock_ingress: layout.psock_ingress,
        sock_err: layout.sock_err,
        sock_socket: layout.sock_socket,
        socket_file: layout.socket_file,
        file_flags: layout.file_flags,
        agent_pid: std::process::id(),
        access_log: u32::from(options.access_log),
        ..Settings::default()
    }
}

/// The cgroup whose processes are steered.
fn steered(options: &LoadOptions, root: &Path) -> anyhow::Result<PathBuf> {
    if options.steer_host {
        Ok(root.to_owned())
    } else {
        cgroups::pod_parent(options.pod_cgroup.as_deref(), root)
    }
}

/// Tells the kernel half which cgroups are pods': those below this one.
fn place_pods(options: &LoadOptions, root: &Path, settings: &mut Settings) -> anyhow::Result<PathBuf> {
    let pods = cgroups::pod_parent(options.pod_cgroup.as_deref(), root).unwrap_or_else(|_| root.to_owned());
    (settings.pods_level, settings.pods_cgroup) = cgroups::place(&pods, root)?;
    Ok(pods)
}

/// The sk_msg program must sit on the map before sockets join it.
fn attach_msg(ebpf: &mut Ebpf, tables: &Tables) -> anyhow::Result<()> {
    let sockets = tables.sockets.lock();
    let msg: &mut SkMsg = program(ebpf, "weir_msg")?;
    msg.attach(sockets.fd()).context("cannot attach weir_msg to the socket map")?;
    Ok(())
}

fn apply_findings(
    settings: &mut Settings,
    found: Option<&SelfTest>,
    wanted: Acceleration,
    degraded: &mut Vec<Degraded>,
) {
    let Some(found) = found else { return };
    settings.splice_bars = u32::from(!found.splice);
    settings.fionread_bars = u32::from(!found.fionread);
    settings.blocking_bars = u32::from(!found.blocking);
    if let Some(broken) = &found.lane_broken {
        degraded.push(Degraded {
            what: "splice lane".into(),
            why: format!("its self-test failed on this kernel: {broken}"),
            fix: "every request is relayed; --splice-pairs 0 silences this".into(),
        });
    }
    if let Some(broken) = &found.broken {
        settings.acceleration = ACCELERATION_OFF;
        if wanted != Acceleration::Off {
            degraded.push(Degraded {
                what: "acceleration".into(),
                why: format!("the self-test failed on this kernel: {broken}"),
                fix: "use another kernel, or --acceleration off to silence this".into(),
            });
        }
    }
}

fn start_events(
    rings: Rings,
    workloads: Arc<Workloads>,
    mut sink: impl FnMut(KernelEvent<'_>) + Send + 'static,
) -> anyhow::Result<EventReader> {
    let reader = EventReader::start(rings, move |event| {
        if let KernelEvent::WorkloadBarred(barred) = event {
            workloads.barred(barred.cgroup_id);
            tracing::warn!(
                cgroup_id = barred.cgroup_id,
                pid = barred.pid,
                by = barred_by_label(barred.by),
                during = if barred.admitted == 0 { "probation" } else { "acceleration" },
                "workload is not accelerated any more: it uses its sockets in a way that redirected ones get wrong"
            );
        }
        sink(event);
    });
    reader.context("cannot start the reader of kernel events")
}

//! Start and stop, in order.
//!
//! Everything that can fail is done before the first connection is steered; steering begins last.
//! On the way out it ends first, so that what is left are connections of ours that come to an end.

use crate::{
    accesslog::AccessLog,
    admin::Admin,
    config::{Config, Steering},
    datapath::{self, Datapath, KernelEvent, LoadOptions},
    flow::Observer,
    listener::{self, Limits},
    lock::RunLock,
    metrics::Metrics,
    relay::Relay,
    snapshot::{BuildOptions, Timeouts},
    source::{
        origin::{Source, Watched},
        publisher::Publisher,
    },
    status::{Board, Degraded},
};
use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::{collections::BTreeSet, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often workloads without a cgroup are forgotten, and new uplinks looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How long the last access-log lines may take.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Runs the agent until SIGTERM or SIGINT has been obeyed.
pub fn run(config: Config) -> anyhow::Result<ExitCode> {
    log_to_stderr();
    keep_keys_out_of_cores();
    let _lock = RunLock::take(&config.run_dir)?;
    let metrics = Arc::new(Metrics::default());
    let board = Arc::new(Board::new(Arc::clone(&metrics)));
    let access_log =
        AccessLog::start(&config.access_log, config.access_log_queue, metrics.access_log_dropped())
            .with_context(|| format!("access log {}", config.access_log))?;
    let admin = Admin::start(config.admin_addr, Arc::clone(&board))
        .with_context(|| format!("admin listener {}", config.admin_addr))?;
    let workers =
        config.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.max(1))
        .thread_name("weir-relay")
        .enable_all()
        .build()?;
    let observer = Observer { metrics, access_log: access_log.clone() };
    let outcome = runtime.block_on(serve(&config, &board, observer));
    runtime.shutdown_background();
    if !access_log.finish(LAST_LINES) {
        tracing::warn!("the last access-log lines are lost");
    }
    if !admin.stop() {
        tracing::error!("the admin thread had panicked");
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

/// A core file would have the private keys of certificates in it.
fn keep_keys_out_of_cores() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "a crash may leave a core file, with private keys in it");
    }
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if let Err(error) = subscriber.try_init() {
        tracing::debug!(%error, "somebody logs already");
    }
}

async fn serve(config: &Config, board: &Arc<Board>, observer: Observer) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let max_connections = listener::connection_budget().min(config.max_connections.unwrap_or(u32::MAX));
    let listeners = listener::bind(config)?;
    let addrs = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    addrs.iter().for_each(|addr| board.listening(*addr));

    let publisher = Publisher::new(build_options(config, &addrs)?, Arc::clone(board));
    let (snapshot, mut generations) = (publisher.snapshot(), publisher.generations());
    let mut source = tokio::select! {
        source = Source::open(config, publisher, board) => source?,
        () = signals.next() => return Ok(()),
    };
    let datapath = load(config, board, addrs, &observer)?;
    datapath.listening(&listeners)?;
    let applied = Applied { datapath: datapath.clone(), board: Arc::clone(board) };
    datapath.supersede(&snapshot.load());
    datapath.apply(&snapshot.load()).context("write the configuration into the kernel's tables")?;
    source.publisher().announce_to({
        let datapath = datapath.clone();
        move |snapshot| datapath.supersede(snapshot)
    });
    generations.mark_unchanged();
    tokio::spawn(reload_on(hangup, source.watch()?));

    let relay = Relay::new(config, Arc::clone(&snapshot), datapath.clone(), observer)?;
    let limits = Limits::new(max_connections, config.max_connections_per_client);
    let stop_accepting = CancellationToken::new();
    let accepting = TaskTracker::new();
    for listener in listeners {
        let (relay, limits, stop) = (Arc::clone(&relay), Arc::clone(&limits), stop_accepting.clone());
        accepting.spawn(listener::accept(listener, relay, limits, stop));
    }
    accepting.close();
    tokio::spawn(Arc::clone(&relay).sweep());
    tokio::spawn({
        let relay = Arc::clone(&relay);
        async move { relay.watched.look_through().await }
    });
    tokio::spawn({
        let (relay, board) = (Arc::clone(&relay), Arc::clone(board));
        async move { relay.worth.judge(&relay, &board).await }
    });
    tokio::spawn(sweep(datapath.clone(), Arc::clone(board)));
    tokio::spawn(async move {
        while generations.changed().await.is_ok() {
            generations.mark_unchanged();
            applied.apply(&snapshot.load());
        }
    });

    datapath.attach(board).context("attach the kernel half")?;
    board.ready();
    tracing::info!(max_connections, "ready");
    let outcome = leave(config, board, &relay, signals, || {
        stop_accepting.cancel();
        accepting.wait()
    })
    .await;
    datapath.finish();
    outcome
}

fn build_options(config: &Config, listeners: &[SocketAddr]) -> anyhow::Result<BuildOptions> {
    let mut node_addresses: BTreeSet<_> = listeners.iter().map(SocketAddr::ip).collect();
    node_addresses.extend(datapath::node_addresses()?);
    Ok(BuildOptions {
        http_ports: config.http_ports.iter().copied().collect(),
        timeouts: Timeouts::from(config.timeouts),
        node_addresses: node_addresses.into_iter().collect(),
        zone: config.zone.clone(),
        policies: Arc::default(),
        node_name: config.node_name.clone(),
        ingress_http_port: config.ingress_http_port,
        ingress_https_port: config.ingress_https_port,
        keyring: Arc::default(),
    })
}

/// Loads the kernel half, if it is to steer; nothing is attached yet.
fn load(
    config: &Config,
    board: &Board,
    listeners: Vec<SocketAddr>,
    observer: &Observer,
) -> anyhow::Result<Datapath> {
    let datapath = match config.steering {
        Steering::Iptables => Datapath::plain(),
        Steering::Ebpf => {
            let Observer { metrics, access_log } = observer.clone();
            let mut refusals = datapath::Refusals::default();
            let sink = move |event: KernelEvent<'_>| match event {
                KernelEvent::FlowClosed(closed) => metrics.flow_closed(&closed),
                KernelEvent::WorkloadBarred(barred) => metrics.workload_barred(&barred),
                KernelEvent::Refused(refused) => refusals.tell(&refused),
                KernelEvent::Carried(pair) => access_log.carried(pair, &metrics),
            };
            Datapath::load(&LoadOptions::new(config, listeners), sink).context("load the kernel half")?
        }
    };
    datapath.report(board);
    Ok(datapath)
}

/// Keeps the kernel's tables like the snapshot in force.
struct Applied {
    datapath: Datapath,
    board: Arc<Board>,
}

impl Applied {
    const WHAT: &str = "service tables";

    fn apply(&self, snapshot: &crate::snapshot::Snapshot) {
        match self.datapath.apply(snapshot) {
            Ok(()) => self.board.recovered(Self::WHAT),
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "write the configuration into the kernel's tables"
                );
                self.board.degraded(Degraded {
                    what: Self::WHAT.to_owned(),
                    why: format!("{error:#}"),
                    fix: "correct the configuration or raise the limit that is named".to_owned(),
                });
            }
        }
    }
}

async fn sweep(datapath: Datapath, board: Arc<Board>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        let (datapath, board) = (datapath.clone(), Arc::clone(&board));
        if let Err(error) = tokio::task::spawn_blocking(move || datapath.sweep(&board)).await {
            tracing::error!(%error, "sweep workloads and uplinks");
        }
    }
}

/// Waits for the signal to leave, and leaves: not ready, nothing new is steered, nothing new is
/// accepted, requests in flight end, the rest is cut off.
async fn leave<A: Future<Output = ()>>(
    config: &Config,
    board: &Board,
    relay: &Relay,
    mut signals: Signals,
    stop_accepting: impl FnOnce() -> A,
) -> anyhow::Result<()> {
    signals.next().await;
    let patience = config.drain_timeout;
    tracing::info!(connections = relay.drain.open(), ?patience, "leaving");
    board.draining();
    let unsteered = relay.datapath.stop_steering();
    relay.drain.leave();
    stop_accepting().await;
    tokio::select! {
        () = relay.drain.empty() => {}
        () = tokio::time::sleep(patience) => tracing::warn!(connections = relay.drain.open(), "cut off"),
        () = signals.next() => tracing::warn!(connections = relay.drain.open(), "cut off at once"),
    }
    relay.drain.abort();
    let cut = tokio::time::timeout(Duration::from_secs(1), relay.drain.empty()).await;
    if cut.is_err() {
        tracing::warn!(connections = relay.drain.open(), "connections did not end");
    }
    unsteered.context("stop steering")
}

/// Reads the configuration at every SIGHUP, without waiting for a change.
async fn reload_on(mut hangup: Signal, watched: Watched) {
    while hangup.recv().await.is_some() {
        watched.reload();
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

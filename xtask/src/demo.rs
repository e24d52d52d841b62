//! The demonstration: a client pod and two server pods on one node, the real agent on
//! `deploy/examples/hello`, real servers, a little traffic, and a live table of it.

mod nginx;
mod table;

use anyhow::{Context, Result, ensure};
use std::{io::IsTerminal, time::Duration};
use table::Table;
use tokio::signal::unix::{Signal, SignalKind, signal};
use weir_tests::{
    agent::{ADMIN, Agent, Builder},
    binary,
    manifest::ConfigDir,
    peer::{self, Server},
    pod::Pod,
    process::Process,
    topology::Topology,
};

/// The ClusterIP and port of `deploy/examples/hello`, which no interface has.
const HELLO: &str = "10.96.0.10:8080";
const PORT: u16 = 8080;
/// Between two looks at the access log.
const TICK: Duration = Duration::from_millis(500);
/// What is asked for: path, connections, pause between two requests of one in milliseconds,
/// requests per connection (0: all).
const TRAFFIC: [(&str, &str, &str, &str); 4] = [
    ("/", "4", "25", "0"),
    ("/bytes/300000", "1", "200", "0"),
    ("/delay/20", "1", "100", "0"),
    ("/status/404", "1", "500", "1"),
];

/// Everything that runs; what an early end drops, it drops in this order.
struct Stage {
    clients: Vec<Process>,
    agent: Agent,
    _servers: Vec<Process>,
    pods: Vec<Pod>,
    topology: Topology,
}

/// Plays until `length` has passed or a signal comes, and removes everything.
pub(crate) fn play(length: Option<Duration>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // From here on a signal waits until it is asked for: nothing is left half made.
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let stage = Stage::set()?;
    stage.introduce()?;
    let mut table = Table::new(stage.agent.access_log_path().to_owned(), stage.names());
    runtime.block_on(watch(&stage, &mut table, length, [&mut interrupt, &mut terminate]))?;
    table.show()?;
    let name = stage.topology.name().to_owned();
    stage.end()?;
    println!("removed the namespaces and cgroups {name}-*, and the agent with its BPF programs");
    ensure!(table.answered() > 0, "no request was answered");
    Ok(())
}

impl Stage {
    fn set() -> Result<Self> {
        let topology = Topology::new()?;
        let client = topology.pod("client", 10)?;
        let hosts = [topology.pod("hello-1", 11)?, topology.pod("hello-2", 12)?];
        let [first, second] = &hosts;
        let nginx = nginx::start(first, PORT, topology.dir())?;
        let first = nginx.map_or_else(|| scripted(first), Ok)?;
        let servers = vec![first, scripted(second)?];
        let example = ConfigDir::existing(binary::workspace().join("deploy/examples/hello"));
        let agent = Builder::new(&topology, &[])?.config(example).start()?;
        let clients = TRAFFIC.iter().map(|traffic| ask(&client, traffic)).collect::<Result<_>>()?;
        let pods = std::iter::once(client).chain(hosts).collect();
        Ok(Self { clients, agent, _servers: servers, pods, topology })
    }

    /// Ends the traffic, then the agent as Kubernetes would, then removes the rest.
    fn end(mut self) -> Result<()> {
        self.clients.clear();
        self.agent.terminate()?;
        let status = self.agent.wait(Duration::from_secs(40))?;
        ensure!(status.success(), "the agent ended with {status}: {}", self.agent.stderr()?);
        Ok(())
    }

    /// Shows one answer, and how to ask for more by hand.
    fn introduce(&self) -> Result<()> {
        let client = self.pods.first().context("no client pod")?;
        let answer = client.curl([format!("http://{HELLO}/")])?.success()?.text();
        println!("In pod client: curl http://{HELLO}/ prints\n  {}\n", answer.trim());
        let inside = |pod: &Pod| format!("nsenter --net={}", pod.netns().path().display());
        let (group, enter) = (client.cgroup().procs(), inside(client));
        println!("Ask yourself:");
        println!("  sudo sh -c 'echo 0 >{} && exec {enter} curl -i http://{HELLO}/'", group.display());
        println!("Metrics:\n  sudo {} curl http://{ADMIN}/metrics", inside(self.topology.node()));
        println!("Access log:\n  {}\n", self.agent.access_log_path().display());
        Ok(())
    }

    /// Address and name of every pod.
    fn names(&self) -> Vec<(String, String)> {
        self.pods.iter().map(|pod| (pod.v4().to_string(), pod.name().to_owned())).collect()
    }

    /// What the kernel half did, from the agent's own metrics.
    fn kernel_says(&self) -> Result<String> {
        let metrics = self.agent.metrics()?;
        let steered = metrics.sum("weir_kernel_events_total", &[("event", "steered")]);
        let redirected = metrics.sum("weir_redirected_bytes_total", &[]);
        let open = metrics.sum("weir_tcp_open_flows", &[]);
        Ok(format!(
            "kernel: {steered} connections steered, {open} flows open, {:.1} MB moved past the TCP stack",
            redirected / 1e6
        ))
    }
}

/// Reads the access log and, on a terminal, shows the table anew until it is time to end.
async fn watch(
    stage: &Stage,
    table: &mut Table,
    length: Option<Duration>,
    [interrupt, terminate]: [&mut Signal; 2],
) -> Result<()> {
    let live = std::io::stdout().is_terminal();
    let mut end = std::pin::pin!(tokio::time::sleep(length.unwrap_or(Duration::MAX)));
    let mut tick = tokio::time::interval(TICK);
    if live && length.is_none() {
        println!("Running until Ctrl-C.");
    }
    loop {
        // Ctrl-C reaches the servers too: what is logged after it is not worth showing.
        let ended = tokio::select! {
            () = &mut end => true,
            _ = tick.tick() => false,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
        table.read(stage.kernel_says()?)?;
        if ended {
            return Ok(());
        }
        if live {
            table.show()?;
        }
    }
}

/// The server that the tests use.
fn scripted(pod: &Pod) -> Result<Process> {
    Ok(Server::http(pod, PORT)?.process)
}

fn ask(client: &Pod, (path, connections, pause, reconnect): &(&str, &str, &str, &str)) -> Result<Process> {
    let arguments = ["load", "--to", HELLO, "--requests", "1000000000", "--host", "hello"];
    let shape = ["--path", path, "--connections", connections, "--pause", pause, "--reconnect", reconnect];
    peer::start(client, arguments.into_iter().chain(shape))
}

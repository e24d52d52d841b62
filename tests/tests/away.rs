//! While there is no agent: what `--pin-dir` keeps in the kernel, and how the next agent takes it over.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result};
use std::{fs, path::PathBuf, process::Command, time::Duration};
use weir_tests::{
    agent::{Agent, Builder},
    binary,
    bpffs::Bpffs,
    manifest::{ConfigDir, Endpoint, Pod as Manifest, Service},
    needs_kernel,
    peer::{self, Server},
    pod::Pod,
    scene::{PORT, WEB},
    topology::Topology,
    wait,
};

/// How long an agent may take to end.
const END: Duration = Duration::from_secs(10);

/// The client may connect to the server's port 80, may ask its port 8000 for what is public, and nothing else.
const POLICIES: &str = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-clients, namespace: demo}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 80, protocol: TCP}, {port: 80, protocol: UDP}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: public, namespace: demo}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts:
    - ports: [{port: '8000', protocol: TCP}]
      rules: {http: [{method: GET, path: /public}]}
---
";

/// Client, server, and a third pod that no policy selects. Fields drop in order.
struct World {
    agent: Option<Agent>,
    client: Pod,
    server: Pod,
    _free: Pod,
    _serving: Vec<Server>,
    bpf: Bpffs,
    arguments: Vec<String>,
    topology: Topology,
}

impl World {
    fn new(failure_policy: &str) -> Result<Self> {
        let topology = Topology::new()?;
        let bpf = Bpffs::mount(topology.dir())?;
        let (client, server) = (topology.pod("client", 10)?, topology.pod("server", 11)?);
        let free = topology.pod("free", 12)?;
        let serving = vec![
            Server::answer(&server, &[80, 443])?,
            Server::http(&server, 8000)?,
            Server::http(&server, PORT)?,
            Server::http(&free, PORT)?,
        ];
        let web = Service::new("web", PORT).cluster_ip(WEB.ip());
        let web = [&server, &free]
            .into_iter()
            .fold(web, |web, pod| web.endpoint(Endpoint::new(pod.at(PORT)).pod(pod.name())));
        let api = Service::new("api", 8000)
            .cluster_ip("10.96.0.80".parse::<std::net::IpAddr>()?)
            .app_protocol("http");
        let api = api.endpoint(Endpoint::new(server.at(8000)).pod(server.name()));
        let services = web.yaml() + &api.yaml();
        let pods = [(&client, "client"), (&server, "server"), (&free, "free")];
        let pods = pods.map(|(pod, app)| Manifest::new(pod.name(), app).address(pod.v4()).yaml()).concat();
        let config = ConfigDir::existing(topology.dir().join("away"));
        fs::create_dir_all(config.path())?;
        config.write_text(&format!("---\n{services}{pods}{POLICIES}"))?;
        let arguments =
            vec![format!("--pin-dir={}", bpf.pins().display()), format!("--failure-policy={failure_policy}")];
        let mut this =
            Self { agent: None, client, server, _free: free, _serving: serving, bpf, arguments, topology };
        this.start()?;
        Ok(this)
    }

    fn start(&mut self) -> Result<()> {
        let config = ConfigDir::existing(self.topology.dir().join("away"));
        let builder = Builder::new(&self.topology, &[])?.config(config).args(self.arguments.clone());
        self.agent = Some(builder.start()?);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("an agent")?;
        agent.kill9()?;
        agent.wait(END)?;
        Ok(())
    }

    fn targets(&self) -> [String; 4] {
        let tcp = |port| format!("tcp:{}", self.server.at(port));
        [tcp(80), tcp(443), format!("udp:{}", self.server.at(80)), format!("udp:{}", self.server.at(443))]
    }

    /// What the client meets at the targets.
    fn met(&self) -> Result<Vec<String>> {
        Ok(peer::probe(&self.client, &self.targets())?.into_iter().map(|(word, _)| word).collect())
    }

    /// The status of a request to a path of the server's port 8000; 0 for none.
    fn status(&self, path: &str) -> Result<u16> {
        let url = format!("http://{}{path}", self.server.at(8000));
        let arguments = ["--output", "/dev/null", "--write-out", "%{http_code}", &url];
        Ok(self.client.curl(arguments)?.text().parse()?)
    }

    /// Who answers many connections to the Service.
    fn web(&self) -> Result<serde_json::Value> {
        let arguments = ["load", "--to", &WEB.to_string(), "--requests=40", "--reconnect=1"];
        Ok(peer::run(&self.client, arguments)?.json()?["servers"].clone())
    }

    fn pins(&self) -> Result<Vec<PathBuf>> {
        Ok(fs::read_dir(self.bpf.pins())?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
    }

    fn unpin(&self) -> Result<String> {
        let output =
            Command::new(binary::weir()?).arg("unpin").arg("--pin-dir").arg(self.bpf.pins()).output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

const HELD: [&str; 4] = ["open", "refused", "open", "forbidden"];

#[test]
fn verdicts_outlive_the_agent_and_requests_follow_the_failure_policy() -> Result<()> {
    needs_kernel!();
    for (policy, public, private) in [("closed", 0, 0), ("open", 200, 200)] {
        let mut world = World::new(policy)?;
        assert_eq!(world.met()?, HELD, "{policy}");
        assert_eq!((world.status("/public")?, world.status("/private")?), (200, 403), "{policy}");
        world.kill()?;
        assert_eq!(world.met()?, HELD, "{policy}");
        assert_eq!((world.status("/public")?, world.status("/private")?), (public, private), "{policy}");
        // Of the Service's endpoints, the server's is denied.
        assert_eq!(world.web()?, serde_json::json!({"free": 40}), "{policy}");
        world.start()?;
        assert_eq!(world.met()?, HELD, "{policy}");
        assert_eq!((world.status("/public")?, world.status("/private")?), (200, 403), "{policy}");
        assert!(!world.agent.as_ref().unwrap().access_log()?.is_empty(), "it is steered again");
        world.kill()?;
        let removed = world.unpin()?;
        assert!(removed.lines().count() >= 7, "{removed}");
        assert!(!world.bpf.pins().exists());
        wait::until(Duration::from_secs(5), "nothing is denied", || {
            Ok(world.met()? == ["open"; 4] && world.status("/private")? == 200)
        })?;
    }
    Ok(())
}

#[test]
fn an_agent_takes_over_without_one_wrong_verdict() -> Result<()> {
    needs_kernel!();
    let mut world = World::new("closed")?;
    let targets = world.targets()[..2].join(",");
    let mut watching = peer::start(&world.client, ["probe", "--follow", "--to", &targets])?;
    watching.says("refused", Duration::from_secs(10))?;
    let pins = world.pins()?.len();
    for _ in 0..2 {
        world.kill()?;
        world.start()?;
    }
    // An upgrade is a SIGTERM.
    let mut agent = world.agent.take().unwrap();
    agent.terminate()?;
    assert!(agent.wait(END)?.success());
    drop(agent);
    assert_eq!(world.met()?, HELD);
    world.start()?;
    assert_eq!(world.pins()?.len(), pins);
    // Both are asked in turn, and a line is written for every change.
    let told = watching.stdout_text()?;
    let words: Vec<_> = told.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    let turns =
        words.chunks(2).all(|turn| turn[0] == "open" && turn.get(1).is_none_or(|word| *word == "refused"));
    assert!(words.len() > 100 && turns, "{:?}", words.chunks(2).find(|turn| *turn != ["open", "refused"]));
    Ok(())
}

#[test]
fn a_directory_that_is_not_roots_alone_is_refused() -> Result<()> {
    needs_kernel!();
    use std::os::unix::fs::PermissionsExt;
    let world = World::new("open")?;
    fs::set_permissions(world.bpf.pins(), fs::Permissions::from_mode(0o770))?;
    assert!(world.unpin().unwrap_err().to_string().contains("not root's alone"));
    let config = ConfigDir::existing(world.topology.dir().join("away"));
    let other = Builder::new(&world.topology, &[])?.config(config).args(world.arguments.clone());
    let other = other.arg("--admin-addr=127.0.0.1:15021").arg("--listen-port=15002");
    let mut other = other.launch()?;
    assert!(!other.wait(END)?.success());
    assert!(other.stderr()?.contains("not root's alone"), "{}", other.stderr()?);
    Ok(())
}

//! What goes wrong, one thing after the other.

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};
use weir_tests::{
    manifest::{HttpPolicy, Pod, Service},
    pattern::Random,
    peer::{self, Server},
    process::Process,
    scene::{PORT, Scene, WEB},
};

/// Between two deeds.
const PACE: Duration = Duration::from_millis(700);
/// Connections of the client that is killed.
const CONNECTIONS: &str = "8";

/// Which of them, by turns of chance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Deed {
    KillServer,
    KillClient,
    LeaveOut,
    Restrict,
}

/// The scene, and what has been done to it.
pub(super) struct Chaos {
    scene: Scene,
    random: Random,
    victim: Option<Process>,
    /// The server that is no endpoint now.
    left_out: Option<usize>,
    restricted: bool,
    done: BTreeMap<Deed, u32>,
    wrong: Vec<String>,
}

impl Chaos {
    pub(super) fn new(scene: Scene, seed: u64) -> Result<Self> {
        let chaos = Self {
            scene,
            random: Random::new(seed),
            victim: None,
            left_out: None,
            restricted: false,
            done: BTreeMap::new(),
            wrong: Vec::new(),
        };
        chaos.configure()?;
        Ok(chaos)
    }

    pub(super) const fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Lets time pass.
    pub(super) fn wait(&self, span: Duration, bar: &ProgressBar) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < span {
            let step = Duration::from_millis(250).min(span.saturating_sub(begun.elapsed()));
            thread::sleep(step);
            let carried =
                self.scene.agent.metrics()?.sum("weir_kernel_events_total", &[("event", "spliced")]);
            bar.set_message(format!("{carried} carried"));
            bar.set_position(bar.position().max(bar.elapsed().as_secs()));
        }
        Ok(())
    }

    /// One deed after the other, for so long.
    pub(super) fn rage(&mut self, span: Duration, bar: &ProgressBar) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < span {
            self.act()?;
            self.wait(PACE, bar)?;
        }
        Ok(())
    }

    /// All as it was at first.
    pub(super) fn calm_down(&mut self) -> Result<()> {
        self.kill_victim()?;
        let left_out = self.left_out.take().is_some();
        if std::mem::take(&mut self.restricted) || left_out {
            self.configure()?;
        }
        Ok(())
    }

    /// What was done, for people.
    pub(super) fn deeds(&self) -> String {
        let count = |deed| self.done.get(&deed).copied().unwrap_or_default();
        format!(
            "{} servers and {} clients killed, {} times an endpoint left or came, {} policy changes",
            count(Deed::KillServer),
            count(Deed::KillClient),
            count(Deed::LeaveOut),
            count(Deed::Restrict)
        )
    }

    /// What the killed clients found wrong.
    pub(super) fn wrong(&self) -> Vec<String> {
        self.wrong.clone()
    }

    fn act(&mut self) -> Result<()> {
        let deed = match self.random.next() % 4 {
            0 => Deed::KillServer,
            1 => Deed::KillClient,
            2 => Deed::LeaveOut,
            _ => Deed::Restrict,
        };
        *self.done.entry(deed).or_default() += 1;
        let which = usize::try_from(self.random.next() % self.scene.servers.len() as u64)?;
        match deed {
            Deed::KillServer => self.kill_server(which),
            Deed::KillClient => self.kill_client(),
            Deed::LeaveOut => {
                self.left_out = if self.left_out.is_some() { None } else { Some(which) };
                self.configure()
            }
            Deed::Restrict => {
                self.restricted = !self.restricted;
                self.configure()
            }
        }
    }

    fn kill_server(&mut self, which: usize) -> Result<()> {
        let pod = self.scene.servers.get(which).context("no such pod")?;
        let serving = self.scene.serving.get_mut(which).context("no such server")?;
        serving.process.kill()?;
        serving.process.wait(Duration::from_secs(10))?;
        *serving = Server::http(pod, PORT)?;
        Ok(())
    }

    fn kill_client(&mut self) -> Result<()> {
        self.kill_victim()?;
        let (to, seed) = (WEB.to_string(), self.random.next().to_string());
        let arguments = ["soak", "--to", &to, "--seed", &seed, "--connections", CONNECTIONS, "--pause", "5"];
        self.victim = Some(peer::start(&self.scene.client, arguments)?);
        Ok(())
    }

    fn kill_victim(&mut self) -> Result<()> {
        let Some(mut victim) = self.victim.take() else { return Ok(()) };
        victim.kill()?;
        victim.wait(Duration::from_secs(10))?;
        self.wrong.extend(victim.stderr_text()?.lines().map(str::to_owned));
        Ok(())
    }

    /// Everything may be asked for, or everything but `/secret`; by patterns that the kernel half knows.
    fn configure(&self) -> Result<()> {
        let Scene { servers, agent, .. } = &self.scene;
        let pods = servers.iter().map(|pod| Pod::new(pod.name(), "web").address(pod.v4()).yaml());
        let mut web = Service::new("web", PORT).cluster_ip(WEB.ip());
        for (index, pod) in servers.iter().enumerate() {
            if self.left_out != Some(index) {
                web = web.endpoints([pod.at(PORT)]);
            }
        }
        let mut policy = HttpPolicy::new("web", "web", PORT).allow(&[("path", "/")]);
        for path in ["bytes", "echo", "sink", "delay"] {
            policy = policy.allow(&[("method", "GET|POST"), ("path", &format!("/{path}(/.*)?"))]);
        }
        if !self.restricted {
            policy = policy.allow(&[("method", "GET"), ("path", "/secret")]);
        }
        agent.reconfigure_text(
            &std::iter::once(web.yaml()).chain(pods).chain([policy.yaml()]).collect::<String>(),
        )
    }
}

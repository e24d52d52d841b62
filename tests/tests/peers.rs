//! Real servers and clients, each with its own way to read a socket. Under `auto` nothing may be
//! lost: who would lose bytes on a mapped socket is found in probation and left alone, and who
//! begins later trips the wire (`kernel.md` trap 11).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use weir_tests::{
    binary,
    manifest::Service,
    metrics::Samples,
    needs_kernel,
    pattern::Pattern,
    peer,
    pod::Pod,
    process::Process,
    requirements,
    scene::{PORT, Scene, Stage, WEB},
    shell,
};

const START: Duration = Duration::from_secs(60);
const PROBATION: u64 = 12;

fn asset(name: &str) -> PathBuf {
    binary::workspace().join("tests/tests/peers").join(name)
}

/// Bodies of 1 KB, 100 KB and 20 MB in files, with what a server must say about each.
struct Bodies(Vec<(PathBuf, String)>);

impl Bodies {
    fn new(dir: &Path) -> Result<Self> {
        let made = [1000, 100_000, 20_000_000].map(|size| {
            let path = dir.join(format!("body-{size}"));
            let mut bytes = vec![0; size];
            Pattern::new(size as u64).fill(&mut bytes);
            fs::write(&path, bytes)?;
            let sum = shell::run(Command::new("sha256sum").arg(&path))?;
            let told = format!("{size} {}", sum.split(' ').next().unwrap());
            Ok((path, told))
        });
        made.into_iter().collect::<Result<_>>().map(Self)
    }
}

/// A pod `server` with a program that serves `demo/web`, and the agent in `auto`.
struct Play {
    scene: Scene,
    bodies: Bodies,
    _running: Vec<Process>,
}

impl Play {
    fn new(start: impl FnOnce(&Pod, &Path) -> Result<Vec<Process>>, arguments: &[&str]) -> Result<Self> {
        let stage = Stage::new(0)?;
        let pod = stage.topology.pod("server", 11)?;
        let running = start(&pod, stage.topology.dir())?;
        let bodies = Bodies::new(stage.topology.dir())?;
        let web = Service::new("web", PORT).cluster_ip(WEB.ip()).endpoints([pod.at(PORT)]);
        let probation = format!("--probation-requests={PROBATION}");
        let arguments: Vec<_> = arguments.iter().copied().chain([probation.as_str()]).collect();
        let mut scene = stage.play(&[web], &arguments)?;
        scene.servers.push(pod);
        Ok(Self { scene, bodies, _running: running })
    }

    /// POSTs every body with curl.
    fn post(&self, path: &str) -> Result<()> {
        for (file, expected) in &self.bodies.0 {
            let data = format!("@{}", file.display());
            let url = format!("http://{WEB}{path}");
            let asked = self.scene.client.curl(["--max-time", "30", "--data-binary", &data, &url])?;
            let told = asked
                .success()
                .with_context(|| format!("POST {}: {:?}", file.display(), self.scene.agent.stderr()))?;
            assert_eq!(told.text().trim(), expected);
        }
        Ok(())
    }

    /// POSTs every body with the Java client.
    fn post_from_java(&self) -> Result<()> {
        if !requirements::program("java") {
            return Ok(());
        }
        let mut command = self.scene.client.command("java");
        command.arg(asset("Client.java")).arg(format!("http://{WEB}/"));
        command.args(self.bodies.0.iter().map(|(file, _)| file));
        let said =
            self.scene.client.spawn("java", command)?.outcome(Duration::from_secs(60))?.success()?.text();
        let expected: Vec<_> = self.bodies.0.iter().map(|(_, told)| told.as_str()).collect();
        assert_eq!(said.lines().collect::<Vec<_>>(), expected);
        Ok(())
    }

    /// Small requests, more than probation watches.
    fn pass_probation(&self) -> Result<()> {
        let count = (2 * PROBATION).to_string();
        let url = format!("http://{WEB}/");
        let load = ["--output", "/dev/null", "--fail", "--parallel-max", "1"];
        // One connection, one curl: the same URL many times.
        let urls = std::iter::repeat_n(url.as_str(), count.parse()?);
        self.scene.client.curl(load.into_iter().chain(urls))?.success()?;
        Ok(())
    }

    /// POSTs in probation, passes it, POSTs again; `then` looks at what became of the workload,
    /// before the Java client (whose runtime asks FIONREAD and is left alone) POSTs too.
    fn takes_every_post(&self, then: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.post("/")?;
        self.pass_probation()?;
        self.post("/")?;
        then(self)?;
        self.post_from_java()
    }

    fn barred(&self, by: &str) -> Result<()> {
        let barred = |all: &Samples| all.sum("weir_workload_barred_total", &[("by", by)]) > 0.5;
        self.scene.agent.metrics_until(&format!("barred by {by}"), barred)?;
        Ok(())
    }

    fn accelerated(&self) -> Result<()> {
        let samples = self.scene.agent.metrics()?;
        let barred: Vec<_> = samples.with("weir_workload_barred_total", &[]).collect();
        assert!(barred.iter().all(|sample| sample.value < 0.5), "{barred:?}");
        let accelerated = |all: &Samples| all.sum("weir_workloads", &[("state", "accelerated")]) > 0.5;
        self.scene.agent.metrics_until("the server's workload is accelerated", accelerated)?;
        Ok(())
    }
}

fn listening(pod: &Pod, name: &str, command: Command) -> Result<Process> {
    let mut process = pod.spawn(name, command)?;
    process.says("listening", START)?;
    Ok(process)
}

fn python(pod: &Pod, addr: &str, port: u16) -> Result<Process> {
    let mut command = pod.command("python3");
    command.arg(asset("server.py")).args([addr, &port.to_string()]);
    listening(pod, "python", command)
}

/// A server that is configured by a file and says nothing when it listens.
fn configured(pod: &Pod, program: &str, arguments: &[&str], port: u16) -> Result<Process> {
    let mut command = pod.command(program);
    command.args(arguments);
    let mut process = pod.spawn(program, command)?;
    let addr = pod.at(port);
    let waited = weir_tests::wait::until(START, &format!("{program} listens"), || {
        anyhow::ensure!(process.ended()?.is_none(), "it ended");
        pod.netns().run(|| std::net::TcpStream::connect(addr).is_ok())
    });
    waited.with_context(|| process.stderr_tail())?;
    Ok(process)
}

fn nginx(pod: &Pod, dir: &Path, server: &str) -> Result<Process> {
    let prefix = dir.join(format!("nginx-{}", pod.name()));
    fs::create_dir_all(prefix.join("files"))?;
    let config = prefix.join("nginx.conf");
    fs::write(
        &config,
        format!(
            "user root;\nworker_processes 1;\npid {0}/nginx.pid;\nerror_log stderr;\nevents {{ worker_connections 256; }}\n\
             http {{\n  access_log off;\n  sendfile on;\n  client_max_body_size 100m;\n  client_body_temp_path {0}/body;\n  \
             proxy_temp_path {0}/proxy;\n  fastcgi_temp_path {0}/f;\n  uwsgi_temp_path {0}/u;\n  scgi_temp_path {0}/s;\n  \
             server {{\n    listen {1};\n    root {0}/files;\n{server}\n  }}\n}}\n",
            prefix.display(),
            pod.at(PORT),
        ),
    )?;
    let (prefix, config) = (prefix.display().to_string(), config.display().to_string());
    configured(pod, "nginx", &["-p", &prefix, "-c", &config, "-g", "daemon off;"], PORT)
}

#[test]
fn python_takes_posts_of_every_size() -> Result<()> {
    needs_kernel!();
    let play = Play::new(|pod, _| Ok(vec![python(pod, &pod.v4().to_string(), PORT)?]), &[])?;
    play.takes_every_post(Play::accelerated)
}

#[test]
fn node_takes_posts_of_every_size() -> Result<()> {
    needs_kernel!();
    if !requirements::program("node") {
        return Ok(());
    }
    let start = |pod: &Pod, _: &Path| {
        let mut command = pod.command("node");
        command.arg(asset("server.js")).args([pod.v4().to_string(), PORT.to_string()]);
        Ok(vec![listening(pod, "node", command)?])
    };
    let play = Play::new(start, &[])?;
    play.takes_every_post(Play::accelerated)
}

#[test]
fn go_takes_posts_of_every_size() -> Result<()> {
    needs_kernel!();
    if !requirements::program("go") {
        return Ok(());
    }
    let start = |pod: &Pod, dir: &Path| {
        let built = dir.join("go-server");
        shell::run(Command::new("go").arg("build").arg("-o").arg(&built).arg(asset("server.go")))?;
        let mut command = pod.command(built);
        command.arg(pod.at(PORT).to_string());
        Ok(vec![listening(pod, "go", command)?])
    };
    let play = Play::new(start, &[])?;
    play.takes_every_post(Play::accelerated)
}

#[test]
fn java_takes_posts_of_every_size() -> Result<()> {
    needs_kernel!();
    if !requirements::program("java") {
        return Ok(());
    }
    let start = |pod: &Pod, _: &Path| {
        let mut command = pod.command("java");
        command.arg(asset("Server.java")).args([pod.v4().to_string(), PORT.to_string()]);
        Ok(vec![listening(pod, "java", command)?])
    };
    Play::new(start, &[])?.takes_every_post(|_| Ok(()))
}

#[test]
fn nginx_as_a_proxy_takes_posts_of_every_size() -> Result<()> {
    needs_kernel!();
    if !requirements::program("nginx") {
        return Ok(());
    }
    let start = |pod: &Pod, dir: &Path| {
        let server = "    location / { proxy_pass http://127.0.0.1:9000; proxy_http_version 1.1; }";
        Ok(vec![python(pod, "127.0.0.1", 9000)?, nginx(pod, dir, server)?])
    };
    Play::new(start, &[])?.takes_every_post(|_| Ok(()))
}

#[test]
fn nginx_static_with_sendfile_takes_and_gives_files_of_every_size_and_loses_nothing() -> Result<()> {
    needs_kernel!();
    if !requirements::program("nginx") {
        return Ok(());
    }
    let server = "    location / { dav_methods PUT; }\n    location = / { return 200 hello; }";
    let play = Play::new(|pod, dir| Ok(vec![nginx(pod, dir, server)?]), &[])?;
    for round in ["probation", "later"] {
        for (file, _) in &play.bodies.0 {
            let url = format!("http://{WEB}/{round}-{}", file.file_name().unwrap().display());
            let (from, to) = (file.display().to_string(), file.with_extension("back").display().to_string());
            play.scene
                .client
                .curl(["--fail", "--max-time", "30", "--upload-file", &from, &url])?
                .success()?;
            play.scene.client.curl(["--fail", "--max-time", "30", "--output", &to, &url])?.success()?;
            assert!(fs::read(&from)? == fs::read(&to)?, "{url} came back different");
        }
        play.pass_probation()?;
    }
    play.barred("fionread")
}

#[test]
fn haproxy_with_splice_auto_takes_posts_of_every_size_and_loses_nothing() -> Result<()> {
    needs_kernel!();
    if !requirements::program("haproxy") {
        return Ok(());
    }
    let start = |pod: &Pod, dir: &Path| {
        let config = dir.join("haproxy.cfg");
        fs::write(
            &config,
            format!(
                "global\n  maxconn 200\ndefaults\n  mode http\n  option splice-auto\n  option splice-request\n  timeout connect 5s\n  \
                 timeout client 60s\n  timeout server 60s\nlisten web\n  bind {}\n  server local 127.0.0.1:9000\n",
                pod.at(PORT)
            ),
        )?;
        let config = config.display().to_string();
        Ok(vec![python(pod, "127.0.0.1", 9000)?, configured(pod, "haproxy", &["-db", "-f", &config], PORT)?])
    };
    let play = Play::new(start, &[])?;
    play.takes_every_post(|play| play.barred("splice"))
}

#[test]
fn a_server_that_reads_with_splice_is_found_in_probation_and_loses_nothing() -> Result<()> {
    needs_kernel!();
    let play = Play::new(|pod, _| Ok(vec![python(pod, &pod.v4().to_string(), PORT)?]), &[])?;
    play.post("/splice")?;
    play.barred("splice")?;
    play.pass_probation()?;
    play.post("/splice")
}

#[test]
fn a_server_that_begins_to_splice_after_probation_trips_the_wire() -> Result<()> {
    needs_kernel!();
    let play = Play::new(|pod, _| Ok(vec![python(pod, &pod.v4().to_string(), PORT)?]), &[])?;
    play.pass_probation()?;
    play.accelerated()?;
    // The first spliced body may already be on a mapped socket; the agent must notice, and from
    // the next connection on nothing is lost.
    let (small, _) = &play.bodies.0[0];
    let data = format!("@{}", small.display());
    play.scene.client.curl(["--data-binary", &data, &format!("http://{WEB}/splice")])?;
    play.barred("splice")?;
    play.post("/splice")?;
    assert!(play.scene.agent.stderr()?.contains("splice"), "no log line");
    Ok(())
}

#[test]
fn nginx_as_a_client_reads_64_mib() -> Result<()> {
    needs_kernel!();
    if !requirements::program("nginx") {
        return Ok(());
    }
    for mode in ["--acceleration=auto", "--acceleration=agent-only"] {
        let scene = Scene::web(&[mode, "--probation-requests=12"])?;
        let server = format!(
            "    location / {{ proxy_pass http://{WEB}; proxy_http_version 1.1; proxy_buffering on; }}"
        );
        let _proxy = nginx(&scene.client, scene.topology.dir(), &server)?;
        let to = scene.client.at(PORT).to_string();
        for sizes in ["100,1000,100", "67108864", "100,200,300,100000,67108864"] {
            let fixed = ["transfer", "--to", &to, "--sizes", sizes, "--download"];
            peer::run(&scene.client, fixed)?.success().context(mode)?;
        }
        let load = ["load", "--to", &to, "--requests", "50"];
        peer::run(&scene.client, load)?.success()?;
        let fixed = ["transfer", "--to", &to, "--sizes", "67108864", "--download"];
        peer::run(&scene.client, fixed)?.success().context(mode)?;
    }
    Ok(())
}

//! TLS that ends at the node: real clients in namespaces, certificates made when a test runs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::Value;
use std::{fs, path::PathBuf, time::Duration};
use weir_tests::{
    agent::Builder,
    apiserver::ApiServer,
    manifest::Service,
    needs_kernel,
    pod::Pod,
    process::Outcome,
    scene::{PORT, Scene, Stage},
    wait,
};

const SOON: Duration = Duration::from_secs(30);
const HOST: &str = "shop.example.com";
const OTHER: &str = "other.example.com";

/// Who signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Weir's tests");
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A Secret with a certificate for this host.
    fn secret(&self, name: &str, host: &str) -> Result<String> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([host.to_owned()])?;
        params.use_authority_key_identifier_extension = true;
        let chain = params.signed_by(&key, &self.issuer)?.pem();
        Ok(secret(name, &chain, &key.serialize_pem()))
    }
}

fn secret(name: &str, chain: &str, key: &str) -> String {
    let lines = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: demo}}\ntype: kubernetes.io/tls\n\
         stringData:\n  tls.crt: |\n{}  tls.key: |\n{}---\n",
        lines(chain),
        lines(key)
    )
}

/// A Gateway with a listener for `HOST`, and an Ingress for `OTHER`, both to `demo/web`.
const DOORS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: demo}
spec:
  gatewayClassName: weir
  listeners:
  - {name: https, port: 8443, protocol: HTTPS, hostname: shop.example.com, tls: {certificateRefs: [{name: shop}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all, namespace: demo}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: other, namespace: demo}
spec:
  tls: [{hosts: [other.example.com], secretName: other}]
  rules:
  - host: other.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
";

fn web(stage: &Stage) -> String {
    Service::new("web", 80).cluster_ip([10, 96, 0, 20]).endpoints([stage.servers[0].at(PORT)]).yaml()
}

struct Site {
    scene: Scene,
    outside: Pod,
    authority: Authority,
    /// Its certificate.
    ca: PathBuf,
    web: String,
}

impl Site {
    fn new(arguments: &[&str]) -> Result<Self> {
        let mut stage = Stage::new(1)?;
        let outside = stage.topology.remote_pod("outside", 10)?;
        let authority = Authority::new()?;
        let ca = stage.topology.dir().join("ca.pem");
        fs::write(&ca, &authority.pem)?;
        let web = web(&stage);
        let scene = stage.play(&[], arguments)?;
        let site = Self { scene, outside, authority, ca, web };
        site.scene.agent.reconfigure_text(&site.manifests()?)?;
        Ok(site)
    }

    fn manifests(&self) -> Result<String> {
        let secrets = self.authority.secret("shop", HOST)? + &self.authority.secret("other", OTHER)?;
        Ok(format!("{}{DOORS}---\n{secrets}", self.web))
    }

    /// curl over TLS to a port of the node, by this name.
    fn curl(&self, from: &Pod, (host, port): (&str, u16), more: &[&str]) -> Result<Outcome> {
        let node = self.scene.topology.node().v4();
        let resolve = format!("{host}:{port}:{node}");
        let (ca, url) = (self.ca.display().to_string(), format!("https://{host}:{port}/a"));
        let own = ["--cacert", &ca, "--resolve", &resolve, "--max-time", "20"];
        from.curl(own.into_iter().chain(more.iter().copied()).chain([url.as_str()]))
    }

    fn python(&self, script: &str, arguments: &[&str]) -> Result<Outcome> {
        let all = ["-c", script].into_iter().chain(arguments.iter().copied());
        self.outside.run("/usr/bin/python3", all, Duration::from_secs(120))
    }
}

#[test]
fn curl_of_either_version_is_served_at_a_gateway_and_at_an_ingress() -> Result<()> {
    needs_kernel!();
    let site = Site::new(&[])?;
    let mut asked = 0;
    for from in [&site.outside, &site.scene.client] {
        for door in [(HOST, 8443), (OTHER, 443)] {
            for (version, protocol) in [("1.2", "2"), ("1.3", "2"), ("1.2", "1.1"), ("1.3", "1.1")] {
                let (limit, http) = (format!("--tlsv{version}"), format!("--http{protocol}"));
                let told = "\n%{http_code} %{ssl_verify_result} %{http_version}";
                let more = ["--tls-max", version, &limit, &http, "--write-out", told];
                let text = site.curl(from, door, &more)?.success()?.text();
                let (body, told) = text.rsplit_once('\n').unwrap();
                assert_eq!(told, format!("200 0 {protocol}"), "{door:?} {version}");
                let seen: Value = serde_json::from_str(body)?;
                assert_eq!(seen["server"], "server1");
                let fields = seen["fields"].to_string().to_lowercase();
                assert!(fields.contains(r#"["x-forwarded-proto","https"]"#), "{fields}");
                asked += 1;
                let lines = site.scene.agent.logged(asked)?;
                let line = &lines[asked - 1];
                assert_eq!(line["tls_version"], format!("TLSv{version}"), "{line}");
                assert_eq!(line["requested_server_name"], door.0, "{line}");
                assert!(line["tls_cipher"].as_str().unwrap().starts_with("TLS_"), "{line}");
            }
        }
    }
    let told = site.scene.agent.metrics()?;
    assert_eq!(told.sum("weir_tls_handshakes_total", &[("outcome", "full")]), 16.0);
    assert_eq!(told.sum("weir_tls_handshakes_total", &[("alpn", "h2")]), 8.0);
    let expiry = told.sum("weir_tls_certificate_expiry_timestamp_seconds", &[("secret", "demo/shop")]);
    assert!(expiry > 1.7e9, "{expiry}");
    Ok(())
}

#[test]
fn a_crash_leaves_no_core_file_with_keys_in_it() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let limits = fs::read_to_string(format!("/proc/{}/limits", scene.agent.pid()))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    Ok(())
}

#[test]
fn d15_old_protocols_and_unknown_names_are_refused_before_any_request() -> Result<()> {
    needs_kernel!();
    let site = Site::new(&[])?;
    for (door, more) in [((HOST, 8443), &["--tls-max", "1.1", "--tlsv1.0"][..]), ((OTHER, 8443), &[])] {
        assert!(site.curl(&site.outside, door, more)?.success().is_err(), "{door:?} {more:?}");
    }
    let lines = site.scene.agent.logged(2)?;
    assert!(lines.iter().all(|line| line["response_code_details"] == "tls_handshake"), "{lines:?}");
    // A client that knows nothing of TLS.
    let node = site.scene.topology.node();
    let plain = site.outside.curl([format!("http://{}/", node.at(8443))])?;
    assert!(plain.success().is_err());
    Ok(())
}

#[test]
fn p17_a_request_for_another_doors_host_is_misdirected() -> Result<()> {
    needs_kernel!();
    let site = Site::new(&[])?;
    let listener = "\n  - {name: second, port: 8443, protocol: HTTPS, hostname: other.example.com, tls: {certificateRefs: [{name: other}]}}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute";
    let more = site.manifests()?.replacen(
        "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute",
        listener,
        1,
    );
    site.scene.agent.reconfigure_text(&more)?;
    let status = |host: &str| -> Result<String> {
        let field = format!("Host: {host}");
        let more = ["--header", &field, "--output", "/dev/null", "--write-out", "%{http_code}"];
        Ok(site.curl(&site.outside, (HOST, 8443), &more)?.success()?.text())
    };
    assert_eq!(status(HOST)?, "200");
    assert_eq!(status(OTHER)?, "421");
    assert_eq!(status("nobody.example.com")?, "404");
    Ok(())
}

/// Prints what openssl and Python agreed upon with the node.
const CLIENT: &str = r#"
import socket, ssl, sys
ca, node, name, port, alpn = sys.argv[1:6]
context = ssl.create_default_context(cafile=ca)
if alpn != "-":
    context.set_alpn_protocols(alpn.split(","))
with socket.create_connection((node, int(port)), 20) as plain:
    with context.wrap_socket(plain, server_hostname=name) as stream:
        print(stream.version(), stream.selected_alpn_protocol())
        stream.sendall(f"GET /a HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := stream.recv(65536):
            answer += chunk
        print(answer.split(b"\r\n")[0].decode())
"#;

#[test]
fn a_client_without_alpn_gets_http_1_1_and_the_end_of_the_session_is_said() -> Result<()> {
    needs_kernel!();
    let site = Site::new(&[])?;
    let (ca, node) = (site.ca.display().to_string(), site.scene.topology.node().v4().to_string());
    // Python takes an end without close_notify for an error.
    for (alpn, expected) in [("-", "None"), ("http/1.1", "http/1.1")] {
        let told = site.python(CLIENT, &[&ca, &node, HOST, "8443", alpn])?.success()?.text();
        assert_eq!(told, format!("TLSv1.3 {expected}\nHTTP/1.1 200 Scripted\n"));
    }
    assert!(site.python(CLIENT, &[&ca, &node, HOST, "8443", "http/0.9"])?.success().is_err());
    Ok(())
}

/// Connects without a pause until its input ends; prints how many handshakes and requests succeeded, and what failed.
const LOAD: &str = r#"
import collections, socket, ssl, sys, threading
ca, node, name, port = sys.argv[1:5]
stop, done, failed, lock = threading.Event(), 0, collections.Counter(), threading.Lock()
def work():
    global done
    while not stop.is_set():
        try:
            context = ssl.create_default_context(cafile=ca)
            with socket.create_connection((node, int(port)), 30) as plain:
                with context.wrap_socket(plain, server_hostname=name) as stream:
                    stream.sendall(f"GET /a HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
                    answer = b""
                    while chunk := stream.recv(65536):
                        answer += chunk
            assert answer.startswith(b"HTTP/1.1 200"), answer[:40]
            with lock: done += 1
        except Exception as error:
            with lock: failed[repr(error)] += 1
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
print("begun", flush=True)
sys.stdin.read()
stop.set()
[thread.join() for thread in threads]
print(done, dict(failed))
"#;

#[test]
fn c13_certificates_rotate_under_load_without_a_failed_handshake_and_broken_ones_are_not_used() -> Result<()>
{
    const ROTATIONS: usize = 60;
    needs_kernel!();
    let site = Site::new(&[])?;
    let (ca, node) = (site.ca.display().to_string(), site.scene.topology.node().v4().to_string());
    let mut command = site.outside.command("/usr/bin/python3");
    command.args(["-c", LOAD, &ca, &node, HOST, "8443"]);
    let mut load = site.outside.spawn("load", command)?;
    load.says("begun", SOON)?;
    let agent = &site.scene.agent;
    for round in 0..ROTATIONS {
        let good = site.manifests()?;
        // Every third one is broken, and says so while the one before stays.
        let text = if round % 3 == 2 { good.replacen("BEGIN PRIVATE", "BEGIN PUBLIC", 1) } else { good };
        agent.reload_text(&text)?;
    }
    let stale = |all: &weir_tests::metrics::Samples| {
        all.sum("weir_tls_certificate_stale", &[("secret", "demo/shop")])
    };
    assert_eq!(stale(&agent.metrics()?), 1.0);
    let said = "tls.key of Secret demo/shop cannot be read";
    wait::until(SOON, "the log says what is wrong", || Ok(agent.stderr()?.contains(said)))?;
    agent.reload_text(&site.manifests()?)?;
    assert_eq!(stale(&agent.metrics()?), 0.0);
    load.close_stdin();
    let told = load.outcome(SOON)?.success()?.text();
    let (done, failed) = told.trim_start_matches("begun\n").trim().split_once(' ').unwrap();
    assert!(done.parse::<u64>()? > 0, "{told}");
    assert_eq!(failed, "{}", "{told}");
    Ok(())
}

#[test]
fn certificates_come_from_the_api_secret_by_secret() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let authority = Authority::new()?;
    let ca = stage.topology.dir().join("ca.pem");
    fs::write(&ca, &authority.pem)?;
    let server = stage.topology.node().netns().run(ApiServer::start)??;
    server.put_manifest(&web(&stage))?;
    server.put_manifest(DOORS.split("---\napiVersion: networking").next().unwrap())?;
    let encoded = |host: &str| -> Result<Value> {
        // As the API server has it: in base64.
        let text: Value =
            serde_saphyr::from_str(authority.secret("shop", host)?.strip_suffix("---\n").unwrap())?;
        let mut object = text.clone();
        object.as_object_mut().unwrap().remove("stringData");
        for key in ["tls.crt", "tls.key"] {
            object["data"][key] = base64(text["stringData"][key].as_str().unwrap().as_bytes()).into();
        }
        Ok(object)
    };
    server.put(encoded(HOST)?)?;
    let kubeconfig = server.kubeconfig(stage.topology.dir())?;
    let run = stage.topology.dir().join("run");
    let agent = Builder::new(&stage.topology, &[])?
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--run-dir={}", run.display()))
        .arg("--node-name=node1")
        .start()?;
    let shown = || -> Result<String> {
        let node = stage.topology.node().at(8443).to_string();
        // It ends with its input.
        let script = format!(
            "openssl s_client -connect {node} -servername {HOST} -CAfile {} < /dev/null 2>&1",
            ca.display()
        );
        Ok(stage.client.run("/bin/sh", ["-c", &script], SOON)?.text())
    };
    wait::until(SOON, "the certificate is there", || Ok(shown()?.contains("Verification: OK")))
        .with_context(|| format!("{:?}; the agent says {:?}", shown(), agent.stderr()))?;
    let serial = |text: &str| text.split("-----BEGIN CERTIFICATE-----").nth(1).unwrap_or_default().to_owned();
    let first = serial(&shown()?);
    server.put(encoded(HOST)?)?;
    wait::until(SOON, "the certificate is another", || Ok(serial(&shown()?) != first))?;
    // By name, in its namespace: never a list of all.
    let asked = server.asked();
    let secrets: Vec<_> = asked.iter().filter(|one| one.plural == "secrets").collect();
    assert!(!secrets.is_empty());
    for one in secrets {
        assert!(one.path.starts_with("/api/v1/namespaces/demo/secrets?"), "{one:?}");
        assert!(one.path.contains("fieldSelector=metadata.name%3Dshop"), "{one:?}");
    }
    // What is kept on disk has been written when it has the route.
    let kept = run.join("objects.json");
    wait::until(SOON, "objects are kept", || {
        Ok(fs::read_to_string(&kept).is_ok_and(|text| text.contains("httproutes ")))
    })?;
    assert!(!fs::read_to_string(&kept)?.contains("tls.key"));
    drop(agent);
    Ok(())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let three = [0, 1, 2].map(|at| u32::from(chunk.get(at).copied().unwrap_or(0)));
        let all = three[0] << 16 | three[1] << 8 | three[2];
        for at in 0..4 {
            let letter = char::from(LETTERS[(all >> (18 - 6 * at) & 63) as usize]);
            text.push(if at <= chunk.len() { letter } else { '=' });
        }
    }
    text
}

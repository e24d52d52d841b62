//! TLS that ends at the node: real clients in namespaces, certificates made when a test runs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::Value;
use std::{fs, path::PathBuf, time::Duration};
use weir_tests::{
    agent::{Agent, Builder},
    apiserver::ApiServer,
    manifest::{self, Service},
    needs_kernel,
    pod::Pod,
    process::Outcome,
    requirements,
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

    /// A certificate for this host, and its key.
    fn pair(&self, host: &str) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([host.to_owned()])?;
        params.use_authority_key_identifier_extension = true;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    /// A client's certificate with its key, in one text; `change` makes something else of it.
    fn client(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<String> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        Ok(params.signed_by(&key, &self.issuer)?.pem() + &key.serialize_pem())
    }

    /// A Secret with such a pair.
    fn secret(&self, name: &str, host: &str) -> Result<String> {
        let (chain, key) = self.pair(host)?;
        Ok(manifest::tls_secret(name, &chain, &key))
    }
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

/// Prints the digest of a certificate's public key, as Chromium wants it.
const KEY_DIGEST: &str = "openssl s_client -connect $0:8443 -servername $1 </dev/null 2>/dev/null | \
    openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | openssl base64";

#[test]
fn chromium_shows_a_page_that_came_by_http_2_over_tls() -> Result<()> {
    needs_kernel!();
    if !requirements::program("chromium") {
        return Ok(());
    }
    let site = Site::new(&[])?;
    let node = site.scene.topology.node().v4().to_string();
    let digest = site.outside.run("sh", ["-c", KEY_DIGEST, &node, HOST], SOON)?.success()?.text();
    let home = site.scene.topology.dir().join("chromium");
    fs::create_dir(&home)?;
    let mut command = site.outside.command("chromium");
    command.env("HOME", &home).args(BROWSER).args([
        format!("--user-data-dir={}", home.join("profile").display()),
        format!("--host-resolver-rules=MAP {HOST} {node}"),
        // No authority that it knows has signed the certificate: it trusts this key.
        format!("--ignore-certificate-errors-spki-list={}", digest.trim()),
        "--dump-dom".to_owned(),
        format!("https://{HOST}:8443/a?nonce=4711"),
    ]);
    let shown = site.outside.spawn("chromium", command)?.outcome(Duration::from_secs(90))?.success()?.text();
    assert!(shown.contains("<html") && shown.contains("server1") && shown.contains("4711"), "{shown}");
    let lines = site.scene.agent.logged(1)?;
    let page = lines.iter().find(|line| line["path"] == "/a?nonce=4711").context("no record of the page")?;
    assert_eq!((&page["protocol"], &page["response_code"]), (&"HTTP/2".into(), &200.into()), "{page}");
    assert_eq!(page["tls_version"], "TLSv1.3", "{page}");
    assert!(page["user_agent"].as_str().unwrap().contains("Chrome/"), "{page}");
    Ok(())
}

/// Without a window, and without the connections to its maker that a browser makes by itself.
const BROWSER: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

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

/// Connects without a pause until its input ends; prints how many handshakes and requests succeeded, how many
/// certificates it saw, and what failed.
const LOAD: &str = r#"
import collections, socket, ssl, sys, threading
ca, node, name, port = sys.argv[1:5]
own = sys.argv[5] if len(sys.argv) > 5 else None
stop, done, failed, lock = threading.Event(), 0, collections.Counter(), threading.Lock()
seen = set()
def work():
    global done
    while not stop.is_set():
        try:
            context = ssl.create_default_context(cafile=ca)
            if own:
                context.load_cert_chain(own)
            with socket.create_connection((node, int(port)), 30) as plain:
                with context.wrap_socket(plain, server_hostname=name) as stream:
                    serial = stream.getpeercert()["serialNumber"]
                    stream.sendall(f"GET /a HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
                    answer = b""
                    while chunk := stream.recv(65536):
                        answer += chunk
            assert answer.startswith(b"HTTP/1.1 200"), answer[:40]
            with lock:
                done += 1
                seen.add(serial)
        except Exception as error:
            with lock: failed[repr(error)] += 1
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
print("begun", flush=True)
sys.stdin.read()
stop.set()
[thread.join() for thread in threads]
print(done, len(seen), dict(failed))
"#;

/// What [`LOAD`] says at its end: all went well, with so many certificates.
fn of_load(told: &str) -> Result<u64> {
    let words = told.trim_start_matches("begun\n").trim().splitn(3, ' ').collect::<Vec<_>>();
    let [done, seen, failed] = words[..] else { anyhow::bail!("{told}") };
    assert!(done.parse::<u64>()? > 0 && failed == "{}", "{told}");
    Ok(seen.parse()?)
}

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
    of_load(&told)?;
    Ok(())
}

/// `DOORS` where clients of the Gateway have to have a certificate of these ConfigMaps' authorities.
fn guarded(site: &Site, maps: &[(&str, &Authority)]) -> Result<String> {
    let refs: Vec<_> =
        maps.iter().map(|(name, _)| format!("{{group: '', kind: ConfigMap, name: {name}}}")).collect();
    let tls = format!(
        "  gatewayClassName: weir\n  tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [{}]}}}}}}}}\n",
        refs.join(", ")
    );
    let config_maps: String =
        maps.iter().map(|(name, authority)| manifest::authorities(name, &authority.pem)).collect();
    Ok(site.manifests()?.replacen("  gatewayClassName: weir\n", &tls, 1) + &config_maps)
}

#[test]
fn curl_with_a_certificate_of_the_authority_is_served_and_no_other() -> Result<()> {
    needs_kernel!();
    let site = Site::new(&[])?;
    let (ours, stranger) = (Authority::new()?, Authority::new()?);
    site.scene.agent.reconfigure_text(&guarded(&site, &[("partners", &ours)])?)?;
    let dir = site.scene.topology.dir();
    let file = |name: &str, text: String| -> Result<String> {
        fs::write(dir.join(name), text)?;
        Ok(dir.join(name).display().to_string())
    };
    let good = file("good.pem", ours.client("client-7", |_| {})?)?;
    let expired = file(
        "expired.pem",
        ours.client("client-7", |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })?,
    )?;
    let strange = file("strange.pem", stranger.client("client-7", |_| {})?)?;
    let mut asked = 0;
    for (version, protocol) in [("1.2", "2"), ("1.3", "2"), ("1.2", "1.1"), ("1.3", "1.1")] {
        let (limit, http) = (format!("--tlsv{version}"), format!("--http{protocol}"));
        let base = ["--tls-max", version, &limit, &http, "--write-out", "\n%{http_code} %{http_version}"];
        let claim = ["--header", "X-Forwarded-Client-Cert: Subject=\"CN=admin\""];
        let with = |more: &[&str]| {
            let all: Vec<_> = base.iter().chain(&claim).chain(more).copied().collect();
            site.curl(&site.outside, (HOST, 8443), &all)
        };
        let text = with(&["--cert", &good])?.success()?.text();
        let (body, told) = text.rsplit_once('\n').unwrap();
        assert_eq!(told, format!("200 {protocol}"), "{version}");
        assert!(!body.to_lowercase().contains("x-forwarded-client-cert"), "{body}");
        for bad in [&[][..], &["--cert", &expired], &["--cert", &strange]] {
            let refused = with(bad)?;
            assert!(refused.text().ends_with("\n000 0"), "{bad:?} {version} {protocol}: {}", refused.text());
        }
        asked += 4;
        let lines = site.scene.agent.logged(asked)?;
        let served = lines.iter().rev().find(|line| line["response_code"] == 200).context("no request")?;
        assert_eq!(served["downstream_peer_subject"], "CN=client-7", "{served}");
        assert_eq!(served["downstream_peer_verified"], true, "{served}");
        assert_eq!(served["tls_version"], format!("TLSv{version}"), "{served}");
    }
    let told = site.scene.agent.metrics()?;
    for (outcome, count) in [("full", 4.0), ("no_client_certificate", 4.0), ("untrusted", 8.0)] {
        assert_eq!(told.sum("weir_tls_handshakes_total", &[("outcome", outcome)]), count, "{outcome}");
    }
    // The Ingress of the same node asks nobody.
    let other = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    assert_eq!(site.curl(&site.outside, (OTHER, 443), &other)?.success()?.text(), "200");
    Ok(())
}

#[test]
fn authorities_rotate_under_load_and_a_client_of_both_is_never_refused() -> Result<()> {
    const ROTATIONS: usize = 60;
    needs_kernel!();
    let site = Site::new(&[])?;
    let (old, new) = (Authority::new()?, Authority::new()?);
    let agent = &site.scene.agent;
    agent.reconfigure_text(&guarded(&site, &[("old", &old)])?)?;
    let own = site.scene.topology.dir().join("own.pem");
    fs::write(&own, old.client("own", |_| {})?)?;
    let (ca, node) = (site.ca.display().to_string(), site.scene.topology.node().v4().to_string());
    let mut command = site.outside.command("/usr/bin/python3");
    command.args(["-c", LOAD, &ca, &node, HOST, "8443", &own.display().to_string()]);
    let mut load = site.outside.spawn("load", command)?;
    load.says("begun", SOON)?;
    for round in 0..ROTATIONS {
        let (both, one) = ([("old", &old), ("new", &new)], [("old", &old)]);
        let now = if round % 2 == 0 { &both[..] } else { &one[..] };
        agent.reload_text(&guarded(&site, now)?)?;
    }
    load.close_stdin();
    of_load(&load.outcome(SOON)?.success()?.text())?;
    agent.reload_text(&guarded(&site, &[("new", &new)])?)?;
    let cert = own.display().to_string();
    let refused =
        site.curl(&site.outside, (HOST, 8443), &["--cert", &cert, "--write-out", "%{http_code}"])?;
    assert_eq!(refused.text(), "000", "its authority counts no more");
    Ok(())
}

/// An agent whose manifests come from an API server.
struct FromApi {
    stage: Stage,
    authority: Authority,
    ca: PathBuf,
    server: ApiServer,
    run: PathBuf,
    agent: Agent,
}

impl FromApi {
    fn new() -> Result<Self> {
        Self::serving("v1")
    }

    /// BackendTLSPolicies are served in this version alone.
    fn serving(version: &str) -> Result<Self> {
        let stage = Stage::new(1)?;
        let authority = Authority::new()?;
        let ca = stage.topology.dir().join("ca.pem");
        fs::write(&ca, &authority.pem)?;
        let server = stage.topology.node().netns().run(ApiServer::start)??;
        server.put_manifest(&web(&stage))?;
        server.put_manifest(DOORS.split("---\napiVersion: networking").next().unwrap())?;
        server.define(&format!("gateway.networking.k8s.io/{version}"), "backendtlspolicies");
        let kubeconfig = server.kubeconfig(stage.topology.dir())?;
        let run = stage.topology.dir().join("run");
        let agent = Builder::new(&stage.topology, &[])?
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--run-dir={}", run.display()))
            .arg("--node-name=node1")
            .start()?;
        Ok(Self { stage, authority, ca, server, run, agent })
    }

    /// A new certificate for `HOST`, as the API server has it: in base64. Its first line of base64 in PEM that
    /// is not every certificate's.
    fn rotate(&self, broken: bool) -> Result<String> {
        let text: Value =
            serde_saphyr::from_str(self.authority.secret("shop", HOST)?.strip_suffix("---\n").unwrap())?;
        let mut object = text.clone();
        object.as_object_mut().unwrap().remove("stringData");
        let value = |key: &str| text["stringData"][key].as_str().unwrap().to_owned();
        let (chain, mut key) = (value("tls.crt"), value("tls.key"));
        if broken {
            key = key.replacen("BEGIN PRIVATE", "BEGIN PUBLIC", 1);
        }
        object["data"]["tls.crt"] = base64(chain.as_bytes()).into();
        object["data"]["tls.key"] = base64(key.as_bytes()).into();
        self.server.put(object)?;
        Ok(certificate(&chain))
    }

    /// What a client is told of the connection, the certificate in it.
    fn shown(&self) -> Result<String> {
        let node = self.stage.topology.node().at(8443).to_string();
        // It ends with its input.
        let script = format!(
            "openssl s_client -connect {node} -servername {HOST} -CAfile {} < /dev/null 2>&1",
            self.ca.display()
        );
        Ok(self.stage.client.run("/bin/sh", ["-c", &script], SOON)?.text())
    }

    fn serves(&self, wanted: &str) -> Result<()> {
        wait::until(SOON, "the certificate is there", || {
            let shown = self.shown()?;
            Ok(shown.contains("Verification: OK") && certificate(&shown) == wanted)
        })
        .with_context(|| format!("{:?}; the agent says {:?}", self.shown(), self.agent.stderr()))
    }
}

/// The first one in a text.
fn certificate(text: &str) -> String {
    let after = text.split("-----BEGIN CERTIFICATE-----").nth(1).unwrap_or_default();
    after.split("-----END").next().unwrap_or_default().split_whitespace().collect()
}

#[test]
fn certificates_come_from_the_api_secret_by_secret() -> Result<()> {
    needs_kernel!();
    let site = FromApi::new()?;
    for _ in 0..2 {
        let wanted = site.rotate(false)?;
        site.serves(&wanted)?;
    }
    // By name, in its namespace: never a list of all.
    let asked = site.server.asked();
    let secrets: Vec<_> = asked.iter().filter(|one| one.plural == "secrets").collect();
    assert!(!secrets.is_empty());
    for one in secrets {
        assert!(one.path.starts_with("/api/v1/namespaces/demo/secrets?"), "{one:?}");
        assert!(one.path.contains("fieldSelector=metadata.name%3Dshop"), "{one:?}");
    }
    // What is kept on disk has been written when it has the route.
    let kept = site.run.join("objects.json");
    wait::until(SOON, "objects are kept", || {
        Ok(fs::read_to_string(&kept).is_ok_and(|text| text.contains("httproutes ")))
    })?;
    assert!(!fs::read_to_string(&kept)?.contains("tls.key"));
    Ok(())
}

#[test]
fn c13_a_thousand_certificates_from_the_api_rotate_under_load_without_a_failed_handshake() -> Result<()> {
    const ROTATIONS: usize = 1000;
    needs_kernel!();
    let site = FromApi::new()?;
    let mut wanted = site.rotate(false)?;
    site.serves(&wanted)?;
    let outside = &site.stage.client;
    let (ca, node) = (site.ca.display().to_string(), site.stage.topology.node().v4().to_string());
    let mut command = outside.command("/usr/bin/python3");
    command.args(["-c", LOAD, &ca, &node, HOST, "8443"]);
    let mut load = outside.spawn("load", command)?;
    load.says("begun", SOON)?;
    let generation = || Ok::<_, anyhow::Error>(site.agent.metrics()?.sum("weir_config_generation", &[]));
    for round in 1..=ROTATIONS {
        let before = generation()?;
        // Every tenth is broken, and the one before stays.
        let (broken, made) = (round % 10 == 0, site.rotate(round % 10 == 0)?);
        wait::until(SOON, "the change is in force", || Ok(generation()? > before))?;
        if !broken {
            wanted = made;
        }
        if round % 50 == 0 {
            site.serves(&wanted)?;
        }
    }
    let said = "tls.key of Secret demo/shop cannot be read";
    wait::until(SOON, "the log says what is wrong", || Ok(site.agent.stderr()?.contains(said)))?;
    load.close_stdin();
    let seen = of_load(&load.outcome(SOON)?.success()?.text())?;
    assert!(seen > 1, "{seen} certificates were seen");
    Ok(())
}

/// Serves HTTP in TLS, and says who was asked for, in what.
const VAULT: &str = r#"
import http.server, ssl, sys
names = []
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
if len(sys.argv) > 3:
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(sys.argv[3])
context.sni_callback = lambda stream, name, context: names.append(name)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        text = f"{self.headers['host']} as {names[-1]} in {self.request.version()}"
        own = self.request.getpeercert()
        if own:
            text += f" for {own['subject'][0][0][1]}"
        text = text.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
server = http.server.ThreadingHTTPServer((sys.argv[2], 9443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("begun", flush=True)
server.serve_forever()
"#;

/// A Gateway of plain HTTP before a Service whose endpoints speak TLS.
const BEFORE_VAULT: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: plain, namespace: demo}
spec: {gatewayClassName: weir, listeners: [{name: http, port: 8081, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: vault, namespace: demo}
spec: {parentRefs: [{name: plain}], rules: [{backendRefs: [{name: vault, port: 443}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: vault, namespace: demo}
spec:
  targetRefs: [{group: '', kind: Service, name: vault}]
  validation: {hostname: vault.internal, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}
---
";

#[test]
fn a_backend_tls_policy_from_the_api_holds_with_its_config_map_and_without_it_nothing_is_sent() -> Result<()>
{
    needs_kernel!();
    let site = FromApi::new()?;
    let server = &site.stage.servers[0];
    let (chain, key) = site.authority.pair("vault.internal")?;
    let pem = site.stage.topology.dir().join("vault.pem");
    fs::write(&pem, chain + &key)?;
    let mut command = server.command("/usr/bin/python3");
    command.args(["-c", VAULT, &pem.display().to_string(), &server.at(9443).ip().to_string()]);
    let mut vault = server.spawn("vault", command)?;
    vault.says("begun", SOON)?;
    let service = Service::new("vault", 443).cluster_ip([10, 96, 0, 30]).endpoints([server.at(9443)]);
    site.server.put_manifest(&service.yaml())?;
    site.server.put_manifest(BEFORE_VAULT)?;
    let map = |text: &str| {
        serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "ca", "namespace": "demo"}, "data": {"ca.crt": text}})
    };
    let url = format!("http://{}/a", site.stage.topology.node().at(8081));
    let asked = || -> Result<String> {
        let asked = site.stage.client.curl(["--max-time", "20", "--write-out", " %{http_code}", &url])?;
        Ok(asked.text())
    };
    let becomes = |end: &str| {
        wait::until(SOON, "the answer is another", || Ok(asked()?.ends_with(end)))
            .with_context(|| format!("{:?}; the agent says {:?}", asked(), site.agent.stderr()))
    };
    becomes(" 500")?;
    site.server.put(map(&site.authority.pem))?;
    let host = site.stage.topology.node().at(8081);
    becomes(&format!("{host} as vault.internal in TLSv1.3 200"))?;
    // Others than those that have signed its certificate.
    site.server.put(map(&Authority::new()?.pem))?;
    becomes(" 503")?;
    site.server.delete(&map(""))?;
    becomes(" 500")?;
    let said = "there is no ConfigMap demo/ca";
    wait::until(SOON, "the log says what is missing", || Ok(site.agent.stderr()?.contains(said)))?;
    // By name, in its namespace: never a list of all.
    let asked = site.server.asked();
    let maps: Vec<_> = asked.iter().filter(|one| one.plural == "configmaps").collect();
    assert!(!maps.is_empty());
    for one in maps {
        assert!(one.path.starts_with("/api/v1/namespaces/demo/configmaps?"), "{one:?}");
    }
    Ok(())
}

#[test]
fn a_backend_tls_policy_of_either_version_holds_and_its_status_says_where() -> Result<()> {
    needs_kernel!();
    for version in ["v1", "v1alpha3"] {
        let site = FromApi::serving(version)?;
        let server = &site.stage.servers[0];
        let (chain, key) = site.authority.pair("vault.internal")?;
        let pem = site.stage.topology.dir().join("vault.pem");
        fs::write(&pem, chain + &key)?;
        let mut command = server.command("/usr/bin/python3");
        command.args(["-c", VAULT, &pem.display().to_string(), &server.at(9443).ip().to_string()]);
        let mut vault = server.spawn("vault", command)?;
        vault.says("begun", SOON)?;
        let service = Service::new("vault", 443).cluster_ip([10, 96, 0, 30]).endpoints([server.at(9443)]);
        site.server.put_manifest(&service.yaml())?;
        let (before, policy) = BEFORE_VAULT.split_at(BEFORE_VAULT.rfind("apiVersion").context("a policy")?);
        site.server.put_manifest(before)?;
        site.server.put_manifest(&policy.replace("io/v1\n", &format!("io/{version}\n")))?;
        let like = serde_json::json!({"apiVersion": format!("gateway.networking.k8s.io/{version}"),
            "kind": "BackendTLSPolicy", "metadata": {"name": "vault", "namespace": "demo"}});
        let says = |accepted: &str, resolved: &str| {
            wait::until(SOON, "the status says so", || {
                let policy = site.server.get(&like).context("the policy")?;
                let ancestor = &policy["status"]["ancestors"][0];
                let reason = |at: usize| ancestor["conditions"][at]["reason"].as_str().unwrap_or_default();
                Ok(ancestor["ancestorRef"]["name"] == "plain"
                    && ancestor["controllerName"] == "weir.dev/gateway"
                    && (reason(0), reason(1)) == (accepted, resolved))
            })
            .with_context(|| {
                format!("{version}: {:?}; the agent says {:?}", site.server.get(&like), site.agent.stderr())
            })
        };
        says("NoValidCACertificate", "InvalidCACertificateRef")?;
        site.server.put(serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "ca", "namespace": "demo"}, "data": {"ca.crt": site.authority.pem}}))?;
        says("Accepted", "ResolvedRefs")?;
        let url = format!("http://{}/a", site.stage.topology.node().at(8081));
        wait::until(SOON, "requests go there in TLS", || {
            let asked = site.stage.client.curl(["--max-time", "20", "--write-out", " %{http_code}", &url])?;
            Ok(asked.text().ends_with("as vault.internal in TLSv1.3 200"))
        })?;
    }
    Ok(())
}

/// `BEFORE_VAULT` with a certificate for endpoints, where `secret` names one.
fn before_vault(secret: Option<&str>) -> String {
    let tls =
        secret.map(|name| format!("{{backend: {{clientCertificateRef: {{name: {name}}}}}}}, listeners"));
    let Some(tls) = tls else { return BEFORE_VAULT.to_owned() };
    BEFORE_VAULT.replacen("weir, listeners", &format!("weir, tls: {tls}"), 1)
}

#[test]
fn an_endpoint_that_verifies_its_clients_sees_the_gateways_certificate_and_the_next_one_after_a_change()
-> Result<()> {
    needs_kernel!();
    let site = FromApi::new()?;
    let server = &site.stage.servers[0];
    let (clients, dir) = (Authority::new()?, site.stage.topology.dir());
    let (chain, key) = site.authority.pair("vault.internal")?;
    let (pem, trusted) = (dir.join("vault.pem"), dir.join("clients.pem"));
    fs::write(&pem, chain + &key)?;
    fs::write(&trusted, &clients.pem)?;
    let mut command = server.command("/usr/bin/python3");
    let at = server.at(9443).ip().to_string();
    command.args(["-c", VAULT, &pem.display().to_string(), &at, &trusted.display().to_string()]);
    let mut vault = server.spawn("vault", command)?;
    vault.says("begun", SOON)?;
    let service = Service::new("vault", 443).cluster_ip([10, 96, 0, 30]).endpoints([server.at(9443)]);
    site.server.put_manifest(&service.yaml())?;
    site.server.put(serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "ca", "namespace": "demo"}, "data": {"ca.crt": site.authority.pem}}))?;
    site.server.put_manifest(&before_vault(None))?;
    let url = format!("http://{}/a", site.stage.topology.node().at(8081));
    let asked = || -> Result<String> {
        let asked = site.stage.client.curl(["--max-time", "20", "--write-out", " %{http_code}", &url])?;
        Ok(asked.text())
    };
    let becomes = |end: &str| {
        wait::until(SOON, "the answer is another", || Ok(asked()?.ends_with(end)))
            .with_context(|| format!("{:?}; the agent says {:?}", asked(), site.agent.stderr()))
    };
    // In TLS 1.3 the endpoint refuses when the session is there already.
    becomes(" 502")?;
    let shown = |name: &str| -> Result<()> {
        let both = clients.client(name, |_| {})?;
        let (chain, key) = both.split_at(both.find("-----BEGIN PRIVATE").context("a key")?);
        let data =
            serde_json::json!({"tls.crt": base64(chain.as_bytes()), "tls.key": base64(key.as_bytes())});
        site.server
            .put(serde_json::json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "own", "namespace": "demo"}, "data": data}))?;
        Ok(())
    };
    shown("first")?;
    site.server.put_manifest(&before_vault(Some("own")))?;
    becomes(" in TLSv1.3 for first 200")?;
    shown("second")?;
    becomes(" in TLSv1.3 for second 200")?;
    let expiry = site.agent.metrics()?;
    let ours = [("listener", "Gateway demo/plain"), ("secret", "demo/own")];
    assert!(expiry.sum("weir_tls_certificate_expiry_timestamp_seconds", &ours) > 1.7e9);
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

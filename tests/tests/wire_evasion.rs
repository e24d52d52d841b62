//! Ways around the hooks: odd system calls, cuts, cgroups and descriptors. None of them gets a request past a policy,
//! or another identity.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use std::{fs, net::SocketAddr, time::Duration};
use weir_tests::{
    conversation::Conversation,
    manifest::{HttpPolicy, Pod as Manifest, Service},
    needs_kernel,
    pod::Pod,
    scene::{PORT, Scene, Stage, WEB, WEB_MAPPED, WEB_V6},
};

/// What scripts begin with: `warm()` is a connection that requests may be carried on, `status(s)` the status of the
/// next answer.
const PRELUDE: &str = r"
import ctypes, os, socket, sys, tempfile, time
def request(path): return b'GET ' + path + b' HTTP/1.1\r\nHost: demo\r\n\r\n'
def status(s):
    got = b''
    try:
        while b'\r\n\r\n' not in got:
            more = s.recv(65536)
            if not more: return 'closed'
            got += more
        head, body = got.split(b'\r\n\r\n', 1)
        length = [int(l.split(b':')[1]) for l in head.lower().split(b'\r\n') if l.startswith(b'content-length:')]
        while length and len(body) < length[0]: body += s.recv(65536)
    except ConnectionError: return 'closed'
    return head.split()[1].decode()
def opened(): return socket.create_connection((A, P), 20)
def warm():
    s = opened()
    for _ in range(10):
        s.sendall(request(b'/public'))
        assert status(s) == '200'
    return s
";

fn python(pod: &Pod, code: &str) -> Result<String> {
    let code = format!("A, P = {:?}, {}\n{PRELUDE}{code}", WEB.ip().to_string(), WEB.port());
    Ok(pod.run("python3", ["-c", &code], Duration::from_secs(90))?.success()?.text())
}

/// Only `/public` and what is below is allowed; the kernel half decides where it can.
fn guarded() -> Result<Scene> {
    let scene = Scene::web(&["--acceleration=on", "--splice-control=0%", "--probation-requests=2"])?;
    let pods =
        scene.servers.iter().map(|pod| Manifest::new(pod.name(), "web").address(pod.v4()).address(pod.v6()));
    let web = Service::new("web", PORT).cluster_ip(WEB.ip()).cluster_ip(WEB_V6.ip());
    let web = scene.servers.iter().fold(web, |web, pod| web.endpoints([pod.at(PORT), pod.at_v6(PORT)]));
    let policy = HttpPolicy::new("reads", "web", PORT).allow(&[("method", "GET"), ("path", "/public(/.*)?")]);
    let pods: String = pods.map(|pod| pod.yaml()).collect();
    scene.agent.reconfigure_text(&format!("{}{pods}{}", web.yaml(), policy.yaml()))?;
    Ok(scene)
}

/// No line of the access log says that anything with `admin` was let through.
fn nothing_passed(scene: &Scene) -> Result<()> {
    let lines = scene.agent.access_log()?;
    let passed = |line: &&serde_json::Value| {
        line["path"].as_str().is_some_and(|path| path.contains("admin")) && line["response_code"] == 200
    };
    assert_eq!(lines.iter().find(passed), None);
    Ok(())
}

#[test]
fn k5_however_a_request_is_sent_its_verdict_is_the_same() -> Result<()> {
    needs_kernel!();
    let scene = guarded()?;
    let code = r"
def sendfile(s, data):
    with tempfile.TemporaryFile() as f:
        f.write(data); f.flush()
        assert os.sendfile(s.fileno(), f.fileno(), 0, len(data)) == len(data)
def splice(s, data):
    r, w = os.pipe(); os.write(w, data)
    assert os.splice(r, s.fileno(), len(data)) == len(data)
def vector(s, data): assert s.sendmsg([data[i:i+1] for i in range(len(data))]) == len(data)
def zerocopy(s, data):
    s.setsockopt(socket.SOL_SOCKET, 60, 1); assert s.send(data, 0x4000000) == len(data)
def more(s, data): s.send(data[:6], socket.MSG_MORE); s.send(data[6:])
def single(s, data):
    for i in range(len(data)): s.send(data[i:i+1])
def halves(s, data): s.send(data[:9]); time.sleep(0.05); s.send(data[9:])
for way in (sendfile, splice, vector, zerocopy, more, single, halves):
    for start in (warm, opened):
        for path in (b'/public/a', b'/admin', b'/public/../admin'):
            s = start(); way(s, request(path)); print(way.__name__, path.decode(), status(s))
";
    let said = python(&scene.client, code)?;
    assert_eq!(said.lines().count(), 7 * 2 * 3, "{said}");
    for line in said.lines() {
        let expected = if line.contains(" /public/a ") { "200" } else { "403" };
        assert!(line.ends_with(expected), "{line}");
    }
    nothing_passed(&scene)
}

#[test]
fn k5_a_byte_sent_out_of_band_lets_nothing_through() -> Result<()> {
    needs_kernel!();
    let scene = guarded()?;
    let code = r"
for start in (warm, opened):
    for at in (1, 3, 5, 8):
        s = start(); data = request(b'/admin')
        s.send(data[:at]); s.send(b'X', socket.MSG_OOB); s.send(data[at:])
        s.shutdown(socket.SHUT_WR); print(status(s))
";
    let said = python(&scene.client, code)?;
    assert_eq!(said.lines().count(), 8, "{said}");
    assert!(said.lines().all(|status| status != "200"), "{said}");
    nothing_passed(&scene)
}

#[test]
fn k2_a_pause_within_a_head_does_not_end_with_a_request_let_through() -> Result<()> {
    needs_kernel!();
    let scene = guarded()?;
    let code = r"
for start in (warm, opened):
    for first in (1, 6):
        s = start(); data = request(b'/admin')
        s.send(data[:first]); time.sleep(3); s.send(data[first:]); print(status(s))
";
    assert_eq!(python(&scene.client, code)?.split_whitespace().collect::<Vec<_>>(), ["403"; 4]);
    nothing_passed(&scene)
}

#[test]
fn k6_an_end_right_behind_a_head_or_within_it_changes_no_verdict() -> Result<()> {
    needs_kernel!();
    let scene = guarded()?;
    let code = r"
for start in (warm, opened):
    s = start(); s.send(request(b'/admin')); s.shutdown(socket.SHUT_WR); print(status(s))
    s = start(); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
    s.send(request(b'/admin')[:-2]); s.close()
s = socket.socket(); s.sendto(request(b'/admin'), socket.MSG_FASTOPEN, (A, P)); print(status(s))
";
    assert_eq!(python(&scene.client, code)?.split_whitespace().collect::<Vec<_>>(), ["403"; 3]);
    nothing_passed(&scene)
}

#[test]
fn b5_io_uring_connects_and_sends_through_the_same_hooks() -> Result<()> {
    needs_kernel!();
    let scene = guarded()?;
    let code = r"
import mmap, struct
libc = ctypes.CDLL(None, use_errno=True)
p = bytearray(120)
fd = libc.syscall(425, 4, (ctypes.c_char * 120).from_buffer(p))
if fd < 0: print('none'); sys.exit()
u = lambda at: struct.unpack_from('I', p, at)[0]
sq = mmap.mmap(fd, u(64) + u(0) * 4); cq = mmap.mmap(fd, u(100) + u(4) * 16, offset=0x8000000)
sqes = mmap.mmap(fd, u(0) * 64, offset=0x10000000)
word = lambda m, at: struct.unpack_from('I', m, at)[0]
def run(op, s, buffer, length, off):
    tail = word(sq, u(44)); at = tail & word(sq, u(48))
    address = ctypes.addressof(buffer)
    sqes[at*64:at*64+64] = struct.pack('<BBHiQQII', op, 0, 0, s.fileno(), off, address, length, 0) + bytes(32)
    struct.pack_into('I', sq, u(64) + at * 4, at); struct.pack_into('I', sq, u(44), tail + 1)
    assert libc.syscall(426, fd, 1, 1, 1, None, 0) == 1
    head = word(cq, u(80)); result = struct.unpack_from('i', cq, u(100) + (head & word(cq, u(88))) * 16 + 8)[0]
    struct.pack_into('I', cq, u(80), head + 1)
    return result
to = struct.pack('!2sH4s8x', struct.pack('=H', socket.AF_INET), P, socket.inet_aton(A))
s = socket.socket(); to = ctypes.create_string_buffer(to, 16)
assert run(16, s, to, 0, 16) == 0
for path in [b'/public'] * 10 + [b'/admin']:
    data = request(path); assert run(26, s, ctypes.create_string_buffer(data, len(data)), len(data), 0) == len(data)
    print(status(s))
";
    let said = python(&scene.client, code)?;
    if said.trim() == "none" {
        eprintln!("no io_uring on this machine");
        return Ok(());
    }
    let statuses: Vec<_> = said.split_whitespace().collect();
    assert_eq!(statuses, [["200"; 10].as_slice(), &["403"]].concat(), "{said}");
    nothing_passed(&scene)
}

#[test]
fn k8_a_policy_holds_whichever_address_is_asked() -> Result<()> {
    needs_kernel!();
    let scene = guarded()?;
    let server = scene.server()?;
    for to in [WEB, WEB_V6, WEB_MAPPED, server.at(PORT), server.at_v6(PORT)] {
        let status = |path: &str| -> Result<String> {
            let url = format!("http://{to}{path}");
            let wanted = ["--globoff", "--output", "/dev/null", "--write-out", "%{http_code}", &url];
            Ok(scene.client.curl(wanted)?.text())
        };
        assert_eq!((status("/public")?.as_str(), status("/admin")?.as_str()), ("200", "403"), "{to}");
    }
    nothing_passed(&scene)
}

/// Asks for what is allowed once it is told to; says so before.
const LATER: &str = r"
s = opened(); print('open', flush=True); sys.stdin.readline()
s.sendall(request(b'/public')); print('status', status(s), flush=True)
";

#[test]
fn b7_a_socket_that_moves_to_another_cgroup_stays_who_has_connected_it() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let other = scene.topology.pod("other", 30)?;
    let code = format!("A, P = {:?}, {}\n{PRELUDE}{LATER}", WEB.ip().to_string(), WEB.port());
    let mut command = scene.client.command("python3");
    command.args(["-c", &code]);
    let mut process = scene.client.spawn("later", command)?;
    process.says("open", Duration::from_secs(20))?;
    fs::write(other.cgroup().procs(), process.pid().to_string())?;
    process.tell("go")?;
    process.says("status 200", Duration::from_secs(20))?;
    let line = &scene.agent.logged(1)?[0];
    assert_eq!(line["cgroup_id"], scene.client.cgroup().id()?, "{line}");
    Ok(())
}

#[test]
fn b7_a_child_that_inherits_a_socket_asks_as_its_parent() -> Result<()> {
    needs_kernel!();
    let scene = guarded()?;
    let code = r"
s = warm()
if os.fork() == 0:
    for path in (b'/public', b'/admin'): s.sendall(request(path)); print(status(s), flush=True)
    os._exit(0)
os.wait()
";
    assert_eq!(python(&scene.client, code)?.split_whitespace().collect::<Vec<_>>(), ["200", "403"]);
    let lines = scene.agent.logged(1)?;
    let client = scene.client.cgroup().id()?;
    assert!(lines.iter().all(|line| line["cgroup_id"] == client), "{lines:?}");
    Ok(())
}

#[test]
fn b9_nobody_binds_the_agents_port_beside_it() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&[])?;
    let node = scene.topology.node();
    let code = format!(
        "import socket\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
         s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         try: s.bind(({:?}, 15001)); s.listen(); print('bound')\nexcept OSError as error: print(error.errno)",
        node.v4().to_string()
    );
    // EADDRINUSE.
    assert_eq!(node.run("python3", ["-c", &code], Duration::from_secs(20))?.success()?.text().trim(), "98");
    assert!(scene.ask("/")?.contains("GET / HTTP/1.1"));
    Ok(())
}

#[test]
fn b6_a_connection_from_before_the_agent_goes_on_untouched() -> Result<()> {
    needs_kernel!();
    let stage = Stage::new(1)?;
    let (web, to): (Service, SocketAddr) = (stage.web(), stage.servers[0].at(PORT));
    let mut before = Conversation::start(&stage.client, to)?;
    assert_eq!(before.get("/before")?.status, 200);
    let scene = stage.play(&[web], &[])?;
    for _ in 0..20 {
        assert_eq!(before.get("/within")?.status, 200);
    }
    scene.ask("/after")?;
    let lines = scene.agent.logged(1)?;
    assert!(lines.iter().all(|line| line["path"] == "/after"), "{lines:?}");
    Ok(())
}

#[test]
fn b11_i6_what_the_agent_connects_to_is_not_steered_back_to_it() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--steer-host"])?;
    for n in 0..5 {
        scene.ask(&format!("/{n}"))?;
    }
    assert_eq!(scene.agent.logged(5)?.len(), 5);
    let steered = scene.agent.metrics()?.sum("weir_kernel_events_total", &[("event", "steered")]);
    assert!((steered - 5.0).abs() < 0.5, "{steered} connects were steered");
    Ok(())
}

#[test]
fn b13_a_process_in_a_cgroup_below_its_pods_is_steered_as_the_pod() -> Result<()> {
    needs_kernel!();
    let scene = guarded()?;
    let nested = scene.client.cgroup().child("nested")?;
    let code = format!(
        "open({:?}, 'w').write(str(os.getpid()))\ns = warm()\n\
         for path in (b'/public', b'/admin'): s.sendall(request(path)); print(status(s))",
        nested.procs().display().to_string()
    );
    assert_eq!(python(&scene.client, &code)?.split_whitespace().collect::<Vec<_>>(), ["200", "403"]);
    nothing_passed(&scene)
}

//! What runs out: descriptors, ephemeral ports, room for records. Requests get an answer or a reset with a reason,
//! the admin listener answers, and when there is room again all is as before.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use proxy_common::abi::counter;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::time::Duration;
use weir_tests::{
    metrics::Samples,
    needs_kernel, peer,
    scene::{Scene, WEB},
    wait,
};

#[test]
fn d16_without_descriptors_accept_goes_on_and_the_admin_listener_answers() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--max-connections=10000"])?;
    let most = u64::try_from(scene.agent.open_files()?)? + 100;
    let pid = Pid::from_raw(i32::try_from(scene.agent.pid())?);
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) })?;
    let mut holding = peer::start(&scene.client, ["hold", "--to", &WEB.to_string(), "--connections", "400"])?;
    holding.says("errors", Duration::from_secs(60))?;
    let refused = |all: &Samples| all.sum("weir_downstream_refused_total", &[("limit", "files")]);
    scene.agent.metrics_until("connections are refused", |all| refused(all) > 100.0)?;
    for _ in 0..20 {
        assert_eq!(scene.agent.get("/livez")?.status, 200);
    }
    assert!(scene.agent.open_files()? < usize::try_from(most)?);
    drop(holding);
    wait::until(Duration::from_secs(20), "there is room again", || Ok(scene.ask("/").is_ok()))
}

/// As many requests at once from the client pod, each for two seconds, with these ephemeral ports; the statuses. The
/// client's own ports are none of those.
fn at_once(scene: &Scene, count: u16, ports: &str) -> Result<Vec<String>> {
    let code = format!(
        "import socket\n\
         open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('{ports}')\n\
         all = []\n\
         for n in range({count}):\n\
         \x20 s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.settimeout(60)\n\
         \x20 s.bind(('0.0.0.0', 40000 + n)); s.connect(({:?}, {}))\n\
         \x20 s.sendall(b'GET /delay/2000 HTTP/1.1\\r\\nHost: demo\\r\\n\\r\\n'); all.append(s)\n\
         for s in all: print(s.recv(65536).split()[1].decode())\n",
        WEB.ip().to_string(),
        WEB.port()
    );
    let said = scene.client.run("python3", ["-c", &code], Duration::from_secs(90))?.success()?.text();
    Ok(said.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn d17_without_ephemeral_ports_requests_get_503_and_those_that_have_one_go_on() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=off"])?;
    let statuses = at_once(&scene, 12, "50000 50003")?;
    let with = |status: &str| statuses.iter().filter(|one| *one == status).count();
    assert!((1..=4).contains(&with("200")) && with("200") + with("503") == 12, "{statuses:?}");
    let failed = |all: &Samples| {
        all.sum("http_server_request_duration_seconds_count", &[("error_type", "connect_failed")])
    };
    scene.agent.metrics_until("each is counted", |all| failed(all) > 7.5)?;
    let lines = scene.agent.access_log()?;
    let line = lines.iter().find(|line| line["response_code"] == 503).unwrap();
    assert_eq!(line["response_flags"], "UF", "{line}");
    assert_eq!(at_once(&scene, 12, "50000 50999")?, ["200"; 12]);
    Ok(())
}

/// As many clients of HTTP/2 one after the other, each with an entry of 4000 bytes and 10 000 references to it in one
/// head of 14 KiB: how each was answered.
fn hpack_bombs(scene: &Scene, count: u32) -> Result<Vec<String>> {
    let code = format!(
        "import socket\n\
         def n(first, bits, v):\n\
         \x20 most = (1 << bits) - 1\n\
         \x20 if v < most: return bytes([first | v])\n\
         \x20 out = [first | most]; v -= most\n\
         \x20 while v >= 128: out.append(v % 128 | 128); v //= 128\n\
         \x20 return bytes(out + [v])\n\
         def s(b): return n(0, 7, len(b)) + b\n\
         def frame(kind, flags, stream, b): return len(b).to_bytes(3, 'big') + bytes([kind, flags]) + stream.to_bytes(4, 'big') + b\n\
         head = b'\\x82\\x86\\x84\\x41' + s(b'web') + b'\\x40' + s(b'x') + s(b'a' * 4000) + b'\\xbe' * 10000\n\
         for _ in range({count}):\n\
         \x20 c = socket.create_connection(({:?}, {}), timeout=60)\n\
         \x20 c.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + frame(4, 0, 0, b'') + frame(1, 5, 1, head))\n\
         \x20 f = c.makefile('rb'); said = 'closed'\n\
         \x20 while True:\n\
         \x20   h = f.read(9)\n\
         \x20   if len(h) < 9: break\n\
         \x20   payload = f.read(int.from_bytes(h[:3], 'big'))\n\
         \x20   if h[3] == 7: said = 'goaway'; break\n\
         \x20   if h[3] == 3: said = 'reset'; break\n\
         \x20   if h[3] == 1: said = '431' if b'\\x69\\x90\\xff' in payload or b'431' in payload else 'answered'; break\n\
         \x20 print(said); c.close()\n",
        WEB.ip().to_string(),
        WEB.port()
    );
    let said = scene.client.run("python3", ["-c", &code], Duration::from_secs(120))?.success()?.text();
    Ok(said.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn d10_a_head_that_stands_for_40_mb_costs_less_than_2_mib_and_reaches_nobody() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=off"])?;
    // What the agent needs for a client of HTTP/2 at all.
    hpack_bombs(&scene, 5)?;
    let before = scene.agent.rss()?;
    scene.agent.forget_peak()?;
    let said = hpack_bombs(&scene, 20)?;
    assert!(said.len() == 20 && said.iter().all(|one| one != "answered"), "{said:?}");
    let rise = scene.agent.peak()?.saturating_sub(before);
    assert!(rise < 2 << 20, "{rise} bytes more than {before}");
    assert!(scene.agent.access_log()?.iter().all(|line| line["response_code"] != 200));
    scene.ask("/after").map(drop)
}

#[test]
fn d19_records_that_nobody_reads_are_lost_and_counted_and_requests_go_on() -> Result<()> {
    needs_kernel!();
    let scene = Scene::web(&["--acceleration=on", "--splice-control=0%", "--probation-requests=2"])?;
    let counters = scene.agent.counters()?;
    let (to, path) = (WEB.to_string(), format!("/{}", "a".repeat(200)));
    let asked = ["load", "--to", &to, "--connections=8", "--requests=40000", "--path", &path];
    let mut load = peer::start(&scene.client, asked)?;
    wait::until(Duration::from_secs(30), "the kernel half carries", || Ok(counters.spliced()? > 100))?;
    // The kernel half goes on alone, and nobody empties its ring.
    let full = || Ok(counters.get(counter::ACCESS_LOG_LOST)? > 0);
    scene.agent.stopped(|| wait::until(Duration::from_secs(60), "records are lost", full))?;
    load.wait(Duration::from_secs(120))?;
    let told: serde_json::Value = serde_json::from_str(load.stdout_text()?.trim())?;
    assert_eq!(told["servers"], serde_json::json!({"server1": 320_000}), "{told}");
    let lost = |all: &Samples| all.sum("weir_access_log_lost_total", &[]);
    scene.agent.metrics_until("what was lost is counted", |all| lost(all) > 0.5)?;
    scene.ask("/after").map(drop)
}

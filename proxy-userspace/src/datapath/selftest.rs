//! Boot self-test: what sockets in the socket map do on *this* kernel. It runs on a socket pair of the
//! agent's own before anything is steered; its findings decide which redirects are allowed.

mod lane;

use super::{pairs::Pairs, tables::Tables, tallies::Tallies};
use anyhow::{Context, bail, ensure};
use proxy_common::{
    abi::{ROLE_APPLICATION, Settings, SocketState, counter},
    flow::FlowKey,
};
use rustix::{
    fs::{MemfdFlags, memfd_create, sendfile},
    io::ioctl_fionread,
    net::{RecvFlags, recv},
    pipe::{SpliceFlags, pipe, splice},
};
use serde::Serialize;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

/// How long a trial waits for bytes that should be there at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long splice(2) may take: the bytes are there before it is called, and on a kernel that loses them an
/// agent's start waits for as long. Too short only bars workloads that call it.
const SPLICE_PATIENCE: Duration = Duration::from_millis(200);
const CAP: u32 = 1 << 20;
/// Until a thread blocks, or an acknowledgement has come back, on loopback.
const SETTLE: Duration = Duration::from_millis(20);

/// What the running kernel does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SelfTest {
    /// Why nothing may be redirected, if a trial of the basics failed.
    pub broken: Option<String>,
    /// splice(2) reads redirected bytes.
    pub splice: bool,
    /// recv(2) that blocks goes on blocking when something other than data wakes it.
    pub blocking: bool,
    /// FIONREAD counts redirected bytes, and bytes that came by TCP to a mapped socket.
    pub fionread: bool,
    /// The splice lane was tried.
    pub lane_tried: bool,
    /// Why the kernel half may carry no request, if a trial of the splice lane failed.
    pub lane_broken: Option<String>,
}

/// What the trials of the splice lane take beside the tables.
pub(super) struct LaneTables<'a> {
    pub(super) pairs: &'a Pairs,
    pub(super) tallies: &'a Tallies,
    pub(super) settings: Settings,
}

impl SelfTest {
    /// Runs every trial. The sk_msg program must be attached to the socket map already.
    pub(super) fn run(tables: &Tables, lane: Option<&LaneTables<'_>>) -> Self {
        let broken = basics(tables).err().map(|error| format!("{error:#}"));
        let lane = lane.filter(|_| broken.is_none());
        Self {
            lane_tried: lane.is_some(),
            lane_broken: lane
                .and_then(|lane| lane::trials(tables, lane).err())
                .map(|error| format!("{error:#}")),
            splice: broken.is_none() && splice_reads(tables).unwrap_or(false),
            blocking: broken.is_none() && blocked_reads_hold(tables).unwrap_or(false),
            fionread: broken.is_none() && fionread_counts(tables).unwrap_or(false),
            broken,
        }
    }

    /// The kernel half may carry requests.
    pub(super) fn proves_the_lane(&self) -> bool {
        self.lane_tried && self.lane_broken.is_none()
    }
}

type Trial = fn(&Tables) -> anyhow::Result<()>;

fn basics(tables: &Tables) -> anyhow::Result<()> {
    let trials: [(&str, Trial); 6] = [
        ("bytes and order", bytes_and_order),
        ("half-close", half_close),
        ("sendfile", sends_files),
        ("peek", peeks),
        ("leaving the map", leaves),
        ("unread data is seen", sees_unread),
    ];
    for (name, trial) in trials {
        trial(tables).with_context(|| format!("trial \"{name}\""))?;
    }
    Ok(())
}

/// Two connected sockets in the socket map.
struct Pair<'a> {
    near: TcpStream,
    far: TcpStream,
    near_key: FlowKey,
    far_key: FlowKey,
    tables: &'a Tables,
}

impl<'a> Pair<'a> {
    fn new(tables: &'a Tables) -> anyhow::Result<Self> {
        let application = SocketState { role: ROLE_APPLICATION, turn_cap: CAP, ..SocketState::default() };
        Self::of(tables, application, application)
    }

    fn of(tables: &'a Tables, opener: SocketState, acceptor: SocketState) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind on loopback")?;
        let near = TcpStream::connect(listener.local_addr()?).context("connect on loopback")?;
        let (far, _) = listener.accept()?;
        for socket in [&near, &far] {
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
        }
        let near_key = FlowKey::new(near.local_addr()?, near.peer_addr()?);
        let pair = Self { near, far, near_key, far_key: near_key.reversed(), tables };
        pair.join(&pair.near, &pair.near_key, &opener)?;
        pair.join(&pair.far, &pair.far_key, &acceptor)?;
        Ok(pair)
    }

    fn join(&self, socket: &TcpStream, key: &FlowKey, state: &SocketState) -> anyhow::Result<()> {
        self.tables.states.insert(key, state)?;
        self.tables.sockets.lock().insert(key, socket.as_raw_fd(), 0).context("insert into the socket map")
    }

    fn state(&self, key: &FlowKey) -> anyhow::Result<SocketState> {
        self.tables.states.get(key)?.context("a mapped socket's state is gone")
    }

    fn expect_at_far(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut got = vec![0; bytes.len()];
        self.far.read_exact(&mut got).context("read")?;
        ensure!(got == bytes, "bytes differ");
        Ok(())
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        for key in [&self.near_key, &self.far_key] {
            let gone = self.tables.unmap(key).and_then(|_| self.tables.states.remove(key));
            if let Err(error) = gone {
                tracing::warn!(%error, "the self-test's sockets stay in the socket map until they close");
            }
        }
    }
}

fn bytes_and_order(tables: &Tables) -> anyhow::Result<()> {
    let mut pair = Pair::new(tables)?;
    let before = tables.counter(counter::REDIRECTED);
    let mut sent = Vec::new();
    for size in [1_usize, 2, 17, 100, 1000, 4096, 5000, 16_384, 65_536] {
        let message: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
        pair.near.write_all(&message).context("write")?;
        sent.extend_from_slice(&message);
    }
    pair.expect_at_far(&sent)?;
    ensure!(tables.counter(counter::REDIRECTED) > before, "no message was redirected");
    Ok(())
}

fn half_close(tables: &Tables) -> anyhow::Result<()> {
    let mut pair = Pair::new(tables)?;
    pair.near.write_all(b"question")?;
    pair.near.shutdown(Shutdown::Write)?;
    let mut got = Vec::new();
    pair.far.read_to_end(&mut got).context("read to the end")?;
    ensure!(got == b"question", "bytes before the end differ");
    pair.far.write_all(b"answer").context("write after the peer's end")?;
    let mut got = [0; 6];
    pair.near.read_exact(&mut got).context("read after one's own end")?;
    ensure!(&got == b"answer", "bytes after the end differ");
    Ok(())
}

fn sends_files(tables: &Tables) -> anyhow::Result<()> {
    let mut pair = Pair::new(tables)?;
    let content = vec![b'f'; 20_000];
    let mut file = std::fs::File::from(memfd_create("weir-selftest", MemfdFlags::CLOEXEC)?);
    file.write_all(&content)?;
    let mut offset = 0;
    while offset < content.len() as u64 {
        let sent = sendfile(&pair.near, &file, Some(&mut offset), content.len())?;
        ensure!(sent > 0, "sendfile stopped early");
    }
    pair.expect_at_far(&content)
}

fn peeks(tables: &Tables) -> anyhow::Result<()> {
    let mut pair = Pair::new(tables)?;
    pair.near.write_all(b"peekaboo")?;
    let mut seen = [0_u8; 8];
    let (count, _) = recv(&pair.far, &mut seen, RecvFlags::PEEK)?;
    ensure!(count == 8 && &seen == b"peekaboo", "peek saw {count} bytes");
    pair.expect_at_far(b"peekaboo")
}

fn leaves(tables: &Tables) -> anyhow::Result<()> {
    let mut pair = Pair::new(tables)?;
    pair.near.write_all(b"first")?;
    pair.expect_at_far(b"first")?;
    ensure!(tables.unmap(&pair.far_key)?, "the socket was not in the map");
    pair.near.write_all(b"second")?;
    pair.expect_at_far(b"second")?;
    ensure!(pair.state(&pair.near_key)?.plain == 1, "the sender did not notice");
    Ok(())
}

/// The layout of the kernel's structures is right: a socket with unread redirected data is seen as
/// such when it speaks, and one without is not.
fn sees_unread(tables: &Tables) -> anyhow::Result<()> {
    let mut pair = Pair::new(tables)?;
    pair.near.write_all(b"read me")?;
    pair.expect_at_far(b"read me")?;
    pair.far.write_all(b"done")?;
    ensure!(pair.state(&pair.far_key)?.plain == 0, "a drained socket was taken for a pipelining one");
    ensure!(pair.state(&pair.far_key)?.unread == 0, "a drained socket kept its count");
    let mut done = [0; 4];
    pair.near.read_exact(&mut done)?;
    pair.near.write_all(b"not read")?;
    pair.far.write_all(b"early")?;
    ensure!(pair.state(&pair.far_key)?.plain == 1, "unread data went unseen");
    let mut early = [0; 5];
    pair.near.read_exact(&mut early)?;
    pair.expect_at_far(b"not read")
}

/// Whether splice(2) from a mapped socket delivers redirected bytes.
fn splice_reads(tables: &Tables) -> anyhow::Result<bool> {
    let mut pair = Pair::new(tables)?;
    pair.near.write_all(&[b's'; 3000])?;
    pair.far.set_read_timeout(Some(SPLICE_PATIENCE))?;
    let (_reader, writer) = pipe()?;
    let moved = splice(&pair.far, None, &writer, None, 3000, SpliceFlags::NONBLOCK);
    Ok(moved == Ok(3000))
}

/// Whether a recv(2) that blocks on a mapped socket waits on when the acknowledgement of its own FIN
/// wakes it.
fn blocked_reads_hold(tables: &Tables) -> anyhow::Result<bool> {
    let mut pair = Pair::new(tables)?;
    let mut reader = pair.far.try_clone()?;
    let blocked = std::thread::spawn(move || reader.read(&mut [0]));
    std::thread::sleep(SETTLE);
    pair.far.shutdown(Shutdown::Write)?;
    std::thread::sleep(SETTLE);
    pair.near.write_all(b"x")?;
    let read = blocked.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    Ok(matches!(read, Ok(1)))
}

/// Whether FIONREAD on a mapped socket counts bytes either way they came.
fn fionread_counts(tables: &Tables) -> anyhow::Result<bool> {
    let mut pair = Pair::new(tables)?;
    pair.near.write_all(&[b'r'; 700])?;
    if ioctl_fionread(&pair.far)? != 700 {
        return Ok(false);
    }
    pair.expect_at_far(&[b'r'; 700])?;
    let plain = SocketState { plain: 1, ..pair.state(&pair.near_key)? };
    tables.states.insert(&pair.near_key, &plain)?;
    pair.near.write_all(&[b't'; 700])?;
    let mut byte = [0_u8; 1];
    let (count, _) = recv(&pair.far, &mut byte, RecvFlags::PEEK)?;
    if count != 1 {
        bail!("bytes by TCP did not arrive at a mapped socket");
    }
    Ok(ioctl_fionread(&pair.far)? == 700)
}

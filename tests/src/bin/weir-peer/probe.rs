//! May this be reached? Answers to everybody, and clients that tell what they met.

use anyhow::{Context, Result};
use clap::Args;
use rustix::net;
use serde_json::{Map, json};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

const ANSWER: &[u8; 2] = b"ok";

/// Arguments of `weir-peer answer`.
#[derive(Args, Debug)]
pub(crate) struct Answer {
    /// Ports, of TCP, of UDP and, over IPv4, of SCTP, at every address.
    #[arg(long, required = true, value_delimiter = ',')]
    ports: Vec<u16>,
}

/// Arguments of `weir-peer probe`.
#[derive(Args, Debug)]
pub(crate) struct Probe {
    /// What to reach: `tcp:ADDRESS:PORT`, `udp:ADDRESS:PORT` or `sctp:ADDRESS:PORT`; all at once.
    #[arg(long, required = true, value_delimiter = ',')]
    to: Vec<String>,
    /// How long one may take, milliseconds.
    #[arg(long, default_value_t = 2000)]
    patience: u64,
    /// The own address to reach it from.
    #[arg(long)]
    from: Option<IpAddr>,
    /// Goes on until standard input closes, a line for every change of what it meets.
    #[arg(long)]
    follow: bool,
}

impl Answer {
    /// Answers until killed.
    pub(crate) fn serve(self) -> Result<()> {
        thread::spawn({
            let (socket, ports) = (sctp_socket(None)?, self.ports.clone());
            move || answer_sctp(&socket, &ports)
        });
        for port in self.ports {
            let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            let listener = TcpListener::bind(at).with_context(|| format!("tcp port {port}"))?;
            let socket = UdpSocket::bind(at).with_context(|| format!("udp port {port}"))?;
            thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    // A client that is gone already is no concern of the others.
                    let _ = stream.write_all(ANSWER);
                }
            });
            thread::spawn(move || {
                let mut datagram = [0; 64];
                while let Ok((_, from)) = socket.recv_from(&mut datagram) {
                    let _ = socket.send_to(ANSWER, from);
                }
            });
        }
        writeln!(io::stdout(), "listening")?;
        loop {
            thread::park();
        }
    }
}

impl Probe {
    /// Prints what every target met, and after how many milliseconds.
    pub(crate) fn run(self) -> Result<()> {
        let patience = Duration::from_millis(self.patience);
        if self.follow {
            return follow(&self.to, self.from, patience);
        }
        let probes: Vec<_> = self.to.iter().map(|to| (to, spawn(to.clone(), self.from, patience))).collect();
        let mut met = Map::new();
        for (to, probe) in probes {
            let (what, took) = probe.join().map_err(|_| anyhow::anyhow!("a probe panicked"))??;
            met.insert(to.clone(), json!({ "met": what, "ms": u64::try_from(took.as_millis())? }));
        }
        Ok(writeln!(io::stdout(), "{}", json!(met))?)
    }
}

type Met = Result<(&'static str, Duration)>;

fn spawn(to: String, from: Option<IpAddr>, patience: Duration) -> thread::JoinHandle<Met> {
    thread::spawn(move || probe(&to, from, patience))
}

fn follow(all: &[String], from: Option<IpAddr>, patience: Duration) -> Result<()> {
    let mut last = String::new();
    let stdin = thread::spawn(|| io::stdin().read_to_end(&mut Vec::new()));
    while !stdin.is_finished() {
        for to in all {
            let (met, _) = probe(to, from, patience)?;
            let line = format!("{to} {met}");
            if line != last {
                writeln!(io::stdout(), "{line}")?;
                last = line;
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn probe(to: &str, from: Option<IpAddr>, patience: Duration) -> Met {
    let begun = Instant::now();
    let (protocol, addr) = to.split_once(':').context("PROTOCOL:ADDRESS:PORT is wanted")?;
    let addr: SocketAddr = addr.parse()?;
    let met = match protocol {
        "tcp" => tcp(addr, from, patience),
        "udp" => udp(addr, from, patience),
        "sctp" => sctp(addr, from, patience),
        other => anyhow::bail!("protocol {other}"),
    };
    let word = match met {
        Ok(()) => "open",
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => "refused",
            ErrorKind::PermissionDenied => "forbidden",
            ErrorKind::TimedOut | ErrorKind::WouldBlock => "silent",
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => "reset",
            _ => return Err(error).context(addr),
        },
    };
    Ok((word, begun.elapsed()))
}

fn tcp(to: SocketAddr, from: Option<IpAddr>, patience: Duration) -> io::Result<()> {
    let mut stream = match from {
        None => TcpStream::connect_timeout(&to, patience)?,
        Some(_) => {
            let socket = socket(to, from, net::SocketType::STREAM)?;
            net::sockopt::set_socket_timeout(&socket, net::sockopt::Timeout::Send, Some(patience))?;
            net::connect(&socket, &to)?;
            TcpStream::from(socket)
        }
    };
    stream.set_read_timeout(Some(patience))?;
    stream.read_exact(&mut [0; 2])
}

fn udp(to: SocketAddr, from: Option<IpAddr>, patience: Duration) -> io::Result<()> {
    let socket = UdpSocket::from(socket(to, from, net::SocketType::DGRAM)?);
    socket.set_read_timeout(Some(patience))?;
    socket.send_to(b"?", to)?;
    socket.recv_from(&mut [0; 64]).map(drop)
}

/// The common header of SCTP: ports, tag, checksum (RFC 9260 section 3.1). No kernel here need know more of
/// it: who decides about a packet looks at the ports alone, and what has no chunks is nobody's association.
type SctpHeader = [u8; 12];

fn sctp_header(from: u16, to: u16) -> SctpHeader {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// A raw socket of SCTP over IPv4.
fn sctp_socket(from: Option<IpAddr>) -> io::Result<UdpSocket> {
    const SCTP: u32 = 132;
    let protocol = std::num::NonZeroU32::new(SCTP).map(net::Protocol::from_raw);
    let socket = net::socket_with(
        net::AddressFamily::INET,
        net::SocketType::RAW,
        net::SocketFlags::CLOEXEC,
        protocol,
    )?;
    if let Some(from) = from {
        net::bind(&socket, &SocketAddr::new(from, 0))?;
    }
    Ok(UdpSocket::from(socket))
}

/// The next packet's ports, source first, and its sender.
fn next_sctp(socket: &UdpSocket) -> io::Result<(u16, u16, IpAddr)> {
    loop {
        let mut packet = [0; 256];
        let (len, from) = socket.recv_from(&mut packet)?;
        // IPv4's header comes first; its length is in words.
        let header = usize::from(packet[0] & 15) * 4;
        if let Some([a, b, c, d]) = packet.get(header..len.min(header + 4)) {
            return Ok((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]), from.ip()));
        }
    }
}

fn answer_sctp(socket: &UdpSocket, ports: &[u16]) {
    while let Ok((source, port, from)) = next_sctp(socket) {
        if ports.contains(&port) {
            let _ = socket.send_to(&sctp_header(port, source), SocketAddr::new(from, 0));
        }
    }
}

fn sctp(to: SocketAddr, from: Option<IpAddr>, patience: Duration) -> io::Result<()> {
    static NEXT: AtomicU16 = AtomicU16::new(40_000);
    let (socket, own) = (sctp_socket(from)?, NEXT.fetch_add(1, Ordering::Relaxed));
    let until = Instant::now() + patience;
    socket.send_to(&sctp_header(own, to.port()), SocketAddr::new(to.ip(), 0))?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        // Raw sockets get everybody's.
        if next_sctp(&socket)? == (to.port(), own, to.ip()) {
            return Ok(());
        }
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

/// A socket of the target's family, bound to an own address.
fn socket(to: SocketAddr, from: Option<IpAddr>, kind: net::SocketType) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { net::AddressFamily::INET } else { net::AddressFamily::INET6 };
    let socket = net::socket_with(family, kind, net::SocketFlags::CLOEXEC, None)?;
    if let Some(from) = from {
        net::bind(&socket, &SocketAddr::new(from, 0))?;
    }
    Ok(socket)
}

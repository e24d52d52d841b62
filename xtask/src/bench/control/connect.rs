//! What a client's connects get, and what they cost; runs in the client's pod.

use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt},
    time::{ClockId, clock_gettime},
};
use std::{
    io::Write,
    net::SocketAddrV4,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_micros(200);

/// Arguments of `bench-connect`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// A Service address.
    target: SocketAddrV4,
    /// Connects to measure; without it, `open` or `refused` is said whenever that changes, with the
    /// monotonic clock's nanoseconds, until the end of standard input.
    #[arg(long)]
    count: Option<usize>,
}

/// Measures, or watches.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if let Some(count) = args.count {
        let mut costs = (0..count).map(|_| cost(args.target)).collect::<Result<Vec<_>>>()?;
        costs.sort_unstable();
        let median = costs.get(count / 2).copied().unwrap_or_default();
        writeln!(out, "{}", median.as_nanos())?;
        return Ok(());
    }
    let mut last = None;
    loop {
        let open = attempt(args.target)?.1;
        if last != Some(open) {
            writeln!(out, "{} {}", if open { "open" } else { "refused" }, now())?;
            out.flush()?;
            last = Some(open);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The monotonic clock, which all processes share, in nanoseconds.
pub(super) fn now() -> u128 {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default()).as_nanos()
}

/// One connect: the socket, and whether the kernel let it begin.
fn attempt(target: SocketAddrV4) -> Result<(OwnedFd, bool)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    // The port is free again at once.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    match connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok((socket, true)),
        Err(Errno::CONNREFUSED) => Ok((socket, false)),
        Err(error) => Err(error).with_context(|| format!("connect to {target}")),
    }
}

/// What the system call takes: the kernel half, and the handshake with a server on this node.
fn cost(target: SocketAddrV4) -> Result<Duration> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    let begun = Instant::now();
    let outcome = connect(&socket, &target);
    let took = begun.elapsed();
    match outcome {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(took),
        Err(error) => Err(error).with_context(|| format!("connect to {target}")),
    }
}

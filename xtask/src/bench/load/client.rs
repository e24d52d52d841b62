//! `bench-client`: the load generator. One epoll loop per thread, its share of the connections each;
//! after a warm-up it counts what completes within a window and prints a [`Measured`] as JSON.

use super::{
    connection::{Connection, Step, Target},
    pace::Pace,
};
use crate::bench::machine::{Busy, KernelMemory};
use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, Event, EventData, EventFlags},
    fd::OwnedFd,
    io::Errno,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec},
};
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddrV4,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Broken connections that a run survives; more mean that the path does not work.
const MAX_ERRORS: u64 = 100;
/// Longest latency that is told apart from longer ones, nanoseconds.
const MAX_LATENCY_NS: u64 = 60_000_000_000;
const TIMER: u64 = u64::MAX;

/// Arguments of the hidden verb `bench-client`.
#[derive(clap::Args, Clone, PartialEq, Debug)]
pub(crate) struct Args {
    /// Where requests go.
    #[arg(long)]
    pub(crate) target: SocketAddrV4,
    /// Connections.
    #[arg(long, default_value_t = 32)]
    pub(crate) conns: usize,
    /// Bytes of each answer's body.
    #[arg(long, default_value_t = 100)]
    pub(crate) body: usize,
    /// A new connection for each request.
    #[arg(long)]
    pub(crate) close: bool,
    /// Requests a second (open loop); without it as many as go (closed loop).
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Milliseconds before the window.
    #[arg(long, default_value_t = 200)]
    pub(crate) warmup_ms: u64,
    /// Milliseconds of the window.
    #[arg(long, default_value_t = 1500)]
    pub(crate) window_ms: u64,
    /// Epoll loops.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// The cgroup whose CPU time counts as the path's own.
    #[arg(long)]
    pub(crate) cgroup: PathBuf,
}

/// What one run of the load generator measured.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Requests completed within the window.
    pub(crate) requests: u64,
    /// Requests completed in all, those before the window included.
    pub(crate) answered: u64,
    /// Connections that broke; each was opened again.
    pub(crate) errors: u64,
    /// Requests a second.
    pub(crate) rps: f64,
    /// Median latency. In an open loop from when the request was due; on a connection per request with
    /// the handshake.
    pub(crate) p50_us: f64,
    /// 90th percentile.
    pub(crate) p90_us: f64,
    /// 99th percentile.
    pub(crate) p99_us: f64,
    /// 99.9th percentile.
    pub(crate) p999_us: f64,
    /// Largest latency.
    pub(crate) max_us: f64,
    /// CPU time of the whole machine within the window, per request.
    pub(crate) cpu_us_per_req: f64,
    /// The same of client, server and agent alone: what others do on a shared machine is left out, and
    /// so are softirqs that ran while others did.
    pub(crate) own_cpu_us_per_req: f64,
    /// Share of all CPUs that was busy within the window, 0 to 1.
    pub(crate) cpu_busy: f64,
    /// Buffers of all TCP sockets at the window's end.
    pub(crate) tcp_mem_kib: u64,
    /// The kernel's slab caches at the window's end.
    pub(crate) slab_kib: u64,
}

impl Args {
    /// The same as words for a command line.
    pub(crate) fn words(&self) -> Vec<String> {
        let Self { target, conns, body, close, rate, warmup_ms, window_ms, threads, cgroup } = self;
        let mut words = vec![
            format!("--target={target}"),
            format!("--conns={conns}"),
            format!("--body={body}"),
            format!("--warmup-ms={warmup_ms}"),
            format!("--window-ms={window_ms}"),
            format!("--threads={threads}"),
            format!("--cgroup={}", cgroup.display()),
        ];
        words.extend(close.then(|| "--close".to_owned()));
        words.extend(rate.map(|rate| format!("--rate={rate}")));
        words
    }
}

/// Runs the load and prints what was measured.
pub(crate) fn load(args: &Args) -> Result<()> {
    println!("{}", serde_json::to_string(&measure(args)?)?);
    Ok(())
}

fn measure(args: &Args) -> Result<Measured> {
    ensure!(args.threads > 0 && args.conns >= args.threads, "fewer connections than threads");
    let window = Duration::from_millis(args.window_ms);
    let begin = Instant::now() + Duration::from_millis(args.warmup_ms);
    let end = begin + window;
    let (tally, used, memory) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads)
            .map(|index| scope.spawn(move || Loop::new(args, index, begin, end)?.run()))
            .collect();
        std::thread::sleep(begin.saturating_duration_since(Instant::now()));
        let before = Busy::now(&args.cgroup)?;
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        let used = before.until(&Busy::now(&args.cgroup)?);
        let memory = KernelMemory::now()?;
        let mut all = Tally::new()?;
        for thread in threads {
            match thread.join() {
                Ok(tally) => all.add(&tally?)?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok::<_, anyhow::Error>((all, used, memory))
    })?;
    let requests = tally.latency.len();
    ensure!(requests > 0, "no request was answered within {window:?}, {} connections broke", tally.errors);
    let quantile = |q| micros(tally.latency.value_at_quantile(q));
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let rps = requests as f64 / window.as_secs_f64();
    // Rates, not sums: on a busy machine our own look at the counters comes late.
    Ok(Measured {
        requests,
        answered: tally.answered,
        errors: tally.errors,
        rps,
        p50_us: quantile(0.5),
        p90_us: quantile(0.9),
        p99_us: quantile(0.99),
        p999_us: quantile(0.999),
        max_us: micros(tally.latency.max()),
        cpu_us_per_req: used.cpus * 1e6 / rps,
        own_cpu_us_per_req: used.own * 1e6 / rps,
        cpu_busy: used.share,
        tcp_mem_kib: memory.tcp_kib,
        slab_kib: memory.slab_kib,
    })
}

fn micros(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6
}

/// What one thread counted.
struct Tally {
    /// Within the window.
    latency: Histogram<u64>,
    /// Requests, in all.
    answered: u64,
    errors: u64,
}

impl Tally {
    fn new() -> Result<Self> {
        let latency = Histogram::new_with_bounds(1_000, MAX_LATENCY_NS, 3).context("histogram")?;
        Ok(Self { latency, answered: 0, errors: 0 })
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.answered += other.answered;
        self.errors += other.errors;
        self.latency.add(&other.latency).context("histogram")
    }
}

/// One thread's share of the load.
struct Loop {
    epoll: OwnedFd,
    timer: OwnedFd,
    connections: Vec<Connection>,
    /// Connections without a request, by index.
    idle: Vec<usize>,
    target: Target,
    pace: Pace,
    begin: Instant,
    end: Instant,
    tally: Tally,
    /// Where everything is received; the contents do not outlive a call.
    scratch: Vec<u8>,
}

impl Loop {
    fn new(args: &Args, index: usize, begin: Instant, end: Instant) -> Result<Self> {
        let share = args.conns / args.threads + usize::from(index < args.conns % args.threads);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN | EventFlags::ET)?;
        #[expect(clippy::cast_precision_loss, reason = "a handful of threads")]
        let rate = args.rate.map(|rate| rate / args.threads as f64);
        Ok(Self {
            epoll,
            timer,
            connections: (0..share).map(|_| Connection::default()).collect(),
            idle: (0..share).rev().collect(),
            target: Target::new(args.target, args.body, !args.close, u64::try_from(index)?),
            pace: Pace::new(rate, Instant::now()),
            begin,
            end,
            tally: Tally::new()?,
            scratch: vec![0; 256 * 1024],
        })
    }

    fn run(mut self) -> Result<Tally> {
        let mut events: Vec<Event> = Vec::with_capacity(512);
        loop {
            self.start_due()?;
            self.set_timer()?;
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timespec(self.left()))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("epoll_wait"),
            }
            if self.left().is_zero() {
                return Ok(self.tally);
            }
            for event in events.iter().filter(|event| event.data.u64() != TIMER) {
                self.drive(usize::try_from(event.data.u64())?)?;
            }
        }
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Starts requests on idle connections, as long as some are due.
    fn start_due(&mut self) -> Result<()> {
        while let Some(index) = self.idle.pop() {
            let Some(at) = self.pace.take(Instant::now()) else {
                self.idle.push(index);
                return Ok(());
            };
            self.start(index, at)?;
        }
        Ok(())
    }

    fn start(&mut self, index: usize, at: Instant) -> Result<()> {
        let Some(connection) = self.connections.get_mut(index) else { return Ok(()) };
        let step = connection.start(&mut self.target, at, |socket| {
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
            epoll::add(&self.epoll, socket, EventData::new_u64(index as u64), flags)
        })?;
        self.settle(index, step)
    }

    /// Moves a connection on after an event.
    fn drive(&mut self, index: usize) -> Result<()> {
        let Some(connection) = self.connections.get_mut(index) else { return Ok(()) };
        let step = connection.drive(&self.target, &mut self.scratch)?;
        self.settle(index, step)
    }

    /// Counts what a step brought, and begins the connection's next request where that is due.
    fn settle(&mut self, index: usize, step: Step) -> Result<()> {
        match step {
            Step::Waiting => return Ok(()),
            Step::Answered(at) => {
                self.tally.answered += 1;
                let now = Instant::now();
                if now >= self.begin && now < self.end {
                    let took = now.saturating_duration_since(at);
                    self.tally.latency.saturating_record(u64::try_from(took.as_nanos())?);
                }
            }
            Step::Broken(error) => {
                self.tally.errors += 1;
                if self.tally.errors > MAX_ERRORS {
                    return Err(error).context("more than 100 connections broke, the last one");
                }
            }
        }
        self.idle.push(index);
        Ok(())
    }

    /// Has the timer wake us when the next request is due and a connection waits for it.
    fn set_timer(&self) -> Result<()> {
        let Some(due) = self.pace.due().filter(|_| !self.idle.is_empty()) else { return Ok(()) };
        // Zero would disarm it.
        let wait = due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(wait) };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).context("timer")?;
        Ok(())
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn arguments_survive_the_command_line() {
        let args = Args {
            target: "10.96.0.10:8080".parse().unwrap(),
            conns: 7,
            body: 16,
            close: true,
            rate: Some(12.5),
            warmup_ms: 1,
            window_ms: 2,
            threads: 3,
            cgroup: "/sys/fs/cgroup/a".into(),
        };
        let words = std::iter::once("bench-client".to_owned()).chain(args.words());
        assert_eq!(Line::try_parse_from(words).unwrap().args, args);
    }
}

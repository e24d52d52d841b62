//! The machine as a whole: CPU time with softirqs, memory, what it is.

use anyhow::{Context, Result};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use weir_tests::cgroup;

/// What `/proc/stat` counts in, milliseconds: USER_HZ is 100 wherever Linux runs today.
const JIFFY_MS: u64 = 10;

/// CPU accounting at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Busy {
    at: Instant,
    stat: Stat,
    /// CPU time of one cgroup.
    own: Duration,
}

/// CPU use between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    /// CPUs that were not idle on average: user, system, interrupts, softirqs, stolen time.
    pub(crate) cpus: f64,
    /// The same as a share of all CPUs, 0 to 1.
    pub(crate) share: f64,
    /// CPUs that the cgroup used on average.
    pub(crate) own: f64,
}

/// The first line of `/proc/stat`, and how many CPUs follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    idle: u64,
    cpus: u32,
}

/// While it lives, the kernel counts the runs of BPF programs and their time (`kernel.bpf_stats_enabled`).
pub(crate) struct ProgramStatistics {
    /// What the switch was before.
    before: String,
}

impl ProgramStatistics {
    const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

    /// Turns them on.
    pub(crate) fn on() -> Result<Self> {
        let before = fs::read_to_string(Self::SWITCH).context(Self::SWITCH)?;
        fs::write(Self::SWITCH, "1").context(Self::SWITCH)?;
        Ok(Self { before })
    }
}

impl Drop for ProgramStatistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::SWITCH, self.before.trim()) {
            eprintln!("{} is still 1: {error}", Self::SWITCH);
        }
    }
}

impl Busy {
    /// Reads the counters of the machine and of a cgroup v2 with everything below it.
    pub(crate) fn now(cgroup: &Path) -> Result<Self> {
        let own = cgroup::cpu_time(cgroup)?;
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        Ok(Self { at: Instant::now(), stat: Stat::parse(&text)?, own })
    }

    /// CPU use from then until `later`.
    pub(crate) fn until(&self, later: &Self) -> Used {
        let elapsed = later.at.duration_since(self.at);
        let own = later.own.saturating_sub(self.own).as_secs_f64() / elapsed.as_secs_f64();
        Used { own, ..Used::between(self.stat, later.stat, elapsed) }
    }
}

impl Used {
    /// Idle time is measured by the kernel, busy time is sampled by its tick, which a loop that sleeps
    /// between requests can dodge: so what is not idle was busy.
    fn between(before: Stat, after: Stat, elapsed: Duration) -> Self {
        let idle = Duration::from_millis(JIFFY_MS * after.idle.saturating_sub(before.idle));
        let all = elapsed * after.cpus;
        let busy = all.saturating_sub(idle).as_secs_f64();
        Self { cpus: busy / elapsed.as_secs_f64(), share: busy / all.as_secs_f64(), own: 0.0 }
    }
}

impl Stat {
    fn parse(text: &str) -> Result<Self> {
        let mut cpu_lines = text.lines().take_while(|line| line.starts_with("cpu"));
        let all = cpu_lines.next().context("/proc/stat begins without cpu")?;
        let mut fields = all.split_ascii_whitespace().skip(4);
        let mut next = || -> Result<u64> { Ok(fields.next().context("a short cpu line")?.parse()?) };
        let idle = next()? + next()?;
        Ok(Self { idle, cpus: u32::try_from(cpu_lines.count())? })
    }
}

/// Memory of the kernel at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelMemory {
    /// Buffers of all TCP sockets.
    pub(crate) tcp_kib: u64,
    /// All slab caches.
    pub(crate) slab_kib: u64,
}

impl KernelMemory {
    /// Reads the counters.
    pub(crate) fn now() -> Result<Self> {
        let sockets = fs::read_to_string("/proc/net/sockstat").context("/proc/net/sockstat")?;
        let memory = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
        let pages = tcp_pages(&sockets).context("/proc/net/sockstat has no TCP mem")?;
        let page_kib = u64::try_from(rustix::param::page_size())? / 1024;
        let slab_kib = kib(&memory, "Slab:").context("/proc/meminfo has no Slab")?;
        Ok(Self { tcp_kib: pages * page_kib, slab_kib })
    }
}

/// Largest resident size that a process has had.
pub(crate) fn peak_rss_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    kib(&text, "VmHWM:").with_context(|| format!("{path} has no VmHWM"))
}

/// The number in a line like `Slab:  1234 kB`.
pub(crate) fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The pages in a line like `TCP: inuse 5 orphan 0 tw 0 alloc 9 mem 3`.
fn tcp_pages(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    line.split_ascii_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_neither_idle_nor_waiting_for_a_disk_is_busy() {
        let before = Stat::parse("cpu  10 0 10 100 5 0 3 1 0 0\ncpu0 1\ncpu1 1\nintr 5\n").unwrap();
        let after = Stat::parse("cpu  90 0 30 150 15 0 9 2 0 0\ncpu0 1\ncpu1 1\nintr 5\n").unwrap();
        assert_eq!(before, Stat { idle: 105, cpus: 2 });
        let used = Used::between(before, after, Duration::from_secs(1));
        assert!((used.cpus - 1.4).abs() < 1e-9);
        assert!((used.share - 0.7).abs() < 1e-9);
    }

    #[test]
    fn memory_is_read_from_the_kernels_tables() {
        assert_eq!(kib("MemTotal: 9 kB\nSlab:    1234 kB\n", "Slab:"), Some(1234));
        let sockets = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 9 mem 3\nUDP: inuse 1 mem 7\n";
        assert_eq!(tcp_pages(sockets), Some(3));
    }
}

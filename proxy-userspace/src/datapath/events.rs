//! Reads the kernel half's ring buffers on a thread of its own, off the data path.

use aya::maps::{MapData, RingBuf};
use proxy_common::{
    abi::{EVENT_FLOW_CLOSED, EVENT_REFUSED, EVENT_WORKLOAD_BARRED, FlowClosed, Refused, WorkloadBarred},
    pair::Pair,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    mem::offset_of,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// What the kernel half reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEvent<'a> {
    /// A steered or upstream flow ended.
    FlowClosed(FlowClosed),
    /// A workload called something that a mapped socket gets wrong.
    WorkloadBarred(WorkloadBarred),
    /// A connection was refused.
    Refused(Refused),
    /// An exchange was carried: its pair at the end.
    Carried(&'a Pair),
}

/// Longest time until a stop is noticed.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// How long records gather before they are read. Without it every flow's end wakes this thread: a
/// tenth of the agent's CPU time at 18 000 connections a second. The ring takes 5 000 records.
const GATHER: Duration = Duration::from_millis(10);

/// Records of carried exchanges that are read in one go, so that those of the other ring wait no longer.
const CARRIED_MAX: usize = 1024;

/// The ring buffers of the kernel half.
pub(super) struct Rings {
    /// Flows and workloads.
    pub(super) events: RingBuf<MapData>,
    /// Exchanges, for the access log; of no use where that is off.
    pub(super) carried: RingBuf<MapData>,
}

/// The running reader; stops when dropped.
#[derive(Debug)]
pub(super) struct EventReader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EventReader {
    /// Starts reading; `sink` runs on the reader's thread, `tick` at least every 200 ms.
    pub(super) fn start(
        mut rings: Rings,
        mut sink: impl FnMut(KernelEvent<'_>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("weir-events".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let ready = |ring| PollFd::from_borrowed_fd(ring, PollFlags::IN);
                let waited =
                    poll(&mut [ready(rings.events.as_fd()), ready(rings.carried.as_fd())], Some(&TICK));
                if let Err(error) = waited
                    && error != rustix::io::Errno::INTR
                {
                    tracing::error!(%error, "the kernel half's events cannot be read any more");
                    return;
                }
                if drain(&mut rings, &mut sink) {
                    std::thread::sleep(GATHER);
                }
            }
            while !drain(&mut rings, &mut sink) {}
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the reader of kernel events panicked");
        }
    }
}

/// Reads what is there; false where more is left of the carried exchanges.
fn drain(rings: &mut Rings, sink: &mut impl FnMut(KernelEvent<'_>)) -> bool {
    while let Some(record) = rings.events.next() {
        match decode(&record) {
            Some(event) => sink(event),
            None => tracing::warn!(bytes = record.len(), "unknown record from the kernel half"),
        }
    }
    for _ in 0..CARRIED_MAX {
        let Some(record) = rings.carried.next() else { return true };
        match decode_carried(&record) {
            Some(pair) => sink(KernelEvent::Carried(&pair)),
            None => tracing::warn!(bytes = record.len(), "unknown record of a carried exchange"),
        }
    }
    false
}

/// The record ends where the request's head does.
fn decode_carried(record: &[u8]) -> Option<Pair> {
    let mut whole = [0; size_of::<Pair>()];
    whole.get_mut(..record.len())?.copy_from_slice(record);
    (record.len() >= offset_of!(Pair, head)).then(|| Pair::decode(&whole))?
}

fn decode(record: &[u8]) -> Option<KernelEvent<'static>> {
    match u32::from_ne_bytes(*record.first_chunk()?) {
        EVENT_FLOW_CLOSED => FlowClosed::decode(record).map(KernelEvent::FlowClosed),
        EVENT_REFUSED => Refused::decode(record).map(KernelEvent::Refused),
        EVENT_WORKLOAD_BARRED => WorkloadBarred::decode(record).map(KernelEvent::WorkloadBarred),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_unknown_records_are_refused() {
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[1, 0]), None);
        assert_eq!(decode(&1_u32.to_ne_bytes()), None);
        assert_eq!(decode(&[99, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn a_carried_exchange_ends_with_its_head() {
        let mut record = vec![0; offset_of!(Pair, head)];
        assert_eq!(decode_carried(&record), Some(Pair::default()));
        assert_eq!(decode_carried(record.get(1..).unwrap_or_default()), None);
        record.extend_from_slice(b"GET /");
        assert!(decode_carried(&record).is_some_and(|pair| pair.head.0.starts_with(b"GET /\0")));
        record.resize(size_of::<Pair>() + 1, 0);
        assert_eq!(decode_carried(&record), None);
    }
}

//! Reads the kernel half's ring buffer on a thread of its own, off the data path.

use aya::maps::{MapData, RingBuf};
use proxy_common::abi::{EVENT_FLOW_CLOSED, EVENT_WORKLOAD_BARRED, FlowClosed, WorkloadBarred};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
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
pub enum KernelEvent {
    /// A steered or upstream flow ended.
    FlowClosed(FlowClosed),
    /// A workload called something that a mapped socket gets wrong.
    WorkloadBarred(WorkloadBarred),
}

/// Longest time until a stop is noticed.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// How long records gather before they are read. Without it every flow's end wakes this thread: a
/// tenth of the agent's CPU time at 18 000 connections a second. The ring takes 5 000 records.
const GATHER: Duration = Duration::from_millis(10);

/// The running reader; stops when dropped.
#[derive(Debug)]
pub(super) struct EventReader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EventReader {
    /// Starts reading; `sink` runs on the reader's thread, `tick` at least every 200 ms.
    pub(super) fn start(
        mut ring: RingBuf<MapData>,
        mut sink: impl FnMut(KernelEvent) + Send + 'static,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("weir-events".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let waited = poll(&mut [PollFd::from_borrowed_fd(ring.as_fd(), PollFlags::IN)], Some(&TICK));
                if let Err(error) = waited
                    && error != rustix::io::Errno::INTR
                {
                    tracing::error!(%error, "the kernel half's events cannot be read any more");
                    return;
                }
                drain(&mut ring, &mut sink);
                std::thread::sleep(GATHER);
            }
            drain(&mut ring, &mut sink);
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

fn drain(ring: &mut RingBuf<MapData>, sink: &mut impl FnMut(KernelEvent)) {
    while let Some(record) = ring.next() {
        match decode(&record) {
            Some(event) => sink(event),
            None => tracing::warn!(bytes = record.len(), "unknown record from the kernel half"),
        }
    }
}

fn decode(record: &[u8]) -> Option<KernelEvent> {
    match u32::from_ne_bytes(*record.first_chunk()?) {
        EVENT_FLOW_CLOSED => FlowClosed::decode(record).map(KernelEvent::FlowClosed),
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
}

//! Deadlines of requests that the kernel half carries: it has no timers, so the agent looks through the
//! armed pairs and wakes the tasks of connections whose exchange takes too long.

use crate::{downstream::Downstream, flow::Reason, snapshot::Timeouts};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Waker},
    time::Duration,
};

/// How often the pairs are looked through: so much later than its deadline a request may be answered.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// Nanoseconds that never pass.
const NEVER: u64 = u64::MAX;

/// One connection's limits, and whether they have passed.
pub(crate) struct Overdue {
    response_head: AtomicU64,
    request: AtomicU64,
    late: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Default for Overdue {
    fn default() -> Self {
        Self {
            response_head: AtomicU64::new(NEVER),
            request: AtomicU64::new(NEVER),
            late: AtomicBool::new(false),
            task: Mutex::default(),
        }
    }
}

impl Overdue {
    /// The timeouts of what is carried from now on.
    pub(super) fn limit(&self, timeouts: Timeouts) {
        let ns = |timeout: Option<Duration>| {
            timeout.map_or(NEVER, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(NEVER))
        };
        self.response_head.store(ns(timeouts.response_head), Relaxed);
        self.request.store(ns(timeouts.request), Relaxed);
    }

    /// Why the exchange under way is late, if it is. Wakes the task when it gets late.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Option<Reason> {
        if !self.late.swap(false, Relaxed) {
            let mut task = self.task.lock();
            if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
                *task = Some(cx.waker().clone());
            }
            return None;
        }
        let whole = self.request.load(Relaxed) <= self.response_head.load(Relaxed);
        Some(if whole { Reason::RequestTimeout } else { Reason::ResponseHeadTimeout })
    }

    fn look(&self, carried: Carried, now: u64) {
        let limit = match carried {
            Carried::Nothing => return,
            Carried::Unanswered(since) => {
                since.saturating_add(self.response_head.load(Relaxed).min(self.request.load(Relaxed)))
            }
            Carried::Answered(since) => since.saturating_add(self.request.load(Relaxed)),
        };
        if now < limit {
            return;
        }
        self.late.store(true, Relaxed);
        if let Some(task) = self.task.lock().take() {
            task.wake();
        }
    }
}

/// The exchange that the kernel half carries for a connection, and when it began.
pub(crate) enum Carried {
    /// None.
    Nothing,
    /// Its answer has not begun.
    Unanswered(u64),
    /// Its answer has begun.
    Answered(u64),
}

/// The connections that have a pair.
#[derive(Default)]
pub(crate) struct Watched(Mutex<HashMap<u32, Owner>>);

type Owner = (Weak<Downstream>, Arc<Overdue>);

impl Watched {
    pub(super) fn watch(&self, index: u32, downstream: &Arc<Downstream>, overdue: Arc<Overdue>) {
        self.0.lock().insert(index, (Arc::downgrade(downstream), overdue));
    }

    pub(super) fn forget(&self, index: u32) {
        self.0.lock().remove(&index);
    }

    /// Looks through the pairs, for ever.
    pub(crate) async fn look_through(&self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = now_ns();
            for (downstream, overdue) in self.0.lock().values() {
                if let Some(downstream) = downstream.upgrade() {
                    overdue.look(downstream.splice.carried(), now);
                }
            }
        }
    }
}

/// `CLOCK_MONOTONIC`, as the kernel half stamps.
pub(super) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default())
}

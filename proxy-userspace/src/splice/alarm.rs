//! Wakes connections whose exchange takes too long in the kernel half, which has no timers, and those that
//! must give up their pair for others: a look through all pairs, at fixed intervals.

use crate::{datapath::now_ns, downstream::Downstream, flow::Reason, snapshot::Timeouts};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Waker},
    time::Duration,
};

/// How often the pairs are looked through: so much later than its deadline a request may be answered.
const LOOK: Duration = Duration::from_millis(50);
/// How long a pair must have been idle before it is given to another connection.
const UNUSED: Duration = Duration::from_secs(1);
/// The part of all pairs that is freed at once where none is left.
const FREED: usize = 16;
/// Nanoseconds that never pass.
const NEVER: u64 = u64::MAX;

const SILENT: u8 = 0;
const LATE: u8 = 1;
const UNWANTED: u8 = 2;
const IDLE: u8 = 3;

/// One connection's limits, and what it is to be woken for.
pub(crate) struct Alarm {
    response_head: AtomicU64,
    request: AtomicU64,
    upstream_idle: AtomicU64,
    rings: AtomicU8,
    task: Mutex<Option<Waker>>,
}

/// Why a connection was woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ring {
    /// Its exchange is late.
    Late(Reason),
    /// Its pair has been idle for long, and others want one.
    Unwanted,
    /// Its endpoint's connection has been idle for as long as one may be.
    Idle,
}

impl Default for Alarm {
    fn default() -> Self {
        Self {
            response_head: AtomicU64::new(NEVER),
            request: AtomicU64::new(NEVER),
            upstream_idle: AtomicU64::new(NEVER),
            rings: AtomicU8::new(SILENT),
            task: Mutex::default(),
        }
    }
}

impl Alarm {
    /// The timeouts of what is carried from now on.
    pub(super) fn limit(&self, timeouts: Timeouts) {
        let ns = |timeout: Option<Duration>| {
            timeout.map_or(NEVER, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(NEVER))
        };
        self.response_head.store(ns(timeouts.response_head), Relaxed);
        self.request.store(ns(timeouts.request), Relaxed);
        self.upstream_idle.store(ns(timeouts.upstream_idle), Relaxed);
    }

    /// What it rang for; wakes the task when it rings.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Option<Ring> {
        match self.rings.swap(SILENT, Relaxed) {
            LATE => {
                let whole = self.request.load(Relaxed) <= self.response_head.load(Relaxed);
                let reason = if whole { Reason::RequestTimeout } else { Reason::ResponseHeadTimeout };
                return Some(Ring::Late(reason));
            }
            UNWANTED => return Some(Ring::Unwanted),
            IDLE => return Some(Ring::Idle),
            _ => {}
        }
        let mut task = self.task.lock();
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        None
    }

    fn ring(&self, what: u8) {
        self.rings.store(what, Relaxed);
        if let Some(task) = self.task.lock().take() {
            task.wake();
        }
    }

    pub(super) fn is_late(&self, carried: Carried, now: u64) -> bool {
        self.due(carried, now) == Some(LATE)
    }

    /// What it should ring for.
    fn due(&self, carried: Carried, now: u64) -> Option<u8> {
        let (response_head, request) = (self.response_head.load(Relaxed), self.request.load(Relaxed));
        let (since, limit, what) = match carried {
            Carried::Nothing => return None,
            Carried::Idle(since) => (since, self.upstream_idle.load(Relaxed), IDLE),
            Carried::Unanswered(since) => (since, response_head.min(request), LATE),
            Carried::Answered(since) => (since, request, LATE),
        };
        (now >= since.saturating_add(limit)).then_some(what)
    }
}

/// What the kernel half carries for a connection; times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carried {
    /// The connection has no pair.
    Nothing,
    /// Nothing, since then.
    Idle(u64),
    /// An exchange that began then and has no answer yet.
    Unanswered(u64),
    /// An exchange that began then, and whose answer has begun.
    Answered(u64),
}

/// The connections that have a pair.
#[derive(Default)]
pub(crate) struct Watched {
    owners: Mutex<HashMap<u32, Owner>>,
    wanted: AtomicBool,
}

type Owner = (Weak<Downstream>, Arc<Alarm>);

impl Watched {
    pub(super) fn watch(&self, index: u32, downstream: &Arc<Downstream>, alarm: Arc<Alarm>) {
        self.owners.lock().insert(index, (Arc::downgrade(downstream), alarm));
    }

    pub(super) fn forget(&self, index: u32) {
        self.owners.lock().remove(&index);
    }

    /// A connection found every pair in use.
    pub(super) fn want_one(&self) {
        self.wanted.store(true, Relaxed);
    }

    /// Looks through the pairs, for ever.
    pub(crate) async fn look_through(&self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(now_ns());
        }
    }

    /// The connections that live, and their alarms.
    fn owners(&self) -> Vec<(Arc<Downstream>, Arc<Alarm>)> {
        let owners = self.owners.lock();
        let living = |(downstream, alarm): &Owner| Some((downstream.upgrade()?, Arc::clone(alarm)));
        owners.values().filter_map(living).collect()
    }

    fn look(&self, now: u64) {
        let wanted = self.wanted.swap(false, Relaxed);
        let unused_before = now.saturating_sub(u64::try_from(UNUSED.as_nanos()).unwrap_or(NEVER));
        // Not under the lock: a connection takes it while it holds its own.
        let owners = self.owners();
        let mut unused = Vec::new();
        for (downstream, alarm) in &owners {
            match downstream.splice.carried().1 {
                Carried::Idle(since) if wanted && since < unused_before => unused.push((since, alarm)),
                carried => alarm.due(carried, now).into_iter().for_each(|what| alarm.ring(what)),
            }
        }
        unused.sort_unstable_by_key(|(since, _)| *since);
        for (_, alarm) in unused.into_iter().take(owners.len().div_ceil(FREED)) {
            alarm.ring(UNWANTED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn alarm(response_head: u64, request: u64) -> Alarm {
        let alarm = Alarm::default();
        let timeout = |seconds| Some(Duration::from_secs(seconds));
        let (response_head, request) = (timeout(response_head), timeout(request));
        alarm.limit(Timeouts { response_head, request, ..Timeouts::default() });
        alarm
    }

    #[test]
    fn the_earlier_limit_counts_until_the_answer_begins_and_the_whole_one_after() {
        let alarm = alarm(2, 5);
        assert_eq!(alarm.due(Carried::Unanswered(SECOND), 2 * SECOND), None);
        assert_eq!(alarm.due(Carried::Unanswered(SECOND), 3 * SECOND), Some(LATE));
        assert_eq!(alarm.due(Carried::Answered(SECOND), 3 * SECOND), None);
        assert_eq!(alarm.due(Carried::Answered(SECOND), 6 * SECOND), Some(LATE));
    }

    #[test]
    fn nothing_is_late_without_an_exchange_or_without_a_limit() {
        assert_eq!(alarm(1, 1).due(Carried::Nothing, NEVER - 1), None);
        assert_eq!(Alarm::default().due(Carried::Unanswered(0), NEVER - 1), None);
    }

    #[test]
    fn an_endpoints_connection_is_idle_no_longer_than_in_the_pool() {
        let (alarm, idle) = (alarm(2, 5), Timeouts::default().upstream_idle.unwrap_or_default());
        let idle = u64::try_from(idle.as_nanos()).unwrap_or_default();
        assert_eq!(alarm.due(Carried::Idle(SECOND), idle), None);
        assert_eq!(alarm.due(Carried::Idle(SECOND), idle + SECOND), Some(IDLE));
    }

    #[test]
    fn an_alarm_rings_once_and_says_why() {
        let cx = Context::from_waker(Waker::noop());
        let alarm = alarm(2, 5);
        assert_eq!(alarm.poll(&cx), None);
        alarm.ring(LATE);
        assert_eq!(alarm.poll(&cx), Some(Ring::Late(Reason::ResponseHeadTimeout)));
        assert_eq!(alarm.poll(&cx), None);
    }
}

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
    request_body_idle: AtomicU64,
    body: Mutex<Body>,
    upstream_idle: AtomicU64,
    rings: AtomicU8,
    task: Mutex<Option<Waker>>,
}

/// Why a connection was woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ring {
    /// Its exchange is late.
    Late,
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
            request_body_idle: AtomicU64::new(NEVER),
            body: Mutex::default(),
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
        self.request_body_idle.store(ns(timeouts.request_body_idle), Relaxed);
        self.upstream_idle.store(ns(timeouts.upstream_idle), Relaxed);
    }

    /// What it rang for; wakes the task when it rings.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Option<Ring> {
        match self.rings.swap(SILENT, Relaxed) {
            LATE => return Some(Ring::Late),
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

    /// What the exchange is late with, if it is.
    pub(super) fn late(&self, carried: Carried, now: u64) -> Option<Reason> {
        let (stage, whole) = match carried {
            Carried::Nothing | Carried::Idle(_) => return None,
            Carried::Asking { started, left } => {
                let idle = (self.grew(started, left, now), &self.request_body_idle, Reason::RequestBodyIdle);
                (Some(idle), started)
            }
            Carried::Unanswered { started, asked } => {
                (Some((asked, &self.response_head, Reason::ResponseHeadTimeout)), started)
            }
            Carried::Answered(started) => (None, started),
        };
        let whole = whole.saturating_add(self.request.load(Relaxed));
        let stage = stage.map(|(since, limit, reason)| (since.saturating_add(limit.load(Relaxed)), reason));
        let (at, reason) = stage.filter(|(at, _)| *at < whole).unwrap_or((whole, Reason::RequestTimeout));
        (now >= at).then_some(reason)
    }

    /// When the body of the exchange that began at `started` last grew, as far as looks have seen, by what of it was
    /// `left` to come.
    fn grew(&self, started: u64, left: u32, now: u64) -> u64 {
        let mut body = self.body.lock();
        if body.started != started {
            *body = Body { started, left, grew: started };
        } else if body.left != left {
            (body.left, body.grew) = (left, now);
        }
        body.grew
    }

    /// What it should ring for.
    fn due(&self, carried: Carried, now: u64) -> Option<u8> {
        match carried {
            Carried::Idle(since) => {
                (now >= since.saturating_add(self.upstream_idle.load(Relaxed))).then_some(IDLE)
            }
            carried => self.late(carried, now).map(|_| LATE),
        }
    }
}

/// The body that is under way, as it was last seen.
#[derive(Clone, Copy, Default, Debug)]
struct Body {
    /// When its exchange began.
    started: u64,
    /// What of it was still to come.
    left: u32,
    /// When that changed.
    grew: u64,
}

/// What the kernel half carries for a connection; times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carried {
    /// The connection has no pair.
    Nothing,
    /// Nothing, since then.
    Idle(u64),
    /// An exchange whose request is not complete: so many bytes of it are still to come.
    Asking { started: u64, left: u32 },
    /// An exchange whose request was complete when `asked` and has no answer yet.
    Unanswered { started: u64, asked: u64 },
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

    /// Complete when it began.
    fn whole(started: u64) -> Carried {
        Carried::Unanswered { started, asked: started }
    }

    #[test]
    fn the_earlier_limit_counts_until_the_answer_begins_and_the_whole_one_after() {
        let alarm = alarm(2, 5);
        assert_eq!(alarm.late(whole(SECOND), 2 * SECOND), None);
        assert_eq!(alarm.late(whole(SECOND), 3 * SECOND), Some(Reason::ResponseHeadTimeout));
        assert_eq!(alarm.late(Carried::Answered(SECOND), 3 * SECOND), None);
        assert_eq!(alarm.late(Carried::Answered(SECOND), 6 * SECOND), Some(Reason::RequestTimeout));
        // The endpoint's time begins when it has the whole request.
        let later = Carried::Unanswered { started: SECOND, asked: 3 * SECOND };
        assert_eq!(alarm.late(later, 4 * SECOND), None);
        assert_eq!(alarm.late(later, 5 * SECOND), Some(Reason::ResponseHeadTimeout));
        let late = Carried::Unanswered { started: SECOND, asked: 5 * SECOND };
        assert_eq!(alarm.late(late, 6 * SECOND), Some(Reason::RequestTimeout));
    }

    #[test]
    fn s20_d4_a_body_that_grows_is_not_late_until_the_whole_request_is_and_one_that_stops_is_at_once() {
        let alarm = Alarm::default();
        let timeout = |seconds| Some(Duration::from_secs(seconds));
        let timeouts = Timeouts { request_body_idle: timeout(2), request: timeout(9), ..Timeouts::default() };
        alarm.limit(timeouts);
        let asking = |left| Carried::Asking { started: SECOND, left };
        for (left, now, late) in [
            (900, 2, None),
            (800, 3, None),
            (800, 4, None),
            (700, 5, None),
            (700, 6, None),
            (700, 7, Some(Reason::RequestBodyIdle)),
            (600, 8, None),
            (500, 9, None),
            (400, 10, Some(Reason::RequestTimeout)),
        ] {
            assert_eq!(alarm.late(asking(left), now * SECOND), late, "{left} {now}");
        }
        // The next exchange is another body.
        assert_eq!(alarm.late(Carried::Asking { started: 20 * SECOND, left: 400 }, 21 * SECOND), None);
        let silent = Carried::Asking { started: 20 * SECOND, left: 400 };
        assert_eq!(alarm.late(silent, 22 * SECOND), Some(Reason::RequestBodyIdle));
    }

    #[test]
    fn nothing_is_late_without_an_exchange_or_without_a_limit() {
        assert_eq!(alarm(1, 1).due(Carried::Nothing, NEVER - 1), None);
        assert_eq!(Alarm::default().due(whole(0), NEVER - 1), None);
        assert_eq!(Alarm::default().due(Carried::Asking { started: 0, left: 1 }, NEVER - 1), None);
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
        assert_eq!(alarm.poll(&cx), Some(Ring::Late));
        assert_eq!(alarm.poll(&cx), None);
    }
}

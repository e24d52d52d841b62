//! The one alarm clock of a downstream connection.
//!
//! Each stage writes down until when it may last; the task that drives the connection keeps a
//! single timer and moves it only when a stage must end *before* it. A stage that ends in time
//! costs two stores and no timer.

use crate::flow::Reason;
use parking_lot::Mutex;
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::atomic::{
        AtomicBool, AtomicU8, AtomicU64,
        Ordering::{Relaxed, SeqCst},
        fence,
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// Nanoseconds after the connection's start that never come.
const NEVER: u64 = u64::MAX;
/// A timer must be set to something; this is re-armed when it fires.
const FAR: Duration = Duration::from_secs(3600);
const NOTHING: u8 = u8::MAX;
const IDLE: u8 = u8::MAX - 1;

/// What was too late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Late {
    /// No request came.
    Idle,
    /// A stage of a request.
    Stage(Reason),
}

/// See the module. Read and written by the connection's own task only, unless it is `shared`; atomics because
/// that task moves between threads.
#[derive(Debug)]
pub(crate) struct Deadline {
    start: Instant,
    at: AtomicU64,
    late: AtomicU8,
    whole: AtomicU64,
    /// Until when the client must take something of what is written.
    taken: AtomicU64,
    /// It has not.
    has_stalled: AtomicBool,
    expired: AtomicU8,
    /// Another task moves it as well.
    shared: AtomicBool,
    /// Nanoseconds after `start` at which the timer rings.
    armed: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Deadline {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            at: AtomicU64::new(NEVER),
            late: AtomicU8::new(NOTHING),
            whole: AtomicU64::new(NEVER),
            taken: AtomicU64::new(NEVER),
            has_stalled: AtomicBool::new(false),
            expired: AtomicU8::new(NOTHING),
            shared: AtomicBool::new(false),
            armed: AtomicU64::new(0),
            waker: Mutex::new(None),
        }
    }

    /// From now on another task may move the deadline: the request's body is read there.
    pub(crate) fn shared(&self) {
        self.shared.store(true, Relaxed);
    }

    /// Between requests: nothing but the next request's first byte is awaited.
    pub(crate) fn idle(&self, now: Instant, timeout: Option<Duration>) {
        self.whole.store(NEVER, Relaxed);
        self.set(IDLE, self.after(now, timeout));
    }

    /// The request that has begun may last so long, whatever its stages do.
    pub(crate) fn whole(&self, now: Instant, timeout: Option<Duration>) {
        self.whole.store(self.after(now, timeout), Relaxed);
    }

    /// The whole request's deadline no longer counts: its answer streams.
    pub(crate) fn exempt(&self) {
        self.whole.store(NEVER, Relaxed);
    }

    /// A stage begins, from now.
    pub(crate) fn stage(&self, reason: Reason, timeout: Option<Duration>) {
        match timeout {
            Some(_) => self.stage_from(Instant::now(), reason, timeout),
            None => self.no_stage(),
        }
    }

    /// A stage that began at `since`.
    pub(crate) fn stage_from(&self, since: Instant, reason: Reason, timeout: Option<Duration>) {
        let at = self.after(since, timeout);
        let whole = self.whole.load(Relaxed);
        if at < whole { self.set(code(reason), at) } else { self.set(code(Reason::RequestTimeout), whole) }
    }

    /// The client takes nothing of what is written, whatever else is awaited.
    pub(crate) fn stalls(&self, timeout: Option<Duration>) {
        if self.taken.load(Relaxed) == NEVER {
            self.taken.store(self.after(Instant::now(), timeout), Relaxed);
        }
    }

    /// The client has once taken nothing for too long: its connection ends.
    pub(crate) fn has_stalled(&self) -> bool {
        self.has_stalled.load(Relaxed)
    }

    /// The client has taken some of it.
    pub(crate) fn flows(&self) {
        self.taken.store(NEVER, Relaxed);
    }

    /// Nothing is awaited but the whole request's end.
    pub(crate) fn no_stage(&self) {
        self.set(code(Reason::RequestTimeout), self.whole.load(Relaxed));
    }

    /// What the current request was late with, once [`Deadline::poll`] has found it.
    pub(crate) fn expired(&self) -> Option<Reason> {
        match decode(self.expired.load(Relaxed)) {
            Some(Late::Stage(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Runs a stage until it is done or late.
    pub(crate) async fn guard<F: Future>(&self, stage: F) -> Result<F::Output, Reason> {
        let mut stage = pin!(stage);
        std::future::poll_fn(|cx| match self.expired() {
            Some(reason) => Poll::Ready(Err(reason)),
            None => stage.as_mut().poll(cx).map(Ok),
        })
        .await
    }

    /// The connection's timer, to be given to every [`Deadline::poll`].
    pub(crate) fn timer(&self) -> Sleep {
        tokio::time::sleep_until(self.start + FAR)
    }

    /// Ready once for each deadline that passes. The caller then polls the request again, whose
    /// [`Deadline::guard`] sees it.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Late> {
        let shared = self.shared.load(Relaxed);
        if shared {
            *self.waker.lock() = Some(cx.waker().clone());
        }
        loop {
            if shared {
                self.armed.store(0, Relaxed);
            }
            let (stage, taken) = (self.at.load(Relaxed), self.taken.load(Relaxed));
            let at = stage.min(taken);
            let due = if at == NEVER { None } else { Some(self.start + Duration::from_nanos(at)) };
            if let Some(due) = due.filter(|due| *due < timer.deadline()) {
                timer.as_mut().reset(due);
            }
            if shared {
                self.armed.store(self.nanos(timer.deadline()), Relaxed);
                fence(SeqCst);
                if self.at.load(Relaxed) != stage {
                    continue;
                }
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            let Some(due) = due else {
                timer.as_mut().reset(now + FAR);
                continue;
            };
            if due > now {
                timer.as_mut().reset(due);
                continue;
            }
            let late = if taken < stage {
                self.has_stalled.store(true, Relaxed);
                code(Reason::WriteIdle)
            } else {
                self.late.load(Relaxed)
            };
            self.at.store(NEVER, Relaxed);
            self.taken.store(NEVER, Relaxed);
            self.expired.store(late, Relaxed);
            if let Some(late) = decode(late) {
                return Poll::Ready(late);
            }
        }
    }

    fn set(&self, late: u8, at: u64) {
        self.expired.store(NOTHING, Relaxed);
        self.late.store(late, Relaxed);
        self.at.store(at, Relaxed);
        if !self.shared.load(Relaxed) {
            return;
        }
        // Either this sees what the task has set its timer to, or the task sees the new time.
        fence(SeqCst);
        if at < self.armed.load(Relaxed) {
            // It must end before the timer rings that the task has set.
            let waker = self.waker.lock().take();
            waker.into_iter().for_each(Waker::wake);
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(NEVER)
    }

    fn after(&self, from: Instant, timeout: Option<Duration>) -> u64 {
        timeout.map_or(NEVER, |timeout| {
            let nanos = from.saturating_duration_since(self.start).saturating_add(timeout).as_nanos();
            u64::try_from(nanos).unwrap_or(NEVER)
        })
    }
}

fn code(reason: Reason) -> u8 {
    let at = Reason::ALL.iter().position(|one| *one == reason);
    at.and_then(|at| u8::try_from(at).ok()).unwrap_or(NOTHING)
}

fn decode(code: u8) -> Option<Late> {
    match code {
        NOTHING => None,
        IDLE => Some(Late::Idle),
        at => Reason::ALL.get(usize::from(at)).copied().map(Late::Stage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(deadline: &Deadline) -> (Late, Duration) {
        let begin = Instant::now();
        let mut timer = pin!(deadline.timer());
        let late = std::future::poll_fn(|cx| deadline.poll(cx, timer.as_mut())).await;
        (late, begin.elapsed())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_late_after_its_timeout() {
        let deadline = Deadline::new();
        deadline.idle(Instant::now(), Some(60 * SECOND));
        let (late, after) = next(&deadline).await;
        assert_eq!(late, Late::Idle);
        assert!(after >= 60 * SECOND && after < 61 * SECOND, "{after:?}");
        assert_eq!(deadline.expired(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_stage_and_whole_request_counts() {
        let deadline = Deadline::new();
        deadline.whole(Instant::now(), Some(15 * SECOND));
        deadline.stage(Reason::ResponseHeadTimeout, Some(5 * SECOND));
        assert_eq!(next(&deadline).await.0, Late::Stage(Reason::ResponseHeadTimeout));
        deadline.stage(Reason::ResponseBodyIdle, Some(300 * SECOND));
        let (late, after) = next(&deadline).await;
        assert_eq!(late, Late::Stage(Reason::RequestTimeout));
        assert!(after >= 10 * SECOND && after < 11 * SECOND, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn d5_a_client_that_takes_nothing_is_late_whatever_else_is_awaited() {
        let deadline = Deadline::new();
        deadline.stalls(Some(30 * SECOND));
        deadline.stage(Reason::ResponseBodyIdle, Some(300 * SECOND));
        deadline.stalls(Some(30 * SECOND));
        let (late, after) = next(&deadline).await;
        assert_eq!(late, Late::Stage(Reason::WriteIdle));
        assert!(after >= 30 * SECOND && after < 31 * SECOND, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn d5_a_client_that_takes_a_little_now_and_then_is_not_late() {
        let deadline = Deadline::new();
        deadline.stage(Reason::ResponseBodyIdle, Some(300 * SECOND));
        deadline.stalls(Some(30 * SECOND));
        deadline.flows();
        let (late, after) = next(&deadline).await;
        assert_eq!(late, Late::Stage(Reason::ResponseBodyIdle));
        assert!(after >= 300 * SECOND && after < 301 * SECOND, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_exempt_request_is_not_late_as_a_whole() {
        let deadline = Deadline::new();
        deadline.whole(Instant::now(), Some(15 * SECOND));
        deadline.exempt();
        deadline.stage(Reason::ResponseBodyIdle, Some(300 * SECOND));
        assert_eq!(next(&deadline).await.0, Late::Stage(Reason::ResponseBodyIdle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_ends_in_time_rings_for_nobody() {
        let deadline = Deadline::new();
        deadline.stage(Reason::ConnectTimeout, Some(SECOND));
        deadline.no_stage();
        let late = tokio::time::timeout(3 * FAR, next(&deadline)).await;
        assert!(late.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn another_task_may_make_a_shared_deadline_earlier() {
        let deadline = std::sync::Arc::new(Deadline::new());
        deadline.shared();
        deadline.whole(Instant::now(), Some(60 * SECOND));
        deadline.no_stage();
        let elsewhere = std::sync::Arc::clone(&deadline);
        let waits = tokio::spawn(async move { next(&elsewhere).await });
        tokio::time::sleep(SECOND).await;
        deadline.stage(Reason::RequestBodyIdle, Some(SECOND));
        let (late, after) = waits.await.unwrap_or((Late::Idle, FAR));
        assert_eq!(late, Late::Stage(Reason::RequestBodyIdle));
        assert!(after < 3 * SECOND, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_guarded_stage_ends_with_the_reason_that_rang() {
        let deadline = Deadline::new();
        deadline.stage(Reason::ConnectTimeout, Some(SECOND));
        next(&deadline).await;
        assert_eq!(deadline.guard(std::future::pending::<()>()).await, Err(Reason::ConnectTimeout));
    }
}

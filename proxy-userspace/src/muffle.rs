//! A waker for the parts of one task that wake each other.
//!
//! hyper's client hands its answer over through channels, and each hand-over wakes whoever polls the
//! other end: here the same task, which is just running. Such a wake-up would cost one more poll of
//! everything. So while a part is polled, wake-ups from this very thread only make it be polled
//! again at once; those from elsewhere (its socket) reach the task.

use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Polls in a row before the task is woken after all: a part may ask for that, to be fair to others.
const PASSES: u32 = 3;

/// See the module.
pub(crate) struct Muffle {
    shared: Arc<Shared>,
    waker: Waker,
}

#[derive(Default)]
struct Shared {
    task: Mutex<Option<Waker>>,
    /// The thread that polls a part now; 0 if none does.
    polling: AtomicUsize,
    /// That thread woke the part meanwhile.
    rung: AtomicBool,
}

impl Muffle {
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared::default());
        Self { waker: Waker::from(Arc::clone(&shared)), shared }
    }

    /// Polls a part of the task whose context this is.
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut part: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.shared.attach(cx.waker());
        for _ in 0..PASSES {
            self.shared.rung.store(false, Relaxed);
            self.shared.polling.store(this_thread(), Relaxed);
            let outcome = part(&mut Context::from_waker(&self.waker));
            self.shared.polling.store(0, Relaxed);
            if outcome.is_ready() || !self.shared.rung.load(Relaxed) {
                return outcome;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Shared {
    fn attach(&self, task: &Waker) {
        let mut attached = self.task.lock();
        if !attached.as_ref().is_some_and(|known| known.will_wake(task)) {
            *attached = Some(task.clone());
        }
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.polling.load(Relaxed) == this_thread() {
            self.rung.store(true, Relaxed);
            return;
        }
        let task = self.task.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

/// A number that no other living thread has, and never 0.
fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts wake-ups.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn play(part: impl FnMut(&mut Context<'_>) -> Poll<()>) -> (Poll<()>, usize) {
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let outcome = Muffle::new().poll(&mut Context::from_waker(&waker), part);
        (outcome, task.0.load(Relaxed))
    }

    #[test]
    fn a_part_that_wakes_itself_is_polled_again_and_its_task_is_not_woken() {
        let mut polls = 0;
        let (outcome, woken) = play(|cx| {
            polls += 1;
            if polls == 1 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        });
        assert_eq!((outcome, polls, woken), (Poll::Ready(()), 2, 0));
    }

    #[test]
    fn a_part_that_always_wakes_itself_lets_others_run() {
        let mut polls = 0;
        let (outcome, woken) = play(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert_eq!((outcome, polls, woken), (Poll::Pending, PASSES, 1));
    }

    #[test]
    fn a_wake_up_from_another_thread_reaches_the_task_even_meanwhile() {
        let (outcome, woken) = play(|cx| {
            let waker = cx.waker().clone();
            std::thread::scope(|scope| scope.spawn(move || waker.wake()).join().is_ok());
            Poll::Pending
        });
        assert_eq!((outcome, woken), (Poll::Pending, 1));
    }

    #[test]
    fn a_wake_up_between_polls_reaches_the_task() {
        let mut kept = None;
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let muffle = Muffle::new();
        let pending: Poll<()> = muffle.poll(&mut Context::from_waker(&waker), |cx| {
            kept = Some(cx.waker().clone());
            Poll::Pending
        });
        kept.into_iter().for_each(Waker::wake);
        assert_eq!((pending, task.0.load(Relaxed)), (Poll::Pending, 1));
    }
}

//! The streams of one connection: each a task, with its own alarm clock.

use crate::{deadline::Late, downstream::Downstream, metrics::Metrics};
use hyper::rt::Executor;
use parking_lot::Mutex;
use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// hyper's executor: it gets each stream's work right after the service was called for it.
#[derive(Clone)]
pub(super) struct Streams(Arc<Shared>);

struct Shared {
    beginning: Mutex<Option<Arc<Downstream>>>,
    tasks: TaskTracker,
    over: CancellationToken,
    open: AtomicUsize,
    quiet_since: Mutex<Instant>,
    metrics: Arc<Metrics>,
}

impl Streams {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shared {
            beginning: Mutex::new(None),
            tasks: TaskTracker::new(),
            over: CancellationToken::new(),
            open: AtomicUsize::new(0),
            quiet_since: Mutex::new(Instant::now()),
            metrics,
        }))
    }

    /// The stream whose work hyper is about to hand over.
    pub(super) fn begins(&self, stream: Arc<Downstream>) {
        *self.0.beginning.lock() = Some(stream);
    }

    /// Since when there is no stream, if there is none.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        (self.0.open.load(Relaxed) == 0).then(|| *self.0.quiet_since.lock())
    }

    /// Ends what there still is, and waits until every request has been reported.
    pub(super) async fn end(&self) {
        self.0.over.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl<W> Executor<W> for Streams
where
    W: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, work: W) {
        let Some(stream) = self.0.beginning.lock().take() else { return };
        let shared = Arc::clone(&self.0);
        shared.open.fetch_add(1, Relaxed);
        shared.metrics.http2().stream_opened();
        self.0.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = live(&stream, work) => {}
                () = shared.over.cancelled() => {}
            }
            // The work is gone, and with it what had no end yet.
            stream.report_ended(None);
            *shared.quiet_since.lock() = Instant::now();
            shared.open.fetch_sub(1, Relaxed);
            shared.metrics.http2().stream_closed();
        });
    }
}

/// Polls a stream's work, and beside it its deadlines.
async fn live(stream: &Downstream, work: impl Future<Output = ()>) {
    let mut work = pin!(work);
    let mut timer = pin!(stream.deadline.timer());
    let mut late = None;
    std::future::poll_fn(|cx| {
        loop {
            if work.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if late.is_some() && stream.deadline.expired() == late {
                // Nobody noticed: the client does not take what there is for it. Dropped, it is reset.
                return Poll::Ready(());
            }
            match stream.deadline.poll(cx, timer.as_mut()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Late::Idle) => return Poll::Ready(()),
                Poll::Ready(Late::Stage(reason)) => late = Some(reason),
            }
        }
    })
    .await;
}

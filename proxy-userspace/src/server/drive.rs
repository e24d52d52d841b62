//! The task that drives one downstream connection through the pipeline.

use crate::{
    body::AnswerBody,
    deadline::Late,
    downstream::{Downstream, DownstreamIo, Phase},
    flow::Reason,
    liveness, splice,
};
use hyper::{body::Incoming, server::conn::http1};
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

/// How a connection ended.
pub(super) enum End {
    /// hyper is through with it.
    Done(Result<(), hyper::Error>),
    /// No request came for too long.
    Idle,
    /// A request's head was not complete in time.
    HeadTimeout,
    /// The client is gone, or does not take its answer, or the agent waits no longer.
    Abandoned,
}

/// Polls hyper, and beside it what hyper does not watch: the deadlines, a client that goes away
/// while its request is in flight, the agent's own leaving.
pub(super) async fn drive<S>(
    downstream: &Arc<Downstream>,
    mut http: Pin<&mut http1::Connection<DownstreamIo, S>>,
) -> End
where
    S: hyper::service::HttpService<Incoming, ResBody = AnswerBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let drain = &downstream.relay.drain;
    let mut timer = pin!(downstream.deadline.timer());
    let mut departure = pin!(client_departs(downstream));
    let mut change = pin!(drain.changed());
    let mut carried = pin!(splice::turn(downstream));
    let mut told_to_leave = false;
    std::future::poll_fn(|cx| {
        if change.as_mut().poll(cx).is_ready() {
            change.set(drain.changed());
            change.as_mut().enable();
        }
        if drain.is_aborting() {
            return Poll::Ready(End::Abandoned);
        }
        let mut late = None;
        loop {
            if let Poll::Ready(done) = http.as_mut().poll(cx) {
                return Poll::Ready(End::Done(done));
            }
            let may_leave = drain.is_leaving() && !told_to_leave && downstream.phase() != Phase::Head;
            if may_leave && downstream.splice.take_back() {
                // hyper knows nothing of a head that is not whole yet, and would close the connection.
                told_to_leave = true;
                http.as_mut().graceful_shutdown();
                continue;
            }
            downstream.report_ended(None);
            // hyper may learn of a body's end after it has written the last of it.
            downstream.splice.arm(downstream);
            if carried.as_mut().poll(cx).is_ready() {
                carried.set(splice::turn(downstream));
                continue;
            }
            if late.is_some() && downstream.deadline.expired() == late {
                // Nobody noticed: hyper waits for the client to take what was written.
                return Poll::Ready(End::Abandoned);
            }
            let (in_flight, carries) = (downstream.phase() == Phase::Request, downstream.splice.is_busy());
            if (in_flight || carries) && departure.as_mut().poll(cx).is_ready() {
                if !carries {
                    return Poll::Ready(End::Abandoned);
                }
                departure.set(client_departs(downstream));
                downstream.splice.abandon();
                continue;
            }
            match downstream.deadline.poll(cx, timer.as_mut()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Late::Idle) if downstream.is_idle() => return Poll::Ready(End::Idle),
                Poll::Ready(Late::Idle) => {}
                Poll::Ready(Late::Stage(Reason::RequestHeadTimeout)) => {
                    return Poll::Ready(End::HeadTimeout);
                }
                // The request's guard notices when hyper polls it.
                Poll::Ready(Late::Stage(reason)) => late = Some(reason),
            }
        }
    })
    .await
}

/// Completes when the client can take no answer any more. Closing its writing half is no departure.
async fn client_departs(downstream: &Downstream) {
    if downstream.wire.disturbed().await {
        tokio::select! {
            () = liveness::client_is_gone(downstream) => {}
            () = downstream.wire.broken() => {}
        }
    }
}

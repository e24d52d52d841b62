//! HTTP/2 with a client: each stream a request of the same pipeline, as if it had come by HTTP/1.1.

#[cfg(any(test, fuzzing))]
pub(crate) mod agreement;
mod frames;
mod io;
mod message;
mod outbox;
mod streams;

use super::exchange as relayed;
use crate::{
    admission::{self, Refusal},
    answer,
    body::AnswerBody,
    downstream::{Connection, Downstream},
    record::{Draft, OpenRequest},
    route::choices::HeadLimits,
};
use bytes::Bytes;
use frames::{Excess, Frames, MAX_STREAMS};
use http::{Request, Response};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioTimer;
use io::Http2Io;
use outbox::Outbox;
use parking_lot::Mutex;
use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};
use streams::Streams;
use tokio::time::Instant;

/// What a client may send ahead, in a stream and in all of them.
const WINDOWS: (u32, u32) = (64 << 10, 1 << 20);
/// What hyper keeps of a stream's answer that the client does not take yet.
const MAX_SEND_BUFFER: usize = 64 << 10;
/// Streams that are reset because of what their client sent.
const MAX_LOCAL_RESETS: usize = 100;
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(20);
/// How long a frame may be half, or our settings not acknowledged.
const HALF_FRAME: Duration = Duration::from_secs(10);
/// How long a client without streams has to close, once it was told that there will be no more.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// RFC 9113 section 7.
const ENHANCE_YOUR_CALM: u32 = 0xb;
const SETTINGS_TIMEOUT: u32 = 0x4;
const PROTOCOL_ERROR: u32 = 0x1;
const FRAME_SIZE_ERROR: u32 = 0x6;

/// How a connection ended.
enum End {
    /// hyper is through with it.
    Done(Result<(), hyper::Error>),
    /// Its client cannot be written to.
    Broken(std::io::Error),
    /// It had no stream for too long, and its client was told.
    Idle,
    /// The agent waits no longer.
    Abandoned,
    /// The client is no longer heard, with this error code, for this (a label value).
    Refused(u32, &'static str),
}

impl End {
    /// The label value.
    fn label(&self) -> &'static str {
        match self {
            Self::Done(Ok(())) => "closed",
            Self::Done(Err(_)) | Self::Broken(_) => "error",
            Self::Idle => "idle",
            Self::Abandoned => "abandoned",
            Self::Refused(_, why) => why,
        }
    }
}

/// Serves HTTP/2 on a connection until it ends. `replay` has been read from it already; it may be empty.
pub(crate) async fn serve(downstream: Arc<Downstream>, replay: Bytes) {
    let connection = Arc::clone(&downstream.connection);
    drop(downstream);
    // Frames of all streams share it: they are never known to be small.
    connection.leave_map();
    let counts = connection.relay.observer.metrics.http2();
    counts.opened();
    let now = Instant::now();
    let frames = Arc::new(Mutex::new(Frames::new(now)));
    let streams = Streams::new(Arc::clone(&connection.relay.observer.metrics));
    let outbox = Arc::new(Outbox::default());
    let io = Http2Io::new(Arc::clone(&connection), (Arc::clone(&frames), Arc::clone(&outbox)), replay);
    let service = service_fn(|request| {
        let stream = Arc::new(Downstream::stream(Arc::clone(&connection)));
        streams.begins(Arc::clone(&stream));
        // In a box: it is moved several times until it is a task of its own.
        Box::pin(exchange(stream, request))
    });
    let http = builder(streams.clone(), connection.choices.head);
    let mut http = Box::pin(http.serve_connection(io, service));
    let end = drive(&connection, http.as_mut(), (&frames, &outbox), &streams).await;
    drop(http);
    streams.end().await;
    counts.ended(end.label());
    conclude(&connection, (&frames, &outbox), end).await;
}

fn builder(streams: Streams, limits: HeadLimits) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .auto_date_header(false)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_header_list_size(u32::try_from(limits.list()).unwrap_or(u32::MAX))
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN);
    builder
}

/// Polls hyper, sends what it has written, and watches what hyper does not: frames, deadlines, the agent's own
/// leaving.
async fn drive<S>(
    connection: &Connection,
    mut http: Pin<&mut http2::Connection<Http2Io, S, Streams>>,
    (frames, outbox): (&Mutex<Frames>, &Outbox),
    streams: &Streams,
) -> End
where
    S: hyper::service::HttpService<Incoming, ResBody = AnswerBody>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let drain = &connection.relay.drain;
    let begun = Instant::now();
    let mut timer = pin!(tokio::time::sleep(HALF_FRAME));
    let mut change = pin!(drain.changed());
    let mut told = None;
    std::future::poll_fn(|cx| {
        if change.as_mut().poll(cx).is_ready() {
            change.set(drain.changed());
            change.as_mut().enable();
        }
        if drain.is_aborting() {
            return Poll::Ready(End::Abandoned);
        }
        loop {
            if drain.is_leaving() && told.is_none() {
                told = Some(Instant::now());
                // GOAWAY in two steps: what the client has sent meanwhile is still answered.
                http.as_mut().graceful_shutdown();
            }
            let done = http.as_mut().poll(cx);
            let sent = outbox.poll_drain(&connection.wire, cx);
            if let Poll::Ready(done) = done {
                return Poll::Ready(End::Done(done));
            }
            if let Poll::Ready(Err(error)) = sent {
                return Poll::Ready(End::Broken(error));
            }
            let now = Instant::now();
            let until = match next(connection, (&frames.lock(), streams), (begun, told, now)) {
                Next::At(at) => at,
                Next::End(end) => return Poll::Ready(end),
                Next::Tell => {
                    told = Some(now);
                    http.as_mut().graceful_shutdown();
                    continue;
                }
            };
            timer.as_mut().reset(until);
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// What a connection that hyper waits for has to expect.
enum Next {
    /// To be looked at again.
    At(Instant),
    /// Its client is to be told that there will be no more streams.
    Tell,
    End(End),
}

fn next(
    connection: &Connection,
    (frames, streams): (&Frames, &Streams),
    (begun, told, now): (Instant, Option<Instant>, Instant),
) -> Next {
    match frames.excess() {
        Some(Excess::Control) => {
            return Next::End(End::Refused(ENHANCE_YOUR_CALM, "control_frames"));
        }
        Some(Excess::Resets) => return Next::End(End::Refused(ENHANCE_YOUR_CALM, "resets")),
        Some(Excess::Preface) => return Next::End(End::Refused(PROTOCOL_ERROR, "preface")),
        Some(Excess::Size) => return Next::End(End::Refused(FRAME_SIZE_ERROR, "frame_size")),
        None => {}
    }
    let half = frames.half_until(HALF_FRAME);
    if half.is_some_and(|until| until <= now) {
        return Next::End(End::Refused(PROTOCOL_ERROR, "half_frame"));
    }
    let settings = (!frames.is_acknowledged()).then(|| begun + HALF_FRAME);
    if settings.is_some_and(|until| until <= now) {
        return Next::End(End::Refused(SETTINGS_TIMEOUT, "settings_timeout"));
    }
    let patience = if told.is_some() { Some(LEAVE_WITHIN) } else { connection.timeouts.downstream_idle };
    let quiet = patience.map(|patience| {
        let since = streams.quiet_since().unwrap_or(now);
        told.map_or(since, |told| told.max(since)) + patience
    });
    if quiet.is_some_and(|until| until <= now) {
        return if told.is_some() { Next::End(End::Idle) } else { Next::Tell };
    }
    let far = now + Duration::from_secs(3600);
    Next::At([half, settings, quiet].into_iter().flatten().fold(far, Instant::min))
}

/// What remains to be said when hyper is gone and the socket is still ours.
async fn conclude(connection: &Connection, (frames, outbox): (&Mutex<Frames>, &Outbox), end: End) {
    let client = connection.client.0;
    match end {
        End::Done(Ok(())) | End::Idle => Box::pin(connection.take_leave()).await,
        End::Broken(error) => tracing::debug!(%error, %client, "an HTTP/2 connection breaks"),
        End::Done(Err(error)) => {
            tracing::debug!(%error, %client, "an HTTP/2 connection ends");
            // What hyper has said of it is on its way: a reset must not overtake it.
            Box::pin(connection.take_leave()).await;
        }
        End::Abandoned => {}
        End::Refused(code, why) => {
            tracing::debug!(%client, why, "an HTTP/2 connection is refused");
            let goaway = frames.lock().goaway(code);
            let mut last = outbox.rest();
            last.extend(goaway.into_iter().flatten());
            if let Err(error) = connection.wire.write_last(&last).await {
                tracing::debug!(%error, %client, "GOAWAY");
            }
        }
    }
}

/// One stream. Dropped before its end when its client resets it.
async fn exchange(
    stream: Arc<Downstream>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    if let Some(refusal) = admission::http2::request(&request, stream.wire.is_secure()) {
        return Ok(refuse(stream, &request, refusal));
    }
    let request = message::request(request);
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let law = (&*stream.relay.rules, stream.choices);
    if let Err(refusal) = admission::check(request.method().as_str(), target, request.headers(), law) {
        return Ok(refuse(stream, &request, refusal));
    }
    relayed(stream, request).await.map(message::answer)
}

fn refuse(stream: Arc<Downstream>, request: &Request<Incoming>, refusal: Refusal) -> Response<AnswerBody> {
    stream.relay.observer.metrics.bad_request(refusal.oddity);
    let first_byte = stream.request_begins(request.body().is_end_stream());
    let open = OpenRequest::new(Box::new(Draft::of_request(request, first_byte)), stream);
    message::answer(answer::refused(open, refusal))
}

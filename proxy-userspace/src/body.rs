//! Bodies on their way through: a frame is asked for only when the other side has taken the one
//! before, so neither side runs ahead of the other.

use crate::{
    deadline::Deadline,
    downstream::Downstream,
    flow::Reason,
    grpc,
    record::{Failure, OpenRequest},
    snapshot::Timeouts,
    trailers,
    upstream::Upstream,
    wire,
};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::Instant;

/// A body that ends before its end: the connection that carries it must not look complete.
#[derive(Debug, thiserror::Error)]
#[error("cut off: {}", .0.label())]
pub(crate) struct Cut(pub(crate) Reason);

/// A request's body, from the client.
pub(crate) enum RequestBody {
    /// There is none.
    Empty,
    /// As hyper reads it.
    Stream(RequestStream),
    /// The kernel half has carried it: so many bytes are still to be pretended.
    Carried(u64),
    /// It has been read already; never empty.
    Whole(Bytes),
}

/// What is pretended at once.
static PRETENCE: [u8; 16 << 10] = [0; 16 << 10];

/// See [`RequestBody`].
pub(crate) struct RequestStream {
    incoming: Incoming,
    downstream: Arc<Downstream>,
    timeouts: Timeouts,
    /// Since when the client has been silent, and its time runs.
    waits: Option<Instant>,
    /// How long it was before.
    waited: Duration,
}

/// How long a body may be waited for, in all, before it must keep a rate.
const GRACE: Duration = Duration::from_secs(10);

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, downstream: &Arc<Downstream>, timeouts: Timeouts) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        let downstream = Arc::clone(downstream);
        Self::Stream(RequestStream { incoming, downstream, timeouts, waits: None, waited: Duration::ZERO })
    }

    /// One that has been read.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Whole(bytes) }
    }

    /// Reads what stands for a body that the endpoint has. The whole of it at once: an answer may come to
    /// its end before the endpoint's connection has asked for it, and a client's connection with an
    /// unread request is closed.
    pub(crate) async fn carried(mut self) -> Result<Self, Cut> {
        let length = self.size_hint().exact().unwrap_or_default();
        while let Some(frame) = self.frame().await {
            frame?;
        }
        Ok(if length == 0 { Self::Empty } else { Self::Carried(length) })
    }
}

/// How long the next piece of a body may take: no longer than `idle`, nor so long that the `bytes` which came while
/// it was `waited` for are fewer than `rate` a second, [`GRACE`] apart.
fn patience(idle: Option<Duration>, rate: u64, came: (u64, Duration)) -> Option<Duration> {
    [idle, by_rate(rate, came)].into_iter().flatten().min()
}

/// The same by the rate alone; `None` where there is none to keep.
fn by_rate(rate: u64, (bytes, waited): (u64, Duration)) -> Option<Duration> {
    let earned = bytes.checked_div(rate).map(Duration::from_secs);
    earned.map(|earned| GRACE.saturating_add(earned).saturating_sub(waited))
}

impl RequestStream {
    /// All of it has been read: now the endpoint's time runs.
    fn complete(&self) {
        let now = Instant::now();
        self.downstream.request_body_complete(now);
        let timeout = self.timeouts.response_head;
        self.downstream.deadline.stage_from(now, Reason::ResponseHeadTimeout, timeout);
    }

    fn patience(&self) -> Option<Duration> {
        // A stream costs no connection, and of gRPC it may be silent for long.
        let is_stream = self.downstream.is_stream();
        let rate = if is_stream { 0 } else { self.downstream.relay.settings.min_body_rate };
        let came = (self.downstream.request_body_bytes(), self.waited);
        patience(self.timeouts.request_body_idle, rate, came)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        loop {
            let frame = Pin::new(&mut self.incoming).poll_frame(cx);
            if frame.is_pending() && self.waits.is_none() {
                let now = Instant::now();
                self.waits = Some(now);
                self.downstream.deadline.stage_from(now, Reason::RequestBodyIdle, self.patience());
            }
            match ready!(frame) {
                Some(Ok(frame)) => {
                    let Some(data) = frame.data_ref() else {
                        match frame.into_trailers() {
                            Ok(trailers) => return self.trailers(trailers),
                            Err(_) => continue,
                        }
                    };
                    if let Some(since) = self.waits.take() {
                        self.waited += since.elapsed();
                    }
                    self.downstream.request_body_read(data.len());
                    if self.incoming.is_end_stream() {
                        self.complete();
                    } else {
                        self.downstream.deadline.no_stage();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "request body");
                    self.downstream.request_body_failed();
                    return Poll::Ready(Some(Err(Cut(Reason::DownstreamReset))));
                }
                None if self.downstream.is_stream() && !self.incoming.is_end_stream() => {
                    // Reset, with an error code that says there is no error.
                    self.downstream.request_body_failed();
                    return Poll::Ready(Some(Err(Cut(Reason::DownstreamReset))));
                }
                None => {
                    self.complete();
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn trailers(&self, trailers: HeaderMap) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.complete();
        let trailers = trailers::passing(trailers);
        Poll::Ready((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Empty | Self::Carried(0) => Poll::Ready(None),
            Self::Stream(stream) => stream.poll_frame(cx),
            whole @ Self::Whole(_) => {
                let Self::Whole(bytes) = std::mem::replace(whole, Self::Empty) else {
                    return Poll::Ready(None);
                };
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Carried(left) => {
                let piece = usize::try_from(*left).ok().and_then(|left| PRETENCE.get(..left));
                let piece = piece.unwrap_or(&PRETENCE);
                *left -= piece.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(stream) => stream.incoming.is_end_stream(),
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Carried(left) => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(stream) => stream.incoming.size_hint(),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Carried(left) => SizeHint::with_exact(*left),
        }
    }
}

/// An answer's body: the endpoint's, or a line of our own. When it is dropped the request has ended.
pub(crate) struct AnswerBody {
    source: Source,
    open: OpenRequest,
}

enum Source {
    Local(Option<Bytes>),
    Endpoint(Relayed),
}

struct Relayed {
    incoming: Incoming,
    upstream: Box<Upstream>,
    done: bool,
    idle: Option<Duration>,
    /// Bytes a second that must come; 0 where there is no rate to keep.
    rate: u64,
    /// Bytes that have come.
    bytes: u64,
    /// Since when the endpoint has been silent, and its time runs.
    waits: Option<Instant>,
    /// How long it was before.
    waited: Duration,
}

impl AnswerBody {
    /// A line of our own, or nothing.
    pub(crate) fn local(text: String, open: OpenRequest) -> Self {
        Self { source: Source::Local((!text.is_empty()).then(|| text.into())), open }
    }

    /// The endpoint's body.
    pub(crate) fn endpoint(incoming: Incoming, upstream: Box<Upstream>, mut open: OpenRequest) -> Self {
        let cluster = open.draft().cluster.as_ref();
        let idle = cluster.and_then(|cluster| cluster.timeouts.response_body_idle);
        // Only where its end is known: what streams may be quiet, and whoever sends events is.
        let is_known = incoming.size_hint().exact().is_some() && !open.draft().is_call();
        let rate = if is_known { open.downstream().relay.settings.min_answer_rate } else { 0 };
        let done = incoming.is_end_stream();
        let (waits, waited) = (None, Duration::ZERO);
        let relayed = Relayed { incoming, upstream, done, idle, rate, bytes: 0, waits, waited };
        Self { source: Source::Endpoint(relayed), open }
    }

    /// Why the endpoint's answer does not go on.
    fn broken_off(&self, error: &hyper::Error) -> Failure {
        let refusal = match &self.source {
            Source::Endpoint(relayed) => relayed.upstream.refusal(),
            Source::Local(_) => None,
        };
        let downstream = self.open.downstream();
        match (downstream.refusal(), refusal) {
            (Some(refusal), _) if downstream.request_body_has_failed() => {
                Failure::new(Reason::BadRequest, &refusal)
            }
            (_, Some(refusal)) => Failure::new(Reason::UpstreamProtocol, &refusal),
            _ if error.is_parse() => Failure::new(Reason::UpstreamProtocol, error),
            _ => Failure::new(Reason::UpstreamReset, error),
        }
    }

    /// The trailers that pass; the answer ends with them.
    fn trailers(&mut self, frame: Frame<Bytes>) -> Option<Result<Frame<Bytes>, Cut>> {
        let wanted = self.open.downstream().passes_trailers();
        let trailers = frame.into_trailers().ok()?;
        let draft = self.open.draft();
        draft.grpc_status = grpc::Status::of(&trailers).or(draft.grpc_status);
        let trailers = Some(trailers).filter(|_| wanted).map(trailers::passing)?;
        (!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers)))
    }

    /// Ends the answer before its end.
    fn cut(&mut self, failure: Failure) -> Cut {
        let reason = failure.reason;
        let draft = self.open.draft();
        draft.failure = Some(failure);
        if draft.is_http_10() {
            // It may be delimited by the connection's end: that must not look orderly.
            wire::reset_on_close(self.open.downstream().wire.stream());
        }
        Cut(reason)
    }
}

/// Why an endpoint's answer has no end.
enum Broken {
    Error(hyper::Error),
    /// Reset, with an error code that says there is no error.
    Reset,
}

impl Relayed {
    /// The endpoint's time runs, by its silence or by the rate that it keeps.
    fn wait(&mut self, deadline: &Deadline) {
        if self.waits.is_some() {
            return;
        }
        let now = Instant::now();
        self.waits = Some(now);
        let slow = by_rate(self.rate, (self.bytes, self.waited));
        match slow.filter(|slow| self.idle.is_none_or(|idle| *slow < idle)) {
            Some(slow) => deadline.stage_from(now, Reason::ResponseBodySlow, Some(slow)),
            None => deadline.stage_from(now, Reason::ResponseBodyIdle, self.idle),
        }
    }

    /// The next piece of data, or the trailers; drives the upstream connection where that is what it takes.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        deadline: &Deadline,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut driven = false;
        loop {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(since) = self.waits.take() {
                        self.waited += since.elapsed();
                    }
                    self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                    self.done = frame.is_trailers() || self.incoming.is_end_stream();
                    if !self.done {
                        // The client's turn: it has as long to take this as the endpoint to send.
                        deadline.stage(Reason::ResponseBodyIdle, self.idle);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(Broken::Error(error)))),
                Poll::Ready(None) if self.upstream.is_stream() && !self.incoming.is_end_stream() => {
                    return Poll::Ready(Some(Err(Broken::Reset)));
                }
                Poll::Ready(None) => {
                    self.done = true;
                    return Poll::Ready(None);
                }
                Poll::Pending if driven => {
                    self.wait(deadline);
                    return Poll::Pending;
                }
                Poll::Pending => {
                    self.upstream.drive(cx);
                    driven = true;
                }
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = self.get_mut();
        let downstream = this.open.downstream();
        if let Some(reason) = downstream.deadline.expired() {
            return Poll::Ready(Some(Err(this.cut(reason.into()))));
        }
        let frame = match &mut this.source {
            Source::Local(text) => text.take().map(|text| Ok(Frame::data(text))),
            Source::Endpoint(relayed) => {
                let (muffle, deadline) = (&downstream.muffle, &downstream.deadline);
                ready!(muffle.poll(cx, |cx| relayed.poll_frame(cx, deadline)))
            }
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    this.open.draft().sent(data.len());
                    Some(Ok(Frame::data(data)))
                }
                Err(frame) => this.trailers(frame),
            },
            Some(Err(Broken::Error(error))) => {
                let why = this.broken_off(&error);
                Some(Err(this.cut(why)))
            }
            Some(Err(Broken::Reset)) => Some(Err(this.cut(Reason::UpstreamReset.into()))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Local(text) => text.is_none(),
            Source::Endpoint(relayed) => relayed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Local(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Source::Endpoint(relayed) => relayed.incoming.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.source, Source::Local(None)) {
            Source::Local(None) => self.open.completes(),
            Source::Local(Some(_)) => {}
            Source::Endpoint(relayed) => {
                self.open.draft().upstream_ended = Some(Instant::now());
                if relayed.done {
                    self.open.completes();
                    self.open.downstream().exchanged();
                    let downstream = self.open.downstream();
                    downstream.splice.keep(downstream, relayed.upstream);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d4_a_body_must_keep_its_rate_after_ten_seconds_of_waiting() {
        let seconds = Duration::from_secs;
        let idle = Some(seconds(30));
        for (rate, bytes, waited, wanted) in [
            (240, 0, 0, Some(seconds(10))),
            (240, 240, 9, Some(seconds(2))),
            (240, 100, 10, Some(Duration::ZERO)),
            (240, 2400, 25, Some(Duration::ZERO)),
            (240, 24_000, 25, Some(seconds(30))),
            (0, 0, 1000, Some(seconds(30))),
            (1, u64::MAX, 1000, Some(seconds(30))),
        ] {
            assert_eq!(patience(idle, rate, (bytes, seconds(waited))), wanted, "{rate} {bytes} {waited}");
        }
        assert_eq!(patience(None, 0, (5, seconds(5))), None);
    }
}

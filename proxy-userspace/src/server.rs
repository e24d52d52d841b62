//! The request pipeline.

mod drive;
mod forward;
mod gateway;
pub(crate) mod http2;
mod mirror;

use drive::{End, drive};
use forward::{forward, limits, towards_endpoint, wanted_lane};

use crate::{
    admission::{self, Oddity},
    answer,
    body::AnswerBody,
    downstream::{Downstream, DownstreamIo, Phase},
    fields,
    flow::{LaneLabel, Reason},
    record::{Draft, Failure, OpenRequest},
    route::{
        choices::{Choices, EscapedSlashes, HeadLimits},
        path, route,
        rule::Limits,
    },
    splice::Task,
    upgrade::{self, Agreed},
    upstream::Upstream,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use std::{convert::Infallible, sync::Arc};
use tokio::time::Instant;

/// Fields of a head that hyper reads without being told.
const FIELDS: usize = 100;

/// Serves HTTP/1 on a connection until it ends. `replay` has been read from it already.
pub(crate) async fn serve(downstream: Arc<Downstream>, replay: Bytes) {
    if !replay.is_empty() && downstream.is_silent() {
        downstream.head_begins();
    }
    let io = DownstreamIo::new(Arc::clone(&downstream), &replay);
    // In a box, as hyper keeps the room for it also while there is none: 10 KiB a connection.
    let service = service_fn(|request| Box::pin(exchange(Arc::clone(&downstream), request)));
    let mut http = Box::pin(builder(downstream.choices.head).serve_connection(io, service));
    let end = drive(&downstream, http.as_mut()).await;
    downstream.splice.leave(&downstream);
    let answered = matches!(end, End::Done(Ok(())));
    let refused = downstream.refusal().is_some() && matches!(end, End::Done(_));
    drop(http);
    if let Some(agreed) = downstream.switch.take() {
        // hyper ends with a 101, but does not wait until it is written.
        let told = answered && downstream.splice.has_written();
        return Box::pin(upgrade::carry(&downstream, agreed, told)).await;
    }
    if downstream.deadline.has_stalled() {
        // What it did not take would stay in the kernel.
        crate::wire::reset_on_close(downstream.wire.stream());
    }
    conclude(&downstream, end).await;
    if refused || (answered && !downstream.splice.is_cut()) {
        Box::pin(downstream.take_leave()).await;
    }
}

fn builder(limits: HeadLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The largest head is the most that is read at once.
    builder.half_close(true).preserve_header_case(true).auto_date_header(false).max_buf_size(limits.bytes);
    if limits.fields > FIELDS {
        // Otherwise it needs no memory of its own for them.
        builder.max_headers(limits.fields);
    }
    builder
}

/// What remains to be said when hyper is gone and the socket is still ours.
async fn conclude(downstream: &Downstream, end: End) {
    let (status, failure) = match end {
        End::Done(Ok(())) if let Some(refusal) = downstream.owes_refusal() => {
            (refusal.oddity.status(), Failure::new(Reason::BadRequest, &refusal))
        }
        // Its client has broken off within a head.
        End::Done(Ok(())) if downstream.phase() == Phase::Head => (0, Reason::DownstreamReset.into()),
        End::Done(Ok(())) | End::Idle | End::Abandoned => return downstream.report_ended(None),
        End::HeadTimeout => (408, Failure::from(Reason::RequestHeadTimeout)),
        End::Done(Err(error)) => (0, Failure::new(Reason::DownstreamReset, &error)),
    };
    // What hyper could not read, or waited for, is none of those that were answered.
    downstream.report_ended(Some(&failure).filter(|_| status == 0));
    if downstream.phase() == Phase::Head || status != 0 {
        report_half_request(downstream, status, failure).await;
    }
}

/// A head that never became a request: it has a record of its own.
async fn report_half_request(downstream: &Downstream, status: u16, failure: Failure) {
    let snapshot = downstream.relay.snapshot.load_full();
    let cluster = route(&snapshot, downstream.orig_dst).map(|route| route.cluster);
    let mut draft = Box::new(Draft::of_nothing("HTTP/1.1", downstream.first_byte()));
    if let Ok(status) = StatusCode::from_u16(status) {
        let text = answer::text(failure.reason, cluster.as_deref(), downstream);
        draft.bytes_sent = text.len() as u64;
        let answer = answer::raw(status, &text);
        downstream.leave_map();
        if let Err(error) = downstream.wire.write_last(&answer).await {
            tracing::debug!(%error, client = %downstream.client.0, "answer to half a request");
        }
    }
    draft.status = status;
    draft.failure = Some(failure);
    draft.cluster = cluster;
    downstream.request_ends(draft, Instant::now());
    downstream.report_ended(None);
}

/// One request and its answer. Dropped before its end when the client goes away.
async fn exchange(
    downstream: Arc<Downstream>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let first_byte = downstream.request_begins(request.body().is_end_stream());
    downstream.splice.request_begins();
    let resumed = downstream.splice.resumed();
    let first_byte = resumed.map_or(first_byte, |resumed| downstream.began_at(resumed.began));
    let draft = Box::new(Draft::of_request(&request, first_byte));
    let (last, asks) = (is_last(&request), upgrade::asked(&downstream, &request).is_some());
    let mut open = OpenRequest::new(draft, downstream);
    let downstream = Arc::clone(open.downstream());
    let answered = relay(&downstream, open.draft(), request).await;
    let response = match answered {
        Ok(Answer::Endpoint(head, _, upstream)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
            return Ok(switched(&downstream, open, *head, upstream));
        }
        Ok(Answer::Endpoint(head, incoming, upstream)) => {
            Response::from_parts(*head, AnswerBody::endpoint(incoming, upstream, open))
        }
        Ok(Answer::Own(own)) => answer::own(open, own.status, own.fields),
        Err(failure) => match resumed.map(|resumed| resumed.task) {
            Some(Task::Cut(_, status)) => answer::unseen(open, failure, status),
            _ => answer::local(open, failure),
        },
    };
    if asks {
        downstream.switch.decline();
        downstream.relay.observer.metrics.upgrade_declined();
    }
    if last || says_close(response.headers()) {
        downstream.closes();
        // The FIN comes behind the answer, by TCP both: nobody has to wait until the client has read it.
        downstream.leave_map();
    }
    Ok(response)
}

/// Tells the client that its connection is from now on what it has asked for.
fn switched(
    downstream: &Downstream,
    mut open: OpenRequest,
    head: http::response::Parts,
    upstream: Box<Upstream>,
) -> Response<AnswerBody> {
    // What goes to it from now on is of any size.
    downstream.leave_map();
    if let Some(draft) = open.take() {
        downstream.switch.agree(Agreed::new(downstream, draft, (&head.headers, upstream)));
    }
    Response::from_parts(head, AnswerBody::local(String::new(), open))
}

/// Whether the client wants no other answer on this connection.
fn is_last(request: &Request<Incoming>) -> bool {
    request.version() < Version::HTTP_11 || says_close(request.headers())
}

fn says_close(fields: &HeaderMap) -> bool {
    let values = fields.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// Who answers.
enum Answer {
    /// An endpoint.
    Endpoint(Box<http::response::Parts>, Incoming, Box<Upstream>),
    /// The request's rule.
    Own(Own),
}

/// What a rule answers by itself.
struct Own {
    status: StatusCode,
    fields: HeaderMap,
}

impl Own {
    /// Of the last hop to a request that goes no further: what can be done here is nothing, which OPTIONS is told.
    fn of_the_last_hop(method: &Method) -> Self {
        if *method == Method::OPTIONS {
            return Self { status: StatusCode::NO_CONTENT, fields: HeaderMap::new() };
        }
        let allowed = HeaderMap::from_iter([(header::ALLOW, HeaderValue::from_static("OPTIONS"))]);
        Self { status: StatusCode::METHOD_NOT_ALLOWED, fields: allowed }
    }
}

/// Whether a request may go on, by its own count.
fn takes_hop<B>(request: &mut Request<B>) -> Result<bool, Failure> {
    let method = request.method().clone();
    fields::take_hop(&method, request.headers_mut()).map_err(|why| Failure::new(Reason::BadRequest, &why))
}

/// Whether a request may pass by its own route's choices, which may be stricter than what its connection admits.
fn admit(downstream: &Downstream, request: &Request<Incoming>, choices: Choices) -> Result<(), Failure> {
    if downstream.choices == choices {
        return Ok(());
    }
    let law = (&*downstream.relay.rules, choices);
    Ok(admission::by_route(request, law, downstream.is_stream())?)
}

/// Where a client is to go instead, with the separators of its path unescaped, if its route says so.
fn unescaped(uri: &Uri, choices: Choices) -> Result<Option<Own>, Failure> {
    let refused = |why| Failure::from(Oddity::Path.because(why));
    let path::Spelling { path, doubts } = path::read(uri.path()).map_err(refused)?;
    if !choices.redirects(doubts) {
        return Ok(None);
    }
    let path = path::unescaped(&path).map_err(refused)?;
    let location = uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    let location = HeaderValue::try_from(location).map_err(|_| refused("the target is no Location"))?;
    let fields = HeaderMap::from_iter([(header::LOCATION, location)]);
    Ok(Some(Own { status: StatusCode::TEMPORARY_REDIRECT, fields }))
}

/// The pipeline: route, admission, balance, policy, connect or reuse, send, relay the answer's head.
async fn relay(
    downstream: &Arc<Downstream>,
    draft: &mut Draft,
    mut request: Request<Incoming>,
) -> Result<Answer, Failure> {
    let snapshot = downstream.relay.snapshot.load();
    let mut route = match route(&snapshot, downstream.orig_dst) {
        Some(route) => route,
        None => {
            let site = snapshot.by_gateway.get(&downstream.orig_dst.0).ok_or(Reason::NoRoute)?;
            let (site, snapshot) = (Arc::clone(site), Arc::clone(&snapshot));
            return gateway::relay(downstream, draft, (&site, &snapshot), request).await;
        }
    };
    drop(snapshot);
    draft.cluster = Some(Arc::clone(&route.cluster));
    if let Some(Task::Refuse(reason) | Task::Cut(reason, _)) =
        downstream.splice.resumed().map(|resumed| resumed.task)
    {
        draft.lane = LaneLabel::Splice;
        return Err(reason.into());
    }
    if request.uri().path() == "*" {
        // OPTIONS *: whoever reads it answers for itself.
        return Ok(Answer::Own(Own::of_the_last_hop(request.method())));
    }
    let choices = route.cluster.choices;
    admit(downstream, &request, choices)?;
    if choices.escaped_slashes == EscapedSlashes::Redirect
        && let Some(own) = unescaped(request.uri(), choices)?
    {
        return Ok(Answer::Own(own));
    }
    if !takes_hop(&mut request)? {
        return Ok(Answer::Own(Own::of_the_last_hop(request.method())));
    }
    route.timeouts = limits(route.timeouts, Limits::default(), request.headers());
    downstream.deadline.whole(downstream.first_byte(), route.timeouts.request);
    let wanted = wanted_lane(downstream, &request);
    let mut request = towards_endpoint(downstream, route.timeouts, request);
    let spelled = path::one_spelling(request.uri(), choices);
    if let Some(uri) = spelled.map_err(|why| Failure::from(Oddity::Path.because(why)))? {
        *request.uri_mut() = uri;
    }
    if downstream.splice.resumed().is_some() {
        let (head, body) = request.into_parts();
        let body = body.carried().await.map_err(|cut| Failure::from(cut.0))?;
        request = Request::from_parts(head, body);
    }
    let (head, body, upstream) = forward(downstream, draft, &route, request, wanted).await?;
    Ok(Answer::Endpoint(Box::new(head), body, upstream))
}

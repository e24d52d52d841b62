//! The request pipeline.

mod drive;
mod gateway;
mod mirror;

use drive::{End, drive};

use crate::{
    admission, answer, balance,
    body::{AnswerBody, RequestBody},
    datapath::UpstreamLane,
    downstream::{Downstream, DownstreamIo, Phase},
    fields::{self, Message},
    flow::{LaneLabel, Reason},
    policy::Passage,
    record::{Draft, Failure, OpenRequest, head_size, is_idempotent},
    route::{Route, route},
    snapshot::{Endpoint, Timeouts},
    splice::Task,
    upstream::{Birthplace, SendError, Source, Upstream, acquire},
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use std::{convert::Infallible, sync::Arc};
use tokio::time::Instant;

/// Largest request head, and the most that is read at once.
const READ_BUFFER: usize = 64 * 1024;
/// An answer this large streams: it is exempt from the whole request's deadline.
const STREAMS: u64 = 256 * 1024;

/// Serves HTTP/1 on a connection until it ends. `replay` has been read from it already.
pub(crate) async fn serve(downstream: Arc<Downstream>, replay: Bytes) {
    if !replay.is_empty() {
        downstream.head_begins();
    }
    let io = DownstreamIo::new(Arc::clone(&downstream), replay);
    let service = service_fn(|request| exchange(Arc::clone(&downstream), request));
    let mut http = Box::pin(
        http1::Builder::new()
            .half_close(true)
            .preserve_header_case(true)
            .auto_date_header(false)
            .max_buf_size(READ_BUFFER)
            .serve_connection(io, service),
    );
    let end = drive(&downstream, http.as_mut()).await;
    downstream.splice.leave(&downstream);
    let answered = matches!(end, End::Done(Ok(())));
    let refused = matches!(&end, End::Done(Err(error)) if error.is_parse());
    drop(http);
    conclude(&downstream, end).await;
    if refused || (answered && !downstream.splice.is_cut()) {
        downstream.take_leave().await;
    }
}

/// What remains to be said when hyper is gone and the socket is still ours.
async fn conclude(downstream: &Downstream, end: End) {
    let (status, failure) = match end {
        End::Done(Ok(())) | End::Idle | End::Abandoned => return downstream.report_ended(None),
        End::HeadTimeout => (408, Failure::from(Reason::RequestHeadTimeout)),
        End::Done(Err(error)) => {
            // hyper has answered by itself what it could not parse.
            let (status, reason) = match () {
                () if error.is_parse_too_large() => (431, Reason::BadRequest),
                () if error.is_parse() => (400, Reason::BadRequest),
                () => (0, Reason::DownstreamReset),
            };
            (status, Failure::new(reason, &error))
        }
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
    if failure.reason == Reason::RequestHeadTimeout {
        let text = answer::text(failure.reason, cluster.as_deref(), downstream);
        draft.bytes_sent = text.len() as u64;
        let answer = answer::raw(StatusCode::REQUEST_TIMEOUT, &text);
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
    downstream.splice.request_begins(request.body().size_hint().exact());
    let resumed = downstream.splice.resumed();
    let first_byte = resumed.map_or(first_byte, |resumed| downstream.began_at(resumed.began));
    let draft = Box::new(Draft::of_request(&request, first_byte));
    let last = is_last(&request);
    let mut open = OpenRequest::new(draft, downstream);
    let downstream = Arc::clone(open.downstream());
    let answered = relay(&downstream, open.draft(), request).await;
    let response = match answered {
        Ok(Answer::Endpoint(head, incoming, upstream)) => {
            Response::from_parts(*head, AnswerBody::endpoint(incoming, upstream, open))
        }
        Ok(Answer::Own(own)) => answer::own(open, own.status, own.fields),
        Err(failure) => match resumed.map(|resumed| resumed.task) {
            Some(Task::Cut(_, status)) => answer::unseen(open, failure, status),
            _ => answer::local(open, failure),
        },
    };
    if last || says_close(response.headers()) {
        // The FIN comes behind the answer, by TCP both: nobody has to wait until the client has read it.
        downstream.leave_map();
    }
    Ok(response)
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

/// The pipeline: route, admission, balance, policy, connect or reuse, send, relay the answer's head.
async fn relay(
    downstream: &Arc<Downstream>,
    draft: &mut Draft,
    request: Request<Incoming>,
) -> Result<Answer, Failure> {
    let snapshot = downstream.relay.snapshot.load();
    let route = match route(&snapshot, downstream.orig_dst) {
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
    downstream.deadline.whole(downstream.first_byte(), route.timeouts.request);
    if let Some(oddity) = admission::request(request.headers()) {
        return Err(Failure::new(Reason::BadRequest, &oddity));
    }

    let wanted = wanted_lane(downstream, &request);
    let mut request = towards_endpoint(downstream, route.timeouts, request);
    if downstream.splice.resumed().is_some() {
        let (head, body) = request.into_parts();
        let body = body.carried().await.map_err(|cut| Failure::from(cut.0))?;
        request = Request::from_parts(head, body);
    }
    let (head, body, upstream) = forward(downstream, draft, &route, request, wanted).await?;
    Ok(Answer::Endpoint(Box::new(head), body, upstream))
}

/// Sends the request, and takes the head of its answer.
async fn forward(
    downstream: &Arc<Downstream>,
    draft: &mut Draft,
    route: &Route,
    request: Request<RequestBody>,
    wanted: UpstreamLane,
) -> Result<(http::response::Parts, Incoming, Box<Upstream>), Failure> {
    let (response, upstream) = send(downstream, draft, route, request, wanted).await?;
    towards_client(downstream, draft, route.timeouts, response, upstream)
}

/// Small requests of known length may be redirected into the endpoint's socket.
fn wanted_lane(downstream: &Downstream, request: &Request<Incoming>) -> UpstreamLane {
    let head = head_size(request.headers()).saturating_add(request.uri().path().len());
    let whole = request.body().size_hint().exact().map(|body| body.saturating_add(head as u64));
    match whole {
        Some(size) if size <= downstream.relay.settings.request_cap => UpstreamLane::Mapped,
        _ => UpstreamLane::Plain,
    }
}

/// The request as the endpoint gets it: as it came, but for what ends at this hop.
fn towards_endpoint(
    downstream: &Arc<Downstream>,
    timeouts: Timeouts,
    request: Request<Incoming>,
) -> Request<RequestBody> {
    let (mut head, body) = request.into_parts();
    fields::strip_hop_by_hop(&mut head.headers, Message::Request);
    // HTTP/1.1 needs a Host: without one the request stays what it is.
    if head.headers.contains_key(header::HOST) {
        head.version = Version::HTTP_11;
    }
    Request::from_parts(head, RequestBody::new(body, downstream, timeouts))
}

/// Sends the request; once more if a pooled connection turns out to have been closed meanwhile.
async fn send(
    downstream: &Arc<Downstream>,
    draft: &mut Draft,
    route: &Route,
    mut request: Request<RequestBody>,
    wanted: UpstreamLane,
) -> Result<(Response<Incoming>, Box<Upstream>), Failure> {
    let upstream = connect(downstream, draft, route, &mut request, (wanted, Source::PoolOrNew)).await?;
    if upstream.key.born == Birthplace::NodeInstead && !route.edge {
        fields::append_forwarded_for(request.headers_mut(), downstream.client.0.ip());
    }
    let reused = upstream.reused;
    let spare = if reused { spare_copy(&request) } else { None };
    let error = match send_on(downstream, draft, route, upstream, request).await? {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    let again = error.unsent.or(spare.filter(|_| !error.answered));
    let Some(mut request) = again.filter(|_| reused) else {
        return Err(send_failure(downstream, &error.error));
    };
    let upstream = connect(downstream, draft, route, &mut request, (wanted, Source::New)).await?;
    match send_on(downstream, draft, route, upstream, request).await? {
        Ok(answer) => Ok(answer),
        Err(error) => Err(send_failure(downstream, &error.error)),
    }
}

/// A connection to an endpoint; to another one if the first cannot be connected to. The policies are those
/// of the client and of the endpoint that was picked: those of one Service's endpoints may differ. Rules may
/// want fields of the request changed.
async fn connect(
    downstream: &Arc<Downstream>,
    draft: &mut Draft,
    route: &Route,
    request: &mut Request<RequestBody>,
    (wanted, source): (UpstreamLane, Source),
) -> Result<Box<Upstream>, Failure> {
    let cluster = &route.cluster;
    if source == Source::PoolOrNew && downstream.splice.resumed().is_some() {
        let upstream = downstream.splice.owing().ok_or(Reason::UpstreamReset)?;
        draft.tries_at(upstream.key.endpoint, cluster);
        return Ok(upstream);
    }
    if source == Source::PoolOrNew
        && wanted == UpstreamLane::Mapped
        && let Some((upstream, endpoint)) = downstream.splice.upstream(downstream, route)
    {
        if let Err(denied) = admit(downstream, draft, (endpoint, &downstream.passage(endpoint)), request) {
            downstream.splice.put_back(upstream);
            return Err(denied);
        }
        draft.tries(endpoint);
        return Ok(upstream);
    }
    let client = balance::Client::of(downstream, route);
    let (first, passage) = pick_open(downstream, route, &client, None).ok_or(Reason::NoEndpoint)?;
    admit(downstream, draft, (first, &passage), request)?;
    draft.tries(first);
    let failure = match acquire(downstream, cluster, first.addr, wanted, source).await {
        Ok(upstream) => return Ok(upstream),
        Err(failure) => failure,
    };
    let other = match failure.reason {
        Reason::ConnectFailed | Reason::ConnectTimeout => {
            pick_open(downstream, route, &client, Some(first.addr))
        }
        _ => None,
    };
    let (other, passage) = other.ok_or(failure)?;
    admit(downstream, draft, (other, &passage), request)?;
    draft.tries(other);
    acquire(downstream, cluster, other.addr, wanted, source).await
}

/// An endpoint, and what holds there for this client: one that it may connect to, where there is any.
fn pick_open<'a>(
    downstream: &Downstream,
    route: &'a Route,
    client: &balance::Client,
    avoid: Option<std::net::SocketAddr>,
) -> Option<(&'a Endpoint, Arc<Passage>)> {
    let with_passage = |one: &'a Endpoint| (one, downstream.passage(one));
    let picked = with_passage(balance::pick(route, client, avoid)?);
    if !picked.1.is_closed() || route.pinned.is_some() {
        return Some(picked);
    }
    let others = route.cluster.usable_within(route.family, balance::scope(downstream, route));
    let mut others = others.filter(|one| Some(one.addr) != avoid).map(with_passage);
    Some(others.find(|(_, passage)| !passage.is_closed()).unwrap_or(picked))
}

/// Decides about the request at an endpoint, and makes its fields as the rules ask that allow it.
fn admit(
    downstream: &Downstream,
    draft: &mut Draft,
    (endpoint, passage): (&Endpoint, &Passage),
    request: &mut Request<RequestBody>,
) -> Result<(), Failure> {
    let rules = draft.admit((endpoint, passage), request)?;
    for rule in rules.iter().filter(|rule| rule.has_effect()) {
        for field in rule.enforce(request.headers_mut()) {
            tracing::info!(rule = %rule.name, %field, client = %downstream.client.0, "a field is not as a rule asks");
        }
    }
    Ok(())
}

/// Sends on one connection and waits for the head of the answer.
async fn send_on(
    downstream: &Downstream,
    draft: &mut Draft,
    route: &Route,
    mut upstream: Box<Upstream>,
    request: Request<RequestBody>,
) -> Result<Result<(Response<Incoming>, Box<Upstream>), SendError>, Failure> {
    draft.lane = downstream.lane(upstream.lane == UpstreamLane::Mapped);
    let began = Instant::now();
    draft.upstream_began = Some(began);
    downstream.await_answer(began, route.timeouts.response_head);
    let sent = downstream.deadline.guard(upstream.send(request, &downstream.muffle)).await;
    draft.upstream_ended = Some(Instant::now());
    Ok(sent?.map(|response| (response, upstream)))
}

/// What can be sent again if the endpoint closes before it answers: a request that may be repeated
/// and has no body.
fn spare_copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let repeatable = is_idempotent(request.method()) && request.body().is_end_stream();
    repeatable.then(|| {
        let mut copy = Request::new(RequestBody::Empty);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        copy.headers_mut().clone_from(request.headers());
        *copy.extensions_mut() = request.extensions().clone();
        copy
    })
}

fn send_failure(downstream: &Downstream, error: &hyper::Error) -> Failure {
    let reason = if downstream.request_body_has_failed() {
        Reason::DownstreamReset
    } else if error.is_parse() {
        Reason::UpstreamProtocol
    } else {
        Reason::UpstreamReset
    };
    Failure::new(reason, error)
}

/// The answer as the client gets it.
fn towards_client(
    downstream: &Downstream,
    draft: &mut Draft,
    timeouts: Timeouts,
    response: Response<Incoming>,
    mut upstream: Box<Upstream>,
) -> Result<(http::response::Parts, Incoming, Box<Upstream>), Failure> {
    let (mut head, body) = response.into_parts();
    if let Some(oddity) = admission::answer(&head) {
        return Err(Failure::new(Reason::UpstreamProtocol, &oddity));
    }
    draft.answer_head = draft.upstream_ended;
    draft.status = head.status.as_u16();
    fields::strip_hop_by_hop(&mut head.headers, Message::Answer);
    head.version = Version::HTTP_11;
    let length = body.size_hint().exact();
    let whole = length.map(|body| body.saturating_add(head_size(&head.headers) as u64));
    if whole.is_none_or(|size| size > downstream.relay.settings.answer_cap) {
        downstream.leave_map();
    }
    if length.is_none_or(|length| length > STREAMS) {
        downstream.deadline.exempt();
    }
    if downstream.request_completed_at().is_none() {
        upstream.drive_apart();
    }
    downstream.deadline.stage(Reason::ResponseBodyIdle, timeouts.response_body_idle);
    Ok((head, body, upstream))
}

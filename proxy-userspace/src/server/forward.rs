//! The later half of the pipeline: balance, policy, connect or reuse, send, take the head of the answer.

use crate::{
    admission, balance,
    body::RequestBody,
    datapath::UpstreamLane,
    downstream::Downstream,
    fields::{self, Message},
    flow::Reason,
    grpc,
    policy::Passage,
    record::{Draft, Failure, head_size, is_idempotent},
    route::{Route, rule::Limits},
    snapshot::{Endpoint, Timeouts},
    trailers, upgrade,
    upstream::{self, Birthplace, SendError, Source, Speech, Upstream, acquire},
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body;
use hyper::body::Incoming;
use std::sync::Arc;
use tokio::time::Instant;

/// An answer this large streams: it is exempt from the whole request's deadline.
const STREAMS: u64 = 256 * 1024;

/// Sends the request, and takes the head of its answer.
pub(super) async fn forward(
    downstream: &Arc<Downstream>,
    draft: &mut Draft,
    route: &Route,
    mut request: Request<RequestBody>,
    wanted: UpstreamLane,
) -> Result<(http::response::Parts, Incoming, Box<Upstream>), Failure> {
    // Who asks for an upgrade gets a connection of its own.
    let asks = upgrade::ask(&mut request, route.cluster.protocol);
    let way = if asks { (UpstreamLane::Plain, Source::New) } else { (wanted, Source::PoolOrNew) };
    let asked = request.extensions().get::<upgrade::Asked>().cloned();
    let (response, upstream) = send(downstream, draft, route, request, way).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switches(downstream, draft, (response, upstream), asked.as_ref());
    }
    let (head, body, mut upstream) = towards_client(downstream, draft, route.timeouts, response, upstream)?;
    if asks {
        // Nobody else gets it.
        upstream.drive_apart();
    }
    Ok((head, body, upstream))
}

/// How long a request may take: as its cluster says, and the rule over it. A call by gRPC may take as long as
/// its caller says, within what its rule says; a stream of messages has no end of its own, so a Service's
/// timeout is not for calls.
pub(super) fn limits(timeouts: Timeouts, rule: Limits, fields: &HeaderMap) -> Timeouts {
    if !grpc::is_call(fields) {
        return rule.over(timeouts);
    }
    let (asked, most) = (grpc::timeout(fields), rule.request.flatten());
    let request = match (asked, most) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    };
    let response_head = rule.backend.or(rule.request).flatten();
    // Either side may be silent for as long as the other: a stream has one idle time.
    Timeouts { request, response_head, request_body_idle: timeouts.response_body_idle, ..timeouts }
}

/// Small requests of known length may be redirected into the endpoint's socket.
pub(super) fn wanted_lane(downstream: &Downstream, request: &Request<Incoming>) -> UpstreamLane {
    let head = head_size(request.headers()).saturating_add(request.uri().path().len());
    let whole = request.body().size_hint().exact().map(|body| body.saturating_add(head as u64));
    match whole {
        Some(size) if size <= downstream.relay.settings.request_cap => UpstreamLane::Mapped,
        _ => UpstreamLane::Plain,
    }
}

/// The request as the endpoint gets it: as it came, but for what ends at this hop.
pub(super) fn towards_endpoint(
    downstream: &Arc<Downstream>,
    timeouts: Timeouts,
    request: Request<Incoming>,
) -> Request<RequestBody> {
    let asked = upgrade::asked(downstream, &request);
    let (mut head, body) = request.into_parts();
    let (wanted, announced) = (trailers::are_wanted(&head.headers), trailers::announced(&head.headers));
    downstream.takes_trailers(wanted);
    fields::strip_hop_by_hop(&mut head.headers, Message::Request);
    head.headers.extend(announced.map(|names| (header::TRAILER, names)));
    if let Some(asked) = asked {
        head.extensions.insert(asked);
    } else if wanted {
        head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        // RFC 9110 section 10.1.4: TE is for this hop, and says so.
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("TE"));
    }
    // HTTP/1.1 needs a Host: without one the request stays what it is.
    if head.headers.contains_key(header::HOST) {
        head.version = Version::HTTP_11;
    }
    Request::from_parts(head, RequestBody::new(body, downstream, timeouts))
}

/// Says in a request which is brought in from outside that it passed here, unless it has too often.
pub(super) fn pass(downstream: &Downstream, draft: &Draft, fields: &mut HeaderMap) -> Result<(), Failure> {
    let Some(via) = &downstream.relay.settings.via else { return Ok(()) };
    via.pass(fields, draft.protocol()).map_err(|_loop| Reason::LoopDetected.into())
}

/// Sends the request; once more if a pooled connection turns out to have been closed meanwhile.
async fn send(
    downstream: &Arc<Downstream>,
    draft: &mut Draft,
    route: &Route,
    mut request: Request<RequestBody>,
    (wanted, source): (UpstreamLane, Source),
) -> Result<(Response<Incoming>, Box<Upstream>), Failure> {
    let upstream = connect(downstream, draft, route, &mut request, (wanted, source)).await?;
    if upstream.key.born == Birthplace::NodeInstead && !route.edge {
        // Brought in from outside, or the same to the endpoint.
        fields::append_forwarded_for(request.headers_mut(), downstream.client.0.ip());
        pass(downstream, draft, request.headers_mut())?;
    }
    let (reused, is_stream) = (upstream.reused, upstream.is_stream());
    let spare = if reused || is_stream { spare_copy(&request) } else { None };
    let mut error = match send_on(downstream, draft, route, upstream, request).await? {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    let repeatable = |spare: &Request<_>| {
        error.unprocessed || (reused && !error.answered && is_idempotent(spare.method()))
    };
    let spare = spare.filter(repeatable);
    let again = error.unsent.take().filter(|_| reused).or(spare);
    let Some(mut request) = again else {
        return Err(send_failure(downstream, &error));
    };
    let upstream = connect(downstream, draft, route, &mut request, (wanted, Source::New)).await?;
    match send_on(downstream, draft, route, upstream, request).await? {
        Ok(answer) => Ok(answer),
        Err(error) => Err(send_failure(downstream, &error)),
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
    let own = upgrade::asks(request).then_some(Speech::Http1(UpstreamLane::Plain));
    let speech = own.unwrap_or_else(|| Speech::of(route, downstream.is_stream(), wanted));
    let client = balance::Client::of(downstream, route);
    let (first, passage) = pick_open(downstream, route, &client, None).ok_or(Reason::NoEndpoint)?;
    admit(downstream, draft, (first, &passage), request)?;
    draft.tries(first);
    let failure = match acquire(downstream, route, first.addr, speech, source).await {
        Ok(upstream) => return Ok(upstream),
        Err(failure) => failure,
    };
    let other = match failure.reason {
        Reason::ConnectFailed | Reason::ConnectTimeout | Reason::UpstreamTls => {
            pick_open(downstream, route, &client, Some(first.addr))
        }
        _ => None,
    };
    let (other, passage) = other.ok_or(failure)?;
    admit(downstream, draft, (other, &passage), request)?;
    draft.tries(other);
    acquire(downstream, route, other.addr, speech, source).await
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
    draft.upstream_tls = upstream.secured().cloned();
    if upstream.is_stream() && !request.body().is_end_stream() {
        downstream.deadline.shared();
    }
    let began = Instant::now();
    draft.upstream_began = Some(began);
    downstream.await_answer(began, route.timeouts.response_head);
    let sent = downstream.deadline.guard(upstream.send(request, &downstream.muffle)).await;
    draft.upstream_ended = Some(Instant::now());
    Ok(sent?.map(|response| (response, upstream)))
}

/// What can be sent again if the endpoint does not answer: a request without a body.
fn spare_copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    request.body().is_end_stream().then(|| {
        let mut copy = Request::new(RequestBody::Empty);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        copy.headers_mut().clone_from(request.headers());
        *copy.extensions_mut() = request.extensions().clone();
        copy
    })
}

fn send_failure(downstream: &Downstream, failed: &SendError) -> Failure {
    let reason = match (downstream.refusal(), failed.refusal) {
        (Some(refusal), _) if downstream.request_body_has_failed() => {
            return Failure::new(Reason::BadRequest, &refusal);
        }
        _ if downstream.request_body_has_failed() => Reason::DownstreamReset,
        (_, Some(refusal)) => return Failure::new(Reason::UpstreamProtocol, &refusal),
        _ if failed.error.is_parse() || upstream::is_bad_answer(&failed.error) => Reason::UpstreamProtocol,
        _ => Reason::UpstreamReset,
    };
    Failure::new(reason, &failed.error)
}

/// A 101: from here on the connection is another protocol's, for as long as both sides like.
fn switches(
    downstream: &Downstream,
    draft: &mut Draft,
    (response, upstream): (Response<Incoming>, Box<Upstream>),
    asked: Option<&upgrade::Asked>,
) -> Result<(http::response::Parts, Incoming, Box<Upstream>), Failure> {
    let (mut head, body) = response.into_parts();
    let token = upgrade::agreed(&head.headers, asked).map_err(|why| {
        downstream.relay.observer.metrics.bad_answer(admission::Oddity::Status);
        Failure::new(Reason::UpstreamProtocol, &why)
    })?;
    if downstream.relay.drain.is_leaving() {
        // hyper says so in the answer, which then is none to an upgrade.
        return Err(Reason::Draining.into());
    }
    draft.answer_head = draft.upstream_ended;
    draft.status = head.status.as_u16();
    fields::strip_hop_by_hop(&mut head.headers, Message::Answer);
    upgrade::tell(&mut head, token);
    head.version = Version::HTTP_11;
    downstream.deadline.exempt();
    downstream.deadline.no_stage();
    Ok((head, body, upstream))
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
    if upstream.is_stream()
        && let Some(refusal) = admission::http2::answer(head.status)
    {
        downstream.relay.observer.metrics.bad_answer(refusal.oddity);
        return Err(Failure::new(Reason::UpstreamProtocol, &refusal));
    }
    draft.answer_head = draft.upstream_ended;
    draft.status = head.status.as_u16();
    draft.grpc_status = grpc::Status::of(&head.headers);
    let announced = trailers::announced(&head.headers).filter(|_| downstream.passes_trailers());
    fields::strip_hop_by_hop(&mut head.headers, Message::Answer);
    head.headers.extend(announced.map(|names| (header::TRAILER, names)));
    head.version = Version::HTTP_11;
    let length = body.size_hint().exact();
    let whole = length.map(|body| body.saturating_add(head_size(&head.headers) as u64));
    if whole.is_none_or(|size| size > downstream.relay.settings.answer_cap) {
        downstream.leave_map();
    }
    if length.is_none_or(|length| length > STREAMS) && !draft.is_call() {
        downstream.deadline.exempt();
    }
    if downstream.request_completed_at().is_none() {
        upstream.drive_apart();
    }
    downstream.deadline.stage(Reason::ResponseBodyIdle, timeouts.response_body_idle);
    Ok((head, body, upstream))
}

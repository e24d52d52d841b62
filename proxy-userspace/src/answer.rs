//! Answers of our own: short, and they name the reason.

use crate::{
    admission::{Oddity, Refusal},
    body::AnswerBody,
    downstream::Downstream,
    flow::Reason,
    grpc,
    record::{Failure, OpenRequest},
    snapshot::Cluster,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

/// The answer to a request that failed. The connection ends with it where part of the request has
/// not been read, or where its client is not understood.
pub(crate) fn local(open: OpenRequest, failure: Failure) -> Response<AnswerBody> {
    if failure.reason == Reason::BadRequest && open.downstream().refusal().is_none() {
        let oddity = failure.oddity.unwrap_or(Oddity::Ambiguous);
        open.downstream().relay.observer.metrics.bad_request(oddity);
    }
    let status = failure.oddity.map_or(failure.reason.status(), Oddity::status);
    failed(open, failure, status)
}

/// The answer to a request that is not admitted, whose oddity has been counted.
pub(crate) fn refused(open: OpenRequest, refusal: Refusal) -> Response<AnswerBody> {
    failed(open, refusal.into(), refusal.oddity.status())
}

fn failed(mut open: OpenRequest, failure: Failure, status: u16) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let cluster = open.draft().cluster.clone();
    let text = text(failure.reason, cluster.as_deref(), open.downstream());
    let is_odd = failure.reason == Reason::BadRequest;
    let draft = open.draft();
    draft.status = status.as_u16();
    draft.failure = Some(failure);
    // What was late has been dealt with.
    open.downstream().deadline.exempt();
    open.downstream().deadline.no_stage();
    let ends = open.downstream().request_completed_at().is_none() || is_odd;
    let mut response = if open.draft().is_call() {
        call_failed(open, &text)
    } else {
        let mut response = Response::new(AnswerBody::local(text, open));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    };
    let headers = response.headers_mut();
    if ends {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The same for a call by gRPC: 200, and what went wrong is in its fields.
fn call_failed(mut open: OpenRequest, text: &str) -> Response<AnswerBody> {
    let draft = open.draft();
    let reason = draft.failure.as_ref().map_or(Reason::UpstreamProtocol, |failure| failure.reason);
    let status = grpc::Status::for_reason(reason);
    draft.status = StatusCode::OK.as_u16();
    draft.grpc_status = Some(status);
    let mut response = Response::new(AnswerBody::local(String::new(), open));
    *response.headers_mut() = grpc::failure(status, text);
    response
}

/// The answer that a rule has for a request. The connection ends with it where part of the request has not
/// been read.
pub(crate) fn own(mut open: OpenRequest, status: StatusCode, fields: HeaderMap) -> Response<AnswerBody> {
    open.draft().status = status.as_u16();
    open.downstream().deadline.exempt();
    open.downstream().deadline.no_stage();
    let ends = open.downstream().request_completed_at().is_none();
    let mut response = Response::new(AnswerBody::local(String::new(), open));
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    if ends {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// For a request whose client saw at most part of an answer, with this status: only its record counts.
pub(crate) fn unseen(mut open: OpenRequest, failure: Failure, status: u16) -> Response<AnswerBody> {
    let draft = open.draft();
    draft.status = status;
    draft.failure = Some(failure);
    let mut response = Response::new(AnswerBody::local(String::new(), open));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The same, as bytes, for a request whose head never became complete.
pub(crate) fn raw(status: StatusCode, text: &str) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{text}",
        status.as_u16(),
        text.len(),
    )
    .into_bytes()
}

/// One line: what went wrong, and with what. A denial says no more than Cilium's proxy does.
pub(crate) fn text(reason: Reason, cluster: Option<&Cluster>, downstream: &Downstream) -> String {
    if reason == Reason::PolicyDenied {
        return "Access denied\r\n".to_owned();
    }
    match cluster {
        Some(cluster) => format!("{}: {}\n", phrase(reason), cluster.name),
        None => format!("{}: {}\n", phrase(reason), downstream.orig_dst.0),
    }
}

fn phrase(reason: Reason) -> &'static str {
    match reason {
        Reason::NoEndpoint => "no ready endpoint",
        Reason::ConnectFailed => "upstream connect failed",
        Reason::ConnectTimeout => "upstream connect timeout",
        Reason::UpstreamTls => "no TLS session with the upstream",
        Reason::RequestHeadTimeout => "request head timeout",
        Reason::RequestBodyIdle => "request body timeout",
        Reason::ResponseHeadTimeout => "upstream response timeout",
        Reason::RequestTimeout => "request timeout",
        Reason::ResponseBodyIdle => "upstream response body timeout",
        Reason::ResponseBodySlow => "upstream response body comes too slowly",
        Reason::LoopDetected => "the request has passed here too often",
        Reason::TunnelIdle => "silence on both sides",
        Reason::WriteIdle => "the answer is not taken",
        Reason::UpstreamReset => "upstream closed before its response was complete",
        Reason::UpstreamProtocol => "upstream response is not valid HTTP",
        Reason::DownstreamReset => "request was broken off",
        Reason::BadRequest => "request is not valid HTTP",
        Reason::Draining => "the node agent is stopping",
        Reason::NoRoute => "no route",
        Reason::RouteInvalid => "the route is not valid",
        Reason::PolicyDenied => "access denied",
        Reason::Misdirected => "this connection is for another host",
        // Never told: there is nobody yet who could read it.
        Reason::TlsHandshake | Reason::TlsTimeout => "no TLS session",
    }
}

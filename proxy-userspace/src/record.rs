//! The record of a request while it is being made.

use crate::{
    admission::{Oddity, Refusal},
    balance::random,
    downstream::Downstream,
    flow::{LaneLabel, Reason, RequestRecord},
    grpc,
    policy::{Asked, Outcome, Passage, Rule},
    snapshot::{Cluster, Endpoint, Snapshot},
    tls::Secured,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{HOST, USER_AGENT},
};
use std::{net::SocketAddr, sync::Arc, time::SystemTime};
use tokio::time::Instant;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Why an exchange failed, and the error below.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) error: Option<String>,
    /// What is odd about a request that its route does not admit.
    pub(crate) oddity: Option<Oddity>,
}

impl Failure {
    pub(crate) fn new(reason: Reason, error: &dyn std::fmt::Display) -> Self {
        Self { reason, error: Some(error.to_string()), oddity: None }
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, error: None, oddity: None }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { oddity: Some(refusal.oddity), ..Self::new(Reason::BadRequest, &refusal) }
    }
}

/// What is known so far. Header values are shared with the request's own buffer; they become text
/// only in [`Draft::report`], when the client has its answer.
pub(crate) struct Draft {
    method: Method,
    uri: Uri,
    protocol: &'static str,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
    forwarded_for: Option<HeaderValue>,
    first_byte: Instant,
    head_complete: Instant,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) route: Option<Arc<str>>,
    /// The name that a tunnelled client asks its server for.
    pub(crate) server_name: Option<Box<str>>,
    endpoint: Option<(SocketAddr, Option<Arc<str>>)>,
    policy_rule: Option<Arc<str>>,
    /// The policies in audit mode that would have denied it.
    audit: Option<Arc<str>>,
    pub(crate) attempts: u32,
    pub(crate) status: u16,
    /// The request is a call by gRPC.
    is_call: bool,
    pub(crate) grpc_status: Option<grpc::Status>,
    pub(crate) failure: Option<Failure>,
    pub(crate) lane: LaneLabel,
    pub(crate) upstream_tls: Option<Arc<Secured>>,
    pub(crate) bytes_sent: u64,
    pub(crate) answer_head: Option<Instant>,
    pub(crate) upstream_began: Option<Instant>,
    pub(crate) upstream_ended: Option<Instant>,
    bytes_received: u64,
    request_completed: Option<Instant>,
}

impl Draft {
    /// A request whose head has been read.
    pub(crate) fn of_request<B>(request: &Request<B>, first_byte: Instant) -> Self {
        let field = |name| request.headers().get(name).cloned();
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            protocol: match request.version() {
                Version::HTTP_10 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2",
                _ => "HTTP/1.1",
            },
            host: field(HOST),
            user_agent: field(USER_AGENT),
            request_id: field(X_REQUEST_ID),
            traceparent: field(TRACEPARENT),
            forwarded_for: field(X_FORWARDED_FOR),
            is_call: grpc::is_call(request.headers()),
            ..Self::of_nothing("HTTP/1.1", first_byte)
        }
    }

    /// A head that never parsed, or an opaque connection.
    pub(crate) fn of_nothing(protocol: &'static str, first_byte: Instant) -> Self {
        Self {
            method: unknown_method(),
            uri: Uri::default(),
            protocol,
            host: None,
            user_agent: None,
            request_id: None,
            traceparent: None,
            forwarded_for: None,
            first_byte,
            head_complete: Instant::now(),
            cluster: None,
            route: None,
            server_name: None,
            endpoint: None,
            policy_rule: None,
            audit: None,
            attempts: 0,
            status: 0,
            is_call: false,
            grpc_status: None,
            failure: None,
            lane: LaneLabel::Plain,
            upstream_tls: None,
            bytes_sent: 0,
            answer_head: None,
            upstream_began: None,
            upstream_ended: None,
            bytes_received: 0,
            request_completed: None,
        }
    }

    /// Bytes of the request's body, or of all that an opaque client sent.
    pub(crate) fn received(&mut self, bytes: u64, completed: Option<Instant>) {
        self.bytes_received = bytes;
        self.request_completed = completed;
    }

    /// The connection is from now on no longer HTTP.
    pub(crate) fn upgraded(&mut self, protocol: &'static str) {
        self.protocol = protocol;
    }

    /// Some of the answer's body has been passed on.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes_sent = self.bytes_sent.saturating_add(bytes as u64);
    }

    /// What the request came by: `HTTP/1.1`.
    pub(crate) fn protocol(&self) -> &'static str {
        self.protocol
    }

    /// The client speaks HTTP/1.0: an answer may end with the connection.
    pub(crate) fn is_http_10(&self) -> bool {
        self.protocol == "HTTP/1.0"
    }

    /// The request is a call by gRPC: failures are told as it wants them told.
    pub(crate) fn is_call(&self) -> bool {
        self.is_call
    }

    /// The endpoint that is tried now.
    pub(crate) fn tries(&mut self, endpoint: &Endpoint) {
        self.attempts = self.attempts.saturating_add(1);
        self.endpoint = Some((endpoint.addr, endpoint.workload.clone()));
    }

    /// The endpoint that has the request already; it may have left the configuration meanwhile.
    pub(crate) fn tries_at(&mut self, addr: SocketAddr, cluster: &Cluster) {
        match cluster.endpoints.iter().find(|endpoint| endpoint.addr == addr) {
            Some(endpoint) => self.tries(endpoint),
            None => {
                self.attempts = self.attempts.saturating_add(1);
                self.endpoint = Some((addr, None));
            }
        }
    }

    /// Decides whether policies let this request pass to the endpoint that was picked; `head` is what the
    /// endpoint would get. Returns the rules that allow it.
    pub(crate) fn admit<B>(
        &mut self,
        (endpoint, passage): (&Endpoint, &Passage),
        head: &Request<B>,
    ) -> Result<Vec<Arc<Rule>>, Failure> {
        self.endpoint = Some((endpoint.addr, endpoint.workload.clone()));
        if let Passage::Open(open) = passage
            && open.audits.is_empty()
        {
            self.policy_rule.clone_from(&open.rule);
            return Ok(Vec::new());
        }
        let asked = Asked {
            method: head.method(),
            uri: head.uri(),
            version: head.version(),
            host: head.headers().get(HOST),
            hosts: head.headers().get_all(HOST).iter().count(),
            fields: head.headers(),
        };
        let (name, outcome) = match passage.decide(&asked) {
            Outcome::Allow(rules) => {
                self.audit = passage.audited(&asked);
                let open = if let Passage::Open(open) = passage { open.rule.clone() } else { None };
                (rules.last().map(|rule| Arc::clone(&rule.name)).or(open), Ok(rules))
            }
            Outcome::Deny(name) => (Some(name), Err(Reason::PolicyDenied.into())),
            Outcome::Ambiguous(name, why) => (Some(name), Err(Failure::new(Reason::BadRequest, &why))),
        };
        self.policy_rule = name;
        outcome
    }

    /// Decides about bytes that are not HTTP: policies that have HTTP rules let none pass.
    pub(crate) fn admit_opaque(&mut self, endpoint: &Endpoint, passage: &Passage) -> Result<(), Failure> {
        self.endpoint = Some((endpoint.addr, endpoint.workload.clone()));
        let (name, allowed) = match passage {
            Passage::Open(open) => {
                self.audit = passage.audits_connection();
                (open.rule.clone(), true)
            }
            Passage::Closed { policies } => (Some(Arc::clone(policies)), false),
            Passage::Requests(policies, _) => (policies.first().map(|one| Arc::clone(&one.name)), false),
        };
        self.policy_rule = name;
        if allowed { Ok(()) } else { Err(Reason::PolicyDenied.into()) }
    }

    /// Tells the metrics and the log. `fault` is what happened to the connection, if anything.
    pub(crate) fn report(mut self: Box<Self>, downstream: &Downstream, fault: Option<&Failure>) {
        if self.failure.is_none() {
            self.failure = fault.cloned();
        }
        let snapshot = downstream.relay.snapshot.load();
        let record = self.record(downstream, &snapshot);
        #[cfg(test)]
        downstream.relay.records.lock().push(record.clone());
        downstream.relay.observer.request(record);
    }

    fn record(self: Box<Self>, downstream: &Downstream, snapshot: &Snapshot) -> RequestRecord {
        let duration = self.first_byte.elapsed();
        let since_head = |at: Instant| at.saturating_duration_since(self.head_complete);
        let (reason, error) = match self.failure {
            Some(failure) => (Some(failure.reason), failure.error),
            None => (None, None),
        };
        let unknown = || Arc::clone(&downstream.relay.unknown_workload);
        let upstream_host = self.endpoint.as_ref().map(|(addr, _)| *addr);
        let destination = self.endpoint.and_then(|(_, workload)| workload);
        RequestRecord {
            start: SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH),
            method: self.method,
            path: if matches!(self.protocol, "TCP" | "TLS") { String::new() } else { self.uri.to_string() },
            protocol: self.protocol,
            authority: self.host.as_ref().map(text),
            status: self.status,
            grpc_status: self.grpc_status.filter(|_| self.is_call),
            reason,
            error,
            cluster: self.cluster.as_ref().map(|cluster| Arc::clone(&cluster.name)),
            route: self.route,
            policy_rule: self.policy_rule,
            policy_audit: self.audit,
            lane: self.lane,
            bytes_received: self.bytes_received,
            bytes_sent: self.bytes_sent,
            duration,
            request_duration: self.request_completed.map(|at| at.saturating_duration_since(self.first_byte)),
            response_duration: self.answer_head.map(since_head),
            time_to_first_byte: self.answer_head.map(|at| at.saturating_duration_since(self.first_byte)),
            upstream_duration: self
                .upstream_began
                .zip(self.upstream_ended)
                .map(|(began, ended)| ended.saturating_duration_since(began)),
            upstream_host,
            attempts: self.attempts,
            downstream: downstream.asker(),
            orig_dst: downstream.orig_dst.0,
            source_workload: downstream.workload(snapshot),
            destination_workload: destination.unwrap_or_else(unknown),
            cgroup_id: downstream.identity.as_ref().map_or(0, |steered| steered.cgroup_id),
            request_id: self.request_id.as_ref().map_or_else(new_request_id, text),
            traceparent: self.traceparent.as_ref().map(text),
            user_agent: self.user_agent.as_ref().map(text),
            x_forwarded_for: self.forwarded_for.as_ref().map(text),
            tls: downstream.wire.secured().cloned(),
            upstream_tls: self.upstream_tls,
            server_name: self.server_name,
        }
    }
}

/// A request without an end yet: gives its record to the connection when it is dropped, whatever
/// drops it.
pub(crate) struct OpenRequest {
    /// There until this is dropped.
    draft: Option<Box<Draft>>,
    downstream: Arc<Downstream>,
    complete: bool,
}

impl OpenRequest {
    pub(crate) fn new(draft: Box<Draft>, downstream: Arc<Downstream>) -> Self {
        Self { draft: Some(draft), downstream, complete: false }
    }

    pub(crate) fn draft(&mut self) -> &mut Draft {
        let downstream = &self.downstream;
        self.draft.get_or_insert_with(|| Box::new(Draft::of_nothing("-", downstream.first_byte())))
    }

    pub(crate) fn downstream(&self) -> &Arc<Downstream> {
        &self.downstream
    }

    /// The request ends elsewhere.
    pub(crate) fn take(&mut self) -> Option<Box<Draft>> {
        self.draft.take()
    }

    /// The answer has been handed to hyper to its last byte.
    pub(crate) fn completes(&mut self) {
        self.complete = true;
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let Some(mut draft) = self.draft.take() else { return };
        if !self.complete && draft.failure.is_none() {
            draft.failure = Some(self.downstream.why_it_broke_off());
        }
        let completed = self.downstream.request_completed_at();
        draft.received(self.downstream.request_body_bytes(), completed);
        self.downstream.request_ends(draft, Instant::now());
    }
}

/// `-`, as the record says where there is no method.
fn unknown_method() -> Method {
    Method::from_bytes(b"-").unwrap_or_default()
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

pub(crate) fn new_request_id() -> String {
    format!("{:016x}{:016x}", random(), random())
}

/// Whether a request without a body may be sent again without harm (RFC 9110 section 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE
    )
}

/// The length of a message's head, roughly: exact but for the first line's constant parts.
pub(crate) fn head_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() + 32
}

//! Lines of requests that the kernel half carried. It hands over the pair as it was when the answer was
//! complete, with the request's head; what it does not know of the connection is remembered here.

use crate::{
    accesslog::AccessLog,
    datapath::now_ns,
    downstream::Downstream,
    flow::{LaneLabel, RequestRecord},
    metrics::{Metrics, Series},
    policy::{EndpointPolicy, Passage},
    record::new_request_id,
};
use http::Method;
use parking_lot::Mutex;
use proxy_common::{
    addr::ip_of,
    flow::FlowKey,
    head::FIELDS_MAX,
    pair::{HEAD_MAX, Pair},
};
use std::{
    collections::{HashMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// How long a connection is remembered that has ended: records of it may still lie in the ring buffer.
const LINGER: Duration = Duration::from_secs(1);
/// Connections that have ended and are remembered; beyond, the oldest are forgotten early.
const PARTED_MAX: usize = 65_536;
/// Policies of a connection that are remembered: records may be older than the newest.
const POLICIES_MAX: usize = 4;

/// What a line says of the connection.
#[derive(Clone, Debug)]
struct Connection {
    orig_dst: SocketAddr,
    cgroup_id: u64,
    /// The newest last.
    policies: Vec<Arc<EndpointPolicy>>,
    /// The rule that allows every byte, where one does.
    open: Option<Arc<str>>,
    /// When it ended.
    parted: Option<Instant>,
}

impl Connection {
    fn rule(&self, id: u32) -> Option<Arc<str>> {
        if id == 0 {
            return self.open.clone();
        }
        let mut rules = self.policies.iter().rev().flat_map(|policy| &policy.rules);
        rules.find(|rule| rule.id == id).map(|rule| Arc::clone(&rule.name))
    }
}

/// Connections by the client's socket.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_client: HashMap<FlowKey, Connection>,
    parted: VecDeque<(Instant, FlowKey)>,
}

impl Known {
    fn arm(
        &mut self,
        client: FlowKey,
        orig_dst: SocketAddr,
        cgroup_id: u64,
        (policy, open): (Option<Arc<EndpointPolicy>>, Option<Arc<str>>),
    ) {
        let new = || Connection { orig_dst, cgroup_id, policies: Vec::new(), open: None, parted: None };
        let known = self.by_client.entry(client).or_insert_with(new);
        if known.parted.is_some() {
            // The same addresses and ports again.
            *known = new();
        }
        known.open = open;
        let Some(policy) = policy else { return };
        if known.policies.last().is_some_and(|last| Arc::ptr_eq(last, &policy)) {
            return;
        }
        if known.policies.len() >= POLICIES_MAX {
            known.policies.remove(0);
        }
        known.policies.push(policy);
    }

    fn part(&mut self, client: &FlowKey, now: Instant) {
        let Some(known) = self.by_client.get_mut(client) else { return };
        known.parted = Some(now);
        self.parted.push_back((now, *client));
        while let Some((when, client)) =
            self.parted.pop_front_if(|(when, _)| now.saturating_duration_since(*when) > LINGER)
        {
            self.forget(when, &client);
        }
        while self.parted.len() > PARTED_MAX {
            let Some((when, client)) = self.parted.pop_front() else { return };
            self.forget(when, &client);
        }
    }

    fn forget(&mut self, when: Instant, client: &FlowKey) {
        if self.by_client.get(client).is_some_and(|known| known.parted == Some(when)) {
            self.by_client.remove(client);
        }
    }
}

impl AccessLog {
    /// The connection's requests may be carried from now on, as far as this allows.
    pub(crate) fn arms(&self, downstream: &Downstream, passage: &Passage) {
        let Some(queue) = &self.queue else { return };
        let open = if let Passage::Open(open) = passage { open.rule.clone() } else { None };
        let policy = passage.for_kernel().flatten().cloned();
        let cgroup_id = downstream.identity.as_ref().map_or(0, |steered| steered.cgroup_id);
        let mut known = queue.connections.0.lock();
        known.arm(downstream.client_key(), downstream.orig_dst.0, cgroup_id, (policy, open));
    }

    /// The connection has ended.
    pub(crate) fn parts(&self, client: &FlowKey) {
        let Some(queue) = &self.queue else { return };
        queue.connections.0.lock().part(client, Instant::now());
    }

    /// The kernel half has carried an exchange.
    pub(crate) fn carried(&self, pair: &Pair, metrics: &Metrics) {
        let Some(queue) = &self.queue else { return };
        let connection = queue.connections.0.lock().by_client.get(&pair.client).cloned();
        self.write_patiently(record(pair, connection.as_ref(), &metrics.series_of(pair.series)));
    }
}

/// What the head says, as far as a line has room for it.
#[derive(Default)]
struct Asked {
    method: Method,
    path: String,
    host: Option<String>,
    user_agent: Option<String>,
    request_id: Option<String>,
    traceparent: Option<String>,
    forwarded_for: Option<String>,
}

impl Asked {
    fn parse(head: &[u8]) -> Self {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX as usize];
        let mut request = httparse::Request::new(&mut fields);
        // The kernel half's scanner has read it: what it takes, this takes.
        if let Err(error) = request.parse(head) {
            tracing::debug!(%error, "the head of a carried request");
        }
        let field = |name: &str| {
            let found = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            found.map(|field| String::from_utf8_lossy(field.value).into_owned())
        };
        Self {
            method: request.method.and_then(|name| name.parse().ok()).unwrap_or_default(),
            path: request.path.unwrap_or_default().to_owned(),
            host: field("host"),
            user_agent: field("user-agent"),
            request_id: field("x-request-id"),
            traceparent: field("traceparent"),
            forwarded_for: field("x-forwarded-for"),
        }
    }
}

fn record(pair: &Pair, connection: Option<&Connection>, series: &Series) -> RequestRecord {
    let head_length = (pair.request_head as usize).min(HEAD_MAX);
    let asked = Asked::parse(pair.head.0.get(..head_length).unwrap_or_default());
    let since_start = |ns: u64| Duration::from_nanos(ns.saturating_sub(pair.started_ns));
    let (duration, first_byte) = (since_start(pair.moved_ns), since_start(pair.answered_ns));
    let body = pair.request_bytes.saturating_sub(pair.request_head);
    let ago = Duration::from_nanos(now_ns().saturating_sub(pair.started_ns));
    RequestRecord {
        start: SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
        method: asked.method,
        path: asked.path,
        protocol: "HTTP/1.1",
        authority: asked.host,
        status: u16::try_from(pair.status).unwrap_or_default(),
        grpc_status: None,
        reason: None,
        error: None,
        cluster: Some(Arc::clone(&series.route)),
        route: None,
        policy_rule: connection.and_then(|known| known.rule(pair.rule)),
        // Such connections are not lent to the kernel half.
        policy_audit: None,
        lane: LaneLabel::Splice,
        bytes_received: body.into(),
        bytes_sent: pair.answer_bytes.saturating_sub(pair.answer_head).into(),
        duration,
        // An endpoint may answer before it has the whole request.
        request_duration: (pair.asked_ns != 0).then(|| since_start(pair.asked_ns)),
        response_duration: Some(first_byte),
        time_to_first_byte: Some(first_byte),
        upstream_duration: Some(duration),
        upstream_host: Some(SocketAddr::new(ip_of(&pair.endpoint.local), pair.endpoint.local_port)),
        attempts: 1,
        downstream: SocketAddr::new(ip_of(&pair.client.local), pair.client.local_port),
        orig_dst: connection.map_or((Ipv4Addr::UNSPECIFIED, 0).into(), |known| known.orig_dst),
        source_workload: Arc::clone(&series.source),
        destination_workload: Arc::clone(&series.destination),
        cgroup_id: connection.map_or(0, |known| known.cgroup_id),
        request_id: asked.request_id.unwrap_or_else(new_request_id),
        traceparent: asked.traceparent,
        user_agent: asked.user_agent,
        x_forwarded_for: asked.forwarded_for,
        // TLS is never carried by the kernel half.
        tls: None,
        upstream_tls: None,
        server_name: None,
    }
}

#[cfg(test)]
mod tests;

//! One record per request and per opaque connection: what the metrics count and the log prints.
//! The stages of the relay fill it in; nothing else describes an outcome.

use crate::{accesslog::AccessLog, grpc, metrics::Metrics, tls::Secured};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Why Weir answered by itself or cut an exchange short: the one list of reasons (invariant I8).
/// Each has its response flag (Envoy's names), the status a client sees and a metric label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// The cluster has no ready endpoint.
    NoEndpoint,
    /// TCP connect to the endpoint was refused or unreachable.
    ConnectFailed,
    /// TCP connect to the endpoint took too long.
    ConnectTimeout,
    /// The endpoint has not proved who it is, or speaks no TLS.
    UpstreamTls,
    /// The request's head was not complete in time.
    RequestHeadTimeout,
    /// The request's body was silent for too long.
    RequestBodyIdle,
    /// The endpoint's answer did not begin in time (per try).
    ResponseHeadTimeout,
    /// The whole request took too long.
    RequestTimeout,
    /// The answer's body was silent for too long.
    ResponseBodyIdle,
    /// The answer's body, whose length is known, came too slowly.
    ResponseBodySlow,
    /// Nothing moved on a connection that is not HTTP, or not any more, for too long.
    TunnelIdle,
    /// The client took nothing of its answer for too long.
    WriteIdle,
    /// The endpoint closed or reset before its answer was complete.
    UpstreamReset,
    /// The endpoint answered something that is not HTTP.
    UpstreamProtocol,
    /// The client went away first.
    DownstreamReset,
    /// The client sent something that is not HTTP after all.
    BadRequest,
    /// The agent is leaving.
    Draining,
    /// No route: the original destination is in no Service any more, or no rule is for the request.
    NoRoute,
    /// The request's rule refers to what it may not, or to what is no backend.
    RouteInvalid,
    /// No rule of the endpoint's policy allows it.
    PolicyDenied,
    /// No TLS session came about: one side did not want, or nobody has a certificate for the name.
    TlsHandshake,
    /// The TLS handshake took too long.
    TlsTimeout,
    /// The connection's TLS session was made for another host (RFC 9110 section 15.5.20).
    Misdirected,
    /// The request has passed here too often already (RFC 5842 section 7.2).
    LoopDetected,
}

impl Reason {
    /// All of them, for tables and tests.
    pub const ALL: [Self; 24] = [
        Self::NoEndpoint,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::UpstreamTls,
        Self::RequestHeadTimeout,
        Self::RequestBodyIdle,
        Self::ResponseHeadTimeout,
        Self::RequestTimeout,
        Self::ResponseBodyIdle,
        Self::ResponseBodySlow,
        Self::TunnelIdle,
        Self::WriteIdle,
        Self::UpstreamReset,
        Self::UpstreamProtocol,
        Self::DownstreamReset,
        Self::BadRequest,
        Self::Draining,
        Self::NoRoute,
        Self::RouteInvalid,
        Self::PolicyDenied,
        Self::TlsHandshake,
        Self::TlsTimeout,
        Self::Misdirected,
        Self::LoopDetected,
    ];

    /// Envoy's response flag, for `response_flags` in the access log.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        match self {
            Self::NoEndpoint => "UH",
            Self::ConnectFailed | Self::ConnectTimeout | Self::UpstreamTls => "UF",
            Self::ResponseHeadTimeout
            | Self::RequestTimeout
            | Self::ResponseBodyIdle
            | Self::ResponseBodySlow => "UT",
            Self::TunnelIdle | Self::WriteIdle => "SI",
            Self::UpstreamReset => "UC",
            Self::UpstreamProtocol => "UPE",
            Self::DownstreamReset => "DC",
            Self::RequestHeadTimeout
            | Self::RequestBodyIdle
            | Self::BadRequest
            | Self::TlsHandshake
            | Self::TlsTimeout => "DPE",
            Self::Draining => "LR",
            Self::NoRoute | Self::Misdirected | Self::LoopDetected => "NR",
            Self::RouteInvalid => "NC",
            Self::PolicyDenied => "UAEX",
        }
    }

    /// The label value (`error_type` in metrics, `response_code_details` in the log).
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamTls => "upstream_tls",
            Self::RequestHeadTimeout => "request_head_timeout",
            Self::RequestBodyIdle => "request_body_idle",
            Self::ResponseHeadTimeout => "response_head_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::ResponseBodyIdle => "response_body_idle",
            Self::ResponseBodySlow => "response_body_slow",
            Self::TunnelIdle => "tunnel_idle",
            Self::WriteIdle => "write_idle",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamProtocol => "upstream_protocol",
            Self::DownstreamReset => "downstream_reset",
            Self::BadRequest => "bad_request",
            Self::Draining => "draining",
            Self::NoRoute => "no_route",
            Self::RouteInvalid => "route_invalid",
            Self::PolicyDenied => "policy_denied",
            Self::TlsHandshake => "tls_handshake",
            Self::TlsTimeout => "tls_timeout",
            Self::Misdirected => "misdirected",
            Self::LoopDetected => "loop_detected",
        }
    }

    /// The status of the local answer; 0 where none can be sent any more.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NoEndpoint
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::UpstreamTls
            | Self::Draining => 503,
            Self::RequestHeadTimeout | Self::RequestBodyIdle => 408,
            Self::ResponseHeadTimeout | Self::RequestTimeout => 504,
            Self::UpstreamReset | Self::UpstreamProtocol => 502,
            Self::BadRequest => 400,
            Self::PolicyDenied => 403,
            Self::NoRoute => 404,
            Self::RouteInvalid => 500,
            Self::Misdirected => 421,
            Self::LoopDetected => 508,
            Self::ResponseBodyIdle
            | Self::ResponseBodySlow
            | Self::TunnelIdle
            | Self::WriteIdle
            | Self::DownstreamReset
            | Self::TlsHandshake
            | Self::TlsTimeout => 0,
        }
    }
}

/// How the bytes of a request travelled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LaneLabel {
    /// The kernel half, from the client's socket into the endpoint's.
    Splice,
    /// hyper on both sides, at least one hop redirected by sk_msg.
    Relay,
    /// hyper on both sides, ordinary TCP on both hops.
    Plain,
    /// Not HTTP: tunnelled.
    Opaque,
}

impl LaneLabel {
    /// The label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Splice => "splice",
            Self::Relay => "relay",
            Self::Plain => "plain",
            Self::Opaque => "opaque",
        }
    }
}

/// Everything known about one request when it has ended, however it ended.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// When its first byte was read.
    pub start: SystemTime,
    /// Request method; `-` for an opaque connection or a head that never parsed.
    pub method: http::Method,
    /// The request target as received.
    pub path: String,
    /// `HTTP/2`, `HTTP/1.1`, `HTTP/1.0`; `WebSocket`, or `Upgrade` for another protocol, where the connection was
    /// made into a tunnel; `TCP`, or `TLS` where no session came about.
    pub protocol: &'static str,
    /// The Host field.
    pub authority: Option<String>,
    /// The status that the client saw; 0 where it saw none.
    pub status: u16,
    /// How the call ended, where the request was one by gRPC and its end is known.
    pub grpc_status: Option<grpc::Status>,
    /// Why, where the endpoint's own complete answer was not the outcome.
    pub reason: Option<Reason>,
    /// The error below it, for the log.
    pub error: Option<String>,
    /// `namespace/service:port`.
    pub cluster: Option<Arc<str>>,
    /// The rule that led there, of a Gateway or an Ingress; a Service's own route has the cluster's name.
    pub route: Option<Arc<str>>,
    /// The rule that allowed it, or the policies that denied it; absent where there is no policy.
    pub policy_rule: Option<Arc<str>>,
    /// The policies in audit mode that would have denied it.
    pub policy_audit: Option<Arc<str>>,
    /// How the bytes travelled.
    pub lane: LaneLabel,
    /// Request body bytes.
    pub bytes_received: u64,
    /// Response body bytes.
    pub bytes_sent: u64,
    /// From first byte read to last byte written.
    pub duration: Duration,
    /// From first byte read to the request's last byte.
    pub request_duration: Option<Duration>,
    /// From the request's head to the answer's head.
    pub response_duration: Option<Duration>,
    /// From first byte read to the first byte of the endpoint's answer, where there was one.
    pub time_to_first_byte: Option<Duration>,
    /// Time that the endpoint took, as `http_client_request_duration_seconds` counts it.
    pub upstream_duration: Option<Duration>,
    /// The endpoint that answered, or was tried last.
    pub upstream_host: Option<SocketAddr>,
    /// How many endpoints or connections were tried.
    pub attempts: u32,
    /// The client.
    pub downstream: SocketAddr,
    /// What the client asked for.
    pub orig_dst: SocketAddr,
    /// `namespace/pod` of the client where the snapshot knows its address, else `unknown`.
    pub source_workload: Arc<str>,
    /// `namespace/pod` of the endpoint where the snapshot knows it, else `unknown`.
    pub destination_workload: Arc<str>,
    /// The client's cgroup v2 id; 0 where unknown.
    pub cgroup_id: u64,
    /// The client's `X-Request-Id`, or one of ours.
    pub request_id: String,
    /// The client's `traceparent`.
    pub traceparent: Option<String>,
    /// The client's `User-Agent`.
    pub user_agent: Option<String>,
    /// The client's `X-Forwarded-For`.
    pub x_forwarded_for: Option<String>,
    /// The TLS session that it came in, where it did.
    pub tls: Option<Arc<Secured>>,
    /// The same of the connection to the endpoint.
    pub upstream_tls: Option<Arc<Secured>>,
    /// The server that its client asks for in TLS that is tunnelled.
    pub server_name: Option<Box<str>>,
}

impl RequestRecord {
    /// Its connection was upgraded to another protocol.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        self.status == 101
    }

    /// The reason is what the client was told, in an answer of ours.
    #[must_use]
    pub fn is_own_answer(&self) -> bool {
        let told = |reason: Reason| reason.status() == self.status || self.grpc_status.is_some();
        self.reason.is_some_and(|reason| reason.status() != 0 && told(reason))
    }
}

/// Why the endpoint sees the node's address instead of the client's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AddressFallback {
    /// No kernel half: nobody knows the client's namespace.
    NoIdentity,
    /// The client's process was gone before its namespace could be opened.
    ProcessGone,
    /// setns or socket was refused.
    Refused,
}

impl AddressFallback {
    /// The label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::ProcessGone => "process_gone",
            Self::Refused => "refused",
        }
    }
}

/// Where the relay reports to: counts, and writes the log.
#[derive(Clone, Debug)]
pub struct Observer {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The access log.
    pub access_log: AccessLog,
}

impl Observer {
    /// A request, or an opaque connection, has ended.
    pub fn request(&self, record: RequestRecord) {
        self.metrics.request(&record);
        self.access_log.write(record);
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! One record as one line of JSON, under the keys that operators know from Envoy and Istio.

use crate::{
    flow::{Reason, RequestRecord},
    grpc,
};
use std::{
    fmt::{self, Display, Write},
    time::Duration,
};

/// Bytes of a client's or endpoint's text that are kept, before escaping.
const FIELD_BYTES: usize = 1024;

/// Appends the line, with its end, to `out`.
pub(super) fn append(out: &mut String, record: &RequestRecord) -> fmt::Result {
    let mut line = Line { out, separator: '{' };
    line.plain("start_time", humantime::format_rfc3339_micros(record.start))?;
    line.text("method", record.method.as_str())?;
    line.text("path", &record.path)?;
    line.plain("protocol", record.protocol)?;
    line.optional("authority", record.authority.as_deref())?;
    line.number("response_code", record.status.into())?;
    line.optional("grpc_status", record.grpc_status.map(grpc::Status::label))?;
    line.plain("response_flags", record.reason.map_or("-", Reason::flag))?;
    let endpoints_own = if record.status == 0 { "-" } else { "via_upstream" };
    line.plain("response_code_details", record.reason.map_or(endpoints_own, Reason::label))?;
    line.optional("connection_termination_details", cut_by(record).map(Reason::label))?;
    line.number("bytes_received", record.bytes_received)?;
    line.number("bytes_sent", record.bytes_sent)?;
    line.milliseconds("duration", Some(record.duration))?;
    line.milliseconds("request_duration", record.request_duration)?;
    line.milliseconds("response_duration", record.response_duration)?;
    match record.upstream_host {
        Some(host) => line.plain("upstream_host", host)?,
        None => line.null("upstream_host"),
    }
    line.optional("upstream_cluster", record.cluster.as_deref())?;
    line.number("upstream_request_attempt_count", record.attempts.into())?;
    line.plain("downstream_remote_address", record.downstream)?;
    line.optional("x_forwarded_for", record.x_forwarded_for.as_deref())?;
    line.text("x_request_id", &record.request_id)?;
    line.optional("user_agent", record.user_agent.as_deref())?;
    line.optional("route_name", record.route.as_deref().or(record.cluster.as_deref()))?;
    line.optional("policy_rule", record.policy_rule.as_deref())?;
    line.optional("policy_audit", record.policy_audit.as_deref())?;
    line.optional("traceparent", record.traceparent.as_deref())?;
    line.optional("error", record.error.as_deref())?;
    let tls = record.tls.as_deref();
    line.optional("tls_version", tls.map(|tls| tls.version))?;
    line.optional("tls_cipher", tls.map(|tls| tls.cipher))?;
    line.optional(
        "requested_server_name",
        tls.and_then(|tls| tls.server_name.as_deref()).or(record.server_name.as_deref()),
    )?;
    let peer = tls.and_then(|tls| tls.peer.as_deref());
    line.optional("downstream_peer_subject", peer.map(|peer| &*peer.subject))?;
    line.optional("downstream_peer_uri_san", peer.and_then(|peer| peer.uris.as_deref()))?;
    line.flag("downstream_peer_verified", peer.map(|peer| peer.verified))?;
    let upstream = record.upstream_tls.as_deref();
    line.optional("upstream_tls_version", upstream.map(|tls| tls.version))?;
    line.optional("upstream_tls_cipher", upstream.map(|tls| tls.cipher))?;
    line.plain("lane", record.lane.label())?;
    line.text("source_workload", &record.source_workload)?;
    line.text("destination_workload", &record.destination_workload)?;
    line.number("cgroup_id", record.cgroup_id)?;
    line.plain("orig_dst", record.orig_dst)?;
    out.push_str("}\n");
    Ok(())
}

/// Why the client's connection ended without a complete answer, if it did: the reason came when
/// no answer of ours could be sent (any more).
fn cut_by(record: &RequestRecord) -> Option<Reason> {
    record.reason.filter(|_| !record.is_own_answer())
}

struct Line<'a> {
    out: &'a mut String,
    separator: char,
}

impl Line<'_> {
    fn key(&mut self, key: &str) {
        self.out.push(self.separator);
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
        self.separator = ',';
    }

    fn null(&mut self, key: &str) {
        self.key(key);
        self.out.push_str("null");
    }

    fn number(&mut self, key: &str, value: u64) -> fmt::Result {
        self.key(key);
        write!(self.out, "{value}")
    }

    fn flag(&mut self, key: &str, value: Option<bool>) -> fmt::Result {
        self.key(key);
        match value {
            Some(value) => write!(self.out, "{value}"),
            None => self.out.write_str("null"),
        }
    }

    /// With microseconds as the fraction.
    fn milliseconds(&mut self, key: &str, value: Option<Duration>) -> fmt::Result {
        let Some(value) = value else {
            self.null(key);
            return Ok(());
        };
        self.key(key);
        write!(self.out, "{}.{:03}", value.as_millis(), value.subsec_micros() % 1000)
    }

    /// A string of ours, which needs no escaping.
    fn plain(&mut self, key: &str, value: impl Display) -> fmt::Result {
        self.key(key);
        write!(self.out, "\"{value}\"")
    }

    fn optional(&mut self, key: &str, value: Option<&str>) -> fmt::Result {
        match value {
            Some(value) => return self.text(key, value),
            None => self.null(key),
        }
        Ok(())
    }

    /// A string that came from outside: cut at a character, and nothing in it can end the line,
    /// the string, or move a terminal's cursor.
    fn text(&mut self, key: &str, value: &str) -> fmt::Result {
        self.key(key);
        self.out.push('"');
        let kept = value.get(..value.floor_char_boundary(FIELD_BYTES)).unwrap_or(value);
        // Nearly all is printable ASCII and goes as one piece.
        let mut from = 0;
        for (at, character) in kept.char_indices().filter(|(_, character)| is_special(*character)) {
            self.out.push_str(kept.get(from..at).unwrap_or_default());
            match character {
                '"' | '\\' => self.out.extend(['\\', character]),
                _ => write!(self.out, "\\u{:04x}", u32::from(character))?,
            }
            from = at + character.len_utf8();
        }
        self.out.push_str(kept.get(from..).unwrap_or_default());
        self.out.push('"');
        Ok(())
    }
}

/// What has a meaning to JSON, to those who split at lines, or to a terminal.
const fn is_special(character: char) -> bool {
    matches!(character, '"' | '\\' | '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests;

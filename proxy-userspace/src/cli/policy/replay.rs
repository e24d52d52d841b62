//! `weir policy replay`: yesterday's requests under other policies.

use super::World;
use crate::{
    config::{Output, policy::PolicyReplayArgs},
    policy::{
        access::Transport,
        question::{End, Fate, Http, Question},
    },
};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
};

/// What of a line of the access log is needed.
#[derive(Debug, Deserialize)]
struct Line {
    method: String,
    path: String,
    protocol: String,
    authority: Option<String>,
    response_code: u16,
    response_code_details: String,
    upstream_host: Option<SocketAddr>,
    downstream_remote_address: SocketAddr,
    #[serde(default)]
    source_workload: String,
}

/// A request that would fare otherwise.
#[derive(Debug, Serialize)]
struct Change {
    /// From 1.
    line: usize,
    from: String,
    to: SocketAddr,
    method: String,
    path: String,
    was: Fate,
    would_be: Fate,
    because: String,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    requests: usize,
    /// Lines that name no endpoint, or cannot be read.
    skipped: usize,
    changes: Vec<Change>,
}

/// Changes on standard output, one a line, a summary on standard error; exit 1 on any.
pub(super) fn replay(args: &PolicyReplayArgs) -> anyhow::Result<ExitCode> {
    let world = World::read(&args.against)?;
    let mut report = Report::default();
    for (index, line) in lines(&args.log)?.enumerate() {
        let line = line.with_context(|| args.log.display().to_string())?;
        match serde_json::from_str::<Line>(&line) {
            Ok(line) => world.replay(index + 1, line, &mut report)?,
            Err(error) => {
                report.skipped += 1;
                eprintln!("weir: line {} is no request: {error}", index + 1);
            }
        }
    }
    let mut out = io::stdout().lock();
    match args.output {
        Output::Text => report.changes.iter().try_for_each(|change| writeln!(out, "{change}"))?,
        Output::Json => {
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        }
    }
    let Report { requests, skipped, changes } = &report;
    eprintln!("{requests} requests, {skipped} lines left out, {} would change", changes.len());
    Ok(if changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn lines(path: &Path) -> anyhow::Result<Box<dyn Iterator<Item = io::Result<String>>>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock().lines()));
    }
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    Ok(Box::new(BufReader::new(file).lines()))
}

impl World {
    fn replay(&self, number: usize, line: Line, report: &mut Report) -> anyhow::Result<()> {
        let Some(to) = line.upstream_host else {
            report.skipped += 1;
            return Ok(());
        };
        let known = self.snapshot.access.pod(&line.source_workload).is_some();
        let from = match known {
            true => End::Pod(line.source_workload.clone()),
            false => End::Address(line.downstream_remote_address.ip()),
        };
        let http = line.is_request().then(|| Http {
            method: line.method.clone(),
            path: line.path.clone(),
            host: line.authority.clone(),
            headers: Vec::new(),
        });
        let question = Question {
            from,
            to: End::Address(to.ip()),
            transport: Transport::Tcp,
            port: to.port(),
            family: None,
            http,
        };
        report.requests += 1;
        for answer in question.answers(&self.snapshot, &self.ports)? {
            let was = line.fate();
            // A refused connection never was a request: to the log both are denials.
            let same = was == answer.fate || (was, answer.fate) == (Fate::Forbidden, Fate::Drop);
            if !same {
                let from = match known {
                    true => line.source_workload.clone(),
                    false => line.downstream_remote_address.ip().to_string(),
                };
                report.changes.push(Change {
                    line: number,
                    from,
                    to,
                    method: line.method.clone(),
                    path: line.path.clone(),
                    was,
                    would_be: answer.fate,
                    because: answer.because,
                });
            }
        }
        Ok(())
    }
}

impl Line {
    /// Policies decided about a request, whatever its connection became then.
    fn is_request(&self) -> bool {
        !matches!(self.protocol.as_str(), "TCP" | "TLS")
    }

    /// What policies decided then.
    fn fate(&self) -> Fate {
        match (self.response_code, self.response_code_details.as_str()) {
            (_, "policy_denied") => Fate::Forbidden,
            (400, "bad_request") => Fate::BadRequest,
            _ => Fate::Allow,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, from, to, method, path, was, would_be, because } = self;
        write!(
            f,
            "line {line}: {method} {path:?} from {from} to {to}: was {was}, would be {would_be} ({because})"
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_tunnel_by_upgrade_is_replayed_as_the_request_that_asked_for_it() {
        for (protocol, is_request) in
            [("HTTP/1.1", true), ("WebSocket", true), ("Upgrade", true), ("TCP", false)]
        {
            let line = serde_json::json!({
                "method": "GET", "path": "/chat", "protocol": protocol, "authority": "web", "response_code": 101,
                "response_code_details": "via_upstream", "upstream_host": "10.0.0.1:80",
                "downstream_remote_address": "10.0.0.2:1",
            });
            assert_eq!(serde_json::from_value::<Line>(line).unwrap().is_request(), is_request, "{protocol}");
        }
    }
}

//! `weir check`: validates a directory offline.

mod ciphers;
mod tls;

use crate::{
    config::{CheckArgs, Output},
    policy::EndpointPolicy,
    snapshot::{self, BuildOptions, Cluster, Endpoint, Snapshot},
    source::{
        directory::{self, ReadError},
        finding::{Finding, Severity},
    },
    status,
};
use serde::Serialize;
use std::{
    fmt,
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
};
use tls::{Offered, Shown};

/// Findings on standard output, one a line (or one JSON object), on standard error where policies hold, what
/// TLS listeners offer, and a summary; exit 1 on errors.
pub fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let report = Report::of(args)?;
    report.write(args.output, &mut io::stdout().lock())?;
    for one in &report.policies {
        eprintln!("{one}");
    }
    for one in &report.tls {
        eprintln!("{one}");
    }
    for one in &report.tls_to_endpoints {
        eprintln!("{one}");
    }
    if args.ciphers && args.output == Output::Text {
        report.tls.iter().try_for_each(|one| write!(io::stdout().lock(), "{}", ciphers::table(one)))?;
    }
    eprintln!("{}: {report}", args.config.display());
    Ok(if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Serialize)]
struct Report {
    /// Absent when a file does not parse: then nothing is in force.
    clusters: Option<usize>,
    errors: usize,
    warnings: usize,
    infos: usize,
    findings: Vec<Finding>,
    /// Endpoints that a policy restricts.
    policies: Vec<Restricted>,
    /// What listeners with TLS offer.
    tls: Vec<Offered>,
    /// What endpoints get to see of Gateways.
    tls_to_endpoints: Vec<Shown>,
}

/// An endpoint that a policy restricts.
#[derive(Debug, Serialize)]
struct Restricted {
    cluster: String,
    endpoint: SocketAddr,
    /// The policies, by commas.
    policy: String,
    /// How many rules they have for its port.
    rules: usize,
    /// Whether the kernel half may decide.
    kernel_eligible: String,
}

impl Restricted {
    fn all(snapshot: &Snapshot) -> Vec<Self> {
        let endpoints = snapshot.clusters.iter().flat_map(|cluster| {
            cluster.endpoints.iter().filter_map(move |one| Some((cluster, one, one.policy.as_deref()?)))
        });
        let restricted = |(cluster, endpoint, policy): (&Arc<Cluster>, &Endpoint, &EndpointPolicy)| Self {
            cluster: cluster.name.to_string(),
            endpoint: endpoint.addr,
            policy: policy.name.to_string(),
            rules: policy.rules.len(),
            kernel_eligible: status::kernel_eligible(cluster, endpoint).to_string(),
        };
        endpoints.map(restricted).collect()
    }
}

impl fmt::Display for Restricted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, endpoint, policy, rules, kernel_eligible } = self;
        let plural = if *rules == 1 { "" } else { "s" };
        write!(f, "{cluster} {endpoint}: {policy}, {rules} rule{plural}, kernel-eligible: {kernel_eligible}")
    }
}

impl Report {
    fn of(args: &CheckArgs) -> Result<Self, ReadError> {
        let options =
            BuildOptions { http_ports: args.http_ports.iter().copied().collect(), ..Default::default() };
        match directory::read(&args.config) {
            Ok((objects, mut findings)) => {
                let (snapshot, more) = snapshot::build(&objects, &options, 1);
                findings.extend(more);
                Ok(Self {
                    policies: Restricted::all(&snapshot),
                    tls: Offered::all(&snapshot),
                    tls_to_endpoints: Shown::all(&snapshot),
                    ..Self::new(Some(snapshot.clusters.len()), findings)
                })
            }
            Err(ReadError::Files(findings)) => Ok(Self::new(None, findings)),
            Err(error) => Err(error),
        }
    }

    fn new(clusters: Option<usize>, mut findings: Vec<Finding>) -> Self {
        findings.sort();
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        Self {
            clusters,
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            infos: count(Severity::Info),
            findings,
            policies: Vec::new(),
            tls: Vec::new(),
            tls_to_endpoints: Vec::new(),
        }
    }

    fn write(&self, output: Output, to: &mut impl Write) -> io::Result<()> {
        match output {
            Output::Text => self.findings.iter().try_for_each(|finding| writeln!(to, "{finding}")),
            Output::Json => {
                serde_json::to_writer_pretty(&mut *to, self)?;
                writeln!(to)
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count, word| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        match self.clusters {
            Some(clusters) => f.write_str(&plural(clusters, "Service port"))?,
            None => f.write_str("not readable")?,
        }
        if self.findings.is_empty() {
            return f.write_str(", no findings");
        }
        let counts = [(self.errors, "error"), (self.warnings, "warning"), (self.infos, "info")];
        let mut present = counts.iter().filter(|(count, _)| *count > 0);
        present.try_for_each(|(count, word)| write!(f, ", {}", plural(*count, word)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use std::{fs, path::Path};

    fn args(dir: &Path) -> CheckArgs {
        CheckArgs { config: dir.to_owned(), http_ports: vec![8080], ciphers: false, output: Output::Text }
    }

    fn text(report: &Report, output: Output) -> String {
        let mut text = Vec::new();
        report.write(output, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_examples_have_no_findings() {
        for name in ["hello", "policy"] {
            let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(name);
            let report = Report::of(&args(&example)).unwrap();
            assert_eq!(text(&report, Output::Text), "");
            assert_eq!(report.to_string(), "1 Service port, no findings");
        }
    }

    #[test]
    fn restricted_endpoints_are_shown_with_what_the_kernel_half_can_do() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/policy");
        let report = Report::of(&args(&example)).unwrap();
        let shown: Vec<_> = report.policies.iter().map(ToString::to_string).collect();
        let why = "rule default/hello-http#ingress0.ports0.http2: path is a regular expression";
        let line = |ip| {
            format!(
                "default/hello:8080 {ip}:8080: default/hello-http, 3 rules, kernel-eligible: partly, because {why}"
            )
        };
        assert_eq!(shown, [line("10.244.1.11"), line("10.244.1.12")]);
        let json: serde_json::Value = serde_json::from_str(&text(&report, Output::Json)).unwrap();
        assert_eq!(json["policies"][0]["policy"], "default/hello-http");
    }

    #[test]
    fn findings_come_errors_first_one_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n---\n\
                        apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 0}]}\n";
        fs::write(dir.path().join("a.yaml"), manifest).unwrap();
        let report = Report::of(&args(dir.path())).unwrap();
        let text = text(&report, Output::Text);
        let lines: Vec<_> = text.lines().collect();
        let file = dir.path().join("a.yaml").display().to_string();
        assert!(lines[0].starts_with(&format!("error {file}:8 Service default/s: port 0 ")), "{text}");
        assert!(
            lines.last().unwrap().starts_with(&format!("info {file}:1 Deployment default/d: ")),
            "{text}"
        );
        assert_eq!(report.errors, 1);
        assert_eq!(lines.len(), report.errors + report.warnings + report.infos);
    }

    #[test]
    fn json_holds_the_same_findings() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "a: [").unwrap();
        let report = Report::of(&args(dir.path())).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text(&report, Output::Json)).unwrap();
        assert_eq!(json["errors"], 1);
        assert_eq!(json["clusters"], serde_json::Value::Null);
        assert_eq!(json["findings"][0]["severity"], "error");
        assert!(json["findings"][0]["file"].as_str().unwrap().ends_with("a.yaml"));
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        assert!(Report::of(&args(Path::new("/nonexistent/weir"))).is_err());
    }
}

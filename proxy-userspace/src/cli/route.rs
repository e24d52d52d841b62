//! `weir route`: where requests go, without sending any.

use super::cases;
use crate::{
    config::{
        Output,
        route::{RouteCommand, RouteExplainArgs, RouteRequestArgs, RouteTestArgs},
    },
    route::explain::{Explanation, Hypothetical, Outcome},
    snapshot::{self, BuildOptions, Snapshot},
    source::{Objects, directory},
};
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashSet,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

/// What was asked could not be understood.
const BAD_INPUT: u8 = 2;

/// `weir route test` and `weir route explain`.
pub fn route(command: &RouteCommand) -> anyhow::Result<ExitCode> {
    let outcome = match command {
        RouteCommand::Test(args) => test(args),
        RouteCommand::Explain(args) => explain(args),
    };
    outcome.or_else(|error| {
        eprintln!("weir: {error:#}");
        Ok(ExitCode::from(BAD_INPUT))
    })
}

/// A case of `weir route test`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    name: String,
    #[serde(default)]
    host: Option<String>,
    #[serde(default = "slash")]
    path: String,
    #[serde(default = "get")]
    method: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    scheme: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    gateway: Option<String>,
    expect: OneOrMore,
}

/// Outcomes that are right.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(Expected),
    More(Vec<Expected>),
}

/// `namespace/service:port`, or a status.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Expected {
    Status(u16),
    Text(String),
}

fn slash() -> String {
    "/".to_owned()
}

fn get() -> String {
    "GET".to_owned()
}

impl Expected {
    fn text(&self) -> String {
        match self {
            Self::Status(status) => status.to_string(),
            Self::Text(text) => text.clone(),
        }
    }

    /// Whether it can be an outcome at all.
    fn is_one(&self) -> bool {
        match self {
            Self::Status(status) => (100..1000).contains(status),
            Self::Text(text) => {
                let backend = text.split_once('/').and_then(|(_, rest)| rest.rsplit_once(':'));
                backend.is_some_and(|(_, port)| port.parse::<u16>().is_ok()) || text.parse::<u16>().is_ok()
            }
        }
    }
}

/// A case that did not come out as expected.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Mismatch {
    file: String,
    case: usize,
    name: String,
    expected: Vec<String>,
    got: Vec<String>,
    because: String,
}

/// What all cases came to.
#[derive(Debug, Serialize)]
struct Report {
    cases: usize,
    mismatches: Vec<Mismatch>,
}

fn test(args: &RouteTestArgs) -> anyhow::Result<ExitCode> {
    let world = World::read(&args.config, args.ingress_http_port)?;
    let mut report = Report { cases: 0, mismatches: Vec::new() };
    for file in &args.files {
        for (index, case) in cases::read::<Case>(file)?.iter().enumerate() {
            let mismatch = world
                .check(case)
                .with_context(|| format!("{} case {} {:?}", file.display(), index + 1, case.name))?;
            report.cases += 1;
            report.mismatches.extend(mismatch.map(|(got, because)| Mismatch {
                file: file.display().to_string(),
                case: index + 1,
                name: case.name.clone(),
                expected: case.expect.texts(),
                got,
                because,
            }));
        }
    }
    report.write(args.output, &mut io::stdout().lock())?;
    let plural = |count| if count == 1 { "" } else { "s" };
    let (cases, wrong) = (report.cases, report.mismatches.len());
    eprintln!("{cases} case{}, {wrong} mismatch{}", plural(cases), if wrong == 1 { "" } else { "es" });
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Report {
    fn write(&self, output: Output, to: &mut impl Write) -> io::Result<()> {
        match output {
            Output::Text => self.mismatches.iter().try_for_each(|one| {
                let Mismatch { file, case, name, expected, got, because } = one;
                let (expected, got) = (expected.join(" or "), got.join(" or "));
                let line = format!("{file} case {case} {name:?}: expected {expected}, got {got}: {because}");
                // A name or a path cannot forge a line.
                writeln!(to, "{}", line.replace(|c: char| c.is_control(), " "))
            }),
            Output::Json => {
                serde_json::to_writer_pretty(&mut *to, self)?;
                writeln!(to)
            }
        }
    }
}

impl OneOrMore {
    fn all(&self) -> &[Expected] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(all) => all,
        }
    }

    fn texts(&self) -> Vec<String> {
        self.all().iter().map(Expected::text).collect()
    }
}

/// A directory's configuration.
struct World {
    snapshot: Snapshot,
    /// Services whose endpoints are known.
    sliced: HashSet<String>,
}

impl World {
    fn read(dir: &Path, ingress_http_port: u16) -> anyhow::Result<Self> {
        let (objects, _) = directory::read(dir)?;
        Ok(Self::of(&objects, ingress_http_port))
    }

    fn of(objects: &Objects, ingress_http_port: u16) -> Self {
        let options = BuildOptions { ingress_http_port, ..BuildOptions::default() };
        let (snapshot, _) = snapshot::build(objects, &options, 1);
        let sliced = objects.slices.iter().filter_map(|slice| {
            let service = slice.object.service.as_ref()?;
            Some(format!("{}/{service}:", slice.namespace))
        });
        Self { snapshot, sliced: sliced.collect() }
    }

    /// `None` where the case comes out as expected; else what it comes to, and why.
    fn check(&self, case: &Case) -> anyhow::Result<Option<(Vec<String>, String)>> {
        let expected = case.expect.all();
        ensure!(!expected.is_empty(), "expect is empty");
        let odd = expected.iter().find(|one| !one.is_one()).map(Expected::text);
        ensure!(
            odd.is_none(),
            "{:?} is neither namespace/service:port nor a status",
            odd.unwrap_or_default()
        );
        let request = Hypothetical {
            host: case.host.clone(),
            path: case.path.clone(),
            method: case.method.clone(),
            headers: case.headers.clone(),
            scheme: case.scheme.clone(),
            port: case.port,
            gateway: case.gateway.clone(),
        };
        let outcomes = request.outcomes(&self.snapshot).map_err(anyhow::Error::msg)?;
        let got: Vec<String> = outcomes.iter().flat_map(|outcome| self.texts(outcome)).collect();
        if expected.iter().any(|one| got.contains(&one.text())) {
            return Ok(None);
        }
        let explained = request.explain(&self.snapshot).map_err(anyhow::Error::msg)?;
        let notes: Vec<String> = outcomes.iter().flat_map(|outcome| outcome.notes.clone()).collect();
        let rule = explained.rule.map_or_else(|| nearest(&explained.others), |rule| format!("by {rule}"));
        Ok(Some((got, format!("{rule}; {}", notes.join("; ")))))
    }

    /// What an outcome is called. Where a Service's endpoints are not part of the directory, that nobody serves
    /// it is no more than possible.
    fn texts(&self, outcome: &Outcome) -> Vec<String> {
        let status = outcome.status.map(|status| status.to_string());
        let Some(backend) = &outcome.backend else { return status.into_iter().collect() };
        let service = backend.rfind(':').and_then(|end| backend.get(..=end)).unwrap_or_default();
        match status {
            Some(status) if self.sliced.contains(service) => vec![status],
            status => std::iter::once(backend.clone()).chain(status).collect(),
        }
    }
}

fn nearest(others: &[crate::route::explain::Other]) -> String {
    match others.first() {
        Some(other) => format!("nearest is {} ({}): {}", other.rule, other.pattern, other.because),
        None => "there is no rule at all".to_owned(),
    }
}

fn explain(args: &RouteExplainArgs) -> anyhow::Result<ExitCode> {
    let printed = match &args.config {
        Some(dir) => {
            let world = World::read(dir, args.ingress_http_port)?;
            let request = hypothetical(&args.request);
            let explained = request.explain(&world.snapshot).map_err(anyhow::Error::msg)?;
            print(&explained, args.output)?
        }
        None => ask(args)?,
    };
    io::stdout().write_all(printed.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn print(explained: &Explanation, output: Output) -> anyhow::Result<String> {
    Ok(match output {
        Output::Text => explained.to_string(),
        Output::Json => serde_json::to_string_pretty(explained)? + "\n",
    })
}

fn hypothetical(args: &RouteRequestArgs) -> Hypothetical {
    Hypothetical {
        host: args.host.clone(),
        path: args.path.clone(),
        method: args.method.clone(),
        headers: args.headers.clone(),
        scheme: Some(args.scheme.clone()),
        port: args.port,
        gateway: args.gateway.clone(),
    }
}

/// Asks the running agent, which has the same words for it.
fn ask(args: &RouteExplainArgs) -> anyhow::Result<String> {
    let request = &args.request;
    let mut query = vec![("path", request.path.clone()), ("method", request.method.clone())];
    query.push(("scheme", request.scheme.clone()));
    query.extend(request.host.clone().map(|host| ("host", host)));
    query.extend(request.port.map(|port| ("port", port.to_string())));
    query.extend(request.gateway.clone().map(|gateway| ("gateway", gateway)));
    query.extend(request.headers.iter().map(|(name, value)| ("header", format!("{name}:{value}"))));
    query.push(("output", if args.output == Output::Json { "json" } else { "text" }.to_owned()));
    let query: Vec<String> =
        query.into_iter().map(|(name, value)| format!("{name}={}", escaped(&value))).collect();
    let answer = super::agent::ask(args.admin_addr, &format!("/route/explain?{}", query.join("&")))?;
    String::from_utf8(answer.into()).context("the answer is not text")
}

/// A value of a query.
pub(super) fn escaped(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value.bytes().fold(String::new(), |text, byte| match plain(byte) {
        true => text + &String::from(char::from(byte)),
        false => text + &format!("%{byte:02X}"),
    })
}

#[cfg(test)]
mod tests;

//! `weir policy test`: expectations of a user's own, checked in their CI.

use super::World;
use crate::{
    cli::cases,
    config::{Output, policy::PolicyTestArgs},
    policy::{
        access::Transport,
        question::{Answer, End, Fate, Http, Question},
    },
    snapshot::Family,
};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

/// One expectation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    name: String,
    from: String,
    to: String,
    port: u16,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    family: Option<Number>,
    #[serde(default)]
    http: Option<Http>,
    expect: Expected,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum Protocol {
    #[default]
    #[serde(rename = "TCP", alias = "tcp")]
    Tcp,
    #[serde(rename = "UDP", alias = "udp")]
    Udp,
    #[serde(rename = "SCTP", alias = "sctp")]
    Sctp,
}

/// 4 or 6, quoted or not.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u8),
    Text(String),
}

/// Any of these is right.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Expected {
    One(Fate),
    Any(Vec<Fate>),
}

impl Expected {
    fn all(&self) -> &[Fate] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Any(all) => all,
        }
    }
}

/// A case that came out otherwise.
#[derive(Debug, Serialize)]
struct Mismatch {
    file: String,
    /// From 1.
    case: usize,
    name: String,
    expected: Vec<Fate>,
    got: Vec<Answer>,
}

/// What all cases came to.
#[derive(Debug, Default, Serialize)]
struct Report {
    cases: usize,
    mismatches: Vec<Mismatch>,
}

/// Mismatches on standard output, one a line, a summary on standard error; exit 1 on any.
pub(super) fn test(args: &PolicyTestArgs) -> anyhow::Result<ExitCode> {
    let report = checked(args)?;
    report.write(args.output, &mut io::stdout().lock())?;
    let (cases, wrong) = (report.cases, report.mismatches.len());
    eprintln!(
        "{cases} case{}, {wrong} mismatch{}",
        if cases == 1 { "" } else { "s" },
        if wrong == 1 { "" } else { "es" }
    );
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn checked(args: &PolicyTestArgs) -> anyhow::Result<Report> {
    let world = World::read(&args.config)?;
    let mut report = Report::default();
    for file in &args.files {
        for (index, case) in cases::read::<Case>(file)?.iter().enumerate() {
            let place = || format!("{} case {} {:?}", file.display(), index + 1, case.name);
            let answers = world.answers(case).with_context(place)?;
            report.cases += 1;
            let right = case.expect.all();
            if !answers.iter().all(|answer| right.contains(&answer.fate)) {
                report.mismatches.push(Mismatch {
                    file: file.display().to_string(),
                    case: index + 1,
                    name: case.name.clone(),
                    expected: right.to_vec(),
                    got: answers,
                });
            }
        }
    }
    Ok(report)
}

impl World {
    fn answers(&self, case: &Case) -> anyhow::Result<Vec<Answer>> {
        let end = |text: &str| text.parse::<End>().map_err(anyhow::Error::msg);
        anyhow::ensure!(case.port > 0, "port 0 is none");
        anyhow::ensure!(!case.expect.all().is_empty(), "expect is empty: nothing would be right");
        let family = match &case.family {
            None => None,
            Some(Number::Number(4)) => Some(Family::V4),
            Some(Number::Number(6)) => Some(Family::V6),
            Some(Number::Text(text)) if text == "4" => Some(Family::V4),
            Some(Number::Text(text)) if text == "6" => Some(Family::V6),
            Some(_) => anyhow::bail!("family is 4 or 6"),
        };
        let transport = match case.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            Protocol::Sctp => Transport::Sctp,
        };
        let (from, to) = (end(&case.from).context("from")?, end(&case.to).context("to")?);
        let question = Question { from, to, transport, port: case.port, family, http: case.http.clone() };
        question.answers(&self.snapshot, &self.ports)
    }
}

impl Report {
    fn write(&self, output: Output, to: &mut impl Write) -> io::Result<()> {
        match output {
            Output::Text => self.mismatches.iter().try_for_each(|one| writeln!(to, "{one}")),
            Output::Json => {
                serde_json::to_writer_pretty(&mut *to, self)?;
                writeln!(to)
            }
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, case, name, expected, got } = self;
        let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        write!(f, "{file} case {case} {name:?}: expected {}, got ", expected.join(" or "))?;
        match got.split_first() {
            Some((one, others)) if others.iter().all(|other| other.fate == one.fate) => {
                write!(f, "{} ({})", one.fate, one.because)
            }
            _ => {
                let each: Vec<_> =
                    got.iter().map(|one| format!("{} at {} ({})", one.fate, one.at, one.because)).collect();
                write!(f, "what differs between endpoints: {}", each.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! What a scrape shows.
#![allow(clippy::unwrap_used, reason = "tests")]

mod agent;
mod flows;
mod requests;

use super::{Format, Metrics};

/// The series of families whose name begins with one of `prefixes`, sorted.
fn series(metrics: &Metrics, prefixes: &[&str]) -> Vec<String> {
    let text = metrics.text(Format::Prometheus).unwrap();
    let wanted = |line: &&str| prefixes.iter().any(|prefix| line.starts_with(prefix));
    let mut series: Vec<_> = text.lines().filter(wanted).map(String::from).collect();
    series.sort();
    series
}

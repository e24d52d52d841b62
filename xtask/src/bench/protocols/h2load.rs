//! h2load of the nghttp2 project, the load of every protocol alike, and what it says.

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::{fs, path::Path};

/// What one run of h2load found.
#[derive(Serialize, Clone, Copy, Debug)]
pub(super) struct Found {
    /// Answered requests.
    pub(super) answered: u64,
    /// A second.
    pub(super) rps: f64,
    /// From a request's first byte to its answer's last, microseconds.
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
}

/// Reads its report and its log of requests; an error where one failed, or where the protocol is not the one
/// that was to be measured.
pub(super) fn read(report: &str, log: &Path, protocol: &str) -> Result<Found> {
    // It names the protocol of TLS connections, and of clear ones where it was told which.
    let spoken = field(report, "Application protocol: ").context("no protocol in h2load's report")?;
    ensure!(spoken == protocol, "h2load spoke {spoken} where {protocol} was to be measured:\n{report}");
    let counts = field(report, "requests: ").context("no requests in h2load's report")?;
    let count = |name: &str| {
        let part =
            counts.split(", ").find_map(|part| part.strip_suffix(name)).context("a count is missing")?;
        part.trim().parse::<u64>().with_context(|| format!("{name} in {counts:?}"))
    };
    let (answered, failed) =
        (count(" succeeded")?, count(" failed")? + count(" errored")? + count(" timeout")?);
    ensure!(failed == 0 && answered > 0, "{failed} of the requests failed:\n{report}");
    let finished = field(report, "finished in ").context("no rate in h2load's report")?;
    let rate = finished.split(", ").find_map(|part| part.strip_suffix(" req/s")).context("no rate")?;
    let times = times(&fs::read_to_string(log).with_context(|| log.display().to_string())?)?;
    let (p50_us, p99_us) = (times.value_at_quantile(0.5), times.value_at_quantile(0.99));
    Ok(Found { answered, rps: rate.trim().parse()?, p50_us, p99_us })
}

/// The rest of the line that begins so.
fn field<'a>(report: &'a str, name: &str) -> Option<&'a str> {
    report.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Of a log with a line a request: when it began, its status, how long it took in microseconds.
fn times(log: &str) -> Result<Histogram<u64>> {
    let mut times = Histogram::new(3)?;
    for line in log.lines() {
        let took = line.split_ascii_whitespace().nth(2).context("a short line in h2load's log")?;
        times.record(took.parse::<u64>()?.max(1))?;
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const REPORT: &str = "starting benchmark...\nApplication protocol: h2c\n\n\
        finished in 2.00s, 5234.50 req/s, 1.20MB/s\n\
        requests: 10469 total, 10501 started, 10469 done, 10469 succeeded, 0 failed, 0 errored, 0 timeout\n";

    #[test]
    fn a_report_and_a_log_are_read_and_a_failed_request_or_another_protocol_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "1 200 100\n2 200 100\n3 200 900\n").unwrap();
        let found = read(REPORT, &log, "h2c").unwrap();
        assert_eq!((found.answered, found.p50_us), (10_469, 100));
        assert!((found.rps - 5234.5).abs() < 1e-9 && found.p99_us >= 900);
        assert!(read(REPORT, &log, "h2").is_err());
        assert!(read(&REPORT.replace("0 errored", "1 errored"), &log, "h2c").is_err());
    }
}

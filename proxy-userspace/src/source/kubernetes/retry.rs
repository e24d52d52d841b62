//! Why the API server gave no answer, and when to ask again.

use kube::core::Status;
use std::{fmt, time::Duration};

/// The first pause, at most, and the longest.
const FIRST: Duration = Duration::from_millis(1200);
const LONGEST: Duration = Duration::from_secs(30);

/// Pauses that grow from a second to half a minute, each shortened by up to a third so that agents
/// which lost the API server together do not return together.
#[derive(Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How many pauses there were.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        let longest = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LONGEST);
        self.failures = self.failures.saturating_add(1).min(16);
        let third = u64::try_from(longest.as_millis() / 3).unwrap_or(u64::MAX);
        longest - Duration::from_millis(crate::balance::random() % (third + 1))
    }
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Refusal {
    /// 410: what was asked for is history, and forgotten.
    Gone(String),
    /// 404: there is no such kind.
    Absent(String),
    /// 401 or 403: we may not.
    Forbidden(String),
    /// The server does not take what we ask.
    Refused(String),
    /// 429 or 5xx: the server cannot answer now.
    Busy(String),
    /// No connection, or not to its end.
    Broken(String),
}

impl Refusal {
    pub(super) fn slow(what: &str, limit: Duration) -> Self {
        Self::Broken(format!("{what} took longer than {limit:?}"))
    }

    pub(super) fn unsendable(error: kube::core::request::Error) -> Self {
        Self::Broken(error.to_string())
    }

    /// Whether a watch cannot go on from where it was.
    pub(super) fn needs_list(&self) -> bool {
        !matches!(self, Self::Broken(_) | Self::Busy(_))
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let Status { code, message, reason, .. } = status;
        let text = match (message.trim(), reason.as_str()) {
            ("", "") => format!("status {code}"),
            ("", reason) => format!("status {code}, {reason}"),
            (message, _) => format!("status {code}: {message}"),
        };
        match code {
            410 => Self::Gone(text),
            404 => Self::Absent(text),
            401 | 403 => Self::Forbidden(text),
            _ if reason == "Expired" || reason == "Gone" => Self::Gone(text),
            429 | 500.. => Self::Busy(text),
            _ => Self::Refused(text),
        }
    }
}

impl From<kube::Error> for Refusal {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => (*status).into(),
            other => Self::Broken(chain(&other)),
        }
    }
}

/// An error with what caused it, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(text)
            | Self::Absent(text)
            | Self::Refused(text)
            | Self::Busy(text)
            | Self::Broken(text) => f.write_str(text),
            Self::Forbidden(text) => write!(f, "{text} (apply the ClusterRole of deploy/daemonset.yaml)"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn f5_pauses_grow_from_a_second_to_half_a_minute_and_differ() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..40).map(|_| backoff.next().as_secs_f64()).collect();
        assert!((0.8..=1.2).contains(&pauses[0]), "{pauses:?}");
        assert!(pauses.iter().all(|pause| (0.8..=30.0).contains(pause)), "{pauses:?}");
        let late = &pauses[10..];
        assert!(late.iter().all(|pause| *pause >= 20.0), "{pauses:?}");
        let (least, most) = late.iter().fold((f64::MAX, 0_f64), |(a, b), one| (a.min(*one), b.max(*one)));
        assert!(most - least > 1.0, "no jitter: {pauses:?}");
    }

    #[test]
    fn a_watch_goes_on_where_it_was_unless_the_server_says_otherwise() {
        let of = |code, reason: &str| Refusal::from(Status::failure("no", reason).with_code(code));
        assert!(matches!(of(410, "Expired"), Refusal::Gone(_)));
        assert!(matches!(of(0, "Expired"), Refusal::Gone(_)));
        assert!(matches!(of(404, "NotFound"), Refusal::Absent(_)));
        assert!(matches!(of(403, "Forbidden"), Refusal::Forbidden(_)));
        assert!(matches!(of(400, "BadRequest"), Refusal::Refused(_)));
        assert!(of(410, "Expired").needs_list() && of(400, "BadRequest").needs_list());
        assert!(matches!(of(500, "InternalError"), Refusal::Busy(_)));
        assert!(matches!(of(429, "TooManyRequests"), Refusal::Busy(_)));
        assert!(!of(500, "InternalError").needs_list());
        assert!(!Refusal::Broken("reset".to_owned()).needs_list());
    }
}

//! What is different where a request is a call by gRPC (`doc/PROTOCOL-HTTP2.md` of the gRPC project): its
//! deadline, and how it is told that it failed.

use crate::flow::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use std::{fmt::Write as _, time::Duration};

pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The highest status that gRPC knows.
const LAST: u8 = 16;

/// How a call ended, by the numbers of gRPC: 0 is well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Status {
    /// A number that gRPC knows.
    Known(u8),
    /// Anything else: endpoints do not make series.
    Other,
}

/// Label values, by number.
const LABELS: [&str; 17] =
    ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];

impl Status {
    /// The label value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Known(number) => LABELS.get(usize::from(number)).copied().unwrap_or("other"),
            Self::Other => "other",
        }
    }

    /// What the fields of an answer say, or its trailers.
    pub(crate) fn of(fields: &HeaderMap) -> Option<Self> {
        let value = fields.get(STATUS)?;
        let number = value.to_str().ok().and_then(|text| text.parse().ok());
        Some(number.filter(|number| *number <= LAST).map_or(Self::Other, Self::Known))
    }

    /// Of an answer of ours: by the status that another client would see, as the gRPC project maps them
    /// (`doc/http-grpc-status-mapping.md`), but for a call that took too long.
    pub(crate) fn for_reason(reason: Reason) -> Self {
        if reason == Reason::RequestTimeout {
            return Self::Known(4);
        }
        Self::Known(match reason.status() {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502 | 503 | 504 => 14,
            _ => 2,
        })
    }
}

/// Whether a message with these fields is one of gRPC.
pub(crate) fn is_call(fields: &HeaderMap) -> bool {
    let kind = fields.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// How long the caller waits; `None` where it does not say, or not in the form that is agreed on: at most eight
/// digits and a unit.
pub(crate) fn timeout(fields: &HeaderMap) -> Option<Duration> {
    let text = fields.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The fields of an answer that is nothing but a failure.
pub(crate) fn failure(status: Status, text: &str) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(3);
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    fields.insert(STATUS, HeaderValue::from_static(status.label()));
    if let Ok(message) = HeaderValue::try_from(percent_encoded(text.trim_end())) {
        fields.insert(MESSAGE, message);
    }
    fields
}

/// Everything but printable ASCII, and the percent sign, by its bytes.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn fields(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_call_is_known_by_its_content_type() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_call(&fields(CONTENT_TYPE, kind)), is, "{kind}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn a_timeout_has_at_most_eight_digits_and_a_unit() {
        let read = |text| timeout(&fields(TIMEOUT, text));
        assert_eq!(read("1S"), Some(Duration::from_secs(1)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        assert_eq!(read("0n"), Some(Duration::ZERO));
        for odd in ["", "S", "1", "123456789S", "1s", "-1S", "1.5S", " 1S"] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }

    #[test]
    fn every_reason_with_an_answer_has_a_status_of_grpc() {
        for (reason, status) in [
            (Reason::BadRequest, 13),
            (Reason::PolicyDenied, 7),
            (Reason::NoRoute, 12),
            (Reason::NoEndpoint, 14),
            (Reason::UpstreamReset, 14),
            (Reason::ResponseHeadTimeout, 14),
            (Reason::RequestTimeout, 4),
            (Reason::RouteInvalid, 2),
        ] {
            assert_eq!(Status::for_reason(reason), Status::Known(status), "{reason:?}");
        }
    }

    #[test]
    fn a_status_is_one_that_grpc_knows_or_other() {
        let read = |text| Status::of(&fields(STATUS, text)).map(Status::label);
        assert_eq!(
            (read("0"), read("16"), read("17"), read("x")),
            (Some("0"), Some("16"), Some("other"), Some("other"))
        );
        assert_eq!(Status::of(&HeaderMap::new()), None);
    }

    #[test]
    fn a_message_is_percent_encoded() {
        let made = failure(Status::Known(14), "50% gr\u{fc}n\nx\n");
        assert_eq!(made.get("grpc-message").unwrap(), "50%25 gr%C3%BCn%0Ax");
        assert_eq!(made.get(STATUS).unwrap(), "14");
    }
}

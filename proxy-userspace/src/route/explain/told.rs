//! What is said of a request that is only talked about.

use crate::route::table::Where;
use serde::Serialize;
use std::{fmt, net::IpAddr};

/// What may become of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Outcome {
    /// `namespace/service:port`, where it is forwarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backend: Option<String>,
    /// The status of the answer, where that is not the backend's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    /// Why, or how.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
}

/// Where a request goes and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Explanation {
    /// The Gateway and its listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listener: Option<String>,
    /// The rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<String>,
    /// What of the request the rule was found by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) matched: Option<String>,
    /// Each of them may be.
    pub(crate) outcomes: Vec<Outcome>,
    /// Rules that were not chosen, and why; the nearest first.
    pub(crate) others: Vec<Other>,
}

/// A rule that was not chosen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Other {
    /// The rule.
    pub(crate) rule: String,
    /// What it is for.
    #[serde(rename = "for")]
    pub(crate) pattern: String,
    /// Why not.
    pub(crate) because: String,
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes => f.write_str("the nodes"),
            Self::Address(ip) => IpAddr::fmt(ip, f),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.backend, self.status) {
            (Some(backend), None) => write!(f, "{backend}")?,
            (Some(backend), Some(status)) => write!(f, "{status} for {backend}")?,
            (None, status) => write!(f, "{}", status.unwrap_or_default())?,
        }
        if self.notes.is_empty() { Ok(()) } else { write!(f, " ({})", self.notes.join("; ")) }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(listener), Some(rule), Some(matched)) = (&self.listener, &self.rule, &self.matched) {
            writeln!(f, "listener  {listener}\nrule      {rule}\nfor       {matched}")?;
        }
        for outcome in &self.outcomes {
            writeln!(f, "outcome   {outcome}")?;
        }
        for other in &self.others {
            writeln!(f, "not       {} ({}): {}", other.rule, other.pattern, other.because)?;
        }
        Ok(())
    }
}

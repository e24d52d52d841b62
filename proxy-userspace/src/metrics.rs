//! What is counted, under the names that operators know (OpenTelemetry HTTP semantic conventions).
use crate::flow::{AddressFallback, RequestRecord};

/// Every metric family of the agent.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// A request, or an opaque connection, has ended.
    pub fn request(&self, _record: &RequestRecord) {}
    /// A downstream connection was accepted.
    pub fn downstream_opened(&self) {}
    /// A downstream connection ended.
    pub fn downstream_closed(&self) {}
    /// A downstream connection was refused; `limit` names what was full or wrong.
    pub fn downstream_refused(&self, _limit: &'static str) {}
    /// A new upstream connection was opened (not taken from the pool).
    pub fn upstream_opened(&self) {}
    /// An upstream connection ended.
    pub fn upstream_closed(&self) {}
    /// The endpoint sees the node's address instead of the client's.
    pub fn address_fallback(&self, _why: AddressFallback) {}
}

//! Refused connections, as the log tells them: some a second, the rest as a number. All are counted in the
//! metrics.

use proxy_common::{abi::Refused, access::Denied, addr::ip_of};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Lines in one period.
const LINES: u32 = 10;
/// The period.
const PERIOD: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Refusals {
    /// Writes a line, or counts it.
    pub(crate) fn tell(&mut self, refused: &Refused) {
        let Some(untold) = self.admit(Instant::now()) else { return };
        let to = SocketAddr::new(ip_of(&refused.addr), refused.port);
        let from = (refused.client != [0; 4]).then(|| ip_of(&refused.client)).map(tracing::field::display);
        tracing::info!(
            by = reason(refused.denied),
            %to,
            protocol = refused.protocol,
            from,
            cgroup_id = refused.cgroup_id,
            pid = refused.pid,
            untold,
            "connection refused by policy"
        );
    }

    /// How many were not told since the last line; `None`: nor is this one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= PERIOD) {
            (self.since, self.told) = (Some(now), 0);
        }
        if self.told >= LINES {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

/// As the log says it.
fn reason(denied: u32) -> &'static str {
    const EGRESS: u32 = Denied::Egress as u32;
    const INGRESS: u32 = Denied::Ingress as u32;
    match denied {
        EGRESS => "egress policy of the client",
        INGRESS => "ingress policy of the endpoint",
        _ => "failure policy: the client is not known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_never_tires_does_not_fill_the_log() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let told = (0..1000).filter(|_| refusals.admit(start).is_some()).count();
        assert_eq!(told, 10);
        assert_eq!(refusals.admit(start + PERIOD), Some(990));
        assert_eq!(refusals.admit(start + PERIOD), Some(0));
    }
}

//! Proof that traffic really takes the path that is measured: the agent's own counters.

use super::{
    plan::{Path, Shape},
    results::KernelHalf,
};
use anyhow::{Result, ensure};
use std::ops::Sub;
use weir_tests::metrics::Samples;

/// Redirected messages per request that prove the redirect path. Four are expected: each of two hops has
/// a request and an answer.
const REDIRECTED_AT_LEAST: f64 = 3.0;
/// Share of the requests that proves the splice path ...
const SPLICED_AT_LEAST: f64 = 0.95;
/// ... without those of each connection that go before its pair is armed.
const BEFORE_ARMED: f64 = 3.0;
/// The sk_msg program.
const MSG: &str = "weir_msg";

/// What an agent counted.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counts {
    accepted: f64,
    steered: f64,
    balanced: f64,
    mapped: f64,
    redirected: f64,
    spliced: f64,
    denied: f64,
    msg_runs: f64,
    msg_ns: f64,
}

impl Counts {
    /// What it said.
    pub(super) fn of(samples: &Samples) -> Self {
        let event = |name| samples.sum("weir_kernel_events_total", &[("event", name)]);
        let denied = [("error_type", "policy_denied")];
        Self {
            accepted: samples.sum("weir_downstream_opened_total", &[]),
            steered: event("steered"),
            balanced: event("balanced"),
            mapped: event("mapped"),
            redirected: event("redirected"),
            spliced: event("spliced"),
            denied: samples.sum("http_server_request_duration_seconds_count", &denied),
            msg_runs: samples.sum("weir_bpf_prog_run_count_total", &[("program", MSG)]),
            msg_ns: samples.sum("weir_bpf_prog_run_time_ns_total", &[("program", MSG)]),
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            accepted: self.accepted - before.accepted,
            steered: self.steered - before.steered,
            balanced: self.balanced - before.balanced,
            mapped: self.mapped - before.mapped,
            redirected: self.redirected - before.redirected,
            spliced: self.spliced - before.spliced,
            denied: self.denied - before.denied,
            msg_runs: self.msg_runs - before.msg_runs,
            msg_ns: self.msg_ns - before.msg_ns,
        }
    }
}

/// What a run did, by the client's count and by the agent's; both from its first request to its last.
pub(super) struct Proof {
    /// What the client did.
    pub(super) shape: Shape,
    /// Requests that were answered.
    pub(super) answered: u64,
    /// What the agent saw of it.
    pub(super) counted: Counts,
}

impl Proof {
    /// Fails when the traffic did not take the path that is said to be measured.
    pub(super) fn check(&self, path: Path) -> Result<()> {
        let Counts { accepted, steered, balanced, mapped, redirected, .. } = self.counted;
        let conns = self.conns();
        let taken = match path {
            Path::Direct | Path::IptablesDnat => true,
            Path::IptablesRelay => accepted >= conns && steered == 0.0 && redirected == 0.0,
            Path::EbpfLb => balanced >= conns && accepted == 0.0,
            Path::EbpfSteer => steered >= conns && accepted >= conns && redirected == 0.0,
            Path::EbpfSplice if self.shape.reuse => steered >= conns && mapped >= conns && self.is_spliced(),
            // A connection of one request is the relay's.
            Path::EbpfRedirect | Path::EbpfSplice => {
                let per_req = self.per_req(redirected);
                steered >= conns && mapped >= conns && per_req >= REDIRECTED_AT_LEAST
            }
        };
        ensure!(taken, "traffic did not take this path: {} requests, {:?}", self.answered, self.counted);
        Ok(())
    }

    /// Fails when requests that no rule allows were not denied.
    pub(super) fn check_denied(&self) -> Result<()> {
        let denied = self.answered == 0 && self.counted.denied > 0.0;
        ensure!(denied, "the policy is not in force: {} requests, {:?}", self.answered, self.counted);
        Ok(())
    }

    /// What the kernel half did for a request.
    pub(super) fn kernel_half(&self) -> KernelHalf {
        let Counts { redirected, spliced, msg_runs, msg_ns, .. } = self.counted;
        KernelHalf {
            redirected_per_req: Some(self.per_req(redirected)),
            spliced_per_req: Some(self.per_req(spliced)),
            msg_per_req: Some(self.per_req(msg_runs)),
            msg_ns: (msg_runs > 0.0).then(|| msg_ns / msg_runs),
        }
    }

    fn is_spliced(&self) -> bool {
        let spliced = self.counted.spliced;
        let expected = self.answered() - BEFORE_ARMED * self.conns();
        spliced > 0.0 && spliced >= SPLICED_AT_LEAST * expected
    }

    fn per_req(&self, counted: f64) -> f64 {
        counted / self.answered()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn answered(&self) -> f64 {
        self.answered as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn conns(&self) -> f64 {
        self.shape.conns as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::bench::plan::HEADLINE;

    const STEERED: &str = "weir_downstream_opened_total 32\nweir_kernel_events_total{event=\"steered\"} 32\n\
         weir_kernel_events_total{event=\"mapped\"} 64\n";

    fn proof(text: &str) -> Proof {
        let counted = Counts::of(&Samples::parse(text).unwrap());
        Proof { shape: HEADLINE, answered: 1000, counted }
    }

    fn spliced(requests: u32) -> Proof {
        proof(&format!("{STEERED}weir_kernel_events_total{{event=\"spliced\"}} {requests}\n"))
    }

    #[test]
    fn redirects_that_did_not_happen_fail_the_redirect_path_and_prove_the_other() {
        let proof = proof(STEERED);
        assert!(proof.check(Path::EbpfSteer).is_ok());
        assert!(proof.check(Path::EbpfRedirect).is_err());
        assert!(proof.check(Path::IptablesRelay).is_err());
    }

    #[test]
    fn four_messages_a_request_prove_the_redirect_path() {
        let proof = proof(&format!("{STEERED}weir_kernel_events_total{{event=\"redirected\"}} 4000\n"));
        assert!(proof.check(Path::EbpfRedirect).is_ok());
        assert!(proof.check(Path::EbpfSteer).is_err());
    }

    #[test]
    fn nearly_all_requests_but_the_first_of_each_connection_prove_the_splice_path() {
        assert!(spliced(860).check(Path::EbpfSplice).is_ok(), "0.95 of 1000 - 3 * 32");
        assert!(spliced(850).check(Path::EbpfSplice).is_err());
        assert!(Proof { answered: 90, ..spliced(0) }.check(Path::EbpfSplice).is_err(), "none at all");
    }

    #[test]
    fn with_a_connection_per_request_splice_is_proven_as_relay_is() {
        let close = Shape { reuse: false, ..HEADLINE };
        let redirected = format!("{STEERED}weir_kernel_events_total{{event=\"redirected\"}} 4000\n");
        assert!(Proof { shape: close, ..proof(&redirected) }.check(Path::EbpfSplice).is_ok());
        assert!(Proof { shape: close, ..spliced(1000) }.check(Path::EbpfSplice).is_err());
    }

    #[test]
    fn the_pass_lane_must_not_touch_the_agent() {
        let text = "weir_kernel_events_total{event=\"balanced\"} 32\n";
        assert!(proof(text).check(Path::EbpfLb).is_ok());
        assert!(proof(&format!("{text}weir_downstream_opened_total 1\n")).check(Path::EbpfLb).is_err());
    }

    #[test]
    fn a_policy_is_in_force_when_nothing_is_answered_and_denials_are_counted() {
        let denials = "http_server_request_duration_seconds_count{error_type=\"policy_denied\"} 101\n";
        assert!(Proof { answered: 0, ..proof(denials) }.check_denied().is_ok());
        assert!(proof(denials).check_denied().is_err());
        assert!(Proof { answered: 0, ..proof("") }.check_denied().is_err());
    }

    #[test]
    fn the_kernels_statistics_are_told_per_request_and_per_run() {
        let found = proof(
            "weir_bpf_prog_run_count_total{program=\"weir_msg\"} 2000\n\
             weir_bpf_prog_run_time_ns_total{program=\"weir_msg\"} 800000\n\
             weir_bpf_prog_run_time_ns_total{program=\"weir_connect4\"} 9\n",
        );
        let KernelHalf { msg_per_req, msg_ns, .. } = found.kernel_half();
        assert_eq!((msg_per_req, msg_ns), (Some(2.0), Some(400.0)));
        assert_eq!(proof("").kernel_half().msg_ns, None);
    }
}

//! Asks the kernel half whether a client has read what was redirected to it.

use super::{Datapath, Kernel};
use anyhow::Context;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use proxy_common::flow::FlowKey;

impl Datapath {
    /// Whether the client's socket (local = client) has nothing redirected left to read; true where it is in
    /// no socket map. A system call.
    pub fn has_drained(&self, client: &FlowKey) -> bool {
        let Some(kernel) = &self.kernel else { return true };
        kernel.has_drained(client).unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "cannot ask what a client has read");
            true
        })
    }
}

impl Kernel {
    /// As [`Datapath::has_drained`].
    pub(super) fn has_drained(&self, client: &FlowKey) -> anyhow::Result<bool> {
        let ebpf = self.ebpf.lock();
        let program: &SchedClassifier =
            ebpf.program("weir_drained").context("no such program")?.try_into()?;
        let options = TestRunOptions { data_in: Some(bytes(client)), ..TestRunOptions::default() };
        Ok(program.test_run(options)?.return_value != 0)
    }
}

#[expect(unsafe_code, reason = "a key as the kernel half reads it")]
fn bytes(key: &FlowKey) -> &[u8] {
    // SAFETY: `#[repr(C)]` without padding, as its size is asserted; borrowed for as long as the key.
    unsafe { std::slice::from_raw_parts((&raw const *key).cast(), size_of::<FlowKey>()) }
}

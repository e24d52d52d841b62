//! The harness: network namespaces, cgroups, pods, the agent, scripted upstreams.
//!
//! Everything is named `weir-t<pid>-<n>...`, so that runs in parallel do not meet, and everything is
//! removed on drop; what a killed run left behind is removed by [`sweep::dead_runs`].

pub mod agent;
pub mod apiserver;
pub mod binary;
pub mod bpffs;
pub mod cgroup;
pub mod conversation;
pub mod http;
pub mod kernel;
pub mod manifest;
pub mod metrics;
pub mod netns;
pub mod pattern;
pub mod peer;
pub mod pod;
pub mod process;
pub mod requirements;
pub mod run;
pub mod scene;
pub mod shell;
pub mod streams;
pub mod sweep;
pub mod topology;
pub mod wait;

/// Ends a test early, and says why, on a machine where the kernel tests cannot run.
#[macro_export]
macro_rules! needs_kernel {
    () => {
        if !$crate::requirements::kernel_tests() {
            return Ok(());
        }
    };
}

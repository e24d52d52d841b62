//! What the kernel tests need, and what happens where it is missing.

use crate::cgroup;
use std::{fs, path::Path, process::Command};

/// What this machine lacks, one sentence each; empty when the kernel tests can run.
#[must_use]
pub fn missing() -> Vec<String> {
    let mut lacks = Vec::new();
    if !rustix::process::geteuid().is_root() {
        lacks.push("root: namespaces, cgroups and BPF need it".to_owned());
    }
    if cgroup::mount_point().is_none() {
        lacks.push("cgroup v2: mount it, for example on /sys/fs/cgroup".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        lacks.push("a kernel with BPF type information (/sys/kernel/btf/vmlinux)".to_owned());
    }
    if fs::metadata("/proc/sys/kernel/unprivileged_bpf_disabled").is_err() {
        lacks.push("a kernel with BPF system calls".to_owned());
    }
    for tool in ["ip", "nsenter"] {
        if Command::new(tool).arg("-V").output().is_err() {
            lacks.push(format!("the command `{tool}`"));
        }
    }
    lacks
}

/// True where a missing requirement must fail the tests instead of skipping them.
#[must_use]
pub fn required() -> bool {
    let set = |name| std::env::var(name).is_ok_and(|value| matches!(value.as_str(), "1" | "true"));
    set("WEIR_REQUIRE_KERNEL") || set("CI")
}

/// True when the kernel tests can run. Otherwise says why not, and fails where they are required.
///
/// # Panics
/// When something is missing and `WEIR_REQUIRE_KERNEL=1` or `CI=true`.
#[must_use]
pub fn kernel_tests() -> bool {
    let lacks = missing();
    if lacks.is_empty() {
        return true;
    }
    assert!(!required(), "kernel tests are required, but this machine lacks: {}", lacks.join("; "));
    eprintln!("skipped: this machine lacks: {}", lacks.join("; "));
    false
}

/// True when a peer program is installed. Where it is not, prints that the test is skipped, or fails
/// where the tests are required: `cargo xtask setup peers` installs them all.
#[must_use]
pub fn program(name: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()));
    assert!(found || !required(), "`{name}` is required here and not installed");
    if !found {
        eprintln!("skipped: `{name}` is not installed");
    }
    found
}

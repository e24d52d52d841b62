//! Removing what a killed run left behind.

use crate::{bpffs, cgroup, netns, run};
use anyhow::Result;
use std::{fs, path::Path};

/// Removes namespaces, cgroups and directories of runs whose process is gone; returns what was
/// removed, one line each.
pub fn dead_runs() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    if let Some(root) = cgroup::mount_point() {
        for name in orphans(&root) {
            cgroup::remove(&root.join(&name))?;
            removed.push(format!("cgroup {name}"));
        }
    }
    for name in orphans(Path::new(netns::DIRECTORY)) {
        // Another process may sweep at the same time: gone is gone.
        if netns::delete(&name).is_ok() {
            removed.push(format!("namespace {name}"));
        }
    }
    let scratch = std::env::temp_dir();
    for name in orphans(&scratch) {
        bpffs::unmount_below(&scratch.join(&name))?;
        if fs::remove_dir_all(scratch.join(&name)).is_ok() {
            removed.push(format!("directory {name}"));
        }
    }
    Ok(removed)
}

fn orphans(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| run::owner(name).is_some_and(|pid| !alive(pid))).collect()
}

fn alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

//! `cargo xtask clean-host`: removes what a crashed run left behind. Only things of our name, and
//! only where the process that made them is gone; each is listed.

use crate::exec;
use anyhow::{Context, Result};
use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};
use weir_tests::{cgroup, netns};

/// Arguments of `cargo xtask clean-host`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only list what would be removed.
    #[arg(long)]
    dry_run: bool,
}

/// Where BPF objects are pinned.
const BPFFS: &str = "/sys/fs/bpf";

/// Something that nobody alive owns.
#[derive(Debug, PartialEq, Eq)]
enum Leftover {
    Cgroup(PathBuf),
    Namespace(String),
    Link(String),
    Mount(PathBuf),
    Pin(PathBuf),
    Directory(PathBuf),
}

/// Lists and removes; one that cannot be removed does not keep the others.
pub(crate) fn clean_host(args: &Args) -> Result<()> {
    if !exec::is_root() {
        let mut again = exec::as_root(std::env::current_exe()?);
        return exec::run(again.arg("clean-host").args(args.dry_run.then_some("--dry-run")));
    }
    let leftovers = leftovers()?;
    let mut failed = 0_u32;
    for leftover in &leftovers {
        if args.dry_run {
            println!("would remove {leftover}");
        } else if let Err(error) = leftover.remove() {
            failed += 1;
            println!("cannot remove {leftover}: {error:#}");
        } else {
            println!("removed {leftover}");
        }
    }
    if leftovers.is_empty() {
        println!("clean-host: nothing is left over");
    }
    anyhow::ensure!(failed == 0, "{failed} of {} things stay", leftovers.len());
    Ok(())
}

/// In the order in which they can be removed: a cgroup's processes hold namespaces and mounts.
fn leftovers() -> Result<Vec<Leftover>> {
    let mut found = Vec::new();
    if let Some(groups) = cgroup::mount_point() {
        let orphans = ours(&groups).into_iter().filter(|path| unused(path, || !populated(path)));
        found.extend(orphans.map(Leftover::Cgroup));
    }
    let namespaces = ours(Path::new(netns::DIRECTORY));
    let orphans = namespaces.into_iter().filter(|path| unused(path, || !inhabited(path)));
    found.extend(orphans.filter_map(|path| Some(Leftover::Namespace(name(&path)?.to_owned()))));
    let links = ours(Path::new("/sys/class/net")).into_iter().filter(|path| unused(path, || true));
    found.extend(links.filter_map(|path| Some(Leftover::Link(name(&path)?.to_owned()))));
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    found.extend(
        mounts_of_ours(&mounts).into_iter().filter(|path| unused(path, || true)).map(Leftover::Mount),
    );
    if !agent_runs()? {
        found.extend(ours(Path::new(BPFFS)).into_iter().map(Leftover::Pin));
    }
    let directories = ours(&std::env::temp_dir()).into_iter().filter(|path| path.is_dir());
    found.extend(directories.filter(|path| unused(path, || false)).map(Leftover::Directory));
    Ok(found)
}

impl Leftover {
    fn remove(&self) -> Result<()> {
        match self {
            Self::Cgroup(path) => cgroup::remove(path),
            Self::Namespace(name) => netns::delete(name),
            Self::Link(name) => exec::output(Command::new("ip").args(["link", "del", name])).map(drop),
            Self::Mount(path) => exec::output(Command::new("umount").arg(path)).map(drop),
            Self::Pin(path) if path.is_file() => Ok(fs::remove_file(path)?),
            Self::Pin(path) | Self::Directory(path) => Ok(fs::remove_dir_all(path)?),
        }
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Link(name) => write!(f, "network link {name}"),
            Self::Mount(path) => write!(f, "mount {}", path.display()),
            Self::Pin(path) => write!(f, "BPF pin {}", path.display()),
            Self::Directory(path) => write!(f, "directory {}", path.display()),
        }
    }
}

/// Entries of a directory that begin with our name.
fn ours(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| name(path).is_some_and(|name| name.starts_with("weir-")));
    paths.sort();
    paths
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Whether the process that the name tells of is gone; where it tells of none, whether `empty`.
fn unused(path: &Path, empty: impl FnOnce() -> bool) -> bool {
    match name(path).and_then(owner) {
        Some(pid) => !Path::new("/proc").join(pid.to_string()).exists(),
        None => empty(),
    }
}

/// The process id in `weir-<letters><pid>[-...]`.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("weir-")?.trim_start_matches(|c: char| c.is_ascii_lowercase());
    rest.split('-').next()?.parse().ok()
}

fn populated(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

/// Whether a process lives in a named namespace.
fn inhabited(namespace: &Path) -> bool {
    let Ok(wanted) = fs::metadata(namespace) else { return false };
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    processes.flatten().any(|process| {
        fs::metadata(process.path().join("ns/net")).is_ok_and(|found| found.ino() == wanted.ino())
    })
}

/// Mount points with our name, the innermost first. `ip netns` removes its own.
fn mounts_of_ours(mounts: &str) -> Vec<PathBuf> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let mut points: Vec<_> = points
        .filter(|point| !point.starts_with(netns::DIRECTORY) && !point.starts_with("/var/run/netns"))
        .filter(|point| name(point).is_some_and(|name| name.starts_with("weir-")))
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points
}

/// Whether an agent is alive, whose pins these may be.
fn agent_runs() -> Result<bool> {
    let processes = fs::read_dir("/proc").context("/proc")?.flatten();
    Ok(processes
        .filter_map(|process| fs::read_to_string(process.path().join("comm")).ok())
        .any(|command| command.trim() == "weir"))
}

#[cfg(test)]
mod tests {
    use super::{PathBuf, mounts_of_ours, owner, unused};

    #[test]
    fn the_owner_is_read_from_the_name() {
        assert_eq!(owner("weir-t4711-0-node"), Some(4711));
        assert_eq!(owner("weir-bench12"), Some(12));
        assert_eq!(owner("weir-hello"), None);
        assert_eq!(owner("cni-4711"), None);
    }

    #[test]
    fn a_living_owner_keeps_its_things() {
        let mine = PathBuf::from(format!("/run/netns/weir-t{}-0", std::process::id()));
        assert!(!unused(&mine, || true));
        assert!(unused(&PathBuf::from("/run/netns/weir-hello"), || true));
    }

    #[test]
    fn only_mounts_of_our_name_are_found_innermost_first() {
        let mounts = "proc /proc proc rw 0 0\n\
                      tmpfs /tmp/weir-t1-0 tmpfs rw 0 0\n\
                      nsfs /run/netns/weir-t1-0 nsfs rw 0 0\n\
                      bpf /tmp/weir-t1-0/weir-bpf bpf rw 0 0\n";
        assert_eq!(
            mounts_of_ours(mounts),
            [PathBuf::from("/tmp/weir-t1-0/weir-bpf"), PathBuf::from("/tmp/weir-t1-0")]
        );
    }
}

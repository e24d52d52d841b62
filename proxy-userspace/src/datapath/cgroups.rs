//! The cgroup v2 tree: where it is mounted, where pods are, which cgroups exist.

use anyhow::{Context, bail};
use std::{
    collections::HashSet,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Names that kubelet gives the parent of all pods, by cgroup driver.
const POD_PARENTS: [&str; 2] = ["kubepods.slice", "kubepods"];

/// The mount point of the cgroup v2 hierarchy.
pub(super) fn mount_point() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .next()
        .context("no cgroup v2 hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup)")
}

/// Opens a cgroup directory to attach to.
pub(super) fn open(path: &Path) -> anyhow::Result<File> {
    if !path.join("cgroup.procs").exists() {
        bail!("{}: not a cgroup v2 directory", path.display());
    }
    File::open(path).with_context(|| path.display().to_string())
}

/// The parent of all pods: as configured, else kubelet's.
pub(super) fn pod_parent(configured: Option<&Path>, root: &Path) -> anyhow::Result<PathBuf> {
    if let Some(path) = configured {
        return Ok(path.to_owned());
    }
    POD_PARENTS.iter().map(|name| root.join(name)).find(|path| path.is_dir()).with_context(|| {
        format!("no pod cgroup ({}) below {}: set --pod-cgroup", POD_PARENTS.join(", "), root.display())
    })
}

/// How deep below `root` a cgroup is, and its id; those of `root` for a path that is not in its tree.
pub(super) fn place(path: &Path, root: &Path) -> anyhow::Result<(u32, u64)> {
    let below = path.strip_prefix(root).ok();
    let path = below.map_or(root, |_| path);
    let id = fs::metadata(path).with_context(|| path.display().to_string())?.ino();
    Ok((u32::try_from(below.map_or(0, |below| below.components().count()))?, id))
}

/// The smallest cgroup that holds both the pods and the agent: flows between them are seen from here,
/// and nobody else's are. `root` where the agent's own place cannot be told (a cgroup namespace).
pub(super) fn flow_scope(pod_parent: &Path, root: &Path) -> PathBuf {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    common_ancestor(pod_parent, &root.join(own))
        .filter(|scope| scope.starts_with(root))
        .unwrap_or_else(|| root.to_owned())
}

fn common_ancestor(one: &Path, other: &Path) -> Option<PathBuf> {
    one.ancestors().find(|ancestor| other.starts_with(ancestor)).map(Path::to_owned)
}

/// Ids (inode numbers) of every cgroup below `root`.
pub(super) fn ids_below(root: &Path) -> HashSet<u64> {
    let mut ids = HashSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        // A cgroup may go away while we walk: its children are gone with it.
        if let Ok(metadata) = fs::metadata(&directory) {
            ids.insert(metadata.ino());
        }
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        pending.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|e| e.path()),
        );
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_seen_from_the_smallest_cgroup_that_holds_both_ends() {
        let scope = |one: &str, other: &str| common_ancestor(Path::new(one), Path::new(other));
        let path = |path: &str| Some(PathBuf::from(path));
        assert_eq!(scope("/cg/kubepods", "/cg/kubepods/burstable/pod1"), path("/cg/kubepods"));
        assert_eq!(scope("/cg/kubepods", "/cg/system.slice/weir"), path("/cg"));
        assert_eq!(scope("/cg/kubepods", "/cg/"), path("/cg"));
        assert_eq!(scope("/cg/run/pods", "/cg/run/agent"), path("/cg/run"));
    }
}

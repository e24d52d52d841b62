//! Groups of the cgroup v2 hierarchy, made and removed.

use crate::wait;
use anyhow::{Context, Result};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where cgroup v2 is mounted, if it is.
#[must_use]
pub fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// One group; on drop its processes are killed and it is removed.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A group below the mount point, its parents made as needed. Only the named group itself is
    /// removed on drop.
    pub fn new(relative: &str) -> Result<Self> {
        let path = mount_point().context("cgroup v2 is not mounted")?.join(relative);
        fs::create_dir_all(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// A group inside this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that takes process ids.
    #[must_use]
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Its id as BPF programs see it: the directory's inode number.
    pub fn id(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// Ends every process in it and below.
    pub fn kill(&self) -> Result<()> {
        kill(&self.path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("harness: cgroup {} stays: {error:#}", self.path.display());
        }
    }
}

fn kill(group: &Path) -> Result<()> {
    fs::write(group.join("cgroup.kill"), "1").with_context(|| format!("kill {}", group.display()))
}

/// Ends every process in a group and below, and removes it with everything below.
pub fn remove(group: &Path) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    kill(group)?;
    remove_tree(group)
}

fn remove_tree(group: &Path) -> Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    // A killed process leaves its group when it has been reaped by the kernel, not at once.
    wait::until(Duration::from_secs(10), "the cgroup is empty", || {
        fs::remove_dir(group)?;
        Ok(true)
    })
}

/// CPU time that a cgroup has used, with everything below it.
pub fn cpu_time(group: &Path) -> Result<Duration> {
    let path = group.join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let used = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(Duration::from_micros(used.with_context(|| format!("{} has no usage", path.display()))?.parse()?))
}

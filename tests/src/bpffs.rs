//! A BPF file system of a test's own: what is pinned there goes with it.

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// One that is mounted; on drop it is taken away with its pins.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
}

impl Bpffs {
    /// Mounts one in this directory.
    pub fn mount(parent: &Path) -> Result<Self> {
        // `clean-host` takes mounts of our name for what a dead run left.
        let path = parent.join("weir-bpf");
        fs::create_dir_all(&path)?;
        mount("bpf", &path, "bpf", MountFlags::empty(), None)
            .with_context(|| format!("mount {}", path.display()))?;
        Ok(Self { path })
    }

    /// A directory in it that nobody has made yet.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.path.join("pins")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.path, UnmountFlags::DETACH) {
            eprintln!("harness: {} stays mounted: {error}", self.path.display());
        }
    }
}

/// Takes away what is mounted below a directory.
pub fn unmount_below(directory: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    for path in below.filter(|path| path.starts_with(directory)) {
        unmount(path, UnmountFlags::DETACH).with_context(|| format!("unmount {}", path.display()))?;
    }
    Ok(())
}

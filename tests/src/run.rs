//! One run of the harness: its name and its scratch directory.

use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// What every name begins with: namespaces, cgroups, directories.
pub const PREFIX: &str = "weir-t";

static RUNS: AtomicU32 = AtomicU32::new(0);

/// A name that nothing else on this machine has, and a directory of that name for logs and
/// configuration, removed on drop.
#[derive(Debug)]
pub struct Run {
    name: String,
    dir: PathBuf,
}

impl Run {
    /// A new one.
    pub fn new() -> Result<Self> {
        let name = format!("{PREFIX}{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self { name, dir })
    }

    /// `weir-t<pid>-<n>`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The scratch directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("harness: {} stays: {error}", self.dir.display());
        }
    }
}

/// The process that made a thing of this name; `None` where the name is not ours.
#[must_use]
pub fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

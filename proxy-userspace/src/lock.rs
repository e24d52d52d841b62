//! One agent a node: two would fight over sockets and tables, and the second would lose silently.

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    path::Path,
};

/// Held for as long as the agent runs; the kernel releases it however the process ends.
#[derive(Debug)]
pub(crate) struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock in `dir`, which is made if it is missing. Fails with the holder's process id
    /// if another agent has it.
    pub(crate) fn take(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {} (--run-dir)", dir.display()))?;
        let path = dir.join("weir.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            anyhow::ensure!(error == rustix::io::Errno::WOULDBLOCK, "lock {}: {error}", path.display());
            let mut holder = String::new();
            file.read_to_string(&mut holder).with_context(|| format!("read {}", path.display()))?;
            anyhow::bail!(
                "another agent runs on this node: process {} holds {}",
                holder.trim(),
                path.display()
            );
        }
        file.set_len(0).and_then(|()| file.rewind()).with_context(|| format!("write {}", path.display()))?;
        writeln!(file, "{}", std::process::id()).with_context(|| format!("write {}", path.display()))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = RunLock::take(dir.path()).unwrap();
        let refused = RunLock::take(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(held);
        RunLock::take(dir.path()).unwrap();
    }
}

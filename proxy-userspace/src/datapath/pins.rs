//! What stays in the kernel when the agent goes: links to programs that carry verdicts, as files of a BPF file
//! system. Programs hold the tables that they ask, so links are all that has to be kept.
//!
//! The next agent makes its own programs and tables, and exchanges the program behind each link: at no time is
//! there none, nor are there two that decide one after the other.

use anyhow::{Context, bail, ensure};
use aya::programs::{
    ProgramFd,
    links::{FdLink, PinnedLink},
};
use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
};

/// `BPF_FS_MAGIC`
const BPF_FS: rustix::fs::FsWord = 0xcafe_4a11;
/// `BPF_OBJ_GET`
const OBJ_GET: libc::c_int = 7;
/// `BPF_LINK_UPDATE`
const LINK_UPDATE: libc::c_int = 29;
/// What every file of ours begins with.
const OURS: &str = "weir_";

/// A link that is held; the file holds it too.
#[derive(Debug)]
enum Held {
    Made(#[expect(dead_code, reason = "kept open")] PinnedLink),
    Taken(#[expect(dead_code, reason = "kept open")] OwnedFd),
}

/// A directory of links, by file name.
#[derive(Debug)]
pub(super) struct Pins {
    dir: PathBuf,
    held: BTreeMap<String, Held>,
}

impl Pins {
    /// Opens the directory, and makes it if need be. Whoever may write there decides what the kernel denies:
    /// it must be root's alone.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        if !dir.exists() {
            DirBuilder::new().mode(0o700).create(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        check(dir)?;
        Ok(Self { dir: dir.to_owned(), held: BTreeMap::new() })
    }

    /// Puts a program behind the link of this name, or behind a new one, which `attach` makes.
    pub(super) fn hold(
        &mut self,
        name: String,
        program: &ProgramFd,
        attach: impl FnOnce() -> anyhow::Result<FdLink>,
    ) -> anyhow::Result<()> {
        if self.held.contains_key(&name) {
            return Ok(());
        }
        let path = self.dir.join(&name);
        let held = match take_over(&path, program) {
            Ok(link) => Held::Taken(link),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    // Its cgroup or interface is gone, or it is nothing of ours.
                    tracing::warn!(%error, pin = %path.display(), "a pinned link cannot be taken over");
                    remove(&path)?;
                }
                Held::Made(attach()?.pin(&path).with_context(|| format!("pin {}", path.display()))?)
            }
        };
        self.held.insert(name, held);
        Ok(())
    }

    /// Lets the links go whose names begin so.
    pub(super) fn release(&mut self, begin: &str) -> anyhow::Result<()> {
        let gone: Vec<_> = self.held.keys().filter(|name| name.starts_with(begin)).cloned().collect();
        for name in gone {
            remove(&self.dir.join(&name))?;
            self.held.remove(&name);
        }
        Ok(())
    }

    /// Removes what an agent before this one left, and this one does not hold.
    pub(super) fn remove_others(&self) -> anyhow::Result<()> {
        for path in ours(&self.dir)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !self.held.contains_key(name) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Takes every pinned link of a directory away, and the directory; what there was. Without an agent that holds
/// them nothing is denied any more.
pub(crate) fn unpin(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    check(dir)?;
    let found = ours(dir)?;
    found.iter().try_for_each(|path| remove(path))?;
    fs::remove_dir(dir).with_context(|| format!("remove {}", dir.display()))?;
    Ok(found)
}

/// What `weir unpin` has removed already is gone.
fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn check(dir: &Path) -> anyhow::Result<()> {
    let shown = dir.display();
    let kind = rustix::fs::statfs(dir).with_context(|| shown.to_string())?.f_type;
    ensure!(
        kind == BPF_FS,
        "{shown} is on no BPF file system: mount one (mount -t bpf bpf /sys/fs/bpf) and name a directory in it"
    );
    let found = fs::symlink_metadata(dir).with_context(|| shown.to_string())?;
    if !found.is_dir() || found.uid() != 0 || found.mode() & 0o077 != 0 {
        bail!(
            "{shown} is not root's alone (owner {}, mode {:o}): whoever may write there could let anybody pass; \
             remove it, or chown root and chmod 0700",
            found.uid(),
            found.mode() & 0o7777
        );
    }
    Ok(())
}

fn ours(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let is_ours = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(OURS))
    };
    Ok(paths.into_iter().filter(is_ours).collect())
}

/// Exchanges the program behind a pinned link.
fn take_over(path: &Path, program: &ProgramFd) -> io::Result<OwnedFd> {
    /// `BPF_OBJ_GET`'s part of `union bpf_attr`.
    #[repr(C)]
    struct Get {
        path: u64,
        fd: u32,
        flags: u32,
    }
    /// `BPF_LINK_UPDATE`'s part.
    #[repr(C)]
    struct Update {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let link = bpf(OBJ_GET, &Get { path: name.as_ptr().addr() as u64, fd: 0, flags: 0 })?;
    #[expect(unsafe_code, reason = "a descriptor of a raw system call")]
    // SAFETY: the kernel has just made this descriptor for us.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let number = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
    let update = Update {
        link: number(link.as_raw_fd())?,
        program: number(program.as_fd().as_raw_fd())?,
        flags: 0,
        old_program: 0,
    };
    bpf(LINK_UPDATE, &update)?;
    Ok(link)
}

#[expect(unsafe_code, reason = "aya has no call for it")]
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes are a prefix of `union bpf_attr` that lives during the call; the kernel takes what
    // lies behind their size for zero.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(done).map_err(io::Error::other) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_directory_of_another_file_system_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("{:#}", Pins::open(&dir.path().join("pins")).unwrap_err());
        assert!(text.contains("mount -t bpf"), "{text}");
        assert!(format!("{:#}", unpin(dir.path()).unwrap_err()).contains("mount -t bpf"));
        assert!(unpin(&dir.path().join("nowhere")).unwrap().is_empty());
    }
}

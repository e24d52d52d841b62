//! What is in a directory: all of it, or what some of its names are now.

use super::{Look, ReadError, file_error};
use crate::source::finding::Finding;
use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsStr,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Files of one directory.
const MAX_FILES: usize = 20_000;

/// The files of a directory, and enough about each to tell whether it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// The directory's own device and inode.
    dir: (u64, u64),
    /// By name.
    pub(super) files: Vec<File>,
    /// Names that lead to no readable file.
    pub(super) faults: Vec<Finding>,
    /// Some name that counts is a symlink: what a file is may depend on another name.
    has_symlinks: bool,
}

impl Scan {
    fn find(&self, shown: &Path) -> Result<usize, usize> {
        self.files.binary_search_by(|file| file.shown.as_path().cmp(shown))
    }

    /// A file, by the path that findings name.
    pub(super) fn file(&self, shown: &Path) -> Option<&File> {
        self.find(shown).ok().and_then(|index| self.files.get(index))
    }

    fn set(&mut self, shown: &Path, now: Option<File>) {
        match (self.find(shown), now) {
            (Ok(index), None) => drop(self.files.remove(index)),
            (Ok(index), Some(file)) => {
                if let Some(slot) = self.files.get_mut(index) {
                    *slot = file;
                }
            }
            (Err(index), Some(file)) => self.files.insert(index, file),
            (Err(_), None) => {}
        }
    }

    /// The same directory with these names as they are now; `None` where only a look at all of it can tell.
    fn with(mut self, dir: &Path, paths: &BTreeSet<PathBuf>) -> Option<Self> {
        for (path, now) in self.look_at(dir, paths)? {
            self.set(path, now);
        }
        (self.files.len() <= MAX_FILES).then_some(self)
    }

    /// Whether these names are as they were seen; false where only a look at all of the directory can tell.
    pub(super) fn is_still(&self, dir: &Path, paths: &BTreeSet<PathBuf>) -> bool {
        let now = self.look_at(dir, paths);
        now.is_some_and(|now| now.iter().all(|(path, now)| self.file(path) == now.as_ref()))
    }

    /// What these names are now. `None` where that may matter for others: symlinks lead to them, or they are
    /// something odd.
    fn look_at<'a>(&self, dir: &Path, paths: &'a BTreeSet<PathBuf>) -> Option<Vec<(&'a Path, Option<File>)>> {
        if self.has_symlinks || !self.faults.is_empty() {
            return None;
        }
        let metadata = fs::metadata(dir).ok()?;
        if (metadata.dev(), metadata.ino()) != self.dir {
            return None;
        }
        let real = fs::canonicalize(dir).ok()?;
        let mut all = Vec::with_capacity(paths.len());
        for path in paths {
            let name = path.file_name().filter(|_| path.parent() == Some(dir))?;
            if is_hidden(name) {
                continue;
            }
            let now = match fs::symlink_metadata(path) {
                Ok(metadata) if metadata.is_dir() => None,
                Ok(metadata) if metadata.is_file() && is_manifest(path) => {
                    Some(File { shown: path.clone(), real: real.join(name), stamp: stamp(&metadata) })
                }
                Ok(metadata) if !metadata.is_symlink() && !is_manifest(path) => None,
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                _ => return None,
            };
            all.push((path.as_path(), now));
        }
        Some(all)
    }
}

impl Look {
    /// The directory as it is now, and where it was looked at; `old` is how it was.
    pub(super) fn scan(self, dir: &Path, old: Option<Scan>) -> Result<(Scan, Self), ReadError> {
        let partial = match &self {
            Self::At(paths) => old.and_then(|old| old.with(dir, paths)),
            Self::Everywhere => None,
        };
        match partial {
            Some(partial) => Ok((partial, self)),
            None => Ok((scan(dir)?, Self::Everywhere)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// As findings name it.
    pub(super) shown: PathBuf,
    /// Without symlinks: a swap while we read cannot mix two versions.
    pub(super) real: PathBuf,
    /// Device, inode, size, and times of last change.
    stamp: [i128; 5],
}

pub(super) fn scan(dir: &Path) -> Result<Scan, ReadError> {
    let failed = |why| ReadError::Directory { dir: dir.to_owned(), why };
    let metadata = fs::metadata(dir).map_err(failed)?;
    let mut scanner = Scanner::default();
    scanner.enter(dir).map_err(failed)?;
    scanner.files.sort_by(|a, b| a.shown.cmp(&b.shown));
    let mut seen = HashSet::new();
    scanner.files.retain(|file| seen.insert(file.real.clone()));
    scanner.faults.sort();
    if scanner.files.len() > MAX_FILES {
        let text = format!("has more than {MAX_FILES} manifests");
        return Err(ReadError::Files(vec![file_error(&dir.to_string_lossy(), 0, &text, "join them")]));
    }
    let Scanner { files, faults, has_symlinks, .. } = scanner;
    Ok(Scan { dir: (metadata.dev(), metadata.ino()), files, faults, has_symlinks })
}

#[derive(Default)]
struct Scanner {
    files: Vec<File>,
    faults: Vec<Finding>,
    entered: HashSet<PathBuf>,
    has_symlinks: bool,
}

impl Scanner {
    fn enter(&mut self, dir: &Path) -> io::Result<()> {
        let real = fs::canonicalize(dir)?;
        if !self.entered.insert(real.clone()) {
            return Ok(());
        }
        for entry in fs::read_dir(dir)? {
            if self.files.len() > MAX_FILES {
                break;
            }
            let entry = entry?;
            let is_symlink = entry.file_type()?.is_symlink();
            if !is_hidden(&entry.file_name()) {
                self.has_symlinks |= is_symlink;
                self.look_at(&real, entry.path(), is_symlink);
            }
        }
        Ok(())
    }

    fn look_at(&mut self, dir: &Path, path: PathBuf, is_symlink: bool) {
        let outcome = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() && is_symlink => self.enter(&path),
            Ok(metadata) if metadata.is_dir() => Ok(()),
            _ if !is_manifest(&path) => Ok(()),
            Ok(metadata) if metadata.is_file() => {
                let real = match path.file_name() {
                    Some(name) if !is_symlink => Ok(dir.join(name)),
                    _ => fs::canonicalize(&path),
                };
                let shown = path.clone();
                real.map(|real| self.files.push(File { shown, real, stamp: stamp(&metadata) }))
            }
            Ok(_) => Err(io::Error::other("is not a regular file")),
            // Removed since the directory was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_symlink => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.faults.push(file_error(&path.to_string_lossy(), 0, &format!("cannot be read: {error}"), ""));
        }
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json")
}

fn stamp(metadata: &fs::Metadata) -> [i128; 5] {
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    [
        metadata.dev().into(),
        metadata.ino().into(),
        metadata.size().into(),
        nanos(metadata.mtime(), metadata.mtime_nsec()),
        nanos(metadata.ctime(), metadata.ctime_nsec()),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    /// One of a few names becomes a file, a directory, a symlink, or nothing.
    fn change(dir: &Path, (name, kind, size): (usize, u8, u8)) -> PathBuf {
        let names = ["a.yaml", "b.yaml", "c.json", "d.txt", ".e.yaml"];
        let path = dir.join(names.get(name % names.len()).unwrap());
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir(&path).unwrap();
        } else if path.is_symlink() || path.exists() {
            fs::remove_file(&path).unwrap();
        }
        match kind {
            0..=3 => fs::write(&path, "#".repeat(usize::from(size))).unwrap(),
            4 => fs::create_dir(&path).unwrap(),
            5 => symlink("a.yaml", &path).unwrap(),
            _ => {}
        }
        path
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn a_look_at_what_changed_sees_what_a_look_at_all_sees(
            steps in proptest::collection::vec((any::<usize>(), 0..8_u8, any::<u8>()), 1..30)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut known = scan(dir.path()).unwrap();
            for step in steps {
                let changed = change(dir.path(), step);
                (known, _) = Look::At([changed].into()).scan(dir.path(), Some(known)).unwrap();
                prop_assert_eq!(&known, &scan(dir.path()).unwrap());
            }
        }
    }
}

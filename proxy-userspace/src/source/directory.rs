//! A directory of manifests: `*.yaml`, `*.yml`, `*.json`. Dotfiles are skipped, subdirectories too
//! unless they are symlinks. That reads each object of a mounted ConfigMap once, whose files are
//! symlinks to `..data/NAME`, which is a symlink to `..DATE/`.

mod watch;

pub use watch::{Watch, Watching};

use super::{
    Objects,
    finding::Finding,
    manifest::{self, MAX_FILE_BYTES, file_error},
};
use std::{
    collections::{HashMap, HashSet},
    fmt, fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Files of one directory.
const MAX_FILES: usize = 20_000;
/// Bytes of one directory's files.
const MAX_TOTAL_BYTES: usize = 512 << 20;
/// For the deepest document that `manifest` allows; a level takes up to 45 KiB in a debug build.
const STACK_BYTES: usize = 8 << 20;
/// Readings of a directory that changes while it is read, before one is taken as it is.
const MAX_READINGS: usize = 3;

/// Why a directory gave no objects.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The directory itself cannot be read.
    #[error("configuration directory {dir}: {why} (create it, or correct --config)", dir = .dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// A file cannot be read or parsed; all findings so far, sorted.
    #[error("{}", Lines(.0))]
    Files(Vec<Finding>),
}

/// Findings, one a line.
struct Lines<'a>(&'a [Finding]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("configuration cannot be read")?;
        self.0.iter().try_for_each(|finding| write!(f, "\n{finding}"))
    }
}

/// Reads a directory once. An object that is not what its kind should be is a finding and affects
/// itself alone; a file that cannot be read or parsed, or is empty, fails the whole reading.
pub fn read(dir: &Path) -> Result<(Objects, Vec<Finding>), ReadError> {
    Directory::new(dir).read().0
}

/// What a reading found.
type Reading = Result<(Objects, Vec<Finding>), ReadError>;

/// A directory that is read again and again: of a file that did not change nothing is read.
struct Directory {
    dir: PathBuf,
    /// Every file as it was read last, by the path that findings name.
    files: HashMap<PathBuf, Parsed>,
    /// What the last reading without a broken file found.
    objects: Objects,
    /// The files that `objects` is made of.
    used: HashMap<PathBuf, Arc<Contents>>,
}

/// A file, and what it held.
struct Parsed {
    file: File,
    contents: Result<Arc<Contents>, Finding>,
}

/// What one file holds.
#[derive(Default)]
struct Contents {
    bytes: usize,
    objects: Objects,
    findings: Vec<Finding>,
}

impl Directory {
    fn new(dir: &Path) -> Self {
        let (files, used) = Default::default();
        Self { dir: dir.to_owned(), files, objects: Objects::default(), used }
    }

    /// Reads on a thread of its own: the parser recurses, and only there the stack is known to suffice.
    fn read(&mut self) -> (Reading, Option<Scan>) {
        let dir = self.dir.clone();
        let failed = |why| (Err(ReadError::Directory { dir, why }), None);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("weir-config".into()).stack_size(STACK_BYTES);
            let outcome = thread.spawn_scoped(scope, || self.read_stable());
            match outcome.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(reading)) => reading,
                Ok(Err(_)) => failed(io::Error::other("reading it panicked")),
                Err(error) => failed(error),
            }
        })
    }

    /// Reads until the directory is the same before and after, so that a change of several files that
    /// is atomic (a symlink swap) is seen whole. Also tells what was read.
    fn read_stable(&mut self) -> (Reading, Option<Scan>) {
        let mut before = match scan(&self.dir) {
            Ok(scan) => scan,
            Err(error) => return (Err(error), None),
        };
        let mut readings = 0;
        loop {
            let read = self.read_files(&before);
            readings += 1;
            match scan(&self.dir) {
                Err(error) => return (Err(error), None),
                Ok(after) if after == before || readings == MAX_READINGS => {
                    return (read.and_then(|()| self.merge(&before)), Some(before));
                }
                Ok(after) => before = after,
            }
        }
    }

    /// Reads the files that changed.
    fn read_files(&mut self, scan: &Scan) -> Result<(), ReadError> {
        let mut old = std::mem::take(&mut self.files);
        let mut total = 0;
        for file in &scan.files {
            let known = old.remove(&file.shown).filter(|known| known.file == *file);
            let parsed = known.unwrap_or_else(|| Parsed { file: file.clone(), contents: parse(file) });
            total += parsed.contents.as_ref().map_or(0, |contents| contents.bytes);
            self.files.insert(file.shown.clone(), parsed);
            if total > MAX_TOTAL_BYTES {
                let text = format!("the directory exceeds {} MiB", MAX_TOTAL_BYTES >> 20);
                let name = file.shown.to_string_lossy();
                return Err(ReadError::Files(vec![file_error(&name, 0, &text, "split it over less")]));
            }
        }
        Ok(())
    }

    /// Makes one of all files; what did not change is not touched.
    fn merge(&mut self, scan: &Scan) -> Reading {
        let mut broken = scan.faults.clone();
        broken.extend(self.files.values().filter_map(|parsed| parsed.contents.as_ref().err()).cloned());
        let good = || self.files.iter().filter_map(|(shown, one)| Some((shown, one.contents.as_ref().ok()?)));
        let mut findings: Vec<_> = good().flat_map(|(_, contents)| &contents.findings).cloned().collect();
        if !broken.is_empty() {
            broken.append(&mut findings);
            broken.sort();
            return Err(ReadError::Files(broken));
        }
        let nothing = Objects::default();
        let mut used = HashMap::with_capacity(self.files.len());
        for (shown, contents) in good() {
            let old = self.used.remove(shown);
            if old.as_ref().is_none_or(|old| !Arc::ptr_eq(old, contents)) {
                let before = old.as_ref().map_or(&nothing, |old| &old.objects);
                self.objects.exchange(before, &contents.objects);
            }
            used.insert(shown.clone(), Arc::clone(contents));
        }
        for gone in self.used.values() {
            self.objects.exchange(&gone.objects, &nothing);
        }
        self.used = used;
        Ok((self.objects.clone(), findings))
    }
}

fn parse(file: &File) -> Result<Arc<Contents>, Finding> {
    let name: Arc<str> = file.shown.to_string_lossy().into();
    let text = contents(&file.real, &name)?;
    let mut contents = Contents { bytes: text.len(), ..Contents::default() };
    manifest::parse(&name, &text, &mut contents.objects, &mut contents.findings)?;
    Ok(Arc::new(contents))
}

fn contents(path: &Path, name: &str) -> Result<Vec<u8>, Finding> {
    let mut text = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut text))
        .map_err(|error| file_error(name, 0, &format!("cannot be read: {error}"), ""))?;
    if text.len() > MAX_FILE_BYTES {
        let text = format!("is larger than {} MiB", MAX_FILE_BYTES >> 20);
        return Err(file_error(name, 0, &text, "split it"));
    }
    Ok(text)
}

/// The files of a directory, and enough about each to tell whether it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scan {
    /// The directory's own device and inode.
    dir: (u64, u64),
    /// By name.
    files: Vec<File>,
    /// Names that lead to no readable file.
    faults: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    /// As findings name it.
    shown: PathBuf,
    /// Without symlinks: a swap while we read cannot mix two versions.
    real: PathBuf,
    /// Device, inode, size, and times of last change.
    stamp: [i128; 5],
}

fn scan(dir: &Path) -> Result<Scan, ReadError> {
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
    Ok(Scan { dir: (metadata.dev(), metadata.ino()), files: scanner.files, faults: scanner.faults })
}

#[derive(Default)]
struct Scanner {
    files: Vec<File>,
    faults: Vec<Finding>,
    entered: HashSet<PathBuf>,
}

impl Scanner {
    fn enter(&mut self, dir: &Path) -> io::Result<()> {
        if !self.entered.insert(fs::canonicalize(dir)?) {
            return Ok(());
        }
        for entry in fs::read_dir(dir)? {
            if self.files.len() > MAX_FILES {
                break;
            }
            let entry = entry?;
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                self.look_at(entry.path(), entry.file_type()?.is_symlink());
            }
        }
        Ok(())
    }

    fn look_at(&mut self, path: PathBuf, is_symlink: bool) {
        let is_manifest = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json");
        let outcome = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() && is_symlink => self.enter(&path),
            Ok(metadata) if metadata.is_dir() => Ok(()),
            _ if !is_manifest => Ok(()),
            Ok(metadata) if metadata.is_file() => self.add(&path, &metadata),
            Ok(_) => Err(io::Error::other("is not a regular file")),
            // Removed since the directory was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_symlink => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.faults.push(file_error(&path.to_string_lossy(), 0, &format!("cannot be read: {error}"), ""));
        }
    }

    fn add(&mut self, path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let stamp = [
            metadata.dev().into(),
            metadata.ino().into(),
            metadata.size().into(),
            nanos(metadata.mtime(), metadata.mtime_nsec()),
            nanos(metadata.ctime(), metadata.ctime_nsec()),
        ];
        self.files.push(File { shown: path.to_owned(), real: fs::canonicalize(path)?, stamp });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use std::os::unix::fs::symlink;

    fn service(name: &str) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n")
    }

    fn names(dir: &Path) -> Vec<String> {
        let (objects, findings) = read(dir).unwrap();
        assert_eq!(findings, []);
        let mut names: Vec<_> = objects.services.iter().map(|service| service.name.clone()).collect();
        names.sort();
        names
    }

    #[test]
    fn yaml_yml_and_json_are_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.yaml", "b.yml", "c.json", "d.txt", ".e.yaml", "f.yaml~"] {
            fs::write(dir.path().join(name), service(&name[..1].replace('.', "x"))).unwrap();
        }
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/g.yaml"), service("g")).unwrap();
        assert_eq!(names(dir.path()), ["a", "b", "c"]);
    }

    #[test]
    fn an_empty_directory_is_valid() {
        assert!(names(tempfile::tempdir().unwrap().path()).is_empty());
    }

    #[test]
    fn a_mounted_config_map_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("..2024")).unwrap();
        fs::write(dir.path().join("..2024/a.yaml"), service("a")).unwrap();
        symlink("..2024", dir.path().join("..data")).unwrap();
        symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
        symlink("..data/a.yaml", dir.path().join("again.yaml")).unwrap();
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_symlinked_directory_is_entered_even_in_a_circle() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("a.yaml"), service("a")).unwrap();
        symlink(other.path(), dir.path().join("other")).unwrap();
        symlink(dir.path(), other.path().join("back")).unwrap();
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_missing_directory_says_what_to_do() {
        let error = read(Path::new("/nonexistent/weir")).unwrap_err().to_string();
        assert!(
            error.contains("/nonexistent/weir") && error.contains("create it, or correct --config"),
            "{error}"
        );
    }

    #[test]
    fn a_broken_file_fails_the_reading_with_all_findings() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "a: [\n").unwrap();
        fs::write(dir.path().join("b.yaml"), "kind: Service\n").unwrap();
        fs::write(dir.path().join("c.yaml"), "").unwrap();
        symlink("gone", dir.path().join("d.yaml")).unwrap();
        let Err(ReadError::Files(findings)) = read(dir.path()) else { panic!() };
        let files: Vec<_> = findings.iter().map(|finding| finding.file.rsplit('/').next().unwrap()).collect();
        assert_eq!(files, ["a.yaml", "b.yaml", "c.yaml", "d.yaml"]);
    }

    #[test]
    fn c1_a_file_over_the_limit_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join("big.yaml")).unwrap().set_len(100 << 20).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("big.yaml: is larger than 16 MiB"), "{error}");
    }

    #[test]
    fn alias_bombs_and_deep_nesting_hit_a_limit() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let alias = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![alias; 9].join(", "));
        }
        let deep: String =
            (0..10_000).map(|level: usize| format!("{}a:\n", " ".repeat(level.min(200)))).collect();
        for text in [bomb, deep, "[".repeat(10_000)] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("a.yaml"), text).unwrap();
            assert!(read(dir.path()).unwrap_err().to_string().contains("cannot be parsed"));
        }
    }

    #[test]
    fn the_deepest_document_allowed_fits_the_stack() {
        let dir = tempfile::tempdir().unwrap();
        let deep: String = (0..64).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        fs::write(dir.path().join("a.yaml"), deep).unwrap();
        assert_eq!(read(dir.path()).unwrap().1.len(), 1);
    }

    #[test]
    fn a_second_reading_shares_what_did_not_change() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("a.yaml", &service("a"));
        write("b.yaml", &(service("b") + "---\n" + &service("c")));
        let mut directory = Directory::new(dir.path());
        let first = directory.read().0.unwrap().0;
        let unchanged = directory.read().0.unwrap().0.changes(&first);
        assert!(unchanged.is_empty(), "{unchanged:?}");
        write("b.yaml", &(service("b") + "---\n" + &service("d")));
        let second = directory.read().0.unwrap().0;
        let changed = second.changes(&first).services;
        assert_eq!(changed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["default/c", "default/d"]);
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        let third = directory.read().0.unwrap().0.changes(&second).services;
        assert_eq!(third.iter().map(ToString::to_string).collect::<Vec<_>>(), ["default/a"]);
    }

    #[test]
    fn a_broken_file_costs_nothing_that_was_read_before() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("a.yaml", &service("a"));
        write("b.yaml", &service("b"));
        let mut directory = Directory::new(dir.path());
        let first = directory.read().0.unwrap().0;
        write("b.yaml", "{");
        write("a.yaml", &service("a2"));
        assert!(matches!(directory.read().0, Err(ReadError::Files(_))));
        write("b.yaml", &service("b2"));
        let changed = directory.read().0.unwrap().0.changes(&first).services;
        let changed: Vec<_> = changed.iter().map(ToString::to_string).collect();
        assert_eq!(changed, ["default/a", "default/a2", "default/b", "default/b2"]);
    }

    #[test]
    fn a_pipe_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("p.yaml"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("not a regular file"));
    }
}

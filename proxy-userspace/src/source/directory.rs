//! A directory of manifests: `*.yaml`, `*.yml`, `*.json`. Dotfiles are skipped, subdirectories too
//! unless they are symlinks. That reads each object of a mounted ConfigMap once, whose files are
//! symlinks to `..data/NAME`, which is a symlink to `..DATE/`.

mod scan;
mod watch;

pub use watch::{Watch, Watching};

use super::{
    Objects,
    finding::Finding,
    manifest::{self, MAX_FILE_BYTES, file_error},
};
use scan::{File, Scan, scan};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

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
    Directory::new(dir).read(Look::Everywhere)
}

/// What a reading found.
type Reading = Result<(Objects, Vec<Finding>), ReadError>;

/// A directory that is read again and again: of a file that did not change nothing is read.
#[derive(Default)]
struct Directory {
    dir: PathBuf,
    /// What the last reading saw; `None` after one that did not get to its end.
    scan: Option<Scan>,
    /// Every file as it was read last, by the path that findings name.
    files: HashMap<PathBuf, Parsed>,
    /// Bytes of them.
    bytes: usize,
    /// What is wrong with those that are no manifests, and within those that are.
    broken: BTreeMap<PathBuf, Finding>,
    faulty: BTreeMap<PathBuf, Arc<Contents>>,
    /// What the last reading without a broken file found.
    objects: Objects,
    /// The files that `objects` is made of,
    used: HashMap<PathBuf, Arc<Contents>>,
    /// and those that are others by now.
    stale: BTreeSet<PathBuf>,
}

/// What a reading has to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Look {
    /// The whole directory.
    Everywhere,
    /// These files alone.
    At(BTreeSet<PathBuf>),
}

/// A file, and what it held.
struct Parsed {
    file: File,
    contents: Result<Arc<Contents>, Finding>,
}

impl Parsed {
    fn bytes(&self) -> usize {
        self.contents.as_ref().map_or(0, |contents| contents.bytes)
    }
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
        Self { dir: dir.to_owned(), ..Self::default() }
    }

    /// Reads on a thread of its own: the parser recurses, and only there the stack is known to suffice.
    fn read(&mut self, look: Look) -> Reading {
        let dir = self.dir.clone();
        let failed = |why| Err(ReadError::Directory { dir, why });
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("weir-config".into()).stack_size(STACK_BYTES);
            let outcome = thread.spawn_scoped(scope, || self.read_stable(look));
            match outcome.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(reading)) => reading,
                Ok(Err(_)) => failed(io::Error::other("reading it panicked")),
                Err(error) => failed(error),
            }
        })
    }

    /// Reads until the directory is the same before and after, so that a change of several files that
    /// is atomic (a symlink swap) is seen whole.
    fn read_stable(&mut self, look: Look) -> Reading {
        let old = self.scan.take();
        let (mut before, mut look) = look.scan(&self.dir, old)?;
        let mut readings = 0;
        loop {
            let read = self.read_files(&before, &look);
            readings += 1;
            let other = match &look {
                Look::At(paths) if before.is_still(&self.dir, paths) => None,
                _ => Some(scan(&self.dir)?).filter(|after| *after != before),
            };
            if let Some(after) = other.filter(|_| readings < MAX_READINGS) {
                (before, look) = (after, Look::Everywhere);
                continue;
            }
            let reading = read.and_then(|()| self.merge(&before));
            self.scan = Some(before);
            return reading;
        }
    }

    /// Whether the directory is another one than was read last.
    fn has_changed(&self) -> bool {
        scan(&self.dir).ok() != self.scan
    }

    /// Reads the files that changed, and forgets those that are gone.
    fn read_files(&mut self, scan: &Scan, look: &Look) -> Result<(), ReadError> {
        let gone: Vec<PathBuf> = match look {
            Look::Everywhere => self.files.keys().filter(|path| scan.file(path).is_none()).cloned().collect(),
            Look::At(paths) => paths.iter().filter(|path| scan.file(path).is_none()).cloned().collect(),
        };
        gone.iter().for_each(|path| self.set(path, None));
        let files: Vec<&File> = match look {
            Look::Everywhere => scan.files.iter().collect(),
            Look::At(paths) => paths.iter().filter_map(|path| scan.file(path)).collect(),
        };
        for file in files {
            if self.files.get(&file.shown).is_some_and(|known| known.file == *file) {
                continue;
            }
            self.set(&file.shown, Some(Parsed { file: file.clone(), contents: parse(file) }));
            if self.bytes > MAX_TOTAL_BYTES {
                break;
            }
        }
        if self.bytes > MAX_TOTAL_BYTES {
            let name = self.dir.to_string_lossy();
            let text = format!("the directory exceeds {} MiB", MAX_TOTAL_BYTES >> 20);
            return Err(ReadError::Files(vec![file_error(&name, 0, &text, "split it over less")]));
        }
        Ok(())
    }

    /// A file is like this now.
    fn set(&mut self, path: &Path, now: Option<Parsed>) {
        self.broken.remove(path);
        self.faulty.remove(path);
        match now.as_ref().map(|parsed| &parsed.contents) {
            Some(Err(finding)) => drop(self.broken.insert(path.to_owned(), finding.clone())),
            Some(Ok(contents)) if !contents.findings.is_empty() => {
                self.faulty.insert(path.to_owned(), Arc::clone(contents));
            }
            _ => {}
        }
        self.bytes += now.as_ref().map_or(0, Parsed::bytes);
        let old = match now {
            Some(parsed) => self.files.insert(path.to_owned(), parsed),
            None => self.files.remove(path),
        };
        self.bytes -= old.as_ref().map_or(0, Parsed::bytes);
        self.stale.insert(path.to_owned());
    }

    /// Makes one of all files; what did not change is not touched.
    fn merge(&mut self, scan: &Scan) -> Reading {
        let mut findings: Vec<_> = self.faulty.values().flat_map(|one| &one.findings).cloned().collect();
        if !scan.faults.is_empty() || !self.broken.is_empty() {
            findings.extend(scan.faults.iter().chain(self.broken.values()).cloned());
            findings.sort();
            return Err(ReadError::Files(findings));
        }
        let nothing = Objects::default();
        for path in std::mem::take(&mut self.stale) {
            let new = self.files.get(&path).and_then(|one| one.contents.as_ref().ok()).cloned();
            let old = match &new {
                Some(new) => self.used.insert(path, Arc::clone(new)),
                None => self.used.remove(&path),
            };
            let of = |one: &Option<Arc<Contents>>| one.as_ref().map(|one| one.objects.clone());
            self.objects
                .exchange(&of(&old).unwrap_or_else(|| nothing.clone()), &of(&new).unwrap_or_default());
        }
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
    fn d23_alias_bombs_and_deep_nesting_hit_a_limit() {
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
        let first = directory.read(Look::Everywhere).unwrap().0;
        let unchanged = directory.read(Look::Everywhere).unwrap().0.changes(&first);
        assert!(unchanged.is_empty(), "{unchanged:?}");
        write("b.yaml", &(service("b") + "---\n" + &service("d")));
        let second = directory.read(Look::Everywhere).unwrap().0;
        let changed = second.changes(&first).services;
        assert_eq!(changed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["default/c", "default/d"]);
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        let third = directory.read(Look::Everywhere).unwrap().0.changes(&second).services;
        assert_eq!(third.iter().map(ToString::to_string).collect::<Vec<_>>(), ["default/a"]);
    }

    #[test]
    fn a_look_at_one_file_reads_that_one_alone() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let at = |name: &str| Look::At([dir.path().join(name)].into());
        write("a.yaml", &service("a"));
        write("b.yaml", &service("b"));
        let mut directory = Directory::new(dir.path());
        let first = directory.read(Look::Everywhere).unwrap().0;
        write("a.yaml", &service("a2"));
        write("b.yaml", &service("b2"));
        let changes = |new: &Objects, old: &Objects| -> Vec<String> {
            new.changes(old).services.iter().map(ToString::to_string).collect()
        };
        let second = directory.read(at("a.yaml")).unwrap().0;
        assert_eq!(changes(&second, &first), ["default/a", "default/a2"]);
        assert!(directory.has_changed(), "somebody has to look at the other one");
        write("a.yaml", "{");
        assert!(matches!(directory.read(at("a.yaml")), Err(ReadError::Files(_))));
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        let third = directory.read(Look::Everywhere).unwrap().0;
        assert_eq!(changes(&third, &second), ["default/a2", "default/b", "default/b2"]);
        assert!(!directory.has_changed());
    }

    #[test]
    fn a_broken_file_costs_nothing_that_was_read_before() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("a.yaml", &service("a"));
        write("b.yaml", &service("b"));
        let mut directory = Directory::new(dir.path());
        let first = directory.read(Look::Everywhere).unwrap().0;
        write("b.yaml", "{");
        write("a.yaml", &service("a2"));
        assert!(matches!(directory.read(Look::Everywhere), Err(ReadError::Files(_))));
        write("b.yaml", &service("b2"));
        let changed = directory.read(Look::Everywhere).unwrap().0.changes(&first).services;
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

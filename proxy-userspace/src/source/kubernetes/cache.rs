//! The objects on disk, for a start while the API server is away.
//!
//! One line an object, `PLURAL NAMESPACE/NAME JSON`, and a last one that counts and sums what is above it.
//! A file is written beside the old one, out of what is in that and what changed since: the JSON is
//! nowhere in memory for longer than until it is written. Whoever reads it sees the old one or the new
//! one, and takes neither whose sum is wrong.

use super::kind::KINDS;
use anyhow::{Context as _, ensure};
use crc32fast::Hasher;
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// How the first line begins; another format is not read.
const FORMAT: &str = "weir-objects 1";
/// How the last line begins.
const END: &str = "end ";
/// Bytes of a file that is read.
const MAX_BYTES: u64 = 1 << 30;

/// `services demo/web`
type Place = String;

/// What changed since the file was written.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Resources of which the file counts, but for what follows.
    built_upon: HashSet<&'static str>,
    /// Objects by place; `None` where one is gone.
    objects: HashMap<Place, Option<Box<str>>>,
}

impl Pending {
    /// Nothing of the file counts: everything follows.
    pub(super) fn everything() -> Self {
        Self { built_upon: HashSet::new(), objects: HashMap::new() }
    }

    /// All of the file counts.
    pub(super) fn nothing() -> Self {
        Self { built_upon: KINDS.iter().map(|kind| kind.plural).collect(), objects: HashMap::new() }
    }

    /// What the file has of a resource counts.
    pub(super) fn build_upon(&mut self, plural: &'static str) {
        self.built_upon.insert(plural);
    }

    /// There is an object, or another one than before.
    pub(super) fn set(&mut self, plural: &str, key: &str, json: impl Into<Box<str>>) {
        self.objects.insert(place(plural, key), Some(json.into()));
    }

    /// There is none any more.
    pub(super) fn forget(&mut self, plural: &str, key: &str) {
        self.objects.insert(place(plural, key), None);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.built_upon.len() == KINDS.len()
    }

    /// Puts back what could not be written: what came later counts more.
    pub(super) fn put_back(&mut self, unwritten: Self) {
        for (place, object) in unwritten.objects {
            self.objects.entry(place).or_insert(object);
        }
        self.built_upon = unwritten.built_upon;
    }
}

fn place(plural: &str, key: &str) -> Place {
    format!("{plural} {key}")
}

/// An object of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) plural: String,
    pub(super) json: String,
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    path: PathBuf,
    /// Its first line: the format, the cluster, and all resources. A file of another cluster, or one that
    /// lacks what is enforced by now, is not ours.
    header: String,
}

/// Why a file was not written.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// What it builds upon is not there, or not whole.
    Base(anyhow::Error),
    /// It cannot be.
    Failed(anyhow::Error),
}

impl Cache {
    pub(super) fn new(dir: &Path, cluster: &str) -> Self {
        let resources: Vec<_> = KINDS.iter().map(|kind| kind.plural).collect();
        Self {
            path: dir.join("objects.json"),
            header: format!("{FORMAT} {} {}", cluster.escape_debug(), resources.join(",")),
        }
    }

    /// Writes a file that has what is pending, and of the old one what is not. Whatever happens meanwhile,
    /// the path leads to a whole file.
    pub(super) fn write(&self, pending: &Pending) -> Result<(), Unwritten> {
        let next = self.path.with_extension("json.tmp");
        let outcome = self.write_to(&next, pending);
        if outcome.is_err() {
            // The reason is in the outcome.
            let _ = fs::remove_file(&next);
        }
        let of = || format!("write {}", self.path.display());
        outcome.map_err(|unwritten| match unwritten {
            Unwritten::Base(error) => Unwritten::Base(error.context(of())),
            Unwritten::Failed(error) => Unwritten::Failed(error.context(of())),
        })
    }

    fn write_to(&self, next: &Path, pending: &Pending) -> Result<(), Unwritten> {
        let mut file = Summed::new(private(next)?);
        file.line(&self.header)?;
        if !pending.built_upon.is_empty() {
            let mut kept = Ok(());
            let old = self.old_lines(|line| {
                let (place, _) = split(line).unwrap_or_default();
                let plural = place.split(' ').next().unwrap_or_default();
                if kept.is_ok() && pending.built_upon.contains(plural) && !pending.objects.contains_key(place)
                {
                    kept = file.line(line);
                }
                Ok(())
            });
            kept?;
            old.map_err(Unwritten::Base)?;
        }
        for (place, json) in &pending.objects {
            if let Some(json) = json {
                file.line(&format!("{place} {json}"))?;
            }
        }
        file.end()?.sync_all()?;
        fs::rename(next, &self.path)?;
        // The rename itself is to survive, too.
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        Ok(())
    }

    /// Says that the file is what there was at a time.
    pub(super) fn mark(&self, time: SystemTime) -> io::Result<()> {
        File::open(&self.path)?.set_modified(time)
    }

    /// Everything in the file, and at what time that was so. An error where it is not whole.
    pub(super) fn read(&self) -> anyhow::Result<(Vec<Kept>, SystemTime)> {
        let mut kept = Vec::new();
        let written = self
            .old_lines(|line| {
                let (place, json) =
                    split(line).ok_or_else(|| io::Error::other("a line without an object"))?;
                let plural = place.split(' ').next().unwrap_or_default().to_owned();
                kept.push(Kept { plural, json: json.to_owned() });
                Ok(())
            })
            .with_context(|| format!("read {}", self.path.display()))?;
        Ok((kept, written))
    }

    /// Calls `each` with every object's line, and fails at the end if they were not those that were
    /// written.
    fn old_lines(&self, mut each: impl FnMut(&str) -> io::Result<()>) -> anyhow::Result<SystemTime> {
        let file = File::open(&self.path)?;
        let written = file.metadata()?.modified()?;
        let mut reader = BufReader::new(file.take(MAX_BYTES));
        let (mut sum, mut count, mut line) = (Hasher::new(), 0_u64, String::new());
        loop {
            line.clear();
            ensure!(reader.read_line(&mut line)? > 0, "it ends early");
            let text = line.strip_suffix('\n').context("it ends within a line")?;
            if let Some(end) = text.strip_prefix(END) {
                ensure!(end == ending(count, sum), "its sum is wrong");
                return Ok(written);
            }
            sum.update(line.as_bytes());
            if count == 0 {
                ensure!(text == self.header, "it is of another version, or another cluster");
            } else {
                each(text)?;
            }
            count += 1;
        }
    }
}

impl From<io::Error> for Unwritten {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// What follows [`END`].
fn ending(lines: u64, sum: Hasher) -> String {
    format!("{lines} {:08x}", sum.finalize())
}

/// A line's place, and its object.
fn split(line: &str) -> Option<(&str, &str)> {
    let json = line.match_indices(' ').nth(1)?.0;
    Some((line.get(..json)?, line.get(json + 1..)?))
}

/// A new file that nobody else may read: it says much about the cluster.
fn private(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// A file that counts and sums its lines.
struct Summed {
    file: BufWriter<File>,
    sum: Hasher,
    lines: u64,
}

impl Summed {
    fn new(file: File) -> Self {
        Self { file: BufWriter::new(file), sum: Hasher::new(), lines: 0 }
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        for part in [text.as_bytes(), b"\n"] {
            self.sum.update(part);
            self.file.write_all(part)?;
        }
        self.lines += 1;
        Ok(())
    }

    fn end(mut self) -> io::Result<File> {
        writeln!(self.file, "{END}{}", ending(self.lines, self.sum))?;
        self.file.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn objects(cache: &Cache) -> Vec<String> {
        let (kept, _) = cache.read().unwrap();
        let mut all: Vec<_> = kept.into_iter().map(|one| format!("{} {}", one.plural, one.json)).collect();
        all.sort();
        all
    }

    /// A file with two objects.
    fn written(dir: &Path) -> Cache {
        let cache = Cache::new(dir, "a");
        let mut pending = Pending::everything();
        pending.set("services", "n/a", r#"{"a": 1}"#);
        pending.set("pods", "n/b", r#"{"b": "x y"}"#);
        cache.write(&pending).unwrap();
        cache
    }

    #[test]
    fn what_changed_is_written_and_what_did_not_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = written(dir.path());
        assert_eq!(objects(&cache), [r#"pods {"b": "x y"}"#, r#"services {"a": 1}"#]);
        let mut pending = Pending::nothing();
        pending.set("services", "n/a", "{}");
        pending.set("services", "n/c", r#"{"c": 1}"#);
        pending.forget("pods", "n/b");
        cache.write(&pending).unwrap();
        assert_eq!(objects(&cache), [r#"services {"c": 1}"#, "services {}"]);
        let mut pending = Pending::everything();
        pending.build_upon("pods");
        pending.set("pods", "n/d", "{}");
        cache.write(&pending).unwrap();
        assert_eq!(objects(&cache), ["pods {}"]);
    }

    #[test]
    fn f28_a_file_that_is_not_whole_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let cache = written(dir.path());
        let whole = fs::read(&cache.path).unwrap();
        for length in 0..whole.len() {
            fs::write(&cache.path, &whole[..length]).unwrap();
            assert!(cache.read().is_err(), "{length} of {} bytes", whole.len());
        }
        for at in 0..whole.len() - 1 {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            fs::write(&cache.path, &bad).unwrap();
            assert!(cache.read().is_err(), "byte {at}: {:?}", String::from_utf8_lossy(&bad));
        }
        fs::write(&cache.path, &whole).unwrap();
        assert_eq!(objects(&cache).len(), 2);
    }

    #[test]
    fn f28_a_bad_file_is_not_built_upon() {
        let dir = tempfile::tempdir().unwrap();
        let cache = written(dir.path());
        fs::write(&cache.path, "nonsense").unwrap();
        let mut pending = Pending::nothing();
        pending.set("services", "n/c", "{}");
        assert!(matches!(cache.write(&pending), Err(Unwritten::Base(_))));
        assert_eq!(fs::read(&cache.path).unwrap(), b"nonsense");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        let mut pending = Pending::everything();
        pending.set("services", "n/c", "{}");
        cache.write(&pending).unwrap();
        assert_eq!(objects(&cache), ["services {}"]);
    }

    #[test]
    fn another_clusters_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        assert!(Cache::new(dir.path(), "b").read().is_err());
    }

    #[test]
    fn it_is_as_old_as_the_state_that_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, then) =
            (written(dir.path()), SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000));
        cache.mark(then).unwrap();
        assert_eq!(cache.read().unwrap().1, then);
    }

    #[test]
    fn nobody_else_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let mode = fs::metadata(written(dir.path()).path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_could_not_be_written_comes_with_the_next_change() {
        let (mut unwritten, mut later) = (Pending::nothing(), Pending::nothing());
        unwritten.set("services", "n/a", "old");
        unwritten.set("services", "n/b", "kept");
        later.set("services", "n/a", "new");
        later.put_back(unwritten);
        assert_eq!(later.objects["services n/a"].as_deref(), Some("new"));
        assert_eq!(later.objects["services n/b"].as_deref(), Some("kept"));
    }
}

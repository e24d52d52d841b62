//! Where lines go. Whatever the target does, only whole lines reach it, and none twice.

use super::line;
use crate::flow::RequestRecord;
use prometheus_client::metrics::counter::Counter;
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::PathBuf,
    time::{Duration, Instant},
};

/// Bytes that are gathered before a write.
const BATCH: usize = 64 * 1024;

/// How often a file is checked for having been renamed or removed.
const ROTATION_CHECK: Duration = Duration::from_secs(1);

/// How long the writer lets a batch gather: a microsecond for each place in the queue, so that a
/// burst of a million lines a second fits, and never so long that a reader would notice.
pub(super) fn pause(queue: usize) -> Duration {
    Duration::from_micros(u64::try_from(queue).unwrap_or(u64::MAX)).min(Duration::from_millis(5))
}

/// The target and what waits for it.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    /// A regular file's own name, which may come to mean another file.
    path: Option<PathBuf>,
    checked: Instant,
    pending: Vec<u8>,
    scratch: String,
    /// The target has the beginning of `pending`'s first line.
    torn: bool,
    failing: bool,
    dropped: Counter,
}

impl Output {
    /// Standard output, past std's own line buffer.
    pub(super) fn standard(dropped: Counter) -> io::Result<Self> {
        let file = io::stdout().as_fd().try_clone_to_owned()?.into();
        Ok(Self::opened(file, dropped))
    }

    /// A file, made if it does not exist. Whatever is there stays.
    pub(super) fn file(path: PathBuf, dropped: Counter) -> io::Result<Self> {
        let file = open(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        let regular = file.metadata()?.is_file();
        Ok(Self { path: regular.then_some(path), ..Self::opened(file, dropped) })
    }

    pub(super) fn opened(file: File, dropped: Counter) -> Self {
        Self {
            file,
            path: None,
            checked: Instant::now(),
            pending: Vec::with_capacity(BATCH),
            scratch: String::new(),
            torn: false,
            failing: false,
            dropped,
        }
    }

    /// Adds a line; writes when enough has gathered.
    pub(super) fn append(&mut self, record: &RequestRecord) {
        self.scratch.clear();
        if line::append(&mut self.scratch, record).is_err() {
            self.dropped.inc();
            return;
        }
        self.pending.extend_from_slice(self.scratch.as_bytes());
        if self.pending.len() >= BATCH {
            self.flush();
        }
    }

    /// Writes what has gathered, and waits for the target as long as it takes. On an error the
    /// lines are dropped, but for the rest of a torn one.
    pub(super) fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.follow_rotation();
        let (written, outcome) = write(&self.file, &self.pending);
        self.settle(written, &outcome);
    }

    /// What to do with the rest after the target took `written` bytes of what waits.
    pub(super) fn settle(&mut self, written: usize, outcome: &io::Result<()>) {
        if let Some(last) = self.pending.get(..written).and_then(<[u8]>::last) {
            self.torn = *last != b'\n';
        }
        self.pending.drain(..written);
        match outcome {
            Ok(()) if self.failing => tracing::info!("the access log is written again"),
            Ok(()) => {}
            Err(error) => {
                if !self.failing {
                    tracing::warn!(%error, "the access log cannot be written: lines are dropped");
                }
                let keep = if self.torn { first_line(&self.pending) } else { 0 };
                self.drop_lines(keep);
            }
        }
        self.failing = outcome.is_err();
    }

    /// Drops what waits, after its first `keep` bytes.
    fn drop_lines(&mut self, keep: usize) {
        let lost = self.pending.drain(keep..).filter(|byte| *byte == b'\n').count();
        self.dropped.inc_by(u64::try_from(lost).unwrap_or(u64::MAX));
    }

    fn follow_rotation(&mut self) {
        let Some(path) = &self.path else { return };
        if self.checked.elapsed() < ROTATION_CHECK {
            return;
        }
        self.checked = Instant::now();
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let named = path.metadata().map(identity).ok();
        if named.is_some() && named == self.file.metadata().map(identity).ok() {
            return;
        }
        match open(path) {
            Ok(file) => {
                self.file = file;
                if self.torn {
                    self.torn = false;
                    self.pending.drain(..first_line(&self.pending));
                    self.dropped.inc();
                }
            }
            Err(error) => tracing::warn!(%error, path = %path.display(), "cannot reopen the access log"),
        }
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Length of the first line with its end.
fn first_line(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1)
}

/// Writes all of it. The number of bytes that the target took, and why not more.
fn write(mut file: &File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A target that somebody else made non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Err(error) = poll(&mut [PollFd::new(&file, PollFlags::OUT)], None)
                    && error != rustix::io::Errno::INTR
                {
                    return (written, Err(error.into()));
                }
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

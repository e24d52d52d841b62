//! A child process whose output goes to files and whose end is certain.

use crate::wait;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

static STARTED: AtomicU32 = AtomicU32::new(0);

/// How much of a log a failure message shows.
const TAIL: usize = 4096;

/// A running child, killed on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// What a finished child said.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, raw.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Itself when the child succeeded, else an error that shows what it said.
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        bail!("{}\nstdout: {}\nstderr: {}", self.status, tail(&self.text()), tail(&self.stderr))
    }

    /// Standard output of a successful child as JSON.
    pub fn json(self) -> Result<serde_json::Value> {
        let done = self.success()?;
        serde_json::from_slice(&done.stdout).with_context(|| format!("not JSON: {}", done.text()))
    }
}

impl Process {
    /// Starts `command`; its output goes to two new files in `logs`, its input is a pipe.
    pub fn start(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let file = |stream: &str| logs.join(format!("{number}-{name}.{stream}"));
        let (stdout, stderr) = (file("out"), file("err"));
        let child = command
            .stdin(Stdio::piped())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, stdout, stderr })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Standard output so far.
    pub fn stdout(&self) -> Result<Vec<u8>> {
        Ok(fs::read(&self.stdout)?)
    }

    /// Standard output so far, from its byte `from` on.
    pub fn stdout_from(&self, from: u64) -> Result<Vec<u8>> {
        let mut file = File::open(&self.stdout)?;
        file.seek(SeekFrom::Start(from))?;
        let mut said = Vec::new();
        file.read_to_end(&mut said)?;
        Ok(said)
    }

    /// Standard output so far, as text.
    pub fn stdout_text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.stdout()?).into_owned())
    }

    /// Standard error so far.
    pub fn stderr_text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.stderr)?).into_owned())
    }

    /// The end of standard error, for failure messages.
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        self.stderr_text().map_or_else(|error| format!("({error})"), |text| tail(&text).to_owned())
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("standard input is closed")?;
        writeln!(stdin, "{line}").with_context(|| format!("write to {}", self.name))
    }

    /// Writes bytes to its standard input and closes it.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let mut stdin = self.child.stdin.take().context("standard input is closed")?;
        stdin.write_all(bytes).with_context(|| format!("write to {}", self.name))
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the end.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        let waited = wait::eventually(deadline, &what, || Ok(self.child.try_wait()?));
        waited.with_context(|| format!("stderr of {}: {}", self.name, self.stderr_tail()))
    }

    /// Waits for the end and collects what it said.
    pub fn outcome(mut self, deadline: Duration) -> Result<Outcome> {
        let status = self.wait(deadline)?;
        Ok(Outcome { status, stdout: self.stdout()?, stderr: self.stderr_text()? })
    }

    /// Waits until its standard output contains `text`.
    pub fn says(&mut self, text: &str, deadline: Duration) -> Result<()> {
        let what = format!("{} says {text:?}", self.name);
        let said = wait::until(deadline, &what, || {
            if self.stdout_text()?.contains(text) {
                return Ok(true);
            }
            Ok(self.child.try_wait()?.is_some() && self.stdout_text()?.contains(text))
        });
        said.with_context(|| format!("stderr of {}: {}", self.name, self.stderr_tail()))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("process id")?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// SIGKILL, and reaps it.
    pub fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("harness: {} may still run: {error:#}", self.name);
        }
    }
}

fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(TAIL);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.get(from..).unwrap_or(text).trim()
}

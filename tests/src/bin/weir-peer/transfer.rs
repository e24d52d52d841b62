//! Bodies of every size, both ways at once, every byte checked.

use crate::head::{self, Framing, Head, Patient};
use anyhow::{Context, Result, ensure};
use clap::Args;
use rustix::event::PollFlags;
use serde_json::json;
use std::{
    io::{BufReader, Write},
    net::SocketAddr,
    thread,
    time::Duration,
};
use weir_tests::pattern::{Pattern, Random, digest_of};

/// Between two bytes of an answer; far above anything a working relay takes.
const SILENCE: Duration = Duration::from_secs(30);

/// Arguments of `weir-peer transfer`.
#[derive(Args, Debug)]
pub(crate) struct Transfer {
    /// Where to connect.
    #[arg(long)]
    to: SocketAddr,
    /// Body sizes, one exchange each, all on one connection.
    #[arg(long, required = true, value_delimiter = ',')]
    sizes: Vec<u64>,
    /// Largest write; each write has a random size up to it.
    #[arg(long, default_value_t = 1 << 16)]
    write: u64,
    /// Sends the bodies chunked.
    #[arg(long)]
    chunked: bool,
    /// Seed of the bodies and of the write sizes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// GETs /bytes/N instead of POSTing to /echo.
    #[arg(long)]
    download: bool,
    /// POSTs to this target, which must tell the body's digest as /sink does, instead of to /echo.
    #[arg(long)]
    sink: Option<String>,
    /// Sends all requests before it reads the first answer.
    #[arg(long)]
    pipeline: bool,
    /// Shuts down its sending side after the last request.
    #[arg(long)]
    half_close: bool,
    /// Says on standard error how many body bytes the kernel has taken, after each write.
    #[arg(long)]
    progress: bool,
}

/// Arguments of `weir-peer slow-read`.
#[derive(Args, Debug)]
pub(crate) struct SlowRead {
    /// Where to connect.
    #[arg(long)]
    to: SocketAddr,
    /// Size of the answer.
    #[arg(long)]
    size: u64,
    /// Asks for a chunked answer.
    #[arg(long)]
    chunked: bool,
}

impl Transfer {
    /// Prints `{"digests": [...]}`: one a body, as received.
    pub(crate) fn run(&self) -> Result<()> {
        let stream = Patient::connect(self.to, SILENCE)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut digests = Vec::new();
        if self.pipeline {
            thread::scope(|scope| -> Result<()> {
                let sender = scope.spawn(|| self.sizes.iter().try_for_each(|size| self.send(&stream, *size)));
                for size in &self.sizes {
                    digests.push(self.receive(&mut reader, *size)?);
                }
                joined(sender)
            })?;
        } else {
            let last = self.sizes.len() - 1;
            for (index, size) in self.sizes.iter().enumerate() {
                digests.push(self.exchange(&stream, &mut reader, *size, index == last)?);
            }
        }
        Ok(writeln!(std::io::stdout(), "{}", json!({"digests": digests}))?)
    }

    fn exchange(
        &self,
        stream: &Patient,
        reader: &mut BufReader<Patient>,
        size: u64,
        last: bool,
    ) -> Result<String> {
        thread::scope(|scope| {
            let sender = scope.spawn(|| -> Result<()> {
                self.send(stream, size)?;
                if last && self.half_close {
                    stream.stream.shutdown(std::net::Shutdown::Write)?;
                }
                Ok(())
            });
            let digest = self.receive(reader, size)?;
            joined(sender)?;
            Ok(digest)
        })
    }

    fn send(&self, stream: &Patient, size: u64) -> Result<()> {
        let mut stream = stream.try_clone()?;
        if self.download {
            let query = if self.chunked { "?chunked" } else { "" };
            return Ok(write!(stream, "GET /bytes/{size}{query} HTTP/1.1\r\nHost: demo\r\n\r\n")?);
        }
        let framing = if self.chunked {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {size}")
        };
        let target = self.sink.as_deref().unwrap_or("/echo");
        let head = format!("POST {target} HTTP/1.1\r\nHost: demo\r\n{framing}\r\n\r\n");
        let (mut pattern, mut random) = (Pattern::new(self.seed ^ size), Random::new(self.seed));
        // The head travels alone or with the body's beginning, as the seed has it.
        let mut out = head.into_bytes();
        if random.next().is_multiple_of(2) {
            stream.write_all(&out)?;
            out.clear();
        }
        let mut left = size;
        while left > 0 {
            let take = random.sized(1, self.write).min(left);
            let mut piece = vec![0; usize::try_from(take)?];
            pattern.fill(&mut piece);
            if self.chunked {
                write!(out, "{take:x}\r\n")?;
                out.extend_from_slice(&piece);
                out.extend_from_slice(b"\r\n");
            } else {
                out.extend_from_slice(&piece);
            }
            stream.write_all(&out).context("write")?;
            out.clear();
            left -= take;
            if self.progress {
                writeln!(std::io::stderr(), "sent {}", size - left)?;
            }
        }
        if self.chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        Ok(stream.write_all(&out)?)
    }

    fn receive(&self, reader: &mut BufReader<Patient>, size: u64) -> Result<String> {
        let seed = if self.download { size } else { self.seed ^ size };
        if self.sink.is_some() {
            return told(reader, seed, size);
        }
        checked(reader, seed, size).with_context(|| format!("body of {size}"))
    }
}

impl SlowRead {
    /// Prints `waiting` once the head is there; after a line on standard input `{"digests": [...]}`.
    pub(crate) fn run(&self) -> Result<()> {
        let mut stream = Patient::connect(self.to, SILENCE)?;
        let query = if self.chunked { "?chunked" } else { "" };
        write!(stream, "GET /bytes/{}{query} HTTP/1.1\r\nHost: demo\r\n\r\n", self.size)?;
        // Nothing is read ahead: the kernel's queues must hold what the server sends.
        stream.wait(PollFlags::IN)?;
        writeln!(std::io::stdout(), "waiting")?;
        std::io::stdin().read_line(&mut String::new())?;
        let digest = checked(&mut BufReader::new(stream), self.size, self.size)?;
        Ok(writeln!(std::io::stdout(), "{}", json!({"digests": [digest]}))?)
    }
}

/// Reads an answer whose body must be the first `size` bytes of a seed's pattern.
fn checked(reader: &mut BufReader<Patient>, seed: u64, size: u64) -> Result<String> {
    let answer = Head::read(reader)?.context("closed before an answer")?;
    ensure!(answer.status()? == 200, "{}", answer.first);
    let framing = answer.answer_framing()?;
    ensure!(framing != Framing::Close, "an answer whose end cannot be told from an abort");
    let digest = head::digest(reader, framing)?;
    ensure!(digest.length() == size, "{} bytes came", digest.length());
    ensure!(digest.hex() == digest_of(seed, size), "the bytes differ");
    Ok(digest.hex())
}

/// Reads an answer that tells the digest of the body it got.
fn told(reader: &mut BufReader<Patient>, seed: u64, size: u64) -> Result<String> {
    let answer = Head::read(reader)?.context("closed before an answer")?;
    ensure!(answer.status()? == 200, "{}", answer.first);
    let mut text = Vec::new();
    head::body(reader, answer.answer_framing()?, |piece| {
        text.extend_from_slice(piece);
        Ok(())
    })?;
    let told: serde_json::Value = serde_json::from_slice(&text)?;
    let expected = digest_of(seed, size);
    ensure!(told.get("digest").and_then(serde_json::Value::as_str) == Some(&expected), "it got {told}");
    Ok(expected)
}

fn joined(sender: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?.context("send")
}

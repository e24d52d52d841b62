//! A client that a test leads by the hand, and the armed pair that it wants.

use crate::{peer, pod::Pod, process::Process, scene::Scene, wait};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};

/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// `weir-peer converse` in a pod: one non-blocking connection.
#[derive(Debug)]
pub struct Conversation {
    process: Process,
    /// Bytes of its output that were read.
    heard: u64,
}

/// An answer as the client got it.
#[derive(Debug, Clone, Deserialize)]
pub struct Answer {
    /// Statuses of the 1xx answers before it.
    pub interim: Vec<u16>,
    /// Its status.
    pub status: u16,
    /// Its fields in order.
    pub fields: Vec<(String, String)>,
    /// Bytes of its body.
    pub length: u64,
    /// The body's digest.
    pub digest: String,
    /// The beginning of the body.
    pub text: String,
    /// The body came to its end.
    pub whole: bool,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("body {:?}", self.text))
    }

    /// A field's value.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(one, _)| one.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What a step brought.
#[derive(Debug, Clone, Deserialize)]
pub struct Reply {
    /// The answers.
    pub answers: Vec<Answer>,
    /// How the connection ended, if it has: `eof`, `reset`, `timeout` (nothing came).
    pub ended: Option<String>,
}

impl Conversation {
    /// Connects.
    pub fn start(pod: &Pod, to: SocketAddr) -> Result<Self> {
        let process = peer::start(pod, ["converse", "--to", &to.to_string()])?;
        Ok(Self { process, heard: 0 })
    }

    /// Does a step.
    fn step(&mut self, step: &Value) -> Result<Reply> {
        self.begin(step)?;
        self.reply()
    }

    /// Begins a step; [`Self::reply`] waits for it.
    fn begin(&mut self, step: &Value) -> Result<()> {
        self.process.tell(&step.to_string())
    }

    /// What the step brought that was begun last.
    fn reply(&mut self) -> Result<Reply> {
        let line = wait::eventually(PATIENCE, "a reply of the client", || {
            let said = self.process.stdout_from(self.heard)?;
            let line = said.split_inclusive(|byte| *byte == b'\n').next();
            let line = line.filter(|line| line.ends_with(b"\n"));
            if line.is_none() && self.process.ended()?.is_some() {
                bail!("the client ended: {}", self.process.stderr_tail());
            }
            Ok(line.map(<[u8]>::to_vec))
        })?;
        self.heard += line.len() as u64;
        Ok(serde_json::from_slice(&line)?)
    }

    /// Sends bytes (each character is one) in one write.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.send_cut(text, &[])
    }

    /// Sends bytes in as many writes as there are parts between cuts.
    pub fn send_cut(&mut self, text: &str, cuts: &[usize]) -> Result<()> {
        let reply = self.step(&json!({"send": text, "cuts": cuts}))?;
        ensure!(reply.ended.is_none(), "send: {reply:?}");
        Ok(())
    }

    /// The next answer, whole.
    pub fn answer(&mut self) -> Result<Answer> {
        let mut answers = self.answers(1)?;
        answers.pop().context("no answer")
    }

    /// So many answers, whole.
    pub fn answers(&mut self, count: usize) -> Result<Vec<Answer>> {
        let reply = self.read(count)?;
        let whole = reply.answers.iter().all(|answer| answer.whole);
        ensure!(whole && reply.answers.len() == count, "{count} answers expected: {reply:?}");
        Ok(reply.answers)
    }

    /// Up to so many answers, however they end.
    pub fn read(&mut self, count: usize) -> Result<Reply> {
        self.step(&json!({"read": count}))
    }

    /// The next answer, to a HEAD request.
    pub fn answer_to_head(&mut self) -> Result<Answer> {
        let reply = self.step(&json!({"read": 1, "head": true}))?;
        reply.answers.first().cloned().with_context(|| format!("no answer: {reply:?}"))
    }

    /// One request, one answer.
    pub fn ask(&mut self, request: &str) -> Result<Answer> {
        self.send(request)?;
        self.answer().with_context(|| format!("answer to {request:?}"))
    }

    /// A GET of this path.
    pub fn get(&mut self, path: &str) -> Result<Answer> {
        self.ask(&get(path))
    }

    /// Reads until the connection ends; how it did.
    pub fn end(&mut self) -> Result<String> {
        self.step(&json!({"end": true}))?.ended.context("no end")
    }

    /// Closes the sending side.
    pub fn half_close(&mut self) -> Result<()> {
        self.step(&json!({"half_close": true})).map(drop)
    }

    /// Closes the connection.
    pub fn close(mut self) -> Result<()> {
        self.step(&json!({"close": true})).map(drop)
    }

    /// Resets the connection.
    pub fn reset(mut self) -> Result<()> {
        self.step(&json!({"reset": true})).map(drop)
    }

    /// Sends plain requests until the kernel half carries one. What was armed stays armed.
    pub fn arm(&mut self, scene: &Scene) -> Result<()> {
        let counters = scene.agent.counters()?;
        wait::until(PATIENCE, "the kernel half carries a request", || {
            let before = counters.spliced()?;
            ensure!(self.get("/")?.status == 200, "a plain request failed");
            Ok(counters.spliced()? > before)
        })
    }
}

/// A GET of this path, as bytes.
#[must_use]
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: demo\r\n\r\n")
}

/// A POST to this path.
#[must_use]
pub fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: demo\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

//! A client that does what it is told, step by step, on one non-blocking connection.
//!
//! Standard input has a JSON object a line, standard output answers each with one:
//!
//! - `{"send": TEXT, "cuts": [N...]}`: the characters as bytes, a send(2) for each part between two cuts
//! - `{"read": N, "head": BOOL}`: the next N final answers, to HEAD requests or others
//! - `{"end": true}`: everything until the connection ends
//! - `{"half_close": true}`, `{"reset": true}`, `{"close": true}`
//!
//! A reply has `answers` and, where the connection has ended or nothing came for too long, `ended`:
//! `eof`, `reset`, `timeout`, or what else went wrong. An answer has `interim` (statuses before it),
//! `status`, `fields`, `length`, `digest`, `text` (of small bodies), `whole`.

use crate::head::{self, Framing, Head, Patient};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use std::{
    io::{BufReader, ErrorKind, Write},
    net::{Shutdown, SocketAddr},
    time::Duration,
};
use weir_tests::pattern::Digest;

/// Arguments of `weir-peer converse`.
#[derive(Args, Debug)]
pub(crate) struct Converse {
    /// Where to connect.
    #[arg(long)]
    to: SocketAddr,
    /// How long it waits for bytes, milliseconds.
    #[arg(long, default_value_t = 10_000)]
    patience: u64,
}

/// Longest body that is shown as text.
const SHOWN: usize = 4096;

impl Converse {
    /// Does one step after the other until standard input ends or the connection is closed here.
    pub(crate) fn run(&self) -> Result<()> {
        let stream = Patient::connect(self.to, Duration::from_millis(self.patience))?;
        let mut reader = BufReader::new(stream);
        for line in std::io::stdin().lines() {
            let step: Value = serde_json::from_str(&line?).context("step")?;
            if step.get("close").is_some() {
                break;
            }
            let reply = take(&step, &mut reader)?;
            writeln!(std::io::stdout(), "{reply}")?;
            if step.get("reset").is_some() {
                break;
            }
        }
        drop(reader);
        Ok(writeln!(std::io::stdout(), "{}", json!({"answers": [], "ended": "here"}))?)
    }
}

fn take(step: &Value, reader: &mut BufReader<Patient>) -> Result<Value> {
    let mut answers = Vec::new();
    let mut ended = None;
    if let Some(text) = step.get("send").and_then(Value::as_str) {
        let cuts = step.get("cuts").and_then(Value::as_array).cloned().unwrap_or_default();
        let cuts = cuts.iter().filter_map(Value::as_u64).map(usize::try_from);
        let bytes = text.chars().map(|one| u8::try_from(u32::from(one))).collect::<Result<Vec<_>, _>>()?;
        ended = send(reader.get_mut(), &bytes, &cuts.collect::<Result<Vec<_>, _>>()?).err();
    } else if let Some(count) = step.get("read").and_then(Value::as_u64) {
        let to_head = step.get("head").and_then(Value::as_bool).unwrap_or(false);
        while (answers.len() as u64) < count && ended.is_none() {
            match answer(reader, to_head) {
                Ok((answer, broken)) => {
                    answers.push(answer);
                    ended = broken;
                }
                Err(error) => ended = Some(error),
            }
        }
    } else if step.get("end").is_some() {
        let mut rest = Digest::default();
        let read = head::body(reader, Framing::Close, |piece| {
            rest.add(piece);
            Ok(())
        });
        let how = read.err().map_or("eof", |error| how(&error));
        return Ok(json!({"answers": [], "length": rest.length(), "ended": how}));
    } else if step.get("half_close").is_some() {
        reader.get_ref().stream.shutdown(Shutdown::Write)?;
    } else if step.get("reset").is_some() {
        rustix::net::sockopt::set_socket_linger(&reader.get_ref().stream, Some(Duration::ZERO))?;
    }
    let error = ended.as_ref().map(|error| format!("{error:#}"));
    Ok(json!({"answers": answers, "ended": ended.as_ref().map(how), "error": error}))
}

/// A send(2) for each part.
fn send(stream: &mut Patient, bytes: &[u8], cuts: &[usize]) -> Result<()> {
    let ends = cuts.iter().copied().chain([bytes.len()]);
    let mut start = 0;
    for end in ends {
        let part = bytes.get(start..end).with_context(|| format!("cut at {end} of {}", bytes.len()))?;
        stream.write_all(part).context("send")?;
        start = end;
    }
    Ok(())
}

/// One final answer, and what broke it off.
fn answer(reader: &mut BufReader<Patient>, to_head: bool) -> Result<(Value, Option<anyhow::Error>)> {
    let mut interim = Vec::new();
    let head = loop {
        let head = Head::read(reader)?.context(ErrorKind::UnexpectedEof)?;
        match head.status()? {
            101 | 200.. => break head,
            status => interim.push(status),
        }
    };
    let framing = if to_head { Framing::Length(0) } else { head.answer_framing()? };
    let (mut digest, mut text) = (Digest::default(), Vec::new());
    let read = head::body(reader, framing, |piece| {
        digest.add(piece);
        if text.len() < SHOWN {
            text.extend_from_slice(piece);
        }
        Ok(())
    });
    let told = json!({
        "interim": interim, "status": head.status()?, "fields": head.fields, "length": digest.length(),
        "digest": digest.hex(), "text": String::from_utf8_lossy(&text), "whole": read.is_ok(),
    });
    Ok((told, read.err()))
}

/// How the connection ended, by what reading it said.
fn how(error: &anyhow::Error) -> &'static str {
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
    };
    match error.chain().find_map(kind) {
        Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => "reset",
        Some(ErrorKind::TimedOut) => "timeout",
        Some(ErrorKind::UnexpectedEof) | None => "eof",
        Some(_) => "error",
    }
}

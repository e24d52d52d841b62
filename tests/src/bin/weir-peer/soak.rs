//! Random requests for as long as it may, each with a nonce and a body that its answer must tell of.

use crate::head::{self, Ended, Framing, Head, Patient};
use anyhow::{Context, Error, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read, Write},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};
use weir_tests::pattern::{Pattern, Random, digest_of};

/// Between two bytes of an answer; longer than any of the agent's timeouts.
const SILENCE: Duration = Duration::from_secs(40);
/// Around these sizes, a request's and an answer's, the kernel half leaves the body to the agent.
const CAPS: [u64; 2] = [64 << 10, 256 << 10];
/// Whatever surrounds so large a body, it is below every cap.
const SMALL: u64 = 60 << 10;
/// Above this an echo could fill every buffer on the way while nobody reads it.
const ECHO_MAX: u64 = 128 << 10;

/// Arguments of `weir-peer soak`.
#[derive(Args, Debug)]
pub(crate) struct Soak {
    /// Where to connect.
    #[arg(long)]
    to: SocketAddr,
    /// Connections at once.
    #[arg(long, default_value_t = 8)]
    connections: u64,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Between two requests of a connection, milliseconds: up to so many.
    #[arg(long, default_value_t = 0)]
    pause: u64,
}

/// What one connection slot saw.
#[derive(Debug, Default)]
struct Seen {
    statuses: BTreeMap<u16, u64>,
    /// Exchanges that did not come to their end, and how.
    cut: BTreeMap<String, u64>,
    /// What no kill explains.
    wrong: Vec<String>,
}

/// One request, and what its answer must be.
struct Request {
    method: &'static str,
    target: String,
    body: Option<u64>,
    chunked: bool,
    /// The seed and the size of the pattern that comes back.
    pattern: Option<(u64, u64)>,
    /// The digest that the answer tells.
    told: Option<String>,
}

impl Soak {
    /// Prints `{"statuses", "cut", "wrong"}` once standard input is closed.
    pub(crate) fn run(&self) -> Result<()> {
        let ended = AtomicBool::new(false);
        let ended = &ended;
        let slots = thread::scope(|scope| -> Result<Vec<Seen>> {
            let slots: Vec<_> =
                (0..self.connections).map(|slot| scope.spawn(move || self.slot(slot, ended))).collect();
            io::stdin().read_to_end(&mut Vec::new())?;
            ended.store(true, Relaxed);
            slots.into_iter().map(|slot| slot.join().map_err(|_| Error::msg("a slot panicked"))).collect()
        })?;
        let mut all = Seen::default();
        for slot in slots {
            slot.statuses
                .into_iter()
                .for_each(|(status, count)| *all.statuses.entry(status).or_default() += count);
            slot.cut.into_iter().for_each(|(how, count)| *all.cut.entry(how).or_default() += count);
            all.wrong.extend(slot.wrong);
        }
        let told = json!({"statuses": all.statuses, "cut": all.cut, "wrong": all.wrong});
        Ok(writeln!(io::stdout(), "{told}")?)
    }

    fn slot(&self, slot: u64, ended: &AtomicBool) -> Seen {
        let mut random = Random::new(self.seed ^ (slot << 32));
        let mut seen = Seen::default();
        let mut reader = None;
        let (mut number, mut wild) = (0, false);
        while !ended.load(Relaxed) {
            number += 1;
            if reader.is_none() {
                // Most connections ask for what the kernel half can carry; one large answer would end that.
                wild = random.next().is_multiple_of(4);
            }
            let odd = wild || random.next().is_multiple_of(256);
            let request = Request::random(&mut random, odd);
            let nonce = format!("{}-{slot}-{number}", std::process::id());
            match self.exchange(&mut reader, &request, &nonce, &mut random) {
                Ok(status) => *seen.statuses.entry(status).or_default() += 1,
                Err(error) => {
                    reader = None;
                    seen.note(&error, &request);
                }
            }
            if random.next().is_multiple_of(64) {
                reader = None;
            }
            if self.pause > 0 {
                thread::sleep(Duration::from_millis(random.next() % (self.pause + 1)));
            }
        }
        seen
    }

    /// One exchange; its status. Leaves the connection in `slot` if it can be used again.
    fn exchange(
        &self,
        slot: &mut Option<BufReader<Patient>>,
        request: &Request,
        nonce: &str,
        random: &mut Random,
    ) -> Result<u16> {
        let mut reader = match slot.take() {
            Some(reader) => reader,
            None => BufReader::new(Patient::connect(self.to, SILENCE)?),
        };
        request.send(reader.get_mut(), nonce, random)?;
        let answer = Head::read(&mut reader)?.ok_or_else(|| Error::new(Ended("before an answer")))?;
        let status = answer.status()?;
        let framing = answer.answer_framing()?;
        ensure!(framing != Framing::Close, "an answer without an end");
        if status == 200 {
            ensure!(answer.field("x-nonce") == Some(nonce), "somebody else's answer: {answer:?}");
            request.check(&mut reader, framing)?;
        } else {
            head::digest(&mut reader, framing)?;
        }
        if answer.keeps_alive() {
            *slot = Some(reader);
        }
        Ok(status)
    }
}

impl Seen {
    fn note(&mut self, error: &Error, request: &Request) {
        let kind = error.downcast_ref::<io::Error>().map(|error| error.kind().to_string());
        let kind = kind.or_else(|| error.downcast_ref::<Ended>().map(ToString::to_string));
        match kind {
            Some(kind) => *self.cut.entry(kind).or_default() += 1,
            None => {
                let wrong = format!("{} {}: {error:#}", request.method, request.target);
                eprintln!("wrong: {wrong}");
                self.wrong.push(wrong);
            }
        }
    }
}

impl Request {
    fn random(random: &mut Random, wild: bool) -> Self {
        let get = |target: String| Self {
            method: "GET",
            target,
            body: None,
            chunked: false,
            pattern: None,
            told: None,
        };
        let size = |random: &mut Random| if wild { size(random) } else { random.sized(1, SMALL) };
        match random.next() % 16 {
            0..5 => {
                let size = size(random);
                Self { pattern: Some((size, size)), ..get(format!("/bytes/{size}")) }
            }
            5 if wild => {
                let size = size(random);
                Self { pattern: Some((size, size)), ..get(format!("/bytes/{size}?chunked")) }
            }
            kind @ 6..12 => {
                let size = size(random);
                let seed = random.next();
                let post = Self {
                    method: "POST",
                    body: Some(size),
                    chunked: wild && kind == 6,
                    ..get("/echo".to_owned())
                };
                if size <= ECHO_MAX {
                    return Self { pattern: Some((seed, size)), told: None, ..post };
                }
                Self {
                    target: "/sink".to_owned(),
                    pattern: Some((seed, size)),
                    told: Some(digest_of(seed, size)),
                    ..post
                }
            }
            12 => get(format!("/delay/{}", random.next() % 20)),
            13 => get("/secret".to_owned()),
            _ => get("/".to_owned()),
        }
    }

    fn send(&self, stream: &mut Patient, nonce: &str, random: &mut Random) -> Result<()> {
        let framing = match (self.body, self.chunked) {
            (None, _) => String::new(),
            (Some(_), true) => "Transfer-Encoding: chunked\r\n".to_owned(),
            (Some(size), false) => format!("Content-Length: {size}\r\n"),
        };
        let head = format!(
            "{} {} HTTP/1.1\r\nHost: demo\r\nX-Nonce: {nonce}\r\n{framing}\r\n",
            self.method, self.target
        );
        let mut out = head.into_bytes();
        let mut left = self.body.unwrap_or(0);
        let mut pattern = Pattern::new(self.pattern.map_or(0, |(seed, _)| seed));
        while left > 0 {
            let take = random.sized(1, left);
            let mut piece = vec![0; usize::try_from(take)?];
            pattern.fill(&mut piece);
            if self.chunked {
                write!(out, "{take:x}\r\n")?;
                piece.extend_from_slice(b"\r\n");
            }
            out.append(&mut piece);
            stream.write_all(&out)?;
            out.clear();
            left -= take;
        }
        if self.body.is_some() && self.chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        Ok(stream.write_all(&out)?)
    }

    /// Reads the answer's body.
    fn check(&self, reader: &mut BufReader<Patient>, framing: Framing) -> Result<()> {
        if let Some(told) = &self.told {
            let mut text = Vec::new();
            head::body(reader, framing, |piece| {
                text.extend_from_slice(piece);
                Ok(())
            })?;
            let answer: Value = serde_json::from_slice(&text).context("no JSON")?;
            let got = answer.get("digest").and_then(Value::as_str);
            ensure!(got == Some(told), "the endpoint got {answer}");
            return Ok(());
        }
        let digest = head::digest(reader, framing)?;
        if let Some((seed, size)) = self.pattern {
            ensure!(digest.length() == size, "{} of {size} bytes came", digest.length());
            ensure!(digest.hex() == digest_of(seed, size), "the bytes differ");
        }
        Ok(())
    }
}

/// Of any magnitude, and often close to a cap.
fn size(random: &mut Random) -> u64 {
    let near = |cap: u64, random: &mut Random| cap - 1024 + random.next() % 2048;
    match random.next() % 8 {
        0 => near(CAPS[0], random),
        1 => near(CAPS[1], random),
        _ => random.sized(1, 300 << 10),
    }
}

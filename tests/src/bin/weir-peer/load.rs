//! Many requests, each with a nonce that its answer must carry.

use crate::head::{self, Head, Patient};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{BufReader, Write},
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Arguments of `weir-peer load`.
#[derive(Args, Debug)]
pub(crate) struct Load {
    /// Where to connect; `ADDR=NAME` says which server must answer. Connections take turns.
    #[arg(long, required = true, value_delimiter = ',')]
    to: Vec<String>,
    /// Connections at once.
    #[arg(long, default_value_t = 1)]
    connections: u64,
    /// Requests per connection slot.
    #[arg(long, default_value_t = 1)]
    requests: u64,
    /// Requests before a slot connects anew; 0 keeps its connection.
    #[arg(long, default_value_t = 0)]
    reconnect: u64,
    /// The request target.
    #[arg(long, default_value = "/")]
    path: String,
    /// The Host field.
    #[arg(long, default_value = "demo")]
    host: String,
    /// Between two requests of a slot, milliseconds.
    #[arg(long, default_value_t = 0)]
    pause: u64,
}

/// What one slot saw.
#[derive(Debug, Default)]
struct Seen {
    statuses: BTreeMap<u16, u64>,
    servers: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
}

/// A connection, and what must answer on it.
struct Client<'a> {
    reader: BufReader<Patient>,
    expected: Option<&'a str>,
    used: u64,
}

impl Load {
    /// Prints `{"requests", "statuses", "servers", "errors", "elapsed_ms"}`.
    pub(crate) fn run(&self) -> Result<()> {
        let targets: Vec<_> = self.to.iter().map(|text| target(text)).collect::<Result<_>>()?;
        let (targets, turn) = (targets.as_slice(), &AtomicU64::new(0));
        let begun = Instant::now();
        let slots = thread::scope(|scope| {
            let slots: Vec<_> = (0..self.connections)
                .map(|slot| scope.spawn(move || self.slot(slot, targets, turn)))
                .collect();
            slots.into_iter().filter_map(|slot| slot.join().ok()).collect::<Vec<_>>()
        });
        ensure!(slots.len() as u64 == self.connections, "a slot panicked");
        let mut all = Seen::default();
        for slot in slots {
            add(&mut all.statuses, slot.statuses);
            add(&mut all.servers, slot.servers);
            add(&mut all.errors, slot.errors);
        }
        let told = json!({
            "requests": self.connections * self.requests,
            "statuses": all.statuses, "servers": all.servers, "errors": all.errors,
            "elapsed_ms": u64::try_from(begun.elapsed().as_millis())?,
        });
        Ok(writeln!(std::io::stdout(), "{told}")?)
    }

    fn slot(&self, slot: u64, targets: &[(SocketAddr, Option<&str>)], turn: &AtomicU64) -> Seen {
        let mut seen = Seen::default();
        let mut client = None;
        for number in 0..self.requests {
            let nonce = format!("{}-{slot}-{number}", std::process::id());
            if let Err(error) = self.one(&mut client, &nonce, targets, turn, &mut seen) {
                *seen.errors.entry(format!("{error:#}")).or_default() += 1;
                client = None;
            }
            if self.pause > 0 {
                thread::sleep(Duration::from_millis(self.pause));
            }
        }
        seen
    }

    fn one<'a>(
        &self,
        slot: &mut Option<Client<'a>>,
        nonce: &str,
        targets: &[(SocketAddr, Option<&'a str>)],
        turn: &AtomicU64,
        seen: &mut Seen,
    ) -> Result<()> {
        let mut client = match slot.take() {
            Some(client) if self.reconnect == 0 || client.used < self.reconnect => client,
            _ => connect(targets, turn)?,
        };
        client.used += 1;
        let request =
            format!("GET {} HTTP/1.1\r\nHost: {}\r\nX-Nonce: {nonce}\r\n\r\n", self.path, self.host);
        client.reader.get_mut().write_all(request.as_bytes()).context("write")?;
        let answer = Head::read(&mut client.reader).context("head")?.context("closed before an answer")?;
        head::digest(&mut client.reader, answer.answer_framing()?).context("body")?;
        *seen.statuses.entry(answer.status()?).or_default() += 1;
        if answer.status()? < 400 {
            ensure!(answer.field("x-nonce") == Some(nonce), "somebody else's answer");
            let server = answer.field("x-server").unwrap_or_default();
            ensure!(client.expected.is_none_or(|name| name == server), "an answer of the wrong server");
            *seen.servers.entry(server.to_owned()).or_default() += 1;
        }
        if answer.keeps_alive() {
            *slot = Some(client);
        }
        Ok(())
    }
}

fn connect<'a>(targets: &[(SocketAddr, Option<&'a str>)], turn: &AtomicU64) -> Result<Client<'a>> {
    let index = usize::try_from(turn.fetch_add(1, Ordering::Relaxed))? % targets.len();
    let (addr, expected) = *targets.get(index).context("no target")?;
    let limit = Duration::from_secs(30);
    let reader = BufReader::new(Patient::connect(addr, limit).context("connect")?);
    Ok(Client { reader, expected, used: 0 })
}

fn target(text: &str) -> Result<(SocketAddr, Option<&str>)> {
    let (addr, name) = text.split_once('=').map_or((text, None), |(addr, name)| (addr, Some(name)));
    Ok((addr.parse().with_context(|| format!("target {text:?}"))?, name))
}

fn add<K: Ord>(to: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
    for (key, count) in from {
        *to.entry(key).or_default() += count;
    }
}

//! The client of the corpus: generated streams, each whole, cut in two at every position and into single
//! bytes, on many warmed-up connections.

use crate::head::{self, Framing, Head, Patient};
use anyhow::{Context, Result};
use clap::Args;
use proxy_common::head::scan_request;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufReader, Write},
    net::{Shutdown, SocketAddr},
    thread,
    time::{Duration, Instant},
};
use weir_tests::{pattern::Random, streams::Stream};

/// Arguments of `weir-peer corpus`.
#[derive(Args, Debug)]
pub(crate) struct Corpus {
    /// Where to connect.
    #[arg(long)]
    to: SocketAddr,
    /// The first stream's number.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many streams.
    #[arg(long)]
    streams: u64,
    /// At how many positions, chosen by the stream's number, each is cut in two; 0 is everywhere.
    #[arg(long, default_value_t = 0)]
    cuts: usize,
}

const THREADS: u64 = 4;
/// Connections of a thread: while one waits for its answer, and is armed again, the others have a turn.
const SLOTS: u64 = 12;
/// A connection that stays silent for so long has hung.
const PATIENCE: Duration = Duration::from_secs(10);
/// Exchanges before a connection may be armed, and one that shows that it is.
const WARM_UP: u32 = 3;
const PLAIN: &[u8] = b"GET /api/warm HTTP/1.1\r\nHost: demo\r\n\r\n";

/// How a stream is sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Cut {
    Whole,
    At(usize),
    Bytes,
}

/// What one stream brought: an outcome, and every other with the cut that did.
#[derive(Default)]
struct Outcomes {
    whole: String,
    others: Vec<(Cut, String)>,
}

/// One connection and what is to be sent on it.
struct Slot<'a> {
    corpus: &'a Corpus,
    streams: Vec<u64>,
    jobs: Vec<Cut>,
    stream: Option<(u64, Stream)>,
    connection: Option<BufReader<Patient>>,
    warm: u32,
    sent: Option<Sent>,
    runs: u64,
    /// Runs, and exchanges to warm up, that a kernel half with an armed pair carries.
    carriable: u64,
    outcomes: BTreeMap<u64, Outcomes>,
}

/// What an answer is awaited for.
enum Sent {
    WarmUp,
    Stream(Cut),
}

impl Corpus {
    /// Prints `{"runs", "carriable", "elapsed_ms", "streams": {N: {"whole", "others": [[CUT, OUTCOME]...]}}}`.
    pub(crate) fn run(&self) -> Result<()> {
        let begun = Instant::now();
        let done = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..THREADS).map(|thread| scope.spawn(move || self.thread(thread))).collect();
            threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        let (mut runs, mut carriable, mut streams) = (0, 0, serde_json::Map::new());
        for slots in done {
            for slot in slots.map_err(|_| anyhow::anyhow!("a thread panicked"))?? {
                runs += slot.runs;
                carriable += slot.carriable;
                for (number, outcomes) in slot.outcomes {
                    let others = outcomes.others.iter().map(|(cut, told)| json!([format!("{cut:?}"), told]));
                    let told = json!({"whole": outcomes.whole, "others": others.collect::<Vec<_>>()});
                    streams.insert(number.to_string(), told);
                }
            }
        }
        let elapsed = u64::try_from(begun.elapsed().as_millis())?;
        let told = json!({"runs": runs, "carriable": carriable, "elapsed_ms": elapsed, "streams": streams});
        Ok(writeln!(std::io::stdout(), "{told}")?)
    }

    fn thread(&self, thread: u64) -> Result<Vec<Slot<'_>>> {
        let all = THREADS * SLOTS;
        let mut slots: Vec<_> = (0..SLOTS)
            .map(|slot| {
                let own = (0..self.streams).filter(|number| number % all == thread * SLOTS + slot);
                Slot::new(self, own.map(|number| self.first + number).rev().collect())
            })
            .collect();
        let mut busy = true;
        while busy {
            busy = false;
            for slot in &mut slots {
                slot.finish();
                busy |= slot.begin()?;
            }
        }
        Ok(slots)
    }

    /// How a stream is to be sent, last first.
    fn jobs(&self, number: u64, stream: &Stream) -> Vec<Cut> {
        let mut at: Vec<_> = stream.cuts().map(Cut::At).collect();
        let mut random = Random::new(number.wrapping_add(1));
        while self.cuts > 0 && at.len() > self.cuts {
            let index = random.next() % at.len() as u64;
            at.swap_remove(usize::try_from(index).unwrap_or(0));
        }
        at.push(Cut::Bytes);
        at.push(Cut::Whole);
        at
    }
}

impl<'a> Slot<'a> {
    fn new(corpus: &'a Corpus, streams: Vec<u64>) -> Self {
        Self {
            corpus,
            streams,
            jobs: Vec::new(),
            stream: None,
            connection: None,
            warm: 0,
            sent: None,
            runs: 0,
            carriable: 0,
            outcomes: BTreeMap::new(),
        }
    }

    /// Sends what comes next; false when there is nothing left.
    fn begin(&mut self) -> Result<bool> {
        if self.jobs.is_empty() {
            let Some(number) = self.streams.pop() else { return Ok(false) };
            let stream = Stream::generate(number);
            self.jobs = self.corpus.jobs(number, &stream);
            self.stream = Some((number, stream));
        }
        if self.connection.is_none() {
            let stream = Patient::connect(self.corpus.to, PATIENCE)?;
            self.connection = Some(BufReader::new(stream));
            self.warm = 0;
        }
        let (Some(connection), Some((_, stream))) = (&mut self.connection, &self.stream) else {
            return Ok(false);
        };
        let to = connection.get_mut();
        if self.warm < WARM_UP {
            self.warm += 1;
            to.write_all(PLAIN).context("warm up")?;
            self.sent = Some(Sent::WarmUp);
            return Ok(true);
        }
        let Some(cut) = self.jobs.pop() else { return Ok(false) };
        let parts = match cut {
            Cut::Whole => vec![stream.bytes.as_slice()],
            Cut::At(at) => Vec::from(<[&[u8]; 2]>::from(stream.bytes.split_at(at))),
            Cut::Bytes => stream.bytes.chunks(1).collect(),
        };
        // The agent may have ended the connection; what it said counts.
        let _refused = parts.into_iter().try_for_each(|part| to.write_all(part));
        if stream.doubtful {
            let _gone = to.stream.shutdown(Shutdown::Write);
        }
        self.sent = Some(Sent::Stream(cut));
        Ok(true)
    }

    /// Reads what was sent last is answered with.
    fn finish(&mut self) {
        let Some(sent) = self.sent.take() else { return };
        let (Some(connection), Some((number, stream))) = (&mut self.connection, &self.stream) else { return };
        let Sent::Stream(cut) = sent else {
            let mut told = String::new();
            if !answer(connection, "GET", &mut told) || !told.starts_with("200") {
                self.outcomes
                    .entry(*number)
                    .or_default()
                    .others
                    .push((Cut::Whole, format!("warm up: {told}")));
                self.connection = None;
            }
            self.carriable += u64::from(self.warm == WARM_UP);
            return;
        };
        let mut told = String::new();
        let mut open = true;
        for method in &stream.methods {
            open = open && answer(connection, method, &mut told);
        }
        while stream.doubtful && open {
            open = answer(connection, "GET", &mut told);
        }
        self.runs += 1;
        self.carriable += u64::from(told.contains("X-Got") && is_carriable(stream, cut));
        let outcomes = self.outcomes.entry(*number).or_default();
        if cut == Cut::Whole {
            outcomes.whole = told;
        } else if outcomes.whole != told {
            outcomes.others.push((cut, told));
        }
        if !open || stream.doubtful || stream.ahead {
            self.connection = None;
        }
    }
}

/// One request beyond doubt, of which the first send(2) has the whole head.
fn is_carriable(stream: &Stream, cut: Cut) -> bool {
    let Ok(head) = scan_request(&stream.bytes) else { return false };
    let whole = u64::from(head.head_len) + head.content_length == stream.bytes.len() as u64;
    whole
        && match cut {
            Cut::Whole => true,
            Cut::At(at) => at >= head.head_len as usize,
            Cut::Bytes => false,
        }
}

/// Reads an answer and tells what it is; false where none can follow.
fn answer(from: &mut BufReader<Patient>, method: &str, told: &mut String) -> bool {
    match read(from, method, told) {
        Ok(open) => open,
        Err(error) => {
            let reset = "connection reset";
            let text = format!("{error:#}").to_lowercase();
            // An end is an end: which packet comes first is not the agent's choice alone.
            *told += if text.contains(reset) || text.contains("broken pipe") { "end\n" } else { &text };
            false
        }
    }
}

fn read(from: &mut BufReader<Patient>, method: &str, told: &mut String) -> Result<bool> {
    loop {
        let Some(head) = Head::read(from)? else {
            *told += "end\n";
            return Ok(false);
        };
        let status = head.status()?;
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        write!(told, "{status} ")?;
        for (name, value) in &head.fields {
            write!(told, "{name}: {value}; ")?;
        }
        let framing = if method == "HEAD" { Framing::Length(0) } else { head.answer_framing()? };
        let mut text = Vec::new();
        let read = head::body(from, framing, |piece| {
            text.extend_from_slice(piece);
            Ok(())
        });
        writeln!(told, "{}", String::from_utf8_lossy(&text))?;
        read?;
        return Ok(framing != Framing::Close && head.keeps_alive() && status != 101);
    }
}

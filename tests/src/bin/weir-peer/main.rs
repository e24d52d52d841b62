//! The scripted peer of the end-to-end tests: HTTP/1.1 and TCP servers and clients with exactly the
//! manners that a test asks for. Blocking sockets, a thread a connection. Servers print `listening`
//! when they are; clients print one JSON object when they have finished.

mod converse;
mod corpus;
mod head;
mod load;
mod probe;
mod raw;
mod recorder;
mod script;
mod server;
mod soak;
mod tcp;
mod transfer;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser, Debug)]
#[command(name = "weir-peer")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Serves the scripted answers (see script.rs) over HTTP/1.1.
    HttpServer(server::HttpServer),
    /// Answers everybody on TCP and UDP ports.
    Answer(probe::Answer),
    /// Connects, or sends a datagram, and prints what it met: open, refused, forbidden, silent, reset.
    Probe(probe::Probe),
    /// Sends back every byte, closes when the client does.
    Echo(tcp::Echo),
    /// Writes a banner when a client connects, then sends back every byte.
    SpeaksFirst(tcp::SpeaksFirst),
    /// Connects N at a time, sends requests with a nonce, checks that the answer carries it.
    Load(load::Load),
    /// POSTs bodies of the pattern to /echo and checks every byte that comes back.
    Transfer(transfer::Transfer),
    /// GETs /bytes/N, waits for a line on standard input before it reads the body, then checks it.
    SlowRead(transfer::SlowRead),
    /// Random requests until standard input closes, every answer checked.
    Soak(soak::Soak),
    /// Does what standard input says on one connection, step by step.
    Converse(converse::Converse),
    /// Serves answers that tell what was asked.
    Recorder(recorder::Recorder),
    /// Sends the streams of the corpus, cut in every way; prints what came back.
    Corpus(corpus::Corpus),
    /// Sends standard input as it is, in writes of a given size, and prints what comes back.
    Raw(raw::Raw),
    /// Connects and prints what getpeername and getsockname say.
    Getpeername(tcp::Getpeername),
    /// Opens connections and holds them until standard input closes.
    Hold(tcp::Hold),
}

fn main() -> Result<()> {
    match Cli::parse().verb {
        Verb::HttpServer(server) => server.serve(),
        Verb::Answer(answer) => answer.serve(),
        Verb::Probe(probe) => probe.run(),
        Verb::Echo(echo) => echo.serve(),
        Verb::SpeaksFirst(banner) => banner.serve(),
        Verb::Load(load) => load.run(),
        Verb::Transfer(transfer) => transfer.run(),
        Verb::SlowRead(slow) => slow.run(),
        Verb::Soak(soak) => soak.run(),
        Verb::Converse(converse) => converse.run(),
        Verb::Recorder(recorder) => recorder.serve(),
        Verb::Corpus(corpus) => corpus.run(),
        Verb::Raw(raw) => raw.run(),
        Verb::Getpeername(ask) => ask.run(),
        Verb::Hold(hold) => hold.run(),
    }
}

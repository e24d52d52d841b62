//! Trials of the splice lane: a client, the agent's two sockets and an endpoint, all in this process, and one
//! armed pair. Whatever differs from what relay does, in bytes or in order, keeps the lane off.

use super::{CAP, LaneTables, Pair as Hop};
use crate::datapath::tables::Tables;
use anyhow::{Context, ensure};
use proxy_common::{
    abi::{ROLE_AGENT, ROLE_APPLICATION, Settings, SocketState, counter},
    pair::{self, Pair, TURNED},
    policy::POLICY_NONE,
    tally::TallyKey,
};
use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use std::{
    io::{Read, Write},
    net::TcpStream,
};

/// The entry of the array that is tried. No connection has one yet.
const ENTRY: u32 = 0;
/// Counts for no series of the metrics: those are given out from below.
const SERIES: u32 = u32::MAX - 1;
const GET: &[u8] = b"GET /weir HTTP/1.1\r\nhost: weir\r\n\r\n";
const POST: &[u8] = b"POST /weir HTTP/1.1\r\nhost: weir\r\ncontent-length: 6\r\n\r\n";
const ODD: &[u8] = b"GET /a/../weir HTTP/1.1\r\nhost: weir\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";

/// Runs them all on one pair of connections, with the lane switched on for as long.
pub(super) fn trials(tables: &Tables, lane: &LaneTables<'_>) -> anyhow::Result<()> {
    let on = Settings { splice: 1, access_log: 0, request_cap: CAP, answer_cap: CAP, ..lane.settings };
    tables.write_settings(&on)?;
    let outcome = Scene::new(tables, lane).and_then(|mut scene| scene.play());
    tables.write_settings(&lane.settings)?;
    lane.pairs.set(ENTRY, Pair::default());
    let counted = lane.tallies.read()?.into_iter().map(|(key, _)| key);
    counted.filter(|key: &TallyKey| key.series == SERIES).try_for_each(|key| lane.tallies.remove(&key))?;
    outcome
}

struct Scene<'a> {
    tables: &'a Tables,
    lane: &'a LaneTables<'a>,
    /// Opened by the client, accepted by the agent.
    downstream: Hop<'a>,
    /// Opened by the agent, accepted by the endpoint.
    upstream: Hop<'a>,
    /// Bytes of the client that the agent has read.
    seen: u32,
}

impl<'a> Scene<'a> {
    fn new(tables: &'a Tables, lane: &'a LaneTables<'a>) -> anyhow::Result<Self> {
        let state = |role, opener| SocketState { role, opener, turn_cap: CAP, ..SocketState::default() };
        let downstream = Hop::of(tables, state(ROLE_APPLICATION, 1), state(ROLE_AGENT, 0))?;
        let upstream = Hop::of(tables, state(ROLE_AGENT, 1), state(ROLE_APPLICATION, 0))?;
        let joined = Pair {
            client: downstream.near_key,
            endpoint: upstream.far_key,
            generation: lane.settings.generation,
            policy: POLICY_NONE,
            series: SERIES,
            ..Pair::default()
        };
        lane.pairs.set(ENTRY, joined);
        let scene = Self { tables, lane, downstream, upstream, seen: 0 };
        for key in scene.ends() {
            tables.paired.insert(&key, &(ENTRY + 1))?;
        }
        Ok(scene)
    }

    fn ends(&self) -> [proxy_common::flow::FlowKey; 2] {
        [self.downstream.near_key, self.upstream.far_key]
    }

    fn play(&mut self) -> anyhow::Result<()> {
        self.arm()?;
        self.carries(GET, ANSWER).context("a request and its answer")?;
        self.splits().context("the end of a body and more in one message")?;
        self.follows().context("the end of a body and a request in one message")?;
        self.hands_over().context("a request that is the agent's")?;
        self.carries(GET, ANSWER).context("a request after one that was relayed")?;
        self.turns().context("an answer that is the agent's")
    }

    fn arm(&self) -> anyhow::Result<()> {
        let armed = self.lane.pairs.change(ENTRY, |word| pair::armed(word, self.seen));
        ensure!(armed, "the pair cannot be armed");
        Ok(())
    }

    /// The agent takes part in nothing.
    fn carries(&mut self, request: &[u8], answer: &[u8]) -> anyhow::Result<()> {
        let before = self.tables.counter(counter::SPLICED);
        self.downstream.near.write_all(request).context("write a request")?;
        silent(&self.downstream.far, "the agent got the request")?;
        expect(&mut self.upstream.far, request, "the request")?;
        self.upstream.far.write_all(answer).context("write an answer")?;
        silent(&self.upstream.near, "the agent got the answer")?;
        expect(&mut self.downstream.near, answer, "the answer")?;
        ensure!(
            self.tables.counter(counter::SPLICED) == before + 1,
            "the request was not counted as carried"
        );
        ensure!(!pair::is_busy(self.lane.pairs.state(ENTRY)), "the exchange has no end");
        Ok(())
    }

    /// What follows a body in its last message is the agent's, and waits until the answer is there.
    fn splits(&mut self) -> anyhow::Result<()> {
        self.downstream.near.write_all(&[POST, b"bod"].concat())?;
        self.downstream.near.write_all(&[&b"y!!"[..], GET].concat())?;
        expect(&mut self.upstream.far, &[POST, b"body!!"].concat(), "the body")?;
        silent(&self.upstream.far, "the endpoint got the next request too")?;
        ensure!(!self.lane.pairs.change(ENTRY, pair::taken), "taken back within an exchange");
        self.upstream.far.write_all(ANSWER)?;
        expect(&mut self.downstream.near, ANSWER, "the answer")?;
        self.relay(GET)
    }

    /// A request behind the rest of a body that has been answered is a request like any other.
    fn follows(&mut self) -> anyhow::Result<()> {
        self.downstream.near.write_all(&[POST, b"bod"].concat())?;
        self.upstream.far.write_all(ANSWER)?;
        expect(&mut self.downstream.near, ANSWER, "the early answer")?;
        self.downstream.near.write_all(&[&b"y!!"[..], GET].concat())?;
        silent(&self.downstream.far, "the agent got part of it")?;
        expect(&mut self.upstream.far, &[POST, b"body!!", GET].concat(), "the body and the request")?;
        self.upstream.far.write_all(ANSWER)?;
        expect(&mut self.downstream.near, ANSWER, "the answer")
    }

    fn hands_over(&mut self) -> anyhow::Result<()> {
        self.downstream.near.write_all(ODD)?;
        silent(&self.upstream.far, "the endpoint got it undecided")?;
        self.relay(ODD)
    }

    /// The agent takes the pair back, relays what it has got, and arms the pair again.
    fn relay(&mut self, request: &[u8]) -> anyhow::Result<()> {
        ensure!(self.lane.pairs.change(ENTRY, pair::taken), "the pair cannot be taken back");
        expect(&mut self.downstream.far, request, "what is the agent's")?;
        self.seen += u32::try_from(request.len())?;
        self.upstream.near.write_all(request)?;
        expect(&mut self.upstream.far, request, "the relayed request")?;
        self.upstream.far.write_all(ANSWER)?;
        expect(&mut self.upstream.near, ANSWER, "the answer to relay")?;
        self.downstream.far.write_all(ANSWER)?;
        expect(&mut self.downstream.near, ANSWER, "the relayed answer")?;
        self.arm()
    }

    fn turns(&mut self) -> anyhow::Result<()> {
        self.downstream.near.write_all(GET)?;
        expect(&mut self.upstream.far, GET, "the request")?;
        self.upstream.far.write_all(CHUNKED)?;
        expect(&mut self.upstream.near, CHUNKED, "the answer")?;
        silent(&self.downstream.near, "the client got it too")?;
        ensure!(self.lane.pairs.state(ENTRY) & TURNED != 0, "the answer was not turned");
        Ok(())
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        for key in self.ends() {
            if let Err(error) = self.tables.paired.remove(&key) {
                tracing::warn!(%error, "the self-test's pair stays in its table");
            }
        }
    }
}

fn expect(socket: &mut TcpStream, bytes: &[u8], what: &str) -> anyhow::Result<()> {
    let mut got = vec![0; bytes.len()];
    socket.read_exact(&mut got).with_context(|| format!("{what} did not come"))?;
    ensure!(got == bytes, "{what} came with other bytes");
    Ok(())
}

/// Redirected bytes are there when `write` returns: none are to be waited for.
fn silent(socket: &TcpStream, what: &'static str) -> anyhow::Result<()> {
    let peeked = recv(socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    ensure!(matches!(peeked, Err(Errno::AGAIN)), what);
    Ok(())
}

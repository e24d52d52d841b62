//! One connection of the load generator: a small state machine over a non-blocking socket.

use super::message::{self, Answer};
use anyhow::{Context, Error, Result};
use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, sockopt},
};
use std::{net::SocketAddrV4, time::Instant};

/// What all connections of a thread ask, and whom.
pub(super) struct Target {
    addr: SocketAddrV4,
    host: String,
    body: usize,
    reuse: bool,
    /// The next request's; threads count in ranges of their own.
    nonce: u64,
}

impl Target {
    /// Answers of `body` bytes from `addr`.
    pub(super) fn new(addr: SocketAddrV4, body: usize, reuse: bool, thread: u64) -> Self {
        Self { addr, host: addr.to_string(), body, reuse, nonce: thread << 48 }
    }
}

/// What a step brought.
pub(super) enum Step {
    /// There will be another event.
    Waiting,
    /// The request that counts from this time is complete.
    Answered(Instant),
    /// The connection broke; the next request opens another.
    Broken(Error),
}

/// A connection, open or not, with at most one request.
#[derive(Default)]
pub(super) struct Connection {
    socket: Option<OwnedFd>,
    phase: Phase,
    request: Vec<u8>,
    answer: Answer,
    /// When the request counts from.
    at: Option<Instant>,
}

/// What the connection waits for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Connect,
    Answer,
    /// The other side's close, on a connection per request.
    Close,
}

impl Connection {
    /// Begins a request whose latency counts from `at`; opens the socket if there is none and gives it
    /// to `register`.
    pub(super) fn start(
        &mut self,
        target: &mut Target,
        at: Instant,
        register: impl FnOnce(&OwnedFd) -> rustix::io::Result<()>,
    ) -> Result<Step> {
        target.nonce += 1;
        message::write_request(&mut self.request, &target.host, target.nonce, target.body, target.reuse);
        self.answer.expect(target.nonce, target.body);
        self.at = Some(at);
        if self.socket.is_some() {
            return Ok(self.send());
        }
        let socket = open().context("socket")?;
        register(&socket).context("epoll_ctl")?;
        let connected = rustix::net::connect(&socket, &target.addr);
        self.socket = Some(socket);
        self.phase = Phase::Connect;
        Ok(match connected {
            Ok(()) => self.send(),
            Err(Errno::INPROGRESS) => Step::Waiting,
            Err(error) => self.broken(error, "connect"),
        })
    }

    /// Moves on after an event. An error means an answer that is not the one that was asked for.
    pub(super) fn drive(&mut self, target: &Target, scratch: &mut [u8]) -> Result<Step> {
        match self.phase {
            Phase::Idle => Ok(self.drop_if_closed()),
            Phase::Connect => Ok(self.connected()),
            Phase::Answer | Phase::Close => self.receive(target, scratch),
        }
    }

    fn connected(&mut self) -> Step {
        let Some(socket) = &self.socket else { return Step::Waiting };
        match sockopt::socket_error(socket).and_then(|error| error) {
            Ok(()) => self.send(),
            Err(error) => self.broken(error, "connect"),
        }
    }

    /// Sends the request: it is far smaller than an empty send buffer, so it goes at once or never.
    fn send(&mut self) -> Step {
        let Some(socket) = &self.socket else { return Step::Waiting };
        match rustix::net::send(socket, &self.request, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == self.request.len() => {
                self.phase = Phase::Answer;
                Step::Waiting
            }
            // An event came before the handshake's end.
            Err(Errno::AGAIN | Errno::NOTCONN) if self.phase == Phase::Connect => Step::Waiting,
            Ok(_) => self.broken(Errno::AGAIN, "send"),
            Err(error) => self.broken(error, "send"),
        }
    }

    /// Reads until the answer is complete, and on a connection per request until its end.
    fn receive(&mut self, target: &Target, scratch: &mut [u8]) -> Result<Step> {
        loop {
            let Some(socket) = &self.socket else { return Ok(Step::Waiting) };
            let received = match rustix::net::recv(socket, &mut *scratch, RecvFlags::empty()) {
                Ok((received, _)) => received,
                Err(Errno::AGAIN) => return Ok(Step::Waiting),
                Err(Errno::INTR) => continue,
                Err(error) => return Ok(self.broken(error, "recv")),
            };
            match (received, self.phase) {
                (0, Phase::Close) => {
                    self.socket = None;
                    return Ok(self.answered());
                }
                (0, _) => return Ok(self.broken(Errno::PIPE, "closed before the answer's end")),
                (_, Phase::Close) => anyhow::bail!("more bytes than the answer has"),
                (_, _) => {}
            }
            if !self.answer.feed(scratch.get(..received).unwrap_or_default())? {
                continue;
            }
            if target.reuse {
                return Ok(self.answered());
            }
            self.phase = Phase::Close;
        }
    }

    fn answered(&mut self) -> Step {
        self.phase = Phase::Idle;
        self.at.take().map_or(Step::Waiting, Step::Answered)
    }

    /// A peer may close an idle connection; the next request then opens another.
    fn drop_if_closed(&mut self) -> Step {
        let mut byte = [0_u8; 1];
        if let Some(socket) = &self.socket
            && !matches!(rustix::net::recv(socket, &mut byte, RecvFlags::PEEK), Err(Errno::AGAIN))
        {
            self.socket = None;
        }
        Step::Waiting
    }

    fn broken(&mut self, error: Errno, doing: &'static str) -> Step {
        self.socket = None;
        self.phase = Phase::Idle;
        Step::Broken(Error::new(error).context(doing))
    }
}

/// A non-blocking TCP socket.
fn open() -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        Some(rustix::net::ipproto::TCP),
    )?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

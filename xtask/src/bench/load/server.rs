//! `bench-server`: answers [`message`](super::message) requests from one epoll loop per thread, on
//! every port it is given. The same server stands behind every path.

use super::message::{self, NONCE_LEN, Request};
use anyhow::{Context, Result};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, Event, EventData, EventFlags},
    fd::OwnedFd,
    io::Errno,
    net::{RecvFlags, SocketFlags, sockopt},
};
use std::{
    collections::HashMap,
    io::{IoSlice, Write},
    net::{Ipv4Addr, SocketAddrV4},
};

/// Longest body that can be asked for.
const MAX_BODY: usize = 1 << 20;
/// What [`EventData`] of a connection begins at; below are listeners.
const FIRST_CONNECTION: u64 = 1 << 16;
const BACKLOG: i32 = 4096;

/// Arguments of the hidden verb `bench-server`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Ports to answer on, all addresses.
    #[arg(long, value_delimiter = ',', required = true)]
    ports: Vec<u16>,
    /// Epoll loops; the kernel spreads connections over them.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// Serves until killed. Prints one line when every port is bound.
pub(crate) fn serve(args: &Args) -> Result<()> {
    let loops = (0..args.threads).map(|_| Loop::bind(&args.ports)).collect::<Result<Vec<_>>>()?;
    println!("ready");
    std::io::stdout().flush()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = loops.into_iter().map(|each| scope.spawn(|| each.run())).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// One thread's listeners and connections.
struct Loop {
    epoll: OwnedFd,
    listeners: Vec<OwnedFd>,
    connections: HashMap<u64, Connection>,
    filling: Vec<u8>,
    next: u64,
}

/// An accepted connection.
struct Connection {
    socket: OwnedFd,
    received: Vec<u8>,
    /// Head and nonce of the answer that is being sent, and how much filling follows.
    answer: Vec<u8>,
    filling: usize,
    /// Bytes of the answer that were sent.
    sent: usize,
    reuse: bool,
}

/// What became of a connection.
#[derive(PartialEq, Eq)]
enum Fate {
    Open,
    Closed,
}

impl Loop {
    fn bind(ports: &[u16]) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut listeners = Vec::new();
        for (token, port) in (0..FIRST_CONNECTION).zip(ports) {
            let listener = listen(*port).with_context(|| format!("port {port}"))?;
            epoll::add(&epoll, &listener, EventData::new_u64(token), EventFlags::IN)?;
            listeners.push(listener);
        }
        let filling = vec![b'w'; MAX_BODY];
        Ok(Self { epoll, listeners, connections: HashMap::new(), filling, next: FIRST_CONNECTION })
    }

    fn run(mut self) -> Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(512);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("epoll_wait"),
            }
            for event in &events {
                let token = event.data.u64();
                if token < FIRST_CONNECTION {
                    self.accept(token)?;
                } else {
                    self.drive(token)?;
                }
            }
        }
    }

    /// Accepts what waits on a listener.
    fn accept(&mut self, token: u64) -> Result<()> {
        let Some(listener) = self.listeners.get(usize::try_from(token)?) else { return Ok(()) };
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match rustix::net::accept_with(listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error).context("accept"),
            };
            sockopt::set_tcp_nodelay(&socket, true)?;
            let token = self.next;
            self.next += 1;
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            epoll::add(&self.epoll, &socket, EventData::new_u64(token), flags)?;
            self.connections.insert(token, Connection::new(socket));
        }
    }

    /// Moves a connection on as far as it goes.
    fn drive(&mut self, token: u64) -> Result<()> {
        let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
        if connection.drive(&self.filling)? == Fate::Closed {
            self.connections.remove(&token);
        }
        Ok(())
    }
}

impl Connection {
    fn new(socket: OwnedFd) -> Self {
        let (received, answer) = (Vec::with_capacity(4096), Vec::with_capacity(512));
        Self { socket, received, answer, filling: 0, sent: 0, reuse: true }
    }

    /// Sends, then reads and answers, until the socket has no more to give or to take. After a whole
    /// answer it does not look for the next request: that brings an event of its own.
    fn drive(&mut self, filling: &[u8]) -> Result<Fate> {
        loop {
            if !self.answer.is_empty() {
                match self.send(filling) {
                    Ok(true) if self.reuse && self.received.is_empty() => return Ok(Fate::Open),
                    Ok(true) if self.reuse => {}
                    Ok(false) => return Ok(Fate::Open),
                    Ok(true) | Err(_) => return Ok(Fate::Closed),
                }
            }
            if let Some(request) = message::parse_request(&self.received)? {
                self.received.drain(..request.len);
                self.begin_answer(&request, filling.len())?;
                continue;
            }
            self.received.reserve(2048);
            match rustix::net::recv(&self.socket, spare_capacity(&mut self.received), RecvFlags::empty()) {
                Ok((0, _)) => return Ok(Fate::Closed),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Fate::Open),
                Err(_) => return Ok(Fate::Closed),
            }
        }
    }

    fn begin_answer(&mut self, request: &Request, most: usize) -> Result<()> {
        self.filling = request.body.checked_sub(NONCE_LEN).context("a body without room for the nonce")?;
        anyhow::ensure!(self.filling <= most, "a body of {} bytes was asked for", request.body);
        self.reuse = request.reuse;
        self.sent = 0;
        message::write_answer_head(&mut self.answer, request);
        Ok(())
    }

    /// True when the whole answer is out, false when the socket takes no more for now. A small answer
    /// is one segment, a large one a single gathering write.
    fn send(&mut self, filling: &[u8]) -> rustix::io::Result<bool> {
        let whole = self.answer.len() + self.filling;
        while self.sent < whole {
            let head = self.answer.get(self.sent..).unwrap_or_default();
            let begun = self.sent.saturating_sub(self.answer.len());
            let rest = filling.get(begun..self.filling).unwrap_or_default();
            match rustix::io::writev(&self.socket, &[IoSlice::new(head), IoSlice::new(rest)]) {
                Ok(written) => self.sent += written,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        self.answer.clear();
        Ok(true)
    }
}

/// A listening socket of this thread; threads share the port.
fn listen(port: u16) -> Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        flags,
        Some(rustix::net::ipproto::TCP),
    )?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

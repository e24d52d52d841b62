//! The HTTP/1.1 server: reads a request, lets the script answer it.

use crate::{
    head::{Head, Reader},
    script,
};
use anyhow::{Context, Result};
use clap::Args;
use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

/// Arguments of `weir-peer http-server`.
#[derive(Args, Debug)]
pub(crate) struct HttpServer {
    /// Where to listen.
    #[arg(long, required = true, value_delimiter = ',')]
    listen: Vec<SocketAddr>,
    /// What the server calls itself in `X-Server`.
    #[arg(long, default_value = "server")]
    name: String,
}

/// What the script knows about a connection.
#[derive(Debug)]
pub(crate) struct Session {
    /// The server's name.
    pub(crate) name: String,
    /// The client, as the server sees it.
    pub(crate) peer: SocketAddr,
    /// The address that the client reached.
    pub(crate) local: SocketAddr,
    /// Requests on this connection so far, the present one included.
    pub(crate) count: u64,
}

impl HttpServer {
    /// Serves until killed.
    pub(crate) fn serve(self) -> Result<()> {
        let name = self.name;
        listen(&self.listen, move |stream| converse(stream, &name))
    }
}

/// Listens on every address, says so, and gives each connection a thread. An error of one ends it
/// alone, and is printed.
pub(crate) fn listen(
    addrs: &[SocketAddr],
    serve: impl Fn(TcpStream) -> Result<()> + Clone + Send + 'static,
) -> Result<()> {
    let listeners: Vec<_> = addrs
        .iter()
        .map(|addr| TcpListener::bind(addr).with_context(|| format!("listen on {addr}")))
        .collect::<Result<_>>()?;
    writeln!(std::io::stdout(), "listening")?;
    let acceptors: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let serve = serve.clone();
            thread::spawn(move || accept(&listener, &serve))
        })
        .collect();
    for acceptor in acceptors {
        let _ended = acceptor.join();
    }
    Ok(())
}

fn accept(listener: &TcpListener, serve: &(impl Fn(TcpStream) -> Result<()> + Clone + Send + 'static)) {
    for stream in listener.incoming() {
        let serve = serve.clone();
        match stream {
            Ok(stream) => drop(thread::spawn(move || {
                if let Err(error) = serve(stream) {
                    eprintln!("connection: {error:#}");
                }
            })),
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

fn converse(stream: TcpStream, name: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut session =
        Session { name: name.to_owned(), peer: stream.peer_addr()?, local: stream.local_addr()?, count: 0 };
    let mut reader = Reader::new(stream);
    while let Some(head) = Head::read(&mut reader)? {
        session.count += 1;
        if !script::answer(&head, &mut reader, &session)? {
            break;
        }
    }
    Ok(())
}

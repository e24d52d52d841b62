//! Plain TCP servers and clients.

use crate::server;
use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Arguments of `weir-peer echo`.
#[derive(Args, Debug)]
pub(crate) struct Echo {
    /// Where to listen.
    #[arg(long, required = true, value_delimiter = ',')]
    listen: Vec<SocketAddr>,
}

/// Arguments of `weir-peer speaks-first`.
#[derive(Args, Debug)]
pub(crate) struct SpeaksFirst {
    /// Where to listen.
    #[arg(long, required = true, value_delimiter = ',')]
    listen: Vec<SocketAddr>,
    /// The first line it writes.
    #[arg(long, default_value = "220 ready")]
    banner: String,
}

/// Arguments of `weir-peer getpeername`.
#[derive(Args, Debug)]
pub(crate) struct Getpeername {
    /// Where to connect.
    #[arg(long)]
    to: SocketAddr,
}

/// Arguments of `weir-peer hold`.
#[derive(Args, Debug)]
pub(crate) struct Hold {
    /// Where to connect.
    #[arg(long)]
    to: SocketAddr,
    /// How many connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
}

impl Echo {
    /// Serves until killed.
    pub(crate) fn serve(self) -> Result<()> {
        server::listen(&self.listen, |stream| copy(&stream))
    }
}

impl SpeaksFirst {
    /// Serves until killed.
    pub(crate) fn serve(self) -> Result<()> {
        let banner = format!("{}\r\n", self.banner);
        server::listen(&self.listen, move |mut stream| {
            stream.write_all(banner.as_bytes())?;
            copy(&stream)
        })
    }
}

fn copy(mut stream: &TcpStream) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(buffer.get(..count).unwrap_or_default())?;
    }
}

impl Getpeername {
    /// Prints `{"peer", "local"}`.
    pub(crate) fn run(&self) -> Result<()> {
        let stream = TcpStream::connect(self.to).with_context(|| format!("connect {}", self.to))?;
        let told =
            json!({"peer": stream.peer_addr()?.to_string(), "local": stream.local_addr()?.to_string()});
        Ok(writeln!(std::io::stdout(), "{told}")?)
    }
}

impl Hold {
    /// Prints `{"open", "errors": {"kind": count}}`, then waits.
    pub(crate) fn run(&self) -> Result<()> {
        let mut open = Vec::new();
        let mut errors = BTreeMap::<String, u64>::new();
        for _ in 0..self.connections {
            match TcpStream::connect_timeout(&self.to, Duration::from_secs(5)) {
                Ok(stream) => open.push(stream),
                Err(error) => *errors.entry(format!("{:?}", error.kind())).or_default() += 1,
            }
        }
        writeln!(std::io::stdout(), "{}", json!({"open": open.len(), "errors": errors}))?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

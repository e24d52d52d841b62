//! Given bytes, in writes of a given size.

use anyhow::{Context, Result};
use clap::Args;
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

/// Arguments of `weir-peer raw`.
#[derive(Args, Debug)]
pub(crate) struct Raw {
    /// Where to connect.
    #[arg(long)]
    to: SocketAddr,
    /// Bytes per write; 0 writes all at once.
    #[arg(long, default_value_t = 0)]
    write: usize,
    /// Between two writes, milliseconds.
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// Binds this address first.
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// Shuts down the sending side after the last byte.
    #[arg(long)]
    half_close: bool,
    /// How long it waits for more bytes, milliseconds.
    #[arg(long, default_value_t = 5000)]
    patience: u64,
    /// Resets the connection after the last byte instead of reading.
    #[arg(long)]
    reset: bool,
    /// Closes the connection after the last byte instead of reading.
    #[arg(long)]
    close: bool,
    /// With `--reset`: only when it is killed.
    #[arg(long, requires = "reset")]
    hold: bool,
}

impl Raw {
    /// Prints the received bytes; standard error says how it ended: `eof`, `reset` or `timeout`.
    pub(crate) fn run(&self) -> Result<()> {
        let mut input = Vec::new();
        std::io::stdin().read_to_end(&mut input)?;
        let mut stream = self.connect()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(self.patience)))?;
        let size = if self.write == 0 { input.len().max(1) } else { self.write };
        for piece in input.chunks(size) {
            // The server may have ended the conversation: what it said still counts.
            if stream.write_all(piece).is_err() {
                break;
            }
            if self.pause > 0 {
                thread::sleep(Duration::from_millis(self.pause));
            }
        }
        if self.reset {
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            if self.hold {
                loop {
                    thread::park();
                }
            }
            return Ok(());
        }
        if self.close {
            return Ok(());
        }
        if self.half_close {
            stream.shutdown(Shutdown::Write)?;
        }
        let ended = receive(&mut stream)?;
        writeln!(std::io::stderr(), "{ended}")?;
        Ok(())
    }

    fn connect(&self) -> Result<TcpStream> {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
        let Some(own) = self.bind else {
            return TcpStream::connect(self.to).with_context(|| format!("connect {}", self.to));
        };
        let family = if own.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = socket(family, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &own).with_context(|| format!("bind {own}"))?;
        connect(&socket, &self.to).with_context(|| format!("connect {}", self.to))?;
        Ok(socket.into())
    }
}

fn receive(stream: &mut TcpStream) -> Result<&'static str> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok("eof"),
            Ok(count) => std::io::stdout().write_all(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok("reset"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok("timeout");
            }
            Err(error) => return Err(error.into()),
        }
    }
}

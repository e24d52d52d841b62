//! A GET for the admin listener and for tests: one request, one answer, one connection.

use anyhow::{Context, Result};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its head, status line included.
    pub head: String,
    /// Its body; the harness only asks listeners that do not chunk answers to HTTP/1.0.
    pub body: String,
}

/// Asks from the calling thread's network namespace.
pub fn get(addr: SocketAddr, path: &str) -> Result<Answer> {
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&addr, limit).with_context(|| format!("connect {addr}"))?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
    let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

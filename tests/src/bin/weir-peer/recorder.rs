//! An endpoint that tells what it was asked: every answer's `X-Got` is the digest of its request, and its
//! body, where it has one, the request itself. `GET /tally` tells about all whole requests so far.
//!
//! `X-Answer` chooses: `length`, `chunked`, `close` (until it), `103` (before `length`), or a status.

use crate::{
    head::{self, Head, Reader},
    server,
};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use weir_tests::pattern::Digest;

/// Arguments of `weir-peer recorder`.
#[derive(Args, Debug)]
pub(crate) struct Recorder {
    /// Where to listen.
    #[arg(long, required = true, value_delimiter = ',')]
    listen: Vec<SocketAddr>,
}

static COUNT: AtomicU64 = AtomicU64::new(0);
/// Of all requests' digests: the order between connections does not matter.
static SUM: AtomicU64 = AtomicU64::new(0);

/// Fields that concern one hop.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

impl Recorder {
    /// Serves until killed.
    pub(crate) fn serve(&self) -> Result<()> {
        server::listen(&self.listen, converse)
    }
}

fn converse(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = Reader::new(stream);
    while let Some(request) = Head::read(&mut reader)? {
        let body = head::digest(&mut reader, request.request_framing()?)?;
        if request.first.starts_with("GET /tally ") {
            let told = json!({"count": COUNT.load(Relaxed), "sum": SUM.load(Relaxed)}).to_string();
            write!(reader.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{told}", told.len())?;
            return Ok(());
        }
        let told = told(&request, &body);
        if !answer(reader.get_mut(), &request, &told)? {
            break;
        }
    }
    Ok(())
}

/// The request as any hop may see it: fields by name, those of one name in order.
fn told(request: &Head, body: &Digest) -> String {
    let mut fields: Vec<_> = request
        .fields
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), format!("{name}: {value}\n")))
        .filter(|(name, _)| !HOP_BY_HOP.contains(&name.as_str()))
        .collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    let fields: String = fields.into_iter().map(|(_, line)| line).collect();
    format!("{}\n{fields}{} bytes {}\n", request.first, body.length(), body.hex())
}

fn answer(stream: &mut TcpStream, request: &Head, told: &str) -> Result<bool> {
    let mut digest = Digest::default();
    digest.add(told.as_bytes());
    let got = digest.hex();
    COUNT.fetch_add(1, Relaxed);
    SUM.fetch_add(u64::from_str_radix(&got, 16)?, Relaxed);
    let kind = request.field("x-answer").unwrap_or_default();
    let status = kind.parse::<u16>().ok().filter(|status| *status >= 200).unwrap_or(200);
    let body = if request.word(0)? == "HEAD" { "" } else { told };
    let mut out = format!("HTTP/1.1 {status} Told\r\nX-Got: {got}\r\nX-B: 1\r\nx-b: 2\r\n");
    match kind {
        "204" | "304" => out += "\r\n",
        "chunked" if body.is_empty() => out += "Transfer-Encoding: chunked\r\n\r\n",
        "chunked" => {
            out += &format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        }
        "close" => out += &format!("Connection: close\r\n\r\n{body}"),
        "103" => {
            let answer = format!("{out}Content-Length: {}\r\n\r\n{body}", told.len());
            out = format!("HTTP/1.1 103 Early Hints\r\n\r\n{answer}");
        }
        _ => out += &format!("Content-Length: {}\r\n\r\n{body}", told.len()),
    }
    stream.write_all(out.as_bytes())?;
    Ok(kind != "close" && request.keeps_alive())
}

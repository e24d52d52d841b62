//! What the server does with a request: the path says.
//!
//! - `/echo`: sends the body back as it comes, framed as the request was
//! - `/sink`: reads the body; JSON with its length and digest
//! - `/pause/MS`: as `/sink`, but reads the body only after so long
//! - `/hold/FILE` (path with `+` for `/`): as `/sink`, but reads the body once the file exists
//! - `/bytes/N[?chunked]`: N bytes of pattern N
//! - `/progress`: JSON with how many body bytes of `/bytes` the kernel has taken so far
//! - `/trickle/N/MS[?chunked]`: N bytes, so long between two of them
//! - `/delay/MS`: answers after so long
//! - `/status/N`: that status
//! - `/empty/N`: that status, without a body and without Content-Length
//! - `/interim/N`: a 1xx answer before the answer
//! - `/early`: answers before it reads the body
//! - `/until-close/N`: N bytes of pattern N that end with the connection
//! - `/bye`: answers with `Connection: close`; `/leave`: closes after its answer without a word
//! - `/close`: closes instead of answering; `/stale`: so, unless it is a connection's first request
//! - `/hang`: never answers
//! - `/reset`: resets instead of answering
//! - `/reset-mid/N`, `/close-mid/N`: announces 2N bytes, sends N, resets or closes
//! - `/stall/N`: announces 2N bytes, sends N, then is silent
//! - `/garbage`: answers with something that is not HTTP
//! - anything else: JSON about the request: method, target, fields in order, peer
//!
//! Every answer carries `X-Server`, `X-Peer` (the client's address), `X-Count` (requests on this
//! connection) and, where the request has one, its `X-Nonce`.

use crate::{
    head::{self, Framing, Head, Reader},
    server::Session,
};
use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_linger;
use serde_json::{Value, json};
use std::{
    io::Write,
    net::TcpStream,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};
use weir_tests::{pattern::Pattern, wait};

/// Body bytes of `/bytes` that the kernel has taken, on all connections.
static SENT: AtomicU64 = AtomicU64::new(0);

/// Answers one request; false when the connection must end.
pub(crate) fn answer(request: &Head, reader: &mut Reader, session: &Session) -> Result<bool> {
    let target = request.word(1)?.to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut words = path.trim_start_matches('/').split('/');
    let verb = words.next().unwrap_or_default();
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    let reply = Reply { request, session };
    match verb {
        "echo" => reply.echo(reader),
        "sink" => reply.sink(reader, || Ok(())),
        "early" => {
            let kept = reply.json(reader.get_mut(), 200, &json!({"early": true}))?;
            head::digest(reader, request.request_framing()?)?;
            Ok(kept)
        }
        "pause" => {
            let span = Duration::from_millis(number().unwrap_or(0));
            reply.sink(reader, || {
                thread::sleep(span);
                Ok(())
            })
        }
        "hold" => {
            let file = path.trim_start_matches("/hold").replace('+', "/");
            reply.sink(reader, || {
                wait::until(Duration::from_secs(60), "the file", || Ok(Path::new(&file).exists()))
            })
        }
        _ => {
            let body = head::digest(reader, request.request_framing()?)?;
            let stream = reader.get_mut();
            match verb {
                "bytes" => reply.bytes(stream, number().unwrap_or(0), query == "chunked"),
                "trickle" => {
                    reply.trickle(stream, number().unwrap_or(1), number().unwrap_or(1), query == "chunked")
                }
                "progress" => reply.json(stream, 200, &json!({"sent": SENT.load(Ordering::Relaxed)})),
                "delay" => {
                    thread::sleep(Duration::from_millis(number().unwrap_or(0)));
                    reply.json(stream, 200, &reply.about(body.length()))
                }
                "status" => {
                    let status = u16::try_from(number().unwrap_or(200))?;
                    reply.json(stream, status, &reply.about(body.length()))
                }
                "empty" => {
                    let status = u16::try_from(number().unwrap_or(204))?;
                    stream.write_all(reply.head(status, "X-Empty: yes").as_bytes())?;
                    Ok(request.keeps_alive())
                }
                "interim" => {
                    write!(stream, "HTTP/1.1 {} Wait\r\n\r\n", number().unwrap_or(103))?;
                    reply.json(stream, 200, &reply.about(body.length()))
                }
                _ => reply.last(reader, verb, number().unwrap_or(0), body.length()),
            }
        }
    }
}

/// An answer under construction.
struct Reply<'a> {
    request: &'a Head,
    session: &'a Session,
}

impl Reply<'_> {
    fn head(&self, status: u16, framing: &str) -> String {
        let Session { name, peer, count, .. } = self.session;
        let nonce =
            self.request.field("x-nonce").map_or_else(String::new, |nonce| format!("X-Nonce: {nonce}\r\n"));
        format!(
            "HTTP/1.1 {status} Scripted\r\nX-Server: {name}\r\nX-Peer: {peer}\r\nX-Count: {count}\r\n\
             {nonce}{framing}\r\n\r\n"
        )
    }

    fn about(&self, body: u64) -> Value {
        let Session { name, peer, local, count } = self.session;
        let fields: Vec<_> = self.request.fields.iter().map(|(name, value)| json!([name, value])).collect();
        json!({
            "server": name, "peer": peer.to_string(), "local": local.to_string(), "count": count,
            "line": self.request.first, "fields": fields, "body": body,
        })
    }

    fn json(&self, stream: &mut TcpStream, status: u16, value: &Value) -> Result<bool> {
        let body = if status == 204 || status == 304 { String::new() } else { format!("{value}\n") };
        let head = self.head(status, &format!("Content-Length: {}", body.len()));
        let sent = if self.request.word(0)? == "HEAD" { "" } else { body.as_str() };
        stream.write_all(format!("{head}{sent}").as_bytes())?;
        Ok(self.request.keeps_alive())
    }

    fn sink(&self, reader: &mut Reader, before: impl FnOnce() -> Result<()>) -> Result<bool> {
        before()?;
        let body = head::digest(reader, self.request.request_framing()?)?;
        let told = json!({"server": self.session.name, "length": body.length(), "digest": body.hex()});
        self.json(reader.get_mut(), 200, &told)
    }

    fn echo(&self, reader: &mut Reader) -> Result<bool> {
        let framing = self.request.request_framing()?;
        let mut stream = reader.get_ref().try_clone()?;
        let chunked = framing == Framing::Chunked;
        let announced = match framing {
            Framing::Length(length) => format!("Content-Length: {length}"),
            Framing::Chunked | Framing::Close => "Transfer-Encoding: chunked".to_owned(),
        };
        stream.write_all(self.head(200, &announced).as_bytes())?;
        head::body(reader, framing, |piece| Ok(write_piece(&mut stream, piece, chunked)?))?;
        if chunked {
            stream.write_all(LAST_CHUNK)?;
        }
        Ok(self.request.keeps_alive())
    }

    fn bytes(&self, stream: &mut TcpStream, count: u64, chunked: bool) -> Result<bool> {
        // Small answers leave in one write, as real servers send them.
        let mut out = self.head(200, &framing(count, chunked)).into_bytes();
        let mut pattern = Pattern::new(count);
        let mut left = count;
        while left > 0 {
            let take = usize::try_from(left)?.min(1 << 16);
            let mut piece = vec![0; take];
            pattern.fill(&mut piece);
            write_piece(&mut out, &piece, chunked)?;
            stream.write_all(&out)?;
            SENT.fetch_add(take as u64, Ordering::Relaxed);
            out.clear();
            left -= take as u64;
        }
        if chunked {
            out.extend_from_slice(LAST_CHUNK);
        }
        stream.write_all(&out)?;
        Ok(self.request.keeps_alive())
    }

    fn trickle(&self, stream: &mut TcpStream, count: u64, pause_ms: u64, chunked: bool) -> Result<bool> {
        stream.write_all(self.head(200, &framing(count, chunked)).as_bytes())?;
        for _ in 0..count {
            thread::sleep(Duration::from_millis(pause_ms));
            write_piece(stream, b".", chunked)?;
        }
        if chunked {
            stream.write_all(LAST_CHUNK)?;
        }
        Ok(self.request.keeps_alive())
    }

    /// The verbs that end the connection, and the rest.
    fn last(&self, reader: &mut Reader, verb: &str, number: u64, body: u64) -> Result<bool> {
        let stream = reader.get_mut();
        match verb {
            "until-close" => self.until_close(stream, number),
            "bye" => self.bye(stream),
            "leave" => self.json(stream, 200, &self.about(body)).map(|_| false),
            "close" => Ok(false),
            "stale" if self.session.count > 1 => Ok(false),
            "hang" => silent(reader),
            "reset" => reset(stream),
            "reset-mid" => self.half(stream, number).and_then(|()| reset(reader.get_mut())),
            "close-mid" => self.half(stream, number).map(|()| false),
            "stall" => self.half(stream, number).and_then(|()| silent(reader)),
            "garbage" => {
                stream.write_all(b"\x00\x01 this is not HTTP\r\n\r\n")?;
                Ok(false)
            }
            _ => self.json(stream, 200, &self.about(body)),
        }
    }

    fn until_close(&self, stream: &mut TcpStream, count: u64) -> Result<bool> {
        let mut out = self.head(200, "Connection: close").into_bytes();
        let start = out.len();
        out.resize(start + usize::try_from(count)?, 0);
        Pattern::new(count).fill(out.get_mut(start..).unwrap_or_default());
        stream.write_all(&out)?;
        Ok(false)
    }

    fn bye(&self, stream: &mut TcpStream) -> Result<bool> {
        let head = self.head(200, "Content-Length: 4\r\nConnection: close");
        stream.write_all(format!("{head}bye\n").as_bytes())?;
        Ok(false)
    }

    /// Announces twice what it sends.
    fn half(&self, stream: &mut TcpStream, count: u64) -> Result<()> {
        stream.write_all(self.head(200, &format!("Content-Length: {}", 2 * count)).as_bytes())?;
        let mut piece = vec![0; usize::try_from(count)?];
        Pattern::new(2 * count).fill(&mut piece);
        Ok(stream.write_all(&piece)?)
    }
}

/// What ends a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The field that says how a body of this length ends.
fn framing(length: u64, chunked: bool) -> String {
    if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {length}") }
}

fn write_piece(to: &mut impl Write, piece: &[u8], chunked: bool) -> std::io::Result<()> {
    if !chunked {
        return to.write_all(piece);
    }
    if piece.is_empty() {
        return Ok(());
    }
    let mut framed = format!("{:x}\r\n", piece.len()).into_bytes();
    framed.extend_from_slice(piece);
    framed.extend_from_slice(b"\r\n");
    to.write_all(&framed)
}

/// Reads until the other side gives up.
fn silent(reader: &mut Reader) -> Result<bool> {
    head::digest(reader, Framing::Close).context("a silent connection ended")?;
    Ok(false)
}

/// Closes with a reset.
fn reset(stream: &mut TcpStream) -> Result<bool> {
    set_socket_linger(&*stream, Some(Duration::ZERO))?;
    Ok(false)
}

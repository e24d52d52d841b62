//! What must hold for any bytes behind a client's preface, for tests and `cargo fuzz run frames`: frames are
//! counted the same however they are cut, and a request that is admitted is one of HTTP/1.1, in one reading.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use super::{
    frames::{Frames, MAX_STREAMS},
    message,
};
use crate::{
    admission::{self, Framer, Rules},
    route::choices::{Choices, HeadLimits},
};
use bytes::Bytes;
use http::{Request, header::HOST};
use http_body::Body as _;
use http_body_util::Full;
use proxy_common::http::HTTP2_PREFACE as PREFACE;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// What must hold for any bytes; how many requests were admitted. The first byte says how often the rest comes,
/// and after how long.
#[cfg_attr(not(fuzzing), allow(unreachable_pub, reason = "only the fuzz target is outside"))]
pub fn agrees(bytes: &[u8]) -> usize {
    let Some((how, rest)) = bytes.split_first() else { return 0 };
    let (times, pause) = (1 + (how & 15), Duration::from_millis(10 * u64::from(how >> 4)));
    let mut cuts =
        Cuts(rest.iter().fold(u64::from(*how) | 1, |sum, byte| sum.rotate_left(7) ^ u64::from(*byte)));
    are_counted_however_cut(rest, times, pause, &mut cuts);
    requests(rest, &mut cuts).into_iter().filter(is_one_message).count()
}

/// Pseudo-random lengths, the same for the same bytes.
struct Cuts(u64);

impl Cuts {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + usize::try_from((self.0 >> 33) % 24).unwrap()
    }
}

/// What frames tell the driver of a connection.
fn told(frames: &Frames) -> impl PartialEq + std::fmt::Debug + use<> {
    (frames.excess(), frames.is_acknowledged(), frames.half_until(Duration::ZERO), frames.goaway(11))
}

fn are_counted_however_cut(bytes: &[u8], times: u8, pause: Duration, cuts: &mut Cuts) {
    let begun = Instant::now();
    let [mut whole, mut pieces, mut single] = std::array::from_fn(|_| Frames::new(begun));
    let mut before = None;
    for n in 0..=times {
        let now = begun + pause * n.into();
        let next = if n == 0 { PREFACE } else { bytes };
        whole.read(next, now);
        next.chunks(1).for_each(|byte| single.read(byte, now));
        let mut rest = next;
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(cuts.next().min(rest.len()));
            pieces.read(piece, now);
            rest = left;
        }
        assert_eq!(told(&whole), told(&single));
        assert_eq!(told(&whole), told(&pieces));
        assert!(before.is_none() || whole.excess() == before, "an excess stays");
        before = whole.excess();
    }
    if pause.is_zero() {
        let all: Vec<u8> = bytes.repeat(times.into());
        assert_eq!(whole.excess().is_some(), is_too_much(&all), "{}", bytes.escape_ascii());
    }
}

/// Another count, of frames that all come at once.
fn is_too_much(mut bytes: &[u8]) -> bool {
    let (mut control, mut resets, mut streams, mut acknowledged, mut first) = (1000_u32, 100, 0, false, true);
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let (kind, is_settings) = (head[3], head[3] == 4);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        // RFC 9113 sections 6.3 to 6.9.
        let odd = match (kind, length) {
            (2, 5) | (3 | 8, 4) | (6, 8) => false,
            (4, length) => {
                if head[4] & 1 == 1 {
                    length > 0
                } else {
                    length % 6 > 0
                }
            }
            (7, length) => length < 8,
            (2 | 3 | 6 | 8, _) => true,
            _ => false,
        };
        let left = match kind {
            _ if odd || first && !is_settings => None,
            0 | 5 | 7 | 9 => Some(()),
            1 => {
                control = if stream > streams { 1000.min(control + 2) } else { control };
                streams = streams.max(stream);
                Some(())
            }
            3 => u32::checked_sub(resets, 1).map(|left| resets = left),
            4 if head[4] & 1 == 1 && !acknowledged => {
                acknowledged = true;
                Some(())
            }
            _ => control.checked_sub(1).map(|left| control = left),
        };
        if left.is_none() {
            return true;
        }
        first = false;
        bytes = rest.get(length..).unwrap_or_default();
    }
    false
}

/// A client whose bytes come in pieces, and whom answers do not interest.
struct Client<'a> {
    rest: &'a [u8],
    cuts: &'a mut Cuts,
    waits: bool,
}

impl AsyncRead for Client<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let client = self.get_mut();
        client.waits = !client.waits && !client.rest.is_empty();
        if !client.waits {
            return Poll::Pending;
        }
        let length = client.cuts.next().pow(2).min(client.rest.len()).min(buf.remaining());
        let (piece, left) = client.rest.split_at(length);
        buf.put_slice(piece);
        client.rest = left;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The requests that hyper's engine of HTTP/2 reads, with its limits as ours.
fn requests(bytes: &[u8], cuts: &mut Cuts) -> Vec<Request<Full<Bytes>>> {
    let all = [PREFACE, bytes].concat();
    // Each poll takes a piece, or finds that there is none yet.
    let polls = 2 * all.len() + 2;
    let client = Client { rest: &all, cuts, waits: false };
    let mut context = Context::from_waker(Waker::noop());
    let mut engine = h2::server::Builder::new();
    let list = u32::try_from(HeadLimits::default().list()).unwrap();
    engine.max_header_list_size(list).max_concurrent_streams(MAX_STREAMS);
    let mut opening = Box::pin(engine.handshake::<_, Bytes>(client));
    let mut read = Vec::new();
    let opened = (0..polls).find_map(|_| match opening.as_mut().poll(&mut context) {
        Poll::Ready(opened) => Some(opened),
        Poll::Pending => None,
    });
    let Some(Ok(mut connection)) = opened else { return read };
    let mut open = Vec::new();
    for _ in 0..polls {
        match connection.poll_accept(&mut context) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                open.push(respond);
                let body =
                    if request.body().is_end_stream() { Bytes::new() } else { Bytes::from_static(b"abc") };
                read.push(request.map(|_| Full::new(body)));
            }
            Poll::Ready(_) => break,
            Poll::Pending => {}
        }
    }
    read
}

/// Whether a request is admitted. If it is, what it becomes is one message of HTTP/1.1 that admission reads alike.
fn is_one_message(request: &Request<Full<Bytes>>) -> bool {
    if admission::http2::request(request, false).is_some() {
        return false;
    }
    let authority = request.uri().authority().map(|authority| authority.to_string());
    let (asked, fields) = (request.uri().path_and_query().cloned(), request.headers().clone());
    let made = message::request(request.clone());
    let target = made.uri().path_and_query().map_or("/", |target| target.as_str());
    let law = (&Rules::default(), Choices::default());
    if admission::check(made.method().as_str(), target, made.headers(), law).is_err() {
        return false;
    }
    assert_eq!(asked.as_ref().map_or("/", |asked| asked.as_str()), target);
    let hosts: Vec<_> = made.headers().get_all(HOST).iter().collect();
    let [host] = hosts[..] else { panic!("{hosts:?}") };
    assert!(authority.is_none_or(|authority| authority.as_bytes() == host.as_bytes()), "{host:?}");
    for name in fields.keys().filter(|name| !["host", "cookie"].contains(&name.as_str())) {
        assert!(fields.get_all(name).iter().eq(made.headers().get_all(name)), "{name}");
    }
    // As the hop to an endpoint would write it, each name in lower case.
    let mut head = format!("{} {target} HTTP/1.1\r\n", made.method()).into_bytes();
    for (name, value) in made.headers() {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    let mut framer = Framer::of_client(Arc::default(), false);
    let passed = framer.admit(&head);
    let text = head.escape_ascii();
    assert_eq!((passed, framer.heads(), framer.refusal()), (head.len(), 1, None), "{text}");
    let framed = framer.awaits();
    assert!(!made.body().is_end_stream() || framed != "chunked", "{text}");
    true
}

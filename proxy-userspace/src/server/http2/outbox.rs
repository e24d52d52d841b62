//! What hyper has written, gathered until it has nothing more to say for now: h2 hands over each frame of data by
//! itself, and a system call (with TLS, a record) for each would cost more than to copy it.

use crate::wire::Wire;
use parking_lot::Mutex;
use std::{
    io::{self, ErrorKind, IoSlice},
    task::{Context, Poll, ready},
};

/// Bytes that it holds. Less than 64 KiB in one piece, which glibc would join with its neighbours whenever it is
/// given back.
const ROOM: usize = 65_000;
/// What is less is not worth a buffer of that size.
const LITTLE: usize = 4096;

/// See the module. One task writes and drains it; the lock is never waited for.
#[derive(Debug, Default)]
pub(super) struct Outbox(Mutex<Gathered>);

#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// Of these, on the wire.
    sent: usize,
}

impl Outbox {
    /// Takes what there is room for, at least one byte of what is not empty; where there is none, the wire has to
    /// take something first.
    pub(super) fn poll_take(
        &self,
        wire: &Wire,
        slices: &[IoSlice<'_>],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.0.lock();
        if gathered.bytes.len() >= ROOM {
            ready!(gathered.poll_drain(wire, cx))?;
        }
        let mut taken = 0;
        for slice in slices {
            let room = ROOM.saturating_sub(gathered.bytes.len());
            let piece = slice.get(..room).unwrap_or(slice);
            gathered.take(piece);
            taken += piece.len();
        }
        Poll::Ready(Ok(taken))
    }

    /// Ready when the socket has all of it.
    pub(super) fn poll_drain(&self, wire: &Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_drain(wire, cx)
    }

    /// What the socket has not got; it is the caller's now.
    pub(super) fn rest(&self) -> Vec<u8> {
        let Gathered { mut bytes, sent } = std::mem::take(&mut *self.0.lock());
        bytes.drain(..sent.min(bytes.len()));
        bytes
    }
}

impl Gathered {
    fn take(&mut self, piece: &[u8]) {
        if piece.len() > LITTLE {
            self.bytes.reserve_exact(ROOM.saturating_sub(self.bytes.len()));
        }
        self.bytes.extend_from_slice(piece);
    }

    fn poll_drain(&mut self, wire: &Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(left) = self.bytes.get(self.sent..).filter(|left| !left.is_empty()) {
            match ready!(wire.poll_write(cx, left))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.sent = 0;
        if self.bytes.capacity() > LITTLE {
            // Connections are idle for most of their life.
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        wire.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use std::future::poll_fn;
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
    };

    async fn ends() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Wire::new(listener.accept().await.unwrap().0, false), client)
    }

    /// So many bytes, in an order that a piece too few or too many would break.
    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|n| n.to_le_bytes()[n % 3]).collect()
    }

    #[tokio::test]
    async fn bytes_arrive_in_order_however_they_were_cut_and_nothing_stays() {
        let (wire, mut client) = ends().await;
        let outbox = Outbox::default();
        let all = bytes(3_000_000);
        let write = async {
            let mut left = all.as_slice();
            for size in [9, 16_384, 1, 100_000, 64].into_iter().cycle() {
                if left.is_empty() {
                    break;
                }
                let piece = &left[..size.min(left.len())];
                let (one, other) = piece.split_at(piece.len() / 2);
                let slices = [IoSlice::new(one), IoSlice::new(other)];
                let taken = poll_fn(|cx| outbox.poll_take(&wire, &slices, cx)).await.unwrap();
                assert!(taken > 0);
                left = &left[taken..];
            }
            poll_fn(|cx| outbox.poll_drain(&wire, cx)).await.unwrap();
            assert_eq!(outbox.0.lock().bytes.capacity(), 0, "idle connections keep no buffer");
        };
        let mut read = vec![0; all.len()];
        tokio::join!(write, async { client.read_exact(&mut read).await.unwrap() });
        assert!(read == all);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_holds_up_whoever_writes_and_the_rest_is_what_it_has_not_got() {
        let (wire, mut client) = ends().await;
        let outbox = Outbox::default();
        let all = bytes(64 << 20);
        let mut taken = 0;
        loop {
            let slices = [IoSlice::new(&all[taken..])];
            let more = poll_fn(|cx| Poll::Ready(outbox.poll_take(&wire, &slices, cx))).await;
            assert!(outbox.0.lock().bytes.len() <= ROOM);
            let Poll::Ready(more) = more else { break };
            taken += more.unwrap();
        }
        assert!(taken < all.len(), "the kernel takes only so much");
        let rest = outbox.rest();
        let mut read = vec![0; taken - rest.len()];
        client.read_exact(&mut read).await.unwrap();
        assert!(read == all[..read.len()] && rest == all[read.len()..taken]);
    }
}

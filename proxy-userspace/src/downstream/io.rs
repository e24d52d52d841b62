//! hyper's view of a client's connection.

use super::{Downstream, Phase};
use crate::wire;
use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

/// Replays what detection has read, and notices when a request
/// begins.
pub(crate) struct DownstreamIo {
    shared: Arc<Downstream>,
    replay: Bytes,
}

impl DownstreamIo {
    pub(crate) fn new(shared: Arc<Downstream>, replay: Bytes) -> Self {
        Self { shared, replay }
    }
}

impl Read for DownstreamIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { shared, replay } = self.get_mut();
        let splice = &shared.splice;
        if let Some(resumed) = splice.take_injected() {
            *replay = resumed;
        }
        let got = if replay.is_empty() {
            if splice.is_armed() {
                ready!(shared.wire.poll_readable(cx));
                if !splice.take_back() {
                    return Poll::Pending;
                }
            } else if splice.is_astray() {
                ready!(shared.wire.poll_readable(cx));
                if splice.is_astray() {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
            }
            ready!(shared.wire.poll_read_and(cx, buf, |read| splice.read(read)))?
        } else {
            let take = replay.len().min(buf.remaining());
            let taken = replay.split_to(take);
            buf.put_slice(&taken);
            if splice.resumed().is_none() {
                splice.read(&taken);
            }
            take
        };
        if got > 0 && shared.phase() == Phase::Idle {
            shared.head_begins();
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for DownstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.splice.written(false);
        if self.shared.splice.is_cut() {
            return Poll::Ready(Ok(buf.len()));
        }
        self.shared.wire.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.shared.wire.poll_flush(cx))?;
        self.shared.splice.written(true);
        // The client may answer any moment: what it says next can be the kernel half's already.
        self.shared.splice.arm(&self.shared);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.splice.is_cut() {
            wire::reset_on_close(self.shared.wire.stream());
            return Poll::Ready(Ok(()));
        }
        // On a client that is mapped the FIN waits: see `Downstream::take_leave`.
        if self.shared.is_mapped() { Poll::Ready(Ok(())) } else { self.shared.wire.poll_shut_write(cx) }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.splice.written(false);
        if self.shared.splice.is_cut() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        self.shared.wire.poll_write_vectored(cx, slices)
    }
}

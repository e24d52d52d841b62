//! hyper's view of an HTTP/2 connection: replays what detection has read, shows every byte to the count of
//! frames, and gathers what is written.

use super::{frames::Frames, outbox::Outbox};
use crate::downstream::Connection;
use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use parking_lot::Mutex;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::time::Instant;

/// See the module.
pub(super) struct Http2Io {
    connection: Arc<Connection>,
    frames: Arc<Mutex<Frames>>,
    /// Drained by the driver, whenever hyper has nothing more to do.
    outbox: Arc<Outbox>,
    replay: Bytes,
}

impl Http2Io {
    pub(super) fn new(
        connection: Arc<Connection>,
        (frames, outbox): (Arc<Mutex<Frames>>, Arc<Outbox>),
        replay: Bytes,
    ) -> Self {
        Self { connection, frames, outbox, replay }
    }
}

impl Read for Http2Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { connection, frames, replay, .. } = self.get_mut();
        if frames.lock().excess().is_some() {
            // The driver ends the connection: no more work for this client.
            return Poll::Pending;
        }
        if replay.is_empty() {
            let look = |read: &[u8]| frames.lock().read(read, Instant::now());
            ready!(connection.wire.poll_read_and(cx, buf, look))?;
        } else {
            let taken = replay.split_to(replay.len().min(buf.remaining()));
            buf.put_slice(&taken);
            frames.lock().read(&taken, Instant::now());
        }
        if frames.lock().excess().is_some() {
            // Nor does hyper get what it would call by a less precise name.
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Http2Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The FIN is sent by `Connection::take_leave`, when there is nothing else to say.
        self.outbox.poll_drain(&self.connection.wire, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.outbox.poll_take(&self.connection.wire, slices, cx))?;
        let mut frames = self.frames.lock();
        let mut left = count;
        for slice in slices {
            let written = slice.get(..left).unwrap_or(slice);
            frames.written(written);
            left -= written.len();
        }
        Poll::Ready(Ok(count))
    }
}

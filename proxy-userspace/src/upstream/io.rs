//! hyper's view of an endpoint's connection.

use super::UpstreamWire;
use bytes::{Bytes, BytesMut};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

/// Passes what is admitted of the endpoint's answers.
pub(super) struct UpstreamIo {
    shared: Arc<UpstreamWire>,
    /// The beginning of a head that is not whole.
    held: BytesMut,
    /// May pass.
    ready: Bytes,
}

impl UpstreamIo {
    pub(super) fn new(shared: Arc<UpstreamWire>) -> Self {
        Self { shared, held: BytesMut::new(), ready: Bytes::new() }
    }

    /// Bytes have been read: how many of them may pass as they are.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut framer = self.shared.framer.lock();
        let passed = if self.held.is_empty() {
            let passed = framer.admit(bytes);
            self.held.extend_from_slice(bytes.get(passed..).unwrap_or_default());
            passed
        } else {
            self.held.extend_from_slice(bytes);
            let passed = framer.admit(&self.held);
            self.ready = self.held.split_to(passed).freeze();
            0
        };
        if framer.is_over() {
            *self.shared.behind.lock() = std::mem::take(&mut self.held);
        }
        if let Some((refusal, _)) = framer.refusal() {
            self.held = BytesMut::new();
            self.shared.announced.metrics.bad_answer(refusal.oddity);
        }
        passed
    }
}

impl Read for UpstreamIo {
    #[allow(unsafe_code)]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.shared.unasked.load(Relaxed) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let ready = this.ready.split_to(buf.remaining().min(this.ready.len()));
            if !ready.is_empty() {
                buf.put_slice(&ready);
                return Poll::Ready(Ok(()));
            }
            if let Some(refusal) = this.shared.refusal() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal.why)));
            }
            if this.shared.framer.lock().is_over() {
                // What comes now is not HTTP's.
                return Poll::Pending;
            }
            // SAFETY: the room is only handed to a reader that never de-initialises a byte.
            let mut read = ReadBuf::uninit(unsafe { buf.as_mut() });
            if ready!(this.shared.wire.poll_read(cx, read.unfilled()))? == 0 {
                return Poll::Ready(Ok(()));
            }
            this.shared.answered.store(true, Relaxed);
            let passed = this.pass(read.filled());
            if passed > 0 {
                // SAFETY: they are the first of those that were filled.
                unsafe { buf.advance(passed) };
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Write for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.shared.muted.load(Relaxed) {
            self.shared.unasked.store(false, Relaxed);
            return Poll::Ready(Ok(buf.len()));
        }
        self.shared.wire.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.wire.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.wire.poll_shut_write(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.shared.muted.load(Relaxed) {
            self.shared.unasked.store(false, Relaxed);
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        self.shared.wire.poll_write_vectored(cx, slices)
    }
}

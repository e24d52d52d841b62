//! hyper's view of a client's connection.

use super::{Downstream, Phase, gate::Gate};
use crate::wire;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

/// Passes what is admitted, and notices when a request begins.
pub(crate) struct DownstreamIo {
    shared: Arc<Downstream>,
    gate: Gate,
}

impl DownstreamIo {
    /// `replay` has been read from the client already.
    pub(crate) fn new(shared: Arc<Downstream>, replay: &[u8]) -> Self {
        let gate = Gate::new(&shared, replay);
        Self { shared, gate }
    }

    /// A client that takes nothing has only so long.
    fn watch(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Pending => self.shared.deadline.stalls(self.shared.relay.settings.write_idle),
            Poll::Ready(_) => self.shared.deadline.flows(),
        }
        outcome
    }
}

impl Read for DownstreamIo {
    #[allow(unsafe_code)]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { shared, gate } = self.get_mut();
        if let Some(resumed) = shared.splice.take_injected() {
            gate.inject(resumed);
            if shared.phase() == Phase::Idle {
                shared.head_begins();
            }
        }
        loop {
            let waits = gate.waits_for_answer(shared);
            let ready = gate.take(buf.remaining());
            if !ready.is_empty() {
                buf.put_slice(&ready);
                return Poll::Ready(Ok(()));
            }
            if gate.is_shut() {
                // Between two messages that is a client that sends no more; within one, one that broke off.
                return Poll::Ready(Ok(()));
            }
            if waits || gate.is_over() {
                return Poll::Pending;
            }
            if gate.holds() && shared.phase() == Phase::Idle {
                // It was read together with the request before.
                shared.head_begins();
            }
            ready!(poll_turn(shared, cx))?;
            // SAFETY: the room is only handed to a reader that never de-initialises a byte.
            let mut read = ReadBuf::uninit(unsafe { buf.as_mut() });
            let got = ready!(shared.wire.poll_read(cx, read.unfilled()))?;
            if got == 0 {
                return Poll::Ready(Ok(()));
            }
            let passed = gate.pass(shared, read.filled());
            if passed > 0 {
                // SAFETY: they are the first of those that were filled.
                unsafe { buf.advance(passed) };
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Ready when what the client sends is the agent's to read.
fn poll_turn(shared: &Downstream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let splice = &shared.splice;
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
    Poll::Ready(Ok(()))
}

impl Write for DownstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.splice.written(false);
        if self.shared.splice.is_cut() {
            return Poll::Ready(Ok(buf.len()));
        }
        let outcome = self.shared.wire.poll_write(cx, buf);
        self.watch(outcome)
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
        if self.shared.owes_refusal().is_some() {
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
        let outcome = self.shared.wire.poll_write_vectored(cx, slices);
        self.watch(outcome)
    }
}

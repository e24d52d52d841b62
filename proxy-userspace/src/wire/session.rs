//! A TLS session over a [`Socket`], read and written through a shared reference by one task: the lock around
//! it is never waited for.

use super::socket::Socket;
use crate::tls::Secured;
use hyper::rt::{ReadBuf as HyperBuf, ReadBufCursor};
use parking_lot::Mutex;
use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

/// Which end of the session is ours: what a peer's FIN without its last word means (RFC 9112 section 9.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// The server: a client may close like that, and a request says by itself whether it is whole.
    Server,
    /// The client: an answer may be cut short by whoever is between.
    Client,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    stream: Mutex<TlsStream<View>>,
    pub(super) role: Role,
    pub(super) secured: Arc<Secured>,
}

impl Session {
    pub(super) fn new(stream: TlsStream<View>, role: Role, secured: Secured) -> Self {
        Self { stream: Mutex::new(stream), role, secured: Arc::new(secured) }
    }

    /// Reads plaintext; nothing read means end of file.
    #[allow(unsafe_code)]
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
        look: impl Fn(&[u8]),
    ) -> Poll<io::Result<usize>> {
        // SAFETY: tokio's buffer keeps the same promise as hyper's: it never de-initialises a byte.
        let mut room = ReadBuf::uninit(unsafe { cursor.as_mut() });
        let read = ready!(Pin::new(&mut *self.stream.lock()).poll_read(cx, &mut room));
        match read {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof && self.role == Role::Server => {}
            read => read?,
        }
        look(room.filled());
        let got = room.filled().len();
        // SAFETY: `room` says that so many bytes are initialised.
        unsafe { cursor.advance(got) };
        Poll::Ready(Ok(got))
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.lock()).poll_write(cx, bytes)
    }

    pub(super) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.lock()).poll_write_vectored(cx, slices)
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.lock()).poll_flush(cx)
    }

    /// Sends close_notify, then FIN.
    pub(super) fn poll_shut_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.lock()).poll_shutdown(cx)
    }
}

/// A socket as tokio-rustls wants it.
#[derive(Debug)]
pub(crate) struct View(Arc<Socket>);

impl View {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self(socket)
    }
}

impl AsyncRead for View {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // rustls reads into memory that is initialised already: this costs nothing.
        let mut room = HyperBuf::new(buf.initialize_unfilled());
        let got = ready!(self.0.poll_read(cx, room.unfilled(), |_| {}))?;
        buf.advance(got);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for View {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shut_write())
    }
}

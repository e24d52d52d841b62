//! What is below hyper: a connection's bytes, which its driver and hyper share. TCP's own, or those of a
//! TLS session over it; one task reads and writes them through a shared reference.

mod session;
mod socket;

pub(crate) use session::{Role, View};

use crate::tls::Secured;
use hyper::rt::{ReadBuf, ReadBufCursor};
use session::Session;
use socket::Socket;
use std::{
    io::{self, ErrorKind, IoSlice},
    mem::MaybeUninit,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// Makes the close that follows a reset: the peer must not take what it has for the whole.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "SO_LINGER");
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Arc<Socket>,
    session: Option<Box<Session>>,
}

impl Wire {
    /// Bytes as TCP has them; `redirected` where the peer may redirect into this socket.
    pub(crate) fn new(stream: TcpStream, redirected: bool) -> Self {
        Self { socket: Arc::new(Socket::new(stream, redirected)), session: None }
    }

    /// The socket for a TLS handshake: what it reads and writes is missing here until [`Wire::secure`].
    pub(crate) fn view(&self) -> View {
        View::new(Arc::clone(&self.socket))
    }

    /// From here on bytes are those of a TLS session over this socket.
    pub(crate) fn secure(&mut self, stream: TlsStream<View>, role: Role, secured: Secured) {
        self.session = Some(Box::new(Session::new(stream, role, secured)));
    }

    /// Whether they are those of a TLS session.
    pub(crate) fn is_secure(&self) -> bool {
        self.session.is_some()
    }

    /// What the session's handshake came to.
    pub(crate) fn secured(&self) -> Option<&Arc<Secured>> {
        self.session.as_ref().map(|session| &session.secured)
    }

    /// The TCP socket.
    pub(crate) fn stream(&self) -> &TcpStream {
        self.socket.stream()
    }

    /// Reads into the cursor; nothing read means end of file.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<usize>> {
        self.poll_read_and(cx, cursor, |_| {})
    }

    /// The same; `look` sees the bytes that were read.
    pub(crate) fn poll_read_and(
        &self,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
        look: impl Fn(&[u8]),
    ) -> Poll<io::Result<usize>> {
        match &self.session {
            None => self.socket.poll_read(cx, cursor, look),
            Some(session) => session.poll_read(cx, cursor, look),
        }
    }

    /// Ready when the socket has something to read, end of file and errors included. Reads nothing.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_readable(cx)
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &self.session {
            None => self.socket.poll_write(cx, bytes),
            Some(session) => session.poll_write(cx, bytes),
        }
    }

    pub(crate) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &self.session {
            None => self.socket.poll_write_vectored(cx, slices),
            Some(session) => session.poll_write_vectored(cx, slices),
        }
    }

    /// Ready when the socket has all that was written.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.session {
            None => Poll::Ready(Ok(())),
            Some(session) => session.poll_flush(cx),
        }
    }

    /// Sends the session's last word, where there is one, and FIN.
    pub(crate) fn poll_shut_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.session {
            None => Poll::Ready(self.socket.shut_write()),
            Some(session) => session.poll_shut_write(cx),
        }
    }

    /// The same; waits no longer than a second for a peer that does not read.
    pub(crate) async fn shut_write(&self) -> io::Result<()> {
        let shut = std::future::poll_fn(|cx| self.poll_shut_write(cx));
        let late = |_| io::Error::from(ErrorKind::TimedOut);
        tokio::time::timeout(Duration::from_secs(1), shut).await.map_err(late)?
    }

    /// Writes all of it and sends FIN; waits no longer than a second.
    pub(crate) async fn write_last(&self, mut bytes: &[u8]) -> io::Result<()> {
        let write = async {
            while !bytes.is_empty() {
                let count = std::future::poll_fn(|cx| self.poll_write(cx, bytes)).await?;
                bytes = bytes.get(count..).unwrap_or_default();
            }
            std::future::poll_fn(|cx| self.poll_shut_write(cx)).await
        };
        let late = |_| io::Error::from(ErrorKind::TimedOut);
        tokio::time::timeout(Duration::from_secs(1), write).await.map_err(late)?
    }

    /// Reads and throws away what the peer still sends after our FIN, for a second at most: a close
    /// with something unread is a reset, which may overtake the answer.
    pub(crate) async fn discard(&self) {
        let mut storage = [MaybeUninit::uninit(); 4096];
        let read_all = async {
            let read = |cx: &mut Context<'_>| {
                self.socket.poll_read(cx, ReadBuf::uninit(&mut storage).unfilled(), |_| {})
            };
            let mut read = std::future::poll_fn(read);
            while matches!((&mut read).await, Ok(1..)) {}
        };
        if tokio::time::timeout(Duration::from_secs(1), read_all).await.is_err() {
            tracing::debug!("a client still sends a request that has been answered");
        }
    }

    /// Completes when the peer has sent FIN (true) or the connection was reset (false), whatever is
    /// still unread.
    pub(crate) async fn disturbed(&self) -> bool {
        self.socket.disturbed().await
    }

    /// Completes when the connection was reset, whatever is still unread.
    pub(crate) async fn broken(&self) {
        self.socket.broken().await;
    }
}

#[cfg(test)]
mod tests;

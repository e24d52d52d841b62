//! A [`TcpStream`] that is read and written through a shared reference.

use hyper::rt::ReadBufCursor;
use rustix::net::RecvFlags;
use std::{
    io::{self, ErrorKind, IoSlice},
    task::{Context, Poll, ready},
};
use tokio::{io::Interest, net::TcpStream};

/// A connected socket, read and written through a shared reference by one task.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    /// A read that does not fill its buffer has emptied the socket, so that the next one need not
    /// ask the kernel. Not so where the peer may switch from redirect to TCP: the socket has two
    /// queues then, and a read ends at the end of the first.
    short_read_empties: bool,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, redirected: bool) -> Self {
        Self { stream, short_read_empties: !redirected }
    }

    /// The socket itself.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads into the cursor; nothing read means end of file. `look` sees the bytes that were read.
    #[allow(unsafe_code)]
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
        look: impl Fn(&[u8]),
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            // SAFETY: the slice is only handed to recv(2), which never de-initialises a byte.
            let room = unsafe { cursor.as_mut() };
            let size = room.len();
            let mut got = 0;
            let outcome = self.stream.try_io(Interest::READABLE, || {
                let ((read, _), count) = rustix::net::recv(&self.stream, &mut *room, RecvFlags::empty())?;
                got = count;
                look(read);
                let empty = self.short_read_empties && got > 0 && got < size;
                if empty { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match outcome {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                Err(_) if got == 0 => {}
                _ => {
                    // SAFETY: recv(2) wrote the first `got` bytes.
                    unsafe { cursor.advance(got) };
                    return Poll::Ready(Ok(got));
                }
            }
        }
    }

    /// Ready when there is something to read, end of file and errors included. Reads nothing.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let peeked = self.stream.try_io(Interest::READABLE, || {
                Ok(rustix::net::recv(&self.stream, &mut [0_u8; 1][..], RecvFlags::PEEK)?)
            });
            match peeked {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, || self.stream.try_write(bytes))
    }

    pub(crate) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, || self.stream.try_write_vectored(slices))
    }

    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        send: impl Fn() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match send() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Sends FIN.
    pub(crate) fn shut_write(&self) -> io::Result<()> {
        match rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write) {
            Err(rustix::io::Errno::NOTCONN) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Completes when the peer has sent FIN (true) or the connection was reset (false), whatever is
    /// still unread.
    pub(crate) async fn disturbed(&self) -> bool {
        // tokio reports a peer's FIN together with priority data, which nobody subscribes to.
        match self.stream.ready(Interest::PRIORITY | Interest::ERROR).await {
            Ok(ready) => !ready.is_error(),
            Err(_) => false,
        }
    }

    /// Completes when the connection was reset, whatever is still unread.
    pub(crate) async fn broken(&self) {
        if self.stream.ready(Interest::ERROR).await.is_err() {
            tracing::trace!("the runtime ends");
        }
    }
}

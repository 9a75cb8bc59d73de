//! The socket of an HTTP/2 connection. The `h2` crate owns it; what has to be known of it meanwhile, and said to it in the end, goes
//! through [`Line`].

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::socket::Socket;

/// What is known of a connection's socket.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// It was full when it was last written to.
    full: Cell<bool>,
    /// The peer has shown that it is there: by bytes, or by taking some after the socket was full.
    alive: Cell<bool>,
    /// What the kernel still holds for the peer is to be dropped with the socket.
    abandoned: Cell<bool>,
}

impl Line {
    /// Whether the peer has shown that it is there since this was last asked.
    pub(super) fn take_alive(&self) -> bool {
        self.alive.take()
    }

    /// The peer does not read: nothing is kept for it.
    pub(super) fn abandon(&self) {
        self.abandoned.set(true);
    }

    fn written(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Pending => self.full.set(true),
            // A socket that was not full takes bytes for a peer that has gone, too.
            Poll::Ready(Ok(_)) if self.full.take() => self.alive.set(true),
            Poll::Ready(_) => {}
        }
    }
}

/// A socket that tells its [`Line`].
pub(super) struct Wired {
    socket: Socket,
    line: Rc<Line>,
}

impl Wired {
    pub(super) fn new(socket: Socket, line: Rc<Line>) -> Self {
        // Pings notice a peer that has gone, and the kernel takes a slow one for gone.
        socket.set_user_timeout(false);
        Self { socket, line }
    }
}

impl Drop for Wired {
    fn drop(&mut self) {
        if self.line.abandoned.get() {
            self.socket.abandon();
        } else {
            // Nobody but the kernel notices from here on.
            self.socket.set_user_timeout(true);
        }
    }
}

impl AsyncRead for Wired {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.line.alive.set(true);
        }
        result
    }
}

impl AsyncWrite for Wired {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.line.written(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.line.written(&result);
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

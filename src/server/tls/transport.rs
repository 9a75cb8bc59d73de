//! A TLS connection once an event stream owns it: written directly, read for its end only.

use std::io;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

use super::stream::TlsStream;
use super::waiting::Waiting;
use crate::server::socket::send_now;

impl TlsStream {
    /// Forgets what the peer sent behind its request: a stream's client has nothing to say.
    pub(in crate::server) fn forget_unread(&mut self) {
        self.unread = Waiting::default();
    }

    /// The socket.
    pub(in crate::server) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Writes what the socket takes now, and encrypts one record more than that at most, which then waits. `WouldBlock` while
    /// one waits.
    pub(in crate::server) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.try_flush()?;
        self.write_records(bytes, |tcp, record| match send_now(tcp, record) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            sent => Poll::Ready(sent),
        })
    }

    /// Whether records wait for the socket.
    pub(in crate::server) fn wants_flush(&self) -> bool {
        !self.session.outgoing().is_empty()
    }

    /// Writes waiting records. `WouldBlock` while some are left.
    pub(in crate::server) fn try_flush(&mut self) -> io::Result<()> {
        while self.wants_flush() {
            let sent = send_now(&self.tcp, self.session.outgoing())?;
            self.session.sent(sent);
            self.moved = true;
        }
        Ok(())
    }

    /// Whether the socket has taken anything since this was last asked.
    pub(in crate::server) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Whether reading may give something, or the end: one that came with the request is not on the socket any more.
    pub(in crate::server) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.session.peer_closed() {
            return Poll::Ready(Ok(()));
        }
        self.tcp.poll_read_ready(cx)
    }

    /// Reads through `scratch` and forgets what the peer sent, but for what concerns the session. Gives the bytes that came
    /// from the socket; 0 is the peer's end, with or without `close_notify`.
    pub(in crate::server) fn try_discard(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        if self.session.peer_closed() {
            return Ok(0);
        }
        let room = self.session.room().min(scratch.len());
        let read = self.tcp.try_read(&mut scratch[..room])?;
        if let Err(error) = self.session.receive(&mut scratch[..read], |_| {}) {
            // For the alert; the stream ends with the error.
            let _ = self.try_flush();
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(if self.session.peer_closed() { 0 } else { read })
    }

    /// Sends `close_notify`, as far as the socket takes it.
    pub(in crate::server) fn finish(&mut self) {
        self.session.close();
        let _ = self.try_flush();
    }
}

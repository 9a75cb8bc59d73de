//! Sockets: as hyper reads a request from them, and as a stream writes to them afterwards.
//!
//! A [`Socket`] is polled by hyper until the request head is in; [`Socket::into_transport`] then takes the bare socket (and
//! TLS session) out, and the stream is written by [`Transport::try_write`], directly and without a task wake-up.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use rustix::net::SendFlags;
use smallvec::SmallVec;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::listen::USER_TIMEOUT;
use super::tls::TlsStream;

/// A connection while hyper has it.
#[derive(Debug)]
pub struct Socket {
    kind: SocketKind,
    /// Bytes that were read to tell the protocol, to be read again.
    sniffed: Bytes,
    /// Since when the peer has taken nothing of what hyper has for it.
    blocked: Rc<Cell<Option<Instant>>>,
    /// Where lines end, when only HTTP's line ends are let through.
    lines: Option<LineEnds>,
}

#[derive(Debug)]
enum SocketKind {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream>),
}

impl From<TcpStream> for Socket {
    fn from(tcp: TcpStream) -> Self {
        Self::new(SocketKind::Tcp(tcp))
    }
}

impl From<UnixStream> for Socket {
    fn from(unix: UnixStream) -> Self {
        Self::new(SocketKind::Unix(unix))
    }
}

impl From<Box<TlsStream>> for Socket {
    fn from(tls: Box<TlsStream>) -> Self {
        Self::new(SocketKind::Tls(tls))
    }
}

/// So many bytes are gathered on the stack.
const GATHERED_BYTES: usize = 1024;
/// Plaintext of a TLS record (RFC 8446 section 5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// The HTTP/2 connection preface (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Socket {
    fn new(kind: SocketKind) -> Self {
        Self { kind, sniffed: Bytes::new(), blocked: Rc::default(), lines: None }
    }

    /// Lets nothing through that could be the end of a line to some and not to others: see [`LineEnds`].
    pub fn refuse_bare_line_feeds(&mut self) {
        self.lines = Some(LineEnds::default());
    }

    /// Whether the peer begins with HTTP/2's preface. Reads until it differs or is complete; what was read is read again.
    pub async fn starts_http2(&mut self) -> io::Result<bool> {
        let mut seen = BytesMut::with_capacity(HTTP2_PREFACE.len());
        while seen.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&seen) {
            let missing = HTTP2_PREFACE.len() - seen.len();
            if self.read_buf(&mut (&mut seen).limit(missing)).await? == 0 {
                break;
            }
        }
        let http2 = seen == HTTP2_PREFACE;
        self.sniffed = seen.freeze();
        Ok(http2)
    }

    /// As [`Transport::set_user_timeout`].
    pub fn set_user_timeout(&self, on: bool) {
        if let Some(tcp) = self.tcp() {
            set_user_timeout(&tcp, on);
        }
    }

    /// As [`Transport::abandon`].
    pub fn abandon(&self) {
        if let Some(tcp) = self.tcp() {
            let _ = tcp.set_linger(Some(std::time::Duration::ZERO));
        }
    }

    fn tcp(&self) -> Option<SockRef<'_>> {
        match &self.kind {
            SocketKind::Tcp(tcp) => Some(SockRef::from(tcp)),
            SocketKind::Tls(tls) => Some(SockRef::from(tls.tcp())),
            SocketKind::Unix(_) => None,
        }
    }

    /// Since when writes have had to wait; none while nothing waits. Until then the socket may not be taken from hyper.
    pub fn blocked(&self) -> Rc<Cell<Option<Instant>>> {
        self.blocked.clone()
    }

    fn set_blocked(&self, blocked: bool) {
        self.blocked.set(blocked.then(|| self.blocked.get().unwrap_or_else(Instant::now)));
    }

    /// The bare socket, with its TLS session.
    pub fn into_transport(self) -> Transport {
        match self.kind {
            SocketKind::Tcp(tcp) => Transport::Tcp(tcp),
            SocketKind::Unix(unix) => Transport::Unix(unix),
            SocketKind::Tls(mut tls) => {
                tls.forget_unread();
                Transport::Tls(tls)
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.sniffed.is_empty() {
            ready!(match &mut self.kind {
                SocketKind::Tcp(s) => Pin::new(s).poll_read(cx, buf),
                SocketKind::Unix(s) => Pin::new(s).poll_read(cx, buf),
                SocketKind::Tls(s) => Pin::new(&mut **s).poll_read(cx, buf),
            })?;
        } else {
            let n = self.sniffed.len().min(buf.remaining());
            buf.put_slice(&self.sniffed.split_to(n));
        }
        if let Some(lines) = &mut self.lines {
            lines.refuse(&mut buf.filled_mut()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

/// A line feed without a carriage return before it ends a line for hyper, as it may (RFC 9112 section 2.2), but not for every
/// proxy: the two would see different requests. It becomes a NUL, which no head and no framing may hold, so that it is refused
/// wherever it stands; nobody reads bodies.
#[derive(Debug, Default)]
struct LineEnds {
    /// What came last was a carriage return.
    after_cr: bool,
}

impl LineEnds {
    fn refuse(&mut self, bytes: &mut [u8]) {
        let mut begin = 0;
        while let Some(found) = memchr::memchr(b'\n', &bytes[begin..]) {
            let at = begin + found;
            let ends_a_line = if at == 0 { self.after_cr } else { bytes[at - 1] == b'\r' };
            if !ends_a_line {
                bytes[at] = 0;
            }
            begin = at + 1;
        }
        if let Some(last) = bytes.last() {
            self.after_cr = *last == b'\r';
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = match &mut self.kind {
            SocketKind::Tcp(s) => poll_send(s, cx, buf),
            SocketKind::Unix(s) => Pin::new(s).poll_write(cx, buf),
            SocketKind::Tls(s) => Pin::new(&mut **s).poll_write(cx, buf),
        };
        self.set_blocked(result.is_pending());
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// For HTTP/2, which has the head of a frame and its bytes apart: they leave as one segment, or one TLS record.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: usize = slices.iter().map(|slice| slice.len()).sum();
        let result = match &mut self.kind {
            // Fewer bytes are gathered here for less than it costs the kernel.
            SocketKind::Tcp(s) if all > GATHERED_BYTES => Pin::new(s).poll_write_vectored(cx, slices),
            SocketKind::Unix(s) if all > GATHERED_BYTES => Pin::new(s).poll_write_vectored(cx, slices),
            _ => {
                let mut gathered = SmallVec::<[u8; GATHERED_BYTES]>::new();
                for slice in slices {
                    let n = slice.len().min(RECORD_BYTES_MAX - gathered.len());
                    gathered.extend_from_slice(&slice[..n]);
                }
                return self.poll_write(cx, &gathered);
            }
        };
        self.set_blocked(result.is_pending());
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = match &mut self.kind {
            SocketKind::Tcp(s) => Pin::new(s).poll_flush(cx),
            SocketKind::Unix(s) => Pin::new(s).poll_flush(cx),
            SocketKind::Tls(s) => Pin::new(&mut **s).poll_flush(cx),
        };
        // hyper flushes the socket only when its own buffer is empty.
        self.set_blocked(result.is_pending());
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            SocketKind::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            SocketKind::Unix(s) => Pin::new(s).poll_shutdown(cx),
            SocketKind::Tls(s) => Pin::new(&mut **s).poll_shutdown(cx),
        }
    }
}

/// A connection once a stream owns it.
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream>),
}

fn set_user_timeout(socket: &SockRef<'_>, on: bool) {
    // It fails only where the connection has ended.
    let _ = socket.set_tcp_user_timeout(on.then_some(USER_TIMEOUT));
}

/// The system call alone: libc's `send` is a cancellation point, which costs as much again.
fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
}

/// Writes what the socket takes, or waits until it takes something.
pub(super) fn poll_send(tcp: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        match send_now(tcp, bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(tcp.poll_write_ready(cx))?,
            result => return Poll::Ready(result),
        }
    }
}

/// Writes what the socket takes now.
pub(super) fn send_now(tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    tcp.try_io(Interest::WRITABLE, || send(tcp, bytes))
}

impl Transport {
    /// Writes what the socket takes now. `WouldBlock` when it takes nothing. Over TLS the last record of what is taken may
    /// wait behind the session (see [`Transport::wants_flush`]).
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => send_now(tcp, bytes),
            Self::Unix(unix) => unix.try_io(Interest::WRITABLE, || send(&*unix, bytes)),
            Self::Tls(tls) => tls.try_write(bytes),
        }
    }

    /// Whether records wait in the TLS session.
    pub fn wants_flush(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Tls(tls) => tls.wants_flush(),
        }
    }

    /// Writes waiting records. `WouldBlock` while some are left.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
            Self::Tls(tls) => tls.try_flush(),
        }
    }

    /// Whether the socket took anything of waiting records since this was last asked: a slow reader of a large record moves
    /// without taking new plaintext. Plain sockets tell by [`Transport::try_write`] alone.
    pub fn take_moved(&mut self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Tls(tls) => tls.take_moved(),
        }
    }

    /// Whether reading may give something, or the end.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx),
            Self::Unix(unix) => unix.poll_read_ready(cx),
            Self::Tls(tls) => tls.poll_read_ready(cx),
        }
    }

    /// Whether writing may go on.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_write_ready(cx),
            Self::Unix(unix) => unix.poll_write_ready(cx),
            Self::Tls(tls) => tls.tcp().poll_write_ready(cx),
        }
    }

    /// Reads and forgets what the peer sent; 0 is its end.
    pub fn try_discard(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_read(scratch),
            Self::Unix(unix) => unix.try_read(scratch),
            Self::Tls(tls) => tls.try_discard(scratch),
        }
    }

    /// The orderly end of what we send.
    pub fn finish(&mut self) {
        if let Self::Tls(tls) = self {
            tls.finish();
        }
        let _ = self.socket().shutdown(std::net::Shutdown::Write);
    }

    /// Lets the kernel end the connection when nothing is acknowledged for [`USER_TIMEOUT`], or not.
    ///
    /// Of a peer that reads slowly it judges wrongly (measured on Linux 6.18): once the window was shut it counts on from there until
    /// a window holds the whole first segment that waits, whatever has gone through smaller ones in between.
    pub fn set_user_timeout(&self, on: bool) {
        if !matches!(self, Self::Unix(_)) {
            set_user_timeout(&self.socket(), on);
        }
    }

    /// Makes closing drop what the kernel still holds for the peer, instead of keeping it for a reader that does not read.
    pub fn abandon(&self) {
        let _ = self.socket().set_linger(Some(std::time::Duration::ZERO));
    }

    fn socket(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(tcp) => SockRef::from(tcp),
            Self::Unix(unix) => SockRef::from(unix),
            Self::Tls(tls) => SockRef::from(tls.tcp()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_feed_alone_is_refused_wherever_reads_are_cut() {
        let bytes = b"\nGET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n\n\r\n";
        let wanted = b"\0GET / HTTP/1.1\r\nA: b\0C: d\r\n\r\n\0\r\n";
        for cut in 0..=bytes.len() {
            let (mut first, mut second) = (bytes[..cut].to_vec(), bytes[cut..].to_vec());
            let mut lines = LineEnds::default();
            lines.refuse(&mut first);
            lines.refuse(&mut []);
            lines.refuse(&mut second);
            assert_eq!([first, second].concat(), wanted, "cut at {cut}");
        }
    }
}

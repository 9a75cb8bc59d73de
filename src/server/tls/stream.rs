//! A session on its socket: the handshake, and plaintext as hyper reads and writes it.
//!
//! Nothing is read ahead: bytes go from the socket through the shard's scratch buffers, and only what is left of them stays
//! with the connection.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::{CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::session::{PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX, Session};
use super::waiting::Waiting;
use crate::server::socket::poll_send;

/// Buffers that the TLS connections of one shard share. One works at a time, and nothing stays in them: idle connections
/// have none of their own.
#[derive(Debug)]
pub struct Scratch {
    /// What a read of the socket gives.
    read: Box<[u8]>,
    /// What an encryption gives: a record, and perhaps a KeyUpdate before it.
    sealed: BytesMut,
}

impl Scratch {
    /// Some 37 KiB, which the system gives when they are first used.
    pub fn new() -> Rc<RefCell<Self>> {
        let sealed = BytesMut::zeroed(RECORD_BYTES_MAX);
        Rc::new(RefCell::new(Self { read: vec![0; RECORD_BYTES_MAX].into(), sealed }))
    }
}

/// A TLS session on a socket.
pub struct TlsStream {
    pub(super) tcp: TcpStream,
    pub(super) session: Session,
    /// Plaintext that nobody has asked for yet. Empty before the socket is read again, so it is less than two records.
    pub(super) unread: Waiting,
    /// The socket has taken something since this was last asked.
    pub(super) moved: bool,
    scratch: Rc<RefCell<Scratch>>,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl TlsStream {
    /// Takes a handshake to its end, and with it the ticket to the socket. The deadline is the caller's. A peer that fails is
    /// sent the alert that says why (RFC 8446 section 6.2), as far as its socket takes it at once.
    pub async fn accept(
        tcp: TcpStream,
        config: Arc<ServerConfig>,
        scratch: Rc<RefCell<Scratch>>,
    ) -> io::Result<Box<Self>> {
        let session = Session::new(config).map_err(io::Error::other)?;
        let mut stream = Box::new(Self { tcp, session, unread: Waiting::default(), moved: false, scratch });
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    /// What was agreed in the handshake.
    pub fn agreed(&self) -> &CommonState {
        self.session.agreed()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(cx))?;
            if !self.session.agreed().is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            // A client may send its request with the end of its handshake.
            if ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads the socket once. Plaintext goes to `buf` as far as there is room, the rest to `unread`. Gives the bytes that came
    /// from the socket, 0 at its end.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        debug_assert!(self.unread.is_empty() || buf.remaining() == 0);
        let mut scratch = self.scratch.borrow_mut();
        let room = self.session.room().min(scratch.read.len());
        let mut read = ReadBuf::new(&mut scratch.read[..room]);
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut read))?;
        let unread = &mut self.unread;
        let received = self.session.receive(read.filled_mut(), |plaintext| {
            let (now, later) = plaintext.split_at(plaintext.len().min(buf.remaining()));
            buf.put_slice(now);
            unread.append(later);
        });
        let bytes = read.filled().len();
        drop(scratch);
        if let Err(error) = received {
            // For the alert, and for nothing else: the error itself is what counts.
            let _ = self.poll_send(cx);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(bytes))
    }

    /// Ready when nothing waits to be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.session.outgoing().is_empty() {
            let sent = ready!(poll_send(&self.tcp, cx, self.session.outgoing()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.session.sent(sent);
            self.moved = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts and writes record by record until the socket is full: the rest of the last one is kept, and nothing is
    /// encrypted behind it. Nothing may wait before. Gives the plaintext taken, in bytes.
    pub(super) fn write_records(
        &mut self,
        bytes: &[u8],
        mut write: impl FnMut(&mut TcpStream, &[u8]) -> Poll<io::Result<usize>>,
    ) -> io::Result<usize> {
        let sealed = &mut self.scratch.borrow_mut().sealed;
        let mut taken = 0;
        for plaintext in bytes.chunks(PLAINTEXT_BYTES_MAX) {
            let record = self.session.encrypt(plaintext, sealed)?;
            taken += plaintext.len();
            let sent = match write(&mut self.tcp, &sealed[..record]) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            self.moved |= sent > 0;
            if sent < record {
                self.session.keep(&sealed[sent..record]);
                break;
            }
        }
        Ok(taken)
    }
}

impl AsyncRead for TlsStream {
    /// The end is `close_notify`; an end without it is an error, as it may be somebody else's doing (RFC 8446 section 6.1).
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.unread.is_empty() {
            let n = this.unread.len().min(buf.remaining());
            buf.put_slice(&this.unread[..n]);
            this.unread.consume(n);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        while buf.remaining() > 0 && buf.filled().len() == before && !this.session.peer_closed() {
            if ready!(this.poll_receive(cx, buf))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        Poll::Ready(self.write_records(buf, |tcp, record| poll_send(tcp, cx, record)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.close();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

//! The sending half of one event stream on HTTP/2: frames go to the connection as they are, up to a bound.
//!
//! The `h2` crate holds whatever it is given until the peer's windows and its socket take it. How much that is for one
//! stream is known here, because each [`Piece`] counts itself for as long as it is held. Asking h2 for capacity before
//! every event would say the same, but wakes the stream's task each time.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};

use super::streams::Unread;

/// What a connection may hold for one stream, in bytes: the bound of a slow one on top of its own backlog, as
/// `limits.unsent_buffer` is on HTTP/1.1.
pub const HELD_BYTES_MAX: usize = 16 * 1024;

/// What is held for a stream.
#[derive(Default)]
struct Held {
    bytes: Cell<usize>,
    /// Some of it has been written since this was last asked.
    moved: Cell<bool>,
    /// Who waits for it to become less.
    waiting: Cell<Option<Waker>>,
}

impl Held {
    fn release(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() - bytes);
        self.moved.set(true);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

/// Bytes on their way, counted until they are written or dropped.
pub(super) struct Piece {
    bytes: Bytes,
    /// None for an ordinary response.
    held: Option<Rc<Held>>,
    /// Of an ordinary response.
    _unread: Option<Unread>,
}

impl Piece {
    /// The body of an ordinary response.
    pub(super) fn answer(bytes: Bytes, unread: Unread) -> Self {
        Self { bytes, held: None, _unread: Some(unread) }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, n: usize) {
        self.bytes.advance(n);
        if let Some(held) = &self.held {
            held.release(n);
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(held) = &self.held
            && !self.bytes.is_empty()
        {
            held.release(self.bytes.len());
        }
    }
}

/// The sending half of an event stream.
pub struct Outgoing {
    stream: SendStream<Piece>,
    held: Rc<Held>,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("held", &self.held.bytes).finish_non_exhaustive()
    }
}

impl Outgoing {
    pub(super) fn new(stream: SendStream<Piece>) -> Self {
        Self { stream, held: Rc::default() }
    }

    /// Bytes that were handed over and that neither the peer's windows nor the socket have taken.
    pub fn held(&self) -> usize {
        self.held.bytes.get()
    }

    /// Whether any were taken since this was last asked.
    pub fn take_moved(&self) -> bool {
        self.held.moved.take()
    }

    /// How many bytes may be handed over now. `WouldBlock` where it is none: then [`Outgoing::poll_room`] tells when.
    pub fn room(&self) -> io::Result<usize> {
        match HELD_BYTES_MAX.saturating_sub(self.held.bytes.get()) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            room => Ok(room),
        }
    }

    /// Hands over as many bytes as there is room for, and says how many.
    pub fn try_send(&mut self, mut bytes: Bytes) -> io::Result<usize> {
        bytes.truncate(self.room()?);
        let sent = bytes.len();
        self.held.bytes.set(self.held.bytes.get() + sent);
        let piece = Piece { bytes, held: Some(self.held.clone()), _unread: None };
        self.stream.send_data(piece, false).map_err(io::Error::other)?;
        Ok(sent)
    }

    /// Ready when there is room again.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.room().is_ok() {
            return Poll::Ready(());
        }
        self.held.waiting.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Ready when the peer has reset the stream, or the connection has ended.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(|_| ())
    }

    /// The orderly end of the body.
    pub fn finish(&mut self) {
        // It fails only where the stream has ended already.
        let _ = self.stream.send_data(Piece { bytes: Bytes::new(), held: None, _unread: None }, true);
    }

    /// Ends the stream at once; what is held for it is dropped.
    pub fn reset(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }
}

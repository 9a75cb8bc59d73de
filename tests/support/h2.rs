//! HTTP/2: a client over any connection, and a reader of event streams on top.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sidestream::sse::{Event, Parser};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::DEADLINE;
use super::client::Io;

/// Flow control as RFC 9113 has it where nobody asks for more: large events come in many parts.
const WINDOW_BYTES: u32 = 65_535;

/// A GET of a user as an `EventSource` sends it.
pub fn request(path: &str, user: &str) -> hyper::Request<Empty<Bytes>> {
    hyper::Request::get(format!("https://app.example{path}"))
        .header("accept", "text/event-stream")
        .header("x-forwarded-user", user)
        .body(Empty::new())
        .expect("a request")
}

/// Speaks HTTP/2 over a connection that the caller made.
pub async fn over(io: impl Io + 'static) -> SendRequest<Empty<Bytes>> {
    windowed(io, WINDOW_BYTES, WINDOW_BYTES).await
}

/// Speaks HTTP/2 with prior knowledge, without TLS.
pub async fn tcp(address: &str) -> SendRequest<Empty<Bytes>> {
    over(TcpStream::connect(address).await.expect("accepts")).await
}

/// As [`over`], with windows of the caller's.
pub async fn windowed(io: impl Io + 'static, stream: u32, connection: u32) -> SendRequest<Empty<Bytes>> {
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(stream)
        .initial_connection_window_size(connection)
        .handshake(TokioIo::new(io))
        .await
        .expect("an HTTP/2 handshake");
    tokio::spawn(connection);
    sender
}

/// A connection that can stop reading, as a browser does whose machine sleeps.
pub struct Deaf<T> {
    io: T,
    ear: Ear,
}

/// Whether a [`Deaf`] connection hears.
#[derive(Clone, Default)]
pub struct Ear {
    stopped: Arc<AtomicBool>,
    waiting: Arc<Mutex<Option<Waker>>>,
}

impl Ear {
    /// Reads nothing from now on.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Reads again.
    pub fn hear(&self) {
        self.stopped.store(false, Ordering::SeqCst);
        if let Some(waker) = self.waiting.lock().expect("no holder panics").take() {
            waker.wake();
        }
    }
}

impl<T> Deaf<T> {
    /// Hears until told otherwise.
    pub fn over(io: T) -> (Self, Ear) {
        let ear = Ear::default();
        (Self { io, ear: ear.clone() }, ear)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Deaf<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.ear.stopped.load(Ordering::SeqCst) {
            *self.ear.waiting.lock().expect("no holder panics") = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Deaf<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Events of an HTTP/2 body; one DATA frame may carry several.
pub struct Events {
    body: Incoming,
    parser: Parser,
    read: VecDeque<Event>,
}

impl Events {
    /// Reads this body.
    pub fn of(body: Incoming) -> Self {
        Self { body, parser: Parser::default(), read: VecDeque::new() }
    }

    /// The next event of any kind; the end of the stream fails the test.
    pub async fn next(&mut self) -> Event {
        self.try_next().await.expect("the stream goes on")
    }

    /// The next event of any kind; `None` when the stream has ended or was reset.
    pub async fn try_next(&mut self) -> Option<Event> {
        while self.read.is_empty() {
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.expect("an event in time");
            let data = frame?.ok()?.into_data().expect("data");
            self.parser.feed(&data, |event| self.read.push_back(event));
        }
        self.read.pop_front()
    }

    /// What a reconnect sends.
    pub fn last_event_id(&self) -> &str {
        self.parser.last_event_id()
    }
}

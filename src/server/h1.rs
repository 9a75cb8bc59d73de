//! HTTP/1.1: hyper until the request head is in, then the bare socket.
//!
//! hyper parses, validates and answers everything else. For an accepted stream the service hands the client over and never
//! answers; the connection is then taken apart ([`hyper::server::conn::http1::Connection::into_parts`]) and a small task
//! owns the socket. That saves hyper's 14 KiB of buffers per stream and its work per event, and lets a peer that leaves be
//! noticed at once, also after bytes it had no business to send.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, Sleep};

use super::socket::Socket;
use crate::http::body::RequestBody;
use crate::http::trust::Peer;
use crate::http::{self, Answer, Context};
use crate::shard::client::Closing;
use crate::shard::guard::Guard;
use crate::shard::output::Way;
use crate::telemetry::metrics::CloseReason;

/// Most header lines (requirement R19).
const HEADERS_MAX: usize = 64;
/// Request line and headers together, in bytes: 8 KiB of target and 16 KiB of headers.
const HEAD_BYTES_MAX: usize = 24 * 1024;
/// Bytes a stream's client may send after its request before it is taken for confused or hostile.
const STRAY_BYTES_MAX: usize = 64 * 1024;

type Handoff = Rc<Cell<Option<(Response<()>, Guard)>>>;

/// An event stream that owns its socket.
pub(super) struct Stream {
    guard: Guard,
}

/// Serves requests until one of them becomes a stream, which is returned, or the connection ends. The first request head
/// must be complete by `deadline`, later ones within `header_timeout` of the response before.
pub(super) async fn serve(context: &Rc<Context>, mut socket: Socket, peer: Peer, deadline: Instant) -> Option<Stream> {
    if context.front.is_none() {
        socket.refuse_bare_line_feeds();
    }
    let handoff: Handoff = Rc::default();
    let asked = Rc::new(Cell::new(false));
    let mut takeover = Takeover::new(context, handoff.clone(), &socket);
    let service = service_fn(|request: Request<Incoming>| {
        asked.set(true);
        Box::pin(respond(context.clone(), handoff.clone(), peer, request))
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(context.config.get().server.header_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service);
    // hyper counts a head's time from where it begins to read, the deadline counts from accept.
    let mut first_head = Box::pin(tokio::time::sleep_until(deadline));
    let taken = poll_fn(|cx| {
        if connection.poll_without_shutdown(cx).is_ready() || (!asked.get() && first_head.as_mut().poll(cx).is_ready())
        {
            return Poll::Ready(None);
        }
        takeover.poll(cx)
    })
    .await;
    let parts = connection.into_parts();
    let mut socket = parts.io.into_inner();
    let Some((head, guard)) = taken else {
        if takeover.blocked.get().is_some() {
            // A peer that does not take a response would not take the shutdown either.
            socket.abandon();
        } else {
            let _ = socket.shutdown().await;
        }
        return None;
    };
    if parts.read_buf.len() > STRAY_BYTES_MAX {
        return None;
    }
    guard.start(socket.into_transport(), head_bytes(&head));
    Some(Stream { guard })
}

/// When a stream may be taken from hyper: once the peer has taken every earlier response on the connection. One that takes
/// nothing is not waited for longer than for one that does not read a stream.
struct Takeover {
    handoff: Handoff,
    blocked: Rc<Cell<Option<Instant>>>,
    write_timeout: Duration,
    accepted: Option<(Response<()>, Guard)>,
    patience: Option<Pin<Box<Sleep>>>,
}

impl Takeover {
    fn new(context: &Context, handoff: Handoff, socket: &Socket) -> Self {
        let write_timeout = context.config.get().limits.write_timeout;
        Self { handoff, blocked: socket.blocked(), write_timeout, accepted: None, patience: None }
    }

    /// Ready with the stream, or with nothing when the peer takes too long. Polled after the connection, which flushes.
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<(Response<()>, Guard)>> {
        if self.accepted.is_none() {
            self.accepted = self.handoff.take();
        }
        let Some(since) = self.blocked.get() else {
            return self.accepted.take().map_or(Poll::Pending, |accepted| Poll::Ready(Some(accepted)));
        };
        ready!(self.poll_until(since + self.write_timeout, cx));
        if let Some((_, guard)) = &self.accepted {
            guard.client().abort(CloseReason::Slow);
        }
        Poll::Ready(None)
    }

    fn poll_until(&mut self, due: Instant, cx: &mut TaskContext<'_>) -> Poll<()> {
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if patience.deadline() != due {
            patience.as_mut().reset(due);
        }
        patience.as_mut().poll(cx)
    }
}

/// Answers one request; for a stream it hands the client over and waits to be dropped.
async fn respond(
    context: Rc<Context>,
    handoff: Handoff,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    match http::answer(&context, peer, request.map(RequestBody::Http1)).await {
        Answer::Response(response) => Ok(response),
        Answer::Stream(head, guard) => {
            handoff.set(Some((head, guard)));
            std::future::pending().await
        }
    }
}

/// The response head as bytes: hyper is no longer there to write it.
fn head_bytes(head: &Response<()>) -> Bytes {
    let mut bytes = Vec::with_capacity(320);
    bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\ndate: ");
    bytes.extend_from_slice(httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    // The socket ends with the stream, also when the stream ends in order.
    bytes.extend_from_slice(b"\r\nconnection: close\r\ntransfer-encoding: chunked\r\n");
    for (name, value) in head.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}

impl Stream {
    /// Reads for the peer's end, writes what waits, until either side ends it.
    pub(super) async fn run(self) {
        let mut stray = 0;
        let reason = poll_fn(|cx| self.poll_end(&mut stray, cx)).await;
        let client = self.guard.client();
        if client.closing().is_none() {
            client.abort(reason);
        }
        if let Way::Socket(transport) = &mut client.output.borrow_mut().way {
            match client.closing() {
                Some(Closing::Orderly(_)) => transport.finish(),
                _ => transport.abandon(),
            }
        }
    }

    fn poll_end(&self, stray: &mut usize, cx: &mut TaskContext<'_>) -> Poll<CloseReason> {
        let client = self.guard.client();
        client.set_waker(cx);
        if let Some(Closing::Abrupt(reason)) = client.closing() {
            return Poll::Ready(reason);
        }
        if let Poll::Ready(reason) = self.poll_read(stray, cx) {
            return Poll::Ready(reason);
        }
        if let Err(reason) = ready!(self.poll_write(cx)) {
            return Poll::Ready(reason);
        }
        match client.closing() {
            Some(Closing::Orderly(reason) | Closing::Abrupt(reason)) => Poll::Ready(reason),
            None => Poll::Pending,
        }
    }

    /// Ready when the peer has gone, or sends what it has no business to.
    fn poll_read(&self, stray: &mut usize, cx: &mut TaskContext<'_>) -> Poll<CloseReason> {
        let mut output = self.guard.client().output.borrow_mut();
        let Way::Socket(transport) = &mut output.way else { return Poll::Pending };
        let mut scratch = [0; 1024];
        loop {
            if ready!(transport.poll_read_ready(cx)).is_err() {
                return Poll::Ready(CloseReason::Client);
            }
            match transport.try_discard(&mut scratch) {
                Ok(0) => return Poll::Ready(CloseReason::Client),
                Ok(n) => *stray += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(CloseReason::Client),
            }
            if *stray > STRAY_BYTES_MAX {
                return Poll::Ready(CloseReason::Protocol);
            }
        }
    }

    /// Ready when nothing waits any more.
    fn poll_write(&self, cx: &mut TaskContext<'_>) -> Poll<Result<(), CloseReason>> {
        loop {
            match self.guard.drain() {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(CloseReason::Client)),
            }
            let output = self.guard.client().output.borrow();
            let Way::Socket(transport) = &output.way else { return Poll::Ready(Ok(())) };
            if ready!(transport.poll_write_ready(cx)).is_err() {
                return Poll::Ready(Err(CloseReason::Client));
            }
        }
    }
}

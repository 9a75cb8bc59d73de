//! HTTP/2: a connection, on the `h2` crate itself.
//!
//! hyper would put a body, and a task for it, between the shard and a stream; here the shard hands frames to the connection
//! directly ([`outgoing`]), and a delivery wakes the connection's task alone. What one request becomes is [`stream`]'s
//! business, whether the peer is still there [`keepalive`]'s.

mod keepalive;
mod line;
pub mod outgoing;
mod stream;
mod streams;

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use hyper::Request;
use tokio::time::{Instant, Sleep};

use self::keepalive::Keepalive;
use self::line::{Line, Wired};
use self::outgoing::Piece;
use self::stream::Exchange;
use self::streams::Streams;
use super::accept::Pending;
use super::socket::Socket;
use crate::http::Context;
use crate::http::trust::Peer;

/// Streams of one connection (requirement R23).
const STREAMS_MAX: u32 = 100;
/// Header block of one request, in bytes.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Clients send nothing but requests.
const WINDOW_BYTES: u32 = 64 * 1024;
/// Streams the peer may reset before we have seen them, and that we may reset for its errors, before the connection ends
/// (CVE-2023-44487 and its like).
const RESETS_BY_PEER_MAX: usize = 20;
const RESETS_BY_US_MAX: usize = 1024;
/// A connection whose last stream we have reset, whose answers are not read, or whose peer was told to ask for nothing more, has
/// this long: the peer may have stopped reading at all, and then what it was sent is held until it goes.
const CUT_PATIENCE: Duration = Duration::from_secs(1);

/// Exchanges prefaces. `pending` is given up with the first request.
pub(super) async fn accept(
    context: Rc<Context>,
    socket: Socket,
    peer: Peer,
    deadline: Instant,
    pending: Pending,
) -> Option<Box<Connection>> {
    let line = Rc::<Line>::default();
    let handshake = Builder::new()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_pending_accept_reset_streams(RESETS_BY_PEER_MAX)
        .max_local_error_reset_streams(Some(RESETS_BY_US_MAX))
        .handshake(Wired::new(socket, line.clone()));
    let h2 = tokio::time::timeout_at(deadline, handshake).await.ok()?.ok()?;
    Some(Box::new(Connection::new(context, h2, line, peer, deadline, pending)))
}

/// A connection. Boxed, because the task that runs it would hold it twice.
pub(super) struct Connection {
    context: Rc<Context>,
    h2: h2::server::Connection<Wired, Piece>,
    line: Rc<Line>,
    peer: Peer,
    pending: Option<Pending>,
    streams: Rc<Streams>,
    keepalive: Keepalive,
    /// When to look whether there is any stream.
    look: Instant,
    /// The peer has been told to ask for nothing more.
    closing: bool,
    /// It was noticed that the peer leaves answers unread.
    unread: bool,
    /// The earlier of both deadlines.
    alarm: Pin<Box<Sleep>>,
}

/// Why a connection takes no more requests.
enum End {
    /// The shard is being drained: the peer is to ask elsewhere. What it has asked for is served to its end.
    Drained,
    /// There is no stream.
    Idle,
    /// The peer shows no sign of life.
    Silent,
    /// The peer has gone, or broken the protocol.
    Gone,
}

type Asked = (Request<RecvStream>, SendResponse<Piece>);

impl Connection {
    fn new(
        context: Rc<Context>,
        mut h2: h2::server::Connection<Wired, Piece>,
        line: Rc<Line>,
        peer: Peer,
        deadline: Instant,
        pending: Pending,
    ) -> Self {
        let keepalive = Keepalive::new(h2.ping_pong().expect("taken once"));
        let alarm = Box::pin(tokio::time::sleep_until(deadline));
        let (pending, streams, look) = (Some(pending), Rc::default(), deadline);
        Self { context, h2, line, peer, pending, streams, keepalive, look, closing: false, unread: false, alarm }
    }

    /// Serves until the connection ends, or is found without a stream at one of the looks, `header_timeout` apart.
    pub(super) async fn run(&mut self) {
        loop {
            match poll_fn(|cx| self.poll_asked(cx)).await {
                Ok(asked) => self.answer(asked).await,
                Err(End::Drained) => self.say_goodbye(),
                Err(End::Idle) if !self.closing && !self.streams.unread() => self.say_goodbye(),
                Err(End::Idle | End::Silent) => return self.line.abandon(),
                Err(End::Gone) => return,
            }
        }
    }

    /// GOAWAY (RFC 9113 section 6.8). What is just on its way is still served.
    fn say_goodbye(&mut self) {
        self.closing = true;
        self.h2.graceful_shutdown();
        self.look = Instant::now() + CUT_PATIENCE;
    }

    fn poll_asked(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Asked, End>> {
        self.streams.set_task(cx);
        // Reads and writes; nothing else does.
        if let Poll::Ready(accepted) = self.h2.poll_accept(cx) {
            return Poll::Ready(accepted.and_then(Result::ok).ok_or(End::Gone));
        }
        // Streams end one by one, and the first end of each connection wakes its task.
        if !self.closing && self.context.shard.is_draining() {
            return Poll::Ready(Err(End::Drained));
        }
        self.keepalive.hear(cx);
        let unread = self.streams.unread();
        if self.streams.take_cut() || (unread && !self.unread) {
            self.look = self.look.min(Instant::now() + CUT_PATIENCE);
        }
        self.unread = unread;
        loop {
            let due = self.look.min(self.keepalive.due());
            if self.alarm.deadline() != due {
                self.alarm.as_mut().reset(due);
            }
            ready!(self.alarm.as_mut().poll(cx));
            if due == self.look {
                if !self.streams.any() {
                    return Poll::Ready(Err(End::Idle));
                }
                let patience =
                    if self.closing { CUT_PATIENCE } else { self.context.config.get().server.header_timeout };
                self.look = Instant::now() + patience;
            } else if !self.keepalive.ask(self.line.take_alive(), cx) {
                return Poll::Ready(Err(End::Silent));
            }
        }
    }

    /// Most requests are answered here and now; a task is for those that have to wait, and for event streams.
    async fn answer(&mut self, (request, respond): Asked) {
        self.pending = None;
        let exchange = Exchange { respond, running: self.streams.run() };
        let mut answer = Box::pin(exchange.answer(self.context.clone(), self.peer, request));
        match poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await {
            Poll::Ready(None) => {}
            Poll::Ready(Some(stream)) => {
                tokio::task::spawn_local(stream.run());
            }
            Poll::Pending => {
                tokio::task::spawn_local(async move {
                    let stream = answer.await;
                    if let Some(stream) = stream {
                        // A task of its own: that of the answer holds all that a request needs.
                        tokio::task::spawn_local(stream.run());
                    }
                });
            }
        }
    }
}

//! HTTP/2: a connection, on the `h2` crate itself.
//!
//! hyper would put a body, and a task for it, between the shard and a stream; here the shard hands frames to the connection
//! directly ([`outgoing`]), and a delivery wakes the connection's task alone. What one request becomes is [`stream`]'s
//! business, whether the peer is still there [`keepalive`]'s.

mod keepalive;
pub mod outgoing;
mod stream;

use std::cell::Cell;
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
use self::outgoing::Piece;
use self::stream::{Exchange, Running};
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
/// A connection whose last stream was reset has this long to begin another one: its peer may have stopped reading at all, and
/// then what it was sent last is held until it goes.
const CUT_PATIENCE: Duration = Duration::from_secs(2);

/// The streams of a connection.
#[derive(Debug, Default)]
struct Streams {
    /// Requests that are being served.
    running: Cell<usize>,
    /// One was reset by us.
    cut: Cell<bool>,
}

/// Exchanges prefaces. `pending` is given up with the first request.
pub(super) async fn accept(
    context: Rc<Context>,
    socket: Socket,
    peer: Peer,
    deadline: Instant,
    pending: Pending,
) -> Option<Box<Connection>> {
    // Pings notice a peer that vanished, and a slow one has not.
    socket.set_user_timeout(false);
    let handshake = Builder::new()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_pending_accept_reset_streams(RESETS_BY_PEER_MAX)
        .max_local_error_reset_streams(Some(RESETS_BY_US_MAX))
        .handshake(socket);
    let h2 = tokio::time::timeout_at(deadline, handshake).await.ok()?.ok()?;
    Some(Box::new(Connection::new(context, h2, peer, deadline, pending)))
}

/// A connection. Boxed, because the task that runs it would hold it twice.
pub(super) struct Connection {
    context: Rc<Context>,
    h2: h2::server::Connection<Socket, Piece>,
    peer: Peer,
    pending: Option<Pending>,
    streams: Rc<Streams>,
    keepalive: Keepalive,
    /// When to look whether there is any stream.
    look: Instant,
    /// Without one for so long the connection ends.
    patience: Duration,
    /// The earlier of both deadlines.
    alarm: Pin<Box<Sleep>>,
}

/// Why a connection takes no more requests.
enum End {
    /// There is no stream, and has been none for as long as may be.
    Idle,
    /// The peer has gone, or broken the protocol.
    Gone,
}

type Asked = (Request<RecvStream>, SendResponse<Piece>);

impl Connection {
    fn new(
        context: Rc<Context>,
        mut h2: h2::server::Connection<Socket, Piece>,
        peer: Peer,
        deadline: Instant,
        pending: Pending,
    ) -> Self {
        let keepalive = Keepalive::new(h2.ping_pong().expect("taken once"));
        let patience = context.config.server.header_timeout;
        let alarm = Box::pin(tokio::time::sleep_until(deadline));
        let (pending, streams, look) = (Some(pending), Rc::default(), deadline);
        Self { context, h2, peer, pending, streams, keepalive, look, patience, alarm }
    }

    /// Serves until the connection ends, or has had no stream for `header_timeout`.
    pub(super) async fn run(&mut self) {
        loop {
            match poll_fn(|cx| self.poll_asked(cx)).await {
                Ok(asked) => self.answer(asked),
                Err(End::Idle) => break,
                Err(End::Gone) => return,
            }
        }
        // A request that is just on its way is still answered.
        self.h2.graceful_shutdown();
        let patience = self.patience;
        let rest = async {
            while let Some(Ok(asked)) = poll_fn(|cx| self.h2.poll_accept(cx)).await {
                self.answer(asked);
            }
        };
        let _ = tokio::time::timeout(patience, rest).await;
    }

    fn poll_asked(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Asked, End>> {
        // Reads and writes; nothing else does.
        if let Poll::Ready(accepted) = self.h2.poll_accept(cx) {
            return Poll::Ready(accepted.and_then(Result::ok).ok_or(End::Gone));
        }
        self.keepalive.hear(cx);
        if self.streams.cut.take() {
            self.patience = CUT_PATIENCE;
            self.look = self.look.min(Instant::now() + CUT_PATIENCE);
        }
        loop {
            let due = self.look.min(self.keepalive.due());
            if self.alarm.deadline() != due {
                self.alarm.as_mut().reset(due);
            }
            ready!(self.alarm.as_mut().poll(cx));
            if due == self.look {
                if self.streams.running.get() == 0 {
                    return Poll::Ready(Err(End::Idle));
                }
                self.patience = self.context.config.server.header_timeout;
                self.look = Instant::now() + self.patience;
            } else if !self.keepalive.ask(cx) {
                return Poll::Ready(Err(End::Gone));
            }
        }
    }

    fn answer(&mut self, (request, respond): Asked) {
        self.pending = None;
        let exchange = Exchange { respond, running: Running::new(self.streams.clone()) };
        let answer = exchange.answer(self.context.clone(), self.peer, request);
        tokio::task::spawn_local(async move {
            if let Some(stream) = answer.await {
                // A task of its own: that of the answer holds all that a request needs.
                tokio::task::spawn_local(stream.run());
            }
        });
    }
}

//! HTTP/2: streams stay inside hyper, as bodies over the same client.
//!
//! hyper does not ask a body for more while the peer does not read, so a body cannot end a stalled stream. The executor can:
//! it runs each stream's future beside the client's own end, and dropping the future resets the stream while its siblings
//! go on.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Either;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::accept::Pending;
use super::socket::Socket;
use crate::http::trust::Peer;
use crate::http::{self, Answer, Context};
use crate::shard::client::{Client, Closing};
use crate::shard::guard::Guard;

/// Streams of one connection (requirement R23).
const STREAMS_MAX: u32 = 100;
/// Header block of one request, in bytes.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// What hyper buffers for one stream: the bound of a slow one on top of its own backlog.
const SEND_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Clients send nothing but requests.
const WINDOW_BYTES: u32 = 64 * 1024;
/// A connection whose last stream was reset has this long to begin another one: its peer may have stopped reading at all, and
/// then what it was sent last is held until it goes.
const CUT_PATIENCE: Duration = Duration::from_secs(2);
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

type StreamResponse = Response<Either<Full<Bytes>, StreamBody>>;

/// Serves a connection until it ends, or has had no stream for `header_timeout`. `pending` is given up with the first request.
pub(super) async fn serve(context: Rc<Context>, socket: Socket, peer: Peer, deadline: Instant, pending: Pending) {
    let idle_max = context.config.server.header_timeout;
    let executor = StreamExecutor::default();
    let (next, running, cut) = (executor.next.clone(), executor.running.clone(), executor.cut.clone());
    let pending = Cell::new(Some(pending));
    let service = service_fn(move |request: Request<Incoming>| {
        drop(pending.take());
        // hyper hands the future to the executor right after this call, on the same thread.
        let cancel = Rc::<Cancel>::default();
        next.set(Some(cancel.clone()));
        respond(context.clone(), cancel, peer, request)
    });
    let connection = http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let (mut look, mut patience) = (deadline, idle_max);
    loop {
        tokio::select! {
            _ = &mut connection => return,
            () = tokio::time::sleep_until(look) => {}
            () = cut.notified() => {
                (look, patience) = (look.min(Instant::now() + CUT_PATIENCE), CUT_PATIENCE);
                continue;
            }
        }
        if running.get() == 0 {
            break;
        }
        (look, patience) = (Instant::now() + idle_max, idle_max);
    }
    // A request that is just on its way is still answered.
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(patience, connection).await;
}

async fn respond(
    context: Rc<Context>,
    cancel: Rc<Cancel>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<StreamResponse, std::convert::Infallible> {
    let mut response = match http::answer(&context, peer, request).await {
        Answer::Response(response) => response.map(Either::Left),
        Answer::Stream(head, guard) => {
            cancel.client.set(Some(guard.client().clone()));
            cancel.armed.set(true);
            guard.opened();
            head.map(|()| Either::Right(StreamBody { guard }))
        }
    };
    // Connection-specific fields do not exist in HTTP/2 (RFC 9113 section 8.2.2).
    response.headers_mut().remove(hyper::header::CONNECTION);
    Ok(response)
}

/// Ends one HTTP/2 stream from outside its body.
#[derive(Default)]
struct Cancel {
    armed: Cell<bool>,
    client: Cell<Option<Rc<Client>>>,
}

impl Cancel {
    fn poll(&self, cx: &TaskContext<'_>) -> Poll<()> {
        if !self.armed.get() {
            return Poll::Pending;
        }
        let Some(client) = self.client.take() else { return Poll::Pending };
        let cancelled = client.poll_cancelled(cx);
        self.client.set(Some(client));
        cancelled
    }
}

/// Runs hyper's stream futures on the shard, each beside its cancellation.
#[derive(Clone, Default)]
struct StreamExecutor {
    next: Rc<Cell<Option<Rc<Cancel>>>>,
    /// Streams that are being served.
    running: Rc<Cell<usize>>,
    /// Tells that one was reset.
    cut: Rc<Notify>,
}

/// Counts a stream while it is served.
struct Running(Rc<Cell<usize>>);

impl Running {
    fn new(count: Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, future: F) {
        let cancel = self.next.take().unwrap_or_default();
        let running = Running::new(self.running.clone());
        let cut = self.cut.clone();
        tokio::task::spawn_local(async move {
            let _running = running;
            let mut future = pin!(future);
            let reset = poll_fn(|cx| match future.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(false),
                // After the future: the service may just have armed it.
                Poll::Pending => cancel.poll(cx).map(|()| true),
            })
            .await;
            if reset {
                cut.notify_one();
            }
        });
    }
}

/// The body of an event stream.
pub(super) struct StreamBody {
    guard: Guard,
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let client = self.guard.client();
        client.set_waker(cx);
        if matches!(client.closing(), Some(Closing::Abrupt(_))) {
            return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionAborted.into())));
        }
        match self.guard.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None if client.closing().is_some() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

//! One request on an HTTP/2 connection: its answer, and the event stream it may become.
//!
//! The shard writes to a stream by itself ([`super::outgoing`]); the task here only waits for room after the peer has not
//! read, for the peer to leave, and for the end.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response};

use super::outgoing::{Outgoing, Piece};
use super::streams::Running;
use crate::http::body::RequestBody;
use crate::http::trust::Peer;
use crate::http::{self, Answer, Context};
use crate::shard::client::Closing;
use crate::shard::guard::Guard;
use crate::shard::output::Way;
use crate::telemetry::metrics::CloseReason;

/// A request that is being served.
pub(super) struct Exchange {
    pub(super) respond: SendResponse<Piece>,
    pub(super) running: Running,
}

impl Exchange {
    /// Answers; gives the event stream if it becomes one.
    pub(super) async fn answer(
        mut self,
        context: Rc<Context>,
        peer: Peer,
        request: Request<RecvStream>,
    ) -> Option<Stream> {
        let bodiless = request.method() == Method::HEAD;
        let mut answer = pin!(http::answer(&context, peer, request.map(RequestBody::Http2)));
        let answer = poll_fn(|cx| {
            if self.respond.poll_reset(cx).is_ready() {
                // Who has left waits for no answer.
                return Poll::Ready(None);
            }
            answer.as_mut().poll(cx).map(Some)
        });
        match answer.await? {
            Answer::Response(response) => {
                self.send(response, bodiless).await;
                None
            }
            Answer::Stream(mut head, guard) => {
                complete(head.headers_mut());
                let outgoing = Outgoing::new(self.respond.send_response(head, false).ok()?);
                guard.start_http2(outgoing);
                Some(Stream { guard, running: self.running })
            }
        }
    }

    /// Sends an ordinary response. They are small: a few that the peer's windows have no room for may wait in the connection.
    async fn send(&mut self, response: Response<Full<Bytes>>, bodiless: bool) {
        let (parts, body) = response.into_parts();
        let mut head = Response::from_parts(parts, ());
        complete(head.headers_mut());
        let Ok(body) = body.collect().await;
        let body = body.to_bytes();
        if !body.is_empty() {
            head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let ends = bodiless || body.is_empty();
        // Both fail only where the stream has ended already.
        let Ok(mut stream) = self.respond.send_response(head, ends) else { return };
        if ends {
            return;
        }
        stream.reserve_capacity(body.len());
        if stream.capacity() < body.len() && !self.running.may_wait() {
            return stream.send_reset(Reason::ENHANCE_YOUR_CALM);
        }
        let _ = stream.send_data(Piece::answer(body, self.running.answers()), true);
    }
}

/// What every response has, and none.
fn complete(headers: &mut HeaderMap) {
    // Connection-specific fields do not exist in HTTP/2 (RFC 9113 section 8.2.2).
    headers.remove(CONNECTION);
    let now = httpdate::fmt_http_date(SystemTime::now());
    headers.insert(DATE, HeaderValue::try_from(now).expect("a date is ASCII"));
}

/// An event stream.
pub(super) struct Stream {
    guard: Guard,
    running: Running,
}

impl Stream {
    /// Writes what waits until either side ends it.
    pub(super) async fn run(self) {
        let reason = poll_fn(|cx| self.poll_end(cx)).await;
        let client = self.guard.client();
        if client.closing().is_none() {
            client.abort(reason);
        }
        if let Way::Http2(outgoing) = &mut client.output.borrow_mut().way {
            match client.closing() {
                Some(Closing::Orderly(_)) => outgoing.finish(),
                Some(Closing::Abrupt(CloseReason::Client)) | None => outgoing.reset(),
                Some(Closing::Abrupt(_)) => {
                    outgoing.reset();
                    self.running.cut();
                }
            }
        }
    }

    fn poll_end(&self, cx: &mut TaskContext<'_>) -> Poll<CloseReason> {
        let client = self.guard.client();
        client.set_waker(cx);
        if let Some(Closing::Abrupt(reason)) = client.closing() {
            return Poll::Ready(reason);
        }
        if let Way::Http2(outgoing) = &mut client.output.borrow_mut().way
            && outgoing.poll_gone(cx).is_ready()
        {
            return Poll::Ready(CloseReason::Client);
        }
        if ready!(self.poll_write(cx)).is_err() {
            return Poll::Ready(CloseReason::Client);
        }
        match client.closing() {
            Some(Closing::Orderly(reason) | Closing::Abrupt(reason)) => Poll::Ready(reason),
            None => Poll::Pending,
        }
    }

    /// Ready when nothing waits any more.
    fn poll_write(&self, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.guard.drain() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            let output = self.guard.client().output.borrow();
            let Way::Http2(outgoing) = &output.way else { return Poll::Ready(Ok(())) };
            ready!(outgoing.poll_room(cx));
        }
    }
}

//! HTTP/2: a client over any connection, and a reader of event streams on top.

use std::collections::VecDeque;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sidestream::sse::{Event, Parser};
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
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(TokioIo::new(io))
        .await
        .expect("an HTTP/2 handshake");
    tokio::spawn(connection);
    sender
}

/// Speaks HTTP/2 with prior knowledge, without TLS.
pub async fn tcp(address: &str) -> SendRequest<Empty<Bytes>> {
    over(TcpStream::connect(address).await.expect("accepts")).await
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
        while self.read.is_empty() {
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.expect("an event in time");
            let data = frame.expect("the stream goes on").expect("no error").into_data().expect("data");
            self.parser.feed(&data, |event| self.read.push_back(event));
        }
        self.read.pop_front().expect("not empty")
    }
}

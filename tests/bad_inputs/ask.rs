//! Asks the program over HTTP/1.1 or HTTP/2 and says what came, in the words of the tables:
//!
//! - `400 bad_path`: a refusal by the contract, which is checked: JSON, small, not stored, not sniffed;
//! - `200 new`, `200 exact`, `200 gap cursor_unknown`: an event stream, and how it was opened;
//! - `431`: an answer without a body; `404 text`: one with a body of its own;
//! - `closed`: no answer.

use std::collections::VecDeque;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use sidestream::sse::{Event, Parser};

use crate::request::Written;
use crate::support::client::{Answer, Head};
use crate::support::{DEADLINE, Sse, Wire, json};

/// What came.
pub struct Said {
    /// In the words of the tables.
    pub words: String,
    /// The head, if any came.
    pub head: Option<Head>,
    /// The body, or the data of the events that tell how a stream was opened.
    pub body: Vec<u8>,
}

impl Said {
    fn closed() -> Self {
        Self { words: "closed".into(), head: None, body: Vec::new() }
    }

    fn stream(head: Head, connected: &Event, gap: Option<&Event>) -> Self {
        let resume = json(connected)["resume"].as_str().unwrap_or_default().to_owned();
        let reason = gap.map(|gap| json(gap)["reason"].as_str().unwrap_or_default().to_owned());
        let words = ["200", &resume].into_iter().chain(reason.as_deref()).collect::<Vec<_>>().join(" ");
        let body = [connected.data.as_str(), gap.map_or("", |gap| &gap.data)].concat().into_bytes();
        Self { words, head: Some(head), body }
    }

    fn answer(answer: Answer) -> Self {
        let status = answer.head.status;
        let code = serde_json::from_slice(&answer.body)
            .ok()
            .and_then(|body: Value| body["error"]["code"].as_str().map(str::to_owned));
        let words = match code {
            Some(code) => {
                answer.is_refusal(status, &code);
                format!("{status} {code}")
            }
            None if answer.body.is_empty() => status.to_string(),
            None => format!("{status} text"),
        };
        Self { words, head: Some(answer.head), body: answer.body }
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether any eight bytes of these stand in the body.
    pub fn echoes(&self, payloads: &[Vec<u8>]) -> Option<String> {
        let echoed =
            payloads.iter().flat_map(|text| text.windows(8)).find(|w| memchr::memmem::find(&self.body, w).is_some());
        echoed.map(|window| window.escape_ascii().to_string())
    }
}

/// Sends exact bytes on a connection of their own.
pub async fn http1(address: &str, bytes: &[u8]) -> Said {
    let mut wire = Wire::tcp(address).await;
    wire.send_anyway(bytes).await;
    let Some(head) = wire.try_head().await else { return Said::closed() };
    if head.status == 200 && head.is_chunked() {
        let mut sse = Sse::begun(wire, head).await;
        let gap = if sse.resume() == "gap" { Some(sse.event().await) } else { None };
        return Said::stream(sse.head.clone(), &sse.connected, gap.as_ref());
    }
    if bytes.starts_with(b"HEAD ") {
        return Said::answer(Answer { head, body: Vec::new() });
    }
    Said::answer(wire.body(head).await)
}

/// An HTTP/2 connection with prior knowledge.
pub async fn http2_connection(address: &str) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.expect("accepts");
    stream.set_nodelay(true).expect("a fresh socket");
    let (sender, connection) = h2::client::handshake(stream).await.expect("an HTTP/2 handshake");
    tokio::spawn(connection);
    sender
}

/// Sends a request on an HTTP/2 connection that others share.
pub async fn http2(sender: &SendRequest<Bytes>, written: &Written) -> Said {
    let (request, body) = written.http2();
    let mut sender = sender.clone().ready().await.expect("the connection is up");
    let (response, mut sending) = sender.send_request(request, body.is_empty()).expect("a request that can be sent");
    if !body.is_empty() {
        // An answer may have come before.
        let _ = sending.send_data(body, true);
    }
    let Ok(response) = timeout(DEADLINE, response).await.expect("an answer in time") else { return Said::closed() };
    let (parts, body) = response.into_parts();
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let head = Head { status: parts.status.as_u16(), headers };
    let is_stream = head.header("content-type") == Some("text/event-stream") && !body.is_end_stream();
    if head.status == 200 && is_stream {
        let mut events = Events::of(body);
        let connected = events.next().await;
        let gap = if json(&connected)["resume"] == "gap" { Some(events.next().await) } else { None };
        return Said::stream(head, &connected, gap.as_ref());
    }
    Said::answer(Answer { head, body: all(body).await })
}

async fn all(mut body: RecvStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(Ok(piece)) = timeout(DEADLINE, body.data()).await.expect("the rest of a body in time") {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

/// The events of a body. Dropping it ends the stream.
struct Events {
    body: RecvStream,
    parser: Parser,
    ready: VecDeque<Event>,
}

impl Events {
    fn of(body: RecvStream) -> Self {
        Self { body, parser: Parser::default(), ready: VecDeque::new() }
    }

    async fn next(&mut self) -> Event {
        while self.ready.is_empty() {
            let piece = timeout(DEADLINE, self.body.data()).await.expect("an event in time");
            let piece = piece.expect("the stream goes on").expect("the stream goes on");
            self.parser.feed(&piece, |event| self.ready.push_back(event));
        }
        self.ready.pop_front().expect("just looked")
    }
}

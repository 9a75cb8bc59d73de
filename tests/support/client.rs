//! Raw HTTP/1.1: exact bytes out, exact bytes in, and a reader of event streams on top.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use sidestream::sse::{Event, Parser};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::timeout;

use super::{DEADLINE, json, seq_of};

/// Anything that carries bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A request in the making. `Host` and `Accept: text/event-stream` are there unless taken out.
#[derive(Clone)]
pub struct Request {
    method: String,
    target: String,
    version: &'static str,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A GET as an `EventSource` sends it.
pub fn get(target: &str) -> Request {
    Request::new("GET", target)
}

impl Request {
    /// Any method.
    pub fn new(method: &str, target: &str) -> Self {
        let headers = [("Host", "app.example"), ("Accept", "text/event-stream")];
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            version: "HTTP/1.1",
            headers: headers.map(|(n, v)| (n.into(), v.into())).into(),
        }
    }

    /// Speaks for a user.
    pub fn user(self, user: &str) -> Self {
        self.header("X-Forwarded-User", user)
    }

    /// Adds a header line, raw.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), value.as_ref().into()));
        self
    }

    /// Takes out every line of this name.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name.as_bytes()));
        self
    }

    /// Another version on the request line.
    pub fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// The request head on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} {}\r\n", self.method, self.target, self.version).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// The head of an answer. Names in lower case.
#[derive(Debug, Clone)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// The header lines.
    pub headers: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
        let headers = lines.filter_map(|l| l.split_once(':'));
        Self {
            status: status.unwrap_or_else(|| panic!("not a response head: {text:?}")),
            headers: headers.map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect(),
        }
    }

    /// The only value of a header; two lines fail the test.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name);
        let value = values.next();
        assert!(values.next().is_none(), "{name} twice in {self:?}");
        value.map(|(_, v)| v.as_str())
    }

    /// Whether an event stream follows, or another body of unknown length.
    pub fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The head.
    pub head: Head,
    /// The body, chunking taken off.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("the body is UTF-8")
    }

    /// Checks the error contract: JSON of at most 512 bytes with this status and code, not stored, not sniffed.
    pub fn is_refusal(&self, status: u16, code: &str) -> &Self {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.head.status, status, "{:?} {text}", self.head);
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        assert_eq!(body["error"]["code"], code, "{text}");
        assert_eq!(body["error"]["status"], status, "{text}");
        assert!(body["error"]["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{text}");
        assert!(self.body.len() <= 512, "{} bytes: {text}", self.body.len());
        assert_eq!(self.head.header("cache-control"), Some("no-store"), "{:?}", self.head);
        assert_eq!(self.head.header("x-content-type-options"), Some("nosniff"), "{:?}", self.head);
        let kind = self.head.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/json"), "{kind}");
        self
    }

    /// Checks the soft refusal: 200, an event stream that holds one `retry:` line and ends, without a blank line.
    pub fn is_soft_refusal(&self, reason: &str) -> &Self {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.head.status, 200, "{:?} {text}", self.head);
        assert_eq!(self.head.header("sidestream-refused"), Some(reason), "{:?}", self.head);
        assert_eq!(self.head.header("content-type"), Some("text/event-stream"));
        let retry = text.strip_prefix("retry: ").and_then(|t| t.strip_suffix('\n')).and_then(|t| t.parse::<u64>().ok());
        assert!(retry.is_some_and(|ms| ms > 0), "not one retry line: {text:?}");
        self
    }
}

/// A socket whose kernel takes little.
pub async fn narrow(address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a fresh socket");
    socket.connect(address.parse().expect("an address")).await.expect("accepts")
}

/// One connection.
pub struct Wire {
    io: Box<dyn Io>,
    buffer: BytesMut,
}

impl Wire {
    /// Connects to `host:port` or `unix:/path`.
    pub async fn tcp(address: &str) -> Self {
        if let Some(path) = address.strip_prefix("unix:") {
            return Self::over(UnixStream::connect(path).await.expect("the socket accepts"));
        }
        let stream = timeout(DEADLINE, TcpStream::connect(address)).await.expect("connects in time");
        let stream = stream.unwrap_or_else(|e| panic!("{address} does not accept: {e}"));
        stream.set_nodelay(true).expect("a fresh socket");
        Self::over(stream)
    }

    /// Connects with a kernel that takes little, so that a stream fills soon.
    pub async fn narrow(address: &str) -> Self {
        Self::over(narrow(address).await)
    }

    /// Speaks over a connection that the caller made.
    pub fn over(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), buffer: BytesMut::new() }
    }

    /// Sends exact bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        timeout(DEADLINE, self.io.write_all(bytes)).await.expect("sent in time").expect("the peer reads");
        self.io.flush().await.expect("the peer reads");
    }

    /// Sends as much as the peer takes before it hangs up.
    pub async fn send_anyway(&mut self, bytes: &[u8]) {
        let _ = timeout(DEADLINE, self.io.write_all(bytes)).await.expect("sent in time");
        let _ = self.io.flush().await;
    }

    /// Reads more; `false` at the end, however it came.
    async fn fill(&mut self, within: Duration, what: &str) -> bool {
        let read = timeout(within, self.io.read_buf(&mut self.buffer)).await;
        let read = read.unwrap_or_else(|_| panic!("not within {within:?}: {what}; unread: {:?}", self.peek()));
        read.is_ok_and(|n| n > 0)
    }

    fn peek(&self) -> String {
        String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(300)]).into_owned()
    }

    /// Reads the head of an answer.
    pub async fn head(&mut self) -> Head {
        let head = self.try_head().await;
        head.unwrap_or_else(|| panic!("closed instead of an answer: {:?}", self.peek()))
    }

    /// Reads the head of an answer; `None` where the peer hangs up instead.
    pub async fn try_head(&mut self) -> Option<Head> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.split_to(end);
                self.buffer.advance(4);
                return Some(Head::parse(&String::from_utf8_lossy(&head)));
            }
            if !self.fill(DEADLINE, "a response head").await {
                return None;
            }
        }
    }

    /// Reads a whole answer.
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        self.body(head).await
    }

    /// Reads what follows a head.
    pub async fn body(&mut self, head: Head) -> Answer {
        let mut body = Vec::new();
        if head.is_chunked() {
            while let Some(piece) = self.chunk(DEADLINE).await {
                body.extend_from_slice(&piece);
            }
        } else if let Some(length) = head.header("content-length") {
            let length: usize = length.parse().expect("a length");
            while self.buffer.len() < length {
                assert!(self.fill(DEADLINE, "the rest of a body").await, "closed inside a body");
            }
            body = self.buffer.split_to(length).to_vec();
        } else if !matches!(head.status, 204 | 304) {
            body = self.read_to_end().await;
        }
        Answer { head, body }
    }

    /// One chunk; `None` after the last or at the end of the connection.
    async fn chunk(&mut self, within: Duration) -> Option<BytesMut> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer[..self.buffer.len().min(32)], b"\r\n") {
                let size =
                    std::str::from_utf8(&self.buffer[..end]).ok().and_then(|s| usize::from_str_radix(s, 16).ok());
                let size = size.unwrap_or_else(|| panic!("not a chunk: {:?}", self.peek()));
                if self.buffer.len() >= end + 2 + size + 2 {
                    self.buffer.advance(end + 2);
                    let data = self.buffer.split_to(size);
                    assert_eq!(&self.buffer.split_to(2)[..], b"\r\n", "a chunk without its end");
                    return (size > 0).then_some(data);
                }
            }
            if !self.fill(within, "a chunk").await {
                return None;
            }
        }
    }

    /// Everything up to the end of the connection, or that has come when so much time has passed.
    pub async fn read_for(&mut self, time: Duration) -> Vec<u8> {
        let _ = timeout(time, async { while self.fill(DEADLINE, "the end of the connection").await {} }).await;
        self.buffer.split().to_vec()
    }

    /// Passes over so many bytes.
    pub async fn skip(&mut self, bytes: usize) {
        while self.buffer.len() < bytes {
            assert!(self.fill(DEADLINE, "bytes to pass over").await, "closed before them");
        }
        self.buffer.advance(bytes);
    }

    /// Everything up to the end of the connection.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill(DEADLINE, "the end of the connection").await {}
        self.buffer.split().to_vec()
    }
}

/// An open event stream.
pub struct Sse {
    wire: Wire,
    parser: Parser,
    ready: VecDeque<Event>,
    /// The head of the answer.
    pub head: Head,
    /// `sidestream.connected`.
    pub connected: Event,
    /// Body bytes so far, chunking taken off, while [`Sse::keep_raw`] is on (it starts on).
    pub raw: Vec<u8>,
    keep_raw: bool,
}

impl Sse {
    /// Sends the request; the answer must be 200 with `sidestream.connected` as its first event.
    pub async fn open(mut wire: Wire, request: &Request) -> Self {
        wire.send(&request.bytes()).await;
        Self::opened(wire).await
    }

    /// Sends the request; `None` when it is refused softly, as while NATS is away.
    pub async fn try_open(mut wire: Wire, request: &Request) -> Option<Self> {
        wire.send(&request.bytes()).await;
        let head = wire.head().await;
        if let Some(reason) = head.header("sidestream-refused").map(str::to_owned) {
            wire.body(head).await.is_soft_refusal(&reason);
            return None;
        }
        Some(Self::begun(wire, head).await)
    }

    /// The same where the request is already on its way.
    pub async fn opened(mut wire: Wire) -> Self {
        let head = wire.head().await;
        Self::begun(wire, head).await
    }

    /// The same where the head has been read.
    pub async fn begun(wire: Wire, head: Head) -> Self {
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.header("sidestream-refused"), None, "{head:?}");
        assert!(head.is_chunked(), "{head:?}");
        let connected = Event { name: String::new(), data: String::new(), id: None };
        let parser = Parser::default();
        let mut sse = Self { wire, parser, ready: VecDeque::new(), head, connected, raw: Vec::new(), keep_raw: true };
        sse.connected = sse.next().await;
        assert_eq!(sse.connected.name, "sidestream.connected", "the first event");
        sse
    }

    /// Stops collecting raw bytes.
    pub fn forget_raw(&mut self) {
        self.keep_raw = false;
        self.raw = Vec::new();
    }

    /// The next event of any kind; the end of the stream fails the test.
    pub async fn next(&mut self) -> Event {
        self.next_within(DEADLINE).await
    }

    /// The same under another deadline.
    pub async fn next_within(&mut self, within: Duration) -> Event {
        self.try_next(within).await.expect("the stream ended")
    }

    /// The next event of any kind, `None` at the end of the stream.
    pub async fn try_next(&mut self, within: Duration) -> Option<Event> {
        while self.ready.is_empty() {
            let piece = self.wire.chunk(within).await?;
            if self.keep_raw {
                self.raw.extend_from_slice(&piece);
            }
            self.parser.feed(&piece, |event| self.ready.push_back(event));
        }
        self.ready.pop_front()
    }

    /// The next event that is not a heartbeat.
    pub async fn event(&mut self) -> Event {
        self.event_within(DEADLINE).await
    }

    /// The same under another deadline for the whole wait.
    pub async fn event_within(&mut self, within: Duration) -> Event {
        let started = Instant::now();
        loop {
            let left = within.checked_sub(started.elapsed()).unwrap_or_default();
            let event = self.next_within(left).await;
            if event.name != "sidestream.heartbeat" {
                return event;
            }
        }
    }

    /// Waits for an event of this name, and gives everything before it too, heartbeats left out.
    pub async fn until_named(&mut self, name: &str, within: Duration) -> Vec<Event> {
        self.until(within, |event| event.name == name).await
    }

    /// Waits for an event with these data, and gives everything before it, heartbeats left out.
    pub async fn before(&mut self, marker: &str) -> Vec<Event> {
        let mut events = self.until(DEADLINE, |event| event.data == marker).await;
        events.pop();
        events
    }

    /// Shows that nothing else was delivered before a marker that was published later.
    pub async fn nothing_before(&mut self, marker: &str) {
        assert_eq!(self.before(marker).await, [], "delivered before {marker:?}");
    }

    async fn until(&mut self, within: Duration, last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let started = Instant::now();
        let mut events = Vec::new();
        loop {
            let left = within.checked_sub(started.elapsed()).unwrap_or_default();
            let event = self.event_within(left).await;
            let done = last(&event);
            events.push(event);
            if done {
                return events;
            }
        }
    }

    /// The next `count` events' data, heartbeats left out; ids must be there and grow strictly.
    pub async fn data_in_order(&mut self, count: usize) -> Vec<String> {
        let mut last = self.connected.id.as_deref().map_or(0, seq_of);
        let mut data = Vec::with_capacity(count);
        while data.len() < count {
            let event = self.event().await;
            let id = event.id.as_deref().unwrap_or_else(|| panic!("{event:?} has no id"));
            assert!(seq_of(id) > last, "{id} after sequence {last}: {event:?}");
            last = seq_of(id);
            data.push(event.data);
        }
        data
    }

    /// What a reconnect sends.
    pub fn last_event_id(&self) -> &str {
        self.parser.last_event_id()
    }

    /// The reconnection time the stream asked for.
    pub fn retry(&self) -> Option<u64> {
        self.parser.retry()
    }

    /// `new`, `exact` or `gap`.
    pub fn resume(&self) -> String {
        json(&self.connected)["resume"].as_str().unwrap_or_default().to_owned()
    }

    /// Reads to the end of the stream.
    pub async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.try_next(DEADLINE).await {
            events.push(event);
        }
        events
    }

    /// Sends bytes although the request is over.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.wire.send(bytes).await;
    }
}

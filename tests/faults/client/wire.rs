//! Just enough of HTTP/1.1 for one event stream that may end at any byte.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use sidestream::sse::{Event, Parser};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Reconnection time before a stream has named one.
const RETRY: Duration = Duration::from_secs(1);

/// What a request became.
pub(super) enum Answer {
    /// An event stream.
    Opened(Box<Stream>),
    /// Not now: why, and how long to wait.
    Refused(String, Duration),
}

/// An open event stream.
pub(super) struct Stream {
    socket: TcpStream,
    raw: BytesMut,
    /// Bytes of the present chunk that are still to come.
    chunk: usize,
    parser: Parser,
    ready: VecDeque<Event>,
    /// The parser's last event ID runs ahead of the events handed out; this one does not.
    last_event_id: String,
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

impl Stream {
    pub(super) async fn open(address: &str, user: &str, cursor: Option<&str>, narrow: bool) -> Result<Answer, Error> {
        let address = address.parse().map_err(|_| bad("not an address"))?;
        let socket = TcpSocket::new_v4()?;
        if narrow {
            socket.set_recv_buffer_size(32 * 1024)?;
        }
        let mut socket = socket.connect(address).await?;
        let cursor_line = cursor.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let head = format!(
            "GET /events HTTP/1.1\r\nHost: app.example\r\nAccept: text/event-stream\r\nX-Forwarded-User: {user}\r\n{cursor_line}\r\n"
        );
        socket.write_all(head.as_bytes()).await?;
        let mut raw = BytesMut::new();
        let end = loop {
            if let Some(end) = memchr::memmem::find(&raw, b"\r\n\r\n") {
                break end;
            }
            if socket.read_buf(&mut raw).await? == 0 {
                return Err(bad("closed instead of an answer"));
            }
        };
        let head = String::from_utf8_lossy(&raw.split_to(end)).to_ascii_lowercase();
        raw.advance(4);
        if !head.starts_with("http/1.1 200") {
            return Ok(Answer::Refused(head.lines().next().unwrap_or_default().to_owned(), RETRY));
        }
        if let Some(reason) = head.lines().find_map(|line| line.strip_prefix("sidestream-refused: ")) {
            while socket.read_buf(&mut raw).await? > 0 {}
            let text = String::from_utf8_lossy(&raw);
            let retry = text.lines().find_map(|line| line.strip_prefix("retry: ")?.trim().parse().ok());
            return Ok(Answer::Refused(reason.to_owned(), retry.map_or(RETRY, Duration::from_millis)));
        }
        if !head.contains("transfer-encoding: chunked") {
            return Err(bad("neither chunked nor refused"));
        }
        let (parser, ready) = (Parser::default(), VecDeque::new());
        let last_event_id = cursor.unwrap_or_default().to_owned();
        Ok(Answer::Opened(Box::new(Self { socket, raw, chunk: 0, parser, ready, last_event_id })))
    }

    /// The next event; `None` at the end of the stream. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if let Some(id) = &event.id {
                    self.last_event_id.clone_from(id);
                }
                return Ok(Some(event));
            }
            if !self.parse()? && self.socket.read_buf(&mut self.raw).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Takes what has arrived; false when more bytes are needed.
    fn parse(&mut self) -> Result<bool, Error> {
        if self.chunk == 0 {
            let Some(end) = memchr::memmem::find(&self.raw, b"\r\n") else { return Ok(false) };
            let size = std::str::from_utf8(&self.raw[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
            let size = size.ok_or_else(|| bad("not a chunk"))?;
            if size == 0 {
                return Ok(false);
            }
            self.raw.advance(end + 2);
            self.chunk = size + 2;
        }
        // A chunk is taken whole, so that its end can be checked.
        if self.raw.len() < self.chunk {
            return Ok(false);
        }
        let piece = self.raw.split_to(self.chunk);
        self.chunk = 0;
        let data = piece.strip_suffix(b"\r\n").ok_or_else(|| bad("a chunk without its end"))?;
        self.parser.feed(data, |event| self.ready.push_back(event));
        Ok(true)
    }

    /// What a reconnect sends.
    pub(super) fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// How long to wait before it.
    pub(super) fn retry(&self) -> Duration {
        self.parser.retry().map_or(RETRY, Duration::from_millis)
    }
}

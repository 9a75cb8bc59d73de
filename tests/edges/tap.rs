//! A client's end of a connection to the edge: sends an attempt, reads what comes back, over HTTP/1.1 or HTTP/2. Tolerant, as
//! an attacker is: whatever comes is a result, and so is nothing.

use std::time::Duration;

use sidestream::sse::Parser;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use crate::h2;
use crate::support::DEADLINE;

/// How long an edge may take for an answer.
const PATIENCE: Duration = DEADLINE;
/// The first event of every stream.
const CONNECTED: &str = "event: sidestream.connected";

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An open stream.
    Stream,
    /// An answer with its end, and what it holds.
    Answer(u16, String),
    /// The end of the connection, or of the HTTP/2 stream, without an answer.
    Closed,
    /// Nothing.
    Silence,
}

/// A connection with everything that came over it.
pub struct Tap {
    io: TlsStream<TcpStream>,
    h2: bool,
    bytes: Vec<u8>,
    ended: bool,
}

impl Tap {
    /// Over a connection that is secured, and whose protocol is agreed on.
    pub fn over(io: TlsStream<TcpStream>, h2: bool) -> Self {
        Self { io, h2, bytes: Vec::new(), ended: false }
    }

    /// Sends exact bytes, as far as they are taken.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.io.write_all(bytes).await;
        let _ = self.io.flush().await;
    }

    /// Reads until there is a whole answer, an open stream, or the end.
    pub async fn reply(&mut self) -> Reply {
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(reply) = self.read_so_far() {
                return reply;
            }
            if self.ended {
                return Reply::Closed;
            }
            if !self.fill(patience).await {
                return Reply::Silence;
            }
        }
    }

    /// Reads until the stream has brought this text; gives what it has brought. The end fails the test.
    pub async fn until(&mut self, marker: &str) -> String {
        let patience = Instant::now() + PATIENCE;
        loop {
            let body = self.body();
            if body.contains(marker) {
                return body;
            }
            assert!(!self.ended, "the stream ended before {marker:?}: {body}");
            assert!(self.fill(patience).await, "not within {PATIENCE:?}: {marker:?} after {body}");
        }
    }

    /// Reads to the end, or for as long as somebody waits; gives every byte.
    pub async fn rest(&mut self, within: Duration) -> &[u8] {
        let patience = Instant::now() + within;
        while !self.ended && self.fill(patience).await {}
        &self.bytes
    }

    /// Whether the stream has ended: with its connection, or with the last chunk on one that goes on.
    pub fn has_ended(&self) -> bool {
        self.ended || !self.h2 && self.raw_body().ends_with(b"\r\n0\r\n\r\n")
    }

    /// What a reconnect sends.
    pub fn last_event_id(&self) -> String {
        let mut parser = Parser::default();
        parser.feed(self.body().as_bytes(), |_| {});
        parser.last_event_id().to_owned()
    }

    /// The head of an HTTP/1.1 answer.
    pub fn head(&self) -> String {
        let bytes = self.final_answer();
        let end = memchr::memmem::find(bytes, b"\r\n\r\n").unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// What came, without `100 Continue`.
    fn final_answer(&self) -> &[u8] {
        match memchr::memmem::find(&self.bytes, b"\r\n\r\n") {
            Some(end) if self.bytes.starts_with(b"HTTP/1.1 100 ") => &self.bytes[end + 4..],
            _ => &self.bytes,
        }
    }

    /// `false` when nothing came in time.
    async fn fill(&mut self, patience: Instant) -> bool {
        let Ok(read) = timeout_at(patience, self.io.read_buf(&mut self.bytes)).await else { return false };
        self.ended = !read.is_ok_and(|n| n > 0);
        true
    }

    fn read_so_far(&self) -> Option<Reply> {
        let (status, complete) = if self.h2 { h2::answer(&self.bytes)? } else { self.h1_answer()? };
        let body = self.body();
        if body.contains(CONNECTED) {
            return Some(Reply::Stream);
        }
        match status {
            None => Some(Reply::Closed),
            Some(status) if complete || self.ended => Some(Reply::Answer(status, body)),
            Some(_) => None,
        }
    }

    fn h1_answer(&self) -> Option<(Option<u16>, bool)> {
        memchr::memmem::find(self.final_answer(), b"\r\n\r\n")?;
        let head = self.head().to_ascii_lowercase();
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok())?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let complete = match length {
            Some(length) => self.raw_body().len() >= length,
            None if head.contains("transfer-encoding: chunked") => self.raw_body().ends_with(b"0\r\n\r\n"),
            None => status == 204,
        };
        Some((Some(status), complete))
    }

    fn raw_body(&self) -> &[u8] {
        let bytes = self.final_answer();
        memchr::memmem::find(bytes, b"\r\n\r\n").map_or(&[], |end| &bytes[end + 4..])
    }

    fn body(&self) -> String {
        let bytes = match self.h2 {
            true => h2::data(&self.bytes),
            false if self.head().to_ascii_lowercase().contains("transfer-encoding: chunked") => {
                unchunked(self.raw_body())
            }
            false => self.raw_body().to_vec(),
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The data of the chunks that are complete.
fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some(end) = memchr::memmem::find(bytes, b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(chunk) = size.and_then(|size| bytes.get(end + 2..end + 2 + size)) else { break };
        data.extend_from_slice(chunk);
        bytes = bytes.get(end + 2 + chunk.len() + 2..).unwrap_or_default();
    }
    data
}

//! A cheap client: one task, one socket. Resumes, checks that it gets exactly what it missed, and comes back when refused.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sidestream::sse::{Event, Parser};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// What follows what everybody missed.
pub const END: &str = "the end";
/// No client may wait longer than this for one event.
const PATIENCE: Duration = Duration::from_secs(240);

/// An open stream.
pub struct Stream {
    socket: TcpStream,
    bytes: Vec<u8>,
    parser: Parser,
    ready: VecDeque<Event>,
}

/// Who comes back, and with what it must be served.
pub struct Absent {
    pub index: usize,
    pub port: u16,
    pub cursor: String,
    /// Numbers of the messages it missed; a message's sequence is its number and one.
    pub missed: Vec<usize>,
}

/// A client has everything it missed.
pub struct CaughtUp {
    pub took: Duration,
    pub refused: u32,
}

impl Absent {
    /// Comes back at `at`; says when it has caught up; ends with the end marker.
    pub async fn resume(self, at: Instant, caught_up: mpsc::UnboundedSender<CaughtUp>) {
        tokio::time::sleep_until(at.into()).await;
        let (mut stream, refused) = Stream::open(self.index, self.port, Some(&self.cursor)).await;
        for number in &self.missed {
            let event = stream.next().await;
            assert_eq!(
                event.data.split(' ').next(),
                Some(number.to_string().as_str()),
                "client {}: {event:?}",
                self.index
            );
            assert_eq!(event.id.as_deref().and_then(seq_of), Some(*number as u64 + 1), "client {}", self.index);
        }
        let _ = caught_up.send(CaughtUp { took: at.elapsed(), refused });
        drop(caught_up);
        let event = stream.next().await;
        assert_eq!(event.data, END, "client {}: doubled, or a gap: {event:?}", self.index);
    }
}

/// The sequence in a cursor.
fn seq_of(cursor: &str) -> Option<u64> {
    u64::from_str_radix(cursor.split('.').nth(1)?, 36).ok()
}

impl Stream {
    /// Opens a stream and reads `sidestream.connected`; when refused softly, waits as long as it is told and comes back.
    pub async fn open(index: usize, port: u16, cursor: Option<&str>) -> (Self, u32) {
        let address = format!("10.{}.{}.{}", index >> 16, (index >> 8) & 255, index & 255);
        let resume = cursor.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!(
            "GET /mine HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\nX-Forwarded-User: u{index}\r\n\
             X-Forwarded-For: {address}\r\n{resume}\r\n"
        );
        let mut refused = 0;
        loop {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).await.expect("accepted");
            socket.write_all(request.as_bytes()).await.expect("written");
            let mut stream = Self { socket, bytes: Vec::new(), parser: Parser::default(), ready: VecDeque::new() };
            let Some(retry) = stream.head().await else {
                let connected = stream.next().await;
                assert_eq!(connected.name, "sidestream.connected");
                let wanted = if cursor.is_some() { "exact" } else { "new" };
                assert!(connected.data.contains(wanted), "client {index}: {connected:?}");
                return (stream, refused);
            };
            refused += 1;
            tokio::time::sleep(retry).await;
        }
    }

    /// The cursor to come back with.
    pub fn cursor(&self) -> String {
        self.parser.last_event_id().to_owned()
    }

    /// Reads the head of the answer; gives the time to wait when it is a soft refusal.
    async fn head(&mut self) -> Option<Duration> {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.bytes, b"\r\n\r\n") {
                break end + 4;
            }
            assert!(self.fill().await, "closed instead of an answer");
        };
        let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        self.bytes.drain(..end);
        if !head.contains("sidestream-refused: ") {
            return None;
        }
        while self.fill().await {}
        let body = String::from_utf8_lossy(&self.bytes);
        let retry = body.strip_prefix("retry: ").and_then(|rest| rest.trim_end().parse().ok());
        Some(Duration::from_millis(retry.unwrap_or_else(|| panic!("not one retry line: {body}"))))
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            self.take_chunks();
            if self.ready.is_empty() {
                assert!(self.fill().await, "the stream ended");
            }
        }
    }

    /// Parses the whole chunks that have come.
    fn take_chunks(&mut self) {
        let mut taken = 0;
        loop {
            let rest = &self.bytes[taken..];
            let Some(line) = memchr::memmem::find(rest, b"\r\n") else { break };
            let size = std::str::from_utf8(&rest[..line]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
            let size = size.expect("a chunk's size");
            if rest.len() < line + 2 + size + 2 {
                break;
            }
            self.parser.feed(&rest[line + 2..line + 2 + size], |event| self.ready.push_back(event));
            taken += line + 2 + size + 2;
        }
        self.bytes.drain(..taken);
    }

    async fn fill(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.bytes)).await;
        read.expect("an event in time").is_ok_and(|n| n > 0)
    }
}

//! The NATS protocol with as little work as possible: for the publisher, and for the floor that reads NATS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::Duration;

const BUFFER_BYTES: usize = 256 * 1024;
/// What is published between two acknowledgements; NATS queues ten thousand messages for a stream and drops the rest.
const WINDOW: usize = 500;
const INBOX: &str = "_INBOX.bench";
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to NATS.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    taken: usize,
    filled: usize,
    output: Vec<u8>,
}

/// A message.
pub struct Message<'a> {
    pub subject: &'a str,
    pub payload: &'a [u8],
}

impl Wire {
    /// Connects.
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("NATS accepts");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let mut wire = Self { stream, buffer: vec![0; BUFFER_BYTES], taken: 0, filled: 0, output: Vec::new() };
        wire.output.extend_from_slice(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n");
        wire.flush();
        wire
    }

    /// Hears a subject, once NATS has said so.
    pub fn subscribe(&mut self, subject: &str) {
        write!(self.output, "SUB {subject} 1\r\nPING\r\n").expect("memory");
        self.flush();
        while !matches!(self.input().1, Input::Pong) {}
    }

    /// Has messages stored by a stream, and waits until they are.
    pub fn store<'a>(&mut self, messages: impl IntoIterator<Item = (&'a str, Vec<u8>)>) {
        if self.stream.read_timeout().expect("a socket").is_none() {
            self.stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            self.subscribe(INBOX);
        }
        let mut messages = messages.into_iter().peekable();
        let mut put = 0;
        while let Some((subject, payload)) = messages.next() {
            put += 1;
            // The stream acknowledges in order: the last of a window speaks for all of it.
            let last = put % WINDOW == 0 || messages.peek().is_none();
            let reply = if last { INBOX } else { "" };
            self.put(subject, reply, &payload);
            if last {
                self.flush();
                let answer = self.next();
                assert!(
                    !answer.payload.windows(7).any(|part| part == b"\"error\""),
                    "not stored: {}",
                    answer.payload.escape_ascii()
                );
            }
        }
    }

    /// Has NATS keep what is published below a subject.
    pub fn create_stream(&mut self, name: &str, subjects: &str) {
        let api = format!("$JS.API.STREAM.CREATE.{name}");
        let config = serde_json::json!({ "name": name, "subjects": [subjects], "storage": "file" });
        self.store([(api.as_str(), config.to_string().into_bytes())]);
    }

    /// Publishes to whoever listens, without a stream; sent with the next `flush`.
    pub fn publish(&mut self, subject: &str, payload: &[u8]) {
        self.put(subject, "", payload);
    }

    /// Sends what was published.
    pub fn flush(&mut self) {
        self.stream.write_all(&self.output).expect("NATS reads");
        self.output.clear();
    }

    /// The next message; answers what NATS asks in between.
    pub fn next(&mut self) -> Message<'_> {
        let (start, subject, payload) = loop {
            match self.input() {
                (start, Input::Message { subject, payload }) => break (start, subject, payload),
                (_, Input::Ping) => self.stream.write_all(b"PONG\r\n").expect("NATS reads"),
                (_, Input::Fault) => panic!("NATS refuses something"),
                (_, Input::Pong | Input::Other) => {}
            }
        };
        let bytes = &self.buffer[start..];
        Message { subject: std::str::from_utf8(&bytes[subject]).expect("text"), payload: &bytes[payload] }
    }

    fn put(&mut self, subject: &str, reply: &str, payload: &[u8]) {
        write!(self.output, "PUB {subject} {reply} {}\r\n", payload.len()).expect("memory");
        self.output.extend_from_slice(payload);
        self.output.extend_from_slice(b"\r\n");
    }

    /// What comes next, and where in the buffer it begins.
    fn input(&mut self) -> (usize, Input) {
        loop {
            if let Some((input, bytes)) = parse(&self.buffer[self.taken..self.filled]) {
                let start = self.taken;
                self.taken += bytes;
                return (start, input);
            }
            self.buffer.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.taken = 0;
            let read = self.stream.read(&mut self.buffer[self.filled..]).expect("NATS writes in time");
            assert!(read > 0, "NATS closes, or sends more than the buffer holds");
            self.filled += read;
        }
    }
}

/// What NATS says; ranges count from where it begins.
enum Input {
    Message { subject: Range<usize>, payload: Range<usize> },
    Ping,
    Pong,
    Fault,
    Other,
}

/// What the bytes begin with, if it is there as a whole, and how many bytes it takes.
fn parse(bytes: &[u8]) -> Option<(Input, usize)> {
    let line = memchr::memchr(b'\n', bytes)? + 1;
    let input = match &bytes[..4.min(line)] {
        b"MSG " => {
            let size = bytes[..line].trim_ascii_end().rsplit(|byte| *byte == b' ').next();
            let size: usize = size.and_then(|size| std::str::from_utf8(size).ok()?.parse().ok()).expect("a size");
            let subject = 4..4 + memchr::memchr(b' ', &bytes[4..line]).expect("a subject");
            let end = line + size + 2;
            return (bytes.len() >= end).then_some((Input::Message { subject, payload: line..line + size }, end));
        }
        b"PING" => Input::Ping,
        b"PONG" => Input::Pong,
        b"-ERR" => Input::Fault,
        _ => Input::Other,
    };
    Some((input, line))
}

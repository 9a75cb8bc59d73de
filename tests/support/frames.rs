//! Raw HTTP/2 frames (RFC 9113 section 4), for peers that do what no client library lets them.

use tokio::io::{AsyncRead, AsyncReadExt as _};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags of `HEADERS`; the second also of `SETTINGS` and `PING`, the first also of `DATA`.
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const WITH_PRIORITY: u8 = 0x20;

/// A frame that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The next one; `None` at the end of the connection, however it came.
    pub async fn read(io: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        io.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Self { kind: head[3], flags: head[4], stream, payload })
    }

    /// Four bytes of the payload as a number: the error code of `RST_STREAM` at 0, of `GOAWAY` at 4.
    pub fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// A frame on the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The client's preface, with a window for each stream.
pub fn preface(window: u32) -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings(&[(4, window)])].concat()
}

/// A `SETTINGS` frame.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let pair = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &values.iter().flat_map(pair).collect::<Vec<u8>>())
}

/// A string without Huffman codes (RFC 7541 section 5.2), of at most 126 bytes.
fn text(text: &str) -> Vec<u8> {
    assert!(text.len() < 127, "{text}");
    [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat()
}

/// A field that is not indexed (RFC 7541 section 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [vec![0], text(name), text(value)].concat()
}

/// The header block of a GET of a user as an `EventSource` sends it.
pub fn block(path: &str, user: &str) -> Vec<u8> {
    let start = [vec![0x82, 0x86, 0x04], text(path), vec![0x01], text("app.example")].concat();
    [start, field("accept", "text/event-stream"), field("x-forwarded-user", user)].concat()
}

/// A whole GET.
pub fn ask(stream: u32, path: &str, user: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(path, user))
}

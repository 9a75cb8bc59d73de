//! A message becomes SSE bytes here, once, whatever the number of clients.
//!
//! A [`Frame`] is one complete HTTP/1.1 chunk (RFC 9112 section 7.1) holding one complete event (HTML standard, section
//! 9.2.5 "Parsing an event stream"), in one allocation with the only copy of the payload that is ever made. HTTP/2 uses the
//! slice inside the chunk framing. The events of our own (`sidestream.*`) are built in [`notice`].
//!
//! No input can break the framing: names are checked, lines are split on CR LF, LF and a lone CR, and text that is not
//! UTF-8 is refused rather than sent broken. Which clients hear a frame is not decided here.

pub mod held;
pub mod notice;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::config::Format;

/// Longest event name a publisher may choose, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// Event names with this prefix are ours.
pub const RESERVED_PREFIX: &str = "sidestream.";

/// Where the event name of a route comes from: `route.event`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EventNaming {
    /// The publisher's `Sse-Event` header, else `message`.
    Header,
    /// The subject.
    Subject,
    /// One token of the subject, counted from 1; `message` where the subject is shorter.
    Token(u8),
    /// Always this name.
    Fixed(Box<str>),
}

/// How a payload becomes text: `route.payload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payload {
    /// As it is; must be UTF-8.
    Text,
    /// Standard base64 with padding (RFC 4648 section 4); carries any bytes.
    Base64,
    /// `{"subject":…,"time":ms,"data":…}` on one line; `data` is the payload's JSON value, or a string if it is not JSON.
    Envelope,
}

/// A message on its way into a frame, still borrowed from the NATS client.
#[derive(Debug, Clone, Copy)]
pub struct Message<'m> {
    /// The subject on the wire: the only one that authorises.
    pub subject: &'m str,
    /// Value of the `Sse-Event` header, if any.
    pub name: Option<&'m str>,
    /// The payload.
    pub payload: &'m [u8],
    /// When it was stored or received, nanoseconds since 1970.
    pub time: u64,
}

/// The payload is not UTF-8 and the route wants text: a gap `undecodable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the payload is not UTF-8")]
pub struct Undecodable;

/// One event in its chunk. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Frame {
    wire: Bytes,
    /// Length of the chunk-size line, which precedes the event. At most [`CHUNK_HEAD_MAX`].
    head: u8,
}

/// An encoded frame, and whether the publisher's name had to be replaced by `message`.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The frame.
    pub frame: Frame,
    /// The name was empty, over [`NAME_BYTES_MAX`], reserved, or held a control character.
    pub name_replaced: bool,
}

/// The last chunk of a response (RFC 9112 section 7.1).
pub const EMPTY_CHUNK: &[u8] = b"0\r\n\r\n";
const CRLF: &[u8] = b"\r\n";
/// `ffffffff\r\n`: an event is bounded far below 4 GiB.
const CHUNK_HEAD_MAX: usize = 10;

impl Frame {
    /// Encodes a message. `id` is absent on subjects that no stream backs.
    pub fn encode(format: &Format, message: Message<'_>, id: Option<&str>) -> Result<Encoded, Undecodable> {
        let (name, name_replaced) = event_name(&format.naming, message);
        let frame = match format.payload {
            Payload::Text => {
                let text = std::str::from_utf8(message.payload).map_err(|_| Undecodable)?;
                Self::event(name, id, None, text)
            }
            Payload::Base64 => Self::event(name, id, None, &STANDARD.encode(message.payload)),
            Payload::Envelope => Self::event(name, id, None, &envelope(message)?),
        };
        Ok(Encoded { frame, name_replaced })
    }

    /// Builds one event. `name` and `id` must already be free of CR, LF and NUL, which every caller ensures by type or
    /// by [`checked_name`].
    pub(crate) fn event(name: Option<&str>, id: Option<&str>, retry: Option<u64>, data: &str) -> Self {
        let lines = 1 + memchr::memchr2_iter(b'\n', b'\r', data.as_bytes()).count();
        let fields = name.map_or(0, |n| n.len() + 8) + id.map_or(0, |i| i.len() + 5) + retry.map_or(0, |_| 28);
        let mut builder = ChunkBuilder::with_capacity(fields + data.len() + 7 * lines + 1);
        if let Some(name) = name {
            builder.field(b"event: ", name.as_bytes());
        }
        if let Some(retry) = retry {
            builder.field(b"retry: ", retry.to_string().as_bytes());
        }
        if let Some(id) = id {
            builder.field(b"id: ", id.as_bytes());
        }
        for line in Lines::new(data) {
            builder.field(b"data: ", line.as_bytes());
        }
        builder.raw(b"\n");
        builder.finish()
    }

    /// A comment line that no client shows: `:` and one LF, without the blank line that some clients take for a message.
    pub fn comment() -> Self {
        let mut builder = ChunkBuilder::with_capacity(2);
        builder.raw(b":\n");
        builder.finish()
    }

    /// The whole chunk, for HTTP/1.1.
    pub fn wire(&self) -> &Bytes {
        &self.wire
    }

    /// The event without chunk framing, for HTTP/2.
    pub fn body(&self) -> Bytes {
        self.wire.slice(usize::from(self.head)..self.wire.len() - CRLF.len())
    }
}

/// Writes an event behind room for its chunk-size line, so that nothing is moved when the size is known.
struct ChunkBuilder(Vec<u8>);

impl ChunkBuilder {
    fn with_capacity(event: usize) -> Self {
        let mut bytes = Vec::with_capacity(CHUNK_HEAD_MAX + event + CRLF.len());
        bytes.resize(CHUNK_HEAD_MAX, 0);
        Self(bytes)
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.raw(name);
        self.raw(value);
        self.raw(b"\n");
    }

    fn finish(mut self) -> Frame {
        let mut size = self.0.len() - CHUNK_HEAD_MAX;
        self.raw(CRLF);
        let mut start = CHUNK_HEAD_MAX - CRLF.len();
        self.0[start..CHUNK_HEAD_MAX].copy_from_slice(CRLF);
        loop {
            start -= 1;
            self.0[start] = HEX_DIGITS[size % 16];
            size /= 16;
            if size == 0 {
                break;
            }
        }
        let head = u8::try_from(CHUNK_HEAD_MAX - start).expect("at most CHUNK_HEAD_MAX");
        Frame { wire: held::share(self.0).slice(start..), head }
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The lines of a text by the event-stream grammar: CR LF, LF and a lone CR all end one. A text that ends with a line
/// end has an empty last line, so that the reader gets the line end back.
struct Lines<'t> {
    rest: Option<&'t str>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        Self { rest: Some(text) }
    }
}

impl<'t> Iterator for Lines<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let text = self.rest?;
        let Some(end) = memchr::memchr2(b'\n', b'\r', text.as_bytes()) else {
            self.rest = None;
            return Some(text);
        };
        let (line, tail) = text.split_at(end);
        self.rest = Some(tail.strip_prefix("\r\n").unwrap_or(&tail[1..]));
        Some(line)
    }
}

/// The name to write, `None` for `message`, and whether a publisher's choice was refused.
fn event_name<'n>(naming: &'n EventNaming, message: Message<'n>) -> (Option<&'n str>, bool) {
    let wanted = match naming {
        EventNaming::Header => message.name,
        EventNaming::Subject => Some(message.subject),
        EventNaming::Token(place) => message.subject.split('.').nth(usize::from(*place).saturating_sub(1)),
        EventNaming::Fixed(name) => Some(&**name),
    };
    match wanted {
        None => (None, false),
        Some(name) => match checked_name(name) {
            Some("message") => (None, false),
            Some(name) => (Some(name), false),
            None => (None, true),
        },
    }
}

/// A name that may stand in an `event:` line: 1 to [`NAME_BYTES_MAX`] bytes, no control characters, not one of ours.
pub fn checked_name(name: &str) -> Option<&str> {
    let fits = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with(RESERVED_PREFIX)
        && !name.chars().any(char::is_control);
    fits.then_some(name)
}

fn envelope(message: Message<'_>) -> Result<String, Undecodable> {
    let text = std::str::from_utf8(message.payload).map_err(|_| Undecodable)?;
    let subject = serde_json::Value::from(message.subject);
    let mut envelope = format!(r#"{{"subject":{subject},"time":{},"data":"#, message.time / 1_000_000);
    match serde_json::from_str::<&serde_json::value::RawValue>(text) {
        Ok(json) => push_on_one_line(&mut envelope, json.get()),
        Err(_) => envelope += &serde_json::Value::from(text).to_string(),
    }
    envelope.push('}');
    Ok(envelope)
}

/// The publisher's JSON may be spread over lines, ours is one line. Whitespace between tokens is one of four bytes, and line
/// ends cannot stand in strings (RFC 8259 sections 2 and 7); everything else stays as it is written.
fn push_on_one_line(out: &mut String, json: &str) {
    let (mut in_string, mut escaped) = (false, false);
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let mut begin = 0;
    for (at, byte) in json.bytes().enumerate() {
        if in_string {
            (in_string, escaped) = (byte != b'"' || escaped, byte == b'\\' && !escaped);
        } else if is_space(byte) {
            out.push_str(&json[begin..at]);
            begin = at + 1;
        } else {
            in_string = byte == b'"';
        }
    }
    out.push_str(&json[begin..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sse::Parser;

    fn format_of(naming: EventNaming, payload: Payload) -> Format {
        Format { naming, payload }
    }

    fn message<'m>(name: Option<&'m str>, payload: &'m [u8]) -> Message<'m> {
        Message { subject: "events.user.alice.note", name, payload, time: 1_700_000_000_123_456_789 }
    }

    fn text(naming: EventNaming, name: Option<&str>, payload: &str, id: Option<&str>) -> String {
        let encoded = Frame::encode(&format_of(naming, Payload::Text), message(name, payload.as_bytes()), id);
        String::from_utf8(encoded.expect("UTF-8").frame.body().to_vec()).expect("UTF-8")
    }

    #[test]
    fn a_frame_is_one_chunk_with_one_event() {
        let format = format_of(EventNaming::Header, Payload::Text);
        let frame = Frame::encode(&format, message(Some("note"), b"hello"), Some("e.1.2")).expect("UTF-8").frame;
        assert_eq!(&frame.wire()[..], b"23\r\nevent: note\nid: e.1.2\ndata: hello\n\n\r\n");
        assert_eq!(&frame.body()[..], b"event: note\nid: e.1.2\ndata: hello\n\n");
    }

    #[test]
    fn every_line_end_starts_a_data_line() {
        let cases = [
            ("", "data: \n\n"),
            ("a\nb", "data: a\ndata: b\n\n"),
            ("a\rb", "data: a\ndata: b\n\n"),
            ("a\r\nb", "data: a\ndata: b\n\n"),
            ("a\n\rb", "data: a\ndata: \ndata: b\n\n"),
            ("a\r\n", "data: a\ndata: \n\n"),
            ("\n", "data: \ndata: \n\n"),
            (" x", "data:  x\n\n"),
            ("\u{feff}x", "data: \u{feff}x\n\n"),
            ("a\0b", "data: a\0b\n\n"),
            ("a\u{2028}b\u{85}c\u{b}d", "data: a\u{2028}b\u{85}c\u{b}d\n\n"),
        ];
        for (payload, expected) in cases {
            assert_eq!(text(EventNaming::Header, None, payload, None), expected, "{payload:?}");
        }
    }

    #[test]
    fn names_a_publisher_may_not_use_become_message() {
        for bad in ["", "sidestream.gap", "a\nb", "a\rb", "a\0b", "\u{7f}", "\u{85}", &"x".repeat(257)] {
            let format = format_of(EventNaming::Header, Payload::Text);
            let encoded = Frame::encode(&format, message(Some(bad), b"x"), None).expect("UTF-8");
            assert!(encoded.name_replaced, "{bad:?}");
            assert_eq!(&encoded.frame.body()[..], b"data: x\n\n");
        }
        assert_eq!(text(EventNaming::Header, Some("message"), "x", None), "data: x\n\n");
        assert_eq!(text(EventNaming::Subject, None, "x", None), "event: events.user.alice.note\ndata: x\n\n");
        assert_eq!(text(EventNaming::Token(4), Some("no"), "x", None), "event: note\ndata: x\n\n");
        assert_eq!(text(EventNaming::Token(5), None, "x", None), "data: x\n\n");
        assert_eq!(text(EventNaming::Fixed("up".into()), None, "x", None), "event: up\ndata: x\n\n");
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_and_base64_carries_it() {
        for bytes in [&[0xff, 0xfe][..], &[0xed, 0xa0, 0x80], &[0xe2, 0x82]] {
            let refused = Frame::encode(&format_of(EventNaming::Header, Payload::Text), message(None, bytes), None);
            assert_eq!(refused.map(|_| ()), Err(Undecodable));
            assert!(
                Frame::encode(&format_of(EventNaming::Header, Payload::Base64), message(None, bytes), None).is_ok()
            );
        }
    }

    #[test]
    fn an_envelope_is_one_line() {
        let format = format_of(EventNaming::Header, Payload::Envelope);
        let body = |payload| Frame::encode(&format, message(None, payload), None).expect("UTF-8").frame.body();
        assert_eq!(
            &body(b"{\n \"a\": 1}")[..],
            br#"data: {"subject":"events.user.alice.note","time":1700000000123,"data":{"a":1}}
"#
            .iter()
            .chain(b"\n")
            .copied()
            .collect::<Vec<u8>>()
        );
        assert!(body(b"two\nlines").ends_with(b"\"data\":\"two\\nlines\"}\n\n"));
    }

    #[test]
    fn json_keeps_its_digits_its_order_and_its_strings() {
        let one_line = |json| {
            let mut out = String::new();
            push_on_one_line(&mut out, json);
            out
        };
        let json = "[ 1.50,\r\n\t-0e+5 , { \"b\" : \" \\\\\" , \"a\\\" \" :null } , \"\u{e9}  \\u0041\" ]";
        assert_eq!(one_line(json), "[1.50,-0e+5,{\"b\":\" \\\\\",\"a\\\" \":null},\"\u{e9}  \\u0041\"]");
        let value = serde_json::json!({"text": "a \" b \\ \n ", "list": [[], {}, " ", {"\\": 1}], "": 2});
        let pretty = serde_json::to_string_pretty(&value).expect("JSON");
        assert_eq!(one_line(&pretty), value.to_string());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn a_reader_gets_back_what_was_published(
            payload in "(\\PC|[\r\n\0 :]|data|\u{feff}){0,40}",
            name in proptest::option::of("(\\PC|[\r\n\0]){0,12}"),
            step in 1usize..9,
        ) {
            let format = format_of(EventNaming::Header, Payload::Text);
            let encoded = Frame::encode(&format, message(name.as_deref(), payload.as_bytes()), Some("e.1.1")).expect("UTF-8");
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for piece in encoded.frame.body().chunks(step) {
                parser.feed(piece, |event| events.push(event));
            }
            prop_assert_eq!(events.len(), 1);
            prop_assert_eq!(&events[0].data, &payload.replace("\r\n", "\n").replace('\r', "\n"));
            prop_assert_eq!(events[0].id.as_deref(), Some("e.1.1"));
            let expected = name.as_deref().and_then(checked_name).unwrap_or("message");
            prop_assert_eq!(&events[0].name, expected);
        }
    }
}

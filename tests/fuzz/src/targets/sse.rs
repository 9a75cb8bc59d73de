//! F4 and F8: a NATS message, with the headers a publisher gave it, into the bytes of one event.
//!
//! The bytes are read by a second reading of the HTML standard, whole, and by the program's own reader, in pieces of any size.
//! The input is bytes that choose the format, the pieces and what kind of message it is, then texts.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sidestream::config::Format;
use sidestream::cursor::{Cursor, Epoch, Position};
use sidestream::event::Frames;
use sidestream::feed::api::StoredMessage;
use sidestream::feed::encode::Encoder;
use sidestream::frame::{EventNaming, Frame, Message, Payload};
use sidestream::sse::Parser;

use crate::input::Input;
use crate::oracle::event_stream::{self, Event, Reading};
use crate::oracle::json::Json;

const SUBJECT: &str = "events.user.alice.note";
const EVENT_BYTES_MAX: usize = 4096;
const TIME: u64 = 1_700_000_000_123_456_789;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let piece = 1 + usize::from(input.byte());
    let format = format(&mut input);
    match input.below(3) {
        0 => drop(readers_agree(input.rest(), piece)),
        1 => named_in_text(&mut input, &format, piece),
        _ => named_in_headers(&mut input, &format, piece),
    }
}

fn format(input: &mut Input<'_>) -> Format {
    let choice = input.byte();
    let naming = match choice % 4 {
        0 => EventNaming::Header,
        1 => EventNaming::Subject,
        2 => EventNaming::Token(choice / 16),
        _ => EventNaming::Fixed("fixed".into()),
    };
    let payload = [Payload::Text, Payload::Base64, Payload::Envelope, Payload::Text][usize::from(choice / 4 % 4)];
    Format { naming, payload }
}

/// Any bytes at all: both readers make the same of them.
fn readers_agree(stream: &[u8], piece: usize) -> Reading {
    let reading = event_stream::read(stream);
    let mut parser = Parser::default();
    let mut events = Vec::new();
    for piece in stream.chunks(piece) {
        parser.feed(piece, |event| events.push(Event { name: event.name, data: event.data, own_id: event.id }));
    }
    assert_eq!(events, reading.events, "{}", stream.escape_ascii());
    assert_eq!(parser.last_event_id(), reading.last_event_id);
    assert_eq!(parser.retry(), reading.retry);
    reading
}

fn cursor() -> Cursor {
    Cursor { epoch: Epoch::of("S", "t"), at: Position { seq: 7, time: TIME } }
}

fn named_in_text(input: &mut Input<'_>, format: &Format, piece: usize) {
    let length = usize::from(input.byte()) + usize::from(input.byte());
    let name = std::str::from_utf8(input.take(length)).ok();
    let with_id = input.below(2) == 0;
    let payload = input.rest();
    let id = with_id.then(|| cursor().to_string());
    let message = Message { subject: SUBJECT, name, payload, time: TIME };
    let encoded = Frame::encode(format, message, id.as_deref());
    let Some(data) = data(format, SUBJECT, payload) else {
        assert!(encoded.is_err(), "what is no text was sent as one");
        return;
    };
    let encoded = encoded.expect("text");
    let (name, replaced) = expected_name(format, SUBJECT, name);
    assert_eq!(encoded.name_replaced, replaced, "{name:?}");
    check(&encoded.frame, &name, &data, id.as_deref(), piece);
}

/// As the history of a stream gives it: the header block as its publisher sent it, and a subject.
fn named_in_headers(input: &mut Input<'_>, format: &Format, piece: usize) {
    let subject_length = input.byte();
    let subject = String::from_utf8_lossy(input.take(subject_length.into())).into_owned();
    if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        // No server takes those.
        return;
    }
    let length = usize::from(input.byte()) * 4;
    let headers = input.take(length).to_vec();
    let payload = input.rest();
    let encoder = Encoder {
        formats: vec![format.clone()],
        used: vec![0],
        event_bytes_max: EVENT_BYTES_MAX,
        stream: Some("S".to_owned()),
        metrics: Arc::default(),
    };
    let name = header(&headers);
    let message = StoredMessage {
        subject: subject.clone(),
        subject_is_utf8: true,
        seq: 7,
        payload: payload.to_vec(),
        headers,
        time: TIME,
    };
    let event = encoder.stored(&message, cursor());
    assert_eq!((&*event.subject, event.at), (subject.as_str(), cursor().at));
    let Frames::Shared(frame) = &event.frames else { panic!("one format, one frame") };
    let id = cursor().to_string();
    match data(format, &subject, payload).filter(|_| payload.len() <= EVENT_BYTES_MAX) {
        Some(data) => {
            let (name, _) = expected_name(format, &subject, name.as_deref());
            check(frame, &name, &data, Some(&id), piece);
        }
        None => {
            let reason = if payload.len() > EVENT_BYTES_MAX { "oversize" } else { "undecodable" };
            let data = format!(r#"{{"stream":"S","after":6,"next":8,"reason":"{reason}"}}"#);
            check(frame, "sidestream.gap", &data, Some(&id), piece);
        }
    }
}

/// The first `Sse-Event` of a header block, where it is text.
fn header(block: &[u8]) -> Option<String> {
    for line in block.split(|byte| *byte == b'\n') {
        if let Some(value) = line.strip_prefix(b"Sse-Event:") {
            return String::from_utf8(value.trim_ascii().to_vec()).ok();
        }
    }
    None
}

/// The name that stands on the event, and whether the one that was wanted could not.
fn expected_name(format: &Format, subject: &str, header: Option<&str>) -> (String, bool) {
    let tokens: Vec<&str> = subject.split('.').collect();
    let wanted = match &format.naming {
        EventNaming::Header => header,
        EventNaming::Subject => Some(subject),
        EventNaming::Token(0) => tokens.first().copied(),
        EventNaming::Token(place) => tokens.get(usize::from(*place) - 1).copied(),
        EventNaming::Fixed(name) => Some(&**name),
    };
    let Some(wanted) = wanted else { return ("message".to_owned(), false) };
    let is_bad = |c: char| matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}');
    let good = (1..=256).contains(&wanted.len())
        && wanted.strip_prefix("sidestream.").is_none()
        && !wanted.chars().any(is_bad);
    if good { (wanted.to_owned(), false) } else { ("message".to_owned(), true) }
}

/// What a reader is to get back; `None` where it cannot be sent.
fn data(format: &Format, subject: &str, payload: &[u8]) -> Option<String> {
    let text = || String::from_utf8(payload.to_vec()).ok();
    match format.payload {
        Payload::Text => Some(text()?.replace("\r\n", "\n").replace('\r', "\n")),
        Payload::Base64 => Some(STANDARD.encode(payload)),
        Payload::Envelope => {
            let text = text()?;
            // It is read by its parts, see `envelope`.
            let subject = serde_json::Value::from(subject);
            Some(format!(r#"{{"subject":{subject},"time":1700000000123,"data":{text}"#))
        }
    }
}

fn check(frame: &Frame, name: &str, data: &str, id: Option<&str>, piece: usize) {
    let body = frame.body();
    // One chunk (RFC 9112 section 7.1), and nothing else.
    let wire = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat();
    assert_eq!(frame.wire(), &wire);
    assert!(std::str::from_utf8(&body).is_ok() && !body.contains(&b'\r'));
    // In a stream, between others of its kind.
    let stream = [&body[..], &body, b"data: unfinished"].concat();
    let reading = readers_agree(&stream, piece);
    assert_eq!(reading.events.len(), 2, "{}", body.escape_ascii());
    assert_eq!(reading.last_event_id, id.unwrap_or_default());
    for event in &reading.events {
        assert_eq!((event.name.as_str(), event.own_id.as_deref()), (name, id));
        if data.starts_with(r#"{"subject":"#) && event.data != data {
            envelope(&event.data, data);
        } else {
            assert_eq!(event.data, data);
        }
    }
}

/// An envelope whose `data` is the payload's JSON value, or the payload as a string.
fn envelope(got: &str, wanted: &str) {
    let (head, payload) = wanted.split_once(r#","time":1700000000123,"data":"#).expect("written above");
    assert!(got.starts_with(head) && !got.contains(['\n', '\r']), "{got:?}");
    let Some(Json::Object(members)) = Json::parse(got) else { panic!("no object: {got:?}") };
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["subject", "time", "data"]);
    let data = &members[2].1;
    // What is so deep that serde_json does not read it may stand there as a string.
    let as_text = Json::Text(payload.to_owned());
    match Json::parse(payload) {
        Some(json) => assert!(*data == json || (json.depth() > 100 && *data == as_text), "{payload:?}"),
        None => assert_eq!(*data, as_text),
    }
}

//! NATS messages into events: the one place where a payload is copied.
//!
//! What cannot be sent becomes the gap that says so, in its place and with its id, so that only those who might have heard
//! it are told.

use std::convert::Infallible;
use std::sync::Arc;

use super::api::StoredMessage;
use crate::config::Format;
use crate::cursor::{Cursor, CursorText, Position};
use crate::event::{Cause, Event, Frames, Hole};
use crate::frame::notice::{self, Gap, GapReason};
use crate::frame::{Frame, Message};
use crate::telemetry::metrics::FeedMetrics;

/// Header by which a publisher names the event.
pub const NAME_HEADER: &str = "Sse-Event";

/// Builds the frames of one source's messages.
#[derive(Debug, Clone)]
pub struct Encoder {
    /// All formats of the route table.
    pub formats: Vec<Format>,
    /// Those that listeners of this source use, as indexes.
    pub used: Vec<u8>,
    /// Largest payload.
    pub event_bytes_max: usize,
    /// The stream's name, for gaps; absent for core subjects.
    pub stream: Option<String>,
    /// What is counted.
    pub metrics: Arc<FeedMetrics>,
}

impl Encoder {
    /// The same for messages that are read again: what is wrong with them has been counted.
    pub fn uncounted(&self) -> Self {
        Self { metrics: Arc::default(), ..self.clone() }
    }

    /// Turns a message into an event. `id` is its cursor on a stream.
    pub fn event(&self, message: Message<'_>, id: Option<Cursor>) -> Event {
        let id_text = id.map(|cursor| cursor.text());
        let encode = |format: u8| -> Result<Frame, Infallible> {
            Ok(self
                .frame(format, message, id_text.as_ref().map(CursorText::as_str))
                .unwrap_or_else(|reason| self.gap(reason, id)))
        };
        let Ok(frames) = Frames::build(&self.used, encode);
        Event { at: id.map_or(Position::START, |c| c.at), subject: message.subject.into(), frames }
    }

    fn frame(&self, format_index: u8, message: Message<'_>, id: Option<&str>) -> Result<Frame, GapReason> {
        if message.payload.len() > self.event_bytes_max {
            return Err(GapReason::Oversize);
        }
        let format = &self.formats[usize::from(format_index)];
        let encoded = Frame::encode(format, message, id).map_err(|_| GapReason::Undecodable)?;
        // Counted once per message, not once per format.
        if encoded.name_replaced && self.used.first() == Some(&format_index) {
            self.metrics.names_replaced.add(1);
        }
        Ok(encoded.frame)
    }

    /// A message that was read as raw JSON. A subject that is not UTF-8 matches no literal token of a grant but one
    /// with U+FFFD in it, and its wildcards: those are told.
    pub fn stored(&self, message: &StoredMessage, id: Cursor) -> Event {
        let subject = message.subject.as_str();
        if !message.subject_is_utf8 {
            let frame = self.gap(GapReason::Undecodable, Some(id));
            return Event { at: id.at, subject: subject.into(), frames: Frames::Shared(frame) };
        }
        let name = header_value(&message.headers, NAME_HEADER);
        let message = Message { subject, name: name.as_deref(), payload: &message.payload, time: message.time };
        self.event(message, Some(id))
    }

    /// The hole that removed messages leave: everything behind `after` up to `id`. Concerns everyone, as nobody can say
    /// whose they were.
    pub fn removed(&self, after: Position, id: Cursor, cause: Cause) -> Arc<Event> {
        let reason = cause.reason(after.time);
        self.metrics.gap(reason);
        let gap = Gap { after: Some(after.seq), next: Some(id.at.seq + 1), reason };
        let frame = notice::gap(self.stream.as_deref(), gap, Some(id));
        Arc::new(Event {
            at: id.at,
            subject: Box::default(),
            frames: Frames::Hole(Box::new(Hole { after, cause, frame })),
        })
    }

    /// The gap that stands in for one message.
    pub fn gap(&self, reason: GapReason, id: Option<Cursor>) -> Frame {
        self.metrics.gap(reason);
        let after = id.map(|c| c.at.seq.saturating_sub(1));
        let next = id.map(|c| c.at.seq + 1);
        notice::gap(self.stream.as_deref(), Gap { after, next, reason }, id)
    }
}

/// One header out of a raw NATS header block, where its value is text.
fn header_value(block: &[u8], name: &str) -> Option<String> {
    block.split(|b| *b == b'\n').find_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        let (key, value) = line.split_at(colon);
        if key != name.as_bytes() {
            return None;
        }
        std::str::from_utf8(value[1..].trim_ascii()).ok().map(str::to_owned)
    })
}

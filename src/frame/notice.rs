//! The events of our own: `sidestream.*`, all with JSON data on one line.
//!
//! Names and fields are the contract (`docs/wire-format.md`). On a stream-backed route each carries an `id:`, because
//! some clients forget their place after an event without one.

use std::time::Duration;

use serde_json::json;

use super::Frame;
use crate::cursor::Cursor;

/// How a stream was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resume {
    /// Without a cursor.
    New,
    /// Everything after the cursor follows.
    Exact,
    /// A `sidestream.gap` follows.
    Gap,
}

impl Resume {
    /// The word on the wire and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Exact => "exact",
            Self::Gap => "gap",
        }
    }
}

/// Why events are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The stream's limits removed them, or may have.
    Retention,
    /// Someone purged the stream or deleted them.
    Purged,
    /// Another stream under the same name, or a store rolled back.
    Reset,
    /// The client's cursor is none of ours.
    CursorUnknown,
    /// More than one resume may replay.
    ReplayLimit,
    /// Larger than `limits.event_bytes`.
    Oversize,
    /// Not UTF-8 on a text route, or a message the NATS client cannot read.
    Undecodable,
    /// Core NATS subjects during an outage.
    Upstream,
}

impl GapReason {
    /// Every reason, for metrics.
    pub const ALL: [Self; 8] = [
        Self::Retention,
        Self::Purged,
        Self::Reset,
        Self::CursorUnknown,
        Self::ReplayLimit,
        Self::Oversize,
        Self::Undecodable,
        Self::Upstream,
    ];

    /// The word on the wire and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Purged => "purged",
            Self::Reset => "reset",
            Self::CursorUnknown => "cursor_unknown",
            Self::ReplayLimit => "replay_limit",
            Self::Oversize => "oversize",
            Self::Undecodable => "undecodable",
            Self::Upstream => "upstream",
        }
    }
}

/// A declared hole: events in the open interval between two sequences are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last sequence before the hole, where it is known.
    pub after: Option<u64>,
    /// The first sequence that can follow, where it is known.
    pub next: Option<u64>,
    /// Why.
    pub reason: GapReason,
}

/// Why we ended a stream; the code of `sidestream.bye`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ByeCode {
    /// The process is shutting down.
    Drain,
    /// `server.max_age`.
    Age,
    /// The identity's expiry.
    Expired,
    /// Somebody asked for it.
    Kicked,
    /// The reader was too slow, and yet it can be told.
    Slow,
    /// A limit was lowered.
    Limit,
}

impl ByeCode {
    /// The word on the wire and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Age => "age",
            Self::Expired => "expired",
            Self::Kicked => "kicked",
            Self::Slow => "slow",
            Self::Limit => "limit",
        }
    }
}

/// The first event of every stream.
pub fn connected(connection: &str, resume: Resume, heartbeat: Duration, retry: u64, id: Option<&str>) -> Frame {
    let data = json!({"connection": connection, "resume": resume.label(), "heartbeat": heartbeat.as_secs()});
    Frame::event(Some("sidestream.connected"), id, Some(retry), &data.to_string())
}

/// Carries the cursor of the head, so that a quiet client's cursor stays fresh. `time` is milliseconds since 1970.
pub fn heartbeat(time: u64, id: Option<Cursor>) -> Frame {
    ours("sidestream.heartbeat", id, &json!({ "time": time }))
}

/// Declares a hole. `stream` is absent for core subjects; `id` is the place to go on from.
pub fn gap(stream: Option<&str>, gap: Gap, id: Option<Cursor>) -> Frame {
    let data = json!({"stream": stream, "after": gap.after, "next": gap.next, "reason": gap.reason.label()});
    ours("sidestream.gap", id, &data)
}

/// NATS is lost.
pub fn degraded(id: Option<Cursor>) -> Frame {
    ours("sidestream.degraded", id, &json!({}))
}

/// NATS is back.
pub fn recovered(id: Option<Cursor>) -> Frame {
    ours("sidestream.ok", id, &json!({}))
}

/// The last message of each subject has been sent, up to `id`.
pub fn synced(id: Option<Cursor>) -> Frame {
    ours("sidestream.synced", id, &json!({}))
}

/// The last event of a stream that we end. `reconnect` is milliseconds, also sent as `retry:`.
pub fn bye(code: ByeCode, reconnect: u64, id: Option<Cursor>) -> Frame {
    let data = json!({"code": code.label(), "reconnect": reconnect});
    let id = id.map(|cursor| cursor.to_string());
    Frame::event(Some("sidestream.bye"), id.as_deref(), Some(reconnect), &data.to_string())
}

fn ours(name: &str, id: Option<Cursor>, data: &serde_json::Value) -> Frame {
    let id = id.map(|cursor| cursor.to_string());
    Frame::event(Some(name), id.as_deref(), None, &data.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connected_is_the_contract_to_the_byte() {
        let frame = connected("0198", Resume::New, Duration::from_secs(15), 2371, Some("a.1.b"));
        let expected = "event: sidestream.connected\nretry: 2371\nid: a.1.b\n\
                        data: {\"connection\":\"0198\",\"resume\":\"new\",\"heartbeat\":15}\n\n";
        assert_eq!(std::str::from_utf8(&frame.body()), Ok(expected));
    }
}

//! What the reader prints: one line per event, for people or for programs.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::cursor::LastEventId;
use crate::frame::RESERVED_PREFIX;
use crate::sse::Event;
use crate::text::printable;

/// Writes events and, for people, what happens between them.
pub(super) struct Printer<'o, W> {
    out: &'o mut W,
    json: bool,
}

impl<'o, W: Write> Printer<'o, W> {
    pub(super) fn new(out: &'o mut W, json: bool) -> Self {
        Self { out, json }
    }

    /// One line per event, flushed: whoever reads us wants it now.
    pub(super) fn event(&mut self, event: &Event) -> io::Result<()> {
        let lag = lag_ms(event, now_ns());
        let line = if self.json { json_line(event, lag) } else { text_line(event, lag) };
        self.line(&line)
    }

    /// Something that happened to the connection. Programs read events only.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { self.line(&format!("-- {}", printable(text))) }
    }

    pub(super) fn reconnecting(&mut self, delay: Duration) -> io::Result<()> {
        self.note(&format!("reconnecting in {:.1} s", delay.as_secs_f64()))
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "{line}")?;
        self.out.flush()
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds from when the message was stored, by the time part of its cursor. Negative where the clocks differ. Our own
/// events have none: their cursor is the position they stand at, not a message they carry.
pub(super) fn lag_ms(event: &Event, now: u64) -> Option<i64> {
    if event.name.starts_with(RESERVED_PREFIX) {
        return None;
    }
    let LastEventId::Cursor(cursor) = LastEventId::parse(event.id.as_deref()?.as_bytes()).ok()? else { return None };
    let stored = Some(cursor.at.time).filter(|time| *time != 0)?;
    let difference = (i128::from(now) - i128::from(stored)) / 1_000_000;
    i64::try_from(difference).ok()
}

pub(super) fn json_line(event: &Event, lag: Option<i64>) -> String {
    json!({"event": event.name, "id": event.id, "data": event.data, "lag_ms": lag}).to_string()
}

pub(super) fn text_line(event: &Event, lag: Option<i64>) -> String {
    if let Some(kind) = event.name.strip_prefix(RESERVED_PREFIX) {
        return notice_line(kind, event);
    }
    let mut line = printable(&event.name);
    if let Some(id) = &event.id {
        line.push_str("  ");
        line.push_str(&printable(id));
    }
    if let Some(lag) = lag {
        line.push_str(&format!("  {lag:+} ms"));
    }
    line.push_str("  ");
    line.push_str(&printable(&event.data));
    line
}

/// Our own events in words. A gap stands out: it is the one line that must not be overlooked.
fn notice_line(kind: &str, event: &Event) -> String {
    let data: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
    let text = |key: &str| data.get(key).and_then(Value::as_str).map(printable);
    match kind {
        "connected" => {
            let resume = match text("resume").as_deref() {
                Some("new") => "from the head on",
                Some("exact") => "resumed exactly",
                Some("gap") => "resumed, with a gap",
                _ => "resume unknown",
            };
            format!("-- connected, {resume} ({})", text("connection").unwrap_or_default())
        }
        "gap" => gap_line(&data, text("reason"), text("stream")),
        "heartbeat" => "-- heartbeat".to_owned(),
        "degraded" => "!! DEGRADED: the server has lost NATS; events are late, not lost".to_owned(),
        "ok" => "-- ok: NATS is back".to_owned(),
        "synced" => "-- synced: the last values are complete".to_owned(),
        "bye" => {
            let reconnect = data.get("reconnect").and_then(Value::as_u64).unwrap_or_default();
            let code = text("code").unwrap_or_else(|| "no reason given".to_owned());
            format!("-- bye ({code}), asked to come back after {reconnect} ms")
        }
        _ => format!("-- {}  {}", printable(kind), printable(&event.data)),
    }
}

fn gap_line(data: &Value, reason: Option<String>, stream: Option<String>) -> String {
    let sequence = |key: &str| data.get(key).and_then(Value::as_u64).map_or_else(|| "?".to_owned(), |n| n.to_string());
    let of = stream.map(|name| format!(" of {name}")).unwrap_or_default();
    let reason = reason.unwrap_or_else(|| "no reason given".to_owned());
    format!("!! GAP ({reason}): events are missing between {} and {}{of}", sequence("after"), sequence("next"))
}

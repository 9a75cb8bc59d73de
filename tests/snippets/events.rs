//! Blocks that are event streams: read by the parser, in the form of docs/wire-format.md, with ids and data that can occur.

use serde_json::Value;
use sidestream::cursor::LastEventId;
use sidestream::sse::{Event, Parser};

/// The lines of an event of ours or others', in their order.
const FIELDS: [&str; 4] = ["event", "retry", "id", "data"];
const REASONS: [&str; 8] =
    ["retention", "purged", "reset", "cursor_unknown", "replay_limit", "oversize", "undecodable", "upstream"];
const CODES: [&str; 6] = ["drain", "age", "expired", "kicked", "slow", "limit"];

pub fn judge(text: &str) -> Result<(), String> {
    let mut events = Vec::new();
    Parser::default().feed(text.as_bytes(), |event| events.push(event));
    let blocks = text.split("\n\n").filter(|block| !block.is_empty()).count();
    if events.is_empty() || events.len() != blocks || !text.ends_with("\n\n") {
        return Err("is neither listed in tests/snippets/listed.rs nor an event stream of whole events".to_owned());
    }
    text.split("\n\n").try_for_each(in_order)?;
    events.iter().try_for_each(can_occur)
}

fn in_order(event: &str) -> Result<(), String> {
    let place = |line: &str| {
        let (name, _) = line.split_once(": ").ok_or(format!("not a field: {line:?}"))?;
        FIELDS.iter().position(|field| *field == name).ok_or(format!("not a field of ours: {line:?}"))
    };
    let places: Vec<usize> = event.lines().map(place).collect::<Result<_, String>>()?;
    if places.is_sorted() { Ok(()) } else { Err(format!("not in the order {FIELDS:?}:\n{event}")) }
}

fn can_occur(event: &Event) -> Result<(), String> {
    if let Some(id) = &event.id
        && !matches!(LastEventId::parse(id.as_bytes()), Ok(LastEventId::Cursor(_)))
    {
        return Err(format!("not a cursor: {id:?}"));
    }
    let Some(name) = event.name.strip_prefix("sidestream.") else { return Ok(()) };
    let data: Value = serde_json::from_str(&event.data).map_err(|error| format!("{name}: {error}"))?;
    let keys: Vec<&str> = data.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    let is_one_of = |key: &str, words: &[&str]| data[key].as_str().is_some_and(|word| words.contains(&word));
    let is_right = match (name, keys.as_slice()) {
        ("connected", ["connection", "resume", "heartbeat"]) => is_one_of("resume", &["new", "exact", "gap"]),
        ("gap", ["stream", "after", "next", "reason"]) => is_one_of("reason", &REASONS),
        ("bye", ["code", "reconnect"]) => is_one_of("code", &CODES),
        ("heartbeat", ["time"]) | ("degraded" | "ok" | "synced", []) => true,
        _ => false,
    };
    if is_right { Ok(()) } else { Err(format!("not an event of ours: {event:?}")) }
}

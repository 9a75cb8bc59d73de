//! Messages that careless or hostile services publish, and what a browser sees of each: on a route for text, one for base64
//! and one for envelopes, at the same time.
//!
//! All messages of a table are published in one go by bare protocol bytes, as no client library would send most of them; a
//! marker behind each tells what belongs to it. Every event has an id, and ids rise.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::run::{every_row, nothing_wrong, same};
use crate::support::nats::Setup;
use crate::support::{App, Config, Event, Nats, Sse, Version, bounded, get, json, seq_of};
use crate::table::{Row, Table, unescape};

const ROUTES: &str = r#"
[[route]]
path = "/base64"
stream = "EVENTS"
subjects = ["events.user.{user}.>", "events.broadcast.>"]
payload = "base64"

[[route]]
path = "/envelope"
stream = "EVENTS"
subjects = ["events.user.{user}.>", "events.broadcast.>"]
payload = "envelope"

[[route]]
path = "/live"
live_subjects = ["live.{user}.>"]
"#;

/// So large that a message over `limits.event_bytes` gets through.
const SERVER: &str = "max_payload: 8MB";
/// The most that a message which ends the connection may hold up the next ones.
const HEAL: Duration = Duration::from_secs(30);

macro_rules! table {
    ($name:literal, $inputs:literal, $answers:literal) => {
        Table::read(concat!("messages/", $name), include_str!(concat!("messages/", $name, ".txt")), $inputs, $answers)
    };
}

fn stored() -> Table {
    table!("stored", 4, 3)
}

fn poison() -> Table {
    table!("poison", 4, 3)
}

fn core() -> Table {
    table!("core", 4, 1)
}

/// All.
pub fn tables() -> Vec<Table> {
    vec![stored(), poison(), core()]
}

#[tokio::test]
async fn messages_of_a_stream() {
    bounded(on_both(stored)).await;
}

#[tokio::test]
async fn messages_that_end_the_connection_which_reads_them() {
    bounded(on_both(poison)).await;
}

#[tokio::test]
async fn messages_outside_any_stream() {
    bounded(async {
        let (nats, app) = place(Version::Current).await;
        let table = core();
        let mut live = app.stream(get("/live").user("alice")).await;
        nats.send_raw(&protocol(&table, "live.alice.marker")).await;
        let heard = heard(&mut live, &table).await;
        assert!(heard.iter().flatten().all(|event| event.id.is_none()), "{heard:?}");
        let check = async |row: &Row| same(&wanted(row.answer(0)), &seen(&heard[place_of(&table, row)]));
        nothing_wrong(&every_row(&table, 1, check).await);
        unharmed(&app).await;
    })
    .await;
}

async fn on_both(table: fn() -> Table) {
    let on = |version| Box::pin(from_a_stream(version, table()));
    tokio::join!(on(Version::Current), on(Version::Debian));
}

async fn place(version: Version) -> (Nats, App) {
    let nats = Nats::start_as(version, Setup { config: Some(SERVER.to_owned()), ..Setup::default() }).await;
    nats.events().await;
    let app = App::start(&Config::on(&nats).tables(ROUTES)).await;
    (nats, app)
}

async fn from_a_stream(version: Version, mut table: Table) {
    let other = if version == Version::Current { "2.9" } else { "2.15" };
    table.rows.retain(|row| row.input(0) != other);
    let (nats, app) = place(version).await;
    let mut clients = Vec::new();
    for path in ["/events", "/base64", "/envelope"] {
        clients.push(app.stream(get(path).user("alice")).await);
    }
    let [text, base64, envelope] = &mut clients[..] else { unreachable!("three were opened") };
    nats.send_raw(&protocol(&table, "events.broadcast.marker")).await;
    let (text, base64, envelope) = tokio::join!(heard(text, &table), heard(base64, &table), heard(envelope, &table));
    let check = async |row: &Row| {
        let place = place_of(&table, row);
        let of = |what: &'static str| move |wrong| format!("from {version:?} as {what} {wrong}");
        same(&wanted(row.answer(0)), &seen(&text[place])).map_err(of("text"))?;
        same(&as_base64(row), &seen(&base64[place])).map_err(of("base64"))?;
        as_envelope(row, &envelope[place]).map_err(of("an envelope"))
    };
    nothing_wrong(&every_row(&table, 1, check).await);
    for events in [&text, &base64, &envelope] {
        let ids: Vec<u64> = events.iter().flatten().map(|event| seq_of(event.id.as_deref().expect("an id"))).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "ids that do not rise: {ids:?}");
    }
    unharmed(&app).await;
}

async fn unharmed(app: &App) {
    for name in ["sidestream_panics_total", "sidestream_subject_violations_total"] {
        assert!(app.metric(name, &[]).await < 0.5, "{name}");
    }
}

fn place_of(table: &Table, row: &Row) -> usize {
    table.rows.iter().position(|other| other.line == row.line).expect("a row of this table")
}

/// Every message with a marker behind it. Columns: server or reply, subject, headers, payload.
fn protocol(table: &Table, marker: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in &table.rows {
        let reply = if table.name == "messages/core" { row.input(0) } else { "" };
        let subject = [&unescape(row.input(1))[..], b" ", reply.as_bytes()].concat();
        let (headers, payload) = (unescape(row.input(2)), unescape(row.input(3)));
        if headers.is_empty() {
            bytes.extend([b"PUB ", &subject[..], format!(" {}\r\n", payload.len()).as_bytes()].concat());
        } else {
            let status: &[u8] = if headers.starts_with(b"NATS/") { b"" } else { b"NATS/1.0\r\n" };
            let block = [status, &headers, b"\r\n"].concat();
            let sizes = format!(" {} {}\r\n", block.len(), block.len() + payload.len());
            bytes.extend([b"HPUB ", &subject[..], sizes.as_bytes(), &block].concat());
        }
        bytes.extend_from_slice(&payload);
        let data = format!("behind line {}", row.line);
        bytes.extend_from_slice(format!("\r\nPUB {marker} {}\r\n{data}\r\n", data.len()).as_bytes());
    }
    bytes
}

/// What came before each marker. That NATS was away, and is back, is no answer to a message.
async fn heard(sse: &mut Sse, table: &Table) -> Vec<Vec<Event>> {
    sse.forget_raw();
    let mut all = Vec::new();
    for row in &table.rows {
        let marker = format!("behind line {}", row.line);
        let mut events = Vec::new();
        loop {
            let event = sse.event_within(HEAL).await;
            let data = STANDARD.decode(&event.data).ok().and_then(|data| String::from_utf8(data).ok());
            if event.data == marker || data.as_ref() == Some(&marker) || event.data.contains(&format!("{marker:?}}}")) {
                break;
            }
            if !["sidestream.degraded", "sidestream.ok"].contains(&event.name.as_str()) {
                events.push(event);
            }
        }
        all.push(events);
    }
    all
}

/// Events in the words of the tables: `name: data`, or `gap reason`; what is long is shown by its length.
fn seen(events: &[Event]) -> String {
    let one = |event: &Event| match event.name.as_str() {
        "sidestream.gap" => format!("gap {}", json(event)["reason"].as_str().unwrap_or_default()),
        name => shown(name, &event.data),
    };
    if events.is_empty() { "-".to_owned() } else { events.iter().map(one).collect::<Vec<_>>().join(" and ") }
}

fn shown(name: &str, data: &str) -> String {
    if data.len() > 600 { format!("{name}: {} bytes", data.len()) } else { format!("{name}: {data}") }
}

/// An answer as [`seen`] would tell it.
fn wanted(answer: &str) -> String {
    let text = String::from_utf8(unescape(answer)).expect("events are text");
    // Behind the name of an event without data no blank can be written.
    if text.ends_with(':') { text + " " } else { text }
}

/// `=` is the payload under the name that it has as text.
fn as_base64(row: &Row) -> String {
    if row.answer(1) != "=" {
        return wanted(row.answer(1));
    }
    let as_text = wanted(row.answer(0));
    let name = as_text.split_once(": ").map_or("message", |(name, _)| name);
    shown(name, &STANDARD.encode(unescape(row.input(3))))
}

/// The member `data` as it is written; `=` is the payload as a string.
fn as_envelope(row: &Row, events: &[Event]) -> Result<(), String> {
    let [event] = events else { return same(row.answer(2), &seen(events)) };
    if row.answer(2).starts_with("gap ") {
        return same(row.answer(2), &seen(events));
    }
    let data = unescape(row.input(3));
    let wanted = match row.answer(2) {
        "=" => serde_json::Value::from(String::from_utf8(data).expect("a payload that is text")).to_string(),
        written => wanted(written),
    };
    let subject = serde_json::Value::from(String::from_utf8(unescape(row.input(1))).expect("a subject that is text"));
    let rest = event.data.strip_prefix(&format!("{{\"subject\":{subject},\"time\":")).unwrap_or_default();
    let (time, data) = rest.split_once(",\"data\":").unwrap_or_default();
    if !time.parse::<u64>().is_ok_and(|ms| ms > 1_600_000_000_000) {
        return Err(format!("no time or another subject: {}", event.data));
    }
    same(&wanted, data.strip_suffix('}').unwrap_or_default())
}

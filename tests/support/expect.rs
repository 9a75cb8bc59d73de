//! What a client that stays connected through an outage may be told, and nothing else.

use std::time::{Duration, Instant};

use super::{Event, Sse, json};

/// `degraded` or `ok`.
pub fn is_state(event: &Event) -> bool {
    matches!(event.name.as_str(), "sidestream.degraded" | "sidestream.ok")
}

/// The data of a range of events.
pub fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("event {n}")).collect()
}

/// The same as broadcasts to be published.
pub fn broadcasts(range: std::ops::Range<usize>) -> impl Iterator<Item = (String, Vec<u8>)> {
    numbered(range).into_iter().map(|data| ("events.broadcast.news".to_owned(), data.into_bytes()))
}

/// Reads exactly these data, in order, between them only `degraded` and `ok`.
pub async fn all(who: &str, sse: &mut Sse, expected: &[String], within: Duration) {
    let started = Instant::now();
    for wanted in expected {
        let event = loop {
            let event = sse.event_within(within.saturating_sub(started.elapsed())).await;
            if !is_state(&event) {
                break event;
            }
        };
        assert_eq!(&event.data, wanted, "{who}: lost, doubled or out of order: {event:?}");
    }
}

/// Waits to be told `degraded`; nothing else may come before.
pub async fn degraded(sse: &mut Sse, within: Duration) {
    let told = sse.event_within(within).await;
    assert_eq!(told.name, "sidestream.degraded", "{told:?}");
}

/// Waits to be told `ok`, before or behind exactly these data.
pub async fn ok_and_all(sse: &mut Sse, expected: &[String], within: Duration) {
    let started = Instant::now();
    let (mut ok, mut expected) = (false, expected.iter());
    while !ok || expected.len() > 0 {
        let event = sse.event_within(within.saturating_sub(started.elapsed())).await;
        match event.name.as_str() {
            "sidestream.degraded" => ok = false,
            "sidestream.ok" => ok = true,
            _ => assert_eq!(Some(&event.data), expected.next(), "lost, doubled or out of order: {event:?}"),
        }
    }
}

/// Waits for one gap `reset`, only `degraded` and `ok` before it, and then for exactly these data.
pub async fn reset_and_all(who: &str, sse: &mut Sse, expected: &[String], within: Duration) {
    let told = sse.until_named("sidestream.gap", within).await;
    let (gap, before) = told.split_last().expect("at least the gap");
    assert!(before.iter().all(is_state), "{who}: {before:?}");
    assert_eq!(json(gap)["reason"], "reset", "{who}: {gap:?}");
    all(who, sse, expected, within).await;
}

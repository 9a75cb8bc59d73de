//! `[limits]`, `[heartbeat]` and `[log]`: numbers within bounds, a log filter that parses.

use std::ops::RangeInclusive;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::{Checker, Section};
use crate::config::units::shorten;
use crate::config::{Config, Heartbeat, Limits, Log, LogFormat};
use crate::memory::PROGRAM_BYTES_MAX;

/// A rate is doubled for its burst, so this leaves room in 32 bits; it is far above what one process can serve.
const COUNT_MAX: u32 = 1_000_000_000;
/// The kernel takes `TCP_NOTSENT_LOWAT` as a signed number.
const UNSENT_MAX: u64 = i32::MAX as u64;

/// Clients are visited once a second and told the interval in whole seconds; nothing on the way waits longer than an hour.
const HEARTBEAT_INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

pub(super) fn check(cx: &mut Checker<'_>, section: &Section<'_>) -> Limits {
    let mut count = |key| cx.count(section, key, 1..=COUNT_MAX);
    let connections = count("connections") as usize;
    let connections_per_user = count("connections_per_user");
    let connections_per_address = count("connections_per_address");
    let connects_per_second = count("connects_per_second");
    let connects_per_second_per_user = count("connects_per_second_per_user");
    let connects_per_second_per_address = count("connects_per_second_per_address");
    let queue_events = count("queue_events") as usize;
    let replay_events = count("replay_events").into();
    let replays = count("replays") as usize;
    let memory = memory(cx, section);
    Limits {
        connections,
        connections_per_user,
        connections_per_address,
        connects_per_second,
        connects_per_second_per_user,
        connects_per_second_per_address,
        queue_bytes: cx.memory_size(section, "queue_bytes"),
        queue_events,
        write_timeout: cx.duration(section, "write_timeout"),
        unsent_buffer: u32::try_from(cx.size(section, "unsent_buffer", 1..=UNSENT_MAX)).unwrap_or(u32::MAX),
        event_bytes: cx.memory_size(section, "event_bytes"),
        replay_events,
        replays,
        memory,
    }
}

/// Zero is automatic.
fn memory(cx: &mut Checker<'_>, section: &Section<'_>) -> Option<u64> {
    let bytes = cx.size(section, "memory", 0..=i64::MAX as u64);
    if (1..PROGRAM_BYTES_MAX).contains(&bytes) {
        cx.fault_in(section, "memory", "the program itself needs more: allowed are \"0\" and 32MiB or more", None);
        return None;
    }
    (bytes > 0).then_some(bytes)
}

/// A budget that the history fills alone would let nobody in, from some time after the start on.
pub(super) fn check_budget(cx: &mut Checker<'_>, root: &Section<'_>, config: &Config) {
    let history = (config.history_bytes as u64).saturating_mul(config.routes.streams.len() as u64);
    if let Some(budget) = config.limits.memory.filter(|budget| *budget <= history.saturating_add(PROGRAM_BYTES_MAX)) {
        let message =
            format!("{budget} bytes leave nothing for clients: the history of all streams may take {history}");
        let note = Some("history.bytes is held once for each stream; the program itself needs up to 32MiB");
        cx.fault_in(&root.section("limits"), "memory", message, note);
    }
}

pub(super) fn check_heartbeat(cx: &mut Checker<'_>, section: &Section<'_>) -> Heartbeat {
    let interval = cx.duration_within(section, "interval", HEARTBEAT_INTERVAL, "1s to 1h");
    Heartbeat { interval, event: section.flag("event") }
}

pub(super) fn check_log(cx: &mut Checker<'_>, section: &Section<'_>) -> Log {
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = cx.choice(section, "format", &formats, LogFormat::Auto);
    let level = section.text("level");
    if let Some(read) = &level
        && !is_filter(read.value)
    {
        let note = "allowed: off, error, warn, info, debug, trace, or a filter such as \"info,sidestream::feed=debug\"";
        cx.fault_noted(read, format!("`{}` is not a log level", shorten(read.value)), Some(note));
    }
    Log { level: level.map_or_else(String::new, |read| read.value.to_owned()), format }
}

/// A lone word must be a level: as a filter it would name a module, and `inof` would silence everything.
pub(in crate::config) fn is_filter(text: &str) -> bool {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let mut words = text.split(',');
    let known = words.all(|word| word.contains('=') || levels.contains(&word.to_ascii_lowercase().as_str()));
    known && EnvFilter::builder().parse(text).is_ok()
}

//! `resume`: what choosing a client's missed events from memory costs: its own matches, or the range it missed?
//!
//! A log of frames of about 240 bytes, for 100 000 users and, one in 25, for everybody on 20 subjects. A client that missed
//! the last so many of them resumes with its own subjects only, or with its own and everybody's. Time is the thread's CPU
//! time, best of seven series of a hundred users each; a piece is what one request of a client gets at most
//! (`limits.queue_bytes` and `limits.queue_events`, the defaults).

use std::hint::black_box;
use std::sync::Arc;

use sidestream::config::Format;
use sidestream::cursor::{Cursor, Epoch, Position};
use sidestream::event::{Event, Frames};
use sidestream::frame::{EventNaming, Frame, Message, Payload};
use sidestream::log::{Log, PieceSize};
use sidestream::subject::Pattern;

use crate::time::thread_cpu;

const USERS: u64 = 100_000;
const TOPICS: u64 = 20;
/// One message in so many is for everybody.
const EVERYBODY: u64 = 25;
const PAYLOAD_BYTES: usize = 190;
const SERIES: usize = 7;
const ASKED: u64 = 100;
const ALL: PieceSize = PieceSize { bytes: usize::MAX, events: usize::MAX };
const PIECE: PieceSize = PieceSize { bytes: 128 * 1024, events: 1024 };

/// Prints the table, for a log of so many entries.
pub fn run(entries: u64) {
    println!("\n## Resume from memory\n");
    let log = log_of(entries);
    println!("| entries missed | resumes with | own matches | all of them µs | ns/match | first piece µs |");
    println!("|---|---|---|---|---|---|");
    for with_everybody in [false, true] {
        for gap in [entries / 100, entries / 10, entries] {
            let after = entries - gap;
            let (all, matches) = measure(&log, after, with_everybody, ALL);
            let (piece, _) = measure(&log, after, with_everybody, PIECE);
            let who = if with_everybody { "its own, everybody's" } else { "its own" };
            let each = if matches > 0.0 { all / matches * 1000.0 } else { 0.0 };
            println!("| {gap} | {who} | {matches:.1} | {all:.2} | {each:.0} | {piece:.2} |");
        }
    }
}

/// Users come in an order that has nothing to do with the log's.
fn user_of(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % USERS
}

fn log_of(entries: u64) -> Log {
    let epoch = Epoch::of("EVENTS", "2026-11-22T00:00:00Z");
    let format = Format { naming: EventNaming::Header, payload: Payload::Text };
    let payload = "x".repeat(PAYLOAD_BYTES);
    let mut log = Log::new(epoch, Position { seq: 0, time: 0 }, usize::MAX);
    for number in 0..entries {
        let at = Position { seq: number + 1, time: 1_795_358_400_000_000_000 + number };
        let subject = match number % EVERYBODY {
            0 => format!("events.broadcast.{}", number / EVERYBODY % TOPICS),
            _ => format!("events.user.{}.note", user_of(number)),
        };
        let message = Message { subject: &subject, name: None, payload: payload.as_bytes(), time: at.time };
        let id = Cursor { epoch, at }.to_string();
        let frame = Frame::encode(&format, message, Some(&id)).expect("text").frame;
        log.append(Arc::new(Event { at, subject: subject.into(), frames: Frames::Shared(frame) }));
    }
    log
}

/// CPU microseconds of one selection, and how many events it gave on average.
fn measure(log: &Log, after: u64, with_everybody: bool, piece: PieceSize) -> (f64, f64) {
    let pattern = |text: &str| Pattern::parse(text).expect("a pattern");
    let mut best = f64::MAX;
    let mut matches = 0;
    for series in 0..SERIES as u64 {
        let asked: Vec<Vec<Pattern>> = (0..ASKED)
            .map(|n| {
                let mut patterns = vec![pattern(&format!("events.user.{}.>", user_of(series * ASKED + n)))];
                patterns.extend(with_everybody.then(|| pattern("events.broadcast.>")));
                patterns
            })
            .collect();
        let start = thread_cpu();
        let found: usize =
            asked.iter().map(|patterns| black_box(log.select(after, patterns, piece)).events.len()).sum();
        best = best.min((thread_cpu() - start) / ASKED as f64 * 1e6);
        matches += found;
    }
    (best, matches as f64 / (SERIES as u64 * ASKED) as f64)
}

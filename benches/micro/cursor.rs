//! `cursor`: writing a cursor, once for each message, and reading one, once for each client that comes back.

use std::hint::black_box;

use sidestream::cursor::{Cursor, Epoch, LastEventId, Position};

use crate::time::nanoseconds;

/// Prints the table.
pub fn run() {
    let epoch = Epoch::of("EVENTS", "2026-11-22T00:00:00Z");
    let at = |number: usize| {
        let number = number as u64;
        Cursor { epoch, at: Position { seq: 1_000_000 + number, time: 1_795_358_400_000_000_000 + number } }
    };
    let written = nanoseconds(|number| {
        black_box(black_box(at(number)).text().as_str());
    });
    let text = at(0).to_string();
    let read = nanoseconds(|_| {
        black_box(LastEventId::parse(black_box(text.as_bytes()))).expect("a cursor");
    });
    println!("\n## Cursor\n");
    println!("| | ns |");
    println!("|---|---|");
    println!("| written | {written:.0} |");
    println!("| read | {read:.0} |");
}

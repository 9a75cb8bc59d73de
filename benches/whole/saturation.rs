//! `saturation`: 500 messages in a second, each for everybody, more than single writes could deliver. One after another;
//! who cannot take that many is given as many as it takes, which the table shows.

use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::clock;
use crate::engine::{Audience, Engine, Kind};
use crate::options::{Options, Scenario};

/// Messages in a second.
const RATE: u64 = 500;
const SECONDS: u64 = 10;
/// Events that warm everything up.
const WARM_UP: u64 = 50;

/// Prints the table.
pub fn run(options: &Options, sizes: &[usize]) {
    println!("\n## Saturation: {RATE} messages in a second\n");
    println!(
        "| connections | who | published/s | delivered | cores | CPU µs/delivery | last after the end s | events/read | \
         latency ms p50 / p99 / max |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for size in sizes {
        for kind in options.kinds(Scenario::Saturation).into_iter().chain([Kind::Floor]) {
            row(kind, *size, options.seconds.unwrap_or(SECONDS));
        }
    }
}

fn row(kind: Kind, size: usize, seconds: u64) {
    let bench = Bench::new();
    let mut engine = Engine::start(kind, &bench);
    let mut readers = engine.connect(size, Audience::Everybody);
    let readers_count = size as u64;
    for event in 1..=WARM_UP {
        engine.broadcast(1);
        readers.have(event * readers_count);
    }
    readers.tails();
    let before = engine.process().cpu();
    let messages = RATE * seconds;
    let published = publish(&mut engine, messages);
    let ended = clock::now();
    // Fails the run when not all is delivered.
    let last = readers.have((WARM_UP + messages) * readers_count);
    let spent = engine.process().cpu() - before;
    let tails = readers.tails();
    let deliveries = messages * readers_count;
    println!(
        "| {size} | {} | {:.0} | all {deliveries} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} / {:.1} / {:.1} |",
        kind.name(),
        messages as f64 / published.as_secs_f64(),
        spent / published.as_secs_f64(),
        spent / deliveries as f64 * 1e6,
        last.saturating_sub(ended) as f64 / 1e9,
        deliveries as f64 / tails.reads.max(1) as f64,
        tails.p50,
        tails.p99,
        tails.max,
    );
}

/// Publishes at the rate; gives how long it took.
fn publish(engine: &mut Engine, messages: u64) -> Duration {
    let began = Instant::now();
    for message in 1..=messages {
        engine.fire();
        let due = Duration::from_secs_f64(message as f64 / RATE as f64);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    began.elapsed()
}

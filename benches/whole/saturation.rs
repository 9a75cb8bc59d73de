//! `saturation`: 500 messages in a second, each for everybody, more than single writes could deliver. They come one at a
//! time, or ten at a time as from a publisher that works in batches. One after another; who cannot take that many is given
//! as many as it takes, which the table shows.

use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::clock;
use crate::engine::{Audience, Engine, Kind};
use crate::options::{Options, Scenario};

/// Messages in a second.
const RATE: u64 = 500;
/// Messages that are published together.
const TOGETHER: [u64; 2] = [1, 10];
const SECONDS: u64 = 10;
/// Events that warm everything up.
const WARM_UP: u64 = 50;

/// Prints the table.
pub fn run(options: &Options, sizes: &[usize]) {
    println!("\n## Saturation: {RATE} messages in a second\n");
    println!(
        "| connections | together | who | published/s | delivered | cores | CPU µs/delivery | last after the end s | \
         events/read | latency ms p50 / p99 / max |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let seconds = options.seconds.unwrap_or(SECONDS);
    for size in sizes {
        for together in TOGETHER {
            for kind in options.kinds(Scenario::Saturation).into_iter().chain([Kind::Floor]) {
                row(kind, *size, together, Duration::from_secs(seconds));
            }
        }
    }
}

fn row(kind: Kind, size: usize, together: u64, time: Duration) {
    let bench = Bench::new();
    let mut engine = Engine::start(kind, &bench);
    let mut readers = engine.connect(size, Audience::Everybody);
    let each = size as u64;
    for event in 1..=WARM_UP {
        engine.broadcast(1);
        readers.have(event * each);
    }
    readers.tails();
    let (cpu, (messages, took, late)) = engine.cost(|engine| {
        let (messages, took) = publish(engine, together, time);
        let ended = clock::now();
        // Fails the run when not all is delivered.
        let last = readers.have((WARM_UP + messages) * each);
        (messages, took.as_secs_f64(), last.saturating_sub(ended))
    });
    let tails = readers.tails();
    let deliveries = messages * each;
    println!(
        "| {size} | {together} | {} | {:.0} | all {deliveries} | {:.2} | {:.2} | {:.2} | {:.1} | {tails} |",
        kind.name(),
        messages as f64 / took,
        cpu / took,
        cpu / deliveries as f64 * 1e6,
        late as f64 / 1e9,
        deliveries as f64 / tails.reads.max(1) as f64,
    );
}

/// Publishes at the rate, or as fast as it is taken, for some time; gives how many messages it were and how long it took.
fn publish(engine: &mut Engine, together: u64, time: Duration) -> (u64, Duration) {
    let began = Instant::now();
    let mut messages = 0;
    while began.elapsed() < time {
        engine.fire(together);
        messages += together;
        let due = Duration::from_secs_f64(messages as f64 / RATE as f64);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    (messages, began.elapsed())
}

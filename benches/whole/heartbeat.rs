//! `heartbeat`: what it costs that nothing happens: heartbeats every 15 seconds, and no event. The floor writes an event to
//! everybody as often.

use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::engine::{Audience, Engine, Kind};
use crate::options::{Options, Scenario};
use crate::readers::Readers;

const INTERVAL: u64 = 15;
const SECONDS: u64 = 60;

/// Prints the table.
pub fn run(options: &Options, sizes: &[usize]) {
    println!("\n## Idle CPU: heartbeats every {INTERVAL} s\n");
    println!("| connections | who | seconds | % of a core | heartbeats/connection |");
    println!("|---|---|---|---|---|");
    for size in sizes {
        table(options, *size);
    }
}

fn table(options: &Options, size: usize) {
    let bench = Bench::new();
    let kinds = options.kinds(Scenario::Heartbeat).into_iter().chain([Kind::Floor]);
    let mut engines: Vec<(Engine, Readers)> = kinds
        .map(|kind| {
            let mut engine = Engine::with_heartbeats(kind, &bench, INTERVAL);
            let readers = engine.connect(size, Audience::Everybody);
            (engine, readers)
        })
        .collect();
    let seconds = options.seconds.unwrap_or(SECONDS);
    // What opening took is over.
    std::thread::sleep(Duration::from_secs(INTERVAL));
    let seen = |engine: &Engine| (engine.process().cpu(), heartbeats(engine));
    let before: Vec<_> = engines.iter().map(|(engine, _)| seen(engine)).collect();
    wait(&mut engines, Duration::from_secs(seconds));
    for ((engine, _), (cpu, beats)) in engines.iter().zip(before) {
        let (cpu_after, beats_after) = seen(engine);
        let share = (cpu_after - cpu) / seconds as f64 * 100.0;
        let beats = beats_after.zip(beats).map(|(after, before)| (after - before) / size as f64);
        let beats = beats.map_or("-".to_owned(), |beats| format!("{beats:.2}"));
        println!("| {size} | {} | {seconds} | {share:.2} | {beats} |", engine.kind.name());
    }
}

/// Waits; makes the floor write once in every interval.
fn wait(engines: &mut [(Engine, Readers)], time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        for (engine, _) in engines.iter_mut().filter(|(engine, _)| engine.kind == Kind::Floor) {
            engine.broadcast(1);
        }
        std::thread::sleep(Duration::from_secs(INTERVAL).min(time.saturating_sub(began.elapsed())));
    }
}

fn heartbeats(engine: &Engine) -> Option<f64> {
    engine.sidecar().map(|sidecar| sidecar.metric("sidestream_heartbeats_sent_total"))
}

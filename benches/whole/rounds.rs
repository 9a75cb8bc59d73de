//! `fanout` and `burst`: everybody hears every event. In a round everybody who is measured delivers once, in random order:
//! one event, or a burst of eight. The floor always delivers one; ratios are per event. The next delivery begins when the
//! last reader has the one before.

use crate::bench::Bench;
use crate::clock;
use crate::engine::{Audience, Engine, Kind};
use crate::options::{Options, Scenario};
use crate::readers::Readers;
use crate::statistics::{median, ratios, spread, tail};
use crate::turns::{self, Runner};

/// Events of a burst.
pub const BURST: u64 = 8;
/// Rounds that do not count.
const WARM_UP: usize = 5;
/// Deliveries of one event that a table is made of, as far as rounds allow.
const DELIVERIES: usize = 300_000;

/// Prints a table for each number of connections.
pub fn run(options: &Options, sizes: &[usize], events: u64) {
    let scenario = if events == 1 { Scenario::Fanout } else { Scenario::Burst };
    println!("\n## {scenario:?}: {events} at a time\n");
    println!(
        "| connections | rounds | who | CPU µs/event and reader | ratio to the floor (quartiles) | writes/event and reader | \
         to the last reader ms p50 / p99 / max |"
    );
    println!("|---|---|---|---|---|---|---|");
    for size in sizes {
        table(options, scenario, *size, events);
    }
}

fn table(options: &Options, scenario: Scenario, size: usize, events: u64) {
    let bench = Bench::new();
    let mut heard = turns::start(options, scenario, &bench, |kind, bench| Heard::start(kind, bench, size, events));
    let rounds = options.rounds.unwrap_or((DELIVERIES / size).clamp(24, 200));
    turns::take(options, &mut heard, WARM_UP, rounds);
    let floor = heard[0].cpu.clone();
    for one in &heard {
        one.print(&floor);
    }
}

/// One who is measured, and what was seen.
struct Heard {
    engine: Engine,
    readers: Readers,
    size: usize,
    /// In one turn.
    events: u64,
    /// All that the readers have.
    delivered: u64,
    /// Write calls before the first round that counts.
    writes: Option<f64>,
    /// µs per event and reader, by round.
    cpu: Vec<f64>,
    /// Milliseconds from publishing to the last reader, by round.
    took: Vec<f64>,
}

impl Heard {
    fn start(kind: Kind, bench: &Bench, size: usize, events: u64) -> Self {
        let mut engine = Engine::start(kind, bench);
        let readers = engine.connect(size, Audience::Everybody);
        let events = if kind == Kind::Floor { 1 } else { events };
        Self { engine, readers, size, events, delivered: 0, writes: None, cpu: Vec::new(), took: Vec::new() }
    }

    fn print(&self, floor: &[f64]) {
        let rounds = self.cpu.len();
        let deliveries = (rounds * self.size) as f64 * self.events as f64;
        let writes = self.engine.writes().zip(self.writes).map(|(after, before)| (after - before) / deliveries);
        println!(
            "| {} | {rounds} | {} | {:.2} | {} | {} | {} |",
            self.size,
            self.engine.kind.name(),
            median(&self.cpu),
            spread(&ratios(&self.cpu, floor)),
            writes.map_or("-".to_owned(), |writes| format!("{writes:.3}")),
            tail(&self.took),
        );
    }
}

impl Runner for Heard {
    fn begin(&mut self) {
        self.cpu.clear();
        self.took.clear();
        self.writes = self.engine.writes();
    }

    fn turn(&mut self, _: usize) {
        let deliveries = self.events * self.size as u64;
        self.delivered += deliveries;
        let (cpu, took) = self.engine.cost(|engine| {
            let began = clock::now();
            engine.broadcast(self.events);
            self.readers.have(self.delivered).saturating_sub(began)
        });
        self.cpu.push(cpu / deliveries as f64 * 1e6);
        self.took.push(took as f64 / 1e6);
    }
}

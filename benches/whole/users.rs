//! `users`: every message is for one user, and they come as fast as NATS takes them. The sidecar's share of NATS is
//! counted; the floor reads the same subjects from NATS and makes one write for each message. nchan gets its messages by
//! HTTP, over one connection that is kept, 64 requests at a time.

use crate::bench::Bench;
use crate::clock;
use crate::engine::{Audience, Engine, Kind};
use crate::options::{Options, Scenario};
use crate::readers::Readers;
use crate::statistics::{median, ratios, spread};
use crate::turns::{self, Runner};
use crate::wire::Wire;

/// Messages of one turn.
const MESSAGES: usize = 20_000;
const ROUNDS: usize = 12;
const WARM_UP: usize = 2;

/// Prints a table for each number of users.
pub fn run(options: &Options, sizes: &[usize]) {
    println!("\n## Users: each message for one of them, {MESSAGES} at a time\n");
    println!(
        "| users | rounds | who | CPU µs/message | ratio to the floor (quartiles) | writes/message | messages/s | \
         latency ms p50 / p99 / max |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for size in sizes {
        table(options, *size);
    }
}

fn table(options: &Options, size: usize) {
    let bench = Bench::new();
    // The floor's messages go the same way through NATS as the others'.
    Wire::connect(bench.nats.port).create_stream("FLOOR", "floor.>");
    let start = |kind, bench: &Bench| Served::start(kind, bench, size, options.seed);
    let mut served = turns::start(options, Scenario::Users, &bench, start);
    turns::take(options, &mut served, WARM_UP, options.rounds.unwrap_or(ROUNDS));
    let floor = served[0].cpu.clone();
    for one in &mut served {
        one.print(&floor);
    }
}

/// One who is measured, and what was seen.
struct Served {
    engine: Engine,
    readers: Readers,
    publisher: Wire,
    size: usize,
    seed: u64,
    delivered: u64,
    writes: Option<f64>,
    /// µs per message, by round.
    cpu: Vec<f64>,
    /// Messages in a second, by round.
    rate: Vec<f64>,
}

impl Served {
    fn start(kind: Kind, bench: &Bench, size: usize, seed: u64) -> Self {
        let mut engine = Engine::start(kind, bench);
        let readers = engine.connect(size, Audience::Users);
        engine.follow(bench.nats.port);
        let publisher = Wire::connect(bench.nats.port);
        let (cpu, rate) = (Vec::new(), Vec::new());
        Self { engine, readers, publisher, size, seed, delivered: 0, writes: None, cpu, rate }
    }

    fn print(&mut self, floor: &[f64]) {
        let rounds = self.cpu.len();
        let messages = (rounds * MESSAGES) as f64;
        let writes = self.engine.writes().zip(self.writes).map(|(after, before)| (after - before) / messages);
        println!(
            "| {} | {rounds} | {} | {:.2} | {} | {} | {:.0} | {} |",
            self.size,
            self.engine.kind.name(),
            median(&self.cpu),
            spread(&ratios(&self.cpu, floor)),
            writes.map_or("-".to_owned(), |writes| format!("{writes:.3}")),
            median(&self.rate),
            self.readers.tails(),
        );
    }
}

impl Runner for Served {
    fn begin(&mut self) {
        self.cpu.clear();
        self.rate.clear();
        self.readers.tails();
        self.writes = self.engine.writes();
    }

    fn turn(&mut self, round: usize) {
        // The same users for everybody in a round.
        let mut random = fastrand::Rng::with_seed(self.seed.wrapping_add(round as u64));
        let users: Vec<usize> = (0..MESSAGES).map(|_| random.usize(..self.size)).collect();
        self.delivered += MESSAGES as u64;
        let (cpu, took) = self.engine.cost(|engine| {
            let began = clock::now();
            engine.send(&users, &mut self.publisher);
            self.readers.have(self.delivered).saturating_sub(began)
        });
        self.cpu.push(cpu / MESSAGES as f64 * 1e6);
        self.rate.push(MESSAGES as f64 / (took as f64 / 1e9));
    }
}

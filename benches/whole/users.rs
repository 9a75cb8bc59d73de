//! `users`: every message is for one user, and they come as fast as NATS takes them. The sidecar's share of NATS is
//! counted; the floor reads the same subjects from NATS and makes one write for each message. nchan gets its messages by
//! HTTP, over one connection that is kept, 64 requests at a time.

use std::time::Duration;

use crate::bench::Bench;
use crate::clock;
use crate::engine::{Audience, Engine, Kind};
use crate::options::{Options, Scenario};
use crate::readers::Readers;
use crate::statistics::{median, ratios, spread};
use crate::wire::Wire;

/// Messages of one turn.
const MESSAGES: usize = 20_000;
const ROUNDS: usize = 12;
const WARM_UP: usize = 2;
const SETTLE: Duration = Duration::from_millis(20);

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
    let mut publisher = Wire::connect(bench.nats.port);
    // Its messages go the same way through NATS as the others'.
    publisher.create_stream("FLOOR", "floor.>");
    let kinds = std::iter::once(Kind::Floor).chain(options.kinds(Scenario::Users));
    let mut runners: Vec<Runner> = kinds.map(|kind| Runner::start(kind, &bench, size)).collect();
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let mut random = fastrand::Rng::with_seed(options.seed);
    let mut order: Vec<usize> = (0..runners.len()).collect();
    for round in 0..WARM_UP + rounds {
        if round == WARM_UP {
            runners.iter_mut().for_each(Runner::begin);
        }
        random.shuffle(&mut order);
        let users: Vec<usize> = (0..MESSAGES).map(|_| random.usize(..size)).collect();
        for place in &order {
            runners[*place].turn(&users, &mut publisher);
        }
    }
    let floor = runners[0].cpu.clone();
    for runner in &mut runners {
        runner.print(&floor, size);
    }
}

/// One who is measured, and what was seen.
struct Runner {
    engine: Engine,
    readers: Readers,
    delivered: u64,
    writes: Option<f64>,
    /// µs per message, by round.
    cpu: Vec<f64>,
    /// Messages in a second, by round.
    rate: Vec<f64>,
}

impl Runner {
    fn start(kind: Kind, bench: &Bench, size: usize) -> Self {
        let mut engine = Engine::start(kind, bench);
        let readers = engine.connect(size, Audience::Users);
        engine.follow(bench.nats.port);
        Self { engine, readers, delivered: 0, writes: None, cpu: Vec::new(), rate: Vec::new() }
    }

    /// What was seen so far does not count.
    fn begin(&mut self) {
        self.cpu.clear();
        self.rate.clear();
        self.readers.tails();
        self.writes = self.engine.writes();
    }

    fn turn(&mut self, users: &[usize], publisher: &mut Wire) {
        std::thread::sleep(SETTLE);
        let before = self.engine.process().cpu();
        let began = clock::now();
        self.engine.send(users, publisher);
        self.delivered += users.len() as u64;
        let last = self.readers.have(self.delivered);
        std::thread::sleep(SETTLE);
        let messages = users.len() as f64;
        self.cpu.push((self.engine.process().cpu() - before) / messages * 1e6);
        self.rate.push(messages / (last.saturating_sub(began) as f64 / 1e9));
    }

    fn print(&mut self, floor: &[f64], size: usize) {
        let rounds = self.cpu.len();
        let messages = (rounds * MESSAGES) as f64;
        let writes = self.engine.writes().zip(self.writes).map(|(after, before)| (after - before) / messages);
        let tails = self.readers.tails();
        println!(
            "| {size} | {rounds} | {} | {:.2} | {} | {} | {:.0} | {:.1} / {:.1} / {:.1} |",
            self.engine.kind.name(),
            median(&self.cpu),
            spread(&ratios(&self.cpu, floor)),
            writes.map_or("-".to_owned(), |writes| format!("{writes:.3}")),
            median(&self.rate),
            tails.p50,
            tails.p99,
            tails.max,
        );
    }
}

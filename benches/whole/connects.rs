//! `connects`: what opening a stream costs, from accept to the first event, full handshakes without resumption. The floor
//! accepts, reads the request and writes an answer of the same size.

use crate::bench::Bench;
use crate::engine::{Audience, Engine};
use crate::floor::Opening;
use crate::options::{Options, Scenario};
use crate::statistics::{ratios, spread};
use crate::turns::{self, Runner};

const ROUNDS: usize = 12;
const WARM_UP: usize = 1;

/// Prints a table for each number of connections.
pub fn run(options: &Options, sizes: &[usize]) {
    println!("\n## Connects\n");
    println!("| connections | rounds | who | CPU µs/connect (quartiles) | ratio to the floor (quartiles) |");
    println!("|---|---|---|---|---|");
    for size in sizes {
        table(options, *size);
    }
}

fn table(options: &Options, size: usize) {
    let bench = Bench::new();
    let start = |kind, bench: &Bench| Opened { engine: Engine::start(kind, bench), size, cpu: Vec::new() };
    let mut opened = turns::start(options, Scenario::Connects, &bench, start);
    let rounds = options.rounds.unwrap_or(ROUNDS);
    turns::take(options, &mut opened, WARM_UP, rounds);
    let floor = opened[0].cpu.clone();
    for Opened { engine, cpu, .. } in &opened {
        let name = engine.kind.name();
        println!("| {size} | {rounds} | {name} | {} | {} |", spread(cpu), spread(&ratios(cpu, &floor)));
    }
}

/// One who is measured, and what was seen.
struct Opened {
    engine: Engine,
    size: usize,
    /// µs per connection, by round.
    cpu: Vec<f64>,
}

impl Runner for Opened {
    fn begin(&mut self) {
        self.cpu.clear();
    }

    /// Opens them all, and closes them when the time is taken.
    fn turn(&mut self, _: usize) {
        let mut target = self.engine.target(self.size, Audience::Everybody);
        target.ready.get_or_insert_with(|| "sidestream.connected".to_owned());
        let (cpu, readers) = self.engine.cost(|engine| engine.open(&target, Opening::Answered));
        self.cpu.push(cpu / self.size as f64 * 1e6);
        drop(readers);
        self.engine.close();
    }
}

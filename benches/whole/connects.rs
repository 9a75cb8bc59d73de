//! `connects`: what opening a stream costs, from accept to the first event, full handshakes without resumption. The floor
//! accepts, reads the request and writes an answer of the same size.

use std::time::Duration;

use crate::bench::Bench;
use crate::engine::{Audience, Engine, Kind};
use crate::floor::Opening;
use crate::options::{Options, Scenario};
use crate::statistics::{median, ratios, spread};

const ROUNDS: usize = 12;
const SETTLE: Duration = Duration::from_millis(50);

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
    let kinds = std::iter::once(Kind::Floor).chain(options.kinds(Scenario::Connects));
    let mut engines: Vec<(Engine, Vec<f64>)> = kinds.map(|kind| (Engine::start(kind, &bench), Vec::new())).collect();
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let mut random = fastrand::Rng::with_seed(options.seed);
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..engines.len()).collect();
        random.shuffle(&mut order);
        for place in order {
            let (engine, costs) = &mut engines[place];
            let cost = turn(engine, size);
            // The first warms everything up.
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    let floor = engines[0].1.clone();
    for (engine, costs) in &engines {
        let name = engine.kind.name();
        println!("| {size} | {rounds} | {name} | {} | {} |", spread(costs), spread(&ratios(costs, &floor)));
        debug_assert!(median(costs) > 0.0);
    }
}

/// Opens them all and closes them; gives µs for each that was opened.
fn turn(engine: &mut Engine, size: usize) -> f64 {
    let mut target = engine.target(size, Audience::Everybody);
    target.ready.get_or_insert_with(|| "sidestream.connected".to_owned());
    std::thread::sleep(SETTLE);
    let before = engine.process().cpu();
    let readers = engine.open(&target, Opening::Answered);
    std::thread::sleep(SETTLE);
    let spent = engine.process().cpu() - before;
    drop(readers);
    engine.close();
    spent / size as f64 * 1e6
}

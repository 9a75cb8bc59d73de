//! `idle`: what a connection takes while nothing happens, as the proportional set size of the process and its workers with
//! them less that without, before and after each has heard an event. The kernel's part is in nobody's figure.

use std::time::Duration;

use crate::bench::Bench;
use crate::engine::{Audience, Engine, Kind};
use crate::options::{Options, Scenario};

/// What opening took is given back by then.
const SETTLE: Duration = Duration::from_secs(2);

/// Prints the table.
pub fn run(options: &Options, sizes: &[usize]) {
    println!("\n## Idle memory\n");
    println!("| connections | who | KiB/connection | after an event each | without connections MiB |");
    println!("|---|---|---|---|---|");
    for size in sizes {
        for kind in options.kinds(Scenario::Idle).into_iter().filter(|kind| *kind != Kind::Floor) {
            row(kind, *size);
        }
    }
}

fn row(kind: Kind, size: usize) {
    let bench = Bench::new();
    let mut engine = Engine::start(kind, &bench);
    std::thread::sleep(SETTLE);
    let without = engine.process().pss_kib();
    let mut readers = engine.connect(size, Audience::Everybody);
    std::thread::sleep(SETTLE);
    let open = engine.process().pss_kib();
    engine.broadcast(1);
    readers.have(size as u64);
    std::thread::sleep(SETTLE);
    let used = engine.process().pss_kib();
    let each = |with: f64| (with - without) / size as f64;
    println!("| {size} | {} | {:.2} | {:.2} | {:.1} |", kind.name(), each(open), each(used), without / 1024.0);
}

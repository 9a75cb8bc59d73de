//! `instructions`: how many instructions in user space a delivery takes the whole process, its feed included: everybody hears
//! every event, one at a time or eight. valgrind's callgrind counts them: figures of a busy machine differ by less than 1 %.
//!
//! They are not time: what the kernel does is in nobody's figure, and callgrind runs one thread at a time. It knows no
//! AVX-512, so that TLS encrypts with the code for processors without it.
//!
//! `keep=DIR` keeps the profiles, of all the deliveries that were counted: `callgrind_annotate DIR/plain-1.shard`.

use std::path::Path;
use std::time::Duration;

use crate::bench::Bench;
use crate::callgrind::{Callgrind, Thread};
use crate::engine::{Audience, Engine, Kind, Protocol};
use crate::options::{Options, Scenario};
use crate::readers::Readers;
use crate::rounds::BURST;

/// Events that are counted, as far as rounds allow. Figures hardly move from one round to the next.
const EVENTS: u64 = 80;
/// Rounds before the count, without callgrind's own translation of the code and with it.
const WARM_UP: u64 = 5;
/// By then a process under valgrind rests after its last write.
const REST: Duration = Duration::from_millis(300);

/// Prints the table.
pub fn run(options: &Options, sizes: &[usize]) {
    println!("\n## Instructions in user space\n");
    if !Callgrind::is_here() {
        println!("**INSTRUCTIONS ARE NOT COUNTED**: valgrind is not here (Debian package `valgrind`)");
        return;
    }
    println!("| connections | at a time | who | instructions/delivery | bar | of them by thread | writes/delivery |");
    println!("|---|---|---|---|---|---|---|");
    for size in sizes {
        let sidecars =
            options.kinds(Scenario::Instructions).into_iter().filter(|kind| matches!(kind, Kind::Sidecar(_)));
        for kind in sidecars {
            for together in [1, BURST] {
                row(options, kind, *size, together);
            }
        }
    }
}

fn row(options: &Options, kind: Kind, size: usize, together: u64) {
    let rounds = options.rounds.map_or(EVENTS.div_ceil(together), |rounds| rounds as u64);
    let (threads, writes) = Counted::start(kind, size, together).take(rounds, options.keep.as_deref());
    let deliveries = (size as u64 * together * rounds) as f64;
    let each = |instructions: u64| instructions as f64 / deliveries;
    let split: Vec<String> =
        threads.iter().map(|thread| format!("{} {:.1}", thread.name, each(thread.instructions))).collect();
    println!(
        "| {size} | {together} | {} | {:.1} | {} | {} | {} |",
        kind.name(),
        each(threads.iter().map(|thread| thread.instructions).sum()),
        bar(kind, together),
        split.join(", "),
        writes.map_or("-".to_owned(), |writes| format!("{:.3}", writes / deliveries)),
    );
}

/// What it is to stay below.
fn bar(kind: Kind, together: u64) -> &'static str {
    match (kind, together) {
        (Kind::Sidecar(Protocol::Plain), 1) => "500",
        (Kind::Sidecar(Protocol::Plain), BURST) => "250",
        (Kind::Sidecar(Protocol::Tls), 1) => "3000",
        _ => "-",
    }
}

/// One that runs under callgrind.
struct Counted {
    callgrind: Callgrind,
    engine: Engine,
    readers: Readers,
    size: usize,
    together: u64,
    delivered: u64,
    /// Last: it holds the certificate, NATS and the profiles.
    _bench: Bench,
}

impl Counted {
    fn start(kind: Kind, size: usize, together: u64) -> Self {
        let bench = Bench::new();
        let callgrind = Callgrind::new(bench.directory.path().join("callgrind"));
        let mut engine = Engine::under(kind, &bench, &callgrind.before());
        let readers = engine.connect(size, Audience::Everybody);
        Self { callgrind, engine, readers, size, together, delivered: 0, _bench: bench }
    }

    /// What each thread did in so many rounds, and write calls.
    fn take(mut self, rounds: u64, keep: Option<&Path>) -> (Vec<Thread>, Option<f64>) {
        let process = self.engine.process().id();
        self.deliver(WARM_UP);
        self.callgrind.count(process);
        self.deliver(WARM_UP);
        // Asked outside of what is counted: the answer takes instructions too.
        let writes = self.engine.writes();
        std::thread::sleep(REST);
        self.callgrind.forget(process);
        self.deliver(rounds);
        std::thread::sleep(REST);
        let threads = self.callgrind.threads(process);
        let writes = self.engine.writes().zip(writes).map(|(after, before)| after - before);
        if let Some(directory) = keep {
            self.keep(directory, &threads);
        }
        (threads, writes)
    }

    fn deliver(&mut self, rounds: u64) {
        for _ in 0..rounds {
            self.engine.broadcast(self.together);
            self.delivered += self.together * self.size as u64;
            self.readers.have(self.delivered);
        }
    }

    fn keep(&self, directory: &Path, threads: &[Thread]) {
        std::fs::create_dir_all(directory).expect("a directory for profiles");
        for Thread { name, profile, .. } in threads {
            let name = format!("{}-{}.{name}", self.engine.kind.name(), self.together);
            std::fs::copy(profile, directory.join(name)).expect("a profile is kept");
        }
    }
}

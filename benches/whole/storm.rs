//! `storm`: clients that each missed a hundred events come back at once and get them from memory: ninety that are
//! everybody's and ten that are their own. The floor accepts them and writes each as many bytes at once. What a storm asks
//! of NATS, and under limits, is in `benches/storm`.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::bench::Bench;
use crate::engine::{Audience, Engine, Kind};
use crate::floor::Opening;
use crate::options::{Options, Scenario};
use crate::readers::Target;
use crate::statistics::{median, ratios, spread};
use crate::turns::{self, Runner};
use crate::wire::Wire;

/// What each client misses.
pub const MISSED: usize = 100;
/// Of these each client's own.
const OWN: usize = 10;
const ROUNDS: usize = 7;
/// Clients that are on their way at the same time.
const AT_ONCE: usize = 256;
const WARM_UP: usize = 1;

/// Prints a table for each number of clients.
pub fn run(options: &Options, sizes: &[usize]) {
    println!("\n## Storm: everybody back at once, {MISSED} missed events each\n");
    println!(
        "| clients | rounds | who | s to the last event | ratio to the floor (quartiles) | CPU s | ratio (quartiles) |"
    );
    println!("|---|---|---|---|---|---|---|");
    for size in sizes {
        table(options, *size);
    }
}

fn table(options: &Options, size: usize) {
    let bench = Bench::new();
    let mut storms = turns::start(options, Scenario::Storm, &bench, |kind, bench| Storm::start(kind, bench, size));
    let rounds = options.rounds.unwrap_or(ROUNDS);
    turns::take(options, &mut storms, WARM_UP, rounds);
    let (took, cpu) = (storms[0].took.clone(), storms[0].cpu.clone());
    for storm in &storms {
        println!(
            "| {size} | {rounds} | {} | {:.2} | {} | {:.2} | {} |",
            storm.engine.kind.name(),
            median(&storm.took),
            spread(&ratios(&storm.took, &took)),
            median(&storm.cpu),
            spread(&ratios(&storm.cpu, &cpu)),
        );
    }
}

/// One who is measured, and what was seen.
struct Storm {
    engine: Engine,
    size: usize,
    cursor: Option<String>,
    /// Seconds from the first that comes back to the last event, by round.
    took: Vec<f64>,
    /// Seconds of CPU time, by round.
    cpu: Vec<f64>,
}

impl Storm {
    /// Starts it and gives it what everybody will have missed.
    fn start(kind: Kind, bench: &Bench, size: usize) -> Self {
        let mut engine = Engine::start(kind, bench);
        let cursor = engine.sidecar().map(|sidecar| first_cursor(sidecar.port));
        if kind != Kind::Floor {
            let mut publisher = Wire::connect(bench.nats.port);
            let users: Vec<usize> = (0..size).collect();
            for _ in 0..OWN {
                engine.send(&users, &mut publisher);
                engine.broadcast(((MISSED - OWN) / OWN) as u64);
            }
        }
        if let Some(sidecar) = engine.sidecar() {
            sidecar.has_read((OWN * size + MISSED - OWN) as u64);
        }
        Self { engine, size, cursor, took: Vec::new(), cpu: Vec::new() }
    }

    fn target(&self) -> Target {
        let mut target = self.engine.target(self.size, Audience::Users);
        target.path = target.path.replace("/sub?", "/storm?");
        // The floor's clients ask and wait like the others, or all would be under way at the same time.
        target.ready.get_or_insert_with(|| "data: ".to_owned());
        target.cursor.clone_from(&self.cursor);
        target.at_once = AT_ONCE;
        target
    }
}

impl Runner for Storm {
    fn begin(&mut self) {
        self.took.clear();
        self.cpu.clear();
    }

    fn turn(&mut self, _: usize) {
        let target = self.target();
        let (cpu, (readers, took)) = self.engine.cost(|engine| {
            let mut readers = engine.open(&target, Opening::Served);
            let last = readers.have((self.size * MISSED) as u64);
            let took = last.saturating_sub(readers.began);
            (readers, took)
        });
        self.cpu.push(cpu);
        self.took.push(took as f64 / 1e9);
        drop(readers);
        self.engine.close();
    }
}

/// The cursor of whoever comes before the first event.
fn first_cursor(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("accepted");
    stream
        .write_all(b"GET /mine HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\nX-Forwarded-User: u0\r\n\r\n")
        .expect("written");
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read);
        if let Some((cursor, _)) = text.split_once("\nid: ").and_then(|(_, rest)| rest.split_once('\n')) {
            return cursor.to_owned();
        }
        let mut buffer = [0; 1024];
        let bytes = stream.read(&mut buffer).expect("an answer");
        assert!(bytes > 0, "not a stream: {text}");
        read.extend_from_slice(&buffer[..bytes]);
    }
}

//! The fault runner: real servers, two sidecars, a publisher and clients that write everything down, one fault at a time,
//! and a checker that compares what was heard with what was published. `scripts/faults` runs it for as long as you like.
//!
//! `selection` is a short choice of faults for every `cargo test`; `long` cycles over all of them until its minutes are
//! over. A failing run names its seed.

#[path = "../support/mod.rs"]
mod support;

mod checker;
mod client;
mod disk;
mod journal;
mod kinds;
mod layout;
mod leaks;
mod publisher;
mod run;
mod servers;
mod stored;
mod table;
mod truth;
mod world;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use journal::Journal;
use kinds::{KINDS, Kind};
use support::Version;
use support::netns::Namespace;
use table::Table;

/// Runs at the same time: the machine is small, and faults have durations.
const AT_ONCE: usize = 2;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} cannot be read")))
}

/// Why a kind cannot be run here.
fn obstacle(kind: &Kind) -> Option<String> {
    let root = rustix::process::geteuid().is_root();
    if kind.needs_root && !root {
        return Some("needs root".to_owned());
    }
    // Making one is the only way to know.
    (kind.layout.namespace && Namespace::new(kind.name).is_none()).then(|| "needs root and `ip netns`".to_owned())
}

/// Runs these, and gives the names of those that were not clean. Each run has a thread and a runtime of its own, so that one
/// that waits for a process to end does not make the other's clients late.
fn all(
    runs: impl Iterator<Item = (&'static Kind, Version, u64)> + Send,
    table: &mut Table,
    journal: &mut Journal,
) -> Vec<String> {
    let (runs, results) = (Mutex::new(runs), Mutex::new((table, Vec::new(), journal)));
    let next = || runs.lock().expect("no holder panics").next();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((kind, version, seed)) = next() {
                    let report = run::run(kind, version, seed);
                    let mut results = results.lock().expect("no holder panics");
                    results.0.add(kind, &report);
                    results.2.add(kind, version, seed, &report);
                    if !report.is_clean() {
                        results.1.push(run::label(kind, version, seed));
                    }
                }
            });
        }
    });
    results.into_inner().expect("no holder panics").1
}

/// Every kind on both servers with one seed, in an order of its own: where the time ends, all are cut short alike.
fn a_round(kinds: &[&'static Kind], seed: u64) -> Vec<(&'static Kind, Version, u64)> {
    let on_both = |kind| [Version::Debian, Version::Current].map(|version| (kind, version, seed));
    let mut runs: Vec<_> = kinds.iter().copied().flat_map(on_both).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut runs);
    runs
}

#[test]
fn selection() {
    let seed = setting("SIDESTREAM_FAULTS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let short = KINDS.iter().filter(|kind| kind.short).enumerate();
    // Each on one of the two servers, another one with another seed.
    let runs = short.map(|(index, kind)| {
        let odd = (index as u64 + seed) % 2 == 1;
        (kind, if odd { Version::Debian } else { Version::Current }, seed)
    });
    let mut table = Table::default();
    let mut journal = Journal::open(None, &mut table);
    let failed = all(runs, &mut table, &mut journal);
    println!("{}", table.markdown(KINDS));
    assert!(failed.is_empty(), "not clean:\n{}", failed.join("\n"));
}

#[test]
#[ignore = "takes as long as it is told to: scripts/faults --minutes M"]
fn long() {
    let seed: u64 = setting("SIDESTREAM_FAULTS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let minutes: f64 = setting("SIDESTREAM_FAULTS_MINUTES").unwrap_or(10.0);
    let kinds: Vec<&'static Kind> = match setting::<String>("SIDESTREAM_FAULTS_KINDS") {
        Some(names) => kinds::named(&names).unwrap_or_else(|error| panic!("{error}")),
        None => KINDS.iter().collect(),
    };
    let mut table = Table::default();
    let mut able = Vec::new();
    for kind in kinds {
        match obstacle(kind) {
            Some(why) => {
                println!("!!! NOT RUN: {} {why}", kind.name);
                table.not_run(kind, why);
            }
            None => able.push(kind),
        }
    }
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let mut journal = Journal::open(setting("SIDESTREAM_FAULTS_JOURNAL"), &mut table);
    let done = journal.done().clone();
    // The first round is finished, however long it takes; without a minute there is none.
    let due = move |round: u64| minutes > 0.0 && (round == 0 || Instant::now() < end);
    let rounds = (0..).take_while(move |round| due(*round));
    let runs = rounds
        .flat_map(|round| a_round(&able, seed + round).into_iter().map(move |run| (round, run)))
        .filter(|(_, (kind, version, seed))| !done.contains(&(kind.name, *version, *seed)))
        .map_while(move |(round, run)| due(round).then_some(run));
    let failed = all(runs, &mut table, &mut journal);
    let text = table.markdown(KINDS);
    println!("{text}");
    if let Some(file) = setting::<String>("SIDESTREAM_FAULTS_TABLE") {
        std::fs::write(&file, &text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    assert!(failed.is_empty(), "not clean:\n{}", failed.join("\n"));
}

#[test]
#[ignore = "prints the list: scripts/faults --list"]
fn list() {
    for kind in KINDS {
        println!("{:24} {}", kind.name, kind.what);
    }
}

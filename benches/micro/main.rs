//! What single steps on the way of a message cost: CPU time of one thread, without sockets.
//!
//! ```sh
//! cargo bench --bench micro                       # all of them
//! cargo bench --bench micro -- framing matching   # only these
//! cargo bench --bench micro -- resume 1000000     # so many log entries
//! ```
//!
//! `framing`, `matching`, `cursor`, `resume`; each file says what it measures. Figures are the best of several series, since
//! whatever else the machine does only adds to them.

mod cursor;
mod framing;
mod matching;
mod resume;
mod time;

/// The program's own: frames are allocations.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Entries of the log that is resumed from.
const ENTRIES: u64 = 1_000_000;

fn main() {
    // `cargo bench` adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let (numbers, names): (Vec<_>, Vec<_>) = words.iter().map(String::as_str).partition(|word| is_number(word));
    let entries = numbers.first().and_then(|number| number.parse().ok()).unwrap_or(ENTRIES);
    let steps: [(&str, &dyn Fn()); 4] = [
        ("framing", &framing::run),
        ("matching", &matching::run),
        ("cursor", &cursor::run),
        ("resume", &|| resume::run(entries)),
    ];
    if let Some(name) = names.iter().find(|name| !steps.iter().any(|(known, _)| known == *name)) {
        eprintln!("what is {name:?}? see benches/micro/main.rs");
        std::process::exit(64);
    }
    for (_, run) in steps.iter().filter(|(known, _)| names.is_empty() || names.contains(known)) {
        run();
    }
}

fn is_number(word: &str) -> bool {
    word.parse::<u64>().is_ok()
}

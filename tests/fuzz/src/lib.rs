//! Fuzz targets: each takes bytes, gives them to a part of the program, and compares what comes out with an oracle of its own.
//!
//! `oracle` holds second readings of the rules, written from the standards and the contract rather than from the program;
//! `harness` runs the whole server in memory. `docs/fuzzing.md` tells what each target holds and how to run it.

mod harness;
mod input;
mod oracle;
mod targets;

use std::alloc::System;
use std::sync::OnceLock;

use cap::Cap;

use crate::targets::TARGETS;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// A part of the program, and how it is held to its word.
pub struct Target {
    /// As in `FUZZ_TARGET` and in the names of corpora and dictionaries.
    pub name: &'static str,
    /// Panics where a promise is broken.
    pub run: fn(&[u8]),
    /// What one input may make the program allocate at the same time, in bytes.
    pub bytes_max: usize,
}

/// Runs the target that the environment names.
pub fn run(data: &[u8]) {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    let target = CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let target = find(&name).unwrap_or_else(|| panic!("FUZZ_TARGET names none of {:?}", names()));
        // What is said of a panic is not the input's doing.
        let abort = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            lift_limit();
            abort(panic);
        }));
        // What is made once and kept is nobody's input.
        (target.run)(&[]);
        target
    });
    let _ = ALLOCATOR.set_limit(ALLOCATOR.allocated() + target.bytes_max);
    (target.run)(data);
    lift_limit();
}

fn lift_limit() {
    let _ = ALLOCATOR.set_limit(usize::MAX);
}

/// A target by its name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// The names of all targets.
pub fn names() -> Vec<&'static str> {
    TARGETS.iter().map(|target| target.name).collect()
}

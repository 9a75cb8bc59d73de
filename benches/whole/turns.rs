//! Rounds: everybody who is measured takes a turn in each, in random order, so that whatever else the machine does meets all
//! of them alike.

use crate::bench::Bench;
use crate::engine::Kind;
use crate::options::{Options, Scenario};

/// One who is measured.
pub trait Runner {
    /// The rounds that count begin; what was seen so far does not.
    fn begin(&mut self);

    /// Takes its turn.
    fn turn(&mut self, round: usize);
}

/// The floor first, then the others, each in its surroundings.
pub fn start<R>(
    options: &Options,
    scenario: Scenario,
    bench: &Bench,
    mut start: impl FnMut(Kind, &Bench) -> R,
) -> Vec<R> {
    let kinds = options.kinds(scenario).into_iter().filter(|kind| *kind != Kind::Floor);
    std::iter::once(Kind::Floor).chain(kinds).map(|kind| start(kind, bench)).collect()
}

/// Some rounds to warm caches, allocators and TCP windows, then those that count.
pub fn take(options: &Options, runners: &mut [impl Runner], warm_up: usize, rounds: usize) {
    let mut random = fastrand::Rng::with_seed(options.seed);
    let mut order: Vec<usize> = (0..runners.len()).collect();
    for round in 0..warm_up + rounds {
        if round == warm_up {
            runners.iter_mut().for_each(Runner::begin);
        }
        random.shuffle(&mut order);
        for place in &order {
            runners[*place].turn(round);
        }
    }
}
